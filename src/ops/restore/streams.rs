//! Streams become files of the target: dumps, database images, outputs of programs.
//!
//! Invariant: a stream's file gets its name only when all its bytes were compared with their proof.

use super::{Error, Options, RestoredSource, Run, is_data};
use crate::domain::snapshot::{Snapshot, SourceRecord, StreamRecord, StreamRole};
use crate::format::tree::name_fault;
use crate::ops::cancel::Cancelled;
use crate::repository::reading::CopyError;
use crate::target::files::{Overwrite, TargetError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Restores the streams of a source into the target, which exists.
pub(super) fn restore(
    run: &mut Run<'_>,
    snapshot: &Snapshot,
    source: &SourceRecord,
    options: &Options,
) -> Result<RestoredSource, Error> {
    let mut restored = RestoredSource::new(source);
    for stream in source.streams.iter().filter(|s| is_data(s.role)) {
        let name = file_name(source, stream);
        if let Some(fault) = name_fault(name.as_bytes()) {
            run.lost(&source.name, Some(name.as_bytes()), format!("{fault} is no name for a file"));
            continue;
        }
        let path = options.target.join(&name);
        let overwrite = options.existing.as_ref().map(|existing| existing.overwrite);
        match overwrite.map_or(Fate::New, |overwrite| fate(&path, overwrite, snapshot, stream)) {
            Fate::New | Fate::Replace => {}
            Fate::Same => {
                run.report.unchanged += 1;
                continue;
            }
            Fate::Keep => {
                run.report.kept += 1;
                continue;
            }
        }
        if let Some(path) = restore_one(run, source, stream, path, overwrite.is_some())? {
            run.items_done += 1;
            run.item("restored", path.as_os_str().as_encoded_bytes(), stream.plain_bytes);
            restored.files += 1;
            restored.plain_bytes += stream.plain_bytes;
            restored.written.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(restored)
}

/// What would be restored.
pub(super) fn show(run: &Run<'_>, source: &SourceRecord) -> RestoredSource {
    let mut restored = RestoredSource::new(source);
    for stream in source.streams.iter().filter(|s| is_data(s.role)) {
        let name = file_name(source, stream);
        run.item("would restore", name.as_bytes(), stream.plain_bytes);
        restored.files += 1;
        restored.plain_bytes += stream.plain_bytes;
        restored.written.push(name);
    }
    restored
}

/// The recorded file name; a source that failed to record one gets its own.
fn file_name(source: &SourceRecord, stream: &StreamRecord) -> String {
    match (stream.file_name.as_str(), stream.role) {
        ("", StreamRole::Globals) => format!("{}.globals.sql", source.name),
        ("", _) => source.name.clone(),
        (name, _) => name.to_owned(),
    }
}

/// What becomes of the file that has a stream's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    New,
    Replace,
    Same,
    Keep,
}

/// Streams have no time of their own: the snapshot's counts.
fn fate(path: &Path, overwrite: Overwrite, snapshot: &Snapshot, stream: &StreamRecord) -> Fate {
    let Ok(metadata) = path.symlink_metadata() else { return Fate::New };
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let modified_ns = modified.map_or(0, |time| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX));
    match overwrite {
        Overwrite::Never => return Fate::Keep,
        Overwrite::IfNewer if i128::from(snapshot.time_ns) <= modified_ns => return Fate::Keep,
        _ => {}
    }
    let same = metadata.is_file()
        && metadata.len() == stream.plain_bytes
        && hash_of(path).is_ok_and(|hash| hash.as_bytes() == &stream.blake3.0);
    if same { Fate::Same } else { Fate::Replace }
}

fn hash_of(path: &Path) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(hasher.finalize())
}

/// None: it was lost, or its name is taken.
fn restore_one(
    run: &mut Run<'_>,
    source: &SourceRecord,
    stream: &StreamRecord,
    path: PathBuf,
    replaces: bool,
) -> Result<Option<PathBuf>, Error> {
    enum Stop {
        Cancelled,
        Write(io::Error),
    }
    impl From<Cancelled> for Stop {
        fn from(_: Cancelled) -> Self {
            Self::Cancelled
        }
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".holdfast-restore-").tempfile_in(directory);
    let mut file: NamedTempFile = file.map_err(|error| target_error("create", &path, error))?;
    let before = run.bytes_done;
    let reading = run.reading;
    let copied = reading.copy_stream(stream, |bytes| {
        run.cancel.check()?;
        file.as_file_mut().write_all(bytes).map_err(Stop::Write)?;
        run.bytes_done += bytes.len() as u64;
        run.progress(&source.name, path.as_os_str().as_encoded_bytes());
        Ok(())
    });
    match copied {
        Ok(()) => {}
        Err(CopyError::Sink(Stop::Cancelled)) => return Err(Error::Interrupted),
        Err(CopyError::Sink(Stop::Write(error))) => return Err(target_error("write", &path, error).into()),
        Err(CopyError::Repository(error)) if super::files::is_lost(&error) => {
            run.bytes_done = before + stream.plain_bytes;
            let name = file_name(source, stream);
            run.lost(&source.name, Some(name.as_bytes()), error.to_string());
            return Ok(None);
        }
        Err(CopyError::Repository(error)) => return Err(error.into()),
    }
    let kept = if replaces {
        file.as_file().sync_all().map_err(|error| target_error("sync", &path, error))?;
        file.persist(&path)
    } else {
        file.persist_noclobber(&path)
    };
    match kept {
        Ok(_) => Ok(Some(path)),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
            let message = "Another source has a file of this name; restore this source by itself with --source";
            let warning = crate::domain::snapshot::SourceWarning {
                code: "file.name_taken".to_owned(),
                subject: path.to_string_lossy().into_owned(),
                message: message.to_owned(),
                incomplete: true,
            };
            run.found(Some(&source.name), vec![warning]);
            Ok(None)
        }
        Err(error) => Err(target_error("create", &path, error.error).into()),
    }
}

/// An error of the target's file system. A file that may not grow is no space, too: the medicine is the same.
pub(super) fn target_error(operation: &'static str, path: &Path, source: io::Error) -> TargetError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            TargetError::NoSpace { path, source }
        }
        _ => TargetError::Io { operation, path, source },
    }
}
