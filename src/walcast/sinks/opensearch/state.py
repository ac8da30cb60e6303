"""What the cluster remembers for a sink, in the index `walcast-state`: a document with the position and the indexes that
serve, and one with the pipeline's journal. Each is replaced only if nobody else has replaced it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Any, Final

from walcast.model import Checkpoint, Fenced, Lsn, OperatorError, Position, SinkContext, Token
from walcast.model.derived import Collection
from walcast.sinks.opensearch.client import Client, Rejected, explain, path_of

INDEX: Final = "walcast-state"
_BODY: Final = {
    "settings": {"number_of_shards": 1, "auto_expand_replicas": "0-1"},
    "mappings": {"enabled": False},
}


@dataclass(slots=True)
class Serving:
    """A finished collection: its index, what it was made from, and the stamp of what it is indexed as."""

    index: str
    stamp: str
    collection: Collection


def fenced() -> Fenced:
    return Fenced(
        "somebody else writes this sink's indexes and position in the cluster",
        hint="two pipelines of the same name write to one cluster; stop one, or give it another name",
    )


class Record:
    """One document of our own."""

    def __init__(self, client: Client, id_: str) -> None:
        self.content: dict[str, Any] = {}
        self._client = client
        self._path = path_of(INDEX, "_doc", id_)
        self._seen: tuple[int, int] | None = None
        self._saving = asyncio.Lock()

    async def load(self) -> None:
        found = await self._client.find(self._path, doing="reading the position")
        if found is not None and found.get("found"):
            self.content = found["_source"]
            self._seen = found["_seq_no"], found["_primary_term"]

    async def save(self) -> None:
        """Durable when it returns. Raises Fenced when somebody else has written it."""
        async with self._saving:
            if self._seen is None:
                condition = "op_type=create"
            else:
                condition = f"if_seq_no={self._seen[0]}&if_primary_term={self._seen[1]}"
            try:
                done = await self._client.send("PUT", f"{self._path}?{condition}", self.content)
            except Rejected as rejected:
                if rejected.status == 409:
                    raise fenced() from None
                raise explain(rejected, "saving the position") from None
            self._seen = done["_seq_no"], done["_primary_term"]


class State:
    """`owner`: pipeline and sink."""

    def __init__(self, client: Client, context: SinkContext) -> None:
        self.owner = f"{context.pipeline}/{context.sink}"
        self.checkpoint: Checkpoint | None = None
        self.serving: dict[str, Serving] = {}
        self._context = context
        self._client = client
        self._record = Record(client, self.owner)
        self.journal = Record(client, f"{self.owner}#journal")
        self._made = 0

    async def load(self) -> None:
        """Makes the index when it is not there. Raises OperatorError when it is not one of ours."""
        if await self._client.find(f"/{INDEX}", doing="reading the position") is None:
            try:
                await self._client.send("PUT", f"/{INDEX}", _BODY)
            except Rejected as rejected:
                if rejected.kind != "resource_already_exists_exception":
                    raise explain(rejected, f"making the index {INDEX}") from None
        await self._record.load()
        await self.journal.load()
        content = self._record.content
        if not content:
            return
        try:
            at = content["checkpoint"]
            if at is not None:
                position = Position(Lsn.parse(at["commit_lsn"]), at["ordinal"])
                self.checkpoint = Checkpoint(at["epoch"], position, Lsn.parse(at["through"]))
            for name, item in content["collections"].items():
                self.serving[name] = Serving(item["index"], item["stamp"], _collection(item["collection"]))
            self._made = content["made"]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise OperatorError(
                f"the document {self.owner} in {INDEX} is damaged",
                hint="delete it, then start again with: walcast resync --all",
            ) from None

    def number(self) -> int:
        """Of the next index."""
        self._made += 1
        return self._made

    async def save(self) -> None:
        """Raises Fenced."""
        at = self.checkpoint
        source = self._context.source
        self._record.content = {
            "checkpoint": at
            and {
                "epoch": at.epoch,
                "commit_lsn": str(at.position.commit_lsn),
                "ordinal": at.position.ordinal,
                "through": str(at.through),
            },
            "token": at and str(Token(source.system_id, source.timeline, at.through)),
            "collections": {name: asdict(item) for name, item in self.serving.items()},
            "made": self._made,
        }
        await self._record.save()


def _collection(value: dict[str, Any]) -> Collection:
    fields = tuple((name, kind) for name, kind in value["fields"])
    return Collection(value["name"], value["kind"], fields, value["fingerprint"], value["tracked"])
