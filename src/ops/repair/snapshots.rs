//! `repair snapshots`: second copies are made again, and beside every snapshot that cannot be given back whole a new one
//! is written that holds what can.
//!
//! The original stays, unchanged and visible: what is lost can still be looked up in it, and a disk that gives its
//! sectors back makes it whole again. The new snapshot stands a nanosecond later, so `latest` is the one that can be
//! restored; it has the tag `repaired` and names the original in an extension.

use super::copies::{self, CopiesReport};
use super::snapshot_files::{self, Rebuilt};
use super::{LostStream, RepairError, RepairMeans, begin, lost_streams, open_reading};
use crate::domain::id::{SnapshotId, VersionId};
use crate::domain::snapshot::{Snapshot, SourceKind, SourceRecord, SourceWarning, StreamRole};
use crate::ops::backup::{self, prove};
use crate::ops::observer::{Event, Progress};
use crate::ops::verify::examine::{self, Examined, Lost};
use crate::repository::session;
use crate::repository::session::BackupSession;
use crate::repository::snapshots::{self as records, LoadedSnapshot};
use serde::Serialize;
use std::collections::HashMap;

/// The extension of a repaired snapshot: the 16 bytes of the original's id.
pub const REPAIRED_FROM: &str = "repaired.from";
/// The tag of a repaired snapshot.
pub const REPAIRED_TAG: &str = "repaired";

/// What to repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotsRequest {
    /// Only these; empty: all that are visible.
    pub snapshots: Vec<SnapshotId>,
    /// Read all packs in full first, so that damage is found that the index does not show.
    pub read_data: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// A source of a repaired snapshot that lost something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairedSource {
    /// Its name.
    pub source: String,
    /// Nothing of it is left; the new snapshot records it as failed.
    pub failed: bool,
    /// Files that the new snapshot has.
    pub files_kept: u64,
    /// Files that it does not have.
    pub files_lost: u64,
    /// Their paths, the first thousand.
    pub paths: Vec<String>,
}

/// A snapshot beside which a new one was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairedSnapshot {
    /// The original's id.
    pub original: String,
    /// The new one's id; none in a dry run, or when no source has anything left.
    pub repaired: Option<String>,
    /// Sources that are whole in both.
    pub whole: Vec<String>,
    /// Sources that lost something. Empty in a dry run.
    pub sources: Vec<RepairedSource>,
}

/// What a repair of snapshots did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotsReport {
    /// Nothing was written.
    pub dry_run: bool,
    /// Visible snapshots that were looked at.
    pub snapshots: u64,
    /// Second copies of configuration, key slots and snapshot records.
    pub copies: CopiesReport,
    /// Snapshots that cannot be given back whole, with what was written beside them.
    pub repaired: Vec<RepairedSnapshot>,
    /// Such snapshots that an earlier repair dealt with.
    pub repaired_before: Vec<String>,
    /// What is lost of which stream, table and file.
    pub lost: Vec<LostStream>,
    /// Visible snapshots whose record cannot be read in either copy.
    pub unreadable_snapshots: Vec<String>,
}

