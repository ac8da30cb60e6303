"""`walcast lab --plain`: five numbered entries, for pipes and screen readers. Blocking, line by line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, LiteralString

import psycopg

from walcast.cluster.commit import Outcome, commit_sync
from walcast.lab import table
from walcast.model import ConfigError
from walcast.postgres.connect import describe
from walcast.postgres.faults import explain_connect

_STATUS: Final[LiteralString] = (
    "select application_name, state, sync_state from pg_stat_replication order by application_name"
)
_SHOWN: Final = 10
"""Rows that are printed."""
_TITLE: Final = "Mini DB Admin"


class Menu:
    """The five entries over a primary and its replicas. `say` prints a line, `ask` prompts for one (EOFError: the end).
    `monitor` is the primary's DSN with a role that may see pg_stat_replication; without it the columns may be empty."""

    def __init__(
        self,
        servers: Mapping[str, str],
        ask: Callable[[str], str],
        say: Callable[[str], None],
        *,
        monitor: str | None = None,
    ) -> None:
        self._ask, self._say = ask, say
        self._monitor = monitor or next(iter(servers.values()))
        self._primary = next(iter(servers.values()))
        self._replicas = list(servers.values())[1:]
        self._entries: list[tuple[str, Callable[[], None] | None]] = [
            ("Check REPLICATION STATUS", self._status),
            ("Write to PRIMARY", self._write),
        ]
        for number, dsn in enumerate(self._replicas, 1):
            self._entries.append((f"Read from REPLICA {number}", self._reader(number, dsn)))
        self._entries.append(("Quit", None))

    def run(self) -> None:
        """Until Quit, or the end of the input. No error of a server ends it."""
        while True:
            self._say(f"\n{_TITLE}")
            for number, (name, _) in enumerate(self._entries):
                self._say(f"[{number}] {name}")
            try:
                choice = self._ask("> ").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if not choice.isdecimal() or int(choice) >= len(self._entries):
                self._say(f"Choose a number from 0 to {len(self._entries) - 1}.")
                continue
            entry = self._entries[int(choice)][1]
            if entry is None:
                return
            self._try(entry)

    def _try(self, entry: Callable[[], None]) -> None:
        try:
            entry()
        except psycopg.Error as error:
            reason = error.diag.message_primary or str(error).strip()
            self._say(f"error: {reason}")
        except ConfigError as error:
            self._say(f"error: {error.message}\nhint: {error.hint}")
        except KeyboardInterrupt:
            self._say("interrupted")
        except EOFError:
            self._say("nothing was written")

    def _status(self) -> None:
        with self._connected("PRIMARY", self._monitor) as connection:
            rows = connection.execute(_STATUS).fetchall()
        self._say("application_name | state | sync_state")
        for row in rows:
            self._say(" | ".join(str(value) for value in row))
        self._say(f"({len(rows)} replicas are connected)")

    def _write(self) -> None:
        message = table.checked(self._ask(f"Message (up to {table.LIMIT} characters): "))
        key = table.new_id()
        with self._connected("PRIMARY", self._primary) as connection:
            connection.execute(table.CREATE)
            connection.commit()
            connection.execute(table.INSERT, [key, message])
            began = time.perf_counter()
            try:
                outcome = commit_sync(connection)
            except KeyboardInterrupt:
                self._say(f"\nInterrupted after {_ms(began)} ms. {table.truth(self._is_there(key))}")
                return
        self._say(self._said(message, outcome))
        self._rows("PRIMARY", self._primary)

    def _said(self, message: str, outcome: Outcome) -> str:
        if outcome.kind == "replicated":
            return f"Inserted {message} into PRIMARY. COMMIT took {outcome.waited * 1000:.0f} ms"
        if outcome.kind == "local":
            return (
                f"Inserted {message} into PRIMARY alone ({outcome.reason}). "
                f"COMMIT took {outcome.waited * 1000:.0f} ms"
            )
        return f"Whether {message} was committed is not known: {outcome.reason}"

    def _is_there(self, key: object) -> bool | None:
        with (
            contextlib.suppress(psycopg.Error, KeyboardInterrupt),
            psycopg.connect(self._primary) as connection,
        ):
            row = connection.execute(table.THERE, [key]).fetchone()
            return bool(row and row[0])
        return None

    def _reader(self, number: int, dsn: str) -> Callable[[], None]:
        return lambda: self._rows(f"REPLICA {number}", dsn)

    def _rows(self, name: str, dsn: str) -> None:
        with self._connected(name, dsn) as connection:
            count = connection.execute(table.COUNT).fetchone()
            rows = connection.execute(table.ROWS, [_SHOWN]).fetchall()
        self._say(f"{name} has {count[0] if count else 0} rows; the newest:")
        for key, text in rows:
            self._say(f"{key} | {text}")

    @contextlib.contextmanager
    def _connected(self, name: str, dsn: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        try:
            connection = psycopg.connect(dsn, application_name="walcast:lab", connect_timeout=10)
        except psycopg.OperationalError as error:
            found = explain_connect(error, describe(dsn))
            raise ConfigError(f"{name} cannot be reached: {found.message}", hint=found.hint) from None
        with connection:
            yield connection


def _ms(began: float) -> int:
    return round((time.perf_counter() - began) * 1000)
