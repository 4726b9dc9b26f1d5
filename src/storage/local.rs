//! A repository in a folder of a local (or mounted) file system.
//!
//! Invariants: an object appears under its name by one rename that cannot replace anything, after its bytes were
//! synced, and `Ok` is returned after the folder was synced too; a file whose sync failed is never used again; every
//! file under `tmp/` is locked by its writer for as long as it is wanted, and the `start` part of a session for as
//! long as its process lives, so that "unlocked" means "left by a dead process".

mod create;
mod pending;
mod reserve;

use super::{
    DeleteStore, Error, ErrorKind, ObjectInfo, ObjectKind, ObjectName, ObjectWriter, QUARANTINE_ATTEMPTS_MAX,
    RESERVE_NAME, ReadStore, Result, SessionGuard, SessionPart, WriteStore,
};
use crate::domain::id::SnapshotId;
use crate::fsio::disk::{Disk, DiskFile};
use crate::fsio::folder::{Folder, Kind};
use crate::fsio::system::RealRandom;
use pending::{LocalWriter, Pending};
use std::collections::{BTreeSet, VecDeque};
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Open files kept for range reads.
const OPEN_FILES_MAX: usize = 192;
/// How deep a listing goes below a kind's folder: `packs/ab/ID`, with room to see what does not belong there.
const LIST_DEPTH_MAX: usize = 4;
/// End of the names under `tmp/` of runs that are being removed.
const GONE: &str = ".gone";
/// How often an operation that lost a race with a cleaner of leftovers is tried again.
const ATTEMPTS_MAX: usize = 8;

/// A repository in a folder; clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    root: Arc<dyn Disk>,
    /// The newest session of this process; part of the names under `tmp/`, for people.
    session: Mutex<Option<SnapshotId>>,
    /// Folders made on demand whose own name this process knows to be durable.
    durable_folders: Mutex<BTreeSet<String>>,
    /// Recently read files, newest last.
    open_files: Mutex<VecDeque<(ObjectName, Arc<dyn DiskFile>)>>,
    /// Held by the store that made the repository, so that two `init` cannot mix.
    _creation: Option<create::CreationLock>,
}

impl LocalStore {
    /// Opens the repository in a folder. Writes nothing and does not look inside.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such folder, else as the system says.
    pub fn open(dir: &Path) -> Result<Self> {
        let root = Folder::open(dir).map_err(|error| folder_error(dir, "open", error))?;
        Ok(Self::over(dir, Arc::new(root), None))
    }

    /// Makes the folders of a new repository in a new or empty folder, after proving that the file system can keep
    /// one. Folders above it are made too. Leftovers of an `init` that was interrupted are no obstacle.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the folder holds a repository or anything else, or another process is making
    /// one there; [`ErrorKind::Unsuitable`] when the file system lacks what the format needs. Nothing that was there
    /// is touched.
    pub fn create(dir: &Path) -> Result<Self> {
        create::create(dir)
    }

    /// The repository in a folder of some disk; `location` is its name for people. Writes nothing and does not look inside.
    pub fn open_on(location: &Path, disk: Arc<dyn Disk>) -> Self {
        Self::over(location, disk, None)
    }

    /// As [`Self::create`], in a folder of some disk that exists.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_on(location: &Path, disk: Arc<dyn Disk>) -> Result<Self> {
        let (root, lock) = create::prepare(location, disk)?;
        Ok(Self::over(location, root, Some(lock)))
    }

    /// Proves in a temporary folder below `dir` that the file system renames without replacing, renames folders, and
    /// locks files.
    ///
    /// # Errors
    /// [`ErrorKind::Unsuitable`], with the missing ability as the cause.
    pub fn probe(dir: &Path) -> Result<()> {
        create::probe(dir)
    }

    fn over(dir: &Path, root: Arc<dyn Disk>, creation: Option<create::CreationLock>) -> Self {
        Self {
            inner: Arc::new(Inner {
                path: dir.to_owned(),
                root,
                session: Mutex::default(),
                durable_folders: Mutex::default(),
                open_files: Mutex::default(),
                _creation: creation,
            }),
        }
    }
}

impl Inner {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    /// Wraps what the system said.
    fn error(&self, operation: &'static str, name: impl Into<String>, source: io::Error) -> Error {
        let kind = classify(&source);
        Error { kind, operation, name: name.into(), location: self.location(), source: Some(source) }
    }

