"""Posts: the feed, one post, writing, changing, deleting, and more like it."""

from __future__ import annotations

from contextlib import suppress

from flask import Blueprint, abort, flash, redirect, render_template, url_for
from sqlalchemy import or_, select
from sqlalchemy.orm import joinedload
from werkzeug.wrappers import Response

from social import forms
from social.database import reading, writing
from social.deeds import did
from social.freshness import await_store, stores
from social.models import Follow, Post
from social.paging import paged
from social.stores import StoreDown, Suggestion

pages = Blueprint("posts", __name__)
POST = "/post/<int(max=2147483647):post_id>"


@pages.get("/")
def home() -> str:
    """What oneself and those whom one follows wrote; to somebody who is not logged in, what all wrote."""
    db, mine = reading(), forms.me()
    query = select(Post).options(joinedload(Post.author)).order_by(Post.created.desc(), Post.id.desc())
    suggested: list[Suggestion] | None = None
    if mine is not None:
        followed = select(Follow.followee_id).where(Follow.follower_id == mine.id)
        query = query.where(or_(Post.author_id == mine.id, Post.author_id.in_(followed)))
        with suppress(StoreDown):  # the feed is PostgreSQL's: it does without
            suggested = stores().graph.suggestions(mine.id)
    return render_template("home.html", page=paged(db, query, forms.page()), suggested=suggested)


@pages.get(POST)
def show(post_id: int) -> str:
    return render_template("post.html", post=_found(post_id))


@pages.get("/write-post")
@forms.login_required
def write() -> str:
    return render_template("write.html", post=None)


@pages.post("/write-post")
@forms.login_required
def written() -> Response | tuple[str, int]:
    mine = forms.me()
    assert mine is not None
    author, name = mine.id, mine.username
    try:
        post = Post(
            author_id=author, title=forms.text("title", forms.TITLE), body=forms.text("body", forms.BODY)
        )
    except forms.Refused as error:
        flash(str(error))
        return render_template("write.html", post=None), 400
    with writing() as db:
        db.add(post)
        did(db, f"{name} wrote {post.title!r}")
        id_ = post.id
    flash("Posted.")
    return redirect(url_for("posts.show", post_id=id_))


@pages.get(f"{POST}/edit")
@forms.login_required
def edit(post_id: int) -> str:
    return render_template("write.html", post=_own(post_id))


@pages.post(f"{POST}/edit")
@forms.login_required
def edited(post_id: int) -> Response | tuple[str, int]:
    _own(post_id)
    try:
        title, body = forms.text("title", forms.TITLE), forms.text("body", forms.BODY)
    except forms.Refused as error:
        flash(str(error))
        return render_template("write.html", post=_own(post_id)), 400
    with writing() as db:
        post = db.get_one(Post, post_id)
        post.title, post.body = title, body
        did(db, f"{post.author.username} changed {title!r}")
    flash("Saved.")
    return redirect(url_for("posts.show", post_id=post_id))


@pages.post(f"{POST}/delete")
@forms.login_required
def delete(post_id: int) -> Response:
    _own(post_id)
    with writing() as db:
        post = db.get_one(Post, post_id)
        name, title = post.author.username, post.title
        db.delete(post)
        did(db, f"{name} deleted {title!r}")
    flash("The post is gone.")
    return redirect(url_for("people.show", username=name))


@pages.get(f"{POST}/more-like-this")
def more_like_this(post_id: int) -> str:
    post = _found(post_id)
    standing = await_store("search")
    return render_template(
        "more.html", post=post, found=stores().search.more_like_this(post_id), standing=standing
    )


def _found(post_id: int) -> Post:
    post = reading().get(Post, post_id, options=[joinedload(Post.author)])
    if post is None:
        abort(404, "There is no such post.")
    return post


def _own(post_id: int) -> Post:
    post, mine = _found(post_id), forms.me()
    if mine is None or post.author_id != mine.id:
        abort(403, "Only its author may do that.")
    return post
