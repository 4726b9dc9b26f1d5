//! One SQLite database: a consistent image while writers are at work, proved before it is handed out.
//!
//! The image is made by SQLite's online backup into a temporary file, checked there (`PRAGMA integrity_check`, rows per
//! table), and streamed. The temporary file has no name any more while it is streamed, so nothing is left of it even
//! after a SIGKILL.
//!
//! The source is opened for reading only. What SQLite may still create beside it: a reader of a database in WAL mode
//! needs the `-shm` file, which every process that uses the database shares, and SQLite makes it (and an empty `-wal`)
//! when it is not there. That happens only while somebody else is using the database. A database in WAL mode without a
//! `-wal` file is used by nobody, so it is read as an immutable file, without any file beside it, and the copy is thrown
//! away if the database turns out to have changed meanwhile.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{SourceError, SourceStream, StreamProof};
use crate::domain::snapshot::{SourceWarning, TableRows, VolatileSpan};

/// The first bytes of every database.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Tables whose rows are counted.
const TABLES_MAX: usize = 20_000;
/// Pages copied between two looks at the interrupt flag.
const PAGES_PER_STEP: i32 = 2048;
/// How often writers may make the copy of a rollback-journal database start again before they are held off.
const RESTARTS_MAX: u32 = 3;

/// How a database is read.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Where the temporary image goes (TMPDIR).
    pub temp_dir: PathBuf,
    /// How long to wait for a writer that has locked the database.
    pub busy_timeout: Duration,
    /// Ends the copy early when it turns true.
    pub interrupt: Option<Arc<AtomicBool>>,
}

/// The image of a database, proved and ready to be read.
#[derive(Debug)]
pub struct SqliteStream {
    image: File,
    subject: String,
    proof: StreamProof,
    page_size: u32,
    image_bytes: u64,
    live_bytes: u64,
    ended: bool,
}

/// What a check of an image found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageCheck {
    /// Rows of each table, sorted by name.
    pub tables: Vec<TableRows>,
    /// Page size, bytes.
    pub page_size: u32,
    /// What could not be checked or counted.
    pub warnings: Vec<SourceWarning>,
}

impl SqliteStream {
    /// Copies and checks a database.
    /// # Errors
    /// [`SourceError::Path`] for a missing or unreadable file and for a full temporary directory,
    /// [`SourceError::Content`] for what is no database, encrypted, damaged or locked.
    pub fn open(path: &Path, options: &SqliteOptions) -> Result<Self, SourceError> {
        let header = read_header(path)?;
        let live_bytes = [path.to_path_buf(), beside(path, "-wal")]
            .iter()
            .filter_map(|file| std::fs::metadata(file).ok())
            .map(|metadata| metadata.len())
            .sum();
        let in_temp = |source: std::io::Error| SourceError::Path {
            operation: "store a temporary image of the database in",
            path: options.temp_dir.clone(),
            source,
        };
        let directory =
            tempfile::Builder::new().prefix("holdfast-sqlite-").tempdir_in(&options.temp_dir).map_err(in_temp)?;
        let copy = directory.path().join("image");
        copy_database(path, &copy, is_wal(&header), options)?;
        let check = check_image(&copy).map_err(|error| content(path, check_reason(&error)))?;
        let image = File::open(&copy).map_err(in_temp)?;
        let image_bytes = image.metadata().map_err(in_temp)?.len();
        // From here on the file lives only as long as our handle.
        directory.close().map_err(in_temp)?;
        let proof = StreamProof { tables: check.tables, volatile: volatile_spans(), warnings: check.warnings };
        let subject = path.display().to_string();
        Ok(Self { image, subject, proof, page_size: check.page_size, image_bytes, live_bytes, ended: false })
    }

    /// Page size, bytes.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Length of the image, bytes.
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// Size of the live database and its write-ahead log, bytes.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }
}

/// The version of the SQLite that reads, for the snapshot's record.
pub fn library_version() -> String {
    format!("SQLite {}", rusqlite::version())
}

