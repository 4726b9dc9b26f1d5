//! The part of `repair packs` that is about parity: what is damaged or missing is written again, and packs that have none
//! get it when the settings want it.
//!
//! A damaged object moves to `quarantine/` before the new one takes its name. Whoever dies between the two leaves a pack
//! whose parity is missing, which the next repair writes.

use super::{RepairError, RepairMeans};
use crate::domain::id::PackId;
use crate::format::envelope;
use crate::format::parity::{Parity, ParityShare, Shape};
use crate::ops::observer::{Event, Progress};
use crate::ops::verify::ParityFault;
use crate::ops::verify::examine::Examined;
use crate::repository::error::RepoError;
use crate::repository::index::RepositoryIndex;
use crate::repository::parity::{self, OBJECT_BYTES_MAX, read_what_there_is};
use crate::storage::ObjectName;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// Parity that was not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairedParity {
    /// Its object.
    pub object: String,
    /// `damaged` or `missing`.
    pub problem: &'static str,
    /// Where the damaged one was moved; none when it was missing, or nothing was done.
    pub quarantined: Option<String>,
}

/// What happened to parity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ParityReport {
    /// What was damaged or missing.
    pub damaged: Vec<RepairedParity>,
    /// Packs that have none although the settings want it.
    pub unprotected: u64,
    /// Parity objects that were written.
    pub written: u64,
    /// Their stored bytes.
    pub written_bytes: u64,
    /// Packs whose parity could not be written, with the reason.
    pub left: Vec<(String, String)>,
}

/// Packs that need parity, with the fault; none: they have never had any.
pub(super) type Wanted = BTreeMap<PackId, Option<ParityFault>>;

/// What has to be written. Packs that are damaged themselves get new forms, with parity of their own.
pub(super) fn wanted(
    examined: &Examined,
    index: &RepositoryIndex,
    share: Option<ParityShare>,
    only: &[PackId],
    report: &mut ParityReport,
) -> Wanted {
    let concerned = |pack: &PackId| (only.is_empty() || only.contains(pack)) && !examined.packs.contains_key(pack);
    let mut wanted: Wanted =
        examined.parity.iter().filter(|(pack, _)| concerned(pack)).map(|(pack, fault)| (*pack, Some(*fault))).collect();
    for (pack, fault) in &wanted {
        let problem = if *fault == Some(ParityFault::Missing) { "missing" } else { "damaged" };
        let object = ObjectName::parity(*pack).to_string();
        report.damaged.push(RepairedParity { object, problem, quarantined: None });
    }
    if share.is_some() {
        for pack in index.packs().iter().map(|info| info.id).filter(concerned) {
            if !examined.protected.contains(&pack) && !wanted.contains_key(&pack) {
                wanted.insert(pack, None);
                report.unprotected += 1;
            }
        }
    }
    wanted
}

/// Writes what is wanted. A session of the caller keeps prunes away.
pub(super) fn write(
    means: &RepairMeans<'_>,
    wanted: &Wanted,
    stays: impl Fn(PackId) -> bool,
    report: &mut ParityReport,
) -> Result<(), RepairError> {
    let total_items = Some(wanted.len() as u64);
    means.observer.event(&Event::PhaseStarted { phase: "writing parity", total_bytes: None, total_items });
    for (items_done, pack) in (1u64..).zip(wanted.keys()) {
        means.cancel.check()?;
        if stays(*pack) {
            match one(means, *pack, report) {
                Ok(()) => {}
                Err(RepairError::Repository(error)) if error.concerns_one_object() => {
                    report.left.push((ObjectName::parity(*pack).to_string(), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        means.observer.event(&Event::Progress(Progress { items_done, total_items, ..Progress::default() }));
    }
    Ok(())
}

fn one(means: &RepairMeans<'_>, id: PackId, report: &mut ParityReport) -> Result<(), RepairError> {
    let store = means.store.as_ref();
    let (pack_name, name) = (ObjectName::pack(id), ObjectName::parity(id));
    let pack = store.get(&pack_name, envelope::OBJECT_BYTES_MAX)?;
    envelope::check_stored(&pack).map_err(|source| RepoError::Format { object: pack_name.to_string(), source })?;
    // in the shape that it had, where that can still be read: then the bytes are the same as before
    let damaged = read_what_there_is(store, &name, OBJECT_BYTES_MAX)?;
    let former = damaged.as_deref().and_then(|object| Parity::find(object, id)).map(|parity| parity.shape());
    let share = means.parameters.parity().unwrap_or(ParityShare::DEFAULT);
    let shape = former.filter(|shape| shape.pack_bytes == pack.len() as u64);
    let object = parity::encode(id, &pack, shape.unwrap_or_else(|| Shape::choose(pack.len() as u64, share)))?;
    if damaged.as_ref() == Some(&object) {
        return Ok(());
    }
    let aside = if damaged.is_some() { store.quarantine(&name)? } else { None };
    parity::put_encoded(store, id, &object)?;
    report.written += 1;
    report.written_bytes += object.len() as u64;
    if let Some(repaired) = report.damaged.iter_mut().find(|r| r.object == name.as_str()) {
        repaired.quarantined = aside.map(|to| to.to_string());
    }
    Ok(())
}

/// Moves the parity of packs that were put aside to them.
pub(super) fn put_aside(means: &RepairMeans<'_>, packs: &HashSet<PackId>) -> Result<(), RepairError> {
    for pack in packs {
        if means.store.stored_bytes(&ObjectName::parity(*pack))?.is_some() {
            means.store.quarantine(&ObjectName::parity(*pack))?;
        }
    }
    Ok(())
}
