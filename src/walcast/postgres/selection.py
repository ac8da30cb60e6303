"""Which tables a pipeline copies: patterns over what the catalog has; pure.

A pattern is `schema.table` with `*` and `?`; what stands in double quotes is literal (`"Odd.Schema"."My *"`). Without
a schema it means `public`. Partitioned tables are published through their root or as their leaves.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from walcast.model import ConfigError, ReplicaIdentity, TableId

BOOKKEEPING = "walcast"
"""The schema in which a copy keeps its checkpoints. A table of it at the source is another copy's: it is never copied,
or two directions would overwrite each other's checkpoints."""

_PART = re.compile(r'\s*((?:"(?:[^"]|"")*"|[^".\s])+)\s*')


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the catalog has it.

    `kind` is relkind (r table, p partitioned, f foreign, v view, m materialised view, S sequence), `persistence` p
    permanent, u unlogged. `ancestors` are a partition's parents, nearest first. `identified`: the server can tell
    which row an UPDATE or DELETE means. `row_security`: policies hide rows from this role. `readable`: it may SELECT. `rows` and `bytes` are estimates.
    """

    oid: int
    id: TableId
    kind: str = "r"
    persistence: str = "p"
    ancestors: tuple[int, ...] = ()
    identity: ReplicaIdentity = "d"
    identified: bool = True
    row_security: bool = False
    readable: bool = True
    inherits: bool = False
    rows: int = 0
    bytes: int = 0

    @property
    def refusal(self) -> str | None:
        """Why it cannot be copied; None when it can."""
        if self.id.schema == BOOKKEEPING:
            return "is the bookkeeping of a copy that Walcast keeps here"
        if self.kind == "f":
            return "is a foreign table: its rows are not in this database's WAL"
        if self.kind in "vm":
            return f"is a {'materialized ' if self.kind == 'm' else ''}view: copy the tables under it"
        if self.kind == "S":
            return "is a sequence: logical replication does not carry sequences"
        if self.persistence == "u":
            return "is unlogged: its changes are not in the WAL"
        return None


@dataclass(frozen=True, slots=True)
class Selection:
    """`tables` are those whose rows arrive; `members` those to name in the publication (a root stands for its leaves).
    `refused` were meant but cannot be copied, `unmatched` are include patterns that meet no table at all."""

    tables: tuple[Table, ...]
    members: tuple[Table, ...]
    refused: tuple[Table, ...]
    unmatched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern. `exact`: it names one table."""

    text: str
    expression: re.Pattern[str]
    exact: bool

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises ConfigError when it is not a pattern."""
        parts, at = [], 0
        while (found := _PART.match(text, at)) is not None:
            parts.append(found[1])
            at = found.end()
            if at == len(text) or text[at] != ".":
                break
            at += 1
        if at != len(text) or not 1 <= len(parts) <= 2 or text.endswith("."):
            raise ConfigError(
                f"not a table pattern: {text!r}",
                hint='write schema.table, with * and ?, quoted where odd: app."Order Item"',
            )
        schema, name = parts if len(parts) == 2 else ("public", parts[0])
        expression = re.compile(f"{_expression(schema)}\0{_expression(name)}", re.DOTALL)
        return cls(text, expression, exact=not any(mark in _bare(text) for mark in "*?"))

    def matches(self, table: TableId) -> bool:
        return self.expression.fullmatch(f"{table.schema}\0{table.name}") is not None


def choose(
    tables: Sequence[Table], include: Sequence[str], exclude: Sequence[str] = (), *, via_root: bool = True
) -> Selection:
    """The tables that match one of `include` and none of `exclude`.

    Views, foreign and unlogged tables are left out; those that were named exactly are `refused`. Raises ConfigError
    for a pattern that is none, a table named twice, and a partition excluded while its root is copied as one.
    """
    wanted = [Pattern.parse(text) for text in include]
    unwanted = [Pattern.parse(text) for text in exclude]
    _refuse_twice(wanted)

    def excluded(table: Table) -> bool:
        return any(pattern.matches(table.id) for pattern in unwanted)

    matched = {
        table.oid: table
        for table in tables
        if any(pattern.matches(table.id) for pattern in wanted) and not excluded(table)
    }
    refused = [t for t in matched.values() if t.refusal and (t.persistence == "u" or named(t, include))]
    usable = {oid: table for oid, table in matched.items() if not table.refusal}
    arriving: list[Table] = []
    members: list[Table] = []
    for table in usable.values():
        covered = any(oid in usable for oid in table.ancestors)
        if via_root:
            if not covered:
                arriving.append(table)
                members.append(table)
        elif not covered and table.kind != "p":
            arriving.append(table)
            members.append(table)
    for root in (t for t in usable.values() if t.kind == "p" and not any(o in usable for o in t.ancestors)):
        below = [t for t in tables if root.oid in t.ancestors and t.kind != "p"]
        left_out = [t for t in below if excluded(t)]
        if via_root and left_out:
            raise ConfigError(
                f"{left_out[0].id} is excluded, but it is a partition of {root.id}, which is copied as one table",
                hint="set via_root = false to copy partitions by themselves, or take the exclusion out",
            )
        if not via_root:
            kept = [t for t in below if not excluded(t) and not t.refusal]
            arriving += kept
            members += kept if left_out else [root]
    return Selection(
        _sorted(arriving),
        _sorted(members),
        _sorted(refused),
        tuple(p.text for p in wanted if not any(p.matches(t.id) for t in tables)),
    )


def named(table: Table, include: Sequence[str]) -> bool:
    """Whether one of the patterns means this table alone."""
    return any(pattern.exact and pattern.matches(table.id) for pattern in map(Pattern.parse, include))


def nearest(pattern: str, tables: Iterable[Table]) -> str | None:
    """The table whose name looks most like a pattern that met none."""
    found = difflib.get_close_matches(pattern, [str(table.id) for table in tables], n=1)
    return found[0] if found else None


def _sorted(tables: Iterable[Table]) -> tuple[Table, ...]:
    return tuple(sorted(tables, key=lambda table: table.id))


def _refuse_twice(patterns: Sequence[Pattern]) -> None:
    seen: set[str] = set()
    for pattern in patterns:
        if pattern.expression.pattern in seen:
            raise ConfigError(f"the table pattern {pattern.text!r} is there twice", hint="remove one of them")
        seen.add(pattern.expression.pattern)


def _bare(text: str) -> str:
    return re.sub(r'"(?:[^"]|"")*"', "", text)


def _expression(part: str) -> str:
    made = []
    for piece in re.findall(r'"(?:[^"]|"")*"|.', part, re.DOTALL):
        if len(piece) > 1:
            made.append(re.escape(piece[1:-1].replace('""', '"')))
        else:
            made.append({"*": ".*", "?": "."}.get(piece) or re.escape(piece))
    return "".join(made)