impl SourceStream for SqliteStream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            match self.image.read(buffer) {
                Ok(n) => {
                    self.ended |= n == 0 && !buffer.is_empty();
                    return Ok(n);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let reason = format!("cannot be read back from its temporary image: {error}");
                    return Err(SourceError::Content { subject: self.subject.clone(), reason });
                }
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<StreamProof, SourceError> {
        let at = self.image.stream_position().unwrap_or_default();
        if self.ended && at == self.image_bytes {
            Ok(self.proof)
        } else {
            Err(SourceError::Content { subject: self.subject, reason: "was not read to its end".into() })
        }
    }
}

/// The counters in the header that SQLite moves on every commit, also where the data stays the same.
fn volatile_spans() -> Vec<VolatileSpan> {
    let span = |offset, length, what: &str| VolatileSpan { offset, length, what: what.into() };
    vec![span(24, 4, "file change counter"), span(92, 8, "version-valid-for number")]
}

fn content(path: &Path, reason: impl Into<String>) -> SourceError {
    SourceError::Content { subject: path.display().to_string(), reason: reason.into() }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn is_wal(header: &[u8; 100]) -> bool {
    header[18] == 2 || header[19] == 2
}

fn read_header(path: &Path) -> Result<[u8; 100], SourceError> {
    let fail = |source| SourceError::Path { operation: "read database", path: path.to_path_buf(), source };
    let metadata = std::fs::metadata(path).map_err(fail)?;
    if !metadata.is_file() {
        return Err(content(path, "is not a file, so it is not an SQLite database"));
    }
    let file = File::open(path).map_err(fail)?;
    let mut header = [0u8; 100];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(_) if metadata.len() == 0 => return Err(content(path, "is empty, so it is not an SQLite database yet")),
        Err(_) if metadata.len() < 100 => return Err(content(path, NOT_A_DATABASE)),
        Err(error) => return Err(fail(error)),
    }
    if header.starts_with(MAGIC) { Ok(header) } else { Err(content(path, NOT_A_DATABASE)) }
}

const NOT_A_DATABASE: &str = "is not an SQLite database, or it is encrypted (an encrypted database is saved with its \
                              own tool, by a source of kind command)";

/// What tells whether a file that nobody seemed to use has been used after all.
fn witness(path: &Path) -> Option<(u64, u64, i64, i64, i64, i64)> {
    let m = std::fs::metadata(path).ok()?;
    Some((m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()))
}

