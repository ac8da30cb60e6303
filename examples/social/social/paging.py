"""A page of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

T = TypeVar("T")
SIZE = 10


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """`number` counts from 1."""

    items: Sequence[T]
    number: int
    more: bool


def paged(db: Session, query: Select[Any], number: int, size: int = SIZE) -> Page[Any]:
    """One row more is read than is shown: that says whether there is a next page."""
    found = db.scalars(query.offset((number - 1) * size).limit(size + 1)).unique().all()
    return Page(found[:size], number, len(found) > size)
