"""A double of ArangoDB: no server of it can be started here, so this one keeps the contract that its HTTP API's documentation
gives, as far as the sink goes.

It knows collections, documents in arrays, stream transactions, named graphs (/_api/gharial), and the very AQL texts that
the sink sends: each has its answer here, and any other is refused unless the test brings the answer. What it does not show is how the real one performs,
plans, or fails. `WALCAST_TEST_ARANGODB_URL` runs the same tests on a real one.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

_KEY: Final = re.compile(r"[A-Za-z0-9_\-:.@()+,=;$!*'%]{1,254}")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,255}")
_EDGES: Final = 3

Docs = dict[str, dict[str, Any]]
Bound = dict[str, Any]
_AQL: Final[dict[str, Callable[[Docs, Bound], list[Any]]]] = {
    "FOR d IN @@c FILTER STARTS_WITH(d.name, @prefix) RETURN [d.name, d.value]": lambda docs, bound: [
        [d["name"], d["value"]] for d in docs.values() if d["name"].startswith(bound["prefix"])
    ],
    "FOR d IN @@c FILTER d._gen != @g RETURN d._key": lambda docs, bound: [
        key for key, d in docs.items() if d.get("_gen") != bound["g"]
    ],
    "FOR m IN @members FOR d IN @@c FILTER m IN d._members RETURN DISTINCT [d._key, d._members[0]]": (
        lambda docs, bound: [
            [key, d["_members"][0]]
            for key, d in docs.items()
            if set(d.get("_members") or ()) & set(bound["members"])
        ]
    ),
    "FOR d IN @@c FILTER d._key > @after SORT d._key LIMIT @limit RETURN d._key": lambda docs, bound: sorted(
        key for key in docs if key > bound["after"]
    )[: bound["limit"]],
}


class Refused(Exception):
    """An answer that is an error: HTTP status and ArangoDB's number."""

    def __init__(self, status: int, number: int) -> None:
        super().__init__(f"{status}/{number}")
        self.status = status
        self.number = number


