//! `prune`: frees what no snapshot needs, beside running backups, without locks or clocks.
//!
//! One step: [`crate::repository::liveness`] says what is needed → [`plan`] chooses → `execute` writes what must be
//! kept into new packs, proves it by reading it back through an index that has nothing but what will stay, publishes
//! it, and condemns the old packs → `finish` deletes them once every run that might rely on them is over. A crash at
//! any point leaves everything readable; the next prune goes on. docs/format.md, "Garbage collection", is the protocol,
//! `tests/model` its proof.

pub mod acts;
mod execute;
mod finish;
pub mod plan;
mod recompress;
pub mod roots;

use super::cancel::{Cancel, Cancelled};
use super::observer::{Event, Observer};
use crate::catalog::Catalog;
use crate::domain::id::{PackId, SnapshotId, VersionId};
use crate::domain::snapshot::Snapshot;
use crate::domain::system::{Clock, Random};
use crate::format::config_object::WriterParameters;
use crate::format::seal::Keys;
use crate::repository::condemned;
use crate::repository::error::RepoError;
use crate::repository::head_facts::HeadFacts;
use crate::repository::index::RepositoryIndex;
use crate::repository::index_loader;
use crate::repository::liveness::{Gather, Marking};
use crate::repository::pack_reader::PackReader;
use crate::repository::parity;
use crate::repository::session::{self, BackupSession, SessionStart};
use crate::storage::{self, DeleteStore, ErrorKind, ObjectKind, ReadStore, WriteStore};
use plan::{Limits, Plan};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Steps after which a prune stops although it finds more to do.
const STEPS_MAX: usize = 10_000;
/// Decoded segments kept while literals are brought together: each is read once, in order, and the proof has its own.
const LOOK_CACHE_BYTES: usize = 2 << 20;

/// The snapshots a prune must keep, and those whose records go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// Versions that kept snapshots name.
    pub versions: HashSet<VersionId>,
    /// Of each version the time of the oldest kept snapshot that names it, nanoseconds since 1970 UTC.
    pub first_named_ns: HashMap<VersionId, i64>,
    /// Kept snapshots, ascending: for telling whether anything changed.
    pub kept: Vec<SnapshotId>,
    /// Forgotten snapshots whose time to be undeleted is over, ascending.
    pub gone: Vec<SnapshotId>,
}

impl Roots {
    /// Adds a snapshot that is kept.
    fn keep(&mut self, named: Named) {
        self.kept.push(named.id);
        for version in named.versions {
            self.versions.insert(version);
            let since = self.first_named_ns.entry(version).or_insert(named.time_ns);
            *since = named.time_ns.min(*since);
        }
    }
}

/// What a prune needs of a snapshot.
struct Named {
    id: SnapshotId,
    time_ns: i64,
    versions: Vec<VersionId>,
}

impl Named {
    fn by(snapshot: &Snapshot) -> Self {
        let streams = snapshot.sources.iter().flat_map(|source| &source.streams);
        let versions = streams.map(|stream| stream.version).collect();
        Self { id: snapshot.id, time_ns: snapshot.time_ns, versions }
    }
}

/// Reads which snapshots are kept, anew each time: prune asks before it plans and again before it deletes.
pub type ReadRoots<'a> = dyn Fn() -> Result<Roots, PruneError> + 'a;

/// What a prune works with.
pub struct PruneMeans<'a> {
    /// The repository's objects.
    pub store: Arc<dyn DeleteStore>,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// What the repository's writers agreed on.
    pub parameters: WriterParameters,
    /// For ids.
    pub random: Arc<dyn Random>,
    /// The time; for records only.
    pub clock: &'a dyn Clock,
    /// Watches.
    pub observer: &'a dyn Observer,
    /// Ends the run early.
    pub cancel: &'a Cancel,
    /// Folder of the local index cache, if there is one.
    pub cache: Option<&'a Path>,
    /// Remembers which packs cannot be made smaller.
    pub catalog: &'a Catalog,
    /// Host name, for records.
    pub host: String,
    /// This process's id, for the session record.
    pub process_id: u32,
    /// The kept snapshots.
    pub roots: &'a ReadRoots<'a>,
}

