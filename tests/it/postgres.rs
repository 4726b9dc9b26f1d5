//! PostgreSQL as a source and as a target, against a real server, and against programs that fail in every way.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::pg::{Cluster, Network};
use holdfast::source::command::CommandStream;
use holdfast::source::postgres::client::{ClientSearch, ClientTools, find};
use holdfast::source::postgres::connect::{Connection, LibpqEnvironment};
use holdfast::source::postgres::dump::{DumpOptions, Globals, client_program, dump, globals};
use holdfast::source::postgres::server::{GlobalsAccess, inspect};
use holdfast::source::process::SystemProcesses;
use holdfast::source::{SourceError, SourceStream, StreamProof};
use holdfast::target::database::TargetError;
use holdfast::target::postgres::{DumpFormat, PostgresRestore, RestoreOptions, SqlConversion};

const SCHEMA: &str = r#"
    create schema "we.ird";
    create table public.plain (id int primary key, body text);
    insert into plain select i, repeat(E'line\n\\.\n', 3) || i from generate_series(1, 5000) i;
    create table "we.ird"."Ta ble" (x text, y bytea);
    insert into "we.ird"."Ta ble" values (E'tab\there\r\n', '\x00ff'), ('\.', null), ('', '');
    create table empty (); create table no_columns (); insert into no_columns default values;
    create table parent (i int); create table child () inherits (parent);
    insert into parent values (1); insert into child values (2), (3);
    create table parts (i int, j text) partition by range (i);
    create table parts_1 partition of parts for values from (0) to (10);
    insert into parts values (1, 'a'), (2, 'b');
    create materialized view view_of as select count(*) from plain;
    create sequence counter; select nextval('counter');
    select lo_from_bytea(0, 'large object one'); select lo_from_bytea(0, 'two');
"#;

fn connect(text: &str) -> Connection {
    Connection::resolve(text, &LibpqEnvironment::default()).unwrap()
}

fn tools(cluster: &Cluster) -> ClientTools {
    let search = ClientSearch { bin_dir: Some(cluster.bin().to_path_buf()), ..ClientSearch::default() };
    find(&SystemProcesses::default(), &search, None).unwrap()
}

fn drain(mut stream: Box<dyn SourceStream>) -> Result<(Vec<u8>, StreamProof), SourceError> {
    let (mut out, mut buffer) = (Vec::new(), vec![0u8; 10_000]);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok((out, stream.finish()?)),
            n => out.extend_from_slice(&buffer[..n]),
        }
    }
}

fn archive(cluster: &Cluster, database: &str) -> (Vec<u8>, StreamProof) {
    let connection = connect(&cluster.url(database));
    let stream = dump(&SystemProcesses::default(), &tools(cluster), &connection, &DumpOptions::default()).unwrap();
    drain(Box::new(stream)).unwrap()
}

fn rows(proof: &StreamProof) -> Vec<(&str, u64)> {
    proof.tables.iter().map(|table| (table.table.as_str(), table.rows)).collect()
}

const ROWS: [(&str, u64); 7] = [
    ("public.child", 2),
    ("public.empty", 0),
    ("public.no_columns", 1),
    ("public.parent", 1),
    ("public.parts_1", 2),
    ("public.plain", 5000),
    ("we.ird.Ta ble", 3),
];

