"""Bulk requests: filled while others are on their way, repeated for what the cluster is too busy for.

Operations on one id keep their order: a request waits while another with one of its ids is on its way. An older version
that meets a newer one is refused by the cluster (409) and done with.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from walcast.model import SinkUnavailable
from walcast.model.derived import Refused, Unfit
from walcast.sinks.opensearch.client import Client, Rejected, blocked, explain, index_gone, pause

_DOING: Final = "writing documents"
_PATH: Final = (
    "/_bulk?require_alias=true&filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason,"
    "items.*.error.caused_by.type,items.*.error.caused_by.reason"
)
_MOST: Final = 5000
"""Operations of a request."""
_BUSY: Final = (429, 503)
_FIELD: Final = re.compile(r"field \[([^\]]{1,200})\](?: of type \[(\w+)\])?")
_OBJECT: Final = re.compile(r"object mapping (?:for )?\[([^\]]{1,200})\]")
_LIMITS: Final = re.compile(r"Limit of [a-z ]{1,40}\[\d{1,9}\]")


class Operation(NamedTuple):
    """One document of a collection, in its index. `lines` are what the request holds of it."""

    collection: str
    alias: str
    id: str
    lines: bytes


@dataclass(slots=True)
class _Request:
    number: int
    operations: list[Operation] = field(default_factory=list)
    ids: dict[str, set[str]] = field(default_factory=dict)
    """By index."""
    size: int = 0

    def meets(self, other: _Request) -> bool:
        """Whether they have an id in common."""
        return any(not ids.isdisjoint(other.ids.get(index, ())) for index, ids in self.ids.items())


class Bulk:
    """What is written since the last `drain`. The first error is raised by whatever is called next."""

    def __init__(self, client: Client, concurrency: int, size: int, patience: float) -> None:
        self.refused: list[Refused] = []
        """What the cluster can never take."""
        self._client = client
        self._concurrency = concurrency
        self._size = size
        self._patience = patience
        self._made = 0
        self._made_before = 0
        """Requests, in all, and at the last call of `settle`."""
        self._waiting: deque[_Request] = deque()
        self._flying: dict[asyncio.Task[None], _Request] = {}

    def add(self, operations: Iterable[Operation]) -> None:
        request = self._waiting[-1] if self._waiting else self._next()
        for operation in operations:
            size = len(operation.lines)
            if request.operations and (request.size + size > self._size or len(request.operations) >= _MOST):
                request = self._next()
            request.operations.append(operation)
            request.ids.setdefault(operation.alias, set()).add(operation.id)
            request.size += size

    @property
    def crowded(self) -> bool:
        """More than one request waits to be sent."""
        return len(self._waiting) > 1

    async def push(self) -> None:
        """Sends what can be sent; waits while more than one request is left over."""
        await self._send(leave=1)

    async def drain(self) -> None:
        """Returns when all is answered."""
        self._made_before = self._made
        await self.settle()

    async def settle(self) -> None:
        """Returns when all is answered that was there at the last call of this or `drain`."""
        due, self._made_before = self._made_before, self._made
        while self._waiting and self._waiting[0].number <= due:
            await self._send(leave=len(self._waiting) - 1)
        while any(request.number <= due for request in self._flying.values()):
            await self._land()

    async def close(self) -> None:
        """What is on its way is let go."""
        self._waiting.clear()
        flying = list(self._flying)
        self._flying.clear()
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)

    def _next(self) -> _Request:
        self._made += 1
        self._waiting.append(_Request(self._made))
        return self._waiting[-1]

    async def _send(self, leave: int) -> None:
        self._collect()
        while self._waiting:
            if len(self._flying) < self._concurrency and not self._in_the_way(self._waiting[0]):
                request = self._waiting.popleft()
                self._flying[asyncio.create_task(self._deliver(request.operations))] = request
            elif len(self._waiting) <= leave:
                return
            else:
                await self._land()
        await asyncio.sleep(0)  # what was sent now is on its way before anything else is done

    def _in_the_way(self, request: _Request) -> bool:
        return any(request.meets(other) for other in self._flying.values())

    async def _land(self) -> None:
        await asyncio.wait(self._flying, return_when=asyncio.FIRST_COMPLETED)
        self._collect()

    def _collect(self) -> None:
        for task in [task for task in self._flying if task.done()]:
            del self._flying[task]
            task.result()

    async def _deliver(self, operations: list[Operation]) -> None:
        """Until each of them is applied, older than what is there, or refused."""
        deadline = asyncio.get_running_loop().time() + self._patience
        tries = 0
        while operations:
            try:
                answer = await self._client.send("POST", _PATH, b"".join(o.lines for o in operations))
            except Rejected as rejected:
                if rejected.status == 413:
                    operations = await self._by_halves(operations)
                    continue
                if rejected.status not in _BUSY or rejected.kind == "cluster_block_exception":
                    raise explain(rejected, _DOING) from None
                busy, kind = operations, rejected.kind
            else:
                if not answer.get("errors"):
                    return
                busy, kind = self._sort(operations, answer["items"]), "es_rejected_execution_exception"
            operations = busy
            if operations and asyncio.get_running_loop().time() > deadline:
                raise SinkUnavailable(
                    f"{_DOING}: the cluster has been too busy for {self._patience:g} s ({kind})",
                    hint="see how busy it is; a smaller bulk or concurrency asks less of it",
                )
            if operations:
                await pause(tries)
                tries += 1

    async def _by_halves(self, operations: list[Operation]) -> list[Operation]:
        """What remains of a request that is too big."""
        if len(operations) > 1:
            half = len(operations) // 2
            await self._deliver(operations[:half])
            return operations[half:]
        only = operations[0]
        self.refused.append(Refused(only.collection, only.id, *too_big(len(only.lines))))
        return []

    def _sort(self, operations: list[Operation], items: list[dict[str, Any]]) -> list[Operation]:
        """Those to be sent again."""
        again = []
        for operation, item in zip(operations, items, strict=True):
            (outcome,) = item.values()
            status, error = outcome["status"], outcome.get("error") or {}
            kind = error.get("type", "")
            if status < 300 or status == 409 or (status == 404 and not kind):
                continue
            if kind == "cluster_block_exception":
                raise blocked(status, error.get("reason", ""), _DOING)
            if status in _BUSY:
                again.append(operation)
            elif kind == "index_not_found_exception":
                raise index_gone(_DOING)
            elif status in (400, 413):
                self.refused.append(Refused(operation.collection, operation.id, kind, told(error)))
            else:
                raise explain(Rejected(status, kind, error.get("reason", "")), _DOING)
        return again


def told(error: dict[str, Any]) -> str:
    """Why a document is refused, without its values."""
    reasons = [error.get("reason") or "", (error.get("caused_by") or {}).get("reason") or ""]
    for reason in reasons:
        limit = _LIMITS.search(reason)
        if limit:
            return f"{limit[0]} is exceeded"
    for reason in reasons:
        named = _OBJECT.search(reason)
        if named:
            return f"field {named[1]}, which is indexed as an object, does not take the value"
    for reason in reasons:
        named = _FIELD.search(reason)
        if named:
            kind = f", which is indexed as {named[2]}," if named[2] else ""
            return f"field {named[1]}{kind} does not take the value"
    return f"{error.get('type', 'it')}, caused by {(error.get('caused_by') or {}).get('type', 'itself')}"


def too_big(size: int, limit: int | None = None) -> Unfit:
    return "TooBig", f"a document of {size} bytes" + ("" if limit is None else f"; it may have {limit}")


def liner(index: str, version: int) -> Callable[[str, bytes | None], bytes]:
    """Makes an operation's part of a request: put, or without a body delete, unless there is something newer."""
    put, delete = (f'{{"{kind}":{{"_index":"{index}","_id":' for kind in ("index", "delete"))
    end = f',"version":{version},"version_type":"external_gte"}}}}\n'.encode()

    def line(id_: str, body: bytes | None) -> bytes:
        name = f'"{id_}"' if id_.isalnum() and id_.isascii() else json.dumps(id_)
        if body is None:
            return (delete + name).encode() + end
        return b"%b%b%b\n" % ((put + name).encode(), end, body)

    return line
