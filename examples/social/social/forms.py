"""What comes in: who it is, whether the form is ours, and whether its values can be kept."""

from __future__ import annotations

import functools
import hmac
import re
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from flask import abort, flash, g, redirect, request, session, url_for
from sqlalchemy import select
from sqlalchemy.orm import Session

from social.database import reading
from social.models import User

F = TypeVar("F", bound=Callable[..., Any])
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,39}")
EMAIL = re.compile(r"[^@\s\x00]{1,100}@[^@\s\x00]{1,100}")
TITLE, BODY, ABOUT = 200, 100_000, 1000
"""Characters."""


class Refused(ValueError):
    """A value that cannot be kept; the message is for the person."""


def me() -> User | None:
    """Who is logged in. A user who is gone is logged out."""
    if "me" not in g:
        id_ = session.get("user")
        g.me = None if id_ is None else reading().get(User, id_)
        if id_ is not None and g.me is None:
            session.pop("user")
    found: User | None = g.me
    return found


def login_required(view: F) -> F:
    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if me() is None:
            flash("Log in first.")
            wanted = request.path if request.method == "GET" else None
            return redirect(url_for("account.login", next=wanted))
        return view(*args, **kwargs)

    return guarded  # type: ignore[return-value]  # functools.wraps keeps the signature


def csrf_token() -> str:
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(24)
    return str(session["csrf"])


def check_csrf() -> None:
    """Before every request that changes something: it must come from a form of ours."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    sent = request.form.get("csrf") or request.headers.get("X-CSRF-Token") or ""
    if not hmac.compare_digest(sent.encode(), session.get("csrf", "").encode()) or not sent:
        abort(
            400, "The form is too old, or is not ours. Go back, load the page again, and send it once more."
        )


def text(name: str, longest: int, *, empty: bool = False) -> str:
    """A field of the form. Raises Refused."""
    value = request.form.get(name, "").strip().replace("\r\n", "\n")
    if "\0" in value:
        raise Refused(f"The {name} holds a NUL character, which PostgreSQL cannot keep.")
    if not value and not empty:
        raise Refused(f"The {name} is empty.")
    if len(value) > longest:
        raise Refused(f"The {name} is too long: {len(value)} characters, at most {longest}.")
    return value


def username() -> str:
    value = text("username", 40)
    if not NAME.fullmatch(value):
        raise Refused("A username has letters, digits and . _ - only, and does not begin with . or -.")
    return value


def email() -> str:
    value = text("email", 200)
    if not EMAIL.fullmatch(value):
        raise Refused("That is no e-mail address.")
    return value


def page() -> int:
    """Which page of a list is asked for, from 1."""
    return min(max(request.args.get("page", 1, type=int), 1), 100_000)


def user_or_404(db: Session, name: str) -> User:
    found = db.scalar(select(User).where(User.username == name)) if "\0" not in name else None
    if found is None:
        abort(404, f"There is no user {name!r}.")
    return found


def local(target: str | None) -> str:
    """Where to go after a login: a path of ours, or home."""
    ours = target is not None and target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if ours and target is not None else url_for("posts.home")
