//! What a restore or a drill needs and does not find is said before the first step, and nothing is touched.

use crate::support::pg::Cluster;
use crate::support::program::{Place, can_mount};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

/// A database with a table, saved and then changed.
fn saved(cluster: &Cluster, place: &Place, more: &str) {
    cluster.sql("postgres", "create database app");
    cluster.sql("app", &format!("create table t (v text); insert into t values ('old'); {more}"));
    place.write(
        "holdfast.toml",
        format!("[[source]]\nname = 'db'\nkind = 'postgres'\nurl = \"{}\"\n", cluster.url("app")),
    );
    place.run(["backup"]).good();
    cluster.sql("app", "update t set v = 'new'");
}

fn value(cluster: &Cluster) -> String {
    cluster.session("app").query_one("select max(v) from t", &[]).unwrap().get(0)
}

/// Both the test and the restore say it, and end with its code.
fn refused(place: &Place, cluster: &Cluster, code: i32, words: &str) {
    let ran = place.run(["restore", "latest", "--check"]);
    assert!(ran.code == code && ran.stdout.contains("FAIL") && ran.stdout.contains(words), "{ran:?}");
    place.run(["restore", "latest", "--yes"]).failed(code, words);
    assert_eq!(value(cluster), "new");
    assert_eq!(cluster.databases(), ["app", "postgres"]);
    assert_eq!(place.run(["status"]).good().stdout, "");
}

#[test]
fn an_extension_that_the_server_lacks_is_named() {
    let (place, cluster) = (Place::with_repository(), Cluster::start());
    // An extension by a name that no server knows, as one is that was installed on another machine.
    let renamed = "create extension hstore; update pg_extension set extname = 'imaginary' where extname = 'hstore'";
    saved(&cluster, &place, renamed);
    refused(&place, &cluster, 24, "imaginary");
    let into_new = place.run(["restore", "latest", "--to", &cluster.url("copy")]);
    into_new.failed(21, "imaginary");
    assert_eq!(cluster.databases(), ["app", "postgres"], "nothing is left");
    let drill = place.run(["drill"]);
    assert!(drill.code != 0 && (drill.stdout + &drill.stderr).contains("imaginary"));
}

#[test]
fn a_tablespace_that_is_gone_is_named() {
    let (place, cluster) = (Place::with_repository(), Cluster::start());
    let folder = cluster.path("fast");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    if Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n") {
        assert!(Command::new("chown").arg("postgres").arg(&folder).status().unwrap().success());
    }
    cluster.sql("postgres", &format!("create tablespace fast location '{}'", folder.display()));
    saved(&cluster, &place, "create table there (x int) tablespace fast");
    cluster.sql("app", "drop table there");
    cluster.sql("postgres", "drop tablespace fast");
    refused(&place, &cluster, 24, "fast");
    // A drill makes tablespaces of its own.
    place.run(["drill"]).good();
}

#[test]
fn a_server_that_is_down_and_a_database_that_may_not_be_replaced_are_named() {
    let (place, cluster) = (Place::with_repository(), Cluster::start());
    let stop = || assert!(Command::new("sh").args(["-c", &cluster.stop_command()]).status().unwrap().success());
    cluster.sql("postgres", "alter system set max_prepared_transactions = 5");
    stop();
    cluster.start_again();
    saved(&cluster, &place, "");
    cluster.sql("app", "begin; insert into t values ('new'); prepare transaction 'open'");
    let ran = place.run(["restore", "latest", "--yes"]);
    assert!(ran.code == 24 && ran.stderr.contains("prepared"), "{ran:?}");
    cluster.sql("app", "rollback prepared 'open'");
    assert_eq!(value(&cluster), "new");
    stop();
    place.run(["restore", "latest", "--yes"]).failed(14, "Cannot connect");
    cluster.start_again();
    assert_eq!(value(&cluster), "new");
}

