"""Log in, sign up, change or delete oneself."""

from __future__ import annotations

from flask import Blueprint, abort, flash, g, redirect, render_template, request, session, url_for
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from werkzeug.wrappers import Response

from social import forms
from social.database import reading, writing
from social.deeds import did
from social.models import User

pages = Blueprint("account", __name__)


@pages.get("/login")
def login() -> str:
    known = reading().scalars(select(User.username).order_by(User.id).limit(8)).all()
    return render_template("login.html", known=known, next=request.args.get("next", ""))


@pages.post("/login")
def log_in() -> Response | tuple[str, int]:
    """Without a password: this is a demonstration."""
    name = request.form.get("username", "").strip()
    user = reading().scalar(select(User).where(User.username == name)) if "\0" not in name else None
    if user is None:
        flash(f"There is no user {name!r}.")
        known = reading().scalars(select(User.username).order_by(User.id).limit(8)).all()
        return render_template("login.html", known=known, next=""), 404
    session["user"] = user.id
    return redirect(forms.local(request.form.get("next")))


@pages.get("/logout")
def logout() -> Response:
    session.pop("user", None)
    return redirect(url_for("posts.home"))


@pages.get("/sign-up")
def sign_up() -> str:
    return render_template("account.html", user=None)


@pages.post("/sign-up")
def signed_up() -> Response | tuple[str, int]:
    try:
        user = User(
            username=forms.username(),
            email=forms.email(),
            about=forms.text("about", forms.ABOUT, empty=True),
        )
        with writing() as db:
            db.add(user)
            db.flush()
            id_, name = user.id, user.username
            did(db, f"{name} signed up")
    except (forms.Refused, IntegrityError) as error:
        flash(_why(error))
        return render_template("account.html", user=None), 400
    session["user"] = id_
    return redirect(url_for("people.show", username=name))


@pages.get("/user/<username>/edit")
@forms.login_required
def edit(username: str) -> str:
    return render_template("account.html", user=_own(username))


@pages.post("/user/<username>/edit")
@forms.login_required
def edited(username: str) -> Response | tuple[str, int]:
    id_ = _own(username).id
    try:
        name, mail = forms.username(), forms.email()
        about = forms.text("about", forms.ABOUT, empty=True)
        with writing() as db:
            user = db.get_one(User, id_)
            user.username, user.email, user.about = name, mail, about
            did(db, f"{username} changed their profile" + (f": {name} now" if name != username else ""))
    except (forms.Refused, IntegrityError) as error:
        flash(_why(error))
        return render_template("account.html", user=_own(username)), 400
    flash("Saved.")
    return redirect(url_for("people.show", username=name))


@pages.post("/user/<username>/delete")
@forms.login_required
def delete(username: str) -> Response:
    """With all that they wrote and all who followed them: the database cascades, the copies follow."""
    id_ = _own(username).id
    with writing() as db:
        db.delete(db.get_one(User, id_))
        did(db, f"{username} left")
    session.pop("user", None)
    g.pop("me", None)
    flash(f"{username} is gone, with every post.")
    return redirect(url_for("posts.home"))


def _own(username: str) -> User:
    user = forms.user_or_404(reading(), username)
    mine = forms.me()
    if mine is None or user.id != mine.id:
        abort(403, "Only they themselves may do that.")
    return user


def _why(error: Exception) -> str:
    if isinstance(error, forms.Refused):
        return str(error)
    return "That username or e-mail address is taken."
