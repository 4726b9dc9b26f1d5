//! One regular file being restored.
//!
//! Invariant: a file whose contents did not arrive whole, or are not those of the snapshot, is removed again.

use super::attributes::Setter;
use super::{TargetError, shown};
use crate::domain::entry::{Entry, EntryKind, FileContent};
use crate::domain::snapshot::SourceWarning;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::AtFlags;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Takes the stored bytes of one file in order; holes are made where the entry has them.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    directory: Arc<OwnedFd>,
    name: Vec<u8>,
    /// The name that the file gets when it is whole; none: it has it.
    final_name: Option<Vec<u8>>,
    entry: Entry,
    setter: Setter,
    hasher: blake3::Hasher,
    /// Index of the extent that is being written.
    extent: usize,
    /// Bytes written of it.
    in_extent: u64,
    complete: bool,
}

impl FileSink {
    pub(super) fn new(file: OwnedFd, directory: Arc<OwnedFd>, name: Vec<u8>, entry: Entry, setter: Setter) -> Self {
        let hasher = blake3::Hasher::new();
        let file = File::from(file);
        let final_name = None;
        Self { file, directory, name, final_name, entry, setter, hasher, extent: 0, in_extent: 0, complete: false }
    }

    /// The file gets this name when it is whole, in the place of what has it.
    pub(super) fn renamed_to(mut self, name: Vec<u8>) -> Self {
        self.final_name = Some(name);
        self
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// [`TargetError::NoSpace`], [`TargetError::Io`], and [`TargetError::Content`] for more bytes than the file has.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), TargetError> {
        self.hasher.update(bytes);
        while !bytes.is_empty() {
            let Some((offset, length)) = self.current_extent() else {
                return Err(self.content("more bytes came than the file has"));
            };
            let room = usize::try_from(length - self.in_extent).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            let result = self.file.write_all_at(now, offset + self.in_extent);
            result.map_err(|error| TargetError::from_io("write", &self.entry.path, error))?;
            self.in_extent += now.len() as u64;
            if self.in_extent == length {
                self.extent += 1;
                self.in_extent = 0;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Checks the contents and sets the metadata. Returns what could not be set.
    ///
    /// # Errors
    /// [`TargetError::Content`] when bytes are missing or differ from the snapshot; the file is gone then.
    pub fn finish(mut self) -> Result<Vec<SourceWarning>, TargetError> {
        if self.current_extent().is_some() {
            return Err(self.content("bytes are missing"));
        }
        let content = self.file_content();
        if self.hasher.finalize().as_bytes() != &content.hash.0 {
            return Err(self.content("their BLAKE3 hash differs"));
        }
        if content.sparse {
            let result = self.file.set_len(content.size);
            result.map_err(|error| TargetError::from_io("set the size of", &self.entry.path, error))?;
        }
        let mut findings = Vec::new();
        self.setter.set_open(self.file.as_fd(), &self.entry, self.entry.mode, &mut findings);
        if let Some(name) = &self.final_name {
            let fault = |operation, error| TargetError::from_io(operation, &self.entry.path, error);
            // First the contents, then the name: a power failure leaves the old file or the new one.
            self.file.sync_data().map_err(|error| fault("sync", error))?;
            let at = self.directory.as_fd();
            let renamed = rustix::fs::renameat(at, self.name.as_slice(), at, name.as_slice());
            renamed.map_err(|error| fault("rename", error.into()))?;
        }
        self.complete = true;
        Ok(findings)
    }

    fn file_content(&self) -> FileContent {
        match &self.entry.kind {
            EntryKind::File(content) => content.clone(),
            _ => FileContent::default(),
        }
    }

    /// The span that the next byte belongs to; none behind the last byte.
    fn current_extent(&self) -> Option<(u64, u64)> {
        let EntryKind::File(content) = &self.entry.kind else { return None };
        if content.sparse {
            return content.extents.get(self.extent).copied();
        }
        (self.extent == 0 && content.size > 0).then_some((0, content.size))
    }

    fn content(&self, reason: &'static str) -> TargetError {
        TargetError::Content { path: shown(&self.entry.path), reason }
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if !self.complete {
            // Half a file must not pass for a whole one. If it cannot be removed, the error that led here still ends
            // the restore.
            let _ = rustix::fs::unlinkat(self.directory.as_fd(), self.name.as_slice(), AtFlags::empty());
        }
    }
}
