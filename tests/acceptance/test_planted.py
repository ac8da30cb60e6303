"""What somebody else put into the search path is never run by us: functions, operators, types and tables of our names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import LiteralString, cast

import psycopg
import pytest
from tests.acceptance.person import Person

from walcast.testing import PostgresServer

PLANT = r"""
do $$
declare
    f record;
begin
    for f in
        select p.proname, pg_get_function_identity_arguments(p.oid) as arguments, p.prorettype::regtype as result, p.proretset
          from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and p.provariadic = 0
    loop
        begin
            execute format('create function public.%I(%s) returns %s %s language plpgsql as %L', f.proname, f.arguments,
                case when f.proretset then 'setof' else '' end, f.result,
                format('begin raise exception %L; end', 'planted function ' || f.proname));
        exception when others then null;
        end;
    end loop;
    for f in
        select o.oid, o.oprname, o.oprleft::regtype as l, o.oprright::regtype as r, o.oprresult::regtype as result
          from pg_operator o where o.oprkind = 'b' and o.oprnamespace = 'pg_catalog'::regnamespace
    loop
        begin
            execute format('create function public.planted_%s(%s, %s) returns %s language plpgsql as %L',
                f.oid, f.l, f.r, f.result, 'begin raise exception ''planted operator''; end');
            execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.planted_%s)',
                f.oprname, f.l, f.r, f.oid);
        exception when others then null;
        end;
    end loop;
    for f in select relname from pg_class where relnamespace = 'pg_catalog'::regnamespace and relkind in ('r', 'v') loop
        execute format('create table public.%I (planted int)', f.relname);
    end loop;
    for f in select typname from pg_type where typnamespace = 'pg_catalog'::regnamespace and typtype = 'b'
                and typname !~ '^_' and typname not in ('int4') and typelem = 0
    loop
        begin
            execute format('create domain public.%I as int4 check (value > 0)', f.typname);
        exception when others then null;
        end;
    end loop;
end $$
"""


def test_nothing_that_is_planted_in_the_search_path_is_run(
    person: Person, postgres_factory: Callable[..., PostgresServer]
) -> None:
    server = postgres_factory(18)
    for name in ("shop", "copy"):
        server.execute(cast("LiteralString", f"create database {name}"))
        server.execute(PLANT, database=name)
        ((functions, operators),) = server.execute(
            "select (select count(*) from pg_proc where pronamespace = 'public'::regnamespace),"
            " (select count(*) from pg_operator where oprnamespace = 'public'::regnamespace)",
            database=name,
        )
        assert functions > 2000
        assert operators > 600
        server.execute(cast("LiteralString", f"alter database {name} set search_path = public, pg_catalog"))
    server.execute("alter role postgres set search_path = public, pg_catalog")
    for trap in (
        "select upper('a'::pg_catalog.text)",
        "select 1 + 1",
        "select 1 from pg_class where relname is null",
    ):
        with pytest.raises(psycopg.Error, match=r"planted|does not exist"):
            server.execute(cast("LiteralString", trap), database="shop")
    run = 'set search_path = "$user"; '
    server.execute(
        cast(
            "LiteralString",
            f"{run}create schema app; create type app.mood as enum ('good', 'bad');"
            "create table app.fruit (id pg_catalog.int8 primary key, name pg_catalog.text, mood app.mood, price pg_catalog.numeric(8, 2));"
            "create table app.bare (a pg_catalog.text, b pg_catalog.json); alter table app.bare replica identity full;"
            "insert into app.fruit select n, 'fruit ' || n, 'good', n / 2 from generate_series(1, 500) n;"
            "insert into app.bare select n::pg_catalog.text, '{}' from generate_series(1, 50) n",
        ),
        database="shop",
    )
    person.write(
        f"[source]\ndsn = {json.dumps(server.dsn('shop'))}\ninclude = ['app.*']\nddl_capture = true\n"
        f"[sinks.pg]\ntype = 'postgres'\ndsn = {json.dumps(server.dsn('copy'))}\n"
        "[sinks.lake]\ntype = 'duckdb'\npath = 'copy.duckdb'\n"
    )
    person.run("ddl", "install")
    person.run("config", "check")
    person.run("run", "--until", "now")
    server.execute(
        cast(
            "LiteralString",
            f"{run}update app.fruit set price = 7, mood = 'bad' where id < 300; delete from app.fruit where id > 400;"
            "update app.fruit set id = id + 1000 where id < 10; update app.bare set b = '[1]' where a = '7';"
            "delete from app.bare where a = '8'; alter table app.fruit add column more pg_catalog.text default 'x';"
            "insert into app.fruit values (2000, 'late', 'good', 1, 'y')",
        ),
        database="shop",
    )
    person.run("run", "--until", "now")
    report = person.run("doctor", "--json", code=6).json
    assert "check_failed" not in {finding["name"] for finding in report["findings"]}
    assert report["skipped"] == []
    for command in (
        ("status",),
        ("token",),
        ("slot", "list"),
        ("publication", "list"),
        ("resync", "app.fruit"),
    ):
        person.run(*command)
    person.run("run", "--until", "now")
    assert "equal" in person.run("verify").out
    for table in ("fruit", "bare"):
        rows = f'{run}select t::pg_catalog.text from app.{table} t order by t::pg_catalog.text collate "C"'
        copied = server.execute(cast("LiteralString", rows), database="copy")
        assert copied == server.execute(cast("LiteralString", rows), database="shop")
        assert len(copied) > 40


def test_a_schema_that_somebody_else_made_is_not_used(
    person: Person, postgres_factory: Callable[..., PostgresServer]
) -> None:
    server = postgres_factory(18)
    server.execute("create database shop")
    server.execute("create database copy")
    server.execute("create role mallory login")
    server.execute("create table t (id int primary key)", database="shop")
    for database in ("shop", "copy"):
        server.execute(
            "create schema walcast authorization mallory; create table walcast.relation (x int); alter table walcast.relation"
            " owner to mallory; create function walcast.emit_ddl() returns event_trigger language plpgsql as"
            " $$ begin raise exception 'planted'; end $$; alter function walcast.emit_ddl() owner to mallory",
            database=database,
        )
    person.write(
        f"[source]\ndsn = {json.dumps(server.dsn('shop'))}\ninclude = ['public.*']\n"
        f"[sinks.pg]\ntype = 'postgres'\ndsn = {json.dumps(server.dsn('copy'))}\n"
    )
    answer = person.run("ddl", "install", code=3)
    assert "function walcast.emit_ddl belongs to mallory" in answer.error
    assert server.execute("select 1 from pg_event_trigger", database="shop") == [], "nothing was done"
    assert "schema walcast belongs to mallory" in person.run("run", "--until", "now", code=3).err
    findings = person.run("doctor", "pg", "--json", code=3).json["findings"]
    assert any("belongs to mallory" in finding["message"] for finding in findings)
    server.execute("reassign owned by mallory to postgres; drop schema walcast cascade", database="copy")
    person.run("run", "--until", "now")
