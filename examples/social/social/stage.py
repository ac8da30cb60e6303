"""All of it on this machine: PostgreSQL, the pipeline as a process of its own, the web server.

python -m social                     at http://localhost:5000
python -m social --stores servers    over a real Neo4j and a real OpenSearch (STORES=servers says the same)
python -m social --check             goes through every page, kills what can be killed, compares the copies; one line of JSON
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flask import Flask
from werkzeug.serving import BaseWSGIServer, make_server

import social
from social import seeding
from walcast.engine import owner
from walcast.integrations.copies import Copies
from walcast.model import WalcastError
from walcast.postgres.local import LocalServer

if TYPE_CHECKING:
    from social.servers import Say, Servers

PORT = 5000
_STARTING = 60.0
# Ends the pipeline when this process is gone, however it ended: then the kernel closes the pipe.
_WATCH = '"$@" & child=$!; read -r _; kill -TERM $child 2>/dev/null; wait $child'


class PipelineProcess:
    """`walcast run`, as a person would start it; killed and started again at will."""

    def __init__(self, folder: Path, config: Path, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._state_dir = folder / "state"
        self._log = folder / "pipeline.log"
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "walcast", "--config", str(self._config), "run", "--no-progress"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCH, "walcast-watchdog", *command],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the one who started all of it
            )

    def kill(self) -> None:
        """As a crash does it."""
        pid = owner(self._state_dir)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs. `folder` holds the copies."""

    url: str
    folder: Path
    uri: str
    app: Flask
    pipeline: PipelineProcess
    terminal: Path
    """What a shell reads (`. FILE`) so that `walcast status`, `walcast pause graph` ... speak of this pipeline."""
    servers: Servers | None = None
    """None: the stores are embedded."""


@contextlib.contextmanager
def stage(port: int = PORT, *, with_servers: bool = False, say: Say = lambda _: None) -> Iterator[Stage]:
    """Everything, until the context ends. The database is SQLALCHEMY_DATABASE_URI's, or one of its own, gone afterwards."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="walcast-social-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        uri = os.environ.get("SQLALCHEMY_DATABASE_URI") or _own_server(stack)
        running = stack.enter_context(_servers(say)) if with_servers else None
        places = running.environment if running else _embedded(folder)
        config = social.CONFIG.with_name("neo4j-opensearch.toml") if running else social.CONFIG
        own = {
            "SQLALCHEMY_DATABASE_URI": uri,
            "WALCAST_CONFIG": str(config),
            "WALCAST_PIPELINE__STATE_DIR": str(folder / "state"),
            **places,
        }
        environment = os.environ | own
        terminal = _for_a_terminal(folder, own)
        app = social.create_app(
            SQLALCHEMY_DATABASE_URI=uri, WALCAST_CONFIG=str(config), WALCAST_ENVIRONMENT=environment
        )
        app.extensions["social.servers"] = running
        app.config["TERMINAL"] = str(terminal)
        stack.callback(app.extensions["social.router"].close)
        stack.callback(app.extensions["social.stores"].close)
        with app.extensions["social.router"].write() as lease:
            seeding.fill(lease.connection)
        pipeline = stack.enter_context(PipelineProcess(folder, config, environment))
        server = _listen(app, port)
        thread = threading.Thread(target=server.serve_forever, name="web", daemon=True)
        thread.start()
        stack.callback(server.server_close)
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        url = f"http://localhost:{server.port}"
        if server.port != port and port:
            say(f"port {port} is taken; this is {server.port}")
        say("filling the copies")
        _await_copies(folder)
        yield Stage(url, folder, uri, app, pipeline, terminal, running)


def _embedded(folder: Path) -> dict[str, str]:
    return {
        "WALCAST_SINKS__GRAPH__PATH": str(folder / "graph.lbug"),
        "WALCAST_SINKS__SEARCH__PATH": str(folder / "search"),
    }


def _for_a_terminal(folder: Path, environment: Mapping[str, str]) -> Path:
    file = folder / "environment"
    file.touch(mode=0o600)  # there are passwords in it
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines.append(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    file.write_text("\n".join(lines) + "\n")
    return file


def _servers(say: Say) -> contextlib.AbstractContextManager[Servers]:
    from social.servers import (
        servers,
    )  # the test kit and the drivers of those servers: for those who ask for them

    return servers(say)


def _own_server(stack: contextlib.ExitStack) -> str:
    server = stack.enter_context(LocalServer(18))
    server.execute("create database social")
    return server.dsn("social")


def _listen(app: Flask, port: int) -> BaseWSGIServer:
    """On this port, or the next that is free."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    for tried in range(port, port + 50) if port else (0,):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", tried))
        except OSError:
            listener.close()
            continue
        listener.listen(128)
        with listener:
            return make_server(
                "127.0.0.1", listener.getsockname()[1], app, threaded=True, fd=listener.fileno()
            )
    raise SystemExit(f"social: no port from {port} to {port + 49} is free")


