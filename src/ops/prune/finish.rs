//! From the condemned record to the deletion.
//!
//! A record is ripe when every session that exists has seen it: whoever began before it was written might rely on what
//! it names. Then, and only then, the snapshots are listed again and marked anew without the condemned packs; if
//! anything is missing, the record is withdrawn and nothing is deleted. Index objects are replaced before packs are
//! deleted, and the record goes last, so that a crash anywhere is resumed by reading it.

use super::{PruneError, PruneMeans, PruneReport, Roots, holds_record, unreadable};
use crate::domain::id::{CondemnedId, IndexId, PackId, SnapshotId};
use crate::format::records::{BlobMeta, IndexBody};
use crate::ops::observer::{Event, Progress};
use crate::repository::closure::{LostLiterals, lost_literals};
use crate::repository::condemned::{self, Condemned};
use crate::repository::error::RepoError;
use crate::repository::head_facts::HeadFacts;
use crate::repository::index::{PackNumber, RepositoryIndex};
use crate::repository::index_loader;
use crate::repository::liveness::Marking;
use crate::repository::pack_reader::{PackReader, SEGMENT_CACHE_BYTES, load_index};
use crate::repository::pack_writer::{INDEX_PACKS_MAX, put_index};
use crate::repository::parity;
use crate::repository::session;
use crate::storage::{ErrorKind, ObjectKind, ObjectName, ReadStore};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Index objects that name fewer packs than this are small; many small ones are merged.
const SMALL_OBJECT_PACKS: usize = 16;
/// Small index objects that are left alone.
const SMALL_OBJECTS_LEFT: usize = 32;

/// A record that this run has just written, and what the run knew when it did.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) record: Condemned,
    pub(super) roots: Roots,
    /// All index objects, its own included.
    pub(super) index_objects: BTreeSet<IndexId>,
    pub(super) gone_bytes: u64,
}

/// Finishes the record of this run, if no session is in the way.
pub(super) fn finish_own(
    means: &PruneMeans<'_>,
    heads: &HeadFacts,
    own: &Own,
    report: &mut PruneReport,
) -> Result<(), PruneError> {
    let waiting = sessions_in_the_way(means, own.record.id, report)?;
    if !waiting.is_empty() {
        report.packs_waiting += own.record.packs.len() as u64;
        report.waiting_bytes += own.gone_bytes;
        report.waiting_for = waiting;
        return Ok(());
    }
    // nothing happened since it was proved: no need to look again
    let unchanged = (means.roots)()? == own.roots
        && others(means, own.record.id)?.is_empty()
        && index_loader::list_objects(means.store.as_ref())?.into_iter().collect::<BTreeSet<_>>() == own.index_objects;
    finish((means, heads), &own.record, !unchanged, report)
}

