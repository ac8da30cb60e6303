"""Real PostgreSQL servers on this machine, without a container engine, and a TCP proxy that fails on request.

The demo, the benchmarks and the tests stand on it; `walcast.testing` re-exports it.
"""

from walcast.postgres.local.binaries import Binaries, ServerMissing, find
from walcast.postgres.local.proxy import TcpProxy
from walcast.postgres.local.server import LocalServer, StartFailed
from walcast.postgres.local.tls import Certificates

__all__ = ["Binaries", "Certificates", "LocalServer", "ServerMissing", "StartFailed", "TcpProxy", "find"]
