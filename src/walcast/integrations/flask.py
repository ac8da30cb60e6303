"""Read your writes for a Flask application.

install(app, router)
"""

from __future__ import annotations

from contextvars import Token as Reset

from flask import Flask, Response, g, request

from walcast.cluster.routing.base import RouterBase
from walcast.cluster.routing.session import Session, current
from walcast.integrations.carrier import TokenCarrier


def install(app: Flask, router: RouterBase, carrier: TokenCarrier | None = None) -> None:
    """Makes a session of every request: its reads see what the same user wrote before. The response of a request that
    wrote carries the new token."""
    carrying = carrier or TokenCarrier()

    def begin() -> None:
        header = request.headers.get(carrying.header) if carrying.header else None
        session = Session(carrying.read(router, header, request.headers.get("Cookie")))
        g.walcast_brought, g.walcast_session = session.token, session
        g.walcast_reset = current.set(session)

    def answer(response: Response) -> Response:
        session: Session | None = g.get("walcast_session")
        if session is not None and session.token is not None and session.token != g.walcast_brought:
            for name, value in carrying.headers(session.token):
                response.headers.add(name, value)
        return response

    def end(error: BaseException | None) -> None:
        reset: Reset[Session | None] | None = g.pop("walcast_reset", None)
        if reset is not None:
            current.reset(reset)

    app.before_request_funcs.setdefault(None, []).insert(0, begin)
    app.after_request(answer)
    app.teardown_request(end)