fn copy_database(path: &Path, copy: &Path, wal: bool, options: &SqliteOptions) -> Result<(), SourceError> {
    let log = beside(path, "-wal");
    if wal && !log.exists() {
        let before = witness(path);
        let source = open_immutable(path).map_err(|error| sqlite_error(path, options, &error))?;
        let copied = run_copy(&source, path, copy, true, options);
        drop(source);
        if !log.exists() && before.is_some() && witness(path) == before {
            return copied;
        }
        if matches!(copied, Err(SourceError::Interrupted)) {
            return copied;
        }
        // A writer came in between: the copy may be torn, whatever it looks like.
        let _ = std::fs::remove_file(copy);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // An absolute name, because SQLite gives names like `:memory:` a meaning of their own.
    let name = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let source = Connection::open_with_flags(name, flags)
        .and_then(|source| source.busy_timeout(options.busy_timeout).map(|()| source))
        .map_err(|error| sqlite_error(path, options, &error))?;
    run_copy(&source, path, copy, wal, options)
}

enum CopyEnd {
    Done,
    /// Writers made the copy start again too often.
    Outrun,
}

/// Copies with the source's snapshot held or not. In WAL mode holding it costs writers nothing and keeps the copy from
/// starting again. With a rollback journal it keeps writers out, so that is done only when they outrun the copy.
fn run_copy(
    source: &Connection,
    path: &Path,
    copy: &Path,
    mut hold: bool,
    options: &SqliteOptions,
) -> Result<(), SourceError> {
    let fail = |error: rusqlite::Error| sqlite_error(path, options, &error);
    loop {
        let mut image = Connection::open(copy).map_err(fail)?;
        // The image is thrown away on every error, so it needs neither a journal nor the disk.
        image.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").map_err(fail)?;
        if hold {
            source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").map_err(fail)?;
        }
        let end = step_to_end(source, &mut image, path, hold, options);
        if hold {
            // The transaction only read; there is nothing to lose in it.
            let _ = source.execute_batch("ROLLBACK");
        }
        image.close().map_err(|(_, error)| fail(error))?;
        match end? {
            CopyEnd::Done => return Ok(()),
            CopyEnd::Outrun => hold = true,
        }
        std::fs::remove_file(copy).map_err(|source| SourceError::Path {
            operation: "remove temporary image",
            path: copy.to_path_buf(),
            source,
        })?;
    }
}

fn step_to_end(
    source: &Connection,
    image: &mut Connection,
    path: &Path,
    hold: bool,
    options: &SqliteOptions,
) -> Result<CopyEnd, SourceError> {
    let fail = |error: rusqlite::Error| sqlite_error(path, options, &error);
    let backup = Backup::new(source, image).map_err(fail)?;
    let (mut remaining, mut restarts) = (i32::MAX, 0);
    let mut last_progress = Instant::now();
    loop {
        if options.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Err(SourceError::Interrupted);
        }
        match backup.step(PAGES_PER_STEP).map_err(fail)? {
            StepResult::Done => return Ok(CopyEnd::Done),
            StepResult::Busy | StepResult::Locked => {
                if last_progress.elapsed() >= options.busy_timeout {
                    return Err(locked(path, options));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => {
                last_progress = Instant::now();
                let left = backup.progress().remaining;
                if left >= remaining && !hold {
                    restarts += 1;
                    if restarts > RESTARTS_MAX {
                        return Ok(CopyEnd::Outrun);
                    }
                }
                remaining = left;
            }
        }
    }
}

fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    use std::fmt::Write;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut uri = "file://".to_owned();
    for byte in absolute.as_os_str().as_bytes() {
        // Writing to a String cannot fail.
        let _ = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.write_char(char::from(*byte)),
            _ => write!(uri, "%{byte:02x}"),
        };
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri, flags)
}

fn locked(path: &Path, options: &SqliteOptions) -> SourceError {
    let seconds = options.busy_timeout.as_secs_f32();
    content(path, format!("is locked by another process; waited {seconds} s for it to finish its transaction"))
}

fn sqlite_error(path: &Path, options: &SqliteOptions, error: &rusqlite::Error) -> SourceError {
    let temp_dir = |kind| SourceError::Path {
        operation: "store a temporary image of the database in",
        path: options.temp_dir.clone(),
        source: kind,
    };
    if error.sqlite_error().is_some_and(|inner| inner.extended_code == rusqlite::ffi::SQLITE_IOERR_WRITE) {
        // The source is open for reading only, so the write that failed was one to the image. SQLite keeps the system's
        // reason to itself: all but a full disk (a quota, a limit on the size of files) comes as this code.
        let reason = format!("it is full, or there is a quota or a limit on the size of files ({error})");
        return temp_dir(std::io::Error::new(std::io::ErrorKind::StorageFull, reason));
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => content(path, NOT_A_DATABASE),
        Some(ErrorCode::DatabaseCorrupt) => content(path, format!("is damaged: {error}")),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => locked(path, options),
        // Nothing is written but the image, so a full disk can only be the temporary one.
        Some(ErrorCode::DiskFull) => temp_dir(rustix::io::Errno::NOSPC.into()),
        Some(ErrorCode::OperationInterrupted) => SourceError::Interrupted,
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => content(
            path,
            format!(
                "cannot be opened for reading ({error}): a database whose last transactions are in a -wal or -journal \
                 file needs write access to its directory; run the backup as a user who has it, or close the program \
                 that uses the database"
            ),
        ),
        _ => content(path, format!("cannot be copied: {error}")),
    }
}

