"""Read your writes for Django: a database router, and a middleware that carries the token.

    DATABASES = {"default": {...}, "replica1": {...}, "replica2": {...}}
    DATABASE_ROUTERS = ["walcast.integrations.django.ReplicaRouter"]
    MIDDLEWARE = ["walcast.integrations.django.TokenMiddleware", ...]
    WALCAST = {"nodes": ["default", "replica1", "replica2"], "keys": [SECRET_KEY]}   # both optional

Connections stay Django's own. Reads inside atomic() go where the transaction is.

Models that say with `__walcast__` what they become: `declared = "walcast.integrations.django:mapping"` in walcast.toml takes
them all, with DJANGO_SETTINGS_MODULE in the environment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import django
import psycopg
from django.apps import apps
from django.conf import settings
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.utils import DatabaseError
from django.http import HttpRequest, HttpResponse
from psycopg.conninfo import make_conninfo

from walcast.cluster.routing.base import RouterSettings
from walcast.cluster.routing.fleet import Node
from walcast.cluster.routing.router import Router
from walcast.cluster.routing.session import Session, current, in_session
from walcast.integrations.carrier import TokenCarrier
from walcast.mapping import DataMapping, Declaration, Link, Through, declared_by, mapping_of, near_name
from walcast.model import ConfigError
from walcast.postgres.standing import look

_lock = threading.Lock()
_router: Router[BaseDatabaseWrapper] | None = None
_lives: WeakKeyDictionary[psycopg.Connection[Any], int] = WeakKeyDictionary()


class ReplicaRouter:
    """For DATABASE_ROUTERS. Writes go to the database that is the primary now, reads to one that has what they need."""

    def db_for_read(self, model: type, **hints: Any) -> str | None:
        found, session = router(), current.get()
        alias = found.primary_name()
        if connections[alias].in_atomic_block:
            return alias
        if session is not None and session.unproven:
            session.unproven = False
            session.wrote(_token(alias))
        return found.route()

    def db_for_write(self, model: type, **hints: Any) -> str | None:
        wrote()
        return router().primary_name()

    def allow_relation(self, first: Any, second: Any, **hints: Any) -> bool | None:
        names = {node.name for node in router().fleet.nodes}
        return True if {first._state.db, second._state.db} <= names else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        found = router()
        if db in {node.name for node in found.fleet.nodes}:
            return db == found.primary_name()
        return None


class TokenMiddleware:
    """For MIDDLEWARE, before whatever reads the database: a session a request."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        found, carrier = router(), _carrier()
        header = request.headers.get(carrier.header) if carrier.header else None
        brought = carrier.read(found, header, request.headers.get("Cookie"))
        with in_session(Session(brought)) as session:
            response = self._get_response(request)
            if session.unproven:
                session.wrote(_token(found.primary_name()))
        if session.token is not None and session.token != brought:
            if carrier.header:
                response[carrier.header] = carrier.write(session.token)
            if carrier.cookie:
                response.set_cookie(
                    carrier.cookie,
                    carrier.write(session.token),
                    max_age=carrier.max_age,
                    secure=carrier.secure,
                    httponly=True,
                    samesite=carrier.same_site,
                )
        return response


def wrote() -> None:
    """Says that this request writes. The ORM's writes say it themselves; raw SQL on the primary's cursor does not."""
    session = current.get()
    if session is not None:
        session.unproven = True


def router() -> Router[BaseDatabaseWrapper]:
    """The router over settings.DATABASES, made on first use."""
    global _router  # noqa: PLW0603  # Django makes one of its database routers, too
    with _lock:
        if _router is None:
            options = _settings()
            aliases = options.get("nodes") or [
                alias for alias in connections if connections[alias].vendor == "postgresql"
            ]
            names = {alias: _dsn(connections[alias].settings_dict) for alias in aliases}
            chosen = {
                name: value for name, value in options.items() if name in RouterSettings.__dataclass_fields__
            }
            connection_created.connect(_created, dispatch_uid="walcast")
            _router = Router(names, pool=_Wrappers, **chosen).open()
        return _router


class _Wrappers:
    """Django's connections of this thread to one database: taken to be asked, never kept."""

    def __init__(self, _: Router[BaseDatabaseWrapper], node: Node) -> None:
        self._alias = node.name

    def open(self) -> None: ...
    def close(self) -> None: ...

    def take(self, timeout: float) -> tuple[BaseDatabaseWrapper, int]:
        wrapper = connections[self._alias]
        try:
            wrapper.ensure_connection()
        except DatabaseError as error:
            raise psycopg.OperationalError(str(error)) from None
        return wrapper, _lives.get(self.raw(wrapper), -1)

    def give(self, connection: BaseDatabaseWrapper, *, broken: bool = False) -> None:
        if broken:
            connection.close()

    def raw(self, connection: BaseDatabaseWrapper) -> psycopg.Connection[Any]:
        return cast("psycopg.Connection[Any]", connection.connection)

    def begin(self, connection: BaseDatabaseWrapper, *, read_only: bool) -> None: ...
    def end(self, connection: BaseDatabaseWrapper, *, commit: bool) -> None: ...


