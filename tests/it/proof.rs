//! The proof of a restored PostgreSQL database: equal for everything that PostgreSQL can hold, and not for any change.

use crate::support::pg::Cluster;
use holdfast::domain::snapshot::{SourceKind, SourceRecord, TableRows};
use holdfast::domain::system::SeededRandom;
use holdfast::ops::cancel::Cancel;
use holdfast::ops::proof::{self, Expected, Leave, PostgresMeans, Proof};
use holdfast::source::postgres::client::{ClientSearch, ClientTools, find};
use holdfast::source::postgres::connect::{Connection, LibpqEnvironment};
use holdfast::source::process::SystemProcesses;
use std::process::Command;

/// Everything that a dump must carry.
pub(crate) const EXOTIC: &str = include_str!("support/exotic.sql");

const SUBSCRIPTION: &str = "create subscription far connection 'host=/nonexistent dbname=x' publication p \
                            with (connect = false, slot_name = none)";

fn tools(cluster: &Cluster) -> ClientTools {
    let search = ClientSearch { bin_dir: Some(cluster.bin().to_path_buf()), ..ClientSearch::default() };
    find(&SystemProcesses::default(), &search, None).unwrap()
}

fn dump(cluster: &Cluster, database: &str) -> Vec<u8> {
    let mut command = Command::new(cluster.bin().join("pg_dump"));
    let output = command.args(["--format=custom", "--compress=0", "-d"]).arg(cluster.url(database)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn restore(cluster: &Cluster, archive: &[u8], database: &str) {
    cluster.sql("postgres", &format!("create database {database} template template0"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), archive).unwrap();
    let mut command = Command::new(cluster.bin().join("pg_restore"));
    let output = command.arg("--exit-on-error").arg("-d").arg(cluster.url(database)).arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn record(tables: Vec<TableRows>) -> SourceRecord {
    SourceRecord {
        name: "app".to_owned(),
        kind: SourceKind::Postgres,
        location: String::new(),
        failure: None,
        streams: Vec::new(),
        reader_version: String::new(),
        server_version: None,
        tables,
        files: None,
        warnings: Vec::new(),
        live_bytes: None,
        duration_ms: 0,
    }
}

fn prove(cluster: &Cluster, archive: &[u8], database: &str, tables: Vec<TableRows>) -> Proof {
    let random = SeededRandom::new(1);
    let mut expected = Expected::new(&record(tables), &random, Leave::default());
    // In pieces that cut rows, names and numbers anywhere.
    let mut at = 0;
    for step in (1..).map(|n: usize| n * 7919 % 65_537 + 1) {
        let end = (at + step).min(archive.len());
        expected.feed(&archive[at..end]);
        at = end;
        if at == archive.len() {
            break;
        }
    }
    let connection = Connection::resolve(&cluster.url(database), &LibpqEnvironment::default()).unwrap();
    let processes = SystemProcesses::default();
    let means = PostgresMeans { processes: &processes, tools: &tools(cluster), connection: &connection };
    proof::postgres(expected, &means, &Cancel::new()).unwrap()
}

#[test]
fn everything_that_postgresql_can_hold_is_proved_and_every_change_is_named() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql("app", EXOTIC);
    let archive = dump(&cluster, "app");
    restore(&cluster, &archive, "again");
    let proof = prove(&cluster, &archive, "again", Vec::new());
    assert!(proof.equal && proof.difference_count == 0, "{:#?}", proof.differences);
    let rows = |table: &str| {
        let found = proof.tables.iter().find(|t| t.table == table).unwrap_or_else(|| panic!("{table}"));
        assert_eq!(found.rows_expected, found.rows_restored);
        found.rows_restored
    };
    assert_eq!((rows("plain"), rows("no_columns"), rows("empty_one")), (Some(3003), Some(4), Some(0)));
    assert_eq!((rows("child"), rows("attached"), rows("wide")), (Some(100), Some(501), Some(1)));

    // Two rounds, because a table that lost a row is not said to have changed ones.
    let rounds: [&[(&str, &str)]; 2] = [
        &[
            (
                "update plain set body = 'other' where id = 1500",
                "table public.plain has 3003 rows, as it must, but not all",
            ),
            ("insert into no_columns default values", "table public.no_columns has 5 rows instead of 4"),
            (
                "delete from fast where ctid = (select min(ctid) from fast); insert into fast values (2)",
                "table public.fast has 3 rows, as it must",
            ),
            ("update child set c = 4 where a = 7", "table public.child has 100 rows, as it must, but not all"),
            (
                "update wide set t = overlay(t placing 'L' from 300000 for 1)",
                "table public.wide has 1 rows, as it must",
            ),
            ("update parts set v = 'P1200' where k = 1200", "table public.attached has 501 rows, as it must"),
            ("select nextval('counter')", "sequence public.counter does not have the saved value"),
            ("drop index trigrams", "index public.trigrams is missing"),
            ("create index extra on plain (f)", "index public.extra is not in the snapshot"),
            ("alter table plain alter body set default 'z'", "table public.plain is not defined as it was saved"),
            ("alter table child alter c set default 6", "child"),
            ("select lo_put(200003, 150000, 'x')", "large object 200003 does not have the saved contents"),
            ("select lo_unlink(200002)", "large object 200002 is missing"),
            ("alter table parent owner to postgres", "table public.parent is not defined"),
            ("comment on column plain.body is 'b column'", "comment public.COLUMN plain.body is not defined"),
            ("drop policy mine on plain", "policy public.plain mine is missing"),
            ("alter table plain enable trigger touched", "trigger public.plain touched is not defined"),
            ("drop event trigger watcher", "event trigger watcher is missing"),
            (
                "create or replace function twice(integer) returns integer language sql immutable as 'select $1 * 3'",
                "function public.twice(integer) is not defined",
            ),
            ("drop operator public.=== (integer, integer)", "operator public.=== is there 1 times instead of 2"),
            ("drop materialized view not_yet", "materialized view public.not_yet is missing"),
            ("drop table empty_one", "table public.empty_one is missing"),
        ],
        &[
            ("delete from plain where id = 17", "table public.plain has 3002 rows instead of 3003"),
            (
                "update child set c = case a when 1 then 4 else 2 end where a in (1, 2)",
                "table public.child has 100 rows",
            ),
            ("revoke update on parent from \"exotic \"\"reader\"\"\" cascade", "acl public.TABLE parent is missing"),
        ],
    ];
    for changes in rounds {
        cluster.sql("postgres", "create database changed template again");
        // The one object of a database that a template does not hand down.
        cluster.sql("changed", SUBSCRIPTION);
        changes.iter().for_each(|(change, _)| cluster.sql("changed", change));
        let proof = prove(&cluster, &archive, "changed", Vec::new());
        let named = |words: &str| proof.differences.iter().any(|difference| difference.contains(words));
        let unseen: Vec<_> = changes.iter().filter(|(_, words)| !named(words)).collect();
        assert!(!proof.equal && unseen.is_empty(), "{unseen:#?}: {:#?}", proof.differences);
        // One change may show in two places, as a table that goes with its rows, and in no third.
        assert!(proof.differences.len() <= changes.len() + 5, "{:#?}", proof.differences);
        cluster.sql("changed", "drop subscription far");
        cluster.sql("postgres", "drop database changed with (force)");
    }
    let recorded = vec![TableRows { table: "public.plain".into(), rows: 3004 }];
    let proof = prove(&cluster, &archive, "again", recorded);
    assert_eq!(proof.differences, ["table public.plain: the snapshot records 3004 rows, its dump has 3003"]);
}

#[test]
fn what_is_no_whole_archive_proves_nothing() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql("app", "create table t as select generate_series(1, 100) as i");
    let archive = dump(&cluster, "app");
    let connection = Connection::resolve(&cluster.url("app"), &LibpqEnvironment::default()).unwrap();
    let processes = SystemProcesses::default();
    let tools = tools(&cluster);
    let means = PostgresMeans { processes: &processes, tools: &tools, connection: &connection };
    for bytes in [&archive[..archive.len() - 1], &archive[..100], &b""[..], &b"nothing of the kind"[..]] {
        let mut expected = Expected::new(&record(Vec::new()), &SeededRandom::new(2), Leave::default());
        expected.feed(bytes);
        let error = proof::postgres(expected, &means, &Cancel::new()).unwrap_err();
        assert!(matches!(error, proof::Error::Dump { .. }), "{error}");
    }
}
