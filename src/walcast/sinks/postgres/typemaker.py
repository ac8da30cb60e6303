"""The copy's types: found by name, made when they are missing, followed when an enum grows."""

from __future__ import annotations

from psycopg import sql

from walcast.model import Relation, TableStopped, TypeInfo
from walcast.sinks.postgres.config import PostgresSinkConfig
from walcast.sinks.postgres.session import Session
from walcast.sinks.postgres.target import TargetType, built_in, load_types, user_types

_HAS_SCHEMA = sql.SQL("select 1 from pg_catalog.pg_namespace where nspname = {}")
_KNOWN = sql.SQL("select json_agg(oid::bigint) from pg_catalog.pg_type where oid in ({})")


class TypeMaker:
    """Types that are not built in have other oids in every database: they are matched by schema and name."""

    def __init__(self, session: Session, config: PostgresSinkConfig) -> None:
        self._session = session
        self._config = config

    def resolve(self, relation: Relation) -> tuple[tuple[int, ...], dict[int, int]]:
        """The oid at the copy of each column's type, and of every type they are made of that is not built in.

        Missing types are made. Raises TableStopped.
        """
        needed = user_types(relation)
        names = {self._name(info) for info in needed.values()}
        have = load_types(self._session, names)
        missing = [info for info in needed.values() if self._name(info) not in have]
        for info in missing:
            self._make(info, relation, have)
            have |= load_types(self._session, {self._name(info)})
        for info in needed.values():
            if info.kind == "enum" and info not in missing:
                self._grow(info, have[self._name(info)])
        wire = tuple(self._oid(column.type, have, relation) for column in relation.columns)
        self._check_built_in(relation, wire)
        within = [info for column in relation.columns for info in _within(column.type) if not built_in(info)]
        oids = {info.oid: self._oid(info, have, relation) for info in within}
        return wire, oids

    def add_labels(self, info: TypeInfo, labels: set[str]) -> bool:
        """Adds labels that the copy's enum does not have, in no particular place; whether there were any."""
        name = self._name(info)
        have = load_types(self._session, {name}).get(name)
        new = sorted(labels - set(have.labels)) if have is not None and self._config.create_tables else []
        for label in new:
            self._session.query(
                sql.SQL("alter type {} add value if not exists {}").format(
                    sql.Identifier(*name), sql.Literal(label)
                )
            )
        return bool(new)

    def make_schema(self, schema: str) -> None:
        if self._session.query(_HAS_SCHEMA.format(sql.Literal(schema))):
            return
        self._session.query(sql.SQL("create schema {}").format(sql.Identifier(schema)))

    def _make(self, info: TypeInfo, relation: Relation, have: dict[tuple[str, str], TargetType]) -> None:
        schema, name = self._name(info)
        if (
            not self._config.create_tables
            or info.kind in ("base", "pseudo", "multirange")
            or schema == "pg_catalog"
        ):
            raise TableStopped(
                relation.table,
                f"the copy has no type {schema}.{name}",
                hint=f"create it there (an extension's type: create extension), then `walcast resync {relation.table.argument}`",
            )
        self.make_schema(schema)
        identifier = sql.Identifier(schema, name)
        if info.kind == "enum":
            labels = sql.SQL(", ").join(map(sql.Literal, info.labels))
            statement = sql.SQL("create type {} as enum ({})").format(identifier, labels)
        elif info.kind == "composite":
            fields = sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(field), self._written(kind))
                for field, kind in info.fields
            )
            statement = sql.SQL("create type {} as ({})").format(identifier, fields)
        else:
            if info.element is None:
                raise TableStopped(relation.table, f"what the type {schema}.{name} is made of is not known")
            shape = (
                "create domain {} as {}"
                if info.kind == "domain"
                else "create type {} as range (subtype = {})"
            )
            statement = sql.SQL(shape).format(identifier, self._written(info.element))
        self._session.query(statement)

    def _grow(self, info: TypeInfo, have: TargetType) -> None:
        """Adds the enum's new labels where they are in the source's order."""
        if not self._config.create_tables:
            return
        for number, label in enumerate(info.labels):
            if label in have.labels:
                continue
            place: sql.Composable = sql.SQL("")
            if number:
                place = sql.SQL("after {}").format(sql.Literal(info.labels[number - 1]))
            elif have.labels:
                place = sql.SQL("before {}").format(sql.Literal(have.labels[0]))
            self._session.query(
                sql.SQL("alter type {} add value if not exists {} {}").format(
                    sql.Identifier(*self._name(info)), sql.Literal(label), place
                )
            )

    def _oid(self, info: TypeInfo, have: dict[tuple[str, str], TargetType], relation: Relation) -> int:
        if built_in(info):
            return info.oid
        if info.kind == "array" and info.element is not None:
            if built_in(info.element):
                return info.oid
            return have[self._name(info.element)].array
        found = have.get(self._name(info))
        if found is None:
            raise TableStopped(relation.table, f"the copy has no type {info.schema}.{info.name}")
        return found.oid

    def _check_built_in(self, relation: Relation, wire: tuple[int, ...]) -> None:
        if not wire:
            return
        oids = sql.SQL(", ").join(map(sql.Literal, sorted(set(wire))))
        known = set(self._session.json(_KNOWN.format(oids)) or ())
        unknown = [
            c.sql_type or c.type.name
            for c, oid in zip(relation.columns, wire, strict=True)
            if oid not in known
        ]
        if unknown:
            raise TableStopped(
                relation.table,
                f"the copy's PostgreSQL has no type {', '.join(unknown)}",
                hint="upgrade the copy's server, or leave these columns out of the publication",
            )

    def _written(self, info: TypeInfo) -> sql.Composable:
        if info.kind == "array" and info.element is not None:
            return sql.SQL("{}[]").format(self._written(info.element))
        return sql.Identifier(*self._name(info))

    def _name(self, info: TypeInfo) -> tuple[str, str]:
        return self._config.schemas.get(info.schema, info.schema), info.name


def _within(info: TypeInfo) -> list[TypeInfo]:
    """The type and all that it is made of."""
    inner = [info.element] if info.element is not None else []
    inner += [kind for _, kind in info.fields]
    return [info, *(found for one in inner for found in _within(one))]
