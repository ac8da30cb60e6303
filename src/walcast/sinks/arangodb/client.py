"""ArangoDB's HTTP API as far as the sink needs it, and its errors in our terms. Runs in one thread."""

from __future__ import annotations

import base64
import http.client
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlsplit

from walcast.model import OperatorError, SinkUnavailable, WalcastError
from walcast.sinks.arangodb.config import ArangoDBConfig

_OLDEST: Final = (3, 11)
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")
_RETRY: Final = frozenset({18, 28, 29, 30, 38, 1200, 1236, 1302, 1303, 1495, 1496, 1653, 1655})
"""Numbers of errors that pass: a lock, a deadlock, a shutdown or start, a conflict, throttling, another leader, a transaction that is gone."""
NOT_FOUND: Final = 1202


class Client:
    """One connection, kept alive."""

    def __init__(self, config: ArangoDBConfig) -> None:
        parts = urlsplit(config.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._where = config.url
        self._connection = kind(parts.hostname or "", parts.port or 8529, timeout=config.timeout)
        self._base = f"/_db/{quote(config.database, safe='')}"
        login = base64.b64encode(f"{config.user}:{config.password.reveal()}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}

    def close(self) -> None:
        self._connection.close()

    def version(self) -> str:
        """Raises OperatorError for a server that is too old, or another one."""
        found = self.call("GET", "/_api/version")
        version = str(found.get("version", ""))
        number = _VERSION.match(version)
        if found.get("server") != "arango" or number is None or (int(number[1]), int(number[2])) < _OLDEST:
            raise OperatorError(
                f"{self._where} is {found.get('server')} {version}; the copy needs ArangoDB 3.11 or later",
                hint="upgrade the server",
            )
        return version

    def read_only(self) -> bool:
        return bool(self.call("GET", "/_admin/server/mode").get("mode") == "readonly")

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        transaction: str | None = None,
        allowed: Sequence[int] = (),
        **query: object,
    ) -> Any:
        """The answer's JSON; None for an error of these numbers. Raises SinkUnavailable, OperatorError."""
        headers: Mapping[str, str] = self._headers
        if transaction is not None:
            headers = {**headers, "x-arango-trx-id": transaction}
        options = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            self._connection.request(
                method, f"{self._base}{path}{'?' if options else ''}{options}", content, dict(headers)
            )
            answer = self._connection.getresponse()
            text = answer.read()
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            why = getattr(error, "strerror", None) or type(error).__name__
            raise SinkUnavailable(
                f"{self._where} cannot be reached, or went away: {why}", hint="is the server running?"
            ) from error
        try:
            found = json.loads(text) if text else {}
        except ValueError:
            raise OperatorError(
                f"{self._where} answers with no JSON (HTTP {answer.status})", hint="is it an ArangoDB?"
            ) from None
        if answer.status >= 400 or (isinstance(found, dict) and found.get("error") is True):
            number = int(found.get("errorNum", 0)) if isinstance(found, dict) else 0
            if number in allowed:
                return None
            raise self.error(answer.status, number)
        return found

    def error(self, status: int, number: int) -> WalcastError:
        """What the server says of data is left out: it quotes it."""
        if status == 401:
            return OperatorError(f"{self._where} refuses the user", hint="see user and password")
        if number == 1228:
            return OperatorError(
                f"{self._where} has no such database", hint="create it, or see the setting database"
            )
        if number == 1004:
            return OperatorError(f"{self._where} is read-only", hint="see its mode: /_admin/server/mode")
        if number == 1104:
            return OperatorError(f"{self._where}: the server's disk is full", hint="free space there")
        if number == 1203:
            return OperatorError(
                f"{self._where}: a collection is gone",
                hint="who dropped it? `walcast resync --all` makes it anew",
            )
        if status == 403 or number == 11:
            return OperatorError(
                f"{self._where}: the user may not write",
                hint="it needs `rw` on the database and its collections",
            )
        if number == 32:
            return OperatorError(
                f"{self._where}: the transaction is larger than it may be",
                hint="lower commit_rows, or raise --transaction.streaming-max-transaction-size",
            )
        if status in (429, 503) or number in _RETRY:
            return SinkUnavailable(f"{self._where} asks to try again: error {number or status}")
        return OperatorError(
            f"{self._where} answers with error {number or status}", hint="see the server's log and its disk"
        )