/// Why an image is not good.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// SQLite cannot read it.
    #[error("SQLite cannot read the image")]
    Sqlite(#[from] rusqlite::Error),
    /// The integrity check found damage.
    #[error("The integrity check says: {0}")]
    Damaged(String),
}

fn check_reason(error: &ImageError) -> String {
    match error {
        ImageError::Sqlite(inner) if is_damage(inner) => format!("is damaged: {inner}"),
        ImageError::Sqlite(inner) => format!("gave an image that cannot be read: {inner}"),
        ImageError::Damaged(text) => format!("is damaged: the integrity check says: {text}"),
    }
}

/// Checks an image that nobody else uses: integrity, page size, rows per table. Writes nothing beside it.
/// # Errors
/// [`ImageError`].
pub fn check_image(path: &Path) -> Result<ImageCheck, ImageError> {
    let image = open_immutable(path)?;
    let mut warnings = Vec::new();
    match integrity(&image, "PRAGMA integrity_check(10)") {
        Err(ImageError::Sqlite(error)) if !is_damage(&error) => {
            // A collation or a function that only the application has keeps SQLite from comparing rows with indexes.
            // The structure can still be walked, page by page.
            image.query_row("SELECT count(*) FROM dbstat", [], |row| row.get::<_, i64>(0))?;
            warnings.push(note("sqlite.structure_only", "", format!("Only the structure was checked: {error}")));
        }
        other => other?,
    }
    let page_size: i64 = image.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let tables = count_rows(&image, &mut warnings)?;
    Ok(ImageCheck { tables, page_size: u32::try_from(page_size).unwrap_or_default(), warnings })
}