fn begin(cluster: &Cluster, database: &str, format: DumpFormat) -> Result<PostgresRestore, TargetError> {
    let connection = connect(&cluster.url(database));
    let options = RestoreOptions::default();
    PostgresRestore::create(&SystemProcesses::default(), &tools(cluster), &connection, format, options)
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_archive_is_stable_counted_and_restored_into_a_new_database() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql("app", SCHEMA);
    let (first, proof) = archive(&cluster, "app");
    assert_eq!(rows(&proof), ROWS);
    assert_eq!(proof.warnings, []);

    std::thread::sleep(Duration::from_millis(1100));
    let (second, _) = archive(&cluster, "app");
    let differing: Vec<u64> =
        (0u64..).zip(first.iter().zip(&second)).filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect();
    assert!(!differing.is_empty() && first.len() == second.len(), "the creation time must differ");
    let volatile = |at: &u64| proof.volatile.iter().any(|s| (s.offset..s.offset + s.length).contains(at));
    assert!(differing.iter().all(volatile), "{differing:?} are not all in {:?}", proof.volatile);

    let mut restore = begin(&cluster, "app_copy", DumpFormat::Archive).unwrap();
    for part in first.chunks(70_000) {
        restore.write(part).unwrap();
    }
    let report = restore.finish(&proof.tables).unwrap();
    assert_eq!((report.tables_compared, report.differences), (7, vec![]));
    assert_eq!(cluster.plain_dump("app"), cluster.plain_dump("app_copy"));

    assert!(matches!(begin(&cluster, "app_copy", DumpFormat::Archive), Err(TargetError::Exists { .. })));
    assert_eq!(cluster.plain_dump("app"), cluster.plain_dump("app_copy"), "an existing database was touched");

    cluster.sql("app_copy", "delete from plain where id = 7; drop table empty");
    let mut restore = begin(&cluster, "third", DumpFormat::Archive).unwrap();
    let (changed, _) = archive(&cluster, "app_copy");
    restore.write(&changed).unwrap();
    let differences = restore.finish(&proof.tables).unwrap().differences;
    let listed: Vec<_> = differences.iter().map(|d| (d.table.as_str(), d.recorded, d.restored)).collect();
    assert_eq!(listed, [("public.empty", 0, None), ("public.plain", 5000, Some(4999))]);
}

#[test]
fn an_archive_becomes_sql_and_sql_is_restored() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql("app", SCHEMA);
    let (bytes, proof) = archive(&cluster, "app");
    let sink = Sink::default();
    let mut conversion =
        SqlConversion::start(&SystemProcesses::default(), &tools(&cluster), Box::new(sink.clone())).unwrap();
    for part in bytes.chunks(50_000) {
        conversion.write(part).unwrap();
    }
    conversion.finish().unwrap();
    let sql = sink.0.lock().unwrap().clone();

    // The same script piped in by a user is counted and judged as a plain dump.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.sql");
    std::fs::write(&file, &sql).unwrap();
    let spec = holdfast::source::process::ProcessSpec::new("cat", [&file]);
    let stream = CommandStream::start(&SystemProcesses::default(), &spec, "script", None).unwrap();
    let (copied, plain) = drain(Box::new(stream)).unwrap();
    assert!(copied == sql);
    assert_eq!(rows(&plain), ROWS);
    let keys: Vec<&[u8]> = plain
        .volatile
        .iter()
        .map(|s| &sql[usize::try_from(s.offset).unwrap()..usize::try_from(s.offset + s.length).unwrap()])
        .collect();
    assert!(keys.len() == 2 && keys[0] == keys[1] && keys[0].len() > 20, "{keys:?}");

    let mut restore = begin(&cluster, "from_sql", DumpFormat::Script).unwrap();
    restore.write(&sql).unwrap();
    assert_eq!(restore.finish(&proof.tables).unwrap().differences, []);
    assert_eq!(cluster.plain_dump("app"), cluster.plain_dump("from_sql"));

    let mut broken =
        SqlConversion::start(&SystemProcesses::default(), &tools(&cluster), Box::new(Sink::default())).unwrap();
    let fed = broken.write(&bytes[..bytes.len() / 2]);
    assert!(fed.is_err() || broken.finish().is_err(), "half an archive was converted");
}

