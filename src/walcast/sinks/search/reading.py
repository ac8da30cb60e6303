"""Searching what a `search` sink writes, from any process: full text, more like this, highlights."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tantivy

from walcast.model import Checkpoint, OperatorError, Token
from walcast.sinks.search import state as kept
from walcast.sinks.search.index import analyzer, schema_of, translated

_MARKED = 30
"""Words."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found. `highlights`: field -> HTML in which the words that matched are bold."""

    id: str
    score: float
    body: dict[str, Any]
    highlights: dict[str, str]


class SearchIndex:
    """One collection, as it is when it is asked. `path` is the sink's folder, `tokenizer` the sink's."""

    def __init__(self, path: Path | str, collection: str, tokenizer: str = "en_stem") -> None:
        self._root = Path(path)
        self._name = collection
        self._tokenizer = tokenizer
        self._folder = ""
        self._index: Any = None
        self._schema: Any = None
        self._texts: list[str] = []
        self._fields: list[str] = []

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Up to where the source's changes can be found."""
        found = kept.load(self._root)
        return None if found is None else found.checkpoint

    @property
    def token(self) -> Token | None:
        """The same as a token: `token >= wanted` says that a write is found."""
        found = kept.load(self._root)
        return None if found is None or found.token is None else Token.parse(found.token)

    def search(self, words: str, fields: Sequence[str] = (), limit: int = 10) -> list[Hit]:
        """The best hits first. `words` in tantivy's query language, mistakes in it forgiven; `fields` by default all text and
        JSON."""
        searcher = self._searcher()
        query, _ = self._index.parse_query_lenient(words, list(fields) or self._fields)
        return self._hits(searcher, query, limit)

    def more_like(self, id_: str, fields: Sequence[str] = (), limit: int = 10) -> list[Hit]:
        """Documents whose text is like that of this one, without it; none when there is no such document. Marked are the words
        that tell most: frequent in this one, rare in others."""
        searcher = self._searcher()
        body = self._body(searcher, id_)
        chosen = list(fields) or self._texts
        given = [(name, [body[name]]) for name in chosen if body.get(name)]
        if not given:
            return []
        query = tantivy.Query.more_like_this_document_fields_query(
            self._schema, dict(given), min_doc_frequency=1, min_term_frequency=1
        )
        shown = {name: self._telling(searcher, name, text) for name, (text,) in given}
        return [hit for hit in self._hits(searcher, query, limit + 1, shown) if hit.id != id_][:limit]

    def get(self, id_: str) -> dict[str, Any] | None:
        """A document's body."""
        return self._body(self._searcher(), id_) or None

    def ids(self) -> list[str]:
        """The ids of all documents."""
        return [id_ for id_, _ in self.documents()]

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Id and body of each document, in no order."""
        searcher = self._searcher()
        found = searcher.search(tantivy.Query.all_query(), max(1, searcher.num_docs), count=False).hits
        for _, address in found:
            document = searcher.doc(address)
            yield document["_key"][0], json.loads(document["_body"][0])

    def _searcher(self) -> Any:
        """Follows the collection to its next generation."""
        found = kept.load(self._root)
        serving = None if found is None else found.collections.get(self._name)
        if serving is None:
            raise OperatorError(
                f"{self._root} has no collection {self._name!r}", hint="run the pipeline that makes it"
            )
        with translated(self._root):
            if serving.folder != self._folder:
                self._schema = schema_of(serving.fields, self._tokenizer)
                self._index = tantivy.Index(self._schema, path=str(self._root / serving.folder))
                self._folder = serving.folder
                self._texts = [name for name, kind in serving.fields if kind == "text"]
                self._fields = [name for name, kind in serving.fields if kind in ("text", "json")]
            self._index.reload()
            return self._index.searcher()

    def _body(self, searcher: Any, id_: str) -> dict[str, Any]:
        query = tantivy.Query.term_query(self._schema, "_key", id_)
        found = searcher.search(query, 1).hits
        body: dict[str, Any] = json.loads(searcher.doc(found[0][1])["_body"][0]) if found else {}
        return body

    def _telling(self, searcher: Any, field: str, text: str) -> Any:
        """A query of the words of `text` that tell most, for what is to be marked: the query of likes names none."""
        counts = Counter(analyzer(self._tokenizer).analyze(text))
        there = searcher.num_docs
        weights = {}
        for word, count in counts.items():
            holding = searcher.doc_freq(field, word)
            if len(word) > 3 and holding <= max(2, there // 3):
                weights[word] = count * math.log((there + 1) / (holding + 0.5))
        best = sorted(weights, key=lambda word: (-weights[word], word))[:_MARKED]
        terms = [(tantivy.Occur.Should, tantivy.Query.term_query(self._schema, field, word)) for word in best]
        return tantivy.Query.boolean_query(terms)

    def _hits(
        self, searcher: Any, query: Any, limit: int, marking: Mapping[str, Any] | None = None
    ) -> list[Hit]:
        """`marking`: of each field, the query whose words are marked; by default the query itself."""
        snippets = {
            name: tantivy.SnippetGenerator.create(searcher, asked, self._schema, name)
            for name, asked in (marking or dict.fromkeys(self._texts, query)).items()
        }
        hits = []
        for score, address in searcher.search(query, limit, count=False).hits:
            document = searcher.doc(address)
            shown = {name: made.snippet_from_doc(document).to_html() for name, made in snippets.items()}
            body = json.loads(document["_body"][0])
            marked = {name: html for name, html in shown.items() if html}
            hits.append(Hit(document["_key"][0], score, body, marked))
        return hits
