//! Every stored byte against the checksums that stand beside it. Needs no key, so a machine that only keeps the
//! repository can do it.
//!
//! What it cannot see without a key: that a pack is missing, or that an object was replaced by somebody who made the
//! checksum anew. `verify --read-data` sees both.

use super::VerifyError;
use super::report::{Gatherer, VerifyReport, describe};
use crate::domain::id::{IndexId, KeySlotId, PackId, SnapshotId};
use crate::format::config_object::{self, UnverifiedConfig};
use crate::format::envelope::{Header, OBJECT_BYTES_MAX, ObjectTag, StoredHasher};
use crate::format::key_slot::{self, KeySlot};
use crate::ops::cancel::Cancel;
use crate::ops::observer::{Event, Observer, Progress};
use crate::ops::repair_index::pack_id;
use crate::repository::Problem;
use crate::repository::acts;
use crate::repository::error::RepoError;
use crate::repository::parity::{self, Healing};
use crate::storage::{ErrorKind, ObjectInfo, ObjectKind, ObjectName, ReadStore, SessionPart};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// How the report calls this mode.
pub const MODE: &str = "stored-only";
/// Stored bytes read at a time.
const PIECE_BYTES: u64 = 1 << 20;

const PARTS: [(SessionPart, ObjectTag, u16); 4] = [
    (SessionPart::Start, ObjectTag::SessionStart, 0),
    (SessionPart::Saw, ObjectTag::SessionSaw, 0),
    (SessionPart::Manifest, ObjectTag::Snapshot, 0),
    (SessionPart::ManifestCopy, ObjectTag::Snapshot, 1),
];

/// What an object's name says about its header.
#[derive(Debug, Clone, Copy)]
struct Promise {
    tag: ObjectTag,
    id: [u8; 16],
    /// Packs have theirs in the index alone.
    copy: Option<u16>,
}

struct Run<'a> {
    store: &'a dyn ReadStore,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    gatherer: Gatherer,
    /// The header of the configuration; none when no copy is whole.
    config: Option<UnverifiedConfig>,
    bytes_done: AtomicU64,
    bytes_total: u64,
}

