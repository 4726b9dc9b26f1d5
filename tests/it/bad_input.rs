//! What bad input gets, through the program: a clear message, its exit code, no false success, nothing lost.
//!
//! Elsewhere: damage (`damage.rs`), secrets, missing, existing and newer repositories (`cli_init.rs`), configuration
//! (`cli_settings.rs`), full and occupied targets (`restore.rs`), a `pg_dump` that hangs (`postgres.rs`).

use crate::support::pg::{Cluster, free_port};
use crate::support::program::{PASSWORD, Place, Ran, can_mount, files_below, run};
use holdfast::domain::id::SnapshotId;
use holdfast::domain::snapshot::Snapshot;
use holdfast::domain::system::SeededRandom;
use holdfast::format::key_slot::Secret;
use holdfast::format::seal::Keys;
use holdfast::repository::open::{self, OpenRepository};
use holdfast::repository::session::{BackupSession, SessionStart};
use holdfast::repository::{index_loader, snapshots as records};
use holdfast::storage::WriteStore;
use holdfast::storage::local::LocalStore;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn noise(seed: u8, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
    noise
}

/// A repository that holds one snapshot already, which nothing may harm.
fn used() -> Place {
    let place = Place::with_repository();
    place.write("precious/file", "irreplaceable");
    place.backup(["precious"]);
    place
}

/// The run failed with this code; its message has these words, says what to do, and is no panic.
#[track_caller]
fn clear(ran: &Ran, code: i32, words: &[&str]) {
    ran.failed(code, "");
    for word in words {
        assert!(ran.stderr.contains(word), "'{word}' is not in {ran:?}");
    }
    assert!(ran.stderr.contains("hint: ") && !ran.stderr.contains("panicked"), "{ran:?}");
}

fn snapshots(place: &Place) -> Vec<serde_json::Value> {
    place.run(["snapshots", "--json"]).good().json()["snapshots"].as_array().unwrap().clone()
}

/// So many snapshots are there, all of them whole.
#[track_caller]
fn nothing_lost(place: &Place, count: usize) {
    assert_eq!(snapshots(place).len(), count);
    place.run(["verify", "--read-data"]).good();
}

/// The same run of the program, started by a shell after `first`.
fn after(first: &str, program: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]).arg(program.get_program()).args(program.get_args());
    shell.env_clear().stdin(Stdio::null()).current_dir(program.get_current_dir().unwrap());
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

