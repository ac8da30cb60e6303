"""One cluster over HTTP: its nodes in turn, its errors in our terms.

Plain requests, because the two families answer them alike from version 2 (8) to 3 (9), while their own clients refuse each
other's servers, and older or newer ones of their own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from walcast.model import OperatorError, SinkUnavailable, WalcastError
from walcast.sinks.opensearch.config import SearchServerConfig

_BUSY: Final = (429, 502, 503, 504)
_PAGE: Final = 5000
_ALL_WRITTEN: Final = b'{"errors":false'
JSON_LINES: Final = "application/x-ndjson"


class Rejected(Exception):
    """The cluster's answer is an error. `kind` is its own name of it; `reason` may quote data."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(f"{status} {kind}")
        self.status = status
        self.kind = kind
        self.reason = reason


class Client:
    """A pool of connections; an async context manager. Only `http` and `https`, no proxy."""

    def __init__(self, config: SearchServerConfig) -> None:
        self._config = config
        self._hosts = [host.rstrip("/") for host in config.hosts]
        self._session: aiohttp.ClientSession | None = None
        self.elastic = False
        """Whether the last answer was Elasticsearch's: it says so in a header."""

    async def __aenter__(self) -> Self:
        config = self._config
        headers = {}
        if config.api_key is not None:
            headers["Authorization"] = f"ApiKey {config.api_key.reveal()}"
        elif config.user is not None and config.password is not None:
            both = base64.b64encode(f"{config.user}:{config.password.reveal()}".encode()).decode()
            headers["Authorization"] = f"Basic {both}"
        try:
            trust = ssl.create_default_context(cafile=config.ca)
        except OSError as error:
            raise OperatorError(
                f"ca = {config.ca!r} cannot be read: {error.strerror}", hint="a PEM file of certificates"
            ) from None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust, limit=config.concurrency + 2),
            timeout=aiohttp.ClientTimeout(total=config.timeout, connect=min(10.0, config.timeout)),
            headers=headers,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, method: str, path: str, body: Any = None, *, doing: str) -> Any:
        """One request and its answer as JSON. Raises SinkUnavailable, OperatorError."""
        try:
            return await self.send(method, path, body)
        except Rejected as rejected:
            raise explain(rejected, doing) from None

    async def find(self, path: str, *, doing: str) -> Any:
        """What is there; None when it is not (404)."""
        try:
            return await self.send("GET", path)
        except Rejected as rejected:
            if rejected.status == 404:
                return None
            raise explain(rejected, doing) from None

    async def send(self, method: str, path: str, body: Any = None) -> Any:
        """One request and its answer as JSON. Bytes go as lines of JSON. Raises Rejected, SinkUnavailable, OperatorError."""
        lines = isinstance(body, bytes)
        data = body if lines or body is None else dumps(body)
        headers = {"Content-Type": JSON_LINES if lines else "application/json"} if data is not None else {}
        for _ in self._hosts:
            host = self._hosts[0]
            try:
                return await self._once(method, URL(host + path, encoded=True), data, headers)
            except aiohttp.ClientConnectorError as error:  # nothing was sent: another node may take it
                self._hosts.append(self._hosts.pop(0))
                failed = error
            except (aiohttp.ClientError, OSError) as error:
                raise _lost(host, error) from None
            except TimeoutError:
                raise SinkUnavailable(
                    f"{host} gave no answer within {self._config.timeout:g} s",
                    hint="see how busy the cluster is",
                ) from None
        raise _lost(host, failed) from None

    async def scroll(self, index: str, query: Any, **more: Any) -> AsyncGenerator[list[dict[str, Any]]]:
        """All hits in the index as it is now, without their documents, some thousand at a time."""
        doing = f"searching {index}"
        body = {"query": query, "size": _PAGE, "sort": ["_doc"], "_source": False, **more}
        path = path_of(index, "_search") + "?scroll=1m"
        answer = await self.ask("POST", path, body, doing=doing)
        while hits := answer["hits"]["hits"]:
            yield hits
            if len(hits) < _PAGE:
                break
            following = {"scroll": "1m", "scroll_id": answer["_scroll_id"]}
            answer = await self.ask("POST", "/_search/scroll", following, doing=doing)
        await self.ask("DELETE", "/_search/scroll", {"scroll_id": answer["_scroll_id"]}, doing=doing)

    async def _once(self, method: str, url: URL, data: bytes | None, headers: Mapping[str, str]) -> Any:
        assert self._session is not None, "the client is not open"
        async with self._session.request(
            method, url, data=data, headers=headers, allow_redirects=False
        ) as answer:
            content = await answer.read()
            if content.startswith(_ALL_WRITTEN):  # not read on: it has a line for every document
                return {"errors": False}
            self.elastic = "X-Elastic-Product" in answer.headers
            try:
                found = json.loads(content) if content else {}
            except ValueError:
                found = {}
            if answer.status >= 300:
                raise _rejected(answer.status, found)
            if not content.startswith((b"{", b"[")):
                raise OperatorError(
                    f"{url.host}:{url.port} answers, but not as a search cluster does",
                    hint="see the URL in hosts: is there a proxy before it?",
                )
            return found


