"""PostgreSQL's errors in our tree: what may pass, what a person has to do, what was lost.

A failed connection has no SQLSTATE, only libpq's text; English patterns are matched, and an unknown text is taken for
something that may pass. Messages of errors that quote values (classes 22 and 23) are never repeated.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import psycopg

from walcast.model import (
    FatalError,
    OperatorError,
    RetryableError,
    SlotInUse,
    SlotLost,
    SourceUnavailable,
    WalcastError,
)


class _Known(NamedTuple):
    pattern: str
    passes: bool
    hint: str


_CONNECT: Final = (
    _Known(
        r"[Tt]emporary failure in name resolution",
        True,
        "the name service does not answer; check the network",
    ),
    _Known(
        r"failed to resolve host|could not translate host name|Name or service not known",
        False,
        "check the host name in the DSN (or PGHOST)",
    ),
    _Known(r"Connection refused", True, "is the server running, and are host and port right?"),
    _Known(
        r"No such file or directory\s+Is the server running locally",
        True,
        "is the server running, and is its socket in that folder?",
    ),
    _Known(r"timeout expired|timed out", True, "is there a firewall between, and are host and port right?"),
    _Known(r"password authentication failed", False, "check user and password in the DSN, or in .pgpass"),
    _Known(r"no password supplied", False, "put the password in .pgpass, PGPASSWORD or the DSN"),
    _Known(r'database ".*" does not exist', False, "check dbname in the DSN; `psql -l` lists the databases"),
    _Known(r'role ".*" does not exist', False, "check the user in the DSN, or create role ... login"),
    _Known(r"is not permitted to log in", False, "alter role ... login"),
    _Known(
        r"no pg_hba.conf entry|pg_hba.conf rejects",
        False,
        "the server's pg_hba.conf must let this user, address and database in (for replication, too); then reload it",
    ),
    _Known(
        r"is not currently accepting connections",
        False,
        "alter database ... allow_connections true, or choose another",
    ),
    _Known(r"permission denied for database", False, "grant connect on database ... to the role"),
    _Known(
        r"starting up|shutting down|in recovery mode|not yet accepting connections|not accepting connections",
        True,
        "the server is starting or stopping",
    ),
    _Known(
        r"max_wal_senders",
        True,
        "no walsender is free: raise max_wal_senders (needs a restart), or end an unused reader in pg_stat_replication",
    ),
    _Known(
        r"too many clients|remaining connection slots|too many connections",
        True,
        "raise max_connections (or the limit of the role or database), or close connections",
    ),
    _Known(
        r"start walsender|start WAL sender",
        False,
        "alter role ... replication (a managed service grants a role instead, such as rds_replication)",
    ),
    _Known(
        r"does not support SSL",
        False,
        "switch ssl on at the server, or choose sslmode=prefer if the network is trusted",
    ),
    _Known(
        r"root certificate file .* does not exist",
        False,
        "sslrootcert must name the file of the authority that signed the server's certificate (or sslrootcert=system)",
    ),
    _Known(
        r"certificate verify failed|self.signed certificate",
        False,
        "the server's certificate was not signed by the authority in sslrootcert",
    ),
    _Known(
        r"does not match host name",
        False,
        "connect by the name in the server's certificate, or have one made for this name",
    ),
    _Known(
        r"certificate file|private key file|client certificate", False, "check sslcert and sslkey (mode 0600)"
    ),
    _Known(
        r"invalid sslmode value",
        False,
        "sslmode is disable, allow, prefer, require, verify-ca or verify-full",
    ),
    _Known(
        r"definition of service .* not found",
        False,
        "the service must be in ~/.pg_service.conf or PGSERVICEFILE",
    ),
    _Known(r"service file .* not found", False, "check PGSERVICEFILE"),
)

_PASSING: Final = ("08", "40", "53", "57P", "55P03", "55006")
"""SQLSTATE prefixes of what may pass: connection, rollback, resources, shutdown, lock not available, object in use."""
_DROPPED: Final = r"could not open relation with OID|cache lookup failed"
"""What a query of the catalog says when a table is dropped while it looks at it: next time it is not there."""

_HINTS: Final = {
    "42501": "grant the missing right to the role",
    "3D000": "check the database's name",
    "28P01": "check user and password",
    "28000": "check pg_hba.conf and the role",
    "53100": "the server's disk is full",
    "53300": "raise max_connections, or close connections",
    "53400": "raise the limit named in the message (it may need a restart)",
    "55000": "see the message; a setting or the object's state is in the way",
    "25006": "this server is a standby or read-only: connect to the primary",
    "42704": "check the name",
    "42P01": "check the table's name and schema",
}


def explain_connect(
    error: psycopg.Error, where: str, unavailable: type[RetryableError] = SourceUnavailable
) -> WalcastError:
    """The error of a connection that could not be made; `where` as `connect.describe` gives it."""
    if error.sqlstate is not None:
        return explain(error, f"connecting to {where}", unavailable)
    text = str(error)
    for known in _CONNECT:
        if re.search(known.pattern, text):
            kind = unavailable if known.passes else OperatorError
            return kind(f"cannot connect to {where}: {_reason(text)}", hint=known.hint)
    return unavailable(
        f"cannot connect to {where}: {_reason(text)}", hint="check the DSN and the server's log"
    )


def explain(
    error: psycopg.Error, doing: str, unavailable: type[RetryableError] = SourceUnavailable
) -> WalcastError:
    """The error of a command on an open connection; `doing` says which, such as `creating slot x`."""
    state = error.sqlstate
    if state is None:
        if isinstance(error, psycopg.OperationalError):
            return unavailable(f"the connection was lost while {doing}", hint="see the server's log")
        return FatalError(
            f"{type(error).__name__} while {doing}", hint="this is a defect of Walcast: please report it"
        )
    message = f"{doing}: {_shown(error)} (SQLSTATE {state})"
    hint = _HINTS.get(state)
    if state == "55006" and "slot" in message:
        return SlotInUse(message, hint="another process reads it; see pg_replication_slots.active_pid")
    if state == "58P01" and "WAL segment" in message:
        return SlotLost(message, hint="the WAL that the copy needs is gone: drop the slot and snapshot again")
    if state.startswith(_PASSING) or (state == "XX000" and re.search(_DROPPED, message)):
        return unavailable(message, hint=hint or "it is tried again")
    return OperatorError(message, hint=hint or "see the message, and the server's log")


def _shown(error: psycopg.Error) -> str:
    state = error.sqlstate or ""
    if state.startswith(("22", "23")):
        return type(error).__name__
    return error.diag.message_primary or type(error).__name__


def _reason(text: str) -> str:
    """The last line that says why, without libpq's repetition of where."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    reasons = [line for line in lines if "failed:" in line or "FATAL:" in line] or lines[:1]
    return re.split(r"failed: |FATAL:\s+", reasons[-1])[-1].strip()
