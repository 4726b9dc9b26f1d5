//! Proofs of restored trees and SQLite files: equal as restored, and every change is named.

use super::*;
use crate::domain::snapshot::Snapshot;
use crate::ops::backup::{SourceFrom, SourceRequest};
use crate::ops::cancel::Cancel;
use crate::ops::restore::Selection;
use crate::ops::restore::tests::World;
use crate::source::sqlite::SqliteOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn prove_tree(world: &World, snapshot: &Snapshot, target: &Path) -> Proof {
    let root = rustix::process::geteuid().is_root();
    let options = TreeOptions { owner: root, xattrs: true, devices: root, extras: true };
    let target = target.canonicalize().unwrap();
    let place = |path: &[u8]| Some([target.as_os_str().as_bytes(), path].concat());
    tree(&world.reading(), &snapshot.sources[0], &place, options, &Cancel::new()).unwrap()
}

type Change = fn(&Path);

#[test]
fn a_restored_tree_is_equal_and_every_change_is_named() {
    let world = World::new();
    let source = world.source();
    std::os::unix::fs::symlink("/nowhere", source.join("sub/away")).unwrap();
    if xattr::set(source.join("empty"), "user.colour", b"red").is_err() {
        eprintln!("no extended attributes here: that part is not tried");
    }
    let snapshot = world.backup(0, vec![world.files()]);
    let has_xattrs = xattr::get(source.join("empty"), "user.colour").is_ok_and(|value| value.is_some());
    let changes: Vec<(&str, Change, &str)> = vec![
        ("content", |at| flip(&at.join("big-1"), 2 << 20), "the contents of"),
        ("shorter", |at| std::fs::write(at.join("sub/small"), b"smal").unwrap(), "small has 4 bytes instead of 5"),
        ("missing", |at| std::fs::remove_file(at.join("empty")).unwrap(), "empty is missing"),
        ("extra", |at| std::fs::write(at.join("sub/more"), b"").unwrap(), "sub/more is not in the snapshot"),
        ("bits", |at| std::fs::set_permissions(at.join("empty"), PermissionsExt::from_mode(0o601)).unwrap(), "601"),
        ("hole", |at| flip(&at.join("sparse"), 3 << 20), "the contents of"),
        ("link", relink, "symbolic does not lead where it did"),
        (
            "kind",
            |at| {
                std::fs::remove_file(at.join("empty")).unwrap();
                std::fs::create_dir(at.join("empty")).unwrap()
            },
            "a directory instead of a file",
        ),
        (
            "apart",
            |at| {
                let bytes = std::fs::read(at.join("big-2")).unwrap();
                std::fs::remove_file(at.join("sub/link-2")).unwrap();
                std::fs::write(at.join("sub/link-2"), bytes).unwrap()
            },
            "link-2 is not a further name of",
        ),
        (
            "time",
            |at| {
                std::fs::File::options()
                    .append(true)
                    .open(at.join("empty"))
                    .unwrap()
                    .set_modified(std::time::UNIX_EPOCH)
                    .unwrap()
            },
            "empty has another modification time",
        ),
        (
            "attribute",
            |at| drop(xattr::set(at.join("empty"), "user.colour", b"blue")),
            "empty has other extended attributes",
        ),
        ("through a link", through_link, "is missing"),
    ];
    for (name, change, words) in changes {
        let target = world.target(name);
        assert!(world.restore(&snapshot, &target, Selection::default()).unwrap().is_complete());
        let proof = prove_tree(&world, &snapshot, &target);
        assert!(proof.equal && proof.difference_count == 0, "{name}: {:#?}", proof.differences);
        if name == "attribute" && !has_xattrs {
            continue;
        }
        change(&world.restored(&target));
        let proof = prove_tree(&world, &snapshot, &target);
        let named = proof.differences.iter().any(|difference| difference.contains(words));
        assert!(!proof.equal && named, "{name}: {:#?}", proof.differences);
    }
}

fn flip(path: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.set_modified(time).unwrap();
}

fn relink(at: &Path) {
    std::fs::remove_file(at.join("symbolic")).unwrap();
    std::os::unix::fs::symlink("sub/other", at.join("symbolic")).unwrap();
}

/// What a link leads to is not what was restored, though it has the same contents.
fn through_link(at: &Path) {
    std::fs::rename(at.join("sub"), at.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", at.join("sub")).unwrap();
}

#[test]
fn a_restored_sqlite_file_is_equal_and_every_change_is_named() {
    let world = World::new();
    let live = world.target("live.db");
    let database = rusqlite::Connection::open(&live).unwrap();
    let fill = "create table a (id integer primary key, v text); create index a_v on a (v); create table b (x);
                with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000)
                insert into a select i, 'value ' || i from n; insert into b select id from a where id < 100";
    database.execute_batch(fill).unwrap();
    let options = SqliteOptions {
        temp_dir: std::env::temp_dir(),
        busy_timeout: std::time::Duration::from_secs(5),
        interrupt: None,
    };
    let from = SourceFrom::Sqlite { path: live, options };
    let snapshot = world.backup(0, vec![SourceRequest { name: "db".to_owned(), from }]);
    let changes = [
        ("row", "update a set v = 'Value 700' where id = 700", "pages are not those that were saved, of a, a_v"),
        ("gone", "delete from b where x = 7", "table b has 98 rows instead of 99"),
        ("doubled", "insert into b values (8)", "table b has 100 rows instead of 99"),
        ("index", "drop index a_v", "pages are not those"),
        ("table", "drop table b", "table b is missing, with 99 rows"),
        ("more", "create table c (x)", "table c is not in the snapshot"),
    ];
    let prove = |path: &Path| sqlite(&world.reading(), &snapshot.sources[0], path, &Cancel::new()).unwrap();
    for (name, change, words) in changes {
        let target = world.target(name);
        assert!(world.restore(&snapshot, &target, Selection::default()).unwrap().is_complete());
        let path = std::fs::read_dir(&target).unwrap().next().unwrap().unwrap().path();
        let proof = prove(&path);
        assert!(proof.equal, "{:#?}", proof.differences);
        let rows: Vec<_> = proof.tables.iter().map(|t| (t.table.as_str(), t.rows_expected, t.rows_restored)).collect();
        assert_eq!(rows, [("a", Some(5000), Some(5000)), ("b", Some(99), Some(99))]);
        rusqlite::Connection::open(&path).unwrap().execute_batch(change).unwrap();
        let proof = prove(&path);
        let named = proof.differences.iter().any(|difference| difference.contains(words));
        assert!(!proof.equal && named, "{name}: {:#?}", proof.differences);
    }
    let path = world.target("torn.db");
    let target = world.target("torn");
    world.restore(&snapshot, &target, Selection::default()).unwrap();
    let bytes = std::fs::read(std::fs::read_dir(&target).unwrap().next().unwrap().unwrap().path()).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let proof = prove(&path);
    assert!(
        !proof.equal && proof.differences.iter().any(|d| d.contains("bytes instead of")),
        "{:#?}",
        proof.differences
    );
}