class _Transaction:
    """`writes`: the collections that it may write, as it sees them. `exclusive`: those that it has for itself."""

    def __init__(self, writes: dict[str, Docs], exclusive: set[str]) -> None:
        self.writes = writes
        self.exclusive = exclusive


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class ContractArangoDB:
    """The double, in a thread; a context manager. `lose_commits`: a commit is made, and its answer is not sent.

    `answers`: what other AQL texts return, by text: of all documents by collection and key, and the bind variables.
    """

    user, password, database = "root", "secret", "_system"

    def __init__(
        self,
        version: str = "3.12.4",
        answers: Mapping[str, Callable[[dict[str, Docs], Bound], list[Any]]] | None = None,
    ) -> None:
        self.version = version
        self._answers = dict(answers or {})
        self.collections: dict[str, tuple[int, Docs]] = {}
        self.graphs: dict[str, dict[str, Any]] = {}
        self.read_only = False
        self.lose_commits = False
        self._transactions: dict[str, _Transaction] = {}
        self._cursors: dict[str, list[Any]] = {}
        self._numbers = 0
        self._free = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """On the same port as before."""
        double = self

        class Handler(_Handler):
            owner = double

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def kill(self) -> None:
        """Open transactions are gone; what was committed stays."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            with self._free:
                self._transactions.clear()
                self._free.notify_all()

    @property
    def up(self) -> bool:
        return self._server is not None

    def answer(
        self, method: str, path: str, query: dict[str, str], transaction: str | None, body: Any
    ) -> Any:
        """One request; JSON. Raises Refused."""
        if self.read_only and method != "GET" and not path.startswith(("/_api/cursor", "/_api/transaction")):
            raise Refused(403, 1004)
        for pattern, handle in _ROUTES:
            if method == pattern[0] and (found := re.fullmatch(pattern[1], path)):
                with self._free:
                    names = [unquote(part) for part in found.groups()]
                    return handle(self, *names, query=query, transaction=transaction, body=body)
        raise Refused(404, 404)

    # -- the server

    def _version(self, **_: Any) -> Any:
        return {"server": "arango", "license": "community", "version": self.version}

    def _mode(self, **_: Any) -> Any:
        return {"mode": "readonly" if self.read_only else "default"}

    def _current(self, **_: Any) -> Any:
        return {"result": {"name": self.database}}

    # -- collections

    def _collection(self, name: str, **_: Any) -> Any:
        if name not in self.collections:
            raise Refused(404, 1203)
        return {"name": name, "type": self.collections[name][0]}

    def _create(self, *, body: Any, **_: Any) -> Any:
        if not _NAME.fullmatch(body["name"]):
            raise Refused(400, 1208)
        if body["name"] in self.collections:
            raise Refused(409, 1207)
        self.collections[body["name"]] = (body.get("type", 2), {})
        return {"name": body["name"]}

    def _index(self, *, query: dict[str, str], **_: Any) -> Any:
        self._docs(query["collection"], None)
        return {"isNewlyCreated": True}

    # -- documents

    def _docs(self, name: str, transaction: str | None) -> Docs:
        if name not in self.collections:
            raise Refused(404, 1203)
        if transaction is None:
            return self.collections[name][1]
        found = self._transactions.get(transaction)
        if found is None:
            raise Refused(404, 1655)
        if name in found.writes:
            return found.writes[name]
        raise Refused(400, 1652)

    def _insert(
        self, name: str, *, query: dict[str, str], transaction: str | None, body: Any, **_: Any
    ) -> Any:
        docs = self._docs(name, transaction)
        answers: list[dict[str, Any]] = []
        for document in body:
            key = document.get("_key")
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                answers.append({"error": True, "errorNum": 1221})
            elif self.collections[name][0] == _EDGES and not {"_from", "_to"} <= document.keys():
                answers.append({"error": True, "errorNum": 1233})
            elif key in docs and query.get("overwriteMode") != "replace":
                answers.append({"error": True, "errorNum": 1210})
            else:
                docs[key] = copy.deepcopy(document)
                answers.append({"_key": key, "_id": f"{name}/{key}"})
        return answers

    def _delete(self, name: str, *, transaction: str | None, body: Any, **_: Any) -> Any:
        docs = self._docs(name, transaction)
        answers: list[dict[str, Any]] = []
        for item in body:
            gone = docs.pop(item["_key"], None)
            answers.append({"error": True, "errorNum": 1202} if gone is None else {"_key": item["_key"]})
        return answers

    def _several(
        self, name: str, *, query: dict[str, str], transaction: str | None, body: Any, **_: Any
    ) -> Any:
        if query.get("onlyget") != "true":
            raise Refused(400, 400)
        docs = self._docs(name, transaction)
        return [
            {**docs[key], "_id": f"{name}/{key}", "_rev": "_r"}
            if key in docs
            else {"error": True, "errorNum": 1202}
            for key in body
        ]

    def _one(self, name: str, key: str, *, transaction: str | None, **_: Any) -> Any:
        docs = self._docs(name, transaction)
        if key not in docs:
            raise Refused(404, 1202)
        return docs[key]

    # -- queries

    def _query(self, *, transaction: str | None, body: Any, **_: Any) -> Any:
        query, bound = body["query"], body.get("bindVars") or {}
        if query in self._answers:
            rows = self._answers[query]({name: docs for name, (_, docs) in self.collections.items()}, bound)
        elif query in _AQL:
            rows = _AQL[query](self._docs(bound["@c"], transaction), bound)
        else:
            raise Refused(400, 1501)
        self._numbers += 1
        return self._piece(str(self._numbers), rows, body.get("batchSize", 1000))

    def _more(self, cursor: str, **_: Any) -> Any:
        if cursor not in self._cursors:
            raise Refused(404, 1600)
        return self._piece(cursor, self._cursors.pop(cursor), 1000)

    def _piece(self, cursor: str, rows: list[Any], size: int) -> Any:
        if len(rows) > size:
            self._cursors[cursor] = rows[size:]
            return {"result": copy.deepcopy(rows[:size]), "hasMore": True, "id": cursor}
        return {"result": copy.deepcopy(rows), "hasMore": False}

    # -- transactions

    def _begin(self, *, body: Any, **_: Any) -> Any:
        exclusive = set(body["collections"].get("exclusive", ()))
        names = exclusive | set(body["collections"].get("write", ()))
        if names - self.collections.keys():
            raise Refused(404, 1203)
        if not self._free.wait_for(
            lambda: not any(t.exclusive & exclusive for t in self._transactions.values()), timeout=5
        ):
            raise Refused(409, 18)
        self._numbers += 1
        number = str(self._numbers)
        writes = {name: dict(self.collections[name][1]) for name in names}
        self._transactions[number] = _Transaction(writes, exclusive)
        return {"result": {"id": number, "status": "running"}}

    def _commit(self, number: str, **_: Any) -> Any:
        found = self._transactions.pop(number, None)
        if found is None:
            raise Refused(404, 1655)
        for name, docs in found.writes.items():
            self.collections[name] = (self.collections[name][0], docs)
        self._free.notify_all()
        if self.lose_commits:
            self.lose_commits = False
            raise ConnectionAbortedError
        return {"result": {"id": number, "status": "committed"}}

    def _abort(self, number: str, **_: Any) -> Any:
        if self._transactions.pop(number, None) is None:
            raise Refused(404, 1655)
        self._free.notify_all()
        return {"result": {"id": number, "status": "aborted"}}

    # -- graphs

    def _graph(self, name: str, **_: Any) -> Any:
        if name not in self.graphs:
            raise Refused(404, 1924)
        return {"graph": copy.deepcopy(self.graphs[name])}

    def _make_graph(self, *, body: Any, **_: Any) -> Any:
        if body["name"] in self.graphs:
            raise Refused(409, 1925)
        self.graphs[body["name"]] = {
            "edgeDefinitions": body.get("edgeDefinitions", []),
            "orphanCollections": [],
        }
        return {"graph": self.graphs[body["name"]]}

    def _add_edges(self, name: str, *, body: Any, **_: Any) -> Any:
        graph = self.graphs[name]
        if any(item["collection"] == body["collection"] for item in graph["edgeDefinitions"]):
            raise Refused(409, 1920)
        self._ends(graph, body)
        graph["edgeDefinitions"].append(body)
        return {"graph": graph}

    def _change_edges(self, name: str, edges: str, *, body: Any, **_: Any) -> Any:
        graph = self.graphs[name]
        kept = [item for item in graph["edgeDefinitions"] if item["collection"] != edges]
        if len(kept) == len(graph["edgeDefinitions"]):
            raise Refused(404, 1930)
        graph["edgeDefinitions"] = [*kept, body]
        self._ends(graph, body)
        return {"graph": graph}

    def _ends(self, graph: dict[str, Any], body: Any) -> None:
        for end in (*body["from"], *body["to"]):
            self.collections.setdefault(end, (2, {}))
            if end in graph["orphanCollections"]:
                graph["orphanCollections"].remove(end)

    def _add_vertices(self, name: str, *, body: Any, **_: Any) -> Any:
        graph = self.graphs[name]
        if body["collection"] in graph["orphanCollections"]:
            raise Refused(400, 1938)
        graph["orphanCollections"].append(body["collection"])
        return {"graph": graph}


_PART: Final = "([^/]+)"
_ROUTES: Final[tuple[tuple[tuple[str, str], Callable[..., Any]], ...]] = (
    (("GET", "/_api/version"), ContractArangoDB._version),
    (("GET", "/_admin/server/mode"), ContractArangoDB._mode),
    (("GET", "/_api/database/current"), ContractArangoDB._current),
    (("GET", f"/_api/collection/{_PART}"), ContractArangoDB._collection),
    (("POST", "/_api/collection"), ContractArangoDB._create),
    (("POST", "/_api/index"), ContractArangoDB._index),
    (("POST", f"/_api/document/{_PART}"), ContractArangoDB._insert),
    (("DELETE", f"/_api/document/{_PART}"), ContractArangoDB._delete),
    (("PUT", f"/_api/document/{_PART}"), ContractArangoDB._several),
    (("GET", f"/_api/document/{_PART}/{_PART}"), ContractArangoDB._one),
    (("POST", "/_api/cursor"), ContractArangoDB._query),
    (("POST", f"/_api/cursor/{_PART}"), ContractArangoDB._more),
    (("POST", "/_api/transaction/begin"), ContractArangoDB._begin),
    (("PUT", f"/_api/transaction/{_PART}"), ContractArangoDB._commit),
    (("DELETE", f"/_api/transaction/{_PART}"), ContractArangoDB._abort),
    (("GET", f"/_api/gharial/{_PART}"), ContractArangoDB._graph),
    (("POST", "/_api/gharial"), ContractArangoDB._make_graph),
    (("POST", f"/_api/gharial/{_PART}/edge"), ContractArangoDB._add_edges),
    (("PUT", f"/_api/gharial/{_PART}/edge/{_PART}"), ContractArangoDB._change_edges),
    (("POST", f"/_api/gharial/{_PART}/vertex"), ContractArangoDB._add_vertices),
)


class _Handler(BaseHTTPRequestHandler):
    owner: ContractArangoDB
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if not self.owner.up:
            self.close_connection = True
            return
        try:
            answer, status = self._made(json.loads(content) if content else None), 200
        except Refused as refused:
            status = refused.status
            answer = {"error": True, "code": status, "errorNum": refused.number, "errorMessage": "refused"}
        except ConnectionAbortedError:
            self.close_connection = True
            return
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _made(self, body: Any) -> Any:
        parts = urlsplit(self.path)
        login = base64.b64encode(f"{self.owner.user}:{self.owner.password}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {login}":
            raise Refused(401, 11)
        prefix = f"/_db/{self.owner.database}"
        if not parts.path.startswith(prefix + "/"):
            raise Refused(404, 1228)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        transaction = self.headers.get("x-arango-trx-id")
        return self.owner.answer(self.command, parts.path.removeprefix(prefix), query, transaction, body)

    do_GET = do_POST = do_PUT = do_DELETE = _any
