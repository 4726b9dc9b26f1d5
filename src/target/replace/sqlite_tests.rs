//! A swap of databases that is cut after any of its steps is the old database or the new one, each with its own log.

use super::sqlite::SqliteReplacement;
use super::{Error, Replace, State, quick_directory};
use crate::domain::id::Digest;
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const ACT: &str = "0123456789abcdef0123456789abcdef";

fn image(word: &str) -> Vec<u8> {
    let dir = quick_directory();
    let path = dir.path().join("x");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!("PRAGMA journal_mode = wal; CREATE TABLE t (x); INSERT INTO t VALUES ('{word}')"))
        .unwrap();
    db.close().unwrap();
    std::fs::read(path).unwrap()
}

/// A database in `path` whose last row is in its log alone, as a killed writer leaves it.
fn with_log(path: &Path, word: &str) {
    let dir = quick_directory();
    let made = dir.path().join("x");
    let db = Connection::open(&made).unwrap();
    db.execute_batch("PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (x)").unwrap();
    db.execute_batch("PRAGMA wal_checkpoint(truncate)").unwrap();
    db.execute("INSERT INTO t VALUES (?1)", [word]).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        std::fs::copy(beside(&made, suffix), beside(path, suffix)).unwrap();
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What the database says: its one row.
fn word(path: &Path) -> Option<String> {
    if !path.exists() {
        return None;
    }
    // A copy, so that looking moves nothing.
    let dir = quick_directory();
    let copy = dir.path().join("copy");
    for suffix in ["", "-wal"] {
        if beside(path, suffix).exists() {
            std::fs::copy(beside(path, suffix), beside(&copy, suffix)).unwrap();
        }
    }
    let db = Connection::open(copy).unwrap();
    Some(db.query_row("SELECT group_concat(x) FROM t", [], |row| row.get(0)).unwrap())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

struct World {
    dir: tempfile::TempDir,
    old: Option<String>,
}

impl World {
    fn new(image: &[u8], with_old: bool) -> Self {
        let world = Self { dir: quick_directory(), old: with_old.then(|| "old".to_owned()) };
        if with_old {
            with_log(&world.place(), "old");
        }
        let replacement = world.replacement(u32::MAX);
        stage(&replacement, image).unwrap();
        world
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn replacement(&self, steps: u32) -> SqliteReplacement {
        let mut replacement = SqliteReplacement::new(&self.place(), ACT).unwrap();
        replacement.beside_mut().cut.set(steps);
        replacement
    }
}

fn stage(replacement: &SqliteReplacement, image: &[u8]) -> Result<(), Error> {
    let mut staging = replacement.begin()?;
    for part in image.chunks(1000) {
        staging.write(part)?;
    }
    staging.finish(&Digest(*blake3::hash(image).as_bytes()), &[]).map(drop)
}

/// Each call is cut after each of its steps, then another is, then a third decides. The new one gets a log of its own
/// while it is in the place, as it does when a service has used it before it is taken back.
#[test]
fn cut_anywhere_each_database_keeps_its_own_log() {
    type Step = fn(&SqliteReplacement) -> Result<(), Error>;
    let (swap, unswap): (Step, Step) = (|r| r.swap(), |r| r.unswap());
    let image = image("new");
    let mut cuts = 0;
    for with_old in [true, false] {
        for (used, first) in [(false, swap), (true, unswap)] {
            for first_cut in 0..14 {
                for (second, second_cut) in [(swap, 2), (swap, 5), (unswap, 1), (unswap, 6)] {
                    for (last_is_swap, last) in [(true, swap), (false, unswap)] {
                        let what = format!("{with_old} {used} {first_cut} {second_cut} {last_is_swap}");
                        let world = World::new(&image, with_old);
                        let mut new = "new";
                        if used {
                            world.replacement(u32::MAX).swap().unwrap();
                            with_log(&world.place(), "used");
                            new = "used";
                        }
                        cuts += u32::from(first(&world.replacement(first_cut)).is_err());
                        let _ = second(&world.replacement(second_cut));
                        last(&world.replacement(u32::MAX)).unwrap_or_else(|e| panic!("{what}: {e}"));
                        let replacement = world.replacement(u32::MAX);
                        if last_is_swap {
                            assert_eq!(replacement.state().unwrap(), State::Swapped, "{what}");
                            assert_eq!(word(&world.place()).as_deref(), Some(new), "{what}");
                            replacement.discard_old().unwrap();
                            assert_eq!(word(&world.place()).as_deref(), Some(new), "{what}");
                        } else {
                            assert_eq!(replacement.state().unwrap(), State::Staged, "{what}");
                            assert_eq!(word(&world.place()), world.old, "{what}");
                            assert_eq!(word(&replacement.staged_path()).as_deref(), Some(new), "{what}");
                            replacement.discard_new().unwrap();
                            assert_eq!(word(&world.place()), world.old, "{what}");
                        }
                        let left = names(world.dir.path());
                        assert!(left.iter().all(|n| !n.contains("holdfast")), "{what}: {left:?}");
                    }
                }
            }
        }
    }
    assert!(cuts > 100, "{cuts}");
}

#[test]
fn the_old_log_is_kept_with_the_old_database() {
    let world = World::new(&image("new"), true);
    let replacement = world.replacement(u32::MAX);
    replacement.swap().unwrap();
    let old = world.dir.path().join("app.db.holdfast-old-01234567");
    assert!(beside(&old, "-wal").exists() && !beside(&world.place(), "-wal").exists());
    assert_eq!(word(&old).as_deref(), Some("old"), "it opens where it is");
}

#[test]
fn a_bad_image_is_never_staged() {
    let dir = quick_directory();
    let place = dir.path().join("app.db");
    std::fs::write(&place, b"not even a database").unwrap();
    let replacement = SqliteReplacement::new(&place, ACT).unwrap();
    let good = image("new");
    let mut damaged = good.clone();
    damaged[4096..].fill(0xee);
    for (bytes, hash) in [(&damaged, &damaged), (&damaged, &good)] {
        let mut staging = replacement.begin().unwrap();
        staging.write(bytes).unwrap();
        let result = staging.finish(&Digest(*blake3::hash(hash).as_bytes()), &[]);
        assert!(matches!(result, Err(Error::Content { .. })), "{result:?}");
        assert_eq!(replacement.state().unwrap(), State::Untouched);
    }
    // What is in the place may be as broken as it likes; it is kept as it is.
    stage(&replacement, &good).unwrap();
    replacement.swap().unwrap();
    assert_eq!(word(&place).as_deref(), Some("new"));
    replacement.unswap().unwrap();
    assert_eq!(std::fs::read(&place).unwrap(), b"not even a database");
    replacement.discard_new().unwrap();
    assert_eq!(names(dir.path()), ["app.db"]);
}

#[test]
fn the_new_one_has_the_permissions_of_the_old_one() {
    let dir = quick_directory();
    let place = dir.path().join("app.db");
    with_log(&place, "old");
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o640)).unwrap();
    let _ = xattr::set(&place, "user.note", b"kept");
    std::os::unix::fs::symlink("app.db", dir.path().join("link.db")).unwrap();
    let replacement = SqliteReplacement::new(&dir.path().join("link.db"), ACT).unwrap();
    stage(&replacement, &image("new")).unwrap();
    replacement.swap().unwrap();
    let metadata = std::fs::symlink_metadata(&place).unwrap();
    assert_eq!((metadata.is_file(), metadata.permissions().mode() & 0o777), (true, 0o640));
    let kept = beside(&place, ".holdfast-old-01234567");
    assert_eq!(xattr::get(&place, "user.note").ok(), xattr::get(kept, "user.note").ok());
    let directory = SqliteReplacement::new(dir.path(), ACT);
    assert!(matches!(directory, Err(Error::Unsuitable { .. })));
}
