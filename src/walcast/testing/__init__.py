"""The test kit: real servers, faults on request, sinks that remember or fail, and the suite every sink passes.

Fixtures come with the pytest plugin, which pytest finds by itself (`walcast.testing.plugin`).
"""

from walcast.testing.faulty import Faults, FaultySink
from walcast.testing.memory import MemorySink, MemoryStore
from walcast.testing.postgres import PostgresServer
from walcast.testing.proxy import TcpProxy

__all__ = ["Faults", "FaultySink", "MemorySink", "MemoryStore", "PostgresServer", "TcpProxy"]
