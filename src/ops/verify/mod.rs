//! `verify`: is everything in the repository as it was written?
//!
//! Three scopes. *Structure*: every object that is not a pack is read in full, every pack is there with its length and
//! table, every record of every snapshot leads to bytes that exist, and the newest snapshot of each source is decoded
//! and compared with its proof. *Snapshots*: the data of some snapshots. *Read data*: the structure, and every byte of
//! the packs, both as stored (checksums) and as plain bytes (every blob opened, every chunk identified again). Without
//! a key there is [`stored`]: every byte against the checksums beside it.
//!
//! Invariants: nothing is ever written to the repository; one bad object never ends the run; any wrong stored byte is
//! a finding, also where a second copy serves.

pub mod examine;
mod impact;
mod objects;
mod packs;
mod parity;
mod records;
mod report;
pub mod stored;
mod streams;
mod structure;

pub use parity::ParityFault;
pub use report::{Affected, VerifyFinding, VerifyNote, VerifyReport};

use super::cancel::{Cancel, Cancelled};
use super::observer::{Event, Observer, Progress};
use crate::catalog::Catalog;
use crate::domain::id::{PackId, SnapshotId};
use crate::domain::snapshot::{Snapshot, SourceRecord};
use crate::domain::system::Clock;
use crate::repository::Problem;
use crate::repository::error::RepoError;
use crate::repository::reading::Reading;
use crate::repository::snapshots::LoadedSnapshot;
use parity::ParityFaults;
use report::Gatherer;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// What to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyScope {
    /// Structure, and the newest data of each source.
    Structure,
    /// The data of these snapshots.
    Snapshots(Vec<SnapshotId>),
    /// Structure and the bytes of packs.
    ReadData(PackSelection),
}

/// Which packs are read in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackSelection {
    /// All of them.
    All,
    /// Part `part` of `parts`, counted from 1: always the same packs.
    Part {
        /// Which.
        part: u64,
        /// Of how many.
        parts: u64,
    },
    /// So many thousandths of all stored bytes, read longest ago first.
    Permille(u32),
    /// So many stored bytes, read longest ago first.
    Bytes(u64),
}

/// What to verify and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyOptions {
    /// What.
    pub scope: VerifyScope,
    /// Only these sources' data are decoded; empty: all.
    pub sources: Vec<String>,
    /// No pack is begun after this time; what was read longest ago comes first.
    pub max_duration: Option<Duration>,
    /// Only packs that were not read and found whole for this time.
    pub unverified_for: Option<Duration>,
    /// Only these packs are read; empty: those of the scope.
    pub packs: Vec<PackId>,
}

impl VerifyOptions {
    /// Everything within a scope.
    pub fn new(scope: VerifyScope) -> Self {
        Self { scope, sources: Vec::new(), max_duration: None, unverified_for: None, packs: Vec::new() }
    }
}

/// A verification could not be carried out. What it finds is no error but part of its report.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The storage is out of reach.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The wish to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Packs that are not as they were written, each with the blobs that cannot be opened.
type BadBlobs = HashMap<PackId, BTreeSet<u32>>;

/// What all parts of a verification share.
struct Run<'a> {
    reading: &'a Reading,
    catalog: &'a Catalog,
    clock: &'a dyn Clock,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    gatherer: Gatherer,
    parity: ParityFaults,
}

impl<'a> Run<'a> {
    fn new(
        reading: &'a Reading,
        catalog: &'a Catalog,
        clock: &'a dyn Clock,
        observer: &'a dyn Observer,
        cancel: &'a Cancel,
    ) -> Self {
        let (gatherer, parity) = (Gatherer::default(), ParityFaults::default());
        Self { reading, catalog, clock, observer, cancel, gatherer, parity }
    }
}

impl Run<'_> {
    fn phase(&self, phase: &'static str, total_bytes: Option<u64>, total_items: Option<u64>) {
        self.observer.event(&Event::PhaseStarted { phase, total_bytes, total_items });
    }

    fn progress(&self, bytes_done: u64, total_bytes: Option<u64>, items_done: u64, total_items: Option<u64>) {
        let progress = Progress { source: None, bytes_done, total_bytes, items_done, total_items, current: None };
        self.observer.event(&Event::Progress(progress));
    }

    fn now_ns(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }
}