def _await_copies(folder: Path) -> None:
    """Returns once both follow the stream."""
    copies, deadline = Copies(folder / "state"), time.monotonic() + _STARTING
    while time.monotonic() < deadline:
        status: dict[str, Any] | None = copies.status(fresh=False)
        if status is not None and all(sink["state"] == "streaming" for sink in status["sinks"]):
            return
        time.sleep(0.05)
    raise SystemExit(f"social: the copies are not there: {(folder / 'pipeline.log').read_text()[-2000:]}")


def _until_eof(stopping: threading.Event) -> None:
    sys.stdin.read()
    stopping.set()


def main(arguments: list[str]) -> int:
    """`--check`, `--stores servers`, `--port N`, and `--with-parent`: it ends when standard input does, and says on standard
    output how far it is, as lines of JSON."""
    options = argparse.ArgumentParser("social", description="A social network, its graph and its search.")
    options.add_argument("--check", action="store_true", help="go through every page; one line of JSON")
    options.add_argument("--port", type=int, default=PORT)
    options.add_argument(
        "--stores", choices=("embedded", "servers"), default=os.environ.get("STORES") or "embedded"
    )
    options.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args(arguments)
    if given.stores not in ("embedded", "servers"):  # a default is not checked
        options.error(f"STORES={given.stores}: there are embedded and servers")
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    if given.with_parent:
        threading.Thread(target=_until_eof, args=(stopping,), daemon=True).start()
    say = _tell_parent if given.with_parent else _tell
    try:
        with stage(given.port, with_servers=given.stores == "servers", say=say) as running:
            return _run(running, given, stopping, say)
    except WalcastError as error:
        hint = f"; hint: {error.hint}" if error.hint else ""
        if given.check or given.with_parent:
            print(json.dumps({"ok": False, "error": f"{error.message}{hint}"}), flush=True)
        else:
            _tell(f"{error.message}{hint}")
        return 1


def _run(running: Stage, given: argparse.Namespace, stopping: threading.Event, say: Say) -> int:
    if given.check:
        from social.tour import tour

        summary = tour(running, say)
        print(json.dumps(summary), flush=True)
        return 0 if summary["ok"] else 1
    if given.with_parent:
        print(json.dumps({"url": running.url, "uri": running.uri}), flush=True)
    _tell(f"{running.url} (log in as alice); its PostgreSQL: psql '{running.uri}'")
    _tell(f"on another terminal: . {running.terminal}; walcast status (or pause graph, resume graph, trail)")
    _tell(f"the pipeline's log is {running.folder / 'pipeline.log'}; Ctrl-C ends it")
    stopping.wait()
    return 0


def _tell(text: str) -> None:
    print(f"social: {text}", file=sys.stderr, flush=True)


def _tell_parent(text: str) -> None:
    print(json.dumps({"says": text}), flush=True)