#[test]
fn a_failed_restore_leaves_no_database() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql("app", SCHEMA);
    let before = cluster.databases();
    let (bytes, proof) = archive(&cluster, "app");
    let sql = cluster.plain_dump("app").replace("CREATE TABLE public.plain", "CREATE TABEL public.plain");
    let half = &bytes[..bytes.len() / 2];
    for (format, dump) in
        [(DumpFormat::Archive, half), (DumpFormat::Archive, b"nonsense"), (DumpFormat::Script, sql.as_bytes())]
    {
        let mut restore = begin(&cluster, "copy", format).unwrap();
        let result = restore.write(dump).and_then(|()| restore.finish(&proof.tables).map(|_| ()));
        let error = result.unwrap_err();
        let TargetError::Failed { stderr, removed, .. } = &error else { panic!("{error}") };
        assert!(*removed && !stderr.is_empty() && error.to_string().contains("removed again"), "{error}: {stderr}");
        assert_eq!(cluster.databases(), before);
    }
    let mut restore = begin(&cluster, "copy", DumpFormat::Archive).unwrap();
    restore.write(&bytes[..bytes.len() - 10_000]).unwrap();
    drop(restore);
    assert_eq!(cluster.databases(), before, "an abandoned restore left its database");
}

/// A directory with a `pg_dump` that tells a version and then does as the script says.
fn fake(dir: &Path, version: &str, script: &str) -> ClientTools {
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && {{ echo 'pg_dump (PostgreSQL) {version}'; exit 0; }}\n{script}\n"
    );
    let path = dir.join("pg_dump");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let search = ClientSearch { bin_dir: Some(dir.to_path_buf()), ..ClientSearch::default() };
    find(&SystemProcesses::default(), &search, None).unwrap()
}

#[test]
fn a_pg_dump_that_fails_in_any_way_is_never_a_success() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql("app", SCHEMA);
    let (bytes, _) = archive(&cluster, "app");
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real.dump");
    std::fs::write(&real, &bytes).unwrap();
    let real = real.display();
    let mut cases: Vec<(String, &str)> = Vec::new();
    for k in [0, 1, 20, 4096, bytes.len()] {
        cases.push((format!("head -c {k} {real}; echo boom >&2; exit 1"), "pg_dump exited with status 1"));
    }
    for k in [1, 20, 4096, bytes.len() - 1] {
        cases.push((format!("head -c {k} {real}"), "postgres://"));
    }
    cases.push((format!("cat {real}; kill -9 $$"), "pg_dump was killed by signal 9"));
    cases.push(("exit 0".into(), "postgres://"));
    cases.push(("echo warning >&2; exit 0".into(), "postgres://"));
    cases.push((format!("cat {real} {real}"), "postgres://"));
    cases.push(("echo '--'; echo '-- PostgreSQL database dump'; echo '--'".into(), "postgres://"));
    cases.push((format!("head -c 4096 {real}; sleep 600"), "pg_dump gave no sign of life"));
    cases.push((format!("cat {real}; exec >&-; sleep 600"), "pg_dump gave no sign of life"));
    cases.push((
        "echo 'pg_dump: error: aborting because of server version mismatch' >&2; exit 1".into(),
        "pg_dump is older",
    ));
    let options = DumpOptions { stall_timeout: Some(Duration::from_millis(400)), ..DumpOptions::default() };
    for (script, wanted) in &cases {
        let tools = fake(dir.path(), "15.18", script);
        let stream = dump(&SystemProcesses::default(), &tools, &connect("host=/tmp user=u"), &options).unwrap();
        let error = drain(Box::new(stream)).err().unwrap_or_else(|| panic!("{script}: a success"));
        assert!(error.to_string().starts_with(wanted), "{script}: {error}");
    }
    let good = fake(dir.path(), "15.18", &format!("cat {real}"));
    let stream = dump(&SystemProcesses::default(), &good, &connect("host=/tmp user=u"), &options).unwrap();
    assert!(drain(Box::new(stream)).unwrap().0 == bytes, "the fake cannot succeed, so its failures prove nothing");
}

