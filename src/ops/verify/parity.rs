//! Parity of packs: is it there where it should be, and is it what the pack's bytes make?

use super::{Run, VerifyError};
use crate::domain::id::PackId;
use crate::format::envelope::{self, Expected, ObjectTag};
use crate::format::parity::Parity;
use crate::repository::Problem;
use crate::repository::error::RepoError;
use crate::repository::index::PackInfo;
use crate::repository::parity::{self, OBJECT_BYTES_MAX};
use crate::storage::{ObjectKind, ObjectName, ReadStore};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What is wrong with the parity of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParityFault {
    /// The pack was written with parity, and it is not there.
    Missing,
    /// It is not what the pack's bytes make.
    Damaged,
}

/// Faults of parity, from all threads.
#[derive(Debug, Default)]
pub(super) struct ParityFaults(Mutex<BTreeMap<PackId, ParityFault>>);

impl ParityFaults {
    fn add(&self, pack: PackId, fault: ParityFault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pack, fault);
    }

    pub(super) fn into_map(self) -> BTreeMap<PackId, ParityFault> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

fn finding(run: &Run<'_>, pack: PackId, fault: ParityFault, reason: impl Into<String>) {
    let problem = if fault == ParityFault::Missing { Problem::Missing } else { Problem::Damaged };
    run.gatherer.finding(ObjectName::parity(pack).as_str(), problem, reason);
    run.parity.add(pack, fault);
}

/// Which packs have parity; packs that should have it and have not become findings, names that are none and parity
/// without a pack become notes. Listed after the index objects, so that whatever these name is complete.
pub(super) fn listed(run: &Run<'_>) -> Result<BTreeMap<PackId, u64>, VerifyError> {
    let store = run.reading.store.as_ref();
    let there = parity::list(store)?;
    for info in store.list(ObjectKind::Parity).map_err(RepoError::from)? {
        let text = info.name.as_str();
        if parity::pack_of(&info.name).is_none() {
            run.gatherer.note("object.stray", text, format!("{text} is no parity of a pack; nothing reads it"));
        }
    }
    for pack in parity::orphans(store, |pack| run.reading.index.pack_number(pack).is_some())? {
        let message = "It is the parity of a pack that is gone; the next prune removes it";
        run.gatherer.note("parity.orphan", ObjectName::parity(pack).as_str(), message);
    }
    let protected = run.reading.index.packs().iter().filter(|info| there.contains_key(&info.id)).count() as u64;
    run.gatherer.count(|r| r.packs_with_parity = protected);
    Ok(there)
}

/// The parity of a pack without reading the pack: is it there if it must be, and as long as it says?
pub(super) fn glance(run: &Run<'_>, pack: PackId, pack_bytes: u64, there: &BTreeMap<PackId, u64>) {
    let Some(stored_bytes) = there.get(&pack) else {
        // one that cannot be read is reported as such
        if run.reading.packs.should_have_parity(pack).unwrap_or(false) {
            finding(run, pack, ParityFault::Missing, "it is not there, and its pack was written with it");
        }
        return;
    };
    // the first row, or any other in its place, says how long the object must be
    let name = ObjectName::parity(pack);
    let shape = first_shape(run.reading.store.as_ref(), &name, pack, *stored_bytes);
    match shape {
        Some((shape_bytes, object_bytes)) if shape_bytes != pack_bytes || object_bytes != *stored_bytes => {
            let reason = format!("it has {stored_bytes} bytes for a pack of {pack_bytes}, and that is not its length");
            finding(run, pack, ParityFault::Damaged, reason);
        }
        Some(_) => {}
        // a prune deletes packs first and their parity then
        None if matches!(run.reading.store.stored_bytes(&name), Ok(None))
            && !run.reading.packs.should_have_parity(pack).unwrap_or(false) => {}
        None => finding(run, pack, ParityFault::Damaged, "its first row is damaged"),
    }
}

/// Pack length and object length as the first row says; `None` when that is damaged or cannot be read.
fn first_shape(store: &dyn ReadStore, name: &ObjectName, pack: PackId, stored_bytes: u64) -> Option<(u64, u64)> {
    let length = u32::try_from(stored_bytes.min(FIRST_ROW_BYTES)).ok()?;
    let start = store.get_range(name, 0, length).ok()?;
    match Parity::find(&start, pack) {
        Some(parity) => Some((parity.shape().pack_bytes, parity.shape().object_bytes())),
        // rows longer than what was read
        None if stored_bytes > FIRST_ROW_BYTES => {
            let all = parity::read_what_there_is(store, name, OBJECT_BYTES_MAX).ok()??;
            Parity::find(&all, pack).map(|parity| (parity.shape().pack_bytes, parity.shape().object_bytes()))
        }
        None => None,
    }
}

/// Holds the first row of most parity objects.
const FIRST_ROW_BYTES: u64 = 64 << 10;

/// Compares the parity of a pack with what the pack's bytes make; without them, with its own checksum.
pub(super) fn compare(run: &Run<'_>, info: &PackInfo, pack: Option<&[u8]>) {
    let name = ObjectName::parity(info.id);
    let object = match run.reading.store.get(&name, OBJECT_BYTES_MAX) {
        Ok(object) => object,
        Err(error) => {
            let (_, problem, reason) = super::report::describe(&RepoError::Storage(error));
            if problem != Problem::Missing {
                finding(run, info.id, ParityFault::Damaged, reason);
            }
            return;
        }
    };
    run.gatherer.count(|r| {
        r.objects_read += 1;
        r.stored_bytes_read += object.len() as u64;
    });
    let expected = Expected {
        repository: Some(run.reading.keys.repository()),
        object_id: Some(info.id.0),
        copy: Some(0),
        ..Expected::any(ObjectTag::Parity)
    };
    if let Err(error) = envelope::decode_object(&object, &expected) {
        finding(run, info.id, ParityFault::Damaged, error.to_string());
        return;
    }
    let Some(parity) = Parity::find(&object, info.id) else {
        finding(run, info.id, ParityFault::Damaged, "no row of it is whole");
        return;
    };
    let made = pack.map(|pack| parity::encode(info.id, pack, parity.shape()));
    if made.is_some_and(|made| made.map_or(true, |made| made != object)) {
        finding(run, info.id, ParityFault::Damaged, "it is not what the bytes of its pack make");
    }
}

/// True when a pack that is not as it was written can be made again; says so.
pub(super) fn repairable(run: &Run<'_>, pack: PackId, pack_bytes: u64) -> bool {
    let whole = run.reading.packs.made_whole(pack, pack_bytes).ok().flatten().is_some();
    if whole {
        run.gatherer.repairable(ObjectName::pack(pack).as_str());
    }
    whole
}
