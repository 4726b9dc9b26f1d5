//! Tests of the catalog: it keeps what it is given, and nothing that happens to its file stops anybody.

use super::*;
use std::os::unix::fs::PermissionsExt;

const REPOSITORY: RepositoryId = RepositoryId([7; 16]);

fn file(state: &Path) -> std::path::PathBuf {
    state.join(REPOSITORY.hex()).join("catalog.sqlite3")
}

fn last(read_ns: i64) -> LastRead {
    LastRead { read_ns, stored_bytes: 9, whole: true }
}

/// The kept records, sorted.
fn records(catalog: &Catalog) -> Vec<(SnapshotId, Vec<u8>)> {
    let mut found = Vec::new();
    catalog.each_snapshot_record(7, |group| found.extend(group));
    found.sort();
    found
}

#[test]
fn keeps_records_and_reads_across_openings() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state/holdfast");
    let (a, b) = (SnapshotId([1; 16]), SnapshotId([2; 16]));
    {
        let catalog = Catalog::open(&state, REPOSITORY);
        catalog.put_snapshots(&[(a, 5, b"aaa".to_vec()), (b, 6, b"bbb".to_vec())]);
        catalog.note_reads(&[("packs/1".to_owned(), last(1)), ("packs/2".to_owned(), last(2))]);
        catalog.note_reads(&[("packs/1".to_owned(), last(3))]);
        assert_eq!(catalog.notes(), Vec::<String>::new());
    }
    for path in [state.join(REPOSITORY.hex()), file(&state)] {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
    let catalog = Catalog::open(&state, REPOSITORY);
    assert_eq!(records(&catalog), [(a, b"aaa".to_vec()), (b, b"bbb".to_vec())]);
    catalog.drop_snapshots(&[a]);
    assert_eq!(records(&catalog), [(b, b"bbb".to_vec())]);
    assert_eq!(catalog.last_reads(), [("packs/1".into(), last(3)), ("packs/2".into(), last(2))].into());
    catalog.drop_reads(&["packs/1".to_owned()]);
    catalog.clear_snapshots();
    assert_eq!(records(&catalog), []);
    assert_eq!(catalog.last_reads().len(), 1);
}

#[test]
fn another_repository_has_another_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let one = Catalog::open(dir.path(), REPOSITORY);
    one.put_snapshots(&[(SnapshotId([1; 16]), 5, vec![1])]);
    let other = Catalog::open(dir.path(), RepositoryId([8; 16]));
    assert_eq!(records(&other), []);
}

#[test]
fn two_at_a_time_share_it() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Catalog::open(dir.path(), REPOSITORY), Catalog::open(dir.path(), REPOSITORY));
    std::thread::scope(|scope| {
        for (k, catalog) in [(0u8, &one), (1, &two)] {
            scope.spawn(move || {
                for n in 0..50u8 {
                    catalog.note_reads(&[(format!("packs/{k}/{n}"), last(i64::from(n)))]);
                }
            });
        }
    });
    assert_eq!(one.last_reads().len(), 100);
    assert_eq!((one.notes(), two.notes()), (Vec::new(), Vec::new()));
}

#[test]
fn a_damaged_catalog_is_made_anew_with_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let fill = || {
        let catalog = Catalog::open(dir.path(), REPOSITORY);
        catalog.put_snapshots(&[(SnapshotId([1; 16]), 5, vec![1; 100_000])]);
        catalog
    };
    drop(fill());
    let good = std::fs::read(file(dir.path())).unwrap();
    let rubbish: [&[u8]; 3] = [
        b"no database at all, and longer than a header of SQLite: it has a hundred bytes of text, more or less.....",
        &[0xff; 5000],
        &good[..good.len() / 2],
    ];
    for (k, bytes) in rubbish.into_iter().enumerate() {
        std::fs::write(file(dir.path()), bytes).unwrap();
        let catalog = Catalog::open(dir.path(), REPOSITORY);
        let _ = records(&catalog);
        assert!(!catalog.notes().is_empty(), "case {k} is not noticed");
        drop(catalog);
        let healed = fill();
        assert_eq!(healed.notes(), Vec::<String>::new(), "case {k}");
        assert_eq!(records(&healed).len(), 1, "case {k}");
    }
}

#[test]
fn damage_anywhere_in_the_file_never_stops_anybody() {
    let dir = tempfile::tempdir().unwrap();
    drop(Catalog::open(dir.path(), REPOSITORY));
    let good = std::fs::read(file(dir.path())).unwrap();
    for at in (0..good.len()).step_by(good.len() / 200 + 1) {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        std::fs::write(file(dir.path()), &bad).unwrap();
        let catalog = Catalog::open(dir.path(), REPOSITORY);
        catalog.put_snapshots(&[(SnapshotId([1; 16]), 5, vec![1])]);
        let _ = (records(&catalog), catalog.last_reads());
    }
}

#[test]
fn tables_of_another_version_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(Catalog::open(dir.path(), REPOSITORY));
    let db = Connection::open(file(dir.path())).unwrap();
    db.execute_batch("DROP TABLE ledger; CREATE TABLE future (x); PRAGMA user_version = 99;").unwrap();
    drop(db);
    let catalog = Catalog::open(dir.path(), REPOSITORY);
    catalog.note_reads(&[("packs/1".to_owned(), last(1))]);
    assert_eq!(catalog.last_reads().len(), 1);
    assert_eq!(catalog.notes(), Vec::<String>::new());
}

#[test]
fn no_place_for_it_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("state"), b"a file").unwrap();
    let catalog = Catalog::open(&dir.path().join("state"), REPOSITORY);
    assert_eq!(catalog.notes().len(), 1);
    catalog.put_snapshots(&[(SnapshotId([1; 16]), 5, vec![1])]);
    assert_eq!(records(&catalog), []);
    assert_eq!(records(&Catalog::none()), []);
}
