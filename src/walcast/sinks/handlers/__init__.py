"""Functions in your own Python code, called for every change.

    from walcast.sinks.handlers import Handlers

    handlers = Handlers()

    @handlers.on("public.users", "insert", "update")
    async def welcome(change: Change) -> None: ...

    @handlers.on("public.*")                    # every operation; a plain function runs in a thread
    def audit(change: Change) -> None: ...

    @handlers.batch("public.orders")            # a list of changes at a time
    async def load(changes: list[Change]) -> None: ...

    @handlers.arrow("public.events")            # all of a batch as an Arrow table
    def store(table: ArrowTable) -> None: ...

At least once: after a crash the last changes come again. Changes of one row arrive in order, one at a time; different rows
at the same time.
"""

from walcast.sinks.handlers.config import HandlerSinkConfig
from walcast.sinks.handlers.registry import Handlers
from walcast.sinks.handlers.sink import HandlerSink

__all__ = ["HandlerSink", "HandlerSinkConfig", "Handlers"]