/// Finishes the records that earlier prunes left.
pub(super) fn finish_pending(
    means: &PruneMeans<'_>,
    heads: &HeadFacts,
    report: &mut PruneReport,
) -> Result<(), PruneError> {
    for id in condemned::list(means.store.as_ref())? {
        means.cancel.check()?;
        let record = match condemned::load(means.store.as_ref(), &means.keys, id) {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            Err(error) if error.concerns_one_object() => {
                withdraw_unreadable(means, id, &error)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let waiting = sessions_in_the_way(means, id, report)?;
        if waiting.is_empty() {
            finish((means, heads), &record, true, report)?;
        } else {
            report.packs_waiting += record.packs.len() as u64;
            report.waiting_for = waiting;
        }
    }
    Ok(())
}

/// A record that cannot be read stops every run that writes. Whoever wrote it is dead (two prunes do not run at once),
/// so nothing is being deleted under it any more: packs that the index names are whole, and those that it does not name
/// are orphans.
fn withdraw_unreadable(means: &PruneMeans<'_>, id: CondemnedId, error: &RepoError) -> Result<(), PruneError> {
    let message = format!("The record condemned/{} cannot be read and is withdrawn ({error})", id.short());
    means.observer.event(&Event::Note { code: "prune.record_withdrawn", message: &message });
    means.store.delete(&ObjectName::condemned(id))?;
    Ok(())
}

fn others(means: &PruneMeans<'_>, id: CondemnedId) -> Result<Vec<CondemnedId>, PruneError> {
    Ok(condemned::list(means.store.as_ref())?.into_iter().filter(|other| *other != id).collect())
}

/// Sessions that have not seen a record. Those of dead processes are fenced and do not count.
fn sessions_in_the_way(
    means: &PruneMeans<'_>,
    id: CondemnedId,
    report: &mut PruneReport,
) -> Result<Vec<String>, PruneError> {
    let mut waiting = Vec::new();
    // one that is neither alive nor fenced has committed meanwhile: its snapshot is listed below
    for session in super::fence_dead(means, report)? {
        // no `saw` yet, or one that cannot be read, is as good as not seen
        let saw = session::load_saw(means.store.as_ref(), &means.keys, session);
        if !saw.is_ok_and(|saw| saw.condemned.contains(&id.0)) {
            let who = session::load_start(means.store.as_ref(), &means.keys, session).map_or_else(
                |_| format!("run {}", session.short()),
                |start| format!("process {} on {} ({})", start.process, start.host, start.sources.join(", ")),
            );
            waiting.push(who);
        }
    }
    Ok(waiting)
}

/// Deletes what a ripe record names. With `look_again` everything that is kept is marked anew first.
fn finish(
    (means, heads): (&PruneMeans<'_>, &HeadFacts),
    record: &Condemned,
    look_again: bool,
    report: &mut PruneReport,
) -> Result<(), PruneError> {
    let roots = (means.roots)()?;
    let mut excluded = HashSet::new();
    for other in others(means, record.id)? {
        excluded.extend(
            condemned::load(means.store.as_ref(), &means.keys, other)
                .map_err(unreadable)?
                .into_iter()
                .flat_map(|r| r.packs),
        );
    }
    let (index, loaded) = index_loader::load(means.store.as_ref(), &means.keys, means.cache)?;
    if let Some((id, reason)) = loaded.damaged.into_iter().next() {
        return Err(PruneError::Unreadable { what: format!("index/{id}"), reason });
    }
    if look_again {
        let gone: HashSet<PackId> = record.packs.iter().copied().collect();
        if let Some(reason) = still_needed((means, heads), &index, &roots, &gone, &excluded)? {
            let message = format!(
                "A run that was not over when packs were condemned relies on some of them; they stay ({reason})"
            );
            means.observer.event(&Event::Note { code: "prune.record_withdrawn", message: &message });
            means.store.delete(&ObjectName::condemned(record.id))?;
            return Ok(());
        }
    }
    delete(means, record, &index, &roots, report)
}

/// What a kept snapshot would miss without the packs in `gone` and `excluded`, if anything.
fn still_needed(
    (means, heads): (&PruneMeans<'_>, &HeadFacts),
    index: &RepositoryIndex,
    roots: &Roots,
    gone: &HashSet<PackId>,
    excluded: &HashSet<PackId>,
) -> Result<Option<String>, PruneError> {
    let numbers: HashSet<_> = gone.union(excluded).filter_map(|id| index.pack_number(*id)).collect();
    let after = index.without(&numbers);
    let packs =
        PackReader::new(Arc::clone(&means.store) as Arc<dyn ReadStore>, Arc::clone(&means.keys), SEGMENT_CACHE_BYTES);
    let marking = match Marking::of(&after, &packs, heads, &roots.versions) {
        Ok(marking) => marking,
        Err(error) if error.is_damage() => return Ok(Some(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let going: HashSet<PackNumber> = gone.iter().filter_map(|id| index.pack_number(*id)).collect();
    if let Some(lost) = lost_literals((index, &packs), (&after, &packs), &marking, &going)? {
        let LostLiterals { space, bytes: (start, end), copy } = lost;
        return Ok(Some(format!("bytes {start} to {end} of literal space {space}, copy {copy}")));
    }
    lost_record_copy(index, &after, &packs, &marking, &numbers)
}

/// A part of a record in use that only the packs that go hold in its copy number. A run that was at work when the record
/// was written may have named one of two packs only since: the other serves every reader, and must not be all that is left.
fn lost_record_copy(
    index: &RepositoryIndex,
    after: &RepositoryIndex,
    packs: &PackReader,
    marking: &Marking,
    gone: &HashSet<PackNumber>,
) -> Result<Option<String>, PruneError> {
    for &number in gone {
        let table = packs.table(index, number).map_err(unreadable)?;
        let copy = index.pack(number).map_or(0, |info| info.copy);
        for blob in &table.table.blobs {
            let (generation, part) = match blob.meta {
                BlobMeta::Head { generation, .. } => (generation, None),
                BlobMeta::Slice { generation, sequence, .. } => (generation, Some(sequence)),
                BlobMeta::Segment { .. } | BlobMeta::Sparse { .. } => continue,
            };
            let version = table.table.ids.get(blob.meta.owner() as usize).copied().unwrap_or_default();
            if marking.needs_record(version, generation)
                && !holds_record(after, packs, (version, generation, part), copy)?
            {
                return Ok(Some(format!("copy {copy} of a part of the record of version {version}")));
            }
        }
    }
    Ok(None)
}

/// Index first, then packs, then the forgotten snapshots, the record last.
fn delete(
    means: &PruneMeans<'_>,
    record: &Condemned,
    index: &RepositoryIndex,
    roots: &Roots,
    report: &mut PruneReport,
) -> Result<(), PruneError> {
    let total = record.packs.len() as u64;
    means.observer.event(&Event::PhaseStarted { phase: "deleting", total_bytes: None, total_items: Some(total) });
    let gone: HashSet<PackId> = record.packs.iter().copied().collect();
    // What this rests on: a tombstone that a failed `forget` left visible must not vanish in a power failure after the data, nor the
    // name of a pack that holds what another one is deleted for.
    for kind in [ObjectKind::Forgotten, ObjectKind::Snapshot, ObjectKind::Index] {
        means.store.settle(kind)?;
    }
    replace_index(means, index, &gone)?;
    for (done, pack) in (1u64..).zip(&record.packs) {
        report.removed_bytes += parity::delete_pack(means.store.as_ref(), *pack)?;
        means.observer.event(&Event::Progress(Progress {
            items_done: done,
            total_items: Some(total),
            ..Progress::default()
        }));
    }
    let kept: HashSet<SnapshotId> = roots.kept.iter().copied().collect();
    for snapshot in record.snapshots.iter().filter(|s| !kept.contains(s)) {
        // before the snapshot: an acceptance of nothing would stay for ever
        means.store.delete(&ObjectName::acceptance(*snapshot))?;
        if means.store.remove_run(ObjectKind::Snapshot, *snapshot)? {
            report.snapshots_removed += 1;
        }
    }
    means.store.delete(&ObjectName::condemned(record.id))?;
    Ok(())
}

/// Writes index objects without the packs that go, then deletes those that named them. Small ones are merged on the way.
fn replace_index(means: &PruneMeans<'_>, index: &RepositoryIndex, gone: &HashSet<PackId>) -> Result<(), PruneError> {
    let names_gone = |packs: &[u32]| packs.iter().any(|n| index.pack(*n).is_some_and(|i| gone.contains(&i.id)));
    let mut replaced: BTreeSet<IndexId> =
        index.objects().iter().filter(|(_, packs)| names_gone(packs)).map(|(id, _)| *id).collect();
    let small: Vec<IndexId> = index
        .objects()
        .iter()
        .filter(|(id, packs)| !replaced.contains(id) && packs.len() < SMALL_OBJECT_PACKS)
        .map(|(id, _)| *id)
        .collect();
    if small.len() > SMALL_OBJECTS_LEFT {
        replaced.extend(small);
    }
    let (mut left, mut named) = (Vec::new(), HashSet::new());
    let mut done: Vec<IndexId> = Vec::new();
    let flush = |left: &mut Vec<_>, done: &mut Vec<IndexId>| -> Result<(), PruneError> {
        if !left.is_empty() {
            let body = IndexBody { supersedes: done.clone(), packs: std::mem::take(left) };
            put_index(means.store.as_ref(), &means.keys, means.random.as_ref(), &body)?;
        }
        for id in done.drain(..) {
            means.store.delete(&ObjectName::index(id))?;
        }
        Ok(())
    };
    for id in replaced {
        let body = match load_index(means.store.as_ref(), &means.keys, id) {
            Ok(body) => body,
            Err(RepoError::Storage(e)) if e.kind == ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(error)),
        };
        left.extend(body.packs.into_iter().filter(|p| !gone.contains(&p.pack) && named.insert(p.pack)));
        done.push(id);
        if left.len() >= INDEX_PACKS_MAX {
            flush(&mut left, &mut done)?;
        }
    }
    flush(&mut left, &mut done)
}
