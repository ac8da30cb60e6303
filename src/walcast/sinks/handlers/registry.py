"""The decorators by which functions are registered for tables and operations."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, TypeVar, get_args

from walcast.model import Operation, TableId

F = TypeVar("F", bound=Callable[..., Any])

Form = Literal["change", "batch", "arrow"]

_OPERATIONS: Final = get_args(Operation)


@dataclass(frozen=True, slots=True)
class Handler:
    """One registered function. `waits` says that it is a coroutine function."""

    function: Callable[..., Any]
    table: str
    operations: frozenset[str]
    form: Form
    waits: bool

    @property
    def name(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def takes(self, table: TableId | None, operation: str) -> bool:
        """Whether it wants this operation on this table (None: a logical message)."""
        if operation not in self.operations:
            return False
        return self.table == "*" if table is None else fnmatchcase(str(table), self.table)


class Handlers:
    """A set of handler functions. Those that want the same change are called in the order of their registration."""

    def __init__(self) -> None:
        self._handlers: list[Handler] = []

    def on(self, table: str = "*", *operations: str) -> Callable[[F], F]:
        """Registers a function that takes one Change.

        `table` is `schema.table`, may hold `*` and `?`, and means that table in any schema when it has no dot. Without
        `operations` the function gets them all: insert, update, delete, truncate, message (for `*` only) and
        snapshot, which is a row that was there before the stream began.
        """
        return self._adding("change", table, operations)

    def batch(self, table: str = "*", *operations: str) -> Callable[[F], F]:
        """Registers a function that takes a list of Changes in commit order, of one table."""
        return self._adding("batch", table, operations)

    def arrow(self, table: str = "*") -> Callable[[F], F]:
        """Registers a function that takes all changes of one table in a batch as an Arrow table (`Batch.table`)."""
        return self._adding("arrow", table, ())

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def _adding(self, form: Form, table: str, operations: tuple[str, ...]) -> Callable[[F], F]:
        if not isinstance(table, str):
            raise TypeError("the table comes first: @handlers.on('public.users', 'insert')")
        for operation in operations:
            if operation not in _OPERATIONS:
                near = difflib.get_close_matches(operation, _OPERATIONS, n=1)
                guess = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_OPERATIONS)}"
                raise ValueError(f"no operation {operation!r}; {guess}")
        pattern = table if table == "*" or "." in table else f"*.{table}"

        def add(function: F) -> F:
            call = function if inspect.isroutine(function) else type(function).__call__
            waits = inspect.iscoroutinefunction(call)
            self._handlers.append(
                Handler(function, pattern, frozenset(operations or _OPERATIONS), form, waits)
            )
            return function

        return add