/// Repairs snapshots.
///
/// # Errors
/// [`RepairError`]; snapshots that were written by then stay.
pub fn run(means: &RepairMeans<'_>, request: &SnapshotsRequest) -> Result<SnapshotsReport, RepairError> {
    let mut report = SnapshotsReport { dry_run: request.dry_run, ..SnapshotsReport::default() };
    copies::heal(means, request.dry_run, &mut report.copies)?;
    let reading = open_reading(means)?;
    let (clock, observer, cancel) = (means.clock, means.observer, means.cancel);
    let read = request.read_data.then_some([].as_slice());
    let examined = examine::examine(&reading, means.local.catalog, read, clock, observer, cancel)?;
    drop(reading);
    let wanted = |id: SnapshotId| request.snapshots.is_empty() || request.snapshots.contains(&id);
    let chosen: Vec<&LoadedSnapshot> = examined.snapshots.iter().filter(|l| wanted(l.snapshot.id)).collect();
    report.snapshots = chosen.len() as u64;
    report.unreadable_snapshots = examined.report.unreadable_snapshots.clone();
    let ids: Vec<String> = chosen.iter().map(|l| l.snapshot.id.hex()).collect();
    let mut affected = examined.report.affected.clone();
    affected.retain(|a| ids.contains(&a.snapshot));
    report.lost = lost_streams(affected, &examined.snapshots);
    let is_whole = |s: &Snapshot| s.sources.iter().all(|source| examined.is_whole(source));
    let done: Vec<SnapshotId> =
        examined.snapshots.iter().filter(|l| is_whole(&l.snapshot)).filter_map(|l| original(&l.snapshot)).collect();
    let mut memo = HashMap::new();
    // oldest first, as they were made
    let damaged: Vec<&LoadedSnapshot> = chosen.into_iter().rev().filter(|l| !is_whole(&l.snapshot)).collect();
    let total_items = Some(damaged.len() as u64);
    observer.event(&Event::PhaseStarted { phase: "writing what is whole", total_bytes: None, total_items });
    for (items_done, loaded) in (1u64..).zip(damaged) {
        cancel.check()?;
        if done.contains(&loaded.snapshot.id) {
            report.repaired_before.push(loaded.snapshot.id.hex());
            continue;
        }
        report.repaired.push(beside(means, &examined, &loaded.snapshot, request.dry_run, &mut memo)?);
        observer.event(&Event::Progress(Progress { items_done, total_items, ..Progress::default() }));
    }
    Ok(report)
}

/// The original of a repaired snapshot.
fn original(snapshot: &Snapshot) -> Option<SnapshotId> {
    let (_, bytes) = snapshot.extensions.iter().find(|(name, _)| name == REPAIRED_FROM)?;
    Some(SnapshotId(bytes.as_slice().try_into().ok()?))
}

/// Files sources that were rebuilt, by content and tree: snapshots of an unchanged source share them.
type Memo = HashMap<Vec<VersionId>, Option<Rebuilt>>;

/// Writes the new snapshot.
fn beside(
    means: &RepairMeans<'_>,
    examined: &Examined,
    old: &Snapshot,
    dry_run: bool,
    memo: &mut Memo,
) -> Result<RepairedSnapshot, RepairError> {
    let whole = old.sources.iter().filter(|s| s.failure.is_none() && examined.is_whole(s));
    let mut repaired = RepairedSnapshot {
        original: old.id.hex(),
        repaired: None,
        whole: whole.map(|s| s.name.clone()).collect(),
        sources: Vec::new(),
    };
    if dry_run {
        return Ok(repaired);
    }
    let mut session = begin(means, old.sources.iter().map(|s| s.name.clone()).collect())?;
    let id = session.id();
    match fill(means, examined, old, &mut session, &mut repaired, memo) {
        Ok(Some(snapshot)) => {
            let committed = session.commit(&snapshot);
            if committed.is_err() {
                let _ = session::end(means.store.as_ref(), id);
            }
            committed?;
            let read = records::load(means.store.as_ref(), &means.keys, id)?;
            if read.snapshot != snapshot {
                let reason = "it reads back as another record".to_owned();
                return Err(RepairError::NotProved { what: "the snapshot record".to_owned(), reason });
            }
            repaired.repaired = Some(id.hex());
            Ok(repaired)
        }
        Ok(None) => {
            session::end(means.store.as_ref(), id)?;
            Ok(repaired)
        }
        Err(error) => {
            // best effort: what a dead session leaves is closed by the next run as well
            let _ = session::end(means.store.as_ref(), id);
            Err(error)
        }
    }
}

