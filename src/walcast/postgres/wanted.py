"""What the configuration asks to be copied, held against what the catalog has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from walcast.model import OperatorError
from walcast.postgres.catalog import list_tables
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection
from walcast.postgres.publications import (
    Membership,
    Outcome,
    Publication,
    ensure_publication,
    read_publication,
)
from walcast.postgres.selection import Selection, Table, choose, named, nearest


@dataclass(frozen=True, slots=True)
class Wanted:
    """`catalog` is every table there is; `publication` the configured one, None when there is none."""

    catalog: tuple[Table, ...]
    selection: Selection
    membership: Membership
    publication: Publication | None

    def leaves(self, table: Table) -> tuple[Table, ...]:
        """The tables that hold the rows: a partitioned table's leaves, else the table itself."""
        if table.kind != "p":
            return (table,)
        return tuple(t for t in self.catalog if table.oid in t.ancestors and t.kind != "p")


async def read_wanted(connection: Connection, config: SourceConfig) -> Wanted:
    """Reads the catalog once. Without `include` it is all that the publication sends, or every table when there is no
    publication yet. Raises ConfigError for a pattern that is none, and for partitions excluded from their root."""
    catalog = await list_tables(connection)
    publication = await read_publication(connection, config.publication)
    via_root = config.publish_via_partition_root
    if config.include or publication is None:
        selection = choose(catalog, config.include or ("*.*",), config.exclude, via_root=via_root)
    else:
        via_root = publication.via_root
        sent = set(publication.tables)
        selection = choose([t for t in catalog if t.id in sent], ("*.*",), config.exclude, via_root=via_root)
    membership = Membership(
        selection.members, selection.tables, filters=config.filters, columns=config.columns, via_root=via_root
    )
    return Wanted(tuple(catalog), selection, membership, publication)


async def ensure_wanted(connection: Connection, config: SourceConfig) -> Outcome:
    """Makes the configured publication send what the configuration selects. Raises OperatorError for tables that were
    named and are not there or cannot be copied, and all that `ensure_publication` raises."""
    wanted = await read_wanted(connection, config)
    for pattern in wanted.selection.unmatched:
        raise OperatorError(f"no table matches {pattern!r}", hint=did_you_mean(pattern, wanted.catalog))
    for table in wanted.selection.refused:
        if named(table, config.include):
            raise OperatorError(f"{table.id} {table.refusal}", hint="take it out of source.include")
    return await ensure_publication(connection, config.publication, wanted.membership)


def did_you_mean(pattern: str, catalog: Sequence[Table]) -> str:
    """The remedy for a pattern that meets no table."""
    near = nearest(pattern if "." in pattern else f"public.{pattern}", catalog)
    return f"did you mean {near}?" if near else "check source.include; a name without a schema means public"
