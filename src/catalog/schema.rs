//! The catalog's file: where it is, its tables, and making it anew.
//!
//! Invariant: opening, judging and replacing happen under a lock file, so that two processes that find a damaged
//! catalog do not take away each other's new one.

use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the tables; a catalog of any other version is made anew.
const SCHEMA_VERSION: i64 = 2;
/// How long a statement waits for another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE snapshots (id BLOB PRIMARY KEY, time_ns INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE ledger (
        object TEXT PRIMARY KEY, read_ns INTEGER NOT NULL, stored_bytes INTEGER NOT NULL, whole INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE settled_packs (pack BLOB PRIMARY KEY) WITHOUT ROWID;";

/// An open catalog.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
}

/// Why a catalog cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Database(#[from] rusqlite::Error),
}

/// Opens or makes the catalog in a folder; the note says when it was made anew.
pub(super) fn open(dir: &Path) -> Result<(Opened, Option<String>), SchemaError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let _lock = lock(dir)?;
    let path = dir.join("catalog.sqlite3");
    match try_open(&path) {
        Ok(connection) => Ok((Opened { connection, path }, None)),
        Err(error) if is_damage(&error) => {
            let connection = replace(&path)?;
            let note = format!("The local catalog {} was damaged and has been made anew: {error}", path.display());
            Ok((Opened { connection, path }, Some(note)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Replaces a catalog in which damage came to light.
pub(super) fn make_anew(opened: Opened) -> Result<Opened, SchemaError> {
    let Opened { connection, path } = opened;
    drop(connection);
    let dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let _lock = lock(&dir)?;
    let connection = replace(&path)?;
    Ok(Opened { connection, path })
}

fn lock(dir: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join("catalog.lock"))?;
    file.lock()?;
    Ok(file)
}

/// True for errors that a new file cures.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SchemaChanged))
        || matches!(error, rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..))
        || matches!(error, rusqlite::Error::SqliteFailure(e, _) if e.code == ErrorCode::Unknown)
        || matches!(error, rusqlite::Error::SqlInputError { .. })
}

fn try_open(path: &Path) -> rusqlite::Result<Connection> {
    // SQLite would make the file readable by the group; its journals take over the mode of the file.
    let made = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    if let Ok(file) = made {
        let _ = file.set_permissions(Permissions::from_mode(0o600));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    // Some file systems have no shared memory; then the mode stays what it is.
    let _: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = OFF; PRAGMA temp_store = MEMORY;")?;
    if version == SCHEMA_VERSION {
        // Fails where the tables are not what this version wrote.
        connection.prepare("SELECT id, time_ns, record FROM snapshots LIMIT 1")?.exists([])?;
        connection.prepare("SELECT object, read_ns, stored_bytes, whole FROM ledger LIMIT 1")?.exists([])?;
        return Ok(connection);
    }
    let transaction = connection.transaction()?;
    let old: Vec<String> = transaction
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for table in old {
        transaction.execute_batch(&format!("DROP TABLE \"{}\"", table.replace('"', "\"\"")))?;
    }
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(connection)
}

fn replace(path: &Path) -> Result<Connection, SchemaError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(try_open(path)?)
}
