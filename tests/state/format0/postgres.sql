create schema walcast;
create table walcast.checkpoint (
    pipeline text, sink text, epoch bigint not null, commit_lsn pg_lsn not null, ordinal bigint not null,
    through pg_lsn not null, written_at timestamptz not null default now(), primary key (pipeline, sink)
) with (fillfactor = 20);
create table walcast.journal (
    pipeline text, sink text, key text, value json not null, primary key (pipeline, sink, key)
);
create table walcast.relation (
    pipeline text, sink text, oid bigint, table_schema text not null, table_name text not null,
    incomplete text not null, columns json not null, primary key (pipeline, sink, oid)
);
comment on schema walcast is 'what Walcast needs to go on where it stopped';
insert into walcast.checkpoint values ('walcast', 'pg', 1, '$lsn', 1, '$lsn');
insert into walcast.journal values
    ('walcast', 'pg', 'table ["shop", "fruit"]', '{"state": "done", "start": "0/1", "position": null, "reason": "", "hint": null}'),
    ('walcast', 'pg', 'history', '{"system_id": "$system_id", "timeline": 1, "epoch": 1, "since": 1, "floor": "0/1"}');
insert into walcast.relation values
    ('walcast', 'pg', $oid, 'shop', 'fruit', '', '[[1, "id", 23, -1], [2, "name", 25, -1]]');
create schema shop;
create table shop.fruit (id integer, name text, primary key (id));
insert into shop.fruit values (1, 'one'), (2, 'two');