/// Rebuilds the sources and proves them; `None` when nothing is left.
fn fill(
    means: &RepairMeans<'_>,
    examined: &Examined,
    old: &Snapshot,
    session: &mut BackupSession,
    repaired: &mut RepairedSnapshot,
    memo: &mut Memo,
) -> Result<Option<Snapshot>, RepairError> {
    let mut proofs = Vec::new();
    let mut sources = Vec::new();
    for source in &old.sources {
        if source.failure.is_some() || examined.is_whole(source) {
            sources.push(source.clone());
            continue;
        }
        let (record, lost) = match source.kind {
            SourceKind::Files => {
                let key: Vec<VersionId> = source.streams.iter().map(|s| s.version).collect();
                let rebuilt = match memo.get(&key) {
                    Some(known) => known.clone(),
                    None => {
                        let rebuilt = snapshot_files::rebuild(session, source, &mut proofs, means.cancel)?;
                        memo.insert(key, rebuilt.clone());
                        rebuilt
                    }
                };
                files_source(source, rebuilt)
            }
            _ => stream_source(examined, source),
        };
        repaired.sources.push(lost);
        sources.push(record);
    }
    if sources.iter().all(|s| s.failure.is_some()) {
        return Ok(None);
    }
    session.flush()?;
    for proof in &proofs {
        means.cancel.check()?;
        prove::prove(session, proof)?;
    }
    for stream in sources.iter_mut().flat_map(|s| &mut s.streams) {
        let added = session.added_bytes(stream.version);
        if added > 0 {
            stream.added_bytes = added;
        }
    }
    let mut snapshot = Snapshot {
        id: session.id(),
        time_ns: old.time_ns.saturating_add(1),
        sources,
        heads: backup::heads(&examined.snapshots).map(|l| (l.snapshot.id, l.digest)).collect(),
        stored_bytes: session.stored_bytes(),
        ..old.clone()
    };
    snapshot.tags.push(REPAIRED_TAG.to_owned());
    snapshot.tags.sort();
    snapshot.tags.dedup();
    snapshot.extensions.retain(|(name, _)| name != REPAIRED_FROM);
    snapshot.extensions.push((REPAIRED_FROM.to_owned(), old.id.0.to_vec()));
    Ok(Some(snapshot))
}

/// A files source with what is left of it.
fn files_source(source: &SourceRecord, rebuilt: Option<Rebuilt>) -> (SourceRecord, RepairedSource) {
    let name = source.name.clone();
    let mut lost = RepairedSource { source: name, failed: true, files_kept: 0, files_lost: 0, paths: Vec::new() };
    let Some(rebuilt) = rebuilt else {
        return (failed(source, "Its tree was damaged in the repository"), lost);
    };
    (lost.files_kept, lost.files_lost) = (rebuilt.kept, rebuilt.lost);
    lost.paths.clone_from(&rebuilt.lost_paths);
    if rebuilt.kept == 0 && rebuilt.lost > 0 {
        return (failed(source, "All of its files were damaged in the repository"), lost);
    }
    lost.failed = false;
    let mut record = SourceRecord { streams: rebuilt.streams.clone(), ..source.clone() };
    record.warnings.extend(rebuilt.warnings());
    if let Some(files) = &mut record.files {
        files.files = rebuilt.kept;
    }
    (record, lost)
}

/// A source of streams: without the streams that are damaged if its data is whole, as failed if not.
fn stream_source(examined: &Examined, source: &SourceRecord) -> (SourceRecord, RepairedSource) {
    let name = source.name.clone();
    let mut lost = RepairedSource { source: name, failed: true, files_kept: 0, files_lost: 0, paths: Vec::new() };
    let damaged =
        |role: StreamRole| source.streams.iter().any(|s| s.role == role && examined.lost(s.version) != Lost::Nothing);
    if damaged(StreamRole::Data) {
        return (failed(source, "Its data was damaged in the repository"), lost);
    }
    lost.failed = false;
    let mut record = source.clone();
    record.streams.retain(|s| examined.lost(s.version) == Lost::Nothing);
    for stream in source.streams.iter().filter(|s| examined.lost(s.version) != Lost::Nothing) {
        record.warnings.push(SourceWarning {
            code: "stream.lost".to_owned(),
            subject: stream.file_name.clone(),
            message: format!("{} was damaged in the repository and is lost", stream.file_name),
            incomplete: true,
        });
    }
    (record, lost)
}

fn failed(source: &SourceRecord, reason: &str) -> SourceRecord {
    SourceRecord {
        name: source.name.clone(),
        kind: source.kind,
        location: source.location.clone(),
        failure: Some(reason.to_owned()),
        streams: Vec::new(),
        reader_version: source.reader_version.clone(),
        server_version: source.server_version.clone(),
        tables: Vec::new(),
        files: None,
        warnings: Vec::new(),
        live_bytes: source.live_bytes,
        duration_ms: source.duration_ms,
    }
}
