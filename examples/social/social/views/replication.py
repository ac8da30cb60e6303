"""How changes get to the copies: each with its times, each copy with its lag, and what stops and starts them."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from flask import Blueprint, abort, current_app, flash, redirect, render_template, request, url_for
from sqlalchemy import text
from werkzeug.wrappers import Response

from social import forms
from social.database import writing
from social.deeds import deeds, did
from social.freshness import Stores, lags, stores
from walcast.model import Lsn, WalcastError

if TYPE_CHECKING:
    from social.servers import Servers

pages = Blueprint("replication", __name__)
SHOWN = 40
BULK = 200

_BULK = text("""
insert into posts (author_id, title, body)
select :author, 'Note ' || n || ' of a bulk', 'The ' || n || 'th row of one insert ... select: no ORM has seen it, '
       || 'and it is in the search all the same.'
from generate_series(1, :rows) n
""")
_BULK_GONE = text("delete from posts where author_id = :author and title like 'Note % of a bulk'")


@pages.get("/replication")
def show() -> str:
    return render_template(
        "replication.html", copies=lags(), changes=_changes(), bulk=BULK, servers=_servers()
    )


@pages.get("/replication.json")
def data() -> dict[str, Any]:
    """What the page draws again every second."""
    return {"copies": lags(), "changes": _changes()}


@pages.get("/lags.json")
def lag() -> dict[str, Any]:
    """What the footer shows."""
    return {"copies": lags()}


@pages.post("/replication/<sink>/<any(stop, start):action>")
@forms.login_required
def switch(sink: str, action: str) -> Response:
    """The pipeline writes to that copy no more; or again."""
    known = _known(sink)
    try:
        known.copies.ask("pause" if action == "stop" else "resume", {"sink": sink})
    except WalcastError as error:
        flash(error.message)
    return redirect(url_for("replication.show"))


@pages.post("/replication/<sink>/server/<any(kill, start):action>")
@forms.login_required
def server(sink: str, action: str) -> Response:
    """kill -9 of the store itself, where it is ours; or its start, which takes some seconds."""
    kind, ours = _known(sink).kind(sink), _servers()
    if ours is None:
        abort(404, "The stores have no servers of their own.")
    if action == "kill":
        ours.kill(sink)
        flash(f"{kind} was killed. Write on: the copy catches up once it is started again.")
    else:
        ours.start_later(sink)
        flash(f"{kind} is starting. The pipeline tries again by itself.")
    return redirect(url_for("replication.show"))


@pages.post("/replication/bulk")
@forms.login_required
def bulk() -> Response:
    """Many rows by one statement, past the ORM; or all of them away."""
    mine = forms.me()
    assert mine is not None
    author, name, away = mine.id, mine.username, "away" in request.form
    with writing() as db:
        done = db.execute(
            _BULK_GONE if away else _BULK, {"author": author} | ({} if away else {"rows": BULK})
        )
        did(db, f"{name}: {done.rowcount} posts {'deleted' if away else 'inserted'} by one statement")  # type: ignore[attr-defined]
    return redirect(url_for("replication.show"))


def _known(sink: str) -> Stores:
    found = stores()
    if sink not in found.names:
        abort(404, f"There is no copy {sink!r}.")
    return found


def _servers() -> Servers | None:
    found: Servers | None = current_app.extensions.get("social.servers")
    return found


def _changes() -> list[dict[str, Any]]:
    """The latest batches, newest first, as each copy got them."""
    try:
        trail: dict[str, list[dict[str, Any]]] = stores().copies.ask("trail", {"limit": SHOWN})
    except WalcastError:
        return []
    finest: dict[str, dict[str, Any]] = {}
    for step in sorted(chain.from_iterable(trail.values()), key=lambda step: step["transactions"]):
        finest.setdefault(step["through"], step)  # a copy that was behind gets several in one batch
    return [
        {
            "lsn": step["through"],
            "committed": step["committed"],
            "received": step["received"],
            "transactions": step["transactions"],
            "changes": step["changes"],
            "deeds": deeds(step["xids"]),
            "stores": {sink: _reached(steps, step["through"]) for sink, steps in trail.items()},
        }
        for step in sorted(finest.values(), key=lambda step: step["committed"] or 0, reverse=True)[:SHOWN]
    ]


def _reached(steps: list[dict[str, Any]], through: str) -> dict[str, float | None] | None:
    """How the batch that brought it went in one copy; None when none has. `steps`: newest first."""
    place = Lsn.parse(through)
    for step in reversed(steps):
        if Lsn.parse(step["through"]) >= place:
            return {name: step[name] for name in ("taken", "written", "durable")}
    return None
