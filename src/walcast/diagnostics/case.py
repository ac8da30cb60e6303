"""What the checks look at: the configuration, one connection to the source, and the pipeline's status."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

from psycopg import sql

from walcast.model import Finding, Lsn, SourceIdentity
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection
from walcast.postgres.preflight import Facts


@dataclass(frozen=True, slots=True)
class Limits:
    """From where something is worth saying. Sizes are bytes, times seconds, `catalog_age` transactions."""

    retained: int = 128 << 20
    """WAL that a slot with a reader may keep; one without may keep a segment."""
    transaction: float = 600.0
    catalog_age: int = 10_000_000
    horizon: float = 7 * 86400.0
    """A disk that is full sooner than this is a warning, within a day an error."""
    window: float = 1.0
    """How long the rate of WAL is measured where neither the server's files nor a running pipeline tell it."""
    watched: float = 60.0
    """For so long a pipeline has to have watched the source before its word on the rate counts."""
    clock: float = 2.0
    free: int = 1 << 30
    """Room that a disk should have left."""
    newest: int = 18
    """The newest major version of PostgreSQL that Walcast is tested with."""
    libpq: int = 14
    """The oldest major version of libpq."""


@dataclass(frozen=True, slots=True)
class SinkSetup:
    """A sink as configured. `paths` are the files and folders it writes, `place` what two sinks must not share;
    `examine` asks the target itself, None when the kind cannot be asked without opening it."""

    name: str
    kind: str
    place: str
    paths: tuple[Path, ...] = ()
    examine: Callable[[SourceIdentity | None], Awaitable[Sequence[Finding]]] | None = None


@dataclass(frozen=True, slots=True)
class Aside:
    """Rows that a sink has set aside; `oldest` is the age of the oldest, seconds."""

    sink: str
    count: int
    oldest: float
    tables: Sequence[str]


@dataclass(frozen=True, slots=True)
class Setup:
    """The pipeline as configured. `file` is the configuration file, `holds_secret` whether a password stands in it,
    `aside` counts dead letters."""

    name: str
    state_dir: Path
    source: SourceConfig
    sinks: tuple[SinkSetup, ...] = ()
    file: Path | None = None
    holds_secret: bool = False
    wal_budget: int | None = None
    wal_warning: float = 0.8
    listen: str | None = None
    aside: Callable[[], Awaitable[Sequence[Aside]]] | None = None


@dataclass(slots=True)
class Case:
    """One examination. `status` is the pipeline's as JSON values (`PipelineStatus.as_dict`, with `running`), None when
    it could not be had; `facts` and `identity` are None while the source cannot be asked."""

    setup: Setup
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.time
    status: Mapping[str, Any] | None = None
    status_problem: Finding | None = None
    facts: Facts | None = None
    identity: SourceIdentity | None = None

    @property
    def running(self) -> bool:
        """Whether a pipeline answered."""
        return bool(self.status and self.status["running"])

    @property
    def server(self) -> Facts:
        """The source's facts, for checks that are made only when it can be asked."""
        assert self.facts is not None
        return self.facts

    @property
    def connection(self) -> Connection:
        return self.server.connection

    @property
    def version(self) -> int:
        """server_version_num of the source."""
        return self.server.version

    @property
    def sinks(self) -> Sequence[Mapping[str, Any]]:
        """The status of each sink."""
        return self.status["sinks"] if self.status else ()

    async def rows(
        self, query: LiteralString | sql.Composed, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Asks the source."""
        return await (await self.connection.execute(query, params or None)).fetchall()

    async def setting(self, name: str) -> str | None:
        """A setting of the source, None when it has none of that name or does not show it to this role."""
        ((value,),) = await self.rows("select pg_catalog.current_setting(%s, true)", [name])
        return None if value is None else str(value)


def through(sink: Mapping[str, Any]) -> Lsn | None:
    """Up to where a sink of the status has everything."""
    return Lsn.parse(sink["checkpoint"]["through"]) if sink.get("checkpoint") else None
