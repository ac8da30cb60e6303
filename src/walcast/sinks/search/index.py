"""One tantivy index: its schema, its writer, and who holds a row, also before the next commit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tantivy

from walcast.model import OperatorError, SinkUnavailable
from walcast.model.derived import Put

LONGEST = 65_530
"""Bytes of a term in tantivy."""
_INT = 1 << 63
_LITTLE = 16 << 20


def schema_of(fields: Sequence[tuple[str, str]], tokenizer: str) -> tantivy.Schema:
    """`_key` and `_members` as they are, `_body` stored whole, text that can be searched, numbers that can be compared, JSON
    whose parts are searched as field.part."""
    made = tantivy.SchemaBuilder()
    made.add_text_field("_key", stored=True, tokenizer_name="raw", index_option="basic")
    made.add_text_field("_members", stored=True, tokenizer_name="raw", index_option="basic")
    made.add_integer_field("_version", stored=True)
    made.add_bytes_field("_body", stored=True, indexed=False)
    for name, kind in fields:
        if kind == "text":
            made.add_text_field(name, stored=True, tokenizer_name=tokenizer)
        elif kind == "integer":
            made.add_integer_field(name, indexed=True, fast=True)
        elif kind == "float":
            made.add_float_field(name, indexed=True, fast=True)
        elif kind == "boolean":
            made.add_boolean_field(name, indexed=True)
        else:
            made.add_json_field(name, tokenizer_name=tokenizer)
    return made.build()


def analyzer(tokenizer: str) -> Any:
    """What cuts text into words as the index does."""
    if tokenizer in ("raw", "whitespace"):
        return tantivy.TextAnalyzerBuilder(getattr(tantivy.Tokenizer, tokenizer)()).build()
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    builder = builder.filter(tantivy.Filter.remove_long(40)).filter(tantivy.Filter.lowercase())
    if tokenizer == "en_stem":
        builder = builder.filter(tantivy.Filter.stemmer("English"))
    return builder.build()


class Writing:
    """An index that is written. What was put or deleted is there for readers after `commit`, or not at all."""

    def __init__(self, folder: Path, fields: Sequence[tuple[str, str]], tokenizer: str, memory: int) -> None:
        self.folder = folder
        self.fields = list(fields)
        self.dirty = False
        self._pending: dict[str, tuple[str, ...]] = {}
        self._emptied = False
        with translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._schema = schema_of(fields, tokenizer)
            self._index = tantivy.Index(self._schema, path=str(folder))
            self._writer: Any = self._index.writer(heap_size=memory, num_threads=1)

    def close(self) -> None:
        """What was not committed is gone."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.rollback()
            writer.wait_merging_threads()

    def put(self, put: Put, version: int) -> None:
        with translated(self.folder):
            self.delete(put.id)
            document = tantivy.Document()
            document.add_text("_key", put.id)
            for member in put.members:
                document.add_text("_members", member)
            document.add_integer("_version", version)
            document.add_bytes("_body", json.dumps(put.body, ensure_ascii=False).encode())
            for name, kind in self.fields:
                _add(document, name, kind, put.body.get(name))
            self._writer.add_document(document)
            self._pending[put.id] = put.members

    def delete(self, key: str) -> None:
        with translated(self.folder):
            self._writer.delete_documents_by_term("_key", key)
        self._pending[key] = ()
        self.dirty = True

    def empty(self) -> None:
        with translated(self.folder):
            self._writer.rollback()  # what was added and not committed would outlive the next line
            self._writer.delete_all_documents()
        self._pending.clear()
        self._emptied = self.dirty = True

    def commit(self) -> None:
        if self.dirty:
            with translated(self.folder):
                self._writer.commit()
            self._pending.clear()
            self.dirty = self._emptied = False

    def holders(self, members: Sequence[str]) -> list[tuple[str, str]]:
        wanted = set(members)
        found = [(key, held[0]) for key, held in self._pending.items() if wanted & set(held)]
        if self._emptied:
            return found
        with translated(self.folder):
            searcher = self._reloaded()
            query = tantivy.Query.term_set_query(self._schema, "_members", list(members))
            for _, address in searcher.search(query, max(1, searcher.num_docs), count=False).hits:
                document = searcher.doc(address)
                (key,) = document["_key"]
                if key not in self._pending:
                    found.append((key, document["_members"][0]))
        return found

    def ids(self) -> list[str]:
        """Of all that is committed."""
        with translated(self.folder):
            searcher = self._reloaded()
            found = searcher.search(tantivy.Query.all_query(), max(1, searcher.num_docs), count=False).hits
            return [searcher.doc(address)["_key"][0] for _, address in found]

    def bodies(self, keys: Sequence[str]) -> dict[str, Any]:
        with translated(self.folder):
            searcher = self._reloaded()
            query = tantivy.Query.term_set_query(self._schema, "_key", list(keys))
            found = searcher.search(query, max(1, searcher.num_docs), count=False).hits
            documents = [searcher.doc(address) for _, address in found]
        return {document["_key"][0]: json.loads(document["_body"][0]) for document in documents}

    def _reloaded(self) -> Any:
        self._index.reload()
        return self._index.searcher()