/// The tables and indexes that these pages of an image belong to, sorted; pages are numbered from 1.
/// # Errors
/// What SQLite says, for an image that is too damaged to walk.
pub fn tables_of_pages(path: &Path, pages: &[u64]) -> Result<Vec<String>, ImageError> {
    let image = open_immutable(path)?;
    let wanted: std::collections::HashSet<u64> = pages.iter().copied().collect();
    // One walk: the table of pages has no index.
    let mut statement = image.prepare("SELECT name, pageno FROM dbstat")?;
    let mut rows = statement.query([])?;
    let mut names = std::collections::BTreeSet::new();
    while let Some(row) = rows.next()? {
        let page: i64 = row.get(1)?;
        if u64::try_from(page).is_ok_and(|page| wanted.contains(&page)) {
            names.insert(row.get(0)?);
        }
    }
    Ok(names.into_iter().collect())
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn integrity(image: &Connection, pragma: &str) -> Result<(), ImageError> {
    let mut statement = image.prepare(pragma)?;
    let lines: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if lines == ["ok"] { Ok(()) } else { Err(ImageError::Damaged(lines.join("; "))) }
}

/// Counts real tables. A virtual table has no rows of its own, only those of its shadow tables.
fn count_rows(image: &Connection, warnings: &mut Vec<SourceWarning>) -> Result<Vec<TableRows>, ImageError> {
    let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\\_%' \
                 ESCAPE '\\' ORDER BY name";
    let mut statement = image.prepare(names)?;
    let mut rows = statement.query([])?;
    let mut tables = Vec::new();
    while let Some(row) = rows.next()? {
        let table: String = row.get(0)?;
        if tables.len() >= TABLES_MAX {
            let message = format!("Only the rows of the first {TABLES_MAX} tables are counted");
            warnings.push(note("sqlite.too_many_tables", "", message));
            break;
        }
        let count = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
        match image.query_row(&count, [], |row| row.get::<_, i64>(0)) {
            Ok(count) => tables.push(TableRows { table, rows: u64::try_from(count).unwrap_or_default() }),
            Err(error) if is_damage(&error) => return Err(error.into()),
            Err(error) => {
                let message = format!("The rows of {table} cannot be counted: {error}");
                warnings.push(note("sqlite.uncounted", &table, message));
            }
        }
    }
    Ok(tables)
}

fn note(code: &str, subject: &str, message: String) -> SourceWarning {
    SourceWarning { code: code.into(), subject: subject.into(), message, incomplete: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path) -> SqliteOptions {
        SqliteOptions { temp_dir: dir.to_path_buf(), busy_timeout: Duration::from_secs(20), interrupt: None }
    }

    fn database(dir: &Path, pragmas: &str, rows: u32) -> PathBuf {
        let path = dir.join("db file?#%.sqlite3");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(pragmas).unwrap();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT); CREATE INDEX i ON t (body)").unwrap();
        db.execute_batch("CREATE TABLE \"we\"\"ird\" (x); CREATE TABLE e (x) ").unwrap();
        db.execute_batch("INSERT INTO \"we\"\"ird\" VALUES (1), (2)").unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
                    INSERT INTO t SELECT i, 'body ' || i || hex(randomblob(40)) FROM n";
        db.execute(fill, [rows]).unwrap();
        path
    }

    fn image(path: &Path, options: &SqliteOptions) -> Result<(Vec<u8>, StreamProof), SourceError> {
        let mut stream = Box::new(SqliteStream::open(path, options)?);
        let (mut out, mut buffer) = (Vec::new(), vec![0u8; 65536]);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok((out, stream.finish()?)),
                n => out.extend_from_slice(&buffer[..n]),
            }
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_image_of_every_page_size_and_mode_is_whole_and_stable() {
        for page_size in [512, 4096, 65536] {
            for mode in ["delete", "wal"] {
                let (dir, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                let pragmas = format!("PRAGMA page_size = {page_size}; PRAGMA journal_mode = {mode}");
                let path = database(dir.path(), &pragmas, 500);
                let before = (names(dir.path()), std::fs::read(&path).unwrap());
                let (first, proof) = image(&path, &options(temp.path())).unwrap();
                let rows: Vec<_> = proof.tables.iter().map(|t| (t.table.as_str(), t.rows)).collect();
                assert_eq!(rows, [("e", 0), ("t", 500), ("we\"ird", 2)]);
                assert_eq!(proof.warnings, []);
                let (second, _) = image(&path, &options(temp.path())).unwrap();
                assert!(first == second, "{page_size} {mode}: two images of the same data differ");
                assert_eq!(before, (names(dir.path()), std::fs::read(&path).unwrap()), "the source was written to");
                assert_eq!(names(temp.path()), Vec::<String>::new(), "temporary files are left");
                let stored = temp.path().join("restored");
                std::fs::write(&stored, &first).unwrap();
                assert_eq!(check_image(&stored).unwrap().page_size, page_size);
            }
        }
    }

    /// A writer at full speed moves value between rows and appends; the sum and the pairing tell a torn image.
    fn with_writer(mode: &str, check: impl FnOnce(&Path, &Path)) -> u64 {
        let (dir, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = dir.path().join("live.db");
        let db = Connection::open(&path).unwrap();
        db.busy_timeout(Duration::from_secs(30)).unwrap();
        db.execute_batch(&format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = OFF")).unwrap();
        db.execute_batch(
            "CREATE TABLE a (id INTEGER PRIMARY KEY, v INTEGER, pad BLOB); CREATE TABLE b (id INTEGER PRIMARY KEY)",
        )
        .unwrap();
        db.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
             INSERT INTO a SELECT i, 100, randomblob(200) FROM n",
        )
        .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writer = std::thread::spawn(move || {
            let mut commits = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                let (from, to) = (commits * 7919 % 20000 + 1, commits * 104_729 % 20000 + 1);
                db.execute_batch(&format!(
                    "BEGIN IMMEDIATE; UPDATE a SET v = v - 1 WHERE id = {from}; UPDATE a SET v = v + 1 WHERE id = {to}; \
                     INSERT INTO b VALUES (NULL); INSERT INTO a VALUES (NULL, 0, randomblob(200)); COMMIT"
                ))
                .unwrap();
                commits += 1;
            }
            commits
        });
        check(&path, temp.path());
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    }

    #[test]
    fn images_under_a_writer_at_full_speed_are_consistent() {
        for mode in ["wal", "delete"] {
            let commits = with_writer(mode, |path, temp| {
                for round in 0..25 {
                    let (bytes, proof) = image(path, &options(temp)).unwrap();
                    let copy = temp.join("copy");
                    std::fs::write(&copy, bytes).unwrap();
                    let db = open_immutable(&copy).unwrap();
                    let sum: i64 = db.query_row("SELECT sum(v) FROM a", [], |row| row.get(0)).unwrap();
                    let rows: Vec<u64> = proof.tables.iter().map(|t| t.rows).collect();
                    assert_eq!((sum, rows[0]), (2_000_000, rows[1] + 20_000), "{mode} {round}");
                }
            });
            assert!(commits > 25, "the writer stood still: {commits} commits in {mode} mode");
        }
    }

    #[test]
    fn what_is_no_good_database_is_told_clearly() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let reason = |path: &Path| image(path, &options(dir.path())).unwrap_err().to_string();
        assert!(reason(&path).starts_with("Cannot read database"));
        for (bytes, wanted) in [
            (vec![], "is empty"),
            (b"short".to_vec(), "is not an SQLite database"),
            (vec![0x5a; 8192], "or it is encrypted"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(reason(&path).contains(wanted), "{}", reason(&path));
        }
        assert!(reason(dir.path()).contains("is not a file"));
    }

    #[test]
    fn a_damaged_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), "PRAGMA page_size = 1024", 2000);
        let good = std::fs::read(&path).unwrap();
        for page in [1usize, 3, 40, good.len() / 1024 - 2] {
            let mut bytes = good.clone();
            bytes[page * 1024..page * 1024 + 1024].fill(0xee);
            std::fs::write(&path, &bytes).unwrap();
            let error = image(&path, &options(dir.path())).unwrap_err();
            assert!(error.to_string().contains("is damaged"), "{page}: {error}");
        }
        std::fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(image(&path, &options(dir.path())).is_err());
    }

    #[test]
    fn a_lock_that_stays_and_an_interrupt_end_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), "PRAGMA journal_mode = delete", 10);
        let db = Connection::open(&path).unwrap();
        db.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let mut options = options(dir.path());
        options.busy_timeout = Duration::from_millis(100);
        let error = image(&path, &options).unwrap_err();
        assert!(error.to_string().contains("is locked by another process"), "{error}");
        db.execute_batch("ROLLBACK").unwrap();
        assert!(image(&path, &options).is_ok());
        options.interrupt = Some(Arc::new(AtomicBool::new(true)));
        assert!(matches!(image(&path, &options), Err(SourceError::Interrupted)));
    }

    #[test]
    fn a_bad_temporary_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), "", 10);
        let error = image(&path, &options(Path::new("/nonexistent/tmp"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tmp"), "{error}");
    }

    #[test]
    fn a_full_temporary_directory_is_named() {
        let of = |code| {
            let failure = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            sqlite_error(Path::new("app.db"), &options(Path::new("/small/tmp")), &failure)
        };
        for code in [rusqlite::ffi::SQLITE_FULL, rusqlite::ffi::SQLITE_IOERR_WRITE] {
            let error = of(code);
            let SourceError::Path { path, source, .. } = &error else { panic!("{error}") };
            assert_eq!((path.as_path(), source.kind()), (Path::new("/small/tmp"), std::io::ErrorKind::StorageFull));
        }
        // What cannot be read is the source's own affair.
        assert!(matches!(of(rusqlite::ffi::SQLITE_IOERR_READ), SourceError::Content { .. }));
    }

    #[test]
    fn an_index_of_an_unknown_collation_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "CREATE TABLE t (x TEXT COLLATE nocase); CREATE INDEX i ON t (x); INSERT INTO t VALUES ('a'), ('b'); \
             PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'nocase', 'mine')",
        )
        .unwrap();
        drop(db);
        let (_, proof) = image(&path, &options(dir.path())).unwrap();
        assert_eq!((proof.tables[0].rows, proof.warnings[0].code.as_str()), (2, "sqlite.structure_only"));
    }
}
