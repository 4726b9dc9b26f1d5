//! Named immutable objects: the storage contract and its implementations.
//!
//! What every store promises (tested once for all of them by `tests/it/storage_conformance.rs`):
//! * an object is written once, under a name that was never used before, and never changes;
//! * `put_new` and `ObjectWriter::finish` are atomic (nobody ever sees part of an object) and durable on return;
//! * what was written can be read and is listed at once;
//! * `Ok(None)` means certainly absent; "could not tell" is an `Err`;
//! * `commit` publishes a session as a snapshot in one step, and fails if the session was fenced; `fence` in one step
//!   makes a later `commit` fail. Of two racing calls exactly one wins.

pub mod conformance;
pub mod local;
pub mod memory;

use crate::domain::id::{ActId, CondemnedId, IndexId, KeySlotId, PackId, SnapshotId};
use std::fmt;

/// The kinds of object in a repository; each is a folder of the same name, except the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// `config` and its second copy `config.copy`.
    Config,
    /// `keys/ID` and `keys/ID.copy`.
    Key,
    /// `packs/ab/ID` (`ab`: first two hex digits of the id).
    Pack,
    /// `parity/ab/ID`: parity of the pack of that id.
    Parity,
    /// `index/ID`.
    Index,
    /// `sessions/ID/PART`: a run that has not committed.
    Session,
    /// `snapshots/ID/PART`: a committed run.
    Snapshot,
    /// `fenced/ID/PART`: a session declared dead.
    Fenced,
    /// `forgotten/ID`: the tombstone of a snapshot that is hidden.
    Forgotten,
    /// `accepted/ID`: says that a suspect snapshot is good.
    Accepted,
    /// `acts/ID.NNNN`: the story of a dangerous act, entry by entry.
    Act,
    /// `condemned/ID`: packs that a prune is about to delete.
    Condemned,
    /// `quarantine/ab/ID`: packs found damaged, and below `quarantine/` other objects that a repair put aside.
    Quarantine,
    /// `tmp/NAME`: objects being written; leftovers belong to runs that died.
    Temporary,
}

impl ObjectKind {
    /// All kinds, in reading order.
    pub const ALL: [Self; 14] = [
        Self::Config,
        Self::Key,
        Self::Snapshot,
        Self::Index,
        Self::Pack,
        Self::Parity,
        Self::Session,
        Self::Fenced,
        Self::Forgotten,
        Self::Accepted,
        Self::Act,
        Self::Condemned,
        Self::Quarantine,
        Self::Temporary,
    ];

    /// The folder, without slash.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Key => "keys",
            Self::Pack => "packs",
            Self::Parity => "parity",
            Self::Index => "index",
            Self::Session => "sessions",
            Self::Snapshot => "snapshots",
            Self::Fenced => "fenced",
            Self::Forgotten => "forgotten",
            Self::Accepted => "accepted",
            Self::Act => "acts",
            Self::Condemned => "condemned",
            Self::Quarantine => "quarantine",
            Self::Temporary => "tmp",
        }
    }
}

/// The name of an object, relative to the repository, with `/` between folders. Always valid and never leaves the repository.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(String);