#[test]
fn a_dump_is_refused_when_tables_may_not_be_read_and_the_tables_are_named() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql("postgres", "create role limited login; create role reader login");
    cluster.sql("app", "create table seen (i int); create table secret (i int); grant select on seen to limited; create schema s; create table s.t (i int); grant usage on schema s to reader; grant select on seen, secret, s.t to reader");
    let limited = connect(&cluster.url_as("limited", "app"));
    let info = inspect(&limited).unwrap();
    assert_eq!(info.unreadable, ["public.secret", "s.t"]);
    assert!(
        !info.superuser && info.globals == GlobalsAccess::WithoutPasswords && info.database_bytes > Some(1_000_000)
    );
    let refused = info.require_readable(&limited).unwrap_err().to_string();
    assert!(refused.contains("public.secret, s.t") && refused.contains("limited"), "{refused}");

    let reader = connect(&cluster.url_as("reader", "app"));
    let info = inspect(&reader).unwrap();
    assert_eq!((info.unreadable_count, info.major()), (0, tools(&cluster).major));
    let (_, proof) =
        drain(Box::new(dump(&SystemProcesses::default(), &tools(&cluster), &reader, &DumpOptions::default()).unwrap()))
            .unwrap();
    assert_eq!(rows(&proof), [("public.secret", 0), ("public.seen", 0), ("s.t", 0)]);
    for (connection, access, codes) in [
        (reader.clone(), info.globals, vec!["globals.no_passwords"]),
        (connect(&cluster.url("app")), inspect(&connect(&cluster.url("app"))).unwrap().globals, vec![]),
    ] {
        let Globals::Stream(stream) =
            globals(&SystemProcesses::default(), &tools(&cluster), &connection, access, &DumpOptions::default())
        else {
            panic!("skipped")
        };
        let (bytes, proof) = drain(Box::new(stream)).unwrap();
        assert!(String::from_utf8(bytes).unwrap().contains("CREATE ROLE limited"));
        assert_eq!(proof.warnings.iter().map(|w| w.code.as_str()).collect::<Vec<_>>(), codes);
        assert_eq!(proof.volatile.len(), 2);
    }
    let skipped =
        globals(&SystemProcesses::default(), &tools(&cluster), &reader, GlobalsAccess::None, &DumpOptions::default());
    assert!(matches!(skipped, Globals::Skipped(warning) if warning.code == "globals.skipped" && !warning.incomplete));
    let missing = inspect(&connect(&cluster.url("nowhere"))).unwrap_err();
    assert!(missing.to_string().contains("nowhere"), "{missing}");
}

#[test]
fn a_locked_table_ends_a_dump_with_a_lock_timeout() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create table t (i int)");
    let mut session = cluster.session("postgres");
    let mut holder = session.transaction().unwrap();
    holder.batch_execute("lock table t in access exclusive mode").unwrap();
    let options = DumpOptions { lock_timeout: Some(Duration::from_millis(200)), ..DumpOptions::default() };
    let connection = connect(&cluster.url("postgres"));
    let stream = dump(&SystemProcesses::default(), &tools(&cluster), &connection, &options).unwrap();
    let error = drain(Box::new(stream)).unwrap_err();
    let SourceError::Failed { stderr, .. } = &error else { panic!("{error}") };
    assert!(stderr.contains("LOCK TABLE public.t"), "{stderr}");
}

#[test]
fn tls_modes_mean_what_they_mean_to_libpq() {
    let cluster = Cluster::with_network(Network::Leaf);
    cluster.sql("postgres", "create role tlsuser login superuser; create role pwuser login password 'open sesame'");
    let ca = cluster.path("ca.crt").display().to_string();
    let other = cluster.path("other.crt").display().to_string();
    for (mode, root, host, wanted) in [
        ("disable", None, "localhost", Err("pg_hba.conf rejects")),
        ("allow", None, "localhost", Ok(())),
        ("prefer", None, "localhost", Ok(())),
        ("require", None, "127.0.0.1", Ok(())),
        ("require", Some(&other), "localhost", Err("UnknownIssuer")),
        ("verify-ca", Some(&ca), "127.0.0.1", Ok(())),
        ("verify-ca", Some(&other), "localhost", Err("UnknownIssuer")),
        ("verify-full", Some(&ca), "localhost", Ok(())),
        ("verify-full", Some(&ca), "127.0.0.1", Err("not valid for name")),
        ("verify-full", None, "localhost", Err("UnknownIssuer")),
    ] {
        let root_pair = root.map(|path| format!("sslrootcert='{path}'")).unwrap_or_default();
        let address = if host == "localhost" { "hostaddr=127.0.0.1" } else { "" };
        let text = format!(
            "host={host} {address} port={} user=tlsuser dbname=postgres sslmode={mode} {root_pair}",
            cluster.port()
        );
        let connection = connect(&text);
        match (inspect(&connection), wanted) {
            (Ok(_), Ok(())) => {
                let stream = dump(&SystemProcesses::default(), &tools(&cluster), &connection, &DumpOptions::default());
                drain(Box::new(stream.unwrap())).unwrap_or_else(|error| panic!("{text}: pg_dump disagrees: {error}"));
            }
            (Err(error), Err(reason)) => assert!(error.to_string().contains(reason), "{text}: {error}"),
            (found, _) => panic!("{text}: {:?}", found.map_err(|error| error.to_string())),
        }
    }
    passwords_reach_the_server_and_no_argument(&cluster);
}

