"""The one place that connects to PostgreSQL.

DSNs are libpq's (URI or key=value), and so are services, .pgpass, PG* variables and TLS. Every connection gets the
same session settings, so that a value's text is the same whatever was set on the database or the role.
"""

from __future__ import annotations

import os
from typing import Any, Final, LiteralString

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.conninfo import conninfo_to_dict

from walcast.model import OperatorError, RetryableError, SourceUnavailable, WalcastError
from walcast.model.secret import Secret
from walcast.postgres.faults import explain_connect

SESSION: Final[LiteralString] = """
set datestyle = 'ISO, MDY';
set intervalstyle = postgres;
set timezone = 'UTC';
set extra_float_digits = 3;
set bytea_output = hex;
set lc_monetary = 'C';
set client_encoding = 'UTF8';
set search_path = '';
set xmloption = content;
set quote_all_identifiers = off;
set standard_conforming_strings = on;
set row_security = off;
set default_transaction_isolation = 'read committed';
set default_transaction_deferrable = off;
set statement_timeout = 0;
set lock_timeout = 0;
set idle_in_transaction_session_timeout = 0;
"""
"""What every connection sets. row_security=off makes a policy that would hide rows an error instead of a hole."""

_SESSION_14: Final[LiteralString] = "set idle_session_timeout = 0;"
_SESSION_17: Final[LiteralString] = "set transaction_timeout = 0;"
_CONNECT_TIMEOUT: Final = 10
"""Seconds, unless the DSN or PGCONNECT_TIMEOUT says otherwise."""
_NAME_LIMIT: Final = 63
"""Bytes of application_name that the server keeps."""

Connection = AsyncConnection[tuple[Any, ...]]


async def connect(
    dsn: str | Secret,
    *,
    application: str,
    replication: bool = False,
    unavailable: type[RetryableError] = SourceUnavailable,
) -> Connection:
    """An open connection in autocommit, with the session settings of the house.

    `application` is its application_name (see `application_name`). `replication` makes it a walsender of the database:
    it takes replication commands beside SQL, parameters are then merged on the client. Raises OperatorError when a
    person has to act, and `unavailable` (which error that is depends on who connects) when it may pass.
    """
    text = dsn.reveal() if isinstance(dsn, Secret) else dsn
    options: dict[str, Any] = {"application_name": application, "fallback_application_name": application}
    if replication:
        options |= {"replication": "database", "cursor_factory": AsyncClientCursor}
    else:
        options |= {"tcp_user_timeout": 30_000}  # a query into a half-open connection ends, too
    options |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    parameters = parse_dsn(text)
    options = {name: value for name, value in options.items() if name not in parameters}
    options["application_name"] = application
    if "connect_timeout" not in parameters and "PGCONNECT_TIMEOUT" not in os.environ:
        options["connect_timeout"] = _CONNECT_TIMEOUT
    try:
        connection = await AsyncConnection.connect(text, autocommit=True, prepare_threshold=None, **options)
    except psycopg.Error as error:
        raise explain_connect(error, describe(text), unavailable) from None
    try:
        await connection.execute(_session(connection.info.server_version))
    except psycopg.Error as error:
        await connection.close()
        raise explain_connect(error, describe(text), unavailable) from None
    except BaseException:  # called off while it was opened
        await connection.close()
        raise
    return connection


def application_name(pipeline: str, role: str = "") -> str:
    """`walcast:<pipeline>` or `walcast:<pipeline>:<role>`, cut to what the server keeps."""
    name = f"walcast:{pipeline}:{role}" if role else f"walcast:{pipeline}"
    return name.encode()[:_NAME_LIMIT].decode(errors="ignore")


def describe(dsn: str | Secret) -> str:
    """Where a DSN leads, fit for a message: `user@host:port/database`, never a password."""
    text = dsn.reveal() if isinstance(dsn, Secret) else dsn
    try:
        parameters = parse_dsn(text)
    except WalcastError:
        return "the DSN"
    service = parameters.get("service") or os.environ.get("PGSERVICE")
    host = parameters.get("host") or parameters.get("hostaddr") or os.environ.get("PGHOST")
    if host is None and service:
        return f"service {service}"
    port = parameters.get("port") or os.environ.get("PGPORT") or "5432"
    user = parameters.get("user") or os.environ.get("PGUSER")
    database = parameters.get("dbname") or os.environ.get("PGDATABASE") or user or ""
    return f"{user}@{host or 'local'}:{port}/{database}" if user else f"{host or 'local'}:{port}/{database}"


def parse_dsn(text: str) -> dict[str, Any]:
    """A DSN's parameters. Raises OperatorError, without repeating what may be a password."""
    try:
        return conninfo_to_dict(text)
    except psycopg.ProgrammingError as error:
        # libpq's message quotes the part it stumbled over, which may be a password; an option's name is safe
        detail = str(error).strip() if str(error).startswith("invalid connection option") else ""
        raise OperatorError(
            f"the DSN cannot be read{': ' + detail if detail else ''}",
            hint="a DSN is a URI (postgresql://user@host:5432/database?sslmode=verify-full) or key=value pairs "
            "(host=... port=5432 dbname=... user=...); in a URI, special characters of a password are %-encoded",
        ) from None


def _session(version: int) -> LiteralString:
    later = (_SESSION_14 if version >= 140_000 else "") + (_SESSION_17 if version >= 170_000 else "")
    return SESSION + later
