"""The copies of a running pipeline, asked from a program that is not async: how far each is, whether it has a token, what
it holds. Standard library only.

    copies = Copies(".walcast")
    standing = copies.wait(token, "graph", timeout=2.0)
    if not standing.reached: print(standing.behind, "bytes behind")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from walcast.engine import ControlError, NotRunning, call_blocking
from walcast.model import Lsn, RetryableError, Token


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a copy is against a token. `behind`: bytes of WAL between the two, None when it is not known; `state`: the
    sink's, or `down` when no pipeline runs; `waited`: seconds."""

    sink: str
    reached: bool
    state: str
    behind: int | None
    waited: float


class Copies:
    """Asks the pipeline that runs on `state_dir`. May be used by several threads. What was last seen of each sink is kept:
    it is what can be said of a copy while nothing runs."""

    def __init__(self, state_dir: str | Path) -> None:
        self._state_dir = Path(state_dir)
        self._through: dict[str, Lsn] = {}
        self._lock = threading.Lock()

    def ask(self, method: str, params: Mapping[str, Any] | None = None, timeout: float = 10.0) -> Any:
        """The pipeline's answer. Raises NotRunning, ControlError, RetryableError when it does not answer in time."""
        try:
            return call_blocking(self._state_dir, method, dict(params or {}), timeout=timeout)
        except TimeoutError:
            raise RetryableError(
                f"the pipeline on {self._state_dir} does not answer", hint="see: walcast status"
            ) from None

    def status(self, *, fresh: bool = True) -> dict[str, Any] | None:
        """As `walcast status --json`; None when no pipeline runs."""
        try:
            status: dict[str, Any] = self.ask("status", {"fresh": fresh})
        except (NotRunning, RetryableError):
            return None
        with self._lock:
            for sink in status["sinks"]:
                if sink["checkpoint"] is not None:
                    self._through[sink["name"]] = Lsn.parse(sink["checkpoint"]["through"])
        return status

    def wait(self, token: Token | None, sink: str, timeout: float = 2.0) -> Standing:
        """Waits for at most `timeout` seconds until the copy has the token. Without one it only looks where the copy is.
        Never raises because of the copy: that it is behind, or down, is the answer."""
        began = time.monotonic()
        reached, state = token is None, "streaming"
        if token is not None:
            params = {"lsn": str(token.lsn), "sink": sink, "timeout": timeout}
            try:
                reached = bool(self.ask("wait", params, timeout + 5))
            except NotRunning:
                state = "down"
            except (ControlError, RetryableError):
                state = "behind"
        waited = time.monotonic() - began
        if not reached or token is None:
            status = self.status(fresh=token is None)
            state = "down" if status is None else _state(status, sink)
        with self._lock:
            through = self._through.get(sink)
        behind = None
        if token is not None:
            behind = 0 if reached else None if through is None else max(0, token.lsn - through)
            reached = reached or behind == 0
        return Standing(sink, reached, state, behind, waited)

    def query(
        self, sink: str, statement: str, parameters: Mapping[str, Any] | None = None
    ) -> list[list[Any]]:
        """Rows of an embedded copy. Raises NotRunning, ControlError."""
        args = [statement] if parameters is None else [statement, dict(parameters)]
        _, rows = self.ask("query", {"sink": sink, "args": args}, 30.0)
        return [list(row) for row in rows]


def _state(status: Mapping[str, Any], sink: str) -> str:
    for line in status["sinks"]:
        if line["name"] == sink:
            return str(line["state"])
    return "unknown"