_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dumps(value: Any) -> bytes:
    return _encode(value).encode()


def path_of(*parts: str) -> str:
    """Parts of a URL's path, escaped."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def explain(rejected: Rejected, doing: str) -> WalcastError:
    """An answer as an error of the tree; requests that hold no rows only."""
    status, kind, reason = rejected.status, rejected.kind, rejected.reason
    if kind == "cluster_block_exception":
        return blocked(status, reason, doing)
    if status == 401:
        return OperatorError(
            "the cluster does not take the credentials", hint="see user and password, or api_key"
        )
    if status == 403:
        return OperatorError(
            f"{doing}: the cluster forbids it ({_short(reason)})",
            hint="the user needs to monitor the cluster, and all rights on walcast-* and on the aliases' names",
        )
    if status in _BUSY:
        return SinkUnavailable(
            f"{doing}: the cluster is too busy ({status} {kind})", hint="see how busy it is"
        )
    if kind == "index_not_found_exception":
        return index_gone(doing)
    if status >= 500:
        return SinkUnavailable(
            f"{doing}: the cluster failed ({status} {kind})", hint="see the log of the cluster's node"
        )
    return OperatorError(f"{doing}: {_short(reason)} ({status} {kind})", hint="see the message")


def blocked(status: int, reason: str, doing: str) -> WalcastError:
    """Writing is switched off: by the disk's watermark, which passes, or by somebody."""
    if "flood-stage" in reason or "disk usage" in reason:
        return SinkUnavailable(
            f"{doing}: the cluster's disk is nearly full, its indexes take no more",
            hint="free some disk; the cluster then takes the block off by itself, and nothing is lost",
        )
    if status == 503:  # it has just started, or has no master
        return SinkUnavailable(f"{doing}: the cluster is not ready", hint="see GET /_cluster/health")
    return OperatorError(
        f"{doing}: the index is read-only",
        hint='find out who blocked it, then PUT /<index>/_settings {"index.blocks.write": null, "index.blocks.read_only": null}',
    )


def index_gone(doing: str) -> SinkUnavailable:
    """The sink is opened again then, and fills a new one."""
    return SinkUnavailable(
        f"{doing}: somebody deleted the index", hint="nothing; it is made and filled anew from the source"
    )


def _rejected(status: int, found: Any) -> Rejected:
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict):
        return Rejected(status, str(error.get("type", "")), str(error.get("reason", "")))
    return Rejected(status, "", str(error or ""))


def _lost(host: str, error: BaseException) -> WalcastError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return OperatorError(
            f"{host}: no trusted TLS connection ({type(error).__name__})",
            hint="is it https there? name the authority that signed its certificate in ca",
        )
    return SinkUnavailable(
        f"{host} cannot be reached: {getattr(error, 'strerror', None) or type(error).__name__}",
        hint="check that the cluster runs and can be reached",
    )


def _short(reason: str) -> str:
    return reason[:200] or "no reason given"


async def pause(tries: int) -> None:
    """Twice as long each time, 5 s at most."""
    await asyncio.sleep(min(5.0, 0.05 * 2**tries))
