"""Read your writes for a Flask application, and Walcast's commands beside Flask's own.

install(app, router)
add_commands(app)       # flask walcast status | doctor | run | ...
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextvars import Token as Reset

import click
from flask import Flask, Response, current_app, g, request
from flask.cli import with_appcontext

from walcast.cluster.routing.base import RouterBase
from walcast.cluster.routing.session import Session, current
from walcast.integrations.carrier import TokenCarrier
from walcast.model import Token


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


def token() -> Token | None:
    """What the user of this request has written, here or before: ask a copy whether it has it
    (`walcast.integrations.copies.Copies.wait`). None when it was nothing."""
    session = current.get()
    return None if session is None else session.token


def add_commands(app: Flask) -> None:
    """`flask walcast COMMAND ...` is `walcast COMMAND ...` with the application's configuration: WALCAST_CONFIG names the
    file [walcast.toml], WALCAST_ENVIRONMENT what goes instead of the process's own environment."""
    app.cli.add_command(_walcast)


@click.command(
    "walcast",
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": [],
    },
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@with_appcontext
def _walcast(arguments: tuple[str, ...]) -> None:
    """Walcast's commands: status, doctor, run, verify ..."""
    config = current_app.config.get("WALCAST_CONFIG")
    environment = dict(current_app.config.get("WALCAST_ENVIRONMENT") or os.environ)
    if config is not None:
        environment["WALCAST_CONFIG"] = str(config)
    done = subprocess.run([sys.executable, "-m", "walcast", *arguments], env=environment, check=False)
    raise SystemExit(done.returncode)
