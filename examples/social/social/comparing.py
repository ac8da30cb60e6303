"""Whether the copies equal PostgreSQL, row by row: what a demonstration owes to those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from social.models import Follow, Post, User
from walcast.integrations.copies import Copies
from walcast.sinks.search import SearchIndex

_VERTICES = "match (u:User) where not u._ghost return u._key, u.username, u.email"
_EDGES = "match (a:User)-[f:Following]->(b:User) return a._key, b._key, f.since"


@dataclass(frozen=True, slots=True)
class Equality:
    """Of one copy. `difference` names the first key that is not the same; never a value."""

    rows: int
    difference: str | None

    @property
    def equal(self) -> bool:
        return self.difference is None


def compare_graph(db: Session, copies: Copies) -> Equality:
    people: dict[str, Any] = {
        f"user {user.id}": (user.username, user.email) for user in db.scalars(select(User))
    }
    follows: dict[str, Any] = {
        f"follow {item.follower_id} to {item.followee_id}": item.since for item in db.scalars(select(Follow))
    }
    there: dict[str, Any] = {
        f"user {key}": (name, email) for key, name, email in copies.query("graph", _VERTICES)
    }
    edges: dict[str, Any] = {
        f"follow {source} to {target}": datetime.fromisoformat(since)
        for source, target, since in copies.query("graph", _EDGES)
    }
    return _compared({**people, **follows}, {**there, **edges})


def compare_search(db: Session, folder: Path) -> Equality:
    ours = {
        f"post {post.id}": (post.title, post.body, post.author.username)
        for post in db.scalars(select(Post).options(joinedload(Post.author)))
    }
    there = {}
    for id_, body in SearchIndex(folder, "post").documents():
        there[f"post {id_}"] = (body["title"], body["body"], body["author"]["username"])
    return _compared(ours, there)


def _compared(ours: dict[str, Any], there: dict[str, Any]) -> Equality:
    for key in sorted(ours.keys() | there.keys()):
        if key not in there:
            return Equality(len(there), f"{key} is missing")
        if key not in ours:
            return Equality(len(there), f"{key} should not be there")
        if ours[key] != there[key]:
            return Equality(len(there), f"{key} differs")
    return Equality(len(there), None)
