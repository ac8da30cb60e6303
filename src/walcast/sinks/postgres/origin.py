"""The replication origin: marks what the sink writes, so that a stream back to the source can leave it out.

Needs rights that a role may lack, and a free entry of max_active_replication_origins.
"""

from __future__ import annotations

import logging
import time

from psycopg import sql

from walcast.model import Batch
from walcast.sinks.postgres.config import Switch
from walcast.sinks.postgres.failures import OBJECT_IN_USE, StatementFailed
from walcast.sinks.postgres.session import Command, Prepared, Session

log = logging.getLogger("walcast.sinks")

_KNOWN = sql.SQL("select pg_catalog.pg_replication_origin_oid({})")
_CREATE = sql.SQL("select pg_catalog.pg_replication_origin_create({})")
_SET_UP = sql.SQL("select pg_catalog.pg_replication_origin_session_setup({})")
_LETTING_GO = 3.0
"""Seconds."""
_STAMP = Prepared(
    "walcast_stamp",
    b"select pg_catalog.pg_replication_origin_xact_setup($1, to_timestamp($2))",
    (3220, 701),
)


class Origin:
    """Set up with the first transaction: a session that only reads the checkpoint must not hold it. Its name is known to
    all databases of the server."""

    def __init__(self, name: str, wanted: Switch) -> None:
        self._name = sql.Literal(name)
        self._wanted = wanted
        self.settled = wanted == "off"
        """Nothing is left to be tried."""
        self.active = False

    def set_up(self, session: Session) -> None:
        """Raises RetryableError while another session holds it, OperatorError when it is demanded and refused."""
        try:
            if session.query(_KNOWN.format(self._name)) == [(None,)]:
                session.query(_CREATE.format(self._name))
            self._hold(session)
            self.active = True
        except StatementFailed as failure:
            if self._wanted == "on" or failure.sqlstate == OBJECT_IN_USE:
                raise failure.error("setting up the replication origin") from None
            log.warning("replication_origin_unavailable", extra={"sqlstate": failure.sqlstate})
        self.settled = True

    def _hold(self, session: Session) -> None:
        """A session that has just been closed takes a moment to let go of it."""
        deadline = time.monotonic() + _LETTING_GO
        while True:
            try:
                session.query(_SET_UP.format(self._name))
                return
            except StatementFailed as failure:
                if failure.sqlstate != OBJECT_IN_USE or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def stamp(self, batch: Batch) -> list[Command]:
        """Gives the transaction the source's position and commit time."""
        if not self.active or batch.checkpoint is None or batch.commit_time is None:
            return []
        through = str(batch.checkpoint.through).encode()
        return [Command(_STAMP, (through, b"%.6f" % batch.commit_time))]