    /// A failure of our own finding.
    fn refusal(&self, kind: ErrorKind, operation: &'static str, name: impl Into<String>) -> Error {
        Error { kind, operation, name: name.into(), location: self.location(), source: None }
    }

    /// An open file for range reads, from the cache or newly opened.
    fn file(&self, name: &ObjectName) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = lock(&self.open_files);
        let at = files.iter().position(|(known, _)| known == name);
        if let Some(entry) = at.and_then(|at| files.remove(at)) {
            let file = Arc::clone(&entry.1);
            files.push_back(entry);
            return Ok(file);
        }
        drop(files);
        let file: Arc<dyn DiskFile> = Arc::from(self.root.open_file(name.as_str())?);
        let mut files = lock(&self.open_files);
        while files.len() >= OPEN_FILES_MAX {
            files.pop_front();
        }
        files.push_back((name.clone(), Arc::clone(&file)));
        Ok(file)
    }

    /// Makes sure that the folder of an object exists and that its own name is durable. Folders of sessions and
    /// snapshots are never made here: they come and go by rename only.
    fn ensure_folder(&self, name: &ObjectName) -> io::Result<()> {
        let made_on_demand = !matches!(
            name.kind(),
            None | Some(ObjectKind::Config | ObjectKind::Session | ObjectKind::Snapshot | ObjectKind::Fenced)
        );
        let (folder, _) = split_name(name.as_str());
        if !made_on_demand || lock(&self.durable_folders).contains(folder) {
            return Ok(());
        }
        for (at, _) in folder.match_indices('/').chain([(folder.len(), "")]) {
            self.root.create_folder(&folder[..at])?;
            // Also when the folder was there: who made it may not have come to syncing it.
            self.root.sync_folder(split_name(&folder[..at]).0)?;
        }
        lock(&self.durable_folders).insert(folder.to_owned());
        Ok(())
    }

    /// Adds what stands below a folder to a list of objects.
    fn walk(&self, folder: &str, depth: usize, out: &mut Vec<ObjectInfo>) -> io::Result<()> {
        let items = match self.root.items(folder) {
            // A folder inside a kind may go away while we look (a session that commits); the kind's own may not.
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return Ok(()),
            other => other?,
        };
        for item in items {
            let path = format!("{folder}/{}", item.name);
            if item.kind == Kind::Folder && depth < LIST_DEPTH_MAX {
                self.walk(&path, depth + 1, out)?;
            } else {
                out.push(ObjectInfo { name: ObjectName::found(path), stored_bytes: item.bytes });
            }
        }
        Ok(())
    }

    /// Moves a session's folder; false when it is not there any more.
    fn move_session(&self, id: SnapshotId, to: ObjectKind) -> io::Result<bool> {
        let from = format!("sessions/{id}");
        self.root.create_folder(to.folder())?;
        match self.root.rename_new(&from, &format!("{}/{id}", to.folder())) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        // The new name first: if only one of the two folders becomes durable, it must be the one that holds it.
        self.root.sync_folder(to.folder())?;
        self.root.sync_folder("sessions")?;
        Ok(true)
    }

    fn session_exists(&self, id_text: &str) -> io::Result<bool> {
        Ok(self.root.find(&format!("sessions/{id_text}"))?.is_some())
    }

    /// Removes one leftover under `tmp/` if nobody holds it; false when somebody does.
    fn clear_leftover(&self, name: &str, kind: Kind) -> io::Result<bool> {
        let path = format!("tmp/{name}");
        if kind == Kind::Folder && name.ends_with(GONE) {
            return self.clear_gone(&path);
        }
        if kind == Kind::Folder {
            // A session that was being made: its start record is locked while its process lives, and is there before
            // the folder is given its name. A folder without one is empty or about to get one; then removing it fails
            // here, or the maker sees that it is gone and makes another.
            let start = format!("{path}/{}", SessionPart::Start.file_name());
            if !self.remove_unlocked(&start)? {
                return Ok(false);
            }
            return match self.root.remove_folder(&path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
                other => other,
            };
        }
        self.remove_unlocked(&path)
    }

    /// Makes the names of a folder durable; false when there is no such folder.
    fn sync_if_there(&self, folder: &str) -> io::Result<bool> {
        match self.root.sync_folder(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Removes a folder of parts that belong to nothing any more.
    fn clear_gone(&self, path: &str) -> io::Result<bool> {
        let items = match self.root.items(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        for item in items {
            self.root.remove_file(&format!("{path}/{}", item.name))?;
        }
        self.root.remove_folder(path)
    }

    /// Removes a file that no process has locked. True when it is gone now.
    fn remove_unlocked(&self, path: &str) -> io::Result<bool> {
        let file = match self.root.open_to_lock(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The lock is held until the name is gone. Should the writer have finished meanwhile, the name is gone
        // already, and it is never used again.
        self.root.remove_file(path)?;
        Ok(true)
    }
}

impl ReadStore for LocalStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, name: &ObjectName, max_bytes: u64) -> Result<Vec<u8>> {
        let wrap = |error| self.inner.error("read", name.as_str(), error);
        let file = self.inner.root.open_file(name.as_str()).map_err(wrap)?;
        if file.bytes().map_err(wrap)? > max_bytes {
            return Err(self.inner.refusal(ErrorKind::Size, "read", name.as_str()));
        }
        let bytes = file.read_up_to(max_bytes.saturating_add(1)).map_err(wrap)?;
        if bytes.len() as u64 > max_bytes {
            return Err(self.inner.refusal(ErrorKind::Size, "read", name.as_str()));
        }
        Ok(bytes)
    }

    fn get_range(&self, name: &ObjectName, offset: u64, length: u32) -> Result<Vec<u8>> {
        let wrap = |error: io::Error| self.inner.error("read", name.as_str(), error);
        let file = self.inner.file(name).map_err(wrap)?;
        let stored = file.bytes().map_err(wrap)?;
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > stored) {
            return Err(self.inner.refusal(ErrorKind::Size, "read", name.as_str()));
        }
        let length = usize::try_from(length).map_err(|_| self.inner.refusal(ErrorKind::Size, "read", name.as_str()))?;
        let mut bytes = vec![0u8; length];
        file.read_exact_at(&mut bytes, offset).map_err(wrap)?;
        Ok(bytes)
    }

    fn stored_bytes(&self, name: &ObjectName) -> Result<Option<u64>> {
        let wrap = |error| self.inner.error("look up", name.as_str(), error);
        match self.inner.root.find(name.as_str()).map_err(wrap)? {
            None => Ok(None),
            Some(item) if item.kind == Kind::File => Ok(Some(item.bytes)),
            Some(_) => Err(wrap(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))),
        }
    }

    /// Folders that hold nothing in a quiet repository may be missing: many programs that copy folders leave empty
    /// ones out. A missing folder of packs, index objects, snapshots or keys is an error, because taking it for an
    /// empty one would make everything look like garbage.
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectInfo>> {
        let mut out = Vec::new();
        if kind == ObjectKind::Config {
            for name in [ObjectName::config(0), ObjectName::config(1)] {
                if let Some(stored_bytes) = self.stored_bytes(&name)? {
                    out.push(ObjectInfo { name, stored_bytes });
                }
            }
            return Ok(out);
        }
        let may_be_missing = !matches!(
            kind,
            ObjectKind::Key | ObjectKind::Pack | ObjectKind::Index | ObjectKind::Snapshot | ObjectKind::Config
        );
        match self.inner.walk(kind.folder(), 0, &mut out) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_missing => {}
            Err(error) => return Err(self.inner.error("list", kind.folder(), error)),
        }
        out.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn list_runs(&self, kind: ObjectKind) -> Result<Vec<SnapshotId>> {
        let names = match self.inner.root.folders(kind.folder()) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound && kind != ObjectKind::Snapshot => Vec::new(),
            Err(error) => return Err(self.inner.error("list", kind.folder(), error)),
        };
        let mut ids: Vec<SnapshotId> = names.iter().filter_map(|name| SnapshotId::parse(name).ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    fn list_strays(&self) -> Result<Vec<String>> {
        let items = self.inner.root.items(".").map_err(|error| self.inner.error("list", ".", error))?;
        let is_ours = |item: &crate::fsio::folder::Item| {
            let kind = ObjectName::found(item.name.clone()).kind();
            match kind {
                Some(ObjectKind::Config) => item.kind == Kind::File,
                Some(_) => item.kind == Kind::Folder,
                None => create::is_of_file_system(&item.name) || item.name == RESERVE_NAME,
            }
        };
        let mut strays: Vec<String> = items.into_iter().filter(|item| !is_ours(item)).map(|item| item.name).collect();
        strays.sort_unstable();
        Ok(strays)
    }

    fn reserve_fault(&self) -> Result<Option<String>> {
        reserve::fault(self.inner.root.as_ref()).map_err(|error| self.inner.error("read", RESERVE_NAME, error))
    }
}