/// Part of the TLS test because SCRAM over TLS adds channel binding.
fn passwords_reach_the_server_and_no_argument(cluster: &Cluster) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    std::fs::write(&file, format!("127.0.0.1:{}:*:pwuser:open sesame\n", cluster.port())).unwrap();
    let mut environment = LibpqEnvironment { home: Some(home.path().to_path_buf()), ..LibpqEnvironment::default() };
    let text = format!("host=127.0.0.1 port={} user=pwuser dbname=postgres", cluster.port());
    for (mode, works) in [(0o600, true), (0o644, false)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let connection = Connection::resolve(&text, &environment).unwrap();
        let answer = inspect(&connection);
        assert_eq!(answer.is_ok(), works, "{mode:o}");
        if let Err(error) = answer {
            assert!(error.to_string().contains("others may read it"), "{error}");
        }
        let stream = dump(&SystemProcesses::default(), &tools(cluster), &connection, &DumpOptions::default()).unwrap();
        assert_eq!(drain(Box::new(stream)).is_ok(), works, "pg_dump, {mode:o}");
    }
    environment.home = None;
    for (password, works) in [("open sesame", true), ("wrong", false)] {
        let connection = Connection::resolve(&text, &environment).unwrap().with_password(password);
        assert_eq!(inspect(&connection).is_ok(), works);
        let stream = dump(&SystemProcesses::default(), &tools(cluster), &connection, &DumpOptions::default()).unwrap();
        assert_eq!(drain(Box::new(stream)).is_ok(), works);
        let spec = client_program(&tools(cluster), "pg_dump", vec![], &connection);
        assert!(!format!("{:?}{:?}", spec.program, spec.args).contains(password));
    }
}

#[test]
fn a_self_signed_authority_as_server_certificate_is_explained() {
    let cluster = Cluster::with_network(Network::SelfSignedAuthority);
    let certificate = cluster.path("server.crt").display().to_string();
    let text = |mode: &str| {
        let port = cluster.port();
        format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user=postgres sslmode={mode} sslrootcert='{certificate}'"
        )
    };
    let error = inspect(&connect(&text("verify-full"))).unwrap_err().to_string();
    assert!(error.contains("CA:TRUE") && error.contains("basicConstraints=CA:FALSE"), "{error}");
    let unverified = format!("host=127.0.0.1 port={} user=postgres sslmode=require", cluster.port());
    inspect(&connect(&unverified)).unwrap();
}

#[test]
fn a_server_without_tls_is_used_only_where_that_is_allowed() {
    let cluster = Cluster::with_network(Network::Plain);
    for (mode, works) in
        [("disable", true), ("prefer", true), ("allow", true), ("require", false), ("verify-full", false)]
    {
        let text = format!("host=127.0.0.1 port={} user=postgres sslmode={mode}", cluster.port());
        let answer = inspect(&connect(&text));
        assert_eq!(answer.is_ok(), works, "{mode}");
        if let Err(error) = answer {
            assert!(error.to_string().contains("does not support TLS"), "{error}");
        }
    }
}
