"""Documents as JSONB in PostgreSQL: what a batch becomes, and the checkpoint after it, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, Self

import psycopg
from psycopg import sql

from walcast.model import (
    Checkpoint,
    Durability,
    Fenced,
    Finding,
    Journal,
    Lsn,
    OperatorError,
    Position,
    SinkContext,
    SinkUnavailable,
    WalcastError,
    finding_of,
)
from walcast.model.derived import Collection, Derived, Kind, Put, Unfit, check_puts
from walcast.model.token import token_at
from walcast.postgres.connect import Connection, application_name, connect
from walcast.postgres.faults import explain
from walcast.sinks.documents import statements
from walcast.sinks.documents.config import DocumentsConfig

_LONGEST: Final = 58
"""Bytes of a collection's name: the server keeps 63, and the next generation has a prefix."""

_LONGEST_KEY: Final = 2600
"""Bytes of a value in an index: a third of a page, which is the server's own limit, less what goes with it."""


class DocumentsStore:
    """Implements `walcast.model.derived.DerivedStore` and `KeepsJournal`. Edges have their ends in `source` and `target`.

    An error ends the object's use: what was not committed is gone, and it is to be opened again.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"document", "vertex", "edge"})
    keeps_checkpoint = True

    def __init__(self, config: DocumentsConfig, context: SinkContext) -> None:
        self._config = config
        self._owner = (context.pipeline, context.sink)
        self._source = context.source
        self._connection: Connection | None = None
        self._checkpoint: Checkpoint | None = None
        self._making: set[str] = set()
        self._in_transaction = False
        self._whole = True

    async def __aenter__(self) -> Self:
        self._connection = await self._connect()
        try:
            with _translated("opening the documents"):
                await self._run(statements.TUNING)
                await self._run("begin")
                for statement in statements.BOOKKEEPING:
                    await self._run(statement)
                await self._run("commit")
                rows = await self._query(
                    "select epoch, commit_lsn::text, ordinal, through::text from {schema}._walcast_checkpoint"
                    " where pipeline = %s and sink = %s",
                    self._owner,
                )
            for name, fingerprint in (await self.built()).items():
                if fingerprint:
                    await self._begin_texts(name)
        except BaseException:
            await self.__aexit__()
            raise
        for epoch, lsn, ordinal, through in rows:
            self._checkpoint = Checkpoint(epoch, Position(Lsn.parse(lsn), ordinal), Lsn.parse(through))
        return self

    async def __aexit__(self, *exc: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def checkpoint(self) -> Checkpoint | None:
        return self._checkpoint

    async def built(self) -> Mapping[str, str]:
        """One whose table somebody dropped has to be made anew: it has no fingerprint."""
        return dict(await self._query(statements.BUILT, [self._config.schema, *self._owner]))

    async def begin(self, collection: Collection) -> None:
        name = collection.name
        if len(name.encode()) > _LONGEST or name.startswith("_walcast"):
            raise OperatorError(
                f"{name!r} cannot be a collection's name here",
                hint=f"at most {_LONGEST} bytes, not _walcast...",
            )
        await self._begin()
        self._making.add(name)
        await self._run("drop table if exists {table}", name)
        await self._run(statements.CREATE, name)
        if collection.tracked:
            await self._run("create index on {table} using gin (members) with (fastupdate = off)", name)
        if collection.kind == "edge":
            await self._run("create index on {table} (source)", name)
            await self._run("create index on {table} (target)", name)
        await self._commit_if_whole()

    async def finish(self, collection: Collection) -> None:
        name = collection.name
        if name not in self._making:
            return
        await self._begin()
        new = self._table(name)
        self._making.discard(name)
        await self._run("drop table if exists {table}", name)
        await self._run("alter table {new} rename to {bare}", new=new, bare=sql.Identifier(name))
        changed = await self._run(
            """insert into {schema}._walcast_collection as c (name, pipeline, sink, fingerprint) values (%s, %s, %s, %s)
            on conflict (name) do update set fingerprint = excluded.fingerprint
             where c.pipeline = excluded.pipeline and c.sink = excluded.sink""",
            params=[name, *self._owner, collection.fingerprint],
        )
        if changed != 1:
            raise OperatorError(
                f"{self._config.schema}.{name} belongs to another sink",
                hint="give this sink a schema of its own",
            )
        await self._texts(name)
        await self._commit_if_whole()

    async def drop(self, name: str) -> None:
        await self._begin()
        await self._run("drop table if exists {table}", name)
        if name in self._config.texts:
            await self._run("drop table if exists {text}", name)
        await self._run("delete from {schema}._walcast_collection where name = %s", params=[name])
        await self._commit_if_whole()

    async def write(self, derived: Derived) -> Durability:
        check_puts(derived.puts, _unfit)
        await self._begin()
        self._whole = derived.done
        for name in derived.empty:
            await self._run("delete from {table}", name)
            await self._texts(name)
        gone: dict[str, list[str]] = {}
        for collection, id_ in derived.deletes:
            gone.setdefault(collection, []).append(id_)
        version = sql.Literal(derived.version)
        for name, ids in gone.items():
            await self._run(statements.DELETE, name, params=[ids], version=version)
            await self._texts(name, ids)
        puts: dict[str, dict[str, Put]] = {}
        for put in derived.puts:
            puts.setdefault(put.collection, {})[put.id] = put
        for name, items in puts.items():
            records = json.dumps([_record(put) for put in items.values()], ensure_ascii=False)
            await self._run(statements.PUT, name, params=[records], version=version)
            await self._texts(name, list(items))
        if derived.checkpoint is not None:
            await self._save(derived.checkpoint)
        await self._commit_if_whole()
        return Durability.DURABLE if self._whole else Durability.ACCEPTED

    async def flush(self) -> None:
        await self._commit_if_whole()

    async def holders(self, collection: Collection, members: Sequence[str]) -> Sequence[tuple[str, str]]:
        statement = "select id, members[1] from {table} where members && %s::text[]"
        return await self._query(statement, [list(members)], collection.name)

    async def ids(self, collection: Collection, after: str | None) -> Sequence[str]:
        statement = "select id from {table} where id > %s order by id limit 5000"
        rows = await self._query(statement, [after or ""], collection.name)
        return [row[0] for row in rows]

    async def held(self, collection: Collection, ids: Sequence[str]) -> Mapping[str, Any]:
        statement = "select id, body, source, target from {table} where id = any (%s::text[])"
        rows = await self._query(statement, [list(ids)], collection.name)
        return {id_: (body, source, target) for id_, body, source, target in rows}

    def form(self, collection: Collection, put: Put) -> Any:
        return (put.body, *(put.ends or (None, None)))

    async def examine(self) -> Sequence[Finding]:
        """Whether it can be reached and written."""
        try:
            async with await self._connect() as connection:
                with _translated("asking the target"):
                    cursor = await connection.execute(statements.STATE, [self._config.schema])
                    ((read_only, may, role),) = await cursor.fetchall()
        except WalcastError as error:
            return [finding_of(error, "target")]
        found = []
        if read_only:
            hint = (
                "give the DSN of the primary (target_session_attrs=read-write finds it among several hosts)"
            )
            found.append(Finding("error", "target_read_only", "the target takes no writes", hint))
        if not may:
            found.append(
                Finding(
                    "error",
                    "target_rights",
                    f"{role} may not make tables in the schema {self._config.schema}",
                    f"let {role} own it, or create schemas in this database",
                )
            )
        return found

    def journal(self) -> Journal:
        return _Journal(self)

    async def load_journal(self) -> dict[str, Any]:
        statement = "select key, value from {schema}._walcast_journal where pipeline = %s and sink = %s"
        return dict(await self._query(statement, self._owner))

    async def save_journal(self, key: str, value: Any) -> None:
        """Durable at once: over a connection of its own while a transaction is open."""
        connection = await self._connect() if self._in_transaction else self._opened
        try:
            with _translated("saving the journal"):
                if value is None:
                    statement = self._composed(
                        "delete from {schema}._walcast_journal where pipeline = %s and sink = %s and key = %s"
                    )
                    await connection.execute(statement, [*self._owner, key])
                else:
                    statement = self._composed(
                        "insert into {schema}._walcast_journal values (%s, %s, %s, %s::text::json)"
                        " on conflict (pipeline, sink, key) do update set value = excluded.value"
                    )
                    await connection.execute(statement, [*self._owner, key, json.dumps(value)])
        finally:
            if connection is not self._connection:
                await connection.close()

    async def _begin_texts(self, name: str) -> None:
        """Of a collection that was made before it was to have rows of text."""
        if name in self._config.texts:
            there = await self._query(statements.THERE, [self._config.schema, f"{name}_text"])
            if not there:
                await self._begin()
                await self._texts(name)
                await self._commit_if_whole()

    async def _texts(self, name: str, ids: list[str] | None = None) -> None:
        """Brings the rows of text of these documents (None: all) in line; of a collection that is being made when it serves."""
        field = self._config.texts.get(name)
        if field is None or name in self._making:
            return
        if ids is None:
            await self._run(statements.CREATE_TEXT, name)
        for statement in (statements.PUT_TEXT, statements.DELETE_TEXT):
            await self._run(statement, name, params={"ids": ids}, field=sql.Literal(field))

    async def _save(self, checkpoint: Checkpoint) -> None:
        """Only if the previous one is still there: another writer's, and this transaction is nothing."""
        known = self._checkpoint
        values = [*_values(checkpoint), token_at(self._source, checkpoint)]
        if known is None:
            changed = await self._run(statements.FIRST, params=[*values, *self._owner])
        else:
            changed = await self._run(statements.NEXT, params=[*values, *self._owner, *_values(known)])
        if changed != 1:
            raise Fenced(
                f"{self._config.schema}: somebody else wrote this pipeline's checkpoint",
                hint="two pipelines of the same name write to one schema; stop one, or give it another name",
            )
        self._checkpoint = checkpoint

    async def _begin(self) -> None:
        if not self._in_transaction:
            await self._run("begin")
            self._in_transaction = True

    async def _commit_if_whole(self) -> None:
        if self._in_transaction and self._whole:
            await self._run("commit")
            self._in_transaction = False

    async def _run(
        self,
        statement: str,
        name: str | None = None,
        *,
        params: Sequence[Any] | Mapping[str, Any] = (),
        **parts: sql.Composable,
    ) -> int:
        with _translated("writing documents"):
            cursor = await self._opened.execute(self._composed(statement, name, **parts), params or None)
            return cursor.rowcount

    async def _query(
        self, statement: str, params: Sequence[Any], name: str | None = None
    ) -> list[tuple[Any, ...]]:
        with _translated("reading documents"):
            cursor = await self._opened.execute(self._composed(statement, name), list(params))
            return await cursor.fetchall()

    def _composed(self, statement: str, name: str | None = None, **parts: sql.Composable) -> sql.Composed:
        known: dict[str, sql.Composable] = {"schema": sql.Identifier(self._config.schema), **parts}
        if name is not None:
            known["table"] = self._table(name)
            known["text"] = sql.Identifier(self._config.schema, f"{name}_text")
        return sql.SQL(statement).format(**known)

    def _table(self, name: str) -> sql.Identifier:
        return sql.Identifier(self._config.schema, f"_new_{name}" if name in self._making else name)

    async def _connect(self) -> Connection:
        return await connect(
            self._config.dsn, application=application_name(*self._owner), unavailable=SinkUnavailable
        )

    @property
    def _opened(self) -> Connection:
        if self._connection is None:
            raise SinkUnavailable("the document store is not open")
        return self._connection


class _Journal:
    """The pipeline's journal, beside the documents."""

    def __init__(self, store: DocumentsStore) -> None:
        self._store = store

    async def load(self) -> dict[str, Any]:
        return await self._store.load_journal()

    async def save(self, key: str, value: Any) -> None:
        await self._store.save_journal(key, value)


def _unfit(put: Put) -> Unfit | None:
    if max(len(key.encode()) for key in (put.id, *put.members, *(put.ends or ()))) > _LONGEST_KEY:
        return "KeyTooLong", f"an id of more than {_LONGEST_KEY} bytes"
    return None


def _record(put: Put) -> dict[str, Any]:
    source, target = put.ends or (None, None)
    return {"id": put.id, "body": put.body, "members": list(put.members), "source": source, "target": target}


def _values(checkpoint: Checkpoint) -> list[Any]:
    position = checkpoint.position
    return [checkpoint.epoch, str(position.commit_lsn), position.ordinal, str(checkpoint.through)]


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise SinkUnavailable(
            f"{doing}: a table of the sink's own is gone",
            hint="who dropped it? It is made anew from the source",
        ) from error
    except psycopg.Error as error:
        raise explain(error, doing, SinkUnavailable) from None