#[test]
fn paths_that_are_missing_or_unreadable_or_vanish() {
    let place = used();
    clear(&place.run(["backup", "absent"]), 14, &["absent", "check the path"]);
    clear(&place.run(["backup", "precious", "absent"]), 14, &["absent"]);
    clear(&place.run(["backup", "--sqlite", "absent.db"]), 14, &["absent.db"]);
    place.write("text.db", "this is no database, whatever its name says");
    clear(&place.run(["backup", "--sqlite", "text.db"]), 14, &["text.db"]);
    nothing_lost(&place, 1);

    // Root reads everything, unless it gives up the right to.
    place.write("tree/open", "open");
    let shut = place.write("tree/shut", "shut");
    std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o000)).unwrap();
    let backup = place.command(["backup", "tree"]);
    let ran = if rustix::process::geteuid().is_root() {
        let drop_rights = "set -- --bounding-set=-dac_override,-dac_read_search \"$0\" \"$@\"; set -- setpriv \"$@\"";
        run(&mut after(&format!("{drop_rights}; exec \"$@\""), &backup))
    } else {
        run(&mut after(":", &backup))
    };
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("tree/shut") && ran.stderr.contains("1 unreadable"), "{ran:?}");
    assert_eq!(snapshots(&place)[0]["complete"], false, "{:?}", snapshots(&place)[0]);
    let open = format!("{}:{}", ran.stdout.trim_end(), place.path("tree/open").display());
    assert_eq!(place.run(["dump", &open]).good().stdout, "open");
    std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o600)).unwrap();
    nothing_lost(&place, 2);

    for n in 0..24 {
        place.write(&format!("moving/a/{n}"), noise(n, 256 << 10));
        place.write(&format!("moving/z/{n}"), noise(100 + n, 64 << 10));
    }
    let mut command = place.command(["backup", "moving"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while files_below(&place.path("repository/sessions")).is_empty() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    for file in files_below(&place.path("moving/z")) {
        std::fs::remove_file(file).unwrap();
        std::thread::sleep(Duration::from_millis(3));
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        // Everything was read before it went, or went before the walk saw it.
        Some(0) => {}
        Some(3) => assert!(said.contains("vanished") && said.contains("moving/z/"), "{said}"),
        _ => panic!("{output:?}"),
    }
    nothing_lost(&place, 3);
}

#[test]
fn streams_that_give_nothing_or_fail() {
    let place = used();
    // The flag is spoken of where it helps, and nowhere else.
    let helps = |ran: Ran, words: &[&str], flag: bool| {
        clear(&ran, 14, words);
        assert_eq!(ran.stderr.contains("--allow-empty"), flag, "{ran:?}");
    };
    helps(place.run_with_input(["backup", "--stdin"], b""), &["Standard input"], true);
    helps(place.run_with_input(["backup", "--stdin"], b"--\n-- PostgreSQL database dump\n--\n"), &["truncated"], false);
    place.write("text.db", "this is no database, whatever its name says");
    place.write("none.db", "");
    for name in ["text.db", "none.db"] {
        for args in [&["backup", "--sqlite", name][..], &["backup", "--allow-empty", "--sqlite", name]] {
            helps(place.run(args), &[name], false);
        }
    }
    clear(&place.run(["backup", "--stdin-from-command", "--", "no-such-program-4711"]), 14, &["no-such-program-4711"]);
    clear(&place.run(["backup", "--stdin-from-command", "--", "true"]), 14, &["true", "no bytes", "--allow-empty"]);
    let script = "printf data; echo the reason >&2; exit 5";
    clear(
        &place.run(["backup", "--stdin-from-command", "--", "sh", "-c", script]),
        14,
        &["sh exited with status 5", "the reason"],
    );
    let killed = ["backup", "--stdin-from-command", "--", "sh", "-c", "printf data; kill -9 $$"];
    clear(&place.run(killed), 14, &["sh was killed by signal 9"]);
    nothing_lost(&place, 1);
    let empty = place.run_with_input(["backup", "--stdin", "--allow-empty"], b"");
    empty.good();
    nothing_lost(&place, 2);
}

/// A `pg_dump` that tells a version and then does as the script says.
fn fake_pg_dump(dir: &Path, version: &str, script: &str) {
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && {{ echo 'pg_dump (PostgreSQL) {version}'; exit 0; }}\n{script}\n"
    );
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("pg_dump"), text).unwrap();
    std::fs::set_permissions(dir.join("pg_dump"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn databases_that_cannot_be_reached_or_dumped() {
    let place = used();
    let url = format!("postgres://nobody@127.0.0.1:{}/shop", free_port());
    clear(&place.run(["backup", "--postgres", &url]), 14, &["shop", "check that the server runs"]);
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database shop");
    cluster.sql("shop", "create table t as select i, 'row ' || i as body from generate_series(1, 20000) i");
    clear(&place.run(["backup", "--postgres", &cluster.url("absent")]), 14, &["absent"]);

    let dump = Command::new(cluster.bin().join("pg_dump")).args(["-Fc", "-Z0", "-d", &cluster.url("shop")]).output();
    let whole = dump.unwrap().stdout;
    let real = place.write("real.dump", &whole);
    let (real, half) = (real.display(), whole.len() / 2);
    let config = format!(
        "[[source]]\nname = \"shop\"\nkind = \"postgres\"\nurl = \"{}\"\nglobals = false\npg_bin_dir = \"{}\"\n",
        cluster.url("shop"),
        place.path("fake").display()
    );
    place.write("holdfast.toml", config);
    clear(&place.run(["backup"]), 14, &["pg_dump"]);
    // An archive is never empty, whatever is allowed.
    fake_pg_dump(&place.path("fake"), "99.1", "exit 0");
    let ran = place.run(["backup", "--allow-empty"]);
    clear(&ran, 14, &["shop", "no bytes"]);
    assert!(!ran.stderr.contains("say --allow-empty"), "{ran:?}");
    for (version, script, words) in [
        ("9.6.24", "exit 0".to_owned(), &["pg_dump (PostgreSQL) 9.6.24 is older than the server", "pg_bin_dir"][..]),
        (
            "99.1",
            format!("head -c {half} {real}; echo server closed the connection >&2; exit 1"),
            &["pg_dump exited with status 1", "server closed"],
        ),
        ("99.1", format!("head -c {half} {real}; kill -9 $$"), &["pg_dump was killed by signal 9"]),
        ("99.1", format!("head -c {half} {real}"), &["shop"]),
        ("99.1", format!("head -c {} {real}", whole.len() - 1), &["shop"]),
        ("99.1", "exit 0".to_owned(), &["shop"]),
    ] {
        fake_pg_dump(&place.path("fake"), version, &script);
        clear(&place.run(["backup"]), 14, words);
        assert_eq!(snapshots(&place).len(), 1, "{script}");
    }
    nothing_lost(&place, 1);
    // The same with the whole dump is stored: it was the fault that was refused.
    fake_pg_dump(&place.path("fake"), "99.1", &format!("cat {real}"));
    let id = place.backup::<&str>([]);
    assert!(place.command(["dump", &id, "shop"]).output().unwrap().stdout == whole);
    nothing_lost(&place, 2);
}

#[test]
fn one_failed_source_is_recorded_and_never_inherited() {
    let place = Place::with_repository();
    place.write("code/main", "1");
    place.write(
        "holdfast.toml",
        "[[source]]\nname = \"feed\"\nkind = \"command\"\ncommand = [\"cat\", \"feed\"]\n\
         [[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"code\"]\n",
    );
    place.write("feed", "first feed");
    let good = place.backup::<&str>([]);
    std::fs::remove_file(place.path("feed")).unwrap();
    place.write("code/main", "22");
    let ran = place.run(["backup"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("feed: FAILED: cat exited with status 1"), "{ran:?}");
    let failed = ran.stdout.trim_end().to_owned();

    let listed = snapshots(&place);
    assert_eq!((listed[0]["id"].as_str(), &listed[0]["complete"]), (Some(&*failed), &serde_json::Value::Bool(false)));
    let source = listed[0]["sources"].as_array().unwrap().iter().find(|s| s["name"] == "feed").unwrap();
    assert!(source["failure"].as_str().unwrap().contains("status 1"), "{source}");
    let old = place.run(["dump", &failed, "feed"]);
    assert!(old.code != 0 && old.stdout.is_empty() && old.stderr.contains("feed"), "{old:?}");
    assert_eq!(place.run(["dump", &good, "feed"]).good().stdout, "first feed");
    let main = format!("{failed}:{}", place.path("code/main").display());
    assert_eq!(place.run(["dump", &main]).good().stdout, "22");
    nothing_lost(&place, 2);

    // With nothing left that can be saved there is no snapshot.
    std::fs::remove_dir_all(place.path("code")).unwrap();
    let ran = place.run(["backup"]);
    ran.failed(14, "No source could be saved");
    assert!(ran.stderr.contains("feed: ") && ran.stderr.contains("code: "), "{ran:?}");
    nothing_lost(&place, 2);
}

#[test]
fn snapshots_that_are_not_there() {
    let place = used();
    for selector in ["deadbeefdeadbeef", "latest~7", "@1999-01-01", "tag:none", "class:hourly", "19990101_000000"] {
        for verb in [&["ls"][..], &["restore", "--target", "out"], &["verify"]] {
            let ran = place.run(verb.iter().copied().chain([selector]));
            clear(&ran, 20, &["holdfast snapshots"]);
        }
    }
    clear(&place.run(["dump", "@1999-01-01", "files"]), 20, &["1999-01-01"]);
    assert!(!place.path("out").exists());
    nothing_lost(&place, 1);
}

/// Commits the record of a snapshot once more, under an id of our choosing: ids are random, and the shortest prefix has
/// four digits, so that waiting for two alike would take hundreds of backups.
fn commit_again(place: &Place, like: &str, id: SnapshotId) {
    let secret = Secret::Passphrase(zeroize::Zeroizing::new(PASSWORD.as_bytes().to_vec()));
    let store = Arc::new(LocalStore::open(&place.path("repository")).unwrap());
    let OpenRepository { store, keys, config, .. } = open::open(store, Some(&secret)).unwrap();
    let like = records::load(store.as_ref(), &keys, SnapshotId::parse(like).unwrap()).unwrap().snapshot;
    let start = SessionStart { id, host: "h".into(), process: 1, started_ns: 0, sources: Vec::new() };
    let load = |store: &dyn WriteStore, keys: &Arc<Keys>, _: &_| Ok(index_loader::load(store, keys, None)?.0);
    let parameters = config.writer_parameters().unwrap();
    let random = Arc::new(SeededRandom::new(1));
    let mut session = BackupSession::begin(store, keys, random, &parameters, &start, load).unwrap();
    session.flush().unwrap();
    session.commit(&Snapshot { id, ..like }).unwrap();
}

#[test]
fn a_prefix_of_several_snapshots_names_them_all() {
    let place = used();
    let id = place.run(["snapshots", "--format", "{id}"]).good().stdout.trim_end().to_owned();
    let twins = ["4f2a91c0000000000000000000000001", "4f2a91c0000000000000000000000002"];
    for twin in twins {
        commit_again(&place, &id, SnapshotId::parse(twin).unwrap());
    }
    for prefix in ["4f2a", "4F2A91", "4f2a91c000000000000000000000000"] {
        for verb in [&["ls"][..], &["restore", "--target", "out"], &["verify"], &["snapshots"], &["stats"]] {
            let ran = place.run(verb.iter().copied().chain([prefix]));
            clear(&ran, 20, &["2 snapshot ids", twins[0], twins[1], "give more digits"]);
            assert!(!ran.stderr.contains(&id), "{ran:?}");
        }
    }
    assert!(!place.path("out").exists());
    clear(&place.run(["ls", "4f2"]), 20, &["4f2"]);
    place.run(["ls", twins[1]]).good();
    nothing_lost(&place, 3);
}

#[test]
fn a_backup_whose_reader_went_away_is_still_a_backup() {
    let place = used();
    for n in 0..3 {
        place.write("tree/file", format!("state {n}"));
        let mut command = place.command(["backup", "tree"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code().is_some() && !said.contains("panicked"), "{output:?}");
        nothing_lost(&place, n + 2);
    }
}

#[test]
fn a_full_disk_loses_nothing() {
    let place = used();
    place.write("noise", noise(9, 12 << 20));
    // The disk exists only as long as the shell, so all that happens on it happens there. Without the right to mount,
    // a limit on the size of files stands for the full disk.
    let script = if can_mount() {
        "mkdir disk && mount -t tmpfs -o size=14m tmpfs disk && cp -a repository/. disk/ && ln -s noise big || exit 99
         H=\"$0 -r disk\"
         $H backup noise; echo first $?
         $H verify --read-data 2>&1; echo verify $?
         $H backup precious; echo again $?
         $H verify --read-data 2>&1; echo verify $?
         $H snapshots --format '{id}' | wc -l"
    } else {
        "H=\"$0\"
         (ulimit -f 1000; $H backup noise; echo first $?)
         $H verify --read-data 2>&1; echo verify $?
         $H backup precious; echo again $?
         $H verify --read-data 2>&1; echo verify $?
         $H snapshots --format '{id}' | wc -l"
    };
    let program = place.command([""]);
    let mut shell = Command::new("unshare");
    if can_mount() {
        shell.args(["--mount", "sh"]);
    } else {
        shell = Command::new("sh");
    }
    shell.args(["-c", script]).arg(program.get_program()).env_clear().current_dir(place.path("")).stdin(Stdio::null());
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = run(&mut shell);
    for word in ["first 16\n", "verify 0\n", "again 0\n"] {
        assert!(ran.stdout.contains(word), "{word}: {ran:?}");
    }
    assert!(!ran.stdout.contains("verify 1") && ran.stdout.ends_with("2\n"), "{ran:?}");
    assert!(ran.stderr.contains("free space for") && ran.stderr.contains("no snapshot was made"), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
}

#[test]
fn no_space_for_the_copy_of_a_sqlite_database() {
    let place = used();
    let database = rusqlite::Connection::open(place.path("app.db")).unwrap();
    database
        .execute_batch(
            "CREATE TABLE t (body BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO t SELECT randomblob(1000) FROM n",
        )
        .unwrap();
    drop(database);
    std::fs::create_dir(place.path("tmp")).unwrap();
    let mut program = place.command(["backup", "--sqlite", "app.db"]);
    program.env("TMPDIR", place.path("tmp"));
    if can_mount() {
        let shell = after("mount -t tmpfs -o size=1m tmpfs tmp || exit 99", &program);
        let mut apart = Command::new("unshare");
        apart.args(["--mount".as_ref(), shell.get_program()]).args(shell.get_args()).env_clear();
        apart.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        clear(&run(apart.stdin(Stdio::null()).current_dir(place.path(""))), 16, &["TMPDIR"]);
    }
    // 512,000 bytes or 1,024,000, as the shell counts; either is less than the copy needs.
    clear(&run(&mut after("ulimit -f 1000", &program)), 16, &["TMPDIR", "limit on the size of files"]);
    assert!(files_below(&place.path("tmp")).is_empty(), "the copy stayed behind");
    nothing_lost(&place, 1);
    place.backup(["--sqlite", "app.db"]);
    nothing_lost(&place, 2);
}
