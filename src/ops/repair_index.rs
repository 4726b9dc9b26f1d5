//! `repair index`: what index objects should say, said again from the packs themselves.
//!
//! It announces itself as a session, and leaves alone what is condemned: no prune may delete a pack that it is about to name. A prune that
//! wrote its record before is seen by the record, which goes after the packs; a later one waits for the session.
//!
//! Invariants: nothing is deleted and nothing is changed; a damaged index object stays where it is and is named as
//! superseded by the new one, which is written only after every pack it should name was looked for. A pack whose table
//! cannot be read is reported and left alone.

use super::cancel::{Cancel, Cancelled};
use super::observer::{Event, Observer, Progress};
use crate::catalog::Catalog;
use crate::domain::id::{IndexId, PackId};
use crate::domain::system::Random;
use crate::format::envelope::{self, Header, ObjectTag};
use crate::format::records::{IndexBody, IndexedPack};
use crate::format::seal::Keys;
use crate::repository::cached_snapshots;
use crate::repository::condemned;
use crate::repository::error::RepoError;
use crate::repository::index_cache;
use crate::repository::index_loader;
use crate::repository::pack_reader::{PackReader, load_index};
use crate::repository::pack_writer::put_index;
use crate::repository::session::{Announced, SessionStart};
use crate::storage::{ErrorKind, ObjectKind, ObjectName, ReadStore, WriteStore};
use serde::Serialize;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Packs in one new index object, so that one lost index object never hides everything.
const PACKS_PER_OBJECT: usize = 256;
/// Blobs and chunks in one new index object, which bounds its length and the memory for it.
const ENTRIES_PER_OBJECT: usize = 200_000;

/// An object and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unusable {
    /// Its name.
    pub object: String,
    /// What is wrong.
    pub reason: String,
}

/// What a repair did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairIndexReport {
    /// True when nothing was written.
    pub dry_run: bool,
    /// Index objects that can be read.
    pub index_objects: u64,
    /// Index objects that cannot be read; the new ones replace them.
    pub damaged_index_objects: Vec<Unusable>,
    /// Packs in the repository.
    pub packs: u64,
    /// Packs that no readable index object named, and that are named now.
    pub packs_added: Vec<String>,
    /// Packs that no index object names and whose own table cannot be read.
    pub unusable_packs: Vec<Unusable>,
    /// Packs that no readable index object names and that a prune is deleting. They were left alone.
    pub packs_condemned: u64,
    /// The new index objects.
    pub index_objects_written: Vec<String>,
    /// Snapshots in the rebuilt catalog.
    pub snapshots: u64,
}

/// A repair could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The repository's storage, or a record that cannot be written.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The wish to stop. What was written so far is valid.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The id of a pack from its object name, if it is one.
pub fn pack_id(name: &ObjectName) -> Option<PackId> {
    let id = PackId::parse(name.as_str().rsplit('/').next()?).ok()?;
    (ObjectName::pack(id) == *name).then_some(id)
}

/// What is kept on this machine about the repository, and is made anew.
#[derive(Debug, Clone, Copy)]
pub struct Local<'a> {
    /// The catalog.
    pub catalog: &'a Catalog,
    /// Folder of the index cache.
    pub cache: Option<&'a Path>,
}

/// What the readable index objects say.
struct Known {
    named: HashSet<PackId>,
    damaged: Vec<IndexId>,
}

