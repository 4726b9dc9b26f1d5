//! What the bytes of a file are, and whether they are whole.

use super::sql_text::SqlText;
use super::tar_format::{self, TarJudge};
use super::unpack::Packing;
use super::{Content, OriginalOptions, content_error};
use crate::source::postgres::dump_format;
use crate::source::postgres::inspect::{Inspector, Promise, compression_of};
use crate::source::postgres::plain_format::PlainKind;
use crate::source::sqlite::{self, ImageError};
use crate::source::{SourceError, StreamProof};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Bytes that are enough to tell every known kind.
const SNIFF_BYTES: usize = 512;
/// The first bytes of a SQLite database.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

/// Why a file is not good.
pub(super) enum Reason {
    /// The predicate of a sentence about the file.
    Text(String),
    /// The temporary copy cannot be written.
    Temporary(PathBuf, io::Error),
}

impl Reason {
    pub(super) fn about(self, path: &Path) -> SourceError {
        match self {
            Self::Text(reason) => content_error(path, reason),
            Self::Temporary(path, source) => SourceError::Path { operation: "write", path, source },
        }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

enum Reader {
    Undecided(Vec<u8>),
    /// A reader of PostgreSQL's and MySQL's dumps.
    Dump(Box<Inspector>, Content),
    Sql(Box<SqlText>),
    Tar(Box<TarJudge>),
    /// A database: the file itself, or what is unpacked from it.
    Sqlite(Option<NamedTempFile>),
}

/// Watches the unpacked bytes of one file.
pub(super) struct Judge {
    path: PathBuf,
    packing: Packing,
    temp_dir: PathBuf,
    reader: Reader,
}

impl Judge {
    pub(super) fn new(path: &Path, packing: Packing, options: &OriginalOptions) -> Self {
        let temp_dir = options.temp_dir.clone();
        Self { path: path.to_owned(), packing, temp_dir, reader: Reader::Undecided(Vec::new()) }
    }

    pub(super) fn feed(&mut self, input: &[u8]) -> Result<(), Reason> {
        match &mut self.reader {
            Reader::Undecided(held) => {
                held.extend_from_slice(input);
                if held.len() >= SNIFF_BYTES {
                    self.decide()?;
                }
            }
            Reader::Dump(inspector, _) => inspector.feed(input),
            Reader::Sql(sql) => sql.feed(input),
            Reader::Tar(tar) => tar.feed(input),
            Reader::Sqlite(None) => {}
            Reader::Sqlite(Some(copy)) => {
                let path = copy.path().to_owned();
                copy.as_file_mut().write_all(input).map_err(|error| Reason::Temporary(path, error))?;
            }
        }
        Ok(())
    }

    /// Chooses a reader by the first bytes.
    fn decide(&mut self) -> Result<(), Reason> {
        let Reader::Undecided(held) = &mut self.reader else { return Ok(()) };
        let held = std::mem::take(held);
        let dump = |content| Reader::Dump(Box::new(Inspector::new(Promise::Anything)), content);
        self.reader = if held.starts_with(dump_format::MAGIC) {
            dump(Content::PostgresArchive)
        } else if let Some(kind) = PlainKind::of(&held) {
            dump(match kind {
                PlainKind::PgDump => Content::PostgresScript,
                PlainKind::PgDumpAll => Content::ClusterScript,
                PlainKind::MySqlDump => Content::MySqlScript,
            })
        } else if held.starts_with(SQLITE_MAGIC) {
            Reader::Sqlite(self.sqlite_copy()?)
        } else if tar_format::is_header(&held) || held.iter().all(|b| *b == 0) {
            Reader::Tar(Box::default())
        } else if let Some(reason) = self.foreign(&held) {
            return Err(reason.into());
        } else {
            Reader::Sql(Box::new(SqlText::new(&held)))
        };
        self.feed(&held)
    }

    /// A place to unpack a database to; none where the file itself can be looked at.
    fn sqlite_copy(&self) -> Result<Option<NamedTempFile>, Reason> {
        if self.packing == Packing::None {
            for suffix in ["-wal", "-journal"] {
                let mut beside = self.path.clone().into_os_string();
                beside.push(suffix);
                if std::fs::metadata(&beside).is_ok_and(|metadata| metadata.len() > 0) {
                    let name = PathBuf::from(beside);
                    return Err(format!(
                        "is a SQLite database in use: {} holds changes that are not in it; save it with `holdfast \
                         backup --sqlite`",
                        name.display()
                    )
                    .into());
                }
            }
            return Ok(None);
        }
        let file = tempfile::Builder::new().prefix("holdfast-import-").tempfile_in(&self.temp_dir);
        file.map(Some).map_err(|error| Reason::Temporary(self.temp_dir.clone(), error))
    }

    /// What is known not to be readable.
    fn foreign(&self, head: &[u8]) -> Option<String> {
        let kind = compression_of(head)?;
        let inner = if self.packing == Packing::None { "" } else { "what is unpacked from it " };
        Some(match kind {
            "zip" if head.get(6).is_some_and(|flags| flags & 1 == 1) => {
                format!("cannot be read: {inner}is a ZIP archive protected by a password; unpack it first")
            }
            "zip" | "7z" | "lz4" => format!("cannot be read: {inner}is packed with {kind}; unpack it first"),
            "age" | "gpg" | "openssl" => {
                format!("cannot be read: {inner}is encrypted ({kind}); decrypt it first, holdfast encrypts by itself")
            }
            _ => format!("cannot be read: {inner}is packed once more ({kind}); unpack it first"),
        })
    }

    pub(super) fn finish(mut self) -> Result<(Content, StreamProof), Reason> {
        if matches!(&self.reader, Reader::Undecided(held) if held.is_empty()) {
            return Err("holds no bytes".to_owned().into());
        }
        self.decide()?;
        let warned = |warnings| StreamProof { warnings, ..StreamProof::default() };
        match self.reader {
            Reader::Dump(inspector, content) => Ok((content, inspector.finish()?)),
            Reader::Sql(sql) => Ok((Content::Sql, warned(sql.finish()?))),
            Reader::Tar(tar) => Ok((Content::Tar, warned(tar.finish()?))),
            Reader::Sqlite(copy) => {
                let path = copy.as_ref().map_or(self.path.as_path(), |copy| copy.path());
                let check = sqlite::check_image(path).map_err(|error| match error {
                    ImageError::Damaged(text) => format!("is damaged: the integrity check says: {text}"),
                    ImageError::Sqlite(error) => format!("is damaged: {error}"),
                })?;
                let proof = StreamProof { tables: check.tables, volatile: Vec::new(), warnings: check.warnings };
                Ok((Content::Sqlite, proof))
            }
            Reader::Undecided(_) => Err("holds no bytes".to_owned().into()),
        }
    }
}
