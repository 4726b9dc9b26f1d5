//! `export` through the program: what it writes is checked and restored by other people's tools.

use crate::support::pg::Cluster;
use crate::support::program::{Place, files_below};
use crate::support::tree_compare;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn sums_are_right(folder: &Path) {
    let output =
        Command::new("sha256sum").args(["--strict", "--quiet", "-c", "SHA256SUMS"]).current_dir(folder).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

fn text(output: std::process::Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn stock_tools_check_and_restore_what_was_exported() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql("postgres", "create database copy");
    cluster.sql("app", "create table t (x int); insert into t select generate_series(1, 1000)");
    let place = Place::with_repository();
    place.write("data/code/main.rs", "fn main() {}\n");
    place.write("data/odd\nname \\ here", "odd");
    std::os::unix::fs::symlink("code/main.rs", place.path("data/link")).unwrap();
    let db = place.path("shop.db");
    let made = Command::new("sqlite3").arg(&db).arg("create table s (x); insert into s values (1), (2), (3)").status();
    assert!(made.unwrap().success());
    let url = cluster.url("app");
    let time = ["--time", "2024-07-12T02:00:00", "--class", "daily"];
    let id = place.backup([&["data", "--sqlite", "shop.db", "--postgres", &*url][..], &time].concat());

    let ran = place.run(["export", &id, "--layout", "{class}/%Y/%m/%d", "--target", "plain"]);
    let folder = place.path("plain/daily/2024/07/12");
    assert_eq!(ran.good().stdout.trim_end(), folder.to_string_lossy(), "{ran:?}");
    sums_are_right(&folder);
    let listed = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    assert_eq!(listed.lines().count(), files_below(&folder).len() - 1 - 1, "all but the list itself and the link");
    assert!(listed.lines().any(|line| line.starts_with('\\') && line.contains("odd\\nname \\\\ here")), "{listed}");

    let said = manifest(&folder);
    assert_eq!(said["schema"], "holdfast/1");
    assert_eq!((&said["snapshot"]["id"], &said["snapshot"]["backup_type"]), (&Value::from(&*id), &"daily".into()));
    for key in ["created_at", "timestamp", "total_size", "compression_ratio", "system_info", "files"] {
        assert!(said["snapshot"].get(key).is_some(), "{key}");
    }

    let restored = Command::new(cluster.bin().join("pg_restore"))
        .arg("-d")
        .arg(cluster.url("copy"))
        .arg(folder.join("app.dump"))
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    let rows: i64 = cluster.session("copy").query_one("select count(*) from t", &[]).unwrap().get(0);
    assert_eq!(rows, 1000);
    let query = ["pragma integrity_check; select count(*) from s"];
    let image = files_below(&folder).into_iter().find(|path| path.to_string_lossy().ends_with(".sqlite3")).unwrap();
    assert_eq!(text(Command::new("sqlite3").arg(image).args(query).output().unwrap()), "ok\n3");
    let tree = folder.join(place.path("data").strip_prefix("/").unwrap());
    assert_eq!(tree_compare::differences(&place.path("data"), &tree), Vec::<String>::new());
}

#[test]
fn nothing_that_exists_is_touched_and_nothing_half_stays() {
    let place = Place::with_repository();
    place.write("data/a", "a");
    let id = place.backup(["data", "--time", "2024-07-12T02:00:00"]);
    place.write("plain/2024-07-12/mine", "mine");
    let refused = place.run(["export", &id, "--layout", "%Y-%m-%d", "--target", "plain"]);
    refused.failed(24, "exists");
    assert_eq!(files_below(&place.path("plain")), [place.path("plain/2024-07-12/mine")]);
    place.write("plain/file", "");
    place.run(["export", &id, "--layout", "file", "--target", "plain"]).failed(24, "exists");
    place.run(["export", &id, "--layout", "file/x", "--target", "plain"]).failed(1, "Cannot create");
    for bad in ["../x", "/x", "%", "{what}", ""] {
        place.run(["export", &id, "--layout", bad, "--target", "plain"]).failed(2, "layout");
    }
    let dry = place.run(["export", &id, "--target", "new", "--dry-run"]);
    assert!(dry.good().stderr.contains("would export") && !place.path("new").exists(), "{dry:?}");
    // the default name, and twice
    place.run(["export", &id, "--target", "new"]).good();
    sums_are_right(&place.path("new/2024-07-12_020000"));
    place.run(["export", &id, "--target", "new"]).failed(24, "exists");

    for pack in files_below(&place.path("repository/packs")) {
        let bytes = std::fs::read(&pack).unwrap();
        std::fs::remove_file(&pack).unwrap();
        std::fs::write(&pack, vec![0x55; bytes.len()]).unwrap();
    }
    let broken = place.run(["export", &id, "--target", "third"]);
    assert_eq!(broken.code, 13, "{broken:?}");
    assert_eq!(files_below(&place.path("third")).len(), 0);
    assert_eq!(std::fs::read_dir(place.path("third")).map_or(0, Iterator::count), 0, "no staged folder is left");
}

#[test]
fn a_snapshot_with_files_of_our_names_is_refused_and_imports_come_out_again() {
    let place = Place::with_repository();
    let ran = place.run_with_input(["backup", "--stdin", "--stdin-filename", "SHA256SUMS"], b"mine");
    let id = ran.good().stdout.trim_end().to_owned();
    place.run(["export", &id, "--target", "out"]).failed(24, "SHA256SUMS");
    assert_eq!(std::fs::read_dir(place.path("out")).unwrap().count(), 0);

    place.write("pile/app_20240708_143022.sql", "CREATE TABLE a (x);\n");
    place.run(["import", "pile"]).good();
    let json = place.run(["export", "20240708_143022", "--layout", "manual/%Y/week-%V", "--target", "out", "--json"]);
    let folder = place.path("out/manual/2024/week-28");
    let summary: Value = serde_json::from_str(json.good().stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["path"], &summary["type"]), (&folder.to_string_lossy().into(), &"summary".into()));
    assert_eq!(summary["sources"][0]["written"][0], *folder.join("app.sql").to_string_lossy());
    sums_are_right(&folder);
    assert_eq!(std::fs::read(folder.join("app.sql")).unwrap(), b"CREATE TABLE a (x);\n");
    assert_eq!(manifest(&folder)["snapshot"]["originals"][0]["name"], "app_20240708_143022.sql");
}
