"""`flask initdb`: the tables, six people, whom they follow, and what they wrote."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy import Connection, func, select, text
from sqlalchemy.orm import Session

from social import database
from social.models import Base, Follow, Post, User
from walcast.model import NodeUnavailable

PEOPLE: Final = ("alice", "bob", "carol", "carlos", "charlie", "dave")
FOLLOWS: Final = (
    ("alice", "bob"),
    ("bob", "carol"),
    ("bob", "carlos"),
    ("bob", "charlie"),
    ("charlie", "dave"),
)
TEXTS: Final = Path(__file__).parent / "texts"
_SUITS = text("select current_setting('wal_level')")


@click.command("initdb")
@with_appcontext
def initdb() -> None:
    """Make the tables, and six people with something to say. What is there already stays."""
    if "social.router" not in current_app.extensions:
        raise click.ClickException(
            "which database? set SQLALCHEMY_DATABASE_URI=postgresql://user@host/social"
        )
    try:
        router = database.router()
    except NodeUnavailable as error:
        raise click.ClickException(f"{error.message}; {error.hint}") from error
    with router.write() as lease:
        made = fill(lease.connection)
        level = lease.connection.scalar(_SUITS)
    click.echo(
        "made the tables, with alice, bob, carol, carlos, charlie and dave"
        if made
        else "it was there already"
    )
    if level != "logical":
        click.echo(
            f"walcast needs wal_level = logical, not {level}: alter system set wal_level = logical, and restart"
        )


def fill(connection: Connection) -> bool:
    """In one transaction; False when there were users already."""
    Base.metadata.create_all(connection)
    with Session(connection) as db:
        if db.scalar(select(func.count()).select_from(User)):
            return False
        users = {name: User(username=name, email=f"{name}@example.org") for name in PEOPLE}
        db.add_all(users.values())
        db.flush()
        db.add_all(
            Follow(follower_id=users[follower].id, followee_id=users[followee].id)
            for follower, followee in FOLLOWS
        )
        now = datetime.now(UTC)
        for number, path in enumerate(sorted(TEXTS.glob("*.txt"))):
            name, _, title = path.stem.partition(" - ")
            body = path.read_text(encoding="utf-8").strip()
            db.add(
                Post(
                    author=users[name], title=title, body=body, created=now - timedelta(hours=7 * number + 1)
                )
            )
        db.flush()
    return True
