//! An open folder and the durable operations below it: the only place that creates, renames or removes the files of
//! a repository.
//!
//! All paths are relative to the open folder, so that a folder that is moved or hidden by a mount cannot be mistaken
//! for an empty one. Files are opened without following a symbolic link and must be regular files.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    handle: OwnedFd,
}

/// What a name in a folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// Anything else.
    Other,
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Length of a regular file, else 0.
    pub bytes: u64,
}

impl Folder {
    /// Opens an existing folder.
    ///
    /// # Errors
    /// What the system says; `NotADirectory` for anything else than a folder.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { handle: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Opens a folder below this one.
    ///
    /// # Errors
    /// What the system says; `NotADirectory` for anything else than a folder.
    pub fn folder(&self, path: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { handle: rustix::fs::openat(&self.handle, path, flags, Mode::empty())? })
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` for anything that is no regular file.
    pub fn open_file(&self, path: &str) -> io::Result<File> {
        // NONBLOCK: a FIFO in the place of an object must be refused, not waited for.
        self.open_regular(path, OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// Opens a regular file so that it can be locked exclusively (which some systems grant to writers only).
    ///
    /// # Errors
    /// As [`Folder::open_file`].
    pub fn open_to_lock(&self, path: &str) -> io::Result<File> {
        self.open_regular(path, OFlags::RDWR | OFlags::NONBLOCK)
    }

    fn open_regular(&self, path: &str, flags: OFlags) -> io::Result<File> {
        let handle = rustix::fs::openat(&self.handle, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let file = File::from(handle);
        if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
    }

    /// Creates a new empty file, readable and writable by its owner alone.
    ///
    /// # Errors
    /// What the system says; `AlreadyExists` when the name is taken, by whatever it may be.
    pub fn create_file(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.handle, path, flags, Mode::from_raw_mode(FILE_MODE))?))
    }

    /// Creates a folder for its owner alone; false when one exists.
    ///
    /// # Errors
    /// What the system says.
    pub fn create_folder(&self, path: &str) -> io::Result<bool> {
        match rustix::fs::mkdirat(&self.handle, path, Mode::from_raw_mode(FOLDER_MODE)) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) if self.find(path)?.is_some_and(|i| i.kind == Kind::Folder) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Renames a file or folder to a name that must be free, in one step that cannot replace anything.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` or `Unsupported` where the file system cannot do it.
    pub fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(&self.handle, from, &self.handle, to, RenameFlags::NOREPLACE)?)
    }

    /// Removes a file; false when there was none.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_file(&self, path: &str) -> io::Result<bool> {
        removed(rustix::fs::unlinkat(&self.handle, path, AtFlags::empty()))
    }

    /// Removes an empty folder; false when there was none.
    ///
    /// # Errors
    /// What the system says; `DirectoryNotEmpty` when it holds something.
    pub fn remove_folder(&self, path: &str) -> io::Result<bool> {
        removed(rustix::fs::unlinkat(&self.handle, path, AtFlags::REMOVEDIR))
    }

    /// What stands under a name; `None` when certainly nothing does.
    ///
    /// # Errors
    /// What the system says.
    pub fn find(&self, path: &str) -> io::Result<Option<Item>> {
        match rustix::fs::statat(&self.handle, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let kind = kind_of(FileType::from_raw_mode(stat.st_mode));
                let bytes = if kind == Kind::File { stat.st_size.unsigned_abs() } else { 0 };
                Ok(Some(Item { name: path.to_owned(), kind, bytes }))
            }
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The names in a folder (`.` for this one), in no order. Names that vanish meanwhile are left out.
    ///
    /// # Errors
    /// What the system says; `NotFound` when there is no such folder.
    pub fn items(&self, path: &str) -> io::Result<Vec<Item>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&self.handle, path, flags, Mode::empty())?;
        let mut items = Vec::new();
        for entry in Dir::read_from(&handle)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::statat(&handle, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let kind = kind_of(FileType::from_raw_mode(stat.st_mode));
                    let bytes = if kind == Kind::File { stat.st_size.unsigned_abs() } else { 0 };
                    items.push(Item { name: name.to_string_lossy().into_owned(), kind, bytes });
                }
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(items)
    }

    /// The names of the folders in a folder, in no order; without looking at each, where the file system tells.
    ///
    /// # Errors
    /// As [`Self::items`].
    pub fn folders(&self, path: &str) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&self.handle, path, flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&handle)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_folder = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => match rustix::fs::statat(&handle, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                    Err(rustix::io::Errno::NOENT) => false,
                    Err(error) => return Err(error.into()),
                },
                _ => false,
            };
            if is_folder {
                names.push(name.to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// Makes the names in a folder (`.` for this one) durable.
    ///
    /// # Errors
    /// What the system says. What was created or renamed before may or may not survive a power loss then.
    pub fn sync_folder(&self, path: &str) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&self.handle, path, flags, Mode::empty())?;
        Ok(rustix::fs::fsync(handle.as_fd())?)
    }
}

/// Creates a folder and the folders above it that are missing, durably. Returns those that were created, outermost
/// first.
///
/// # Errors
/// What the system says; `NotADirectory` when something else has the name.
pub fn create_folders(path: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    use std::os::unix::fs::DirBuilderExt;
    let mut missing = Vec::new();
    let mut at = path;
    while !at.as_os_str().is_empty() && !at.try_exists()? {
        missing.push(at.to_owned());
        at = at.parent().unwrap_or_else(|| Path::new(""));
    }
    missing.reverse();
    for folder in &missing {
        match std::fs::DirBuilder::new().mode(FOLDER_MODE).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let above = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        Folder::open(above)?.sync_folder(".")?;
    }
    Ok(missing)
}

fn removed(result: rustix::io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn kind_of(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        _ => Kind::Other,
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_fifos_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("real"), b"x").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let fifo = rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        );
        assert_eq!(fifo, Ok(()));
        let folder = Folder::open(dir.path()).unwrap();
        assert!(folder.open_file("real").is_ok());
        for bad in ["link", "fifo", ".", "absent"] {
            assert!(folder.open_file(bad).is_err(), "{bad}");
        }
        assert!(Folder::open(&dir.path().join("real")).is_err());
    }

    #[test]
    fn rename_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        for name in ["a", "b"] {
            folder.create_file(name).unwrap();
        }
        assert_eq!(folder.rename_new("a", "b").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        folder.rename_new("a", "c").unwrap();
        assert_eq!(folder.find("a").unwrap(), None);
        assert!(folder.find("c").unwrap().is_some());
        assert!(folder.create_folder("d").unwrap());
        assert!(!folder.create_folder("d").unwrap());
        assert!(folder.create_folder("c").is_err());
    }

    #[test]
    fn missing_folders_are_created_outermost_first() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x/y/z");
        assert_eq!(create_folders(&deep).unwrap(), [dir.path().join("x"), dir.path().join("x/y"), deep.clone()]);
        assert!(create_folders(&deep).unwrap().is_empty());
        std::fs::write(dir.path().join("file"), b"").unwrap();
        assert!(create_folders(&dir.path().join("file/below")).is_err());
    }
}