impl std::fmt::Debug for PruneMeans<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PruneMeans({})", self.store.location())
    }
}

/// How far to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Rewrite every pack that holds dead bytes.
    pub full: bool,
    /// Most bytes of packs to rewrite.
    pub max_repack_bytes: Option<u64>,
    /// Compress what is older than this harder, nanoseconds since 1970 UTC.
    pub recompress_before_ns: Option<i64>,
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// Nothing was written.
    pub dry_run: bool,
    /// Kept snapshots.
    pub snapshots_kept: u64,
    /// Forgotten snapshots whose records went.
    pub snapshots_removed: u64,
    /// Packs before.
    pub packs: u64,
    /// Stored bytes of all packs before.
    pub stored_bytes: u64,
    /// Dead bytes among them, an estimate.
    pub dead_bytes: u64,
    /// Records written anew.
    pub records_merged: u64,
    /// Packs of which a part was copied.
    pub packs_rewritten: u64,
    /// Packs that were chosen because they were old and not compressed hard.
    pub packs_recompressed: u64,
    /// Packs that went as they were.
    pub packs_removed: u64,
    /// Stored bytes of the packs that went.
    pub removed_bytes: u64,
    /// Stored bytes of the packs that were written for it.
    pub written_bytes: u64,
    /// Versions that were decoded through their new records and compared with their hashes.
    pub versions_proved: u64,
    /// Packs condemned but not deleted yet, because a run that is not over may rely on them.
    pub packs_waiting: u64,
    /// Stored bytes of those.
    pub waiting_bytes: u64,
    /// Runs that are waited for.
    pub waiting_for: Vec<String>,
    /// Runs of dead processes that were closed.
    pub closed_runs: Vec<String>,
    /// Finished acts that went because they were older than their kind is kept.
    pub acts_removed: u64,
    /// Steps, more than one when the disk was full.
    pub steps: u64,
    /// More could be freed by another prune (a limit was reached).
    pub is_partial: bool,
}

impl PruneReport {
    /// Bytes by which the repository became smaller.
    pub fn freed_bytes(&self) -> u64 {
        self.removed_bytes.saturating_sub(self.written_bytes)
    }
}

/// A prune could not go on. Nothing that a kept snapshot needs was deleted.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The repository failed, or something that must be kept cannot be read.
    #[error("The repository was not pruned")]
    Repository(#[from] RepoError),
    /// Something is damaged that must be understood before anything may be deleted.
    #[error("Nothing was deleted: {what} cannot be read")]
    Unreadable {
        /// The object.
        what: String,
        /// Why.
        reason: String,
    },
    /// Another prune, repair or undelete is at work.
    #[error("Another maintenance run is at work: {who}")]
    Busy {
        /// Its host, process and start.
        who: String,
    },
    /// What was written does not give back what it must. The old packs stay.
    #[error("Nothing was deleted: the new form of {what} does not prove")]
    NotProved {
        /// The version or space.
        what: String,
        /// Why.
        reason: String,
    },
    /// The wish to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<storage::Error> for PruneError {
    fn from(error: storage::Error) -> Self {
        Self::Repository(error.into())
    }
}

impl PruneError {
    fn is_no_space(&self) -> bool {
        matches!(self, Self::Repository(RepoError::Storage(e)) if e.kind == ErrorKind::NoSpace)
    }
}

/// What one step sees.
struct View {
    roots: Roots,
    /// Versions whose records are kept: those of the roots, and on a full disk some more.
    needed: HashSet<VersionId>,
    index: RepositoryIndex,
    packs: PackReader,
    marking: Marking,
    /// Packs in the store that no index object names.
    orphans: Vec<(PackId, u64)>,
}

