"""Sends rows again: read under a fence's snapshot, written at its position, through the sink as any change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from walcast.decode.frames import Catalog
from walcast.decode.rewriting import Rewrite, rewritten
from walcast.model import Held, Relation
from walcast.model.comparing import Form, Key
from walcast.postgres.comparing import unformed
from walcast.postgres.relations import announcement, catalog_of
from walcast.verify.compare import Kind
from walcast.verify.keys import TouchedKeys
from walcast.verify.source import SourceReader, SourceTable


class Mender:
    """Repairs rows of one table, at most `most` under one fence: the sink stands still meanwhile."""

    most: Final = 500

    def __init__(self, reader: SourceReader, item: SourceTable, forms: Mapping[str, Form]) -> None:
        self._reader = reader
        self._item = item
        self._forms = forms
        self._catalog = catalog_of([column.type for column in item.relation.columns])

    async def mend(self, held: Held, kinds: Mapping[Key, Kind]) -> list[Key]:
        """Makes these rows of the copy what they are at the source. The keys that were left out, because they may rightly
        differ here."""
        item, relation = self._item, self._item.relation
        touched = TouchedKeys(held.touched.get(item.table), item.key, self._forms)
        left = [key for key in kinds if key in touched]
        wanted = [key for key in kinds if key not in touched]
        if not wanted:
            return left
        there = dict(await self._reader.opened(item, self._forms).raw(wanted, relation.names))
        # All rows of a key that is there twice go before the one that should be there comes.
        gone = [key for key in wanted if key not in there or kinds[key] != "different"]
        rows: list[Rewrite] = [
            Rewrite("change" if kinds[key] == "different" else "insert", values)
            for key, values in there.items()
        ]
        await self._write(held, [Rewrite("remove", self._key_only(key)) for key in gone])
        await self._write(held, rows)
        await held.flush()
        return left

    async def _write(self, held: Held, rows: list[Rewrite]) -> None:
        await write_rows(held, self._item.relation, self._catalog, rows)

    def _key_only(self, key: Key) -> list[bytes | None]:
        texts = dict(zip(self._item.key, key, strict=True))
        return [
            unformed(self._forms[name], texts[name]).encode() if name in texts else None
            for name in self._item.relation.names
        ]


async def write_rows(held: Held, relation: Relation, catalog: Catalog, rows: list[Rewrite]) -> None:
    """Gives the sink rows as the source has them where the fence is."""
    if not rows:
        return
    batch = rewritten(
        relation,
        announcement(relation),
        catalog,
        rows,
        epoch=held.position.epoch if held.position is not None else 1,
        commit_lsn=int(held.cut.lsn),
    )
    await held.write(batch)