/// Verifies.
///
/// # Errors
/// [`VerifyError`]; damage is none.
pub fn run(
    reading: &Reading,
    catalog: &Catalog,
    options: &VerifyOptions,
    clock: &dyn Clock,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<VerifyReport, VerifyError> {
    let run = Run::new(reading, catalog, clock, observer, cancel);
    let (snapshots, unreadable) = reading.snapshots()?;
    run.gatherer.count(|r| {
        r.complete = true;
        r.snapshots = (snapshots.len() + unreadable.len()) as u64;
        r.packs = reading.index.packs().len() as u64;
    });
    for bad in &unreadable {
        run.gatherer.error(&bad.error);
        run.gatherer.count(|r| r.unreadable_snapshots.push(bad.id.hex()));
    }
    let mut bad = BadBlobs::default();
    match &options.scope {
        VerifyScope::Snapshots(ids) => {
            run.gatherer.count(|r| r.mode = "snapshots");
            let ids: HashSet<SnapshotId> = ids.iter().copied().collect();
            let chosen: Vec<&LoadedSnapshot> = snapshots.iter().filter(|s| ids.contains(&s.snapshot.id)).collect();
            for snapshot in &chosen {
                if let Some(reason) = &snapshot.healed {
                    let object = format!("snapshots/{}/snapshot", snapshot.snapshot.id);
                    run.gatherer.finding(object, Problem::Damaged, reason.as_str());
                }
            }
            let all = chosen.iter().flat_map(|s| s.snapshot.sources.iter().map(move |source| (&s.snapshot, source)));
            streams::prove(&run, &wanted(options, all), &mut bad)?;
        }
        VerifyScope::Structure => {
            run.gatherer.count(|r| r.mode = "structure");
            objects::check(&run)?;
            streams::prove(&run, &wanted(options, newest(&snapshots).into_iter()), &mut bad)?;
            structure_and_impact(&run, &snapshots, &bad)?;
        }
        VerifyScope::ReadData(selection) => {
            run.gatherer.count(|r| r.mode = "read-data");
            objects::check(&run)?;
            packs::read(&run, *selection, options, &mut bad)?;
            if *selection == PackSelection::All && options.max_duration.is_none() && options.unverified_for.is_none() {
                streams::prove(&run, &wanted(options, newest(&snapshots).into_iter()), &mut bad)?;
            }
            structure_and_impact(&run, &snapshots, &bad)?;
        }
    }
    for healed in reading.findings() {
        run.gatherer.finding(report::object_of(&healed), Problem::Damaged, healed.as_str());
    }
    Ok(run.gatherer.into_report())
}

/// Packs against the index, records against packs, and, where anything is wrong, whom it hits.
fn structure_and_impact(run: &Run<'_>, snapshots: &[LoadedSnapshot], bad: &BadBlobs) -> Result<(), VerifyError> {
    let coverage = structure::check(run, bad)?;
    let states = records::check(run, snapshots, &coverage)?;
    impact::find(run, snapshots, &states)
}

/// The successful sources among the candidates that the options do not leave out.
fn wanted<'s>(
    options: &VerifyOptions,
    candidates: impl Iterator<Item = (&'s Snapshot, &'s SourceRecord)>,
) -> Vec<(&'s Snapshot, &'s SourceRecord)> {
    candidates
        .filter(|(_, s)| s.failure.is_none() && (options.sources.is_empty() || options.sources.contains(&s.name)))
        .collect()
}

/// The newest successful record of each source of each host.
fn newest(snapshots: &[LoadedSnapshot]) -> Vec<(&Snapshot, &SourceRecord)> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for loaded in snapshots {
        let snapshot = &loaded.snapshot;
        for source in snapshot.sources.iter().filter(|s| s.failure.is_none()) {
            if seen.insert((snapshot.system.host.as_str(), source.name.as_str())) {
                found.push((snapshot, source));
            }
        }
    }
    found
}