#[test]
fn a_drill_asks_for_room_before_it_makes_anything() {
    if !can_mount() {
        eprintln!("skipped: this user may not mount a file system");
        return;
    }
    let (place, cluster) = (Place::with_repository(), Cluster::start());
    saved(&cluster, &place, "");
    let program = env!("CARGO_BIN_EXE_holdfast");
    let script = format!(
        "mkdir small; mount -t tmpfs -o size=20m tmpfs small; TMPDIR=$PWD/small {program} drill; echo drill $?; ls -A small"
    );
    let command = place.command(["version"]);
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", &script]).env_clear().current_dir(place.path(""));
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.output().unwrap();
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        text.ends_with("drill 16\n")
            && said.contains(" MB free, and the restore of db needs about ")
            && said.contains("TMPDIR"),
        "{text}\n{said}"
    );
}

/// A way to a server on which it says that it is PostgreSQL 14, whatever it is. The folder of its socket.
fn as_fourteen(cluster: &Cluster, folder: &Path) -> String {
    let row = cluster
        .session("postgres")
        .query_one("select current_setting('server_version_num')::int4, current_setting('server_version')", &[]);
    let row = row.unwrap();
    let (number, text): (i32, String) = (row.get(0), row.get(1));
    assert!(number >= 150_000, "this test needs PostgreSQL 15 or later");
    let major = (number / 10_000).to_string();
    let older_text = text.replacen(&major, "14", 1);
    let older = 140_000 + number % 10_000;
    let changes =
        [(text.into_bytes(), older_text.into_bytes()), (number.to_be_bytes().to_vec(), older.to_be_bytes().to_vec())];
    std::fs::create_dir(folder).unwrap();
    let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
    let server = cluster.path(".s.PGSQL.5432");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), UnixStream::connect(&server).unwrap());
            let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || pass(client, to_server, &[]));
            let changes = changes.clone();
            std::thread::spawn(move || pass(server, to_client, &changes));
        }
    });
    folder.display().to_string()
}

/// Passes on what comes, with some bytes changed for as many others. Answers this small come in one piece.
fn pass(mut from: UnixStream, mut to: UnixStream, changes: &[(Vec<u8>, Vec<u8>)]) {
    let mut buffer = [0u8; 65536];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        for (old, new) in changes {
            assert_eq!(old.len(), new.len());
            while let Some(at) = buffer[..n].windows(old.len()).position(|window| window == old) {
                buffer[at..at + new.len()].copy_from_slice(new);
            }
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_server_that_is_older_than_the_dump_is_refused_before_anything_is_made() {
    let (place, cluster) = (Place::with_repository(), Cluster::start());
    saved(&cluster, &place, "");
    let socket = as_fourteen(&cluster, &place.path("s"));
    let url = |database: &str| format!("host={socket} user=postgres dbname={database}");
    let config = std::fs::read_to_string(place.path("holdfast.toml")).unwrap();
    place.write("holdfast.toml", config.replace(&cluster.url("app"), &url("app")));
    refused(&place, &cluster, 24, "older than the dump's, ");
    let words = "is PostgreSQL 14, older than the dump's, ";
    place.run(["restore", "latest", "--to", &url("copy")]).failed(24, words);
    place.run(["restore", "latest", "--to", &url("app"), "--clean", "--yes"]).failed(24, "older than the dump's, ");
    // The same of an archive that another tool made, which says it in its header alone.
    let dump = Command::new(cluster.bin().join("pg_dump")).args(["-Fc", "-d", &cluster.url("app")]).output().unwrap();
    assert!(dump.status.success(), "{dump:?}");
    place.write("app_20240712.dump", dump.stdout);
    let from_file = ["restore", "--from-file", "app_20240712.dump", "--to"];
    place.run([&from_file[..], &[&url("copy")]].concat()).failed(24, words);
    let over = place.run([&from_file[..], &[&url("app"), "--clean", "--yes"]].concat());
    over.failed(24, "older than the dump's, ");
    place.write("holdfast.toml", format!("{config}[drill]\npostgres = \"{}\"\n", url("postgres")));
    let drill = place.run(["drill"]);
    assert!(drill.code == 24 && drill.stderr.contains("has version 14, and the dump is of version"), "{drill:?}");
    assert_eq!(
        (value(&cluster), cluster.databases()),
        ("new".to_owned(), vec!["app".to_owned(), "postgres".to_owned()])
    );
    assert_eq!(place.run(["status"]).good().stdout, "");
}
