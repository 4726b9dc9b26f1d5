//! Files of every kind and what is wrong with them. Real dumps are in `tests/it/cli_import.rs`.

use super::*;
use std::io::Write;

fn options(folder: &Path) -> OriginalOptions {
    OriginalOptions { temp_dir: folder.to_owned(), interrupt: Arc::default() }
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn look(bytes: &[u8]) -> Result<Examined, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    let examined = examine(&path, &options(folder.path()), |_| {});
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    examined.map_err(|error| error.to_string())
}

#[test]
fn what_is_in_a_file_is_known_by_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)").unwrap();
    drop(db);
    let database = std::fs::read(&path).unwrap();
    let script = b"CREATE TABLE t (x);\n";
    for (bytes, content, packing) in [
        (database.clone(), Content::Sqlite, Packing::None),
        (gz(&database), Content::Sqlite, Packing::Gzip),
        (script.to_vec(), Content::Sql, Packing::None),
        (gz(script), Content::Sql, Packing::Gzip),
    ] {
        let examined = look(&bytes).unwrap();
        assert_eq!((examined.content, examined.packing), (content, packing));
        assert_eq!(examined.marks.bytes(), bytes.len() as u64);
        if content == Content::Sqlite {
            assert_eq!(examined.proof.tables[0].rows, 2);
        }
    }
    let mut damaged = database.clone();
    damaged.truncate(database.len() - 4096);
    assert!(look(&damaged).unwrap_err().contains("is damaged"));
    assert!(look(&gz(&damaged)).unwrap_err().contains("is damaged"));
}

#[test]
fn every_bad_file_says_what_is_wrong() {
    let script = b"CREATE TABLE t (x);\n".repeat(2000);
    let packed = gz(&script);
    for (bytes, words) in [
        (Vec::new(), "is empty"),
        (gz(b""), "holds no bytes"),
        (packed[..packed.len() - 3].to_vec(), "is truncated: its gzip data end too early"),
        ([&*packed, b"xyz"].concat(), "other bytes follow its end"),
        (gz(&gz(&script)), "is packed once more (gzip)"),
        (b"PK\x03\x04\x14\0\x01\0\x08\0aaaaaaaaaaaaaaaaaaaaaa".to_vec(), "protected by a password"),
        (b"Salted__12345678".to_vec(), "is encrypted (openssl)"),
        (b"<html>busy</html>\n".to_vec(), "is no dump"),
        (b"--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE t (x);\n".to_vec(), "is a truncated dump of pg_dump"),
        (vec![0; 4096], "without members"),
    ] {
        let error = look(&bytes).unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = examine(folder.path(), &options(folder.path()), |_| {}).unwrap_err();
    assert!(error.to_string().contains("is not a regular file"), "{error}");
}

#[test]
fn a_database_with_changes_beside_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let error = examine(&path, &options(folder.path()), |_| {}).unwrap_err();
    assert!(error.to_string().contains("live.db-wal holds changes"), "{error}");
}

#[test]
fn a_file_that_changed_after_it_was_examined_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sql");
    std::fs::write(&path, "CREATE TABLE t (x);\n").unwrap();
    let examined = examine(&path, &options(folder.path()), |_| {}).unwrap();
    let drain = |examined: Examined| {
        let mut stream = Box::new(OriginalStream::open(&path, &options(folder.path()), examined)?);
        while stream.read(&mut [0; 7])? > 0 {}
        stream.finish()
    };
    assert_eq!(drain(examined.clone()).unwrap(), examined.proof);
    let other = Examined { sha256: Digest([1; 32]), ..examined.clone() };
    assert!(drain(other).unwrap_err().to_string().contains("changed after it was verified"));
    std::fs::write(&path, "CREATE TABLE t (y);\n").unwrap();
    assert!(drain(examined).unwrap_err().to_string().contains("changed after it was verified"));
}