impl ObjectName {
    /// The configuration, copy 0 or 1.
    pub fn config(copy: u8) -> Self {
        Self(if copy == 0 { "config".to_owned() } else { "config.copy".to_owned() })
    }
    /// A key slot, copy 0 or 1.
    pub fn key(id: KeySlotId, copy: u8) -> Self {
        Self(format!("keys/{id}{}", if copy == 0 { "" } else { ".copy" }))
    }
    /// A pack.
    pub fn pack(id: PackId) -> Self {
        let hex = id.hex();
        Self(format!("packs/{}/{hex}", &hex[..2]))
    }
    /// The parity of a pack.
    pub fn parity(of: PackId) -> Self {
        let hex = of.hex();
        Self(format!("parity/{}/{hex}", &hex[..2]))
    }
    /// An index object.
    pub fn index(id: IndexId) -> Self {
        Self(format!("index/{id}"))
    }
    /// One part of a running session.
    pub fn session(id: SnapshotId, part: SessionPart) -> Self {
        Self(format!("sessions/{id}/{}", part.file_name()))
    }
    /// One part of a committed snapshot.
    pub fn snapshot(id: SnapshotId, part: SessionPart) -> Self {
        Self(format!("snapshots/{id}/{}", part.file_name()))
    }
    /// A condemned record.
    pub fn condemned(id: CondemnedId) -> Self {
        Self(format!("condemned/{id}"))
    }
    /// The tombstone of a snapshot.
    pub fn tombstone(id: SnapshotId) -> Self {
        Self(format!("forgotten/{id}"))
    }
    /// Where an object goes that was found damaged: below `quarantine/`, packs without their folder's name. `attempt`
    /// counts from 0; later ones are for names that are taken because another damaged object had the same name.
    pub fn quarantined(of: &Self, attempt: u32) -> Self {
        let path = of.0.strip_prefix("packs/").unwrap_or(&of.0);
        let suffix = if attempt == 0 { String::new() } else { format!(".{}", attempt + 1) };
        Self(format!("quarantine/{path}{suffix}"))
    }
    /// The acceptance of a suspect snapshot.
    pub fn acceptance(id: SnapshotId) -> Self {
        Self(format!("accepted/{id}"))
    }
    /// An entry of an act.
    pub fn act(id: ActId, sequence: u16) -> Self {
        Self(format!("acts/{id}.{sequence:04}"))
    }
    /// A name found by listing; the caller checks what it means.
    pub(crate) fn found(path: String) -> Self {
        Self(path)
    }
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Which kind of object the name belongs to, by its first folder. None: no object of this format.
    pub fn kind(&self) -> Option<ObjectKind> {
        let first = self.0.split('/').next().unwrap_or("");
        if first == "config.copy" {
            return Some(ObjectKind::Config);
        }
        ObjectKind::ALL.into_iter().find(|k| k.folder() == first)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The write-once files of a session folder, in the order they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SessionPart {
    /// Who runs, since when.
    Start,
    /// Condemned records that the run had seen before it read the index.
    Saw,
    /// The snapshot record.
    Manifest,
    /// Its second copy.
    ManifestCopy,
}

impl SessionPart {
    /// File name inside the session folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Saw => "saw",
            Self::Manifest => "snapshot",
            Self::ManifestCopy => "snapshot.copy",
        }
    }
}

/// An object seen by a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: ObjectName,
    /// Stored length, bytes.
    pub stored_bytes: u64,
}

/// What went wrong with an object, for deciding what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object, or the whole repository, is certainly not there.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// No space, quota or file size limit.
    NoSpace,
    /// Not allowed, or a read-only file system.
    Refused,
    /// The session was fenced by another process; the run may not commit.
    Fenced,
    /// A range reaches past the end of the object, or the object is longer than any valid one.
    Size,
    /// The store cannot do what the format needs (rename without replacing, for one).
    Unsuitable,
    /// Anything else; the state is unknown.
    Other,
}

/// A storage operation failed.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {operation} {name} in {location}")]
pub struct Error {
    /// Class of the failure.
    pub kind: ErrorKind,
    /// The verb: `read`, `write`, `list`, `delete`, `commit`, ...
    pub operation: &'static str,
    /// The object or folder.
    pub name: String,
    /// The repository.
    pub location: String,
    /// What the system said.
    pub source: Option<std::io::Error>,
}

