"""Metrics and health over HTTP, on a thread of its own: it answers while the event loop is busy."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from walcast.engine import Sample
from walcast.model import ConfigError, OperatorError

Samples = Callable[[], Iterable[Sample]]
Health = Callable[[], tuple[bool, dict[str, Any]]]


class HttpServer:
    """`/metrics` for Prometheus, `/livez` (the process answers), `/readyz` (503 until every sink is streaming)."""

    def __init__(self, listen: str, samples: Samples, ready: Health) -> None:
        host, _, port = listen.rpartition(":")
        if not port.isdigit() or int(port) > 65535:
            raise ConfigError(
                f"http.listen: expected host:port, not {listen!r}", hint="such as 127.0.0.1:9187"
            )
        self._listen, self._host, self._port = listen, host.strip("[]") or "127.0.0.1", int(port)
        self._samples, self._ready = samples, ready
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_port) if self._server is not None else self._port

    def __enter__(self) -> Self:
        """Raises OperatorError when it cannot listen there."""
        try:
            self._server = make_server(self._host, self._port, self._application, WSGIServer, _Quiet)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise OperatorError(
                f"http.listen: cannot listen on {self._listen}: "
                f"{'the port is taken' if taken else error.strerror}",
                hint="choose another port, or stop what listens there (ss -ltnp)",
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="walcast-http", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(5)

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            start_response("200 OK", [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")])
            return [exposition(self._samples()).encode()]
        if path == "/livez":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"ok\n"]
        if path == "/readyz":
            ready, body = self._ready()
            start_response(
                "200 OK" if ready else "503 Service Unavailable", [("Content-Type", "application/json")]
            )
            return [json.dumps(body).encode() + b"\n"]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"/metrics /livez /readyz\n"]


class _Quiet(WSGIRequestHandler):
    """Requests are not events."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def exposition(samples: Iterable[Sample]) -> str:
    """Prometheus's text format. Samples of one metric follow each other."""
    lines, last = [], None
    for sample in samples:
        if sample.name != last:
            last = sample.name
            lines += [f"# HELP {sample.name} {sample.help}", f"# TYPE {sample.name} {sample.kind}"]
        if sample.kind != "histogram":
            lines.append(f"{sample.name}{_labels(sample.labels)} {sample.value:.17g}")
            continue
        for bound, count in sample.buckets:
            edge = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f"{sample.name}_bucket{_labels({**sample.labels, 'le': edge})} {count}")
        lines.append(f"{sample.name}_sum{_labels(sample.labels)} {sample.value:.17g}")
        lines.append(f"{sample.name}_count{_labels(sample.labels)} {sample.observations}")
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    inside = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
