-- A database of everything that a dump must carry: what the proof of a restore is tried on.
create role exotic_owner;
create role "exotic ""reader""";
create schema "we.ird";
create schema "two
lines";
create extension hstore;
create extension citext;
create extension pg_trgm;
create extension postgres_fdw;
create extension pg_stat_statements;
comment on schema "we.ird" is 'dots, quotes '' and
line ends';
create domain positive as integer constraint positive_check check (value > 0) default 7;
create domain short_text as text collate "C" not null;
create type mood as enum ('sad', 'o''k', 'häppy', 'a,b "c"');
create type pair as (a integer, b text);
create type span as range (subtype = numeric);
create function public.twice(integer) returns integer language sql immutable as 'select $1 * 2';
create function public.twice(text) returns text language sql immutable strict as $$ select $1 || E'\n' || $1 $$;
create procedure "we.ird".do_nothing(inout x integer) language plpgsql as $p$ begin x := x + 1; end $p$;
create aggregate total(integer) (sfunc = int4pl, stype = integer, initcond = '0');
create function same_pair(pair, pair) returns boolean language sql as 'select $1.a = $2.a';
create operator public.=== (leftarg = pair, rightarg = pair, function = same_pair);
create operator public.=== (leftarg = integer, rightarg = integer, function = int4eq);
create cast (mood as integer) with inout;
create table public.plain (
    id integer generated always as identity primary key,
    doubled integer generated always as (twice(3)) stored,
    body text default 'x''y' not null,
    m mood, d positive, p pair, h hstore, c citext, j jsonb, t timestamptz, f double precision, n numeric, y bytea,
    a integer[], s span, u uuid, unique (body, id), check (id > 0), exclude using gist (s with &&)
);
insert into plain (body, m, p, h, c, j, t, f, n, y, a, s, u)
select repeat(chr(1 + i % 120), i % 50) || E'\t\\.\n\r' || i, 'häppy'::mood, row(i, 'q"u,o''te')::pair, 'a=>1, b=>NULL', 'CaSe', '{"a": [1, null]}',
       '2020-01-01'::timestamptz + i * interval '1 hour', i / 7.0, i / 3.0, decode(md5(i::text), 'hex'), array[i, null, 3],
       span(i, i + 1), md5(i::text)::uuid
from generate_series(1, 3000) i;
insert into plain (body, f) values ('', 'nan'), (E'\\.', '-infinity'), ('\N', '1e-300');
create index "index of ""plain""" on plain (lower(body), id desc nulls last) where id % 2 = 0;
create index trigrams on plain using gin (body gin_trgm_ops);
create statistics stats_of on id, body from plain;
create table empty_one (x integer);
create table no_columns ();
insert into no_columns select from generate_series(1, 4);
create unlogged table fast (x integer);
insert into fast values (1), (1), (1);
create table parent (a integer, b text);
create table child (c integer default 5) inherits (parent);
alter table parent add column late text default 'l';
insert into parent values (1, 'one', 'x');
insert into child (a, b, c, late) select i, 'tab' || chr(9) || i, i * 2, 'late ' || i from generate_series(1, 100) i;
create table parts (k integer not null, v text, primary key (k)) partition by range (k);
create table parts_low partition of parts for values from (0) to (100);
create table parts_high partition of parts for values from (100) to (1000) partition by list (k);
create table parts_high_default partition of parts_high default;
create table attached (v text, k integer not null);
alter table parts attach partition attached for values from (1000) to (2000);
insert into parts select i, 'p' || i from generate_series(1, 1500) i;
create table "we.ird"."Ta ble ""quoted"" .dot
line	tab é 漢" ("col ""umn" text, "drop" integer references parts (k) deferrable initially deferred);
insert into "we.ird"."Ta ble ""quoted"" .dot
line	tab é 漢" values (E'tab\there\r\n', 1), ('\.', null), ('', 2), ('same', 3), ('same', 3);
create table "two
lines"."x" (y integer);
insert into "two
lines"."x" values (1);
create table wide as select * from (select string_agg(repeat('long ', 40000), i::text) from generate_series(1, 3) i) w(t);
create view seen with (security_barrier) as select id, body from plain where id < 10 with local check option;
create recursive view steps (n) as values (1) union all select n + 1 from steps where n < 5;
create materialized view gathered as select count(*) as many from plain;
create unique index on gathered (many);
create materialized view not_yet as select 1 as x with no data;
create rule redirect as on insert to seen do instead nothing;
create function touch() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger touched before update of body on plain for each row when (old.body is distinct from new.body) execute function touch();
alter table plain disable trigger touched;
create function watch_ddl() returns event_trigger language plpgsql as $$ begin perform 1; end $$;
create event trigger watcher on ddl_command_end when tag in ('CREATE SEQUENCE') execute function watch_ddl();
alter table plain enable row level security;
create policy mine on plain for select to "exotic ""reader""" using (id < 100);
create publication some_tables for table plain (id, body) where (id > 5), table parent with (publish = 'insert');
create publication everything for all tables with (publish = 'insert');
create subscription far connection 'host=/nonexistent dbname=x' publication p with (connect = false, slot_name = none);
create server elsewhere foreign data wrapper postgres_fdw options (host '/nonexistent', dbname 'x');
create user mapping for exotic_owner server elsewhere options (user 'remote', password 'not secret');
create foreign table distant (x integer options (column_name 'y')) server elsewhere;
create sequence counter start 100 increment -3 minvalue -1000 maxvalue 200 cycle cache 5;
select nextval('counter');
create sequence untouched as smallint;
select setval('untouched', 77, false);
create text search configuration words (copy = simple);
create collation "my collation" (locale = 'C');
select lo_from_bytea(200001, 'large object one'), lo_from_bytea(200002, ''), lo_from_bytea(200003, decode(repeat('00ff', 100000), 'hex'));
comment on large object 200001 is 'it has a comment';
alter large object 200002 owner to exotic_owner;
grant select on large object 200003 to "exotic ""reader""";
alter table parent owner to exotic_owner;
grant select (a), update on parent to "exotic ""reader""" with grant option;
revoke execute on function twice(integer) from public;
grant usage on schema "we.ird" to public;
grant select (prosrc) on pg_catalog.pg_proc to exotic_owner;
alter default privileges in schema "we.ird" grant select on tables to exotic_owner;
alter default privileges for role exotic_owner grant execute on functions to "exotic ""reader""";
comment on column plain.body is 'a column';
comment on index trigrams is 'an index';
alter table plain alter column body set statistics 500, alter column y set storage external;
alter table plain set (autovacuum_enabled = off), cluster on plain_pkey, replica identity full;
