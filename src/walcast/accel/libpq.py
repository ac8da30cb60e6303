"""The addresses of libpq's functions, of the very libpq that psycopg uses.

The native reader works on psycopg's own connection, so that authentication, TLS, service files and .pgpass stay libpq's;
a PGconn may only be touched by the libpq that made it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

import psycopg.pq

from walcast.model import FatalError

FUNCTIONS: Final = (
    "PQclear",
    "PQconsumeInput",
    "PQerrorMessage",
    "PQflush",
    "PQfreemem",
    "PQgetCopyData",
    "PQgetResult",
    "PQputCopyData",
    "PQresultErrorField",
    "PQresultStatus",
    "PQsetnonblocking",
    "PQsocket",
)


def symbols() -> dict[str, int]:
    """Address by name, for the native Reader. Raises FatalError when psycopg's libpq cannot be found."""
    library = _library()
    try:
        found = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in FUNCTIONS}
    except AttributeError as error:
        raise FatalError(
            f"psycopg's libpq ({psycopg.pq.__impl__}) does not show its functions: {error}",
            hint="install psycopg[binary], or set WALCAST_IMPL=python",
        ) from error
    return {name: address for name, address in found.items() if address is not None}


def _library() -> ctypes.CDLL:
    """What was loaded already, so that nothing is loaded twice.

    The extension modules of psycopg's binary and C builds depend on their libpq, and a lookup in a library goes on in
    what it depends on.
    """
    module = sys.modules[psycopg.pq.PGconn.__module__]
    if psycopg.pq.__impl__ == "python":
        library: ctypes.CDLL = sys.modules["psycopg.pq._pq_ctypes"].pq
        return library
    if module.__file__ is None:
        raise FatalError(
            f"psycopg's module {module.__name__} is not a file",
            hint="install psycopg[binary], or set WALCAST_IMPL=python",
        )
    return ctypes.CDLL(module.__file__)