impl WriteStore for LocalStore {
    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        let mut writer = self.create(name)?;
        writer.write(bytes)?;
        writer.finish()
    }

    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(LocalWriter::new(&self.inner, name)?))
    }

    fn begin_session(&self, id: SnapshotId, start: &[u8]) -> Result<Box<dyn SessionGuard>> {
        let wrap = |error| self.inner.error("begin", format!("session {id}"), error);
        *lock(&self.inner.session) = Some(id);
        for taken in ["snapshots", "fenced"] {
            if self.inner.root.find(&format!("{taken}/{id}")).map_err(wrap)?.is_some() {
                return Err(self.inner.refusal(ErrorKind::AlreadyExists, "begin", format!("session {id}")));
            }
        }
        for _ in 0..ATTEMPTS_MAX {
            if let Some(guard) = self.try_begin(id, start).map_err(wrap)? {
                return Ok(Box::new(guard));
            }
        }
        Err(wrap(io::Error::other("its temporary folder was removed again and again")))
    }

    fn commit(&self, guard: &dyn SessionGuard) -> Result<()> {
        let id = guard.id();
        match self.inner.move_session(id, ObjectKind::Snapshot) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.inner.refusal(ErrorKind::Fenced, "commit", format!("session {id}"))),
            Err(error) => Err(self.inner.error("commit", format!("session {id}"), error)),
        }
    }

    fn fence(&self, id: SnapshotId) -> Result<bool> {
        let wrap = |error| self.inner.error("fence", format!("session {id}"), error);
        self.inner.move_session(id, ObjectKind::Fenced).map_err(wrap)
    }

    fn session_is_alive(&self, id: SnapshotId) -> Result<bool> {
        let wrap = |error| self.inner.error("examine", format!("session {id}"), error);
        let start = ObjectName::session(id, SessionPart::Start);
        let file = match self.inner.root.open_file(start.as_str()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(wrap(error)),
        };
        // A shared lock: two processes that ask at the same time must not take each other for the session.
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(wrap(error)),
        }
    }

    fn settle(&self, kind: ObjectKind) -> Result<()> {
        let wrap = |error| self.inner.error("sync", kind.folder(), error);
        self.inner.sync_if_there(kind.folder()).map(drop).map_err(wrap)
    }

    fn clear_leftovers(&self) -> Result<u64> {
        let items = match self.inner.root.items("tmp") {
            Ok(items) => items,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(self.inner.error("list", "tmp", error)),
        };
        let mut removed = 0;
        for item in items.into_iter().filter(|item| item.kind != Kind::Other) {
            let gone = self.inner.clear_leftover(&item.name, item.kind);
            removed += u64::from(gone.map_err(|error| self.inner.error("clear", format!("tmp/{}", item.name), error))?);
        }
        Ok(removed)
    }
}

