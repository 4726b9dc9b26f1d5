//! `restore` and `dump` through the program: what was saved comes back, or the program says that it does not.

use crate::support::pg::Cluster;
use crate::support::program::{Place, files_below, run};
use crate::support::tree_compare::differences;
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where a folder of the place is restored.
fn below(target: &Path, original: &Path) -> PathBuf {
    target.join(original.strip_prefix("/").unwrap())
}

fn noise(seed: u8, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
    noise
}

/// A repository with one snapshot of a tree of every kind of entry.
fn tree() -> Place {
    let place = Place::with_repository();
    place.write("tree/deep/er/file", "contents");
    place.write("tree/big", noise(1, 3_000_000));
    place.write("tree/empty", "");
    let locked = place.write("tree/locked/secret", "x");
    std::fs::set_permissions(locked.parent().unwrap(), std::fs::Permissions::from_mode(0o550)).unwrap();
    std::fs::hard_link(place.path("tree/big"), place.path("tree/deep/same")).unwrap();
    std::os::unix::fs::symlink("../nowhere", place.path("tree/link")).unwrap();
    let sparse = std::fs::File::create(place.path("tree/sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(b"data", 5 << 20).unwrap();
    place.backup(["tree"]);
    place
}

#[test]
fn a_tree_comes_back_with_everything() {
    let place = tree();
    let ran = place.run(["restore", "latest", "--target", "new/out"]);
    ran.good();
    assert!(ran.stderr.contains("chose ") && ran.stdout.is_empty(), "{ran:?}");
    let restored = below(&place.path("new/out"), &place.path("tree"));
    assert_eq!(differences(&place.path("tree"), &restored), [""; 0]);

    place.run(["restore", "latest", "--target", "new/out"]).failed(24, "is not empty");
    place.run(["restore", "latest", "--target", "tree/big"]).failed(24, "not a directory");
    assert_eq!(differences(&place.path("tree"), &restored), [""; 0]);

    let part = format!("latest:{}", place.path("tree/deep").display());
    place.run(["restore", part.as_str(), "--target", "part"]).good();
    let part = below(&place.path("part"), &place.path("tree"));
    assert_eq!(differences(&place.path("tree/deep"), &part.join("deep")), [""; 0]);
    assert!(!part.join("empty").exists());

    let listed = place.run(["restore", "latest", "--target", "none", "--dry-run", "--exclude", "deep"]);
    assert!(listed.good().stdout.contains("tree/big (") && !listed.stdout.contains("deep"), "{listed:?}");
    assert!(!place.path("none").exists());
    place.run(["restore", "latest:/nowhere", "--target", "none"]).failed(20, "has no path /nowhere");
    place.run(["restore", "latest", "--db-only", "--target", "none"]).failed(20, "holds nothing of what");
    assert!(!place.path("none").exists());
    std::fs::set_permissions(place.path("tree/locked"), std::fs::Permissions::from_mode(0o750)).unwrap();
}

#[test]
fn damage_is_listed_and_the_rest_restored() {
    let place = tree();
    let mut packs: Vec<PathBuf> = files_below(&place.path("repository/packs"));
    packs.sort_by_key(|pack| std::cmp::Reverse(pack.metadata().unwrap().len()));
    std::fs::set_permissions(&packs[0], std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = std::fs::read(&packs[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&packs[0], bytes).unwrap();

    let ran = place.run(["restore", "latest", "--target", "out"]);
    ran.failed(13, "could not be restored completely");
    assert!(ran.stderr.contains("tree/big"), "{ran:?}");
    let restored = below(&place.path("out"), &place.path("tree"));
    assert!(!restored.join("big").exists() && !restored.join("deep/same").exists());
    assert_eq!(std::fs::read(restored.join("deep/er/file")).unwrap(), b"contents");
    let json = place.run(["restore", "latest", "--target", "again", "--json"]);
    assert_eq!(json.code, 13);
    let summary = json.stdout.lines().find(|line| line.contains("\"type\":\"summary\"")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(summary).unwrap();
    assert!(summary["lost_count"].as_u64() > Some(0), "{summary}");
    assert_eq!(json.json_error()["code"], 13);

    let file = format!("latest:{}", place.path("tree/big").display());
    let dump = run(place.command(["dump", file.as_str()]).stdout(Stdio::null()));
    dump.failed(13, "damaged");
    assert!(dump.stderr.contains("are not good"), "{dump:?}");
}

#[test]
fn a_full_target_is_said_and_no_half_file_stays() {
    let place = tree();
    let program = place.command(["restore", "latest", "--target", "out"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 1000; exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    limited.env_clear().current_dir(place.path("")).stdin(Stdio::null());
    limited.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(&mut limited).failed(16, "No space");
    assert!(!below(&place.path("out"), &place.path("tree/big")).exists());
}

#[test]
fn dumps_are_exact_and_stop_when_nobody_reads() {
    let place = tree();
    let bytes = noise(2, 1_000_000);
    // By a file, because the input is larger than a pipe.
    let input = place.write("input", &bytes);
    let mut backup = place.command(["backup", "--stdin", "--stdin-filename", "noise"]);
    run(backup.stdin(std::fs::File::open(input).unwrap())).good();
    let dumped = |args: &[&str]| place.command(["dump"].iter().chain(args)).output().unwrap();
    let output = dumped(&["latest", "noise"]);
    assert!(output.status.success() && output.stdout == bytes);
    assert!(dumped(&["latest", "noise", "--json"]).stdout == bytes, "JSON does not mix with the bytes");
    for name in ["tree/sparse", "tree/deep/same", "tree/empty"] {
        let path = place.path(name);
        let output = dumped(&["--host", &host(&place), &format!("latest:{}", path.display()), "files"]);
        assert!(output.status.success() && output.stdout == std::fs::read(&path).unwrap(), "{name}: {output:?}");
    }
    let dump = |args: &[&str]| place.run(["dump"].iter().chain(args));
    dump(&["latest", "files"]).failed(2, "holds files");
    dump(&["latest", "nothing"]).failed(20, "");
    dump(&[&format!("latest:{}", place.path("tree").display()), "files"]).failed(2, "is a directory");
    dump(&["latest", "noise", "--format", "sql"]).failed(2, "--format");

    let mut child = place.command(["dump", "latest", "noise"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "a dump that nobody took is no success");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("error"), "{output:?}");
}

fn host(place: &Place) -> String {
    let list = place.run(["snapshots", "--json"]).good().json();
    list["snapshots"][0]["host"].as_str().unwrap().to_owned()
}

#[test]
fn a_sqlite_database_is_restored_into_a_new_file() {
    let place = Place::with_repository();
    let path = place.path("app.db");
    let open = |path: &Path| rusqlite::Connection::open(path).unwrap();
    open(&path).execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2), (3)").unwrap();
    place.backup(["--sqlite", "app.db"]);
    let ran = place.run(["restore", "latest", "--to", "copy.db"]);
    assert!(ran.good().stderr.contains("1 tables compared"), "{ran:?}");
    let count: i64 = open(&place.path("copy.db")).query_row("SELECT sum(x) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 6);
    place.run(["restore", "latest", "--to", "copy.db"]).failed(24, "exists");
    place.run(["restore", "latest", "--to", "postgres://127.0.0.1/x"]).failed(2, "kind sqlite");
    place.run(["restore", "latest", "--target", "out"]).good();
    assert!(std::fs::read(place.path("out/app.db.sqlite3")).unwrap() == std::fs::read(place.path("copy.db")).unwrap());
}

#[test]
fn a_postgres_database_is_restored_into_a_new_database() {
    let cluster = Cluster::start();
    let place = Place::with_repository();
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql("postgres", "CREATE DATABASE shop");
    cluster.sql(
        "app",
        "CREATE TABLE users (id int PRIMARY KEY, name text); \
         INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 5000) n; \
         CREATE VIEW named AS SELECT name FROM users",
    );
    cluster.sql("shop", "CREATE TABLE orders (id int)");
    place.backup(["--postgres", &cluster.url("app"), "--postgres", &cluster.url("shop")]);

    place.run(["restore", "latest", "--to", &cluster.url("copy")]).failed(2, "holds 2 databases");
    let to_copy = ["restore", "latest", "--source", "app", "--to", &cluster.url("copy")];
    let ran = place.run(to_copy);
    assert!(ran.good().stderr.contains("rows of 1 tables compared"), "{ran:?}");
    assert_eq!(cluster.plain_dump("copy"), cluster.plain_dump("app"));
    cluster.sql("copy", "DELETE FROM users WHERE id > 10");
    place.run(to_copy).failed(24, "exists");
    let left: i64 = cluster.session("copy").query_one("SELECT count(*) FROM users", &[]).unwrap().get(0);
    assert_eq!(left, 10, "the existing database was not touched");

    place.run(["restore", "latest", "--target", "out"]).good();
    let listing = Command::new(cluster.bin().join("pg_restore")).arg("--list").arg(place.path("out/app.dump")).output();
    assert!(String::from_utf8(listing.unwrap().stdout).unwrap().contains("TABLE DATA public users"));
    let globals = std::fs::read_to_string(place.path("out/app.globals.sql")).unwrap();
    assert!(globals.contains("ROLE postgres"), "{globals}");
    assert_eq!(place.run(["dump", "latest", "app.globals.sql"]).good().stdout, globals);
    let sql = place.run(["dump", "latest", "app", "--format", "sql"]);
    assert!(sql.good().stdout.contains("CREATE TABLE public.users") && sql.stdout.contains("5000\tuser 5000\n"));
    let stored = place.command(["dump", "latest", "app"]).output().unwrap().stdout;
    assert!(stored == std::fs::read(place.path("out/app.dump")).unwrap());
}

#[test]
fn a_damaged_dump_leaves_no_database() {
    let cluster = Cluster::start();
    let place = Place::with_repository();
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql("app", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n");
    place.backup(["--postgres", &cluster.url("app")]);
    let mut packs = files_below(&place.path("repository/packs"));
    packs.sort_by_key(|pack| std::cmp::Reverse(pack.metadata().unwrap().len()));
    std::fs::set_permissions(&packs[0], std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = std::fs::read(&packs[0]).unwrap();
    let place_of_damage = bytes.len() / 2;
    bytes[place_of_damage] ^= 1;
    std::fs::write(&packs[0], bytes).unwrap();
    let before = cluster.databases();
    place.run(["restore", "latest", "--to", &cluster.url("copy")]).failed(13, "damaged");
    assert_eq!(cluster.databases(), before);
    place.run(["restore", "latest", "--to", &cluster.url_as("nobody", "copy")]).failed(14, "nobody");
}

#[test]
fn the_report_says_how_much_was_decoded() {
    let place = Place::with_repository();
    let rows = |edited: usize| -> Vec<u8> {
        let row = |n| {
            format!("{n}\t{}\n", blake3::hash(&[&[u8::from(n == edited)][..], &u64::to_le_bytes(n as u64)].concat()))
        };
        (0..30_000).map(row).collect::<String>().into_bytes()
    };
    for edited in [0, 7, 29_000] {
        place.run_with_input(["backup", "--stdin", "--stdin-filename", "app.sql"], &rows(edited)).good();
    }
    for selector in ["latest", "latest~2"] {
        let ran = place.run(["restore", selector, "--target", selector, "--json"]);
        let summary: serde_json::Value = serde_json::from_str(ran.good().stdout.lines().last().unwrap()).unwrap();
        let (decoded, output) =
            (summary["decoded_bytes"].as_f64().unwrap(), summary["bytes_restored"].as_f64().unwrap());
        assert!(output > 2e6 && decoded >= 0.9 * output, "{summary}");
        // segments are decoded once, whatever the length of the chain
        assert!(decoded <= 1.5 * output, "{summary}");
    }
    let database = rusqlite::Connection::open(place.path("app.db")).unwrap();
    database.execute_batch("CREATE TABLE t (body BLOB); INSERT INTO t VALUES (randomblob(300000))").unwrap();
    drop(database);
    let id = place.backup(["--sqlite", "app.db"]);
    let ran = place.run(["restore", &id, "--to", "new.db", "--json"]);
    let summary: serde_json::Value = serde_json::from_str(ran.good().stdout.lines().last().unwrap()).unwrap();
    let (decoded, output) = (summary["decoded_bytes"].as_f64().unwrap(), summary["bytes_restored"].as_f64().unwrap());
    assert!(output > 3e5 && decoded >= 0.9 * output, "{summary}");
}
