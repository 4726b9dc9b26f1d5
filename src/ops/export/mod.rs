//! Export: a snapshot as plain files, with the checksums that `sha256sum -c` reads and a manifest in JSON.
//!
//! Everything is made below a staged name beside its place, hashed again as it lies on disk, synced, and then gets its
//! name by one rename that replaces nothing. What stands under the name is whole.

use super::cancel::Cancel;
use super::observer::{Event, Observer, Progress};
use super::restore::{self, Options};
use crate::domain::id::Digest;
use crate::domain::snapshot::{Snapshot, StreamRole};
use crate::domain::system::Random;
use crate::repository::reading::Reading;
use crate::repository::snapshots::LoadedSnapshot;
use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{CWD, RenameFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file of checksums.
pub const SUMS: &str = "SHA256SUMS";
/// The manifest.
pub const MANIFEST: &str = "manifest.json";
/// Bytes hashed at a time.
const READ_BYTES: usize = 1 << 20;

/// Where to, and what.
#[derive(Debug)]
pub struct ExportOptions {
    /// The folder that is to be: everything of it is made anew.
    pub place: PathBuf,
    /// What of the snapshot, and which attributes of files; its target is not used.
    pub restore: Options,
}

/// A finished export.
#[derive(Debug, Clone, Default)]
pub struct ExportReport {
    /// What was restored into the folder.
    pub restored: restore::Report,
    /// Files with a checksum, the manifest among them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The place is taken. Nothing was touched.
    #[error("{} exists", path.display())]
    Exists {
        /// The place.
        path: PathBuf,
    },
    /// The snapshot cannot be put back.
    #[error("The snapshot cannot be exported")]
    Restore(#[from] Box<restore::Error>),
    /// Something of the snapshot is damaged, so that nothing was exported.
    #[error("The snapshot cannot be exported completely")]
    Lost {
        /// What was lost.
        report: Box<restore::Report>,
    },
    /// The snapshot itself has a file where the checksums or the manifest are put.
    #[error("The snapshot has a file named {name} of its own")]
    NameTaken {
        /// The name.
        name: &'static str,
    },
    /// What lies on disk is not what the snapshot has.
    #[error("{} is not what the snapshot has: its SHA-256 is another one", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
    },
    /// The system refused something.
    #[error("Cannot {operation} {}", path.display())]
    Io {
        /// The verb.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::Io { operation, path, source }
}

/// What an export works with.
pub struct ExportMeans<'a> {
    /// The repository.
    pub reading: &'a Reading,
    /// Other snapshots, to name better ones of failed sources; may be empty.
    pub history: &'a [LoadedSnapshot],
    /// For the staged name.
    pub random: &'a dyn Random,
    /// Watches.
    pub observer: &'a dyn Observer,
    /// Ends the run early.
    pub cancel: &'a Cancel,
    /// Writes the manifest; it is given the number of files and their bytes.
    pub manifest: &'a dyn Fn(u64, u64) -> Vec<u8>,
}

impl std::fmt::Debug for ExportMeans<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExportMeans")
    }
}

