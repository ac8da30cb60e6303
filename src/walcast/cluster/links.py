"""The network between a replica and the primary, when it is to be bad: a proxy process that outlives the command.

`python -m walcast.cluster.links FOLDER NODE` serves FOLDER/NODE.json, reads it again on SIGHUP, and says in FOLDER/NODE.state
what it does, holding a lock on that file for as long as it lives. A replica without a fault has no proxy.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from walcast.cluster.observed import LinkState
from walcast.cluster.steps import SetLink
from walcast.model import OperatorError
from walcast.postgres.local.process import spawn
from walcast.postgres.local.proxy import TcpProxy

_PATIENCE: Final = 15.0
_POLL: Final = 0.01


def observe_links(folder: Path) -> tuple[LinkState, ...]:
    """The proxies that are alive."""
    found = (_alive(path) for path in sorted(folder.glob("*.state")))
    return tuple(link for link in found if link is not None)


def set_link(folder: Path, step: SetLink) -> None:
    """Starts, changes or ends a proxy; returns once it does what the step says. Raises OperatorError."""
    state = folder / f"{step.node}.state"
    there = _alive(state)
    if there is not None and (
        step.mode == "direct" or (there.port, there.target) != (step.port, step.target)
    ):
        with contextlib.suppress(ProcessLookupError):
            os.kill(there.pid, signal.SIGTERM)
        _await(lambda: _alive(state) is None, f"the proxy of {step.node} did not end")
        there = None
    wanted = folder / f"{step.node}.json"
    if step.mode == "direct":
        wanted.unlink(missing_ok=True)
        state.unlink(missing_ok=True)
        return
    new = wanted.with_suffix(".new")
    new.write_text(json.dumps({"node": step.node, **_asked(step)}))
    new.replace(wanted)
    if there is None:
        spawn(
            [sys.executable, "-m", "walcast.cluster.links", str(folder), step.node],
            folder / f"{step.node}.log",
            cwd=folder,
            env=dict(os.environ),
        )
    else:
        os.kill(there.pid, signal.SIGHUP)
    log = folder / f"{step.node}.log"
    _await(lambda: _does(_alive(state), step), f"the proxy of {step.node} does not answer: see {log}")


def serve(folder: Path, node: str) -> None:
    """The proxy process, until SIGTERM."""
    file = os.open(folder / f"{node}.state", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    signals = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    wanted = json.loads((folder / f"{node}.json").read_text())
    with TcpProxy("127.0.0.1", wanted["target"], listen=wanted["port"]) as proxy:
        while True:
            _obey(proxy, wanted)
            text = json.dumps({**wanted, "pid": os.getpid()}).encode()
            os.pwrite(file, text, 0)
            os.ftruncate(file, len(text))
            if signal.sigwait(signals) != signal.SIGHUP:
                return
            wanted = json.loads((folder / f"{node}.json").read_text())


def _obey(proxy: TcpProxy, wanted: Mapping[str, Any]) -> None:
    proxy.restore()
    if wanted["mode"] == "cut":
        proxy.stall()
    elif wanted["mode"] == "refuse":
        proxy.refuse()
    else:
        proxy.delay(wanted["seconds"])


def _alive(state: Path) -> LinkState | None:
    try:
        file = os.open(state, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return LinkState(**json.loads(os.pread(file, 4096, 0)))
        except (ValueError, TypeError):
            return None  # it is just starting
    finally:
        os.close(file)
    return None


def _asked(step: SetLink) -> dict[str, Any]:
    return {"port": step.port, "target": step.target, "mode": step.mode, "seconds": step.seconds}


def _does(link: LinkState | None, step: SetLink) -> bool:
    if link is None:
        return False
    said = asdict(link)
    return all(said[name] == value for name, value in _asked(step).items())


def _await(done: Any, otherwise: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise OperatorError(
                otherwise, hint="is its port taken? walcast cluster resume takes the proxy away"
            )
        time.sleep(_POLL)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
