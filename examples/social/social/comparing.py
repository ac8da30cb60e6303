"""Whether the copies equal PostgreSQL, row by row: what a demonstration owes to those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from social.models import Follow, Post, User
from social.stores import Graph, Search


@dataclass(frozen=True, slots=True)
class Equality:
    """Of one copy. `difference` names the first key that is not the same; never a value."""

    rows: int
    difference: str | None

    @property
    def equal(self) -> bool:
        return self.difference is None


def compare_graph(db: Session, graph: Graph) -> Equality:
    people: dict[str, Any] = {
        f"user {user.id}": (user.username, user.email) for user in db.scalars(select(User))
    }
    follows: dict[str, Any] = {
        f"follow {item.follower_id} to {item.followee_id}": item.since for item in db.scalars(select(Follow))
    }
    there = {
        key: datetime.fromisoformat(held) if isinstance(held, str) else held
        for key, held in graph.contents().items()
    }
    return _compared({**people, **follows}, there)


def compare_search(db: Session, search: Search) -> Equality:
    ours = {
        f"post {post.id}": (post.title, post.body, post.author.username)
        for post in db.scalars(select(Post).options(joinedload(Post.author)))
    }
    return _compared(ours, search.contents())


def _compared(ours: dict[str, Any], there: dict[str, Any]) -> Equality:
    for key in sorted(ours.keys() | there.keys()):
        if key not in there:
            return Equality(len(there), f"{key} is missing")
        if key not in ours:
            return Equality(len(there), f"{key} should not be there")
        if ours[key] != there[key]:
            return Equality(len(there), f"{key} differs")
    return Equality(len(there), None)