/// Prunes.
///
/// # Errors
/// [`PruneError`]; whatever stands in the report so far is done and safe.
pub fn run(means: &PruneMeans<'_>, options: &PruneOptions) -> Result<PruneReport, PruneError> {
    let mut report = PruneReport { dry_run: options.dry_run, ..PruneReport::default() };
    if !options.dry_run {
        close_dead_sessions(means, &mut report)?;
        refuse_beside_another(means, None)?;
    }
    let mut limits = Limits { full: options.full, repack_bytes: options.max_repack_bytes, step_bytes: None };
    // a full prune believes nothing that it has not read
    let heads = HeadFacts::open(means.cache.filter(|_| !options.full), &means.keys);
    let result = run_steps(means, &heads, options, &mut limits, &mut report);
    if let Some(folder) = means.cache {
        // a cache that cannot be written is a cache that is not there
        let _ = heads.store(folder, &means.keys);
    }
    if limits.step_bytes.is_some() {
        means.store.restore_reserve()?;
    }
    if !options.dry_run && result.is_ok() {
        sweep_parity(means, &mut report)?;
    }
    result.map(|()| report)
}

/// Deletes parity without a pack, as a prune leaves it that dies between the two.
fn sweep_parity(means: &PruneMeans<'_>, report: &mut PruneReport) -> Result<(), PruneError> {
    let store = means.store.as_ref();
    if parity::orphans(store, |_| false)?.is_empty() {
        return Ok(());
    }
    let (index, loaded) = index_loader::load(store, &means.keys, means.cache)?;
    refuse_damaged_index(loaded)?;
    for pack in parity::orphans(store, |pack| index.pack_number(pack).is_some())? {
        report.removed_bytes += parity::delete_pack(store, pack)?;
    }
    Ok(())
}