/// Result of a storage operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Reads objects.
pub trait ReadStore: Send + Sync {
    /// Where the repository is, for people.
    fn location(&self) -> String;
    /// The whole object. Refuses one longer than `max_bytes` ([`ErrorKind::Size`]).
    fn get(&self, name: &ObjectName, max_bytes: u64) -> Result<Vec<u8>>;
    /// Exactly `length` bytes from `offset`.
    fn get_range(&self, name: &ObjectName, offset: u64, length: u32) -> Result<Vec<u8>>;
    /// The stored length; `None` when certainly absent.
    fn stored_bytes(&self, name: &ObjectName) -> Result<Option<u64>>;
    /// All objects of a kind, sorted by name. Unknown names inside the folder are listed too.
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectInfo>>;
    /// The ids that have a folder of a kind whose objects are parts of runs ([`ObjectKind::Session`],
    /// [`ObjectKind::Snapshot`], [`ObjectKind::Fenced`]), sorted. Which parts there are is not looked at.
    fn list_runs(&self, kind: ObjectKind) -> Result<Vec<SnapshotId>> {
        let mut ids: Vec<SnapshotId> = self
            .list(kind)?
            .iter()
            .filter_map(|info| SnapshotId::parse(info.name.as_str().split('/').nth(1)?).ok())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
    /// Names directly in the repository's top folder that belong to no kind (for `verify`).
    fn list_strays(&self) -> Result<Vec<String>>;
    /// What is wrong with the space kept for a full disk, if anything is.
    fn reserve_fault(&self) -> Result<Option<String>>;
}

/// An object being written. Dropping it without `finish` leaves nothing behind.
pub trait ObjectWriter: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// Makes the object durable and visible under its name.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Holds a session alive; dropping it, or the process dying, releases the mark of life.
pub trait SessionGuard: Send + Sync {
    /// The session.
    fn id(&self) -> SnapshotId;
}

/// Adds objects. Nothing here can change or remove one.
pub trait WriteStore: ReadStore {
    /// Writes a whole object under a new name, durably.
    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()>;
    /// Starts a large object under a new name.
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>>;
    /// Starts a session: creates its folder with the part `start` and marks it alive until the guard is dropped.
    fn begin_session(&self, id: SnapshotId, start: &[u8]) -> Result<Box<dyn SessionGuard>>;
    /// The commit point: turns the session into a snapshot. Durable on return.
    /// # Errors
    /// [`ErrorKind::Fenced`] when somebody declared the session dead.
    fn commit(&self, guard: &dyn SessionGuard) -> Result<()>;
    /// Declares a session dead. Returns false when it had committed or been fenced already.
    fn fence(&self, id: SnapshotId) -> Result<bool>;
    /// True when the process that runs the session is alive as far as this store can tell.
    fn session_is_alive(&self, id: SnapshotId) -> Result<bool>;
    /// Makes durable which objects of a kind there are. Whoever showed one, or took one away, may have died or failed before it was durable;
    /// what is deleted or reported because of it must come after this.
    fn settle(&self, kind: ObjectKind) -> Result<()>;
    /// Removes what dead runs left under `tmp/`. Never touches anything else. Returns how many.
    fn clear_leftovers(&self) -> Result<u64>;
}

/// Deletes objects and moves them aside. Only prune, repair, forget and key removal hold one.
pub trait DeleteStore: WriteStore {
    /// Removes an object; `Ok(false)` when it was not there.
    fn delete(&self, name: &ObjectName) -> Result<bool>;
    /// Removes every part of a snapshot ([`ObjectKind::Snapshot`]) or of a fenced session ([`ObjectKind::Fenced`]);
    /// `Ok(false)` when there was none. A part that is left after a crash belongs to no snapshot that anybody lists.
    fn remove_run(&self, kind: ObjectKind, id: SnapshotId) -> Result<bool>;
    /// Moves an object below `quarantine/`, under its own name, in one step that cannot replace anything. Returns the
    /// new name; `Ok(None)` when the object was not there. Durable on return.
    fn quarantine(&self, name: &ObjectName) -> Result<Option<ObjectName>>;
    /// Gives back the space that is kept for a full disk, and says how many bytes may be written now before something
    /// is freed; `u64::MAX` where storage has no such limit.
    fn release_reserve(&self) -> Result<u64>;
    /// Takes the space again, as far as there is room.
    fn restore_reserve(&self) -> Result<()>;
}

/// Objects of one name that may be put aside.
pub const QUARANTINE_ATTEMPTS_MAX: u32 = 1000;

/// The file of zero bytes that a repository on a disk keeps, so that a prune can work when the disk is full.
pub const RESERVE_NAME: &str = "reserve";
