"""Models that say what they become, in SQLAlchemy and in Django: the same mapping as one written by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Column, ForeignKey, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from walcast.integrations.sqlalchemy import mapping_of
from walcast.mapping import (
    DataMapping,
    Document,
    Edge,
    End,
    Field,
    Nested,
    Part,
    Through,
    Vertex,
    document,
    edge,
    search,
    vertex,
)
from walcast.model import ConfigError

EXPECTED = DataMapping(
    documents={
        "books": Document(
            "public.book",
            fields={"title": "title", "shout": Field(template="{title}!")},
            nested={
                "author": Nested(
                    "library.author", {"id": "author_id"}, many=False, fields={"name": "full_name"}
                ),
                "labels": Nested(
                    "public.tag",
                    through=Through("public.book_tag", {"book_id": "id"}, {"tag_id": "id"}),
                    fields={"word": "word"},
                ),
            },
        )
    },
    vertices={
        "Person": Vertex("library.author", fields={"name": "full_name"}),
        "Book": Vertex("public.book", fields={"title": "title"}),
        "Tag": Vertex("public.tag", fields={"word": "word"}),
    },
    edges={
        "TAGGED": Edge("public.book_tag", End("Book", ("book_id",)), End("Tag", ("tag_id",))),
        "KNOWS": Edge(
            "public.knows",
            End("Person", ("one_id",)),
            End("Person", ("other_id",)),
            fields={"since": "since"},
        ),
    },
)


def models() -> type[DeclarativeBase]:
    class Base(DeclarativeBase):
        pass

    @vertex("Person", fields=["name"])
    class Author(Base):
        __tablename__ = "author"
        __table_args__ = {"schema": "library"}
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column("full_name")

    links = Table(
        "book_tag",
        Base.metadata,
        Column("book_id", ForeignKey("book.id"), primary_key=True),
        Column("tag_id", ForeignKey("tag.id"), primary_key=True),
    )

    class Tag(Base):
        __tablename__ = "tag"
        __walcast__ = vertex(fields=["word"])
        id: Mapped[int] = mapped_column(primary_key=True)
        word: Mapped[str]

    class Book(Base):
        __tablename__ = "book"
        __walcast__ = (
            search(
                "books",
                fields={"title": "title", "shout": Field(template="{title}!")},
                nested={"author": {"name": "name"}, "tags": Part(["word"], name="labels")},
            ),
            vertex(fields=["title"]),
            edge("TAGGED", along="tags"),
        )
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        author_id: Mapped[int] = mapped_column(ForeignKey("library.author.id"))
        author: Mapped[Author] = relationship(Author)
        tags: Mapped[list[Tag]] = relationship(Tag, secondary=links)

    class Knows(Base):
        __tablename__ = "knows"
        __walcast__ = edge("KNOWS", source="one", target="other", fields=["since"])
        one_id: Mapped[int] = mapped_column(ForeignKey("library.author.id"), primary_key=True)
        other_id: Mapped[int] = mapped_column(ForeignKey("library.author.id"), primary_key=True)
        since: Mapped[int]
        one: Mapped[Author] = relationship(Author, foreign_keys=[one_id])
        other: Mapped[Author] = relationship(Author, foreign_keys=[other_id])

    return Base


def test_sqlalchemy_models_declare_a_mapping() -> None:
    assert mapping_of(models()) == EXPECTED


@pytest.mark.parametrize(
    ("said", "says", "hint"),
    [
        (document(fields=["titel"]), "Thing has no attribute 'titel'", "title"),
        (document(nested={"owners": ["id"]}), "Thing has no relationship 'owners'", "owner"),
        (edge(source="owner", target="owner"), "an edge leads to Owner, which is no vertex", "vertex"),
        (edge(along="owner"), "Thing.owner has no join table", "source and target"),
        ((document("same"), document("same")), "'same' is declared twice", "another name"),
    ],
)
def test_what_a_model_does_not_have_is_named(said: object, says: str, hint: str) -> None:
    class Base(DeclarativeBase):
        pass

    class Owner(Base):
        __tablename__ = "owner"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Thing(Base):
        __tablename__ = "thing"
        __walcast__ = said
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        owner_id: Mapped[int] = mapped_column(ForeignKey("owner.id"))
        owner: Mapped[Owner] = relationship(Owner)

    with pytest.raises(ConfigError, match=says) as caught:
        mapping_of(Base)
    assert hint in (caught.value.hint or "")


def test_an_edge_needs_both_ends_or_a_relation() -> None:
    for wrong in ({}, {"source": "a"}, {"source": "a", "target": "b", "along": "c"}):
        with pytest.raises(ConfigError, match="an edge leads"):
            edge("E", **wrong)


MODELS = """
from django.db import models
from walcast.mapping import Field, Part, edge, search, vertex

@vertex("Person", fields=["name"])
class Author(models.Model):
    name = models.TextField(db_column="full_name")
    class Meta: db_table = '"library"."author"'

class Tag(models.Model):
    __walcast__ = vertex(fields=["word"])
    word = models.TextField()
    class Meta: db_table = "tag"

class Book(models.Model):
    __walcast__ = (
        search("books", fields={"title": "title", "shout": Field(template="{title}!")},
               nested={"author": {"name": "name"}, "tags": Part(["word"], name="labels")}),
        vertex(fields=["title"]),
        edge("TAGGED", along="tags"),
    )
    title = models.TextField()
    author = models.ForeignKey(Author, models.CASCADE, related_name="books")
    tags = models.ManyToManyField(Tag, db_table="book_tag", related_name="books")
    class Meta: db_table = "book"

class Knows(models.Model):
    __walcast__ = edge("KNOWS", source="one", target="other", fields=["since"])
    one = models.ForeignKey(Author, models.CASCADE, related_name="+")
    other = models.ForeignKey(Author, models.CASCADE, related_name="+")
    since = models.IntegerField()
    class Meta: db_table = "knows"
"""
CHECKED = """
from walcast.integrations.django import DjangoModel, mapping
from tests.unit.test_declaring import EXPECTED
assert mapping() == EXPECTED, mapping()
from library.models import Author, Tag
back = DjangoModel(Author).link("books")
assert (back.many, dict(back.on)) == (True, {"author_id": "id"}), back
tagged = DjangoModel(Tag).link("books").through
assert (dict(tagged.ours), dict(tagged.theirs)) == ({"tag_id": "id"}, {"book_id": "id"}), tagged
"""


def test_django_models_declare_the_same(tmp_path: Path) -> None:
    """In a process of its own: Django is configured once."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library/__init__.py").touch()
    (tmp_path / "library/models.py").write_text(MODELS)
    (tmp_path / "site_settings.py").write_text(
        "INSTALLED_APPS = ['library']\nDEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\n"
    )
    root = Path(__file__).parents[2]
    environment = {"DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", CHECKED],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