impl LocalStore {
    /// One attempt to begin a session; `None` when a cleaner removed the folder before it had its start record.
    fn try_begin(&self, id: SnapshotId, start: &[u8]) -> io::Result<Option<LocalGuard>> {
        let root = &self.inner.root;
        root.create_folder("sessions")?;
        let mut record = Pending::create(&self.inner)?;
        record.write(start)?;
        record.sync()?;
        let folder = format!("{}.session", record.path());
        root.create_folder(&folder)?;
        let part = format!("{folder}/{}", SessionPart::Start.file_name());
        match root.rename_new(record.path(), &part) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let named = root.sync_folder(&folder).and_then(|()| root.rename_new(&folder, &format!("sessions/{id}")));
        if let Err(error) = named {
            // Nobody has seen it; what cannot be removed is a leftover like any other.
            let _ = root.remove_file(&part).and_then(|_| root.remove_folder(&folder));
            return Err(error);
        }
        root.sync_folder("sessions")?;
        Ok(Some(LocalGuard { id, _lock: record.into_file() }))
    }
}

impl DeleteStore for LocalStore {
    fn delete(&self, name: &ObjectName) -> Result<bool> {
        let wrap = |error| self.inner.error("delete", name.as_str(), error);
        lock(&self.inner.open_files).retain(|(known, _)| known != name);
        let root = &self.inner.root;
        let was_there = root.remove_file(name.as_str()).map_err(wrap)?;
        let (folder, _) = split_name(name.as_str());
        // Durable before anything else is deleted: an index object that came back after a power loss would name packs
        // that did not. Also when it was gone already: who removed it may have died before this.
        if !self.inner.sync_if_there(folder).map_err(wrap)? {
            return Ok(was_there);
        }
        if matches!(name.kind(), Some(ObjectKind::Snapshot | ObjectKind::Fenced)) && folder.contains('/') {
            match root.remove_folder(folder) {
                Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => return Err(wrap(error)),
                _ => {}
            }
        }
        Ok(was_there)
    }

