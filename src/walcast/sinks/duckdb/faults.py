"""DuckDB's errors in our terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from walcast.model import Fenced, OperatorError, SinkUnavailable, WalcastError


class ConstraintBroken(OperatorError):
    """A row breaks a constraint of a table that was made by hand."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns DuckDB's errors into ours. Messages of conversions hold cell values and are not repeated."""
    try:
        yield
    except duckdb.Error as error:
        quotes = isinstance(error, duckdb.DataError | duckdb.IntegrityError)
        raise _translate(error, path) from (None if quotes else error)
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be used: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _translate(error: duckdb.Error, path: Path) -> WalcastError:
    text = first_line(error)
    if isinstance(error, duckdb.InterruptException):
        return SinkUnavailable(f"{path}: a statement was interrupted")
    if isinstance(error, duckdb.TransactionException) and "onflict" in text:
        return fenced(path)
    if "Conflicting lock" in text or "Could not set lock" in text:
        return OperatorError(
            f"{path} is open in another process",
            hint="a DuckDB file has one writer: close the other program, or read through `walcast` while it runs",
        )
    if "No space left" in text or "out of disk space" in text.lower() or "File too large" in text:
        return OperatorError(
            f"{path}: the disk is full", hint="free some space; nothing of the batch was kept"
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return OperatorError(f"{path}: DuckDB ran out of memory", hint="raise the sink's memory_limit")
    if "not a valid DuckDB database" in text or isinstance(
        error, (duckdb.FatalException, duckdb.InternalException)
    ):
        return OperatorError(
            f"{path} is damaged, or is not a DuckDB file",
            hint="move it away and run again: the copy is made anew from a snapshot",
        )
    if isinstance(error, duckdb.IOException):
        return OperatorError(
            f"{path} cannot be used: {text}", hint="check the path, its permissions and the disk"
        )
    if isinstance(error, duckdb.ConstraintException):
        return ConstraintBroken(
            f"{path}: a constraint of a table refuses a row", hint="drop the constraint at the copy"
        )
    if isinstance(error, duckdb.DataError):
        return OperatorError(f"{path}: DuckDB cannot hold a value")
    return OperatorError(f"{path}: {text}")


def fenced(path: Path) -> Fenced:
    return Fenced(
        f"{path}: somebody else wrote this pipeline's checkpoint",
        hint="two pipelines of the same name write into one file; stop one, or give it another name",
    )


def first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