/// Rebuilds what is missing in the index, and the local catalog, as the session `start`, which names no sources. Without one it only
/// looks.
///
/// # Errors
/// [`RepairError`].
pub fn run(
    store: &Arc<dyn WriteStore>,
    keys: &Arc<Keys>,
    random: &dyn Random,
    local: Local<'_>,
    start: Option<&SessionStart>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<RepairIndexReport, RepairError> {
    let session = match start {
        Some(start) => Some(Announced::new(Arc::clone(store), Arc::clone(keys), start)?),
        None => None,
    };
    let result = rebuild(store, keys, random, local, session.is_none(), observer, cancel);
    if let Some(session) = session {
        // Best effort: what a dead session leaves is closed by the next run as well.
        let _ = store.fence(session.id());
    }
    result
}

fn rebuild(
    store: &Arc<dyn WriteStore>,
    keys: &Arc<Keys>,
    random: &dyn Random,
    local: Local<'_>,
    dry_run: bool,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<RepairIndexReport, RepairError> {
    let mut report = RepairIndexReport { dry_run, ..RepairIndexReport::default() };
    // before the index and the packs are listed
    let condemned = condemned_packs(store.as_ref(), keys)?;
    let known = read_objects(store.as_ref(), keys, &mut report, cancel)?;
    let listed = store.list(ObjectKind::Pack).map_err(RepoError::from)?;
    let packs: Vec<(PackId, u64)> =
        listed.iter().filter_map(|info| Some((pack_id(&info.name)?, info.stored_bytes))).collect();
    report.packs = packs.len() as u64;
    let total = Some(packs.len() as u64);
    observer.event(&Event::PhaseStarted { phase: "reading packs", total_bytes: None, total_items: total });
    let reader = PackReader::new(Arc::clone(store) as Arc<dyn ReadStore>, Arc::clone(keys), 0);
    let mut writer =
        Writer { store: store.as_ref(), keys, random, dry_run, supersedes: known.damaged, found: Vec::new() };
    for (done, (pack, stored_bytes)) in (1u64..).zip(packs) {
        cancel.check()?;
        if !known.named.contains(&pack) && condemned.contains(&pack) {
            report.packs_condemned += 1;
        } else if !known.named.contains(&pack) {
            match read_pack(store.as_ref(), keys, &reader, pack, stored_bytes) {
                Ok(found) => {
                    report.packs_added.push(pack.hex());
                    writer.found.push(found);
                }
                // deleted since the listing
                Err(RepoError::Storage(e)) if e.kind == ErrorKind::NotFound => {}
                Err(error) if error.concerns_one_object() => {
                    let object = ObjectName::pack(pack).to_string();
                    report.unusable_packs.push(Unusable { object, reason: error.to_string() });
                }
                Err(error) => return Err(error.into()),
            }
        }
        let entries: usize = writer.found.iter().map(|p| p.table.blobs.len() + p.table.chunks.len()).sum();
        if writer.found.len() >= PACKS_PER_OBJECT || entries >= ENTRIES_PER_OBJECT {
            writer.put(&mut report, false)?;
        }
        let progress = Progress { items_done: done, total_items: total, ..Progress::default() };
        observer.event(&Event::Progress(progress));
    }
    writer.put(&mut report, true)?;
    if !dry_run {
        if let Some(folder) = local.cache {
            index_cache::remove(folder);
        }
        index_loader::load(store.as_ref(), keys, local.cache)?;
        local.catalog.clear_snapshots();
        let (good, bad) = cached_snapshots::load_snapshots(store.as_ref(), keys, local.catalog)?;
        report.snapshots = (good.len() + bad.len()) as u64;
    }
    Ok(report)
}

/// What prunes are about to delete. A record that cannot be read says nothing, and the next prune withdraws it.
fn condemned_packs(store: &dyn WriteStore, keys: &Keys) -> Result<HashSet<PackId>, RepairError> {
    let mut packs = HashSet::new();
    for id in condemned::list(store)? {
        match condemned::load(store, keys, id) {
            Ok(record) => packs.extend(record.into_iter().flat_map(|record| record.packs)),
            Err(error) if error.concerns_one_object() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(packs)
}

/// Reads all index objects.
fn read_objects(
    store: &dyn WriteStore,
    keys: &Keys,
    report: &mut RepairIndexReport,
    cancel: &Cancel,
) -> Result<Known, RepairError> {
    let (mut bodies, mut damaged) = (Vec::new(), Vec::new());
    let mut superseded: HashSet<IndexId> = HashSet::new();
    for id in index_loader::list_objects(store)? {
        cancel.check()?;
        match load_index(store, keys, id) {
            Ok(body) => {
                superseded.extend(&body.supersedes);
                bodies.push((id, body.packs.iter().map(|p| p.pack).collect::<Vec<_>>()));
            }
            Err(RepoError::Storage(e)) if e.kind == ErrorKind::NotFound => {}
            Err(error) if error.concerns_one_object() => damaged.push((id, error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    damaged.retain(|(id, _)| !superseded.contains(id));
    bodies.retain(|(id, _)| !superseded.contains(id));
    report.index_objects = bodies.len() as u64;
    let named = bodies.into_iter().flat_map(|(_, packs)| packs).collect();
    let ids = damaged.iter().map(|(id, _)| *id).collect();
    report.damaged_index_objects = damaged
        .into_iter()
        .map(|(id, reason)| Unusable { object: ObjectName::index(id).to_string(), reason })
        .collect();
    Ok(Known { named, damaged: ids })
}

/// What a pack says about itself.
fn read_pack(
    store: &dyn WriteStore,
    keys: &Keys,
    reader: &PackReader,
    pack: PackId,
    stored_bytes: u64,
) -> Result<IndexedPack, RepoError> {
    let name = ObjectName::pack(pack);
    let damaged = |reason: &str| RepoError::Damaged { object: name.to_string(), reason: reason.to_owned() };
    let head = store.get_range(&name, 0, envelope::HEADER_BYTES as u32)?;
    let head = head.as_slice().try_into().map_err(|_| damaged("it is too short"))?;
    let failed = |source| RepoError::Format { object: name.to_string(), source };
    let header = Header::from_bytes(head).map_err(failed)?;
    if header.tag != ObjectTag::Pack || header.object_id != pack.0 || header.repository != keys.repository() {
        return Err(damaged("it holds another object"));
    }
    let table = reader.table_of(pack, stored_bytes)?;
    Ok(IndexedPack { pack, copy: u8::from(header.copy != 0), stored_bytes, table })
}

struct Writer<'a> {
    store: &'a dyn WriteStore,
    keys: &'a Keys,
    random: &'a dyn Random,
    dry_run: bool,
    /// For the last object only: until then the damaged ones are not replaced.
    supersedes: Vec<IndexId>,
    found: Vec<IndexedPack>,
}

impl Writer<'_> {
    fn put(&mut self, report: &mut RepairIndexReport, last: bool) -> Result<(), RepairError> {
        let supersedes = if last { std::mem::take(&mut self.supersedes) } else { Vec::new() };
        let body = IndexBody { supersedes, packs: std::mem::take(&mut self.found) };
        if self.dry_run || (body.packs.is_empty() && body.supersedes.is_empty()) {
            return Ok(());
        }
        let (id, _) = put_index(self.store, self.keys, self.random, &body)?;
        report.index_objects_written.push(id.hex());
        Ok(())
    }
}