    fn remove_run(&self, kind: ObjectKind, id: SnapshotId) -> Result<bool> {
        let folder = format!("{}/{id}", kind.folder());
        let wrap = |error| self.inner.error("delete", folder.clone(), error);
        let root = &self.inner.root;
        // In one step, so that nobody meets a run that lacks some of its parts.
        let aside = format!("tmp/{id}-{}{GONE}", random_hex());
        root.create_folder("tmp").map_err(wrap)?;
        match root.rename_new(&folder, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // who moved it may have died before this was durable
                self.inner.sync_if_there(kind.folder()).map_err(wrap)?;
                return Ok(false);
            }
            Err(error) => return Err(wrap(error)),
        }
        root.sync_folder(kind.folder()).map_err(wrap)?;
        self.inner.clear_gone(&aside).map_err(wrap)?;
        Ok(true)
    }

    fn quarantine(&self, name: &ObjectName) -> Result<Option<ObjectName>> {
        let wrap = |error| self.inner.error("put aside", name.as_str(), error);
        let root = &self.inner.root;
        lock(&self.inner.open_files).retain(|(known, _)| known != name);
        for attempt in 0..QUARANTINE_ATTEMPTS_MAX {
            let to = ObjectName::quarantined(name, attempt);
            self.inner.ensure_folder(&to).map_err(wrap)?;
            match root.rename_new(name.as_str(), to.as_str()) {
                Ok(()) => {
                    // The new name first: if only one of the two folders becomes durable, it must be that one.
                    root.sync_folder(split_name(to.as_str()).0).map_err(wrap)?;
                    root.sync_folder(split_name(name.as_str()).0).map_err(wrap)?;
                    return Ok(Some(to));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // who moved it may have died before both were durable
                    for path in [to.as_str(), name.as_str()] {
                        self.inner.sync_if_there(split_name(path).0).map_err(wrap)?;
                    }
                    return Ok(None);
                }
                Err(error) => return Err(wrap(error)),
            }
        }
        Err(self.inner.refusal(ErrorKind::AlreadyExists, "put aside", name.as_str()))
    }

    fn release_reserve(&self) -> Result<u64> {
        reserve::release(self.inner.root.as_ref()).map_err(|error| self.inner.error("delete", RESERVE_NAME, error))
    }

    fn restore_reserve(&self) -> Result<()> {
        reserve::take(self.inner.root.as_ref())
            .map(drop)
            .map_err(|error| self.inner.error("write", RESERVE_NAME, error))
    }
}

/// Keeps the lock on a session's start record.
#[derive(Debug)]
struct LocalGuard {
    id: SnapshotId,
    _lock: Box<dyn DiskFile>,
}

impl SessionGuard for LocalGuard {
    fn id(&self) -> SnapshotId {
        self.id
    }
}

/// What kind of failure the system reports.
fn classify(error: &io::Error) -> ErrorKind {
    use rustix::io::Errno;
    let Some(code) = error.raw_os_error() else {
        return match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            io::ErrorKind::Unsupported => ErrorKind::Unsuitable,
            io::ErrorKind::UnexpectedEof => ErrorKind::Size,
            _ => ErrorKind::Other,
        };
    };
    match Errno::from_raw_os_error(code) {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::EXIST => ErrorKind::AlreadyExists,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorKind::NoSpace,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Refused,
        Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV => ErrorKind::Unsuitable,
        _ => ErrorKind::Other,
    }
}

/// A failure before there is a store.
fn folder_error(dir: &Path, operation: &'static str, source: io::Error) -> Error {
    let location = dir.display().to_string();
    Error { kind: classify(&source), operation, name: "the repository".to_owned(), location, source: Some(source) }
}

/// Folder (`.` for none) and last part of a relative path.
fn split_name(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or((".", path))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A fresh part of a temporary name.
fn random_hex() -> String {
    let random: &dyn crate::domain::system::Random = &RealRandom;
    data_encoding::HEXLOWER.encode(&random.bytes::<12>())
}

#[cfg(test)]
mod tests;
