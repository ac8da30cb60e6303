"""One collection of documents, vertices or edges, and what is put into it and taken out. Everything runs in the open
transaction. An edge may lead to a vertex that is not there: ArangoDB asks for none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from walcast.model import OperatorError
from walcast.model.derived import Collection, Put
from walcast.sinks.arangodb.database import META, Database, id_of, key_of
from walcast.sinks.inplace.values import checked

_OTHERS: Final = "FOR d IN @@c FILTER d._gen != @g RETURN d._key"
_HOLDERS: Final = (
    "FOR m IN @members FOR d IN @@c FILTER m IN d._members RETURN DISTINCT [d._key, d._members[0]]"
)
_IDS: Final = "FOR d IN @@c FILTER d._key > @after SORT d._key LIMIT @limit RETURN d._key"
_RESERVED: Final = ("_id", "_rev", "_from", "_to", "_members")
_PIECE: Final = 5000


class Items:
    """A body's fields are the document's own; `_gen` and `_members` are the sink's."""

    def __init__(self, database: Database, collection: Collection) -> None:
        for field, _ in collection.fields:
            if field in _RESERVED:
                raise OperatorError(
                    f"{collection.name}.{field}: the store keeps its own under that name",
                    hint="give the field another name in the mapping",
                )
        if collection.name.startswith(META.partition("_")[0] + "_"):
            raise OperatorError(
                f"{collection.name!r} cannot be a collection's name here", hint="choose one without walcast_"
            )
        self.made = checked(collection)
        self._name = collection.name
        self._db = database

    def make(self, before: Collection | None) -> None:
        """The collection was made before the transaction."""

    def settle(self) -> None:
        """Each has been replaced as a whole."""

    def drop(self) -> None:
        """It stays, empty: whoever else looks at it finds it."""

    def put(self, puts: Sequence[Put], version: int, generation: int, fresh: bool) -> None:
        documents = []
        for put in puts:
            document = {**put.body, "_key": key_of(put.id), "_gen": generation}
            if put.members:
                document["_members"] = list(put.members)
            if put.ends is not None and self.made.ends is not None:
                source, target = (
                    f"{label}/{key_of(id_)}" for label, id_ in zip(self.made.ends, put.ends, strict=True)
                )
                document |= {"_from": source, "_to": target}
            documents.append(document)
        self._db.store(self._name, documents)

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _PIECE):
            self._db.remove(self._name, [key_of(key) for key in keys[start : start + _PIECE]])

    def others(self, generation: int) -> list[str]:
        return [id_of(key) for key in self._db.run(_OTHERS, collection=self._name, g=generation)]

    def holders(self, members: Sequence[str]) -> list[tuple[str, str]]:
        rows = self._db.run(_HOLDERS, collection=self._name, members=list(members))
        return [(id_of(key), member) for key, member in rows]

    def ids(self, after: str | None, limit: int) -> list[str]:
        last = "" if after is None else key_of(after)
        return [id_of(key) for key in self._db.run(_IDS, collection=self._name, after=last, limit=limit)]

    def held(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        found = {}
        for document in self._db.fetch(self._name, [key_of(key) for key in keys]):
            ends = [
                id_of(document[side].partition("/")[2]) if side in document else None
                for side in ("_from", "_to")
            ]
            found[id_of(document["_key"])] = [*ends, body_of(document)]
        return found


def body_of(document: dict[str, Any]) -> dict[str, Any]:
    """What the mapping put there."""
    own = ("_key", "_gen", *_RESERVED)
    return {name: value for name, value in document.items() if name not in own}
