"""Django models that say what they become, through `walcast map` and `walcast run`, as a person uses them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from tests.acceptance.person import Person

from walcast.testing.postgres import Database

MODELS = """
from django.db import models
from walcast.mapping import Part, document, edge, vertex


@vertex("Author", fields=["name"])
class Author(models.Model):
    name = models.TextField(db_column="full_name")


@vertex("Tag", fields=["word"])
class Tag(models.Model):
    word = models.TextField()


@document("books", fields=["title"], nested={"author": ["name"], "tags": Part(["word"], name="labels")})
@vertex("Book", fields=["title"])
@edge("TAGGED", along="tags")
class Book(models.Model):
    title = models.TextField()
    author = models.ForeignKey(Author, models.CASCADE)
    tags = models.ManyToManyField(Tag)
"""
SETTINGS = """
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": %(name)r, "USER": "postgres",
                         "HOST": %(host)r, "PORT": %(port)r}}
INSTALLED_APPS = ["library"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""
CONFIG = """
[source]
dsn = %(dsn)r
slot = %(name)r
include = ["public.library_*"]

[mapping]
declared = "walcast.integrations.django:mapping"

[sinks.copy]
type = "documents"
dsn = %(dsn)r
"""
ORM = """
import django
django.setup()
from library.models import Author, Book, Tag
"""


@pytest.fixture
def site(person: Person, database: Database) -> Person:
    """A Django project with one application, whose tables are made."""
    facts = {
        "name": database.name,
        "host": str(database.server.folder),
        "port": database.server.port,
        "dsn": database.dsn(),
    }
    (person.folder / "library").mkdir()
    (person.folder / "library/__init__.py").touch()
    (person.folder / "library/models.py").write_text(MODELS)
    (person.folder / "site_settings.py").write_text(SETTINGS % facts)
    person.write(CONFIG % facts)
    made = replace(person, environment=person.environment | {"DJANGO_SETTINGS_MODULE": "site_settings"})
    python(made, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0")
    return made


def python(person: Person, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=person.folder,
        env=person.environment | {"PYTHONPATH": os.fspath(person.folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def orm(person: Person, statements: str) -> str:
    return python(person, "-c", ORM + statements)


def test_models_are_shown_checked_and_followed(site: Person, database: Database) -> None:
    orm(
        site,
        "author = Author.objects.create(name='Ann')\n"
        "book = Book.objects.create(title='Tides', author=author)\n"
        "book.tags.add(Tag.objects.create(word='sea'))\n",
    )
    shown = site.run("map", "show").out
    assert "document books: a row of public.library_book, id (id)" in shown
    assert "author: object of public.library_author where public.library_author.id = author_id" in shown
    assert "labels: array of public.library_tag" in shown
    assert "vertex Author: a row of public.library_author" in shown
    assert "edge TAGGED: a row of public.library_book_tags" in shown
    assert "from Book (book_id) to Tag (tag_id)" in shown
    example = site.run("map", "show", "books", "1", "--json").json[0]["example"]["body"]
    assert example == {"title": "Tides", "author": {"name": "Ann"}, "labels": [{"word": "sea"}]}
    site.run("publication", "create")
    assert site.run("map", "check").out == "the mapping is sound\n"
    site.run("run", "--until", "now")
    assert [row[0] for row in database.execute("select body from derived.books")] == [example]
    assert database.execute('select count(*) from derived."TAGGED"') == [(1,)]
    orm(
        site,
        "Author.objects.update(name='Bea')\n"
        "Tag.objects.get().delete()\n"
        "Book.objects.bulk_create([Book(title='Fog', author=Author.objects.get())])\n",
    )
    site.run("run", "--until", "now")
    bodies = [row[0] for row in database.execute("select body from derived.books order by id")]
    assert bodies == [
        {"title": "Tides", "author": {"name": "Bea"}, "labels": []},
        {"title": "Fog", "author": {"name": "Bea"}, "labels": []},
    ]
    assert database.execute('select count(*) from derived."TAGGED"') == [(0,)]
    assert "copy: equal to its source" in site.run("verify", "copy").out


def test_a_declaration_that_names_what_is_not_there_names_the_model(site: Person) -> None:
    models = site.folder / "library/models.py"
    models.write_text(MODELS.replace('fields=["title"], nested', 'fields=["titles"], nested'))
    answer = site.run("map", "show", code=2)
    assert "Book has no field 'titles'" in answer.error
    assert answer.hint == "did you mean 'title'?"