/// The staged folder; removed with all that is in it unless it got its name.
struct Staged {
    path: PathBuf,
    named: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.named {
            // best effort: its name says what it is
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Exports a snapshot.
///
/// # Errors
/// [`ExportError`]; nothing is left under the place's name then.
pub fn run(means: &ExportMeans<'_>, snapshot: &Snapshot, options: ExportOptions) -> Result<ExportReport, ExportError> {
    let ExportOptions { place, restore } = options;
    if place.symlink_metadata().is_ok() {
        return Err(ExportError::Exists { path: place });
    }
    if restore.dry_run {
        let options = Options { target: place, ..restore };
        let run = restore::run(means.reading, snapshot, means.history, &options, means.observer, means.cancel);
        let restored = run.map_err(Box::new)?;
        return Ok(ExportReport { restored, ..ExportReport::default() });
    }
    let parent = place.parent().unwrap_or(Path::new("/")).to_owned();
    std::fs::create_dir_all(&parent).map_err(io_error("create", &parent))?;
    let unique = Digest(means.random.bytes()).hex();
    let name = format!(".holdfast-export-{}-{}", snapshot.id.short(), unique.get(..8).unwrap_or_default());
    let mut staged = Staged { path: parent.join(name), named: false };
    std::fs::create_dir(&staged.path).map_err(io_error("create", &staged.path))?;
    let options = Options { target: staged.path.clone(), ..restore };
    let run = restore::run(means.reading, snapshot, means.history, &options, means.observer, means.cancel);
    let mut restored = run.map_err(Box::new)?;
    if restored.lost_count > 0 {
        return Err(ExportError::Lost { report: Box::new(restored) });
    }
    let (files, bytes) = describe(means, snapshot, &staged.path)?;
    let folder = File::open(&staged.path).map_err(io_error("open", &staged.path))?;
    rustix::fs::syncfs(&folder).map_err(|e| io_error("sync", &staged.path)(e.into()))?;
    rustix::fs::renameat_with(CWD, &staged.path, CWD, &place, RenameFlags::NOREPLACE).map_err(|error| match error {
        rustix::io::Errno::EXIST => ExportError::Exists { path: place.clone() },
        error => io_error("rename", &place)(error.into()),
    })?;
    staged.named = true;
    let synced = File::open(&parent).and_then(|folder| folder.sync_all());
    synced.map_err(io_error("sync", &parent))?;
    restored.target = place.to_string_lossy().into_owned();
    for written in restored.sources.iter_mut().flat_map(|source| &mut source.written) {
        if let Ok(below) = Path::new(written.as_str()).strip_prefix(&staged.path) {
            *written = place.join(below).to_string_lossy().into_owned();
        }
    }
    Ok(ExportReport { restored, files, bytes })
}

/// Writes checksums and manifest; gives the number of files and their bytes.
fn describe(means: &ExportMeans<'_>, snapshot: &Snapshot, folder: &Path) -> Result<(u64, u64), ExportError> {
    for name in [SUMS, MANIFEST] {
        if folder.join(name).symlink_metadata().is_ok() {
            return Err(ExportError::NameTaken { name });
        }
    }
    let mut paths = Vec::new();
    files_below(folder, Path::new(""), &mut paths)?;
    paths.sort();
    let phase = "hashing what was exported";
    let total_items = Some(paths.len() as u64);
    means.observer.event(&Event::PhaseStarted { phase, total_bytes: None, total_items });
    let sums = folder.join(SUMS);
    let mut out = BufWriter::new(File::create_new(&sums).map_err(io_error("create", &sums))?);
    let (mut files, mut bytes) = (0, 0);
    for path in &paths {
        let (digest, length) = hash(means.cancel, &folder.join(path))?;
        if recorded(snapshot, path).is_some_and(|expected| expected != digest) {
            return Err(ExportError::Differs { path: path.clone() });
        }
        write_sum(&mut out, digest, path).map_err(io_error("write", &sums))?;
        (files, bytes) = (files + 1, bytes + length);
        means.observer.event(&Event::Progress(Progress {
            bytes_done: bytes,
            items_done: files,
            total_items,
            current: Some(path.as_os_str().as_bytes()),
            ..Progress::default()
        }));
    }
    let manifest = folder.join(MANIFEST);
    let text = (means.manifest)(files, bytes);
    let mut file = File::create_new(&manifest).map_err(io_error("create", &manifest))?;
    file.write_all(&text).map_err(io_error("write", &manifest))?;
    let (digest, length) = hash(means.cancel, &manifest)?;
    write_sum(&mut out, digest, Path::new(MANIFEST)).map_err(io_error("write", &sums))?;
    out.into_inner().map_err(|error| io_error("write", &sums)(error.into_error()))?;
    Ok((files + 1, bytes + length))
}

/// What the record says about a stream that became a file.
fn recorded(snapshot: &Snapshot, path: &Path) -> Option<Digest> {
    let streams = snapshot.sources.iter().flat_map(|source| &source.streams);
    let mut data = streams.filter(|s| matches!(s.role, StreamRole::Data | StreamRole::Globals));
    let stream = data.find(|stream| Path::new(&stream.file_name) == path)?;
    // of two sources with files of one name, the first was restored
    stream.sha256
}

/// Paths of regular files, relative to the folder; links are not followed.
fn files_below(top: &Path, below: &Path, found: &mut Vec<PathBuf>) -> Result<(), ExportError> {
    let folder = top.join(below);
    let entries = std::fs::read_dir(&folder).map_err(io_error("read", &folder))?;
    for entry in entries {
        let entry = entry.map_err(io_error("read", &folder))?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type().map_err(io_error("read", &path))?;
        if kind.is_dir() {
            files_below(top, &path, found)?;
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

fn hash(cancel: &Cancel, path: &Path) -> Result<(Digest, u64), ExportError> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0u8; READ_BYTES];
    let mut length = 0;
    loop {
        cancel.check().map_err(|_| Box::new(restore::Error::Interrupted))?;
        let n = file.read(&mut buffer).map_err(io_error("read", path))?;
        let Some(part) = buffer.get(..n).filter(|part| !part.is_empty()) else { break };
        context.update(part);
        length += part.len() as u64;
    }
    let mut digest = Digest::default();
    digest.0.copy_from_slice(context.finish().as_ref());
    Ok((digest, length))
}

/// One line of `sha256sum`: a name with a backslash or the end of a line in it is escaped, and a backslash in front says
/// so.
fn write_sum(out: &mut impl Write, digest: Digest, path: &Path) -> io::Result<()> {
    let name = OsStr::as_bytes(path.as_os_str());
    let is_escaped = name.iter().any(|b| matches!(b, b'\\' | b'\n' | b'\r'));
    if is_escaped {
        out.write_all(b"\\")?;
    }
    write!(out, "{digest}  ")?;
    for byte in name {
        match byte {
            b'\\' => out.write_all(b"\\\\")?,
            b'\n' => out.write_all(b"\\n")?,
            b'\r' => out.write_all(b"\\r")?,
            other => out.write_all(&[*other])?,
        }
    }
    out.write_all(b"\n")
}