def _created(sender: object, connection: BaseDatabaseWrapper, **_: Any) -> None:
    found = _router
    if found is None:
        return
    for node in found.fleet.nodes:
        if node.name == connection.alias:
            raw = cast("psycopg.Connection[Any]", connection.connection)
            joined = found.fleet.join(node, raw.info.server_version)
            asked = time.monotonic()
            _lives[raw] = found.fleet.note(node, look(raw), asked, joined=joined)


def _token(alias: str) -> Any:
    wrapper = connections[alias]
    wrapper.ensure_connection()
    return look(cast("psycopg.Connection[Any]", wrapper.connection)).token


def _settings() -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", getattr(settings, "WALCAST", {}))


def _carrier() -> TokenCarrier:
    options = _settings()
    fields = TokenCarrier.__dataclass_fields__
    return TokenCarrier(**{name: value for name, value in options.items() if name in fields})


def _dsn(database: Mapping[str, Any]) -> str:
    if not str(database["ENGINE"]).endswith("postgresql"):
        raise ImproperlyConfigured("walcast: every database in WALCAST['nodes'] must be PostgreSQL")
    named = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    parameters = {key: str(database[name]) for name, key in named.items() if database.get(name)}
    options = {
        name: value for name, value in database.get("OPTIONS", {}).items() if isinstance(value, str | int)
    }
    known = {name: str(value) for name, value in options.items() if name in _LIBPQ}
    return make_conninfo(**{**parameters, **known})


_LIBPQ = frozenset(
    [
        "service",
        "passfile",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "connect_timeout",
        "options",
        "channel_binding",
        "keepalives",
        "keepalives_idle",
        "tcp_user_timeout",
        "target_session_attrs",
    ]
)


def mapping() -> DataMapping:
    """What the installed models say that they become, with `__walcast__` or a decorator. Raises ConfigError naming the model."""
    if not apps.ready:
        django.setup()
    return mapping_of(DjangoModel(model) for model in apps.get_models())


@dataclass(frozen=True, slots=True)
class DjangoModel:
    """`walcast.mapping.declaring.Model` of a Django model."""

    model: Any

    @property
    def name(self) -> str:
        return str(self.model.__name__)

    @property
    def table(self) -> str:
        return _public(self.model._meta.db_table)

    @property
    def key(self) -> list[str]:
        fields = getattr(self.model._meta, "pk_fields", None) or [self.model._meta.pk]
        return [field.column for field in fields]

    @property
    def declared(self) -> tuple[Declaration, ...]:
        return declared_by(self.model)

    def column(self, attribute: str) -> str:
        for field in self.model._meta.concrete_fields:
            if attribute in (field.name, field.attname):
                return str(field.column)
        raise self._missing("field", attribute, [field.name for field in self.model._meta.concrete_fields])

    def link(self, relation: str) -> Link:
        try:
            field = self.model._meta.get_field(relation)
        except FieldDoesNotExist:
            field = self._backwards(relation)
        if field is None or not field.is_relation:
            raise self._missing(
                "relation",
                relation,
                [field.name for field in self.model._meta.get_fields() if field.is_relation],
            )
        there = DjangoModel(field.related_model)
        if field.many_to_many:
            forward = field if field.concrete else field.remote_field
            through = _public(forward.remote_field.through._meta.db_table)
            near = {forward.m2m_column_name(): _column(forward.model, forward.m2m_target_field_name())}
            far = {
                forward.m2m_reverse_name(): _column(
                    there.model if field.concrete else self.model, forward.m2m_reverse_target_field_name()
                )
            }
            ours, theirs = (near, far) if field.concrete else (far, near)
            return Link(there, True, {}, Through(through, ours, theirs))
        if field.concrete:
            return Link(there, False, {theirs.column: ours.column for ours, theirs in field.related_fields})
        return Link(
            there,
            field.one_to_many,
            {ours.column: theirs.column for ours, theirs in field.field.related_fields},
        )

    def _backwards(self, relation: str) -> Any:
        """A relation of another model to this one, by the name of its accessor (`comment_set`)."""
        for field in self.model._meta.related_objects:
            if field.get_accessor_name() == relation:
                return field
        return None

    def _missing(self, what: str, name: str, known: list[str]) -> ConfigError:
        return ConfigError(f"{self.name} has no {what} {name!r}", hint=near_name(name, known))


def _public(table: str) -> str:
    """Django has no schemas; `"schema"."table"` is how people say one all the same."""
    schema, dot, name = table.replace('"', "").partition(".")
    return f"{schema}.{name}" if dot else f"public.{schema}"


def _column(model: Any, field: str) -> str:
    return str(model._meta.get_field(field).column)