fn run_steps(
    means: &PruneMeans<'_>,
    heads: &HeadFacts,
    options: &PruneOptions,
    limits: &mut Limits,
    report: &mut PruneReport,
) -> Result<(), PruneError> {
    for _ in 0..STEPS_MAX {
        means.cancel.check()?;
        let pending = if options.dry_run { Ok(()) } else { finish::finish_pending(means, heads, report) };
        match pending.and_then(|()| run_step(means, heads, options, limits, report.stored_bytes == 0, report)) {
            Ok(true) if limits.step_bytes.is_some() => {}
            Ok(_) => break,
            Err(error) if error.is_no_space() && limits.step_bytes.is_none() => {
                // steps that fit into the reserve, each of which frees before the next one writes
                let room = means.store.release_reserve()?;
                means.observer.event(&Event::Note {
                    code: "prune.full_disk",
                    message: "The disk is full: going on in small steps, from the reserve",
                });
                // what is written has parity beside it
                let percent = means.parameters.parity().map_or(0, |share| u64::from(share.percent()));
                limits.step_bytes = Some((room / (200 + 2 * percent) * 100).max(1 << 20));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One round: look, choose, execute, delete. True when something was freed and there may be more.
fn run_step(
    means: &PruneMeans<'_>,
    heads: &HeadFacts,
    options: &PruneOptions,
    limits: &Limits,
    first: bool,
    report: &mut PruneReport,
) -> Result<bool, PruneError> {
    let phase = "looking for what is needed";
    means.observer.event(&Event::PhaseStarted { phase, total_bytes: None, total_items: None });
    if options.dry_run {
        let records = condemned::load_all(means.store.as_ref(), &means.keys).map_err(unreadable)?;
        let excluded = condemned::packs_of(&records);
        let (index, loaded) = index_loader::load_without(means.store.as_ref(), &means.keys, means.cache, &excluded)?;
        refuse_damaged_index(loaded)?;
        let (_, plan) = look_and_choose((means, heads), index, options, limits, true, report)?;
        report.records_merged = plan.merges.len() as u64;
        report.packs_rewritten = plan.rewrite.len() as u64;
        report.packs_recompressed = plan.harder.len() as u64;
        report.packs_removed = plan.remove.len() as u64;
        report.removed_bytes = plan.freed_bytes();
        report.written_bytes = plan.written_bytes();
        return Ok(false);
    }
    let (index, guard) = begin(means)?.into_parts();
    // again, now that others can see this one: of two that begin at once at least one gives way
    let alone = refuse_beside_another(means, Some(guard.id()));
    // A record merged is progress, too: what it makes unnecessary goes in a later step. Bytes that were only written
    // again are none.
    let gained = |report: &PruneReport| i128::from(report.removed_bytes) - i128::from(report.written_bytes);
    let (before, merged_before) = (gained(report), report.records_merged);
    let done = alone.and_then(|()| look_and_choose((means, heads), index, options, limits, first, report)).and_then(
        |(view, plan)| {
            if plan.is_empty() && view.roots.gone.is_empty() && view.orphans.is_empty() {
                return Ok(None);
            }
            report.steps += 1;
            execute::execute((means, heads), view, plan, report).map(Some)
        },
    );
    // the session protected what this step wrote; it is published or given up now, and nobody needs to wait for it
    session::end(means.store.as_ref(), guard.id())?;
    drop(guard);
    let Some(own) = done? else { return Ok(false) };
    finish::finish_own(means, heads, &own, report)?;
    Ok(gained(report) > before || report.records_merged > merged_before)
}

fn refuse_damaged_index(loaded: index_loader::LoadReport) -> Result<(), PruneError> {
    match loaded.damaged.into_iter().next() {
        None => Ok(()),
        Some((id, reason)) => Err(PruneError::Unreadable { what: format!("index/{id}"), reason }),
    }
}

/// Marks what is needed and chooses what to do.
fn look_and_choose(
    (means, heads): (&PruneMeans<'_>, &HeadFacts),
    index: RepositoryIndex,
    options: &PruneOptions,
    limits: &Limits,
    first: bool,
    report: &mut PruneReport,
) -> Result<(View, Plan), PruneError> {
    let roots = (means.roots)()?;
    let listed = means.store.list(ObjectKind::Pack)?;
    let orphans = listed
        .iter()
        .filter_map(|info| Some((super::repair_index::pack_id(&info.name)?, info.stored_bytes)))
        .filter(|(id, _)| index.pack_number(*id).is_none())
        .collect();
    let packs =
        PackReader::new(Arc::clone(&means.store) as Arc<dyn ReadStore>, Arc::clone(&means.keys), LOOK_CACHE_BYTES);
    // bringing literals together writes more than it frees at first, so it has no place where room or work is limited
    let gather = match (limits.step_bytes.or(limits.repack_bytes), limits.full) {
        (Some(_), _) => Gather::Nothing,
        (None, false) => Gather::Merged,
        (None, true) => Gather::Everything,
    };
    let marking = Marking::gathering((&index, &packs), heads, &roots.versions, gather).map_err(unreadable)?;
    let needed = roots.versions.clone();
    let mut view = View { roots, needed, index, packs, marking, orphans };
    let found = plan::assess(&view.index, &view.packs, &view.marking).map_err(unreadable)?;
    if first {
        report.snapshots_kept = view.roots.kept.len() as u64;
        report.packs = view.index.packs().len() as u64;
        report.stored_bytes = found.stored_bytes;
        report.dead_bytes = found.dead_bytes;
    }
    let plan = match limits.step_bytes {
        None => {
            let harder = match options.recompress_before_ns {
                Some(before_ns) => recompress::worth_it(means, &view, before_ns, !options.dry_run)?,
                None => HashSet::new(),
            };
            plan::choose(&view.marking, found, limits, &view.index, harder)
        }
        Some(step_bytes) => choose_small(&mut view, heads, found, limits, step_bytes)?,
    };
    report.is_partial = plan.is_partial;
    Ok((view, plan))
}

/// A step for a full disk: what can go without writing anything; else one record merged, which frees packs; else as
/// many packs rewritten as the reserve has room for.
fn choose_small(
    view: &mut View,
    heads: &HeadFacts,
    found: plan::Assessment,
    limits: &Limits,
    step_bytes: u64,
) -> Result<Plan, PruneError> {
    let merges = view.marking.merges().to_vec();
    for carried_out in [0, 1] {
        if merges.is_empty() {
            break;
        }
        // the records of all others stay, and so does what they pass over
        for merge in merges.iter().skip(carried_out) {
            let passed = Marking::passed_over(&view.index, &view.packs, merge).map_err(unreadable)?;
            view.needed.extend(passed);
        }
        view.marking = Marking::of(&view.index, &view.packs, heads, &view.needed).map_err(unreadable)?;
        let found = plan::assess(&view.index, &view.packs, &view.marking).map_err(unreadable)?;
        let mut plan = plan::choose(&view.marking, found, limits, &view.index, HashSet::new());
        plan.rewrite.clear();
        plan.is_partial = true;
        if carried_out == 1 || !plan.remove.is_empty() {
            return Ok(plan);
        }
        view.needed = view.roots.versions.clone();
    }
    let mut plan = plan::choose(&view.marking, found, limits, &view.index, HashSet::new());
    plan::shorten(&mut plan, step_bytes);
    Ok(plan)
}

/// Damage stops a prune before it deletes; what is not damage is an ordinary failure.
fn unreadable(error: RepoError) -> PruneError {
    if !error.concerns_one_object() {
        return PruneError::Repository(error);
    }
    let reason = error.to_string();
    let what = match error {
        RepoError::Damaged { object, .. } | RepoError::Format { object, .. } => object,
        RepoError::Missing { what } => what,
        RepoError::Storage(e) => e.name,
        _ => "something that is needed".to_owned(),
    };
    PruneError::Unreadable { what, reason }
}

/// True when a pack of this copy number holds a part of a record of this generation.
fn holds_record(
    index: &RepositoryIndex,
    packs: &PackReader,
    (version, generation, part): (VersionId, u32, Option<u32>),
    copy: u8,
) -> Result<bool, PruneError> {
    for place in index.all_record_places(version) {
        if index.pack(place.pack).is_some_and(|info| info.copy == copy) {
            let table = packs.table(index, place.pack).map_err(unreadable)?;
            if table.record(version, generation, part).is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn begin(means: &PruneMeans<'_>) -> Result<BackupSession, PruneError> {
    let start = SessionStart {
        id: SnapshotId(means.random.bytes()),
        host: means.host.clone(),
        process: means.process_id,
        started_ns: i64::try_from(means.clock.now().as_nanosecond()).unwrap_or(i64::MAX),
        sources: Vec::new(),
    };
    let (writer, keys, random) =
        (Arc::clone(&means.store) as Arc<dyn WriteStore>, Arc::clone(&means.keys), Arc::clone(&means.random));
    let mut loaded = index_loader::LoadReport::default();
    let session = BackupSession::begin(writer, keys, random, &means.parameters, &start, |store, keys, excluded| {
        let (index, report) = index_loader::load_without(store, keys, means.cache, excluded)?;
        loaded = report;
        Ok(index)
    });
    let checked = session.map_err(unreadable).and_then(|session| refuse_damaged_index(loaded).map(|()| session));
    if checked.is_err() {
        // best effort: what a dead session leaves is closed by the next run as well
        let _ = session::end(means.store.as_ref(), start.id);
    }
    checked
}

/// Closes the sessions of dead processes, so that nothing waits for them, and clears what they left.
fn close_dead_sessions(means: &PruneMeans<'_>, report: &mut PruneReport) -> Result<(), PruneError> {
    fence_dead(means, report)?;
    means.store.clear_leftovers()?;
    Ok(())
}

/// Fences dead sessions and removes what they left. Returns the living ones.
fn fence_dead(means: &PruneMeans<'_>, report: &mut PruneReport) -> Result<Vec<SnapshotId>, PruneError> {
    let swept = session::fence_dead(means.store.as_ref())?;
    for id in swept.fenced {
        report.closed_runs.push(id.hex());
        session::end(means.store.as_ref(), id)?;
    }
    Ok(swept.living)
}

/// Two prunes at once would do the work twice; safety does not rest on this.
fn refuse_beside_another(means: &PruneMeans<'_>, own: Option<SnapshotId>) -> Result<(), PruneError> {
    match session::other_maintenance(means.store.as_ref(), &means.keys, own)? {
        Some(who) => Err(PruneError::Busy { who }),
        None => Ok(()),
    }
}
