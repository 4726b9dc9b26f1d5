//! What a repository needs of a file system, as traits, so that the test target `tests/sim` can put a simulated disk in
//! the place of a real one: with writes that are lost, torn and reordered, full disks and processes that die anywhere.
//! The program knows one implementation, [`Folder`].
//!
//! A file's bytes are durable after [`DiskFile::sync`], its name after [`Disk::sync_folder`] of the folder that holds it.

use super::folder::{Folder, Item, Kind};
use std::fmt::Debug;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

/// An open folder; all paths are relative to it. The methods are those of [`Folder`], with the same errors.
#[allow(clippy::missing_errors_doc)]
pub trait Disk: Debug + Send + Sync {
    /// Opens a folder below this one.
    fn open_folder(&self, path: &str) -> io::Result<Arc<dyn Disk>>;
    /// Opens a regular file for reading.
    fn open_file(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a regular file so that it can be locked exclusively.
    fn open_to_lock(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Creates a new empty file.
    fn create_file(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Creates a folder; false when one exists.
    fn create_folder(&self, path: &str) -> io::Result<bool>;
    /// Renames a file or folder to a name that must be free.
    fn rename_new(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; false when there was none.
    fn remove_file(&self, path: &str) -> io::Result<bool>;
    /// Removes an empty folder; false when there was none.
    fn remove_folder(&self, path: &str) -> io::Result<bool>;
    /// What stands under a name; `None` when certainly nothing does.
    fn find(&self, path: &str) -> io::Result<Option<Item>>;
    /// The names in a folder, in no order.
    fn items(&self, path: &str) -> io::Result<Vec<Item>>;
    /// The names of the folders in a folder, in no order.
    fn folders(&self, path: &str) -> io::Result<Vec<String>> {
        let items = self.items(path)?;
        Ok(items.into_iter().filter(|item| item.kind == Kind::Folder).map(|item| item.name).collect())
    }
    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &str) -> io::Result<()>;
}

/// An open regular file. Locks end when it is dropped.
#[allow(clippy::missing_errors_doc)]
pub trait DiskFile: Debug + Send + Sync {
    /// Its length.
    fn bytes(&self) -> io::Result<u64>;
    /// False when all its names were removed.
    fn has_name(&self) -> io::Result<bool>;
    /// Locks it for this open file alone.
    fn try_lock(&self) -> Result<(), TryLockError>;
    /// Locks it together with others that do the same.
    fn try_lock_shared(&self) -> Result<(), TryLockError>;
    /// Writes all bytes behind those that were written before.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Makes its bytes durable.
    fn sync(&self) -> io::Result<()>;
    /// Fills the whole buffer from `offset`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// The bytes from its beginning, at most `max` of them.
    fn read_up_to(&self, max: u64) -> io::Result<Vec<u8>>;
}

impl Disk for Folder {
    fn open_folder(&self, path: &str) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(self.folder(path)?))
    }
    fn open_file(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Self::open_file(self, path)?))
    }
    fn open_to_lock(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Self::open_to_lock(self, path)?))
    }
    fn create_file(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Self::create_file(self, path)?))
    }
    fn create_folder(&self, path: &str) -> io::Result<bool> {
        Self::create_folder(self, path)
    }
    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        Self::rename_new(self, from, to)
    }
    fn remove_file(&self, path: &str) -> io::Result<bool> {
        Self::remove_file(self, path)
    }
    fn remove_folder(&self, path: &str) -> io::Result<bool> {
        Self::remove_folder(self, path)
    }
    fn find(&self, path: &str) -> io::Result<Option<Item>> {
        Self::find(self, path)
    }
    fn items(&self, path: &str) -> io::Result<Vec<Item>> {
        Self::items(self, path)
    }
    fn folders(&self, path: &str) -> io::Result<Vec<String>> {
        Self::folders(self, path)
    }
    fn sync_folder(&self, path: &str) -> io::Result<()> {
        Self::sync_folder(self, path)
    }
}

impl DiskFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
    fn has_name(&self) -> io::Result<bool> {
        Ok(self.metadata()?.nlink() > 0)
    }
    fn try_lock(&self) -> Result<(), TryLockError> {
        Self::try_lock(self)
    }
    fn try_lock_shared(&self) -> Result<(), TryLockError> {
        Self::try_lock_shared(self)
    }
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self;
        file.write_all(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
    fn read_up_to(&self, max: u64) -> io::Result<Vec<u8>> {
        let expected = self.metadata()?.len().min(max);
        let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        self.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
