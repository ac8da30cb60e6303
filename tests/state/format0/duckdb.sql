create schema _walcast;
create table _walcast.checkpoints (
    pipeline varchar, sink varchar, epoch bigint, commit_lsn ubigint, ordinal ubigint, through ubigint);
create table _walcast.journal (pipeline varchar, sink varchar, key varchar, value varchar);
create table _walcast.tables (
    pipeline varchar, sink varchar, source_schema varchar, source_table varchar, oid ubigint,
    target_schema varchar, target_table varchar, columns varchar);
insert into _walcast.checkpoints values ('walcast', 'lake', 1, $number, 1, $number);
insert into _walcast.journal values
    ('walcast', 'lake', 'table ["shop", "fruit"]', '{"state": "done", "start": "0/1", "position": null, "reason": "", "hint": null}'),
    ('walcast', 'lake', 'history', '{"system_id": "$system_id", "timeline": 1, "epoch": 1, "since": 1, "floor": "0/1"}');
insert into _walcast.tables values
    ('walcast', 'lake', 'shop', 'fruit', $oid, 'shop', 'fruit',
     '[{"name": "id", "target": "INTEGER", "source": {"oid": 23, "name": "int4", "typmod": -1}, "attnum": 1}, {"name": "name", "target": "VARCHAR", "source": {"oid": 25, "name": "text", "typmod": -1}, "attnum": 2}]');
create schema shop;
create table shop.fruit (id INTEGER, name VARCHAR);
insert into shop.fruit values (1, 'one'), (2, 'two');