def _add(document: tantivy.Document, name: str, kind: str, value: Any) -> None:
    """A value that is not of its field's kind is in the body only."""
    if value is None:
        return
    if kind == "text":
        document.add_text(name, str(value))
    elif kind == "integer":
        if isinstance(value, int) and -_INT <= value < _INT:
            document.add_integer(name, value)
    elif kind == "float":
        if isinstance(value, (int, float)):
            document.add_float(name, float(value))
    elif kind == "boolean":
        document.add_boolean(name, bool(value))
    elif value:
        parts = _parts(value)
        try:
            document.add_json(name, parts)
        except ValueError:
            document.add_json(name, _in_range(parts))


def _parts(value: Any) -> dict[str, Any]:
    """An object as it is. An array of objects as one object of arrays, so that its parts are found as field.part; what is
    neither is found as field.value."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        names = dict.fromkeys(name for item in value for name in item)
        return {name: [item[name] for item in value if item.get(name) is not None] for name in names}
    return {"value": value}


def _in_range(value: Any) -> Any:
    """Integers that tantivy has no form for are found as text."""
    if isinstance(value, dict):
        return {name: _in_range(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_in_range(item) for item in value]
    return str(value) if isinstance(value, int) and not -_INT < value < _INT else value


def there(folder: Path) -> bool:
    """Whether it is an index at all."""
    return folder.is_dir() and bool(tantivy.Index.exists(str(folder)))


def readable(folder: Path, fields: Sequence[tuple[str, str]], tokenizer: str) -> None:
    """Raises OperatorError when it is no index of these fields."""
    with translated(folder):
        if not there(folder):
            raise OperatorError(
                f"{folder} is gone, or is no index", hint="move the folder above it away and run again"
            )
        tantivy.Index(schema_of(fields, tokenizer), path=str(folder)).searcher()


def _full(folder: Path) -> bool:
    """A writer's thread that dies does not say of what."""
    return shutil.disk_usage(folder if folder.exists() else folder.parent).free < _LITTLE


@contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Turns tantivy's errors, which are all ValueError, into ours."""
    try:
        yield
    except ValueError as error:
        text = str(error).partition("\n")[0]
        if "LockBusy" in text:
            raise SinkUnavailable(
                f"{folder} is written by another process", hint="an index has one writer: stop the other one"
            ) from error
        if "No space left" in text or "File too large" in text or ("killed" in text and _full(folder)):
            raise OperatorError(
                f"{folder}: the disk is full", hint="free some space; nothing of the batch was kept"
            ) from error
        if "already exists with" in text or "chema" in text or "corrupt" in text.lower():
            raise OperatorError(
                f"{folder} is damaged or of another version",
                hint="move it away and run again: it is made anew",
            ) from error
        raise OperatorError(f"{folder}: {text[:200]}", hint="see its permissions and the disk") from error
    except OSError as error:
        raise OperatorError(
            f"{folder} cannot be used: {error.strerror}", hint="check the path and its permissions"
        ) from error
