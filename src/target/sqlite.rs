//! Restores an SQLite image to a new file.
//!
//! The bytes go to a temporary file beside the target, are checked and made durable there, and get the target's name
//! last, without ever replacing a file. A failed restore leaves nothing. The file is readable by its owner only.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::database::{RestoreReport, TargetError, compare};
use crate::domain::snapshot::TableRows;
use crate::source::sqlite::{ImageError, check_image};

/// A restore in progress. Dropping it removes what it wrote.
#[derive(Debug)]
pub struct SqliteRestore {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl SqliteRestore {
    /// Begins a restore to a path where nothing is yet; its directory must exist.
    /// # Errors
    /// [`TargetError::Exists`] when the file, or a journal that SQLite would apply to it, is there;
    /// [`TargetError::Path`] when the directory cannot be written.
    pub fn create(path: &Path) -> Result<Self, TargetError> {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut name = OsString::from(path);
            name.push(suffix);
            if std::fs::symlink_metadata(&name).is_ok() {
                return Err(TargetError::Exists { target: Path::new(&name).display().to_string() });
            }
        }
        let temporary = tempfile::Builder::new()
            .prefix(".holdfast-restore-")
            .tempfile_in(directory_of(path))
            .map_err(|source| path_error("create a file in", &directory_of(path), source))?;
        Ok(Self { temporary, path: path.to_path_buf() })
    }

    /// Takes the next bytes of the image.
    /// # Errors
    /// [`TargetError::Path`], also for a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        self.temporary.write_all(bytes).map_err(|source| path_error("write", &self.path, source))
    }

    /// Checks the image, gives it its name, and compares its rows with the recorded ones.
    /// # Errors
    /// [`TargetError::Content`] when the image is damaged, [`TargetError::Exists`] when the name was taken meanwhile.
    pub fn finish(self, recorded: &[TableRows]) -> Result<RestoreReport, TargetError> {
        let Self { temporary, path } = self;
        let check = check_image(temporary.path()).map_err(|error| TargetError::Content {
            target: path.display().to_string(),
            reason: match error {
                ImageError::Sqlite(inner) => format!("would not be a readable database: {inner}"),
                ImageError::Damaged(text) => format!("would be damaged: {text}"),
            },
        })?;
        temporary.as_file().sync_all().map_err(|source| path_error("write", &path, source))?;
        temporary.persist_noclobber(&path).map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => TargetError::Exists { target: path.display().to_string() },
            _ => path_error("create", &path, error.error),
        })?;
        let directory = directory_of(&path);
        File::open(&directory)
            .and_then(|handle| handle.sync_all())
            .map_err(|source| path_error("make durable", &directory, source))?;
        let mut report = compare(recorded, &check.tables);
        report.notes = check.warnings.into_iter().map(|warning| warning.message).collect();
        Ok(report)
    }
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn path_error(operation: &'static str, path: &Path, source: std::io::Error) -> TargetError {
    TargetError::Path { operation, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn image(mode: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)"))
            .unwrap();
        drop(db);
        std::fs::read(path).unwrap()
    }

    fn rows(count: u64) -> Vec<TableRows> {
        vec![TableRows { table: "t".into(), rows: count }]
    }

    fn entries(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_good_image_appears_whole_and_its_rows_are_compared() {
        for mode in ["delete", "wal"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("new.db");
            let bytes = image(mode);
            let mut restore = SqliteRestore::create(&path).unwrap();
            for part in bytes.chunks(1000) {
                restore.write(part).unwrap();
            }
            assert!(!path.exists());
            let report = restore.finish(&rows(3)).unwrap();
            assert_eq!((report.differences[0].recorded, report.differences[0].restored), (3, Some(2)));
            assert!(std::fs::read(&path).unwrap() == bytes && entries(dir.path()) == 1);
        }
    }

    #[test]
    fn nothing_is_replaced_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.db");
        for name in ["new.db", "new.db-wal", "new.db-journal"] {
            std::fs::write(dir.path().join(name), b"precious").unwrap();
            assert!(matches!(SqliteRestore::create(&path), Err(TargetError::Exists { .. })), "{name}");
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        let mut bytes = image("delete");
        bytes[4096..].fill(0xee);
        let mut restore = SqliteRestore::create(&path).unwrap();
        restore.write(&bytes).unwrap();
        assert!(matches!(restore.finish(&rows(2)), Err(TargetError::Content { .. })));
        drop(SqliteRestore::create(&path).unwrap());
        assert_eq!(entries(dir.path()), 0);
        let mut restore = SqliteRestore::create(&path).unwrap();
        restore.write(&image("delete")).unwrap();
        std::fs::write(&path, b"late").unwrap();
        assert!(matches!(restore.finish(&rows(2)), Err(TargetError::Exists { .. })));
        assert!(std::fs::read(&path).unwrap() == b"late" && entries(dir.path()) == 1);
        assert!(matches!(SqliteRestore::create(Path::new("/nonexistent/d/x")), Err(TargetError::Path { .. })));
    }
}
