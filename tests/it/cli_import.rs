//! `import` through the program: files made by the tools that piles are made with.

use crate::support::pg::Cluster;
use crate::support::program::{Place, Ran, files_below, run};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Lines of a run with `--json`.
fn lines(ran: &Ran) -> Vec<Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The items by file name, and the summary.
fn items(ran: &Ran) -> (Vec<Value>, Value) {
    let (items, rest): (Vec<Value>, Vec<Value>) = lines(ran).into_iter().partition(|line| line["type"] == "item");
    let summary = rest.into_iter().find(|line| line["type"] == "summary").unwrap_or_else(|| panic!("{ran:?}"));
    (items, summary)
}

fn snapshots(place: &Place) -> Vec<Value> {
    let ran = place.run(["snapshots", "--json"]);
    let mut all = ran.good().json()["snapshots"].as_array().unwrap().clone();
    all.reverse();
    all
}

/// A file packed by the system's own tool.
fn pack(program: &str, path: &Path) {
    let flags: &[&str] = if program == "zstd" { &["-q", "--rm", "-f"] } else { &["-f"] };
    let output = Command::new(program).args(flags).arg(path).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
}

fn pg_dump(cluster: &Cluster, database: &str, format: &str) -> Vec<u8> {
    let mut command = Command::new(cluster.bin().join("pg_dump"));
    let output = command.args(["--format", format, "-d"]).arg(cluster.url(database)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn sqlite(path: &Path, sql: &str) {
    let output = Command::new("sqlite3").arg(path).arg(sql).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn tar(folder: &Path, flags: &str, members: &[&str]) -> Vec<u8> {
    let output =
        Command::new("tar").args(["-C".as_ref(), folder.as_os_str()]).arg(flags).arg("-").args(members).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn repository_bytes(place: &Place) -> u64 {
    files_below(&place.path("repository")).iter().map(|path| path.metadata().unwrap().len()).sum()
}

#[test]
fn a_pile_of_real_dumps_becomes_one_series_in_the_order_of_time() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql(
        "app",
        "create table item (id int primary key, name text, note text);
         insert into item select i, 'name ' || i, md5(i::text) || md5((i * 7)::text) from generate_series(1, 8000) i;",
    );
    let place = Place::with_repository();
    let mut plain = Vec::new();
    // not in the order of time; every packing
    let packings = [("gzip", "gz"), ("xz", "xz"), ("bzip2", "bz2"), ("zstd", "zst"), ("gzip", "gz")];
    for (day, (program, _)) in packings.iter().enumerate() {
        cluster.sql("app", &format!("update item set note = note || '{day}' where id % 500 = {day}"));
        let dump = pg_dump(&cluster, "app", "plain");
        let path = place.write(&format!("pile/app_backup_2024071{}_020000.sql", 5 - day), &dump);
        pack(program, &path);
        plain.push(dump);
    }
    plain.reverse();
    let pile: u64 = files_below(&place.path("pile")).iter().map(|f| f.metadata().unwrap().len()).sum();

    let dry = place.run(["import", "pile", "--dry-run"]);
    assert_eq!(dry.good().stdout.lines().filter(|line| line.contains(" good")).count(), 5, "{dry:?}");
    assert!(dry.stdout.contains("5 files") && dry.stdout.contains("would be imported"), "{dry:?}");
    assert!(snapshots(&place).is_empty());

    let before = repository_bytes(&place);
    let ran = place.run(["import", "pile"]);
    let last = ran.good().stdout.lines().last().unwrap();
    assert!(last.starts_with("5 files, ") && last.contains(" -> "), "{ran:?}");
    let stored = repository_bytes(&place) - before;
    assert!(stored * 2 < pile, "{stored} of {pile}: deltas chain");

    let all = snapshots(&place);
    assert_eq!(all.len(), 5);
    for (n, snapshot) in all.iter().enumerate() {
        assert_eq!(snapshot["time"], format!("2024-07-1{}T02:00:00Z", n + 1));
        assert_eq!((&snapshot["class"], &snapshot["imported"]), (&"manual".into(), &true.into()));
        let source = &snapshot["sources"][0];
        assert_eq!(source["name"], "app_backup.sql");
        let original = &snapshot["originals"][0];
        let (_, suffix) = packings[4 - n];
        let name = format!("app_backup_2024071{}_020000.sql.{suffix}", n + 1);
        assert_eq!(original["name"], *name);
        let file = place.path("pile").join(&name);
        assert_eq!(original["bytes"], file.metadata().unwrap().len());
        let sum = Command::new("sha256sum").arg(&file).output().unwrap().stdout;
        assert_eq!(original["sha256"], String::from_utf8(sum).unwrap()[..64]);
        assert_eq!(source["tables"][0]["rows"], 8000);
        let dumped = place.command(["dump", snapshot["id"].as_str().unwrap(), "app_backup.sql"]).output().unwrap();
        assert!(dumped.status.success() && dumped.stdout == plain[n], "{n}: the bytes of pg_dump itself");
    }
    place.run(["verify", "--read-data"]).good();
    place.run(["ls", "latest"]).failed(20, "imported");

    let again = place.run(["import", "pile", "--json"]);
    let (items, summary) = items(again.good());
    assert!(items.iter().all(|item| item["result"] == "already there" && item["snapshot_id"].is_string()), "{items:?}");
    assert_eq!((&summary["already"], &summary["snapshots"]), (&5.into(), &0.into()));
    assert_eq!(snapshots(&place).len(), 5);
}

#[test]
fn archives_of_pg_dump_and_databases_go_back_into_servers() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql("app", "create table t (x int); insert into t select generate_series(1, 100)");
    let place = Place::with_repository();
    place.write("pile/app-2024-07-08T14-30.dump", pg_dump(&cluster, "app", "custom"));
    sqlite(&place.path("pile/shop_20240708.db"), "create table s (x); insert into s values (1), (2)");
    sqlite(&place.path("pile/big_20240708.sqlite"), "create table b (x); insert into b values ('x')");
    pack("gzip", &place.path("pile/big_20240708.sqlite"));
    let original = std::fs::read(place.path("pile/shop_20240708.db")).unwrap();
    place.run(["import", "pile", "--tag", "old", "--host", "db1"]).good();
    let to = cluster.url("copy");
    let source = ["--source", "app.dump", "--to", &*to];
    place.run([&["restore", "tag:old"][..], &source].concat()).good();
    let rows: i64 = cluster.session("copy").query_one("select count(*) from t", &[]).unwrap().get(0);
    assert_eq!(rows, 100);
    place.run(["restore", "tag:old", "--source", "shop.db", "--to", "new.db"]).good();
    assert_eq!(std::fs::read(place.path("new.db")).unwrap(), original, "not a byte is another one");
    place.run(["restore", "tag:old", "--source", "big.sqlite", "--to", "big.db"]).good();
    assert_eq!(snapshots(&place)[0]["host"], "db1");
}

#[test]
fn bad_files_are_named_and_the_rest_is_taken() {
    let place = Place::with_repository();
    let script = "CREATE TABLE t (x int);\n".repeat(3000);
    place.write("pile/good_20240708.sql", &script);
    pack("gzip", &place.path("pile/good_20240708.sql"));
    let packed = std::fs::read(place.path("pile/good_20240708.sql.gz")).unwrap();
    place.write("pile/cut_20240708.sql.gz", &packed[..packed.len() - 20]);
    place.write("pile/more_20240708.sql.gz", [&*packed, b"trailing"].concat());
    place.write("pile/error_20240708.sql", "<html>502 Bad Gateway</html>\n");
    place.write("pile/half_20240708.sql", "--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE t (x int);\n");
    place.write("pile/empty_20240708.dump", "");
    place.write("pile/zip_20240708.zip", b"PK\x03\x04\x14\0\x01\0\x08\0secretsecretsecretsecret");
    place.write("pile/gpg_20240708.sql.gpg", b"\x8c\x0d\x04\x09\x03\x02secretsecret");
    place.write("pile/broken_20240708.sqlite", [&b"SQLite format 3\0"[..], &[7; 5000]].concat());
    place.write("pile/broken_20240708.tar", vec![3; 10_240]);
    place.write("pile/README.md", "# about this folder");
    let before = files_below(&place.path("pile"));
    let ran = place.run(["import", "pile", "pile/gone.sql"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    for (name, words) in [
        ("cut_", "truncated"),
        ("more_", "other bytes follow"),
        ("error_", "is no dump"),
        ("half_", "truncated dump of pg_dump"),
        ("empty_", "is empty"),
        ("zip_", "protected by a password"),
        ("gpg_", "encrypted (gpg)"),
        ("broken_20240708.sqlite", "is damaged"),
        ("broken_20240708.tar", "is no dump"),
        ("gone", "cannot be read"),
    ] {
        let line = ran.stderr.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {ran:?}"));
        assert!(line.contains(words), "{words}: {line}");
        assert!(ran.stdout.lines().any(|line| line.contains(name) && line.contains("failed")), "{name}: {ran:?}");
    }
    assert!(ran.stdout.lines().last().unwrap().contains("10 failed; 1 left out"), "{ran:?}");
    assert_eq!(snapshots(&place).len(), 1, "the good one");
    assert_eq!(files_below(&place.path("pile")), before, "nothing is deleted");
    assert_eq!(place.run(["import", "pile"]).code, 3, "what is good is there already");

    let bad = place.run(["import", "pile/cut_20240708.sql.gz"]);
    assert!(bad.code == 13 && bad.stderr.contains("no file is a good backup"), "{bad:?}");
    assert_eq!(place.run(["import", "pile/gone.sql"]).code, 14);
    place.run(["import", "home"]).failed(14, "no file to import");
    place.run(["verify", "--read-data"]).good();
}

#[test]
fn folders_with_dates_are_one_snapshot_and_equal_times_stay_apart() {
    let place = Place::with_repository();
    for day in 12..15 {
        let script = format!("CREATE TABLE t (x int);\n-- {day}\n");
        place.write(&format!("pile/daily/2024/07/{day}/app.sql"), &script);
        place.write(&format!("pile/daily/2024/07/{day}/shop.sql"), "CREATE TABLE s (x int);\n");
    }
    place.write("pile/a/one_20230101.sql", "CREATE TABLE a (x);\n");
    place.write("pile/b/one_20230101.sql.gz", b"");
    place.write("pile/b/one_20230101.sql", "CREATE TABLE b (x);\n");
    std::fs::remove_file(place.path("pile/b/one_20230101.sql.gz")).unwrap();
    let ran = place.run(["import", "pile", "--json"]);
    let (found, summary) = items(ran.good());
    assert_eq!((&summary["files"], &summary["snapshots"]), (&8.into(), &5.into()), "{ran:?}");
    assert!(found.iter().filter(|item| item["time_from"] == "folder").count() == 6, "{found:?}");
    let all = snapshots(&place);
    assert_eq!(all[0]["time"], "2023-01-01T00:00:00Z");
    assert_eq!(all[1]["time"], "2023-01-01T00:00:00.000000001Z");
    for (n, day) in (12..15).enumerate() {
        let names: Vec<&str> =
            all[n + 2]["sources"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
        assert_eq!(
            (names, &all[n + 2]["time"]),
            (vec!["app.sql", "shop.sql"], &format!("2024-07-{day}T00:00:00Z").into())
        );
    }
    // the database that did not change is another backup on another day, and the pile may move
    std::fs::rename(place.path("pile"), place.path("moved")).unwrap();
    let (found, _) = items(place.run(["import", "moved", "--json"]).good());
    assert!(found.iter().all(|item| item["result"] == "already there"), "{found:?}");
}

#[test]
fn local_times_are_those_of_the_zone_and_undated_files_keep_theirs() {
    let place = Place::with_repository();
    place.write("x_20240708_143022.sql", "CREATE TABLE a (x);\n");
    let undated = place.write("y.sql", "CREATE TABLE a (x);\n");
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
    std::fs::File::open(&undated).unwrap().set_modified(time).unwrap();
    let ran = run(place.command(["import", "x_20240708_143022.sql", "y.sql"]).env("TZ", "Europe/Berlin"));
    ran.good();
    let all = snapshots(&place);
    assert_eq!(all[0]["time"], "2020-09-13T12:26:40Z");
    assert_eq!(all[0]["originals"][0]["modified"], "2020-09-13T12:26:40Z");
    assert_eq!((&all[1]["time"], &all[1]["timestamp"]), (&"2024-07-08T12:30:22Z".into(), &"20240708_143022".into()));
}

#[test]
fn a_hostile_archive_does_nothing_and_comes_back_as_it_was() {
    let place = Place::with_repository();
    place.write("stuff/media/a.jpg", [7; 3000]);
    std::os::unix::fs::symlink("/etc", place.path("stuff/media/etc")).unwrap();
    let mut archive = tar(&place.path("stuff"), "-cPf", &["media", "../stuff/media/a.jpg"]);
    place.write("pile/media_20240708.tar", &archive);
    pack("gzip", &place.path("pile/media_20240708.tar"));
    let before = files_below(&place.path("stuff"));
    let ran = place.run(["import", "pile"]);
    assert!(ran.good().stderr.contains("leads out of the folder"), "{ran:?}");
    assert!(ran.stderr.contains("../stuff/media/a.jpg") && ran.stderr.contains("media/etc"), "{ran:?}");
    assert_eq!(files_below(&place.path("stuff")), before);
    let id = snapshots(&place)[0]["id"].as_str().unwrap().to_owned();
    place.run(["restore", &id, "--target", "out"]).good();
    assert!(std::fs::read(place.path("out/media.tar")).unwrap() == archive, "byte by byte");
    assert_eq!(files_below(&place.path("out")).len(), 1);
    archive.truncate(archive.len() - 9000);
    place.write("pile2/media_20240709.tar", &archive);
    assert_eq!(place.run(["import", "pile2"]).code, 13);
}

#[test]
fn originals_are_deleted_only_when_asked_twice_and_proved() {
    let place = Place::with_repository();
    let names = ["pile/app_20240701.sql", "pile/app_20240702.sql", "pile/bad_20240702.sql"];
    place.write(names[0], "CREATE TABLE a (x);\n");
    place.write(names[1], "CREATE TABLE b (x);\n");
    place.write(names[2], "oops");
    place.run(["import", "pile", "--remove-imported"]).failed(17, "confirmation");
    assert!(snapshots(&place).is_empty());
    let dry = place.run(["import", "pile", "--remove-imported", "--dry-run"]);
    assert_eq!((dry.code, files_below(&place.path("pile")).len()), (3, 3), "{dry:?}");
    let ran = place.run(["import", "pile", "--remove-imported", "--yes"]);
    assert!(ran.code == 3 && ran.stdout.contains("2 deleted"), "{ran:?}");
    assert_eq!(files_below(&place.path("pile")), [place.path(names[2])]);

    // imported before: what is stored is decoded first
    place.write(names[0], "CREATE TABLE a (x);\n");
    let ran = place.run(["import", names[0], "--remove-imported", "--yes"]);
    assert!(ran.good().stdout.contains("1 already there; 1 deleted"), "{ran:?}");
    place.write(names[0], "CREATE TABLE a (x);\n");
    for pack in files_below(&place.path("repository/packs")) {
        let mut bytes = std::fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[20..middle].fill(0x55);
        std::fs::remove_file(&pack).unwrap();
        std::fs::write(&pack, bytes).unwrap();
    }
    let ran = place.run(["import", names[0], "--remove-imported", "--yes"]);
    assert!(ran.code != 0 && place.path(names[0]).exists(), "{ran:?}");
    assert!(ran.stderr.contains("it is kept") || ran.stderr.contains("damaged"), "{ran:?}");
}

#[test]
fn the_repository_inside_of_the_pile_and_links_are_left_out() {
    let place = Place::new();
    let pile = place.path("pile");
    std::fs::create_dir_all(&pile).unwrap();
    let repository = pile.join("vault");
    let ran = run(place.command(["init"]).env("HOLDFAST_REPOSITORY", &repository));
    ran.good();
    place.write("pile/x_20240101.sql", "CREATE TABLE a (x);\n");
    place.write("pile/vault/stray.sql", "CREATE TABLE b (x);\n");
    std::os::unix::fs::symlink("x_20240101.sql", pile.join("latest.sql")).unwrap();
    let ran = run(place.command(["import", "pile", "-v"]).env("HOLDFAST_REPOSITORY", &repository));
    assert!(ran.good().stdout.contains("1 file"), "{ran:?}");
    assert!(ran.stderr.contains("holdfast's own") && ran.stderr.contains("symbolic link"), "{ran:?}");
}

#[test]
fn a_pipe_is_not_waited_for() {
    let place = Place::with_repository();
    let made = Command::new("mkfifo").arg(place.path("pipe.sql")).status().unwrap();
    assert!(made.success());
    assert_eq!(place.run(["import", "pipe.sql"]).code, 14);
}

#[test]
fn a_file_is_restored_at_once_and_a_script_runs_no_programs() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql(
        "app",
        "create table t (x int, y text); insert into t select i, E'\\\\! ' || i from generate_series(1, 50) i",
    );
    let place = Place::with_repository();
    let dump = pg_dump(&cluster, "app", "plain");
    let script = place.write("app_20240712.sql", &dump);
    pack("gzip", &script);
    let file = ["restore", "--from-file", "app_20240712.sql.gz"];
    let to = |name: &str| ["--to".to_owned(), cluster.url(name)];
    let restore = |name: &str, file: &str| {
        let to = to(name);
        place.run(["restore", "--from-file", file, &*to[0], &*to[1]])
    };
    let ran = place.run([&file[..], &["--to", &cluster.url("copy"), "--dry-run"]].concat());
    assert!(ran.good().stderr.contains("good pg_dump script") && snapshots(&place).is_empty(), "{ran:?}");
    restore("copy", "app_20240712.sql.gz").good();
    assert_eq!(cluster.plain_dump("copy"), cluster.plain_dump("app"));
    place.run([&file[..], &["--target", "out"]].concat()).good();
    assert_eq!(std::fs::read(place.path("out/app.sql")).unwrap(), dump);
    assert_eq!(snapshots(&place).len(), 1, "imported once");

    // commands of psql: plain, behind a statement, and with the script's own restriction lifted
    let mark = place.path("ran");
    let text = String::from_utf8(dump).unwrap();
    let end = "\n--\n-- PostgreSQL database dump complete";
    let own = text.lines().find_map(|line| line.strip_prefix("\\restrict ")).unwrap_or("none").to_owned();
    for (n, evil) in [
        format!("\\! touch '{}'\n", mark.display()),
        format!("select 1; \\! touch '{}'\n", mark.display()),
        format!("\\unrestrict {own}\n\\! touch '{}'\n", mark.display()),
        format!("select 1 \\g | touch '{}'\n", mark.display()),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("evil{n}_20240712.sql");
        place.write(&name, text.replacen(end, &format!("\n{evil}{end}"), 1));
        let ran = restore("evil", &name);
        assert_eq!(ran.code, 21, "{evil}: {ran:?}");
        assert!(!mark.exists(), "{evil}: {ran:?}");
        assert!(!cluster.databases().contains(&"evil".to_owned()), "nothing is left");
    }
    place.write("bad.sql", "oops");
    assert_eq!(restore("bad", "bad.sql").code, 13);
    place.run(["restore", "--from-file", "out", "--target", "x"]).failed(2, "is a folder");
}
