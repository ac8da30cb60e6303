"""A database of ArangoDB: its stream transaction, its bookkeeping, its collections and graph. Runs in one thread."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, unquote

from walcast.model import OperatorError, SinkUnavailable, WalcastError
from walcast.sinks.arangodb.client import NOT_FOUND, Client
from walcast.sinks.arangodb.config import ArangoDBConfig

META: Final = "walcast_meta"
"""Checkpoints and what was built: in the data's transaction, which has it for itself."""
JOURNAL: Final = "walcast_journal"
"""The pipeline's journal: written beside an open transaction."""
_DOCUMENTS, _EDGES = 2, 3
_BATCH: Final = 5000
_NO_COLLECTION, _NO_GRAPH, _DUPLICATE = 1203, 1924, 1207

_ENDED: Final = (10, 1653, 1655)
"""Errors of a transaction that was committed or aborted, or is not known any more."""
_NAMED: Final = "FOR d IN @@c FILTER STARTS_WITH(d.name, @prefix) RETURN [d.name, d.value]"


def key_of(id_: str) -> str:
    """An id as `_key` may have it; `id_of` is its inverse."""
    return quote(id_, safe="_-:.@()+,=;$!*'") or "%00"


def id_of(key: str) -> str:
    return "" if key == "%00" else unquote(key)


