"""Users: who there is, what they wrote, whom they follow, and whom they reach over others."""

from __future__ import annotations

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from werkzeug.wrappers import Response

from social import forms
from social.database import reading, writing
from social.deeds import did
from social.drawing import draw
from social.freshness import await_store, stores
from social.models import Follow, Post, User
from social.paging import Page, paged
from social.stores import DEEPEST

pages = Blueprint("people", __name__)


@pages.get("/users")
def everybody() -> str:
    found = paged(reading(), select(User).order_by(func.lower(User.username), User.id), forms.page(), 20)
    return render_template("people.html", page=found)


@pages.get("/user/<username>")
def show(username: str) -> str:
    db = reading()
    user = forms.user_or_404(db, username)
    posts: Page[Post] = paged(
        db,
        select(Post).where(Post.author_id == user.id).order_by(Post.created.desc(), Post.id.desc()),
        forms.page(),
    )
    following = db.scalars(
        select(User.username)
        .join(Follow, Follow.followee_id == User.id)
        .where(Follow.follower_id == user.id)
        .order_by(Follow.since, User.username)
        .limit(50)
    ).all()
    followers = db.scalars(
        select(User.username)
        .join(Follow, Follow.follower_id == User.id)
        .where(Follow.followee_id == user.id)
        .order_by(Follow.since, User.username)
        .limit(50)
    ).all()
    return render_template("user.html", user=user, page=posts, following=following, followers=followers)


@pages.post("/user/<username>/follow")
@forms.login_required
def follow(username: str) -> Response:
    user, mine = forms.user_or_404(reading(), username), forms.me()
    assert mine is not None
    if user.id == mine.id:
        abort(400, "Nobody follows themselves.")
    ours, theirs, name = mine.id, user.id, mine.username
    with writing() as db:
        done = db.execute(
            insert(Follow)
            .values(follower_id=ours, followee_id=theirs)
            .on_conflict_do_nothing()
            .returning(Follow.follower_id)
        ).first()
        if done is not None:
            did(db, f"{name} follows {username}")
    flash(f"You follow {username}.")
    return redirect(forms.local(request.form.get("next") or url_for("people.show", username=username)))


@pages.post("/user/<username>/unfollow")
@forms.login_required
def unfollow(username: str) -> Response:
    user, mine = forms.user_or_404(reading(), username), forms.me()
    assert mine is not None
    ours, theirs, name = mine.id, user.id, mine.username
    with writing() as db:
        db.execute(delete(Follow).where(Follow.follower_id == ours, Follow.followee_id == theirs))
        did(db, f"{name} follows {username} no more")
    flash(f"You do not follow {username} any more.")
    return redirect(forms.local(request.form.get("next") or url_for("people.show", username=username)))


@pages.get("/user/<username>/friends-of-friends")
def friends_of_friends(username: str) -> str:
    """Everybody who is reached by following, over as many others as it takes."""
    user = forms.user_or_404(reading(), username)
    depth = min(max(request.args.get("depth", type=int) or DEEPEST, 1), DEEPEST)
    standing = await_store("graph")
    circle = stores().graph.friends_of_friends(user.id, depth)
    suggested = stores().graph.suggestions(user.id)
    return render_template(
        "friends.html",
        user=user,
        circle=circle,
        picture=draw(user.username, circle) if circle.friends else None,
        suggested=suggested,
        standing=standing,
        depth=depth,
        deepest=DEEPEST,
    )