/// Reads every object in full and compares it with its checksum, its name and the configuration.
///
/// # Errors
/// [`VerifyError`]; damage is none.
pub fn run_stored(
    store: &dyn ReadStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<VerifyReport, VerifyError> {
    let gatherer = Gatherer::default();
    gatherer.count(|r| (r.mode, r.complete) = (MODE, true));
    let bytes_done = AtomicU64::new(0);
    let mut run = Run { store, observer, cancel, gatherer, config: None, bytes_done, bytes_total: 0 };
    run.read_config();
    let mut promised: Vec<(ObjectInfo, Promise)> = Vec::new();
    for kind in ObjectKind::ALL {
        let listed = run.list(kind)?;
        match kind {
            ObjectKind::Config => {}
            ObjectKind::Temporary | ObjectKind::Quarantine => run.set_aside(kind, &listed),
            _ => {
                for info in listed {
                    match promise(kind, &info.name) {
                        Some(promise) => promised.push((info, promise)),
                        None => run.stray(info.name.as_str()),
                    }
                }
            }
        }
    }
    for name in store.list_strays().map_err(RepoError::from)? {
        run.stray(&name);
    }
    run.look_for_missing(promised.iter().map(|(info, _)| info.name.as_str()).collect());
    run.bytes_total = promised.iter().map(|(info, _)| info.stored_bytes).sum();
    let (total_bytes, total_items) = (Some(run.bytes_total), Some(promised.len() as u64));
    observer.event(&Event::PhaseStarted { phase: "verifying stored bytes", total_bytes, total_items });
    promised.par_iter().try_for_each(|(info, promise)| run.object(info, *promise))?;
    Ok(run.gatherer.into_report())
}

/// The header that an object of this name must have; `None` for names that no object has.
fn promise(kind: ObjectKind, name: &ObjectName) -> Option<Promise> {
    let of = |tag, id, copy| Some(Promise { tag, id, copy });
    let mut words = name.as_str().split('/').skip(1);
    let (first, second) = (words.next()?, words.next());
    match (kind, second) {
        (ObjectKind::Pack, _) => of(ObjectTag::Pack, pack_id(name)?.0, None),
        (ObjectKind::Parity, _) => of(ObjectTag::Parity, parity::pack_of(name)?.0, Some(0)),
        (ObjectKind::Key, None) => match first.strip_suffix(".copy") {
            Some(id) => of(ObjectTag::KeySlot, KeySlotId::parse(id).ok()?.0, Some(1)),
            None => of(ObjectTag::KeySlot, KeySlotId::parse(first).ok()?.0, Some(0)),
        },
        (ObjectKind::Index, None) => of(ObjectTag::Index, IndexId::parse(first).ok()?.0, Some(0)),
        (ObjectKind::Forgotten, None) => of(ObjectTag::Tombstone, SnapshotId::parse(first).ok()?.0, Some(0)),
        (ObjectKind::Accepted, None) => of(ObjectTag::Acceptance, SnapshotId::parse(first).ok()?.0, Some(0)),
        (ObjectKind::Act, None) => of(ObjectTag::Act, acts::parse_name(name)?.0.0, Some(0)),
        (ObjectKind::Condemned, None) => of(ObjectTag::Condemned, IndexId::parse(first).ok()?.0, None),
        (ObjectKind::Session | ObjectKind::Snapshot | ObjectKind::Fenced, Some(file)) if words.next().is_none() => {
            let (_, tag, copy) = PARTS.into_iter().find(|(part, ..)| part.file_name() == file)?;
            of(tag, SnapshotId::parse(first).ok()?.0, Some(copy))
        }
        _ => None,
    }
}

impl Run<'_> {
    /// A folder that is not there holds nothing: many programs that copy folders leave empty ones out.
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectInfo>, VerifyError> {
        self.cancel.check()?;
        match self.store.list(kind) {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Vec::new()),
            other => Ok(other.map_err(RepoError::from)?),
        }
    }

    fn stray(&self, name: &str) {
        let message = format!("{name} is not an object of a repository; nothing reads it");
        self.gatherer.note("object.stray", name, message);
    }

    fn set_aside(&self, kind: ObjectKind, listed: &[ObjectInfo]) {
        for info in listed {
            let (code, message) = match kind {
                ObjectKind::Temporary => ("object.temporary", "It is being written, or was left by a run that died"),
                _ => ("object.quarantined", "It was found damaged before and put aside"),
            };
            self.gatherer.note(code, info.name.as_str(), message);
        }
    }

    fn read_config(&mut self) {
        let mut whole = Vec::new();
        for copy in [0u8, 1] {
            let name = ObjectName::config(copy);
            match self.store.get(&name, config_object::STORED_BYTES_MAX) {
                Ok(bytes) => {
                    self.count(bytes.len() as u64, false);
                    match UnverifiedConfig::decode(&bytes, u16::from(copy)) {
                        Ok(config) => whole.push(config),
                        Err(error) => self.gatherer.finding(name.as_str(), Problem::Damaged, error.to_string()),
                    }
                }
                Err(error) => self.gatherer.error(&RepoError::Storage(error)),
            }
        }
        if let [one, two] = whole.as_slice()
            && (one.repository(), one.suite()) != (two.repository(), two.suite())
        {
            self.gatherer.finding("config.copy", Problem::Damaged, "the two copies differ");
        }
        self.config = whole.into_iter().next();
    }

    /// What must be there because something else is.
    fn look_for_missing(&self, names: BTreeSet<&str>) {
        let below = |folder: &'static str| names.iter().filter(move |name| name.starts_with(folder));
        let missing = |name: String| {
            if !names.contains(name.as_str()) {
                self.gatherer.finding(name, Problem::Missing, "it is not there");
            }
        };
        for name in below("keys/") {
            match name.strip_suffix(".copy") {
                Some(first) => missing(first.to_owned()),
                None => missing(format!("{name}.copy")),
            }
        }
        let snapshots: BTreeSet<&str> = below("snapshots/").filter_map(|name| name.split('/').nth(1)).collect();
        for id in &snapshots {
            PARTS.iter().for_each(|(part, ..)| missing(format!("snapshots/{id}/{}", part.file_name())));
        }
        for folder in ["packs/", "index/"] {
            if !snapshots.is_empty() && below(folder).next().is_none() {
                self.gatherer.finding(folder, Problem::Missing, "it holds nothing, although there are snapshots");
            }
        }
        self.gatherer.count(|r| {
            r.snapshots = snapshots.len() as u64;
            r.packs = below("packs/").count() as u64;
        });
    }

    fn count(&self, stored_bytes: u64, is_pack: bool) {
        self.gatherer.count(|r| {
            r.stored_bytes_read += stored_bytes;
            *(if is_pack { &mut r.packs_read } else { &mut r.objects_read }) += 1;
        });
    }

    /// Reads one object in full, in pieces.
    fn object(&self, info: &ObjectInfo, promise: Promise) -> Result<(), VerifyError> {
        self.cancel.check()?;
        let name = &info.name;
        let found = |problem, reason: String| self.gatherer.finding(name.as_str(), problem, reason);
        let mut hasher = StoredHasher::new();
        let mut small = Vec::new();
        let mut at = 0;
        while at < info.stored_bytes.min(OBJECT_BYTES_MAX + 1) {
            let length = (info.stored_bytes - at).min(PIECE_BYTES);
            match self.store.get_range(name, at, u32::try_from(length).unwrap_or(u32::MAX)) {
                Ok(piece) => {
                    hasher.update(&piece);
                    if promise.tag == ObjectTag::KeySlot && at < key_slot::STORED_BYTES_MAX {
                        small.extend_from_slice(&piece);
                    }
                }
                Err(error) if error.kind == ErrorKind::NotFound => {
                    // a session commits, a key slot or a snapshot is removed while this runs
                    let message = "It went away while it was to be read";
                    self.gatherer.note("object.gone", name.as_str(), message);
                    return Ok(());
                }
                Err(error) => {
                    let (_, problem, reason) = describe(&RepoError::Storage(error));
                    found(problem, format!("from byte {at}: {reason}"));
                    return self.look_for_parity(name, promise);
                }
            }
            at += length;
            let bytes_done = self.bytes_done.fetch_add(length, Ordering::Relaxed) + length;
            let total_bytes = Some(self.bytes_total);
            self.observer.event(&Event::Progress(Progress { bytes_done, total_bytes, ..Progress::default() }));
        }
        self.count(at, promise.tag == ObjectTag::Pack);
        match hasher.finish().and_then(|head| Header::from_bytes(&head)) {
            Ok(header) => {
                if let Some(reason) = self.wrong_header(&header, promise) {
                    found(Problem::Damaged, reason.to_owned());
                    self.look_for_parity(name, promise)?;
                } else if promise.tag == ObjectTag::KeySlot {
                    let slot = KeySlot::decode(&small, header.repository, KeySlotId(promise.id), header.copy);
                    if let Err(error) = slot {
                        found(Problem::Damaged, error.to_string());
                    }
                }
            }
            Err(error) => {
                found(Problem::Damaged, error.to_string());
                self.look_for_parity(name, promise)?;
            }
        }
        Ok(())
    }

    /// Says of a damaged pack whether its parity makes it whole; healing needs no key either.
    fn look_for_parity(&self, name: &ObjectName, promise: Promise) -> Result<(), VerifyError> {
        if promise.tag == ObjectTag::Pack
            && let Healing::Healed(_) = parity::heal_without_index(self.store, PackId(promise.id))?
        {
            self.gatherer.repairable(name.as_str());
        }
        Ok(())
    }

    fn wrong_header(&self, header: &Header, promise: Promise) -> Option<&'static str> {
        let stranger = self.config.as_ref().is_some_and(|config| {
            header.repository != config.repository() || (header.suite != config.suite().number())
        });
        if header.tag != promise.tag || header.object_id != promise.id {
            Some("it holds another object")
        } else if stranger {
            Some("it belongs to another repository")
        } else if promise.copy.is_some_and(|copy| copy != header.copy) {
            Some("it is the other copy")
        } else {
            None
        }
    }
}
