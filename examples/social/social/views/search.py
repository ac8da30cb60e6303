"""The search box."""

from __future__ import annotations

from flask import Blueprint, render_template, request

from social import forms
from social.freshness import await_store, stores
from social.paging import SIZE, Page

pages = Blueprint("search", __name__)


@pages.get("/search")
def search() -> str:
    words = request.args.get("q", "").strip()[:200]
    number = min(forms.page(), 100)
    standing = await_store("search")
    found = stores().search.search(words, SIZE + 1, (number - 1) * SIZE) if words else []
    page = Page(found[:SIZE], number, len(found) > SIZE)
    return render_template("search.html", words=words, page=page, standing=standing)
