"""Users, whom they follow, and what they write: tables in PostgreSQL, and what each row becomes elsewhere.

Nothing here knows of the graph or of the search: `__walcast__` says what a row becomes, Walcast reads it from the log.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from walcast.integrations.sqlalchemy import mapping_of
from walcast.mapping import edge, search, vertex


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {datetime: DateTime(timezone=True)}


class User(Base):
    __tablename__ = "users"
    __walcast__ = vertex("User", fields=["username", "email"])

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(unique=True)
    email: Mapped[str] = mapped_column(unique=True)
    about: Mapped[str] = mapped_column(default="", server_default="")
    joined: Mapped[datetime] = mapped_column(server_default=func.now())

    posts: Mapped[list[Post]] = relationship(back_populates="author", passive_deletes=True)


class Follow(Base):
    __tablename__ = "follows"
    __table_args__ = (CheckConstraint("follower_id <> followee_id", name="nobody_follows_themselves"),)
    __walcast__ = edge("Following", source="follower", target="followee", fields=["since"])

    follower_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="cascade"), primary_key=True)
    followee_id: Mapped[int] = mapped_column(
        ForeignKey("users.id", ondelete="cascade"), primary_key=True, index=True
    )
    since: Mapped[datetime] = mapped_column(server_default=func.now())

    follower: Mapped[User] = relationship(foreign_keys=[follower_id])
    followee: Mapped[User] = relationship(foreign_keys=[followee_id])


@search("post", fields=["title", "body", "created"], nested={"author": ["username"]})
class Post(Base):
    __tablename__ = "posts"

    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="cascade"))
    title: Mapped[str]
    body: Mapped[str]
    created: Mapped[datetime] = mapped_column(server_default=func.now())

    author: Mapped[User] = relationship(back_populates="posts")


Index("posts_by_author", Post.author_id, Post.created.desc())

mapping = mapping_of(Base)
"""What `declared` in walcast.toml names."""
