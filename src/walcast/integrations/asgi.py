"""Read your writes for any ASGI application (Starlette, FastAPI, Django Channels ...); loads none of them.

app = TokenMiddleware(app, router)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from walcast.cluster.routing.base import RouterBase
from walcast.cluster.routing.session import Session, in_session
from walcast.integrations.carrier import TokenCarrier

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TokenMiddleware:
    """A session a request: its reads see what the same user wrote before, here or in the service that called."""

    def __init__(self, app: App, router: RouterBase, carrier: TokenCarrier | None = None) -> None:
        self._app = app
        self._router = router
        self._carrier = carrier or TokenCarrier()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        brought = self._carrier.read(
            self._router, _header(scope, self._carrier.header), _header(scope, "cookie")
        )
        with in_session(Session(brought)) as session:

            async def sending(message: Message) -> None:
                starts = message["type"] in ("http.response.start", "websocket.accept")
                if starts and session.token is not None and session.token != brought:
                    added = [
                        (k.lower().encode(), v.encode()) for k, v in self._carrier.headers(session.token)
                    ]
                    message["headers"] = [*message.get("headers", ()), *added]
                await send(message)

            await self._app(scope, receive, sending)


def _header(scope: Scope, name: str) -> str | None:
    wanted = name.lower().encode()
    found = [value.decode("latin-1") for key, value in scope["headers"] if key == wanted]
    return "; ".join(found) if found else None
