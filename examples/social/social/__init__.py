"""A social network on PostgreSQL, with a graph and a search that Walcast keeps in step.

flask --app social initdb
flask --app social walcast run
flask --app social run
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import psycopg
from flask import Flask, current_app, g, render_template, request
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import UndefinedTable
from sqlalchemy.exc import OperationalError, ProgrammingError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from social import database, forms, freshness, seeding, stores
from social.models import User
from social.views import account, people, posts, replication, search
from walcast.app.settings import load
from walcast.integrations import flask as walcast_flask
from walcast.integrations.carrier import TokenCarrier
from walcast.integrations.copies import Copies
from walcast.model import NodeUnavailable

HERE = Path(__file__).parent.parent
CONFIG = HERE / "walcast.toml"
DATABASE_DOWN = (NodeUnavailable, psycopg.OperationalError, OperationalError)


def create_app(**config: Any) -> Flask:
    """The application. SQLALCHEMY_DATABASE_URI says where PostgreSQL is, SECRET_KEY what signs cookies (without it everybody
    is logged out at a restart). `config` goes before the environment."""
    app = Flask("social", root_path=str(HERE / "social"))
    app.config.from_mapping(
        SQLALCHEMY_DATABASE_URI=os.environ.get("SQLALCHEMY_DATABASE_URI", ""),
        SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_urlsafe(32),
        WALCAST_CONFIG=os.environ.get("WALCAST_CONFIG", str(CONFIG)),
        WAIT_SECONDS=float(os.environ.get("WAIT_SECONDS", "2")),
        MAX_CONTENT_LENGTH=1 << 20,
        SESSION_COOKIE_SAMESITE="Lax",
    )
    app.config.update(config)
    plain = {"SQLALCHEMY_DATABASE_URI": database.plain_uri(app.config["SQLALCHEMY_DATABASE_URI"])}
    app.config.setdefault("WALCAST_ENVIRONMENT", os.environ | plain)
    walcast_flask.add_commands(app)
    app.cli.add_command(seeding.initdb)
    if app.config["SQLALCHEMY_DATABASE_URI"]:
        _connect(app)
    for module in (posts, account, people, search, replication):
        app.register_blueprint(module.pages)
    app.add_template_filter(_tint, "tint")
    app.add_template_filter(_bytes, "bytes")
    app.before_request(_no_database)
    app.before_request(forms.check_csrf)
    app.after_request(_headers)
    app.register_error_handler(HTTPException, _error)
    app.register_error_handler(stores.StoreDown, _store_down)
    app.register_error_handler(ProgrammingError, _no_tables)
    for kind in DATABASE_DOWN:
        app.register_error_handler(kind, _database_down)
    app.context_processor(lambda: {"me": _me, "csrf_token": forms.csrf_token, "token": walcast_flask.token})
    return app


def _connect(app: Flask) -> None:
    router = database.make_router(app.config["SQLALCHEMY_DATABASE_URI"])
    database.install(app, router)
    carrier = TokenCarrier(keys=[app.config["SECRET_KEY"]], secure=False)
    walcast_flask.install(app, router, carrier)
    uri = database.plain_uri(app.config["SQLALCHEMY_DATABASE_URI"])
    settings = load(Path(app.config["WALCAST_CONFIG"]), app.config["WALCAST_ENVIRONMENT"], uri)
    copies = Copies(settings.pipeline.state_dir)
    app.extensions["social.stores"] = freshness.Stores(
        copies, stores.open_graph(settings, copies), stores.open_search(settings, copies)
    )


def _tint(name: str) -> int:
    """Which of six colours somebody has."""
    return sum(name.encode()) % 6


def _bytes(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} kB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MB"


def _headers(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = (
        "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def _error(error: HTTPException) -> tuple[str, int]:
    return render_template("error.html", error=error), error.code or 500


def _store_down(error: stores.StoreDown) -> tuple[str, int]:
    return render_template("down.html", reason=str(error), copies=freshness.lags()), 503


def _me() -> User | None:
    """Who the page is for. What does not need PostgreSQL is shown without it, as to a guest."""
    try:
        return forms.me()
    except DATABASE_DOWN:
        g.me, g.away = None, True
        return None


def _database_down(_: Exception) -> tuple[str, int, dict[str, str]]:
    return _unavailable("away")


def _no_tables(error: ProgrammingError) -> tuple[str, int, dict[str, str]]:
    if not isinstance(error.orig, UndefinedTable):
        raise error
    return _unavailable("empty")


def _no_database() -> tuple[str, int, dict[str, str]] | None:
    unset = not current_app.config["SQLALCHEMY_DATABASE_URI"] and request.endpoint != "static"
    return _unavailable("unset") if unset else None


def _unavailable(why: str) -> tuple[str, int, dict[str, str]]:
    """Nobody can be looked up: the page is a guest's."""
    g.me = None
    info = conninfo_to_dict(database.plain_uri(current_app.config["SQLALCHEMY_DATABASE_URI"]))
    place = f"{info.get('host') or 'localhost'}:{info.get('port') or 5432}"
    again = request.method == "GET" and why != "unset"
    page = render_template("unavailable.html", why=why, place=place, again=again)
    return page, 503, {"Retry-After": "5", **({"Refresh": "5"} if again else {})}
