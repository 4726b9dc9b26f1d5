//! Files being written under `tmp/`, and their way to a final name.
//!
//! Invariant: a file whose write or sync failed never gets a name, and is removed.

use super::{ATTEMPTS_MAX, Inner, lock, random_hex, split_name};
use crate::fsio::disk::DiskFile;
use crate::storage::{ErrorKind, ObjectKind, ObjectName, ObjectWriter, Result};
use std::fs::TryLockError;
use std::io;
use std::sync::Arc;

/// A file under `tmp/`, locked against cleaners; removed when dropped without [`Pending::into_file`].
pub(super) struct Pending {
    inner: Arc<Inner>,
    path: String,
    file: Option<Box<dyn DiskFile>>,
    written: u64,
    /// A write or sync failed: what the file holds is unknown from then on.
    dead: bool,
}

impl Pending {
    /// Creates and locks a new file.
    pub(super) fn create(inner: &Arc<Inner>) -> io::Result<Self> {
        let session = lock(&inner.session).map_or_else(|| "none".to_owned(), |id| id.hex());
        inner.root.create_folder("tmp")?;
        for _ in 0..ATTEMPTS_MAX {
            let path = format!("tmp/{session}-{}", random_hex());
            let file = inner.root.create_file(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => {
                    let _ = inner.root.remove_file(&path);
                    return Err(error);
                }
            }
            // A cleaner may have seen the file in the moment before it was locked.
            if file.has_name()? {
                return Ok(Self { inner: Arc::clone(inner), path, file: Some(file), written: 0, dead: false });
            }
        }
        Err(io::Error::other("temporary files were removed again and again"))
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let result = self.usable().and_then(|file| file.append(bytes));
        match &result {
            Ok(()) => self.written += bytes.len() as u64,
            Err(_) => self.dead = true,
        }
        result
    }

    /// Makes the bytes durable. Called once: what a second sync says after a failed one is worth nothing.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let written = self.written;
        let result = self.usable().and_then(|file| {
            let length = file.bytes()?;
            if length != written {
                return Err(io::Error::other(format!("it has {length} bytes after {written} were written")));
            }
            file.sync()
        });
        self.dead |= result.is_err();
        result
    }

    /// Keeps the file, which has another name by now, and its lock.
    pub(super) fn into_file(mut self) -> Box<dyn DiskFile> {
        match self.file.take() {
            Some(file) => file,
            None => unreachable!("only this function takes the file, and it consumes the value"),
        }
    }

    fn usable(&self) -> io::Result<&dyn DiskFile> {
        match &self.file {
            Some(file) if !self.dead => Ok(file.as_ref()),
            _ => Err(io::Error::other("an earlier write to the same file failed")),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What cannot be removed now is a leftover that is cleared later.
            let _ = self.inner.root.remove_file(&self.path);
        }
    }
}

/// An object being written.
pub(super) struct LocalWriter {
    pending: Pending,
    name: ObjectName,
}

impl LocalWriter {
    pub(super) fn new(inner: &Arc<Inner>, name: &ObjectName) -> Result<Self> {
        if matches!(name.kind(), None | Some(ObjectKind::Temporary)) {
            return Err(inner.refusal(ErrorKind::Unsuitable, "write", name.as_str()));
        }
        let pending = Pending::create(inner).map_err(|error| inner.error("write", name.as_str(), error))?;
        Ok(Self { pending, name: name.clone() })
    }

    /// Says why the name could not be given or made durable.
    fn naming_failed(&self, error: io::Error) -> crate::storage::Error {
        let inner = &self.pending.inner;
        if error.kind() == io::ErrorKind::NotFound && self.name.kind() == Some(ObjectKind::Session) {
            let id = self.name.as_str().split('/').nth(1).unwrap_or_default();
            if let Ok(false) = inner.session_exists(id) {
                return inner.refusal(ErrorKind::Fenced, "write", self.name.as_str());
            }
        }
        inner.error("write", self.name.as_str(), error)
    }
}

impl ObjectWriter for LocalWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let wrap = |error| (self.name.as_str().to_owned(), error);
        self.pending.write(bytes).map_err(wrap).map_err(|(name, error)| self.pending.inner.error("write", name, error))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let inner = Arc::clone(&self.pending.inner);
        let name = self.name.as_str().to_owned();
        self.pending.sync().map_err(|error| inner.error("write", name.as_str(), error))?;
        inner.ensure_folder(&self.name).map_err(|error| inner.error("write", name.as_str(), error))?;
        inner.root.rename_new(self.pending.path(), &name).map_err(|error| self.naming_failed(error))?;
        // From here on the object may be seen and used by others, so it stays even if the sync of its folder fails:
        // the caller learns that it cannot rely on it, and at worst it is garbage.
        let (folder, _) = split_name(&name);
        let synced = inner.root.sync_folder(folder).map_err(|error| self.naming_failed(error));
        drop(self.pending.file.take());
        synced
    }
}
