"""Named places where a test makes the engine die, fail or wait. Costs one check of a module variable when off.

`WALCAST_FAILPOINTS="write.after=kill@3,save.before=raise,flush.before=sleep:50"`: at the third batch written the
process is killed (SIGKILL), the first save fails, every flush waits 50 ms. `@n` counts passages from 1; kill and
raise act once, sleep always.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from walcast.model import ConfigError, RetryableError

ENVIRONMENT = "WALCAST_FAILPOINTS"
FAILPOINTS = (
    "slot.created",
    "sink.opened",
    "prepare.after",
    "write.before",
    "write.after",
    "part.between",
    "flush.before",
    "flush.after",
    "save.before",
    "save.after",
    "confirm.before",
    "confirm.after",
    "snapshot.begin",
    "snapshot.part",
    "table.done.before",
    "table.done.after",
    "build.noted",
    "aside.before",
    "aside.kept",
    "aside.after",
)

Hook = Callable[[str], Awaitable[None]]
active: Hook | None = None
"""Called with the failpoint's name at each passage; None: off."""


class FailpointHit(RetryableError):
    """A failpoint said so."""


async def passed(name: str) -> None:
    """Call it as `if failpoints.active: await failpoints.passed("write.after")`."""
    if active is not None:
        await active(name)


def configure(text: str | None) -> None:
    """Turns failpoints on as the text says, off when it is empty. Raises ConfigError on a name or action unknown."""
    global active  # noqa: PLW0603  # one check of one name is what makes it free
    active = _Plan(text) if text else None


class _Plan:
    def __init__(self, text: str) -> None:
        self._actions: dict[str, tuple[str, int]] = {}
        self._seen: dict[str, int] = {}
        for item in text.split(","):
            name, _, action = item.strip().partition("=")
            action, _, nth = action.partition("@")
            kind, _, amount = action.partition(":")
            known = name in FAILPOINTS and kind in ("kill", "raise", "sleep")
            if not known or (nth and not nth.isdigit()) or (kind == "sleep" and not amount.isdigit()):
                raise ConfigError(
                    f"{ENVIRONMENT}: {item.strip()!r} is not a failpoint",
                    hint=f"name=kill|raise|sleep:ms[@n], with one of {', '.join(FAILPOINTS)}",
                )
            self._actions[name] = (action, int(nth or 1))

    async def __call__(self, name: str) -> None:
        if name not in self._actions:
            return
        action, nth = self._actions[name]
        self._seen[name] = count = self._seen.get(name, 0) + 1
        if action.startswith("sleep"):
            await asyncio.sleep(int(action.partition(":")[2]) / 1000)
        elif count == nth:
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise FailpointHit(f"failpoint {name}")


configure(os.environ.get(ENVIRONMENT))
