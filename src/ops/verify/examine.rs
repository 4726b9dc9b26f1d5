//! For repairs: which packs are not as they were written, and which parts of which versions cannot be given back.

use super::records::{self, States};
use super::{BadBlobs, PackSelection, ParityFault, Run, VerifyError, VerifyOptions, VerifyReport, VerifyScope};
use super::{impact, packs, structure};
use crate::catalog::Catalog;
use crate::domain::id::{PackId, VersionId};
use crate::domain::snapshot::{SourceRecord, StreamRole};
use crate::domain::system::Clock;
use crate::ops::cancel::Cancel;
use crate::ops::observer::Observer;
use crate::repository::error::RepoError;
use crate::repository::reading::Reading;
use crate::repository::snapshots::LoadedSnapshot;
use crate::storage::ObjectName;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The index names it and it is not there.
    Missing,
    /// It is not as it was written; these blobs of its table cannot be opened.
    Damaged(BTreeSet<u32>),
}

/// What was found.
#[derive(Debug)]
pub struct Examined {
    /// Packs that are not as they were written.
    pub packs: BTreeMap<PackId, Fault>,
    /// Packs whose parity is not as it was written; without reading packs only some of it is seen.
    pub parity: BTreeMap<PackId, ParityFault>,
    /// Packs that the index names and that have parity, in whatever state.
    pub protected: BTreeSet<PackId>,
    /// Findings, and whom they hit.
    pub report: VerifyReport,
    /// Visible snapshots, newest first.
    pub snapshots: Vec<LoadedSnapshot>,
    states: States,
}

/// How much of a version cannot be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost<'a> {
    /// Nothing: all of it is there.
    Nothing,
    /// These parts of the stream, ascending and apart.
    Parts(&'a [(u64, u64)]),
    /// Any of it: its record cannot be read.
    Unknown,
}

impl Examined {
    /// What is lost of a version that a visible snapshot names.
    pub fn lost(&self, version: VersionId) -> Lost<'_> {
        match self.states.get(&version) {
            None => Lost::Nothing,
            Some(state) if state.plain_bytes.is_none() => Lost::Unknown,
            Some(state) if state.bad.is_empty() => Lost::Nothing,
            Some(state) => Lost::Parts(&state.bad),
        }
    }

    /// True when everything of a source can be given back. What only saves the next backup work does not count.
    pub fn is_whole(&self, source: &SourceRecord) -> bool {
        let needed = source.streams.iter().filter(|s| s.role != StreamRole::Identities);
        needed.into_iter().all(|s| self.lost(s.version) == Lost::Nothing)
    }
}

/// Follows everything that visible snapshots need. With `read` the packs are read in full first: these, or all when
/// there are none in the list.
///
/// # Errors
/// [`VerifyError`]; damage is none.
pub fn examine(
    reading: &Reading,
    catalog: &Catalog,
    read: Option<&[PackId]>,
    clock: &dyn Clock,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Examined, VerifyError> {
    let run = Run::new(reading, catalog, clock, observer, cancel);
    let (snapshots, unreadable) = reading.snapshots()?;
    for bad in &unreadable {
        run.gatherer.error(&bad.error);
        run.gatherer.count(|r| r.unreadable_snapshots.push(bad.id.hex()));
    }
    let mut bad = BadBlobs::default();
    let mut faults = BTreeMap::new();
    for info in reading.index.packs() {
        cancel.check()?;
        // one that cannot be asked for is found damaged by reading it
        if reading.store.stored_bytes(&ObjectName::pack(info.id)).is_ok_and(|stored| stored.is_none()) {
            faults.insert(info.id, Fault::Missing);
        }
    }
    if let Some(only) = read {
        let scope = VerifyScope::ReadData(PackSelection::All);
        let options = VerifyOptions { packs: only.to_vec(), ..VerifyOptions::new(scope) };
        packs::read(&run, PackSelection::All, &options, &mut bad)?;
    }
    let coverage = structure::check(&run, &bad)?;
    let states = records::check(&run, &snapshots, &coverage)?;
    impact::find(&run, &snapshots, &states)?;
    faults.extend(bad.into_iter().map(|(pack, blobs)| (pack, Fault::Damaged(blobs))));
    let protected = crate::repository::parity::list(reading.store.as_ref())?.into_keys().collect();
    let parity = run.parity.into_map();
    Ok(Examined { packs: faults, parity, protected, report: run.gatherer.into_report(), snapshots, states })
}

impl From<crate::storage::Error> for VerifyError {
    fn from(error: crate::storage::Error) -> Self {
        Self::Repository(RepoError::from(error))
    }
}