class Database:
    """What was written since `begin` is there after `commit`, or not at all. A transaction names its collections when it
    begins: those that are made later are of the next one.

    A process that is killed leaves its transaction open, with its locks, until it has been idle for a minute. So its number is
    noted under `owner`, and who opens next ends it."""

    def __init__(self, config: ArangoDBConfig, owner: str) -> None:
        self._config = config
        self._noted = f"transaction:{owner}"
        self._client = Client(config)
        self._transaction: str | None = None
        self._rows = 0
        try:
            self._client.version()
            self._mine: set[str] = set()
            for name in (META, JOURNAL):
                self._make(name, _DOCUMENTS)
            self._mine = {META}
            self._end_what_was_left()
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        self.rollback()
        self._client.close()

    @property
    def full(self) -> bool:
        return self._rows >= self._config.commit_rows

    def begin(self) -> None:
        if self._transaction is None:
            collections = {"write": sorted(self._mine - {META}), "exclusive": [META]}
            answer = self._client.call(
                "POST", "/_api/transaction/begin", {"collections": collections, "waitForSync": True}
            )
            self._transaction = answer["result"]["id"]
            self._rows = 0
            self._put(JOURNAL, self._noted, self._transaction, None, sync=False)

    def commit(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            self._client.call("PUT", f"/_api/transaction/{transaction}")
            self._rows = 0

    def rollback(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            with suppress(WalcastError):
                self._client.call("DELETE", f"/_api/transaction/{transaction}")

    def run(self, query: str, **parameters: Any) -> list[Any]:
        """All that an AQL query returns. `collection` is `@@c`."""
        bound = {"@c" if name == "collection" else name: value for name, value in parameters.items()}
        call = {"query": query, "bindVars": bound, "batchSize": _BATCH}
        answer = self._client.call("POST", "/_api/cursor", call, transaction=self._transaction)
        rows: list[Any] = answer["result"]
        while answer.get("hasMore"):
            answer = self._client.call("POST", f"/_api/cursor/{answer['id']}", transaction=self._transaction)
            rows += answer["result"]
        return rows

    def read(self, query: str, parameters: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
        """AQL can write, and nothing here could keep it from that."""
        raise OperatorError("this store answers no queries of others", hint=f"ask {self._config.url} itself")

    def store(self, collection: str, documents: list[dict[str, Any]]) -> None:
        """Writes whole documents, over those of the same keys. Raises OperatorError for one that is refused."""
        self._rows += len(documents)
        answers = self._client.call(
            "POST",
            f"/_api/document/{collection}",
            documents,
            transaction=self._transaction,
            overwriteMode="replace",
        )
        self._check(answers, ())

    def remove(self, collection: str, keys: list[str]) -> None:
        """Those that are there."""
        self._rows += len(keys)
        documents = [{"_key": key} for key in keys]
        path = f"/_api/document/{collection}"
        answers = self._client.call("DELETE", path, documents, transaction=self._transaction)
        self._check(answers, (NOT_FOUND,))

    def fetch(self, collection: str, keys: list[str]) -> list[dict[str, Any]]:
        """Those that are there."""
        path = f"/_api/document/{collection}"
        answers = self._client.call("PUT", path, keys, transaction=self._transaction, onlyget="true")
        self._check(answers, (NOT_FOUND,))
        return [answer for answer in answers if not answer.get("error")]

    def ensure(self, name: str, ends: tuple[str, str] | None, *, vertex: bool) -> None:
        """Makes a collection, in the graph if it is a vertex's or an edge's. Raises SinkUnavailable amid a transaction that
        does not have it: the sink is opened again, and it comes first."""
        if self._transaction is not None and name not in self._mine:
            raise SinkUnavailable(f"{name} is new, and a transaction is open", hint="it is tried again")
        self._make(name, _EDGES if ends else _DOCUMENTS)
        self._mine.add(name)
        if not vertex and ends is None:
            return
        for end in ends or ():
            self._make(end, _DOCUMENTS)
        graph = self._config.graph
        found = self._client.call("GET", f"/_api/gharial/{graph}", allowed=(_NO_GRAPH,))
        if found is None:
            self._client.call("POST", "/_api/gharial", {"name": graph})
            found = {"graph": {"edgeDefinitions": [], "orphanCollections": []}}
        if ends is None:
            self._add_vertex(graph, name, found["graph"])
            return
        wanted = {"collection": name, "from": [ends[0]], "to": [ends[1]]}
        known = {item["collection"]: item for item in found["graph"]["edgeDefinitions"]}
        if name not in known:
            self._client.call("POST", f"/_api/gharial/{graph}/edge", wanted)
        elif {**wanted, **{side: sorted(known[name][side]) for side in ("from", "to")}} != wanted:
            self._client.call("PUT", f"/_api/gharial/{graph}/edge/{name}", wanted)

    def _add_vertex(self, graph: str, name: str, found: dict[str, Any]) -> None:
        ends = {end for item in found["edgeDefinitions"] for end in (*item["from"], *item["to"])}
        if name not in ends | set(found["orphanCollections"]):
            self._client.call("POST", f"/_api/gharial/{graph}/vertex", {"collection": name})

    def index(self, collection: str, field: str) -> None:
        index = {"type": "persistent", "fields": [field], "sparse": True}
        self._client.call("POST", "/_api/index", index, collection=collection)

    def known(self, name: str) -> None:
        """A collection that was made before is one of the next transaction's."""
        self._mine.add(name)

    def get(self, name: str) -> Any:
        return self._get(META, name, self._transaction)

    def put(self, name: str, value: Any) -> None:
        self._put(META, name, value, self._transaction)

    def named(self, prefix: str) -> dict[str, Any]:
        collection = JOURNAL if prefix.startswith("journal:") else META
        transaction, rows = self._transaction, []
        if collection == JOURNAL:
            self._transaction = None  # it is none of the transaction's collections
        try:
            rows = self.run(_NAMED, collection=collection, prefix=prefix)
        finally:
            self._transaction = transaction
        return {name.removeprefix(prefix): json.loads(value) for name, value in rows}

    def save(self, name: str, value: Any) -> None:
        """In the journal; durable when it returns, whatever becomes of the open transaction."""
        self._put(JOURNAL, name, value, None)

    def _end_what_was_left(self) -> None:
        left = self._get(JOURNAL, self._noted, None)
        if left is not None:
            self._client.call("DELETE", f"/_api/transaction/{left}", allowed=_ENDED)

    def _get(self, collection: str, name: str, transaction: str | None) -> Any:
        path = f"/_api/document/{collection}/{quote(key_of(name), safe='')}"
        found = self._client.call("GET", path, transaction=transaction, allowed=(NOT_FOUND,))
        return None if found is None else json.loads(found["value"])

    def _put(
        self, collection: str, name: str, value: Any, transaction: str | None, *, sync: bool = True
    ) -> None:
        key, path = key_of(name), f"/_api/document/{collection}"
        if value is None:
            answers = self._client.call(
                "DELETE", path, [{"_key": key}], transaction=transaction, waitForSync="true"
            )
            self._check(answers, (NOT_FOUND,))
            return
        document = {"_key": key, "name": name, "value": json.dumps(value)}
        answers = self._client.call(
            "POST",
            path,
            [document],
            transaction=transaction,
            overwriteMode="replace",
            waitForSync="true" if sync else "false",
        )
        self._check(answers, ())

    def _make(self, name: str, kind: int) -> None:
        if self._client.call("GET", f"/_api/collection/{name}", allowed=(_NO_COLLECTION,)) is None:
            self._client.call("POST", "/_api/collection", {"name": name, "type": kind}, allowed=(_DUPLICATE,))

    def _check(self, answers: Any, allowed: tuple[int, ...]) -> None:
        for answer in answers if isinstance(answers, list) else ():
            number = answer.get("errorNum", 0) if answer.get("error") else 0
            if number and number not in allowed:
                raise self._client.error(200, number)
