//! Carries a plan out up to the condemned record: write, prove, publish, condemn.

use super::finish::Own;
use super::plan::Plan;
use super::{PruneError, PruneMeans, PruneReport, View, holds_record, unreadable};
use crate::domain::id::{CondemnedId, IndexId, PackId, VersionId};
use crate::format::gathered::Gathered;
use crate::format::records::{IndexedPack, Proof};
use crate::ops::observer::{Event, Progress};
use crate::repository::closure::{Coverage, LostLiterals, first_hole, lost_literals};
use crate::repository::condemned::{self, Condemned};
use crate::repository::error::RepoError;
use crate::repository::head_facts::HeadFacts;
use crate::repository::index::{PackNumber, RepositoryIndex};
use crate::repository::liveness::Marking;
use crate::repository::pack_reader::{PackReader, SEGMENT_CACHE_BYTES};
use crate::repository::pack_writer::{PackWriter, name_packs};
use crate::repository::record_merge;
use crate::repository::rewrite::{Copier, Effort};
use crate::repository::session::prove_stream;
use crate::repository::stream_reader::{StreamReader, read_head};
use crate::storage::{ReadStore, WriteStore};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Packs written by a prune aim at this length at least.
const PACK_BYTES_MIN: u64 = 4 << 20;
/// Bytes decoded at a time when two forms of a stream are compared.
const COMPARE_BYTES: u64 = 2 << 20;

/// Executes a plan. What was written and not published is removed again when it fails.
pub(super) fn execute(
    (means, heads): (&PruneMeans<'_>, &HeadFacts),
    view: View,
    plan: Plan,
    report: &mut PruneReport,
) -> Result<Own, PruneError> {
    let (writer, keys, random) =
        (Arc::clone(&means.store) as Arc<dyn WriteStore>, Arc::clone(&means.keys), Arc::clone(&means.random));
    let mut writer = PackWriter::new(writer, keys, random).with_target(&means.parameters).for_rewriting(PACK_BYTES_MIN);
    let mut written = Vec::new();
    match write_and_prove((means, heads), &view, &plan, &mut writer, &mut written, report) {
        Ok(gone) => {
            report.written_bytes += writer.parity_bytes();
            publish_and_condemn(means, view, plan, written, gone, report)
        }
        Err(error) => {
            writer.abandon(means.store.as_ref(), &mut written);
            Err(error)
        }
    }
}

fn write_and_prove(
    (means, known): (&PruneMeans<'_>, &HeadFacts),
    view: &View,
    plan: &Plan,
    writer: &mut PackWriter,
    written: &mut Vec<IndexedPack>,
    report: &mut PruneReport,
) -> Result<HashSet<PackNumber>, PruneError> {
    let observer = means.observer;
    let items = (plan.merges.len() + plan.rewrite.len()) as u64;
    observer.event(&Event::PhaseStarted { phase: "writing what is kept", total_bytes: None, total_items: Some(items) });
    let progress = |done: u64| {
        observer.event(&Event::Progress(Progress {
            items_done: done,
            total_items: Some(items),
            ..Progress::default()
        }));
    };
    let (mut heads, mut gathered) = (HashMap::new(), Vec::new());
    for (done, merge) in (1u64..).zip(&plan.merges) {
        means.cancel.check()?;
        let below = match merge.parent {
            None => None,
            Some(parent) => match heads.remove(&parent) {
                Some(head) => Some(head),
                None => Some(read_head(&view.index, &view.packs, parent).map_err(unreadable)?.0),
            },
        };
        let generation = next_generation(view.marking.generation(merge.version).unwrap_or(0), means);
        let names = (generation, VersionId(means.random.bytes()));
        let new = record_merge::write((&view.index, &view.packs), writer, &view.marking, merge, names, below.as_ref())
            .map_err(unreadable)?;
        gathered.extend(new.gathered.map(|gathered| (gathered, new.copies)));
        if let Some(below) = below {
            heads.insert(below.version, below);
        }
        heads.insert(new.head.version, new.head);
        progress(done);
    }
    drop(heads);
    let mut copier = Copier::new(&view.index, &view.packs, &view.marking, &plan.repeated);
    for pack in &plan.rewrite {
        means.cancel.check()?;
        let effort = if plan.harder.contains(&pack.number) { Effort::Hard } else { Effort::AsItIs };
        copier.pack(writer, pack.number, effort).map_err(unreadable)?;
    }
    let (blobs, mut copied) = (copier.blobs_left().max(1), 0);
    while copier.literals(writer).map_err(unreadable)? {
        means.cancel.check()?;
        copied += 1;
        progress(plan.merges.len() as u64 + plan.rewrite.len() as u64 * copied / blobs);
    }
    written.extend(writer.finish_packs()?);
    // what is left when all that goes is gone
    let gone: HashSet<PackNumber> = plan.rewrite.iter().chain(&plan.remove).map(|p| p.number).collect();
    let mut after = view.index.without(&gone);
    for pack in written.iter() {
        after.add_pack(pack, None);
    }
    report.versions_proved += prove((means, known), view, plan, &after, &gone)?;
    whole_in_each_copy(means, &after, &gathered)?;
    Ok(gone)
}

/// Every new literal space is there from its first byte to its last, in each copy number that it was written for: a version
/// that decodes tells this of one copy only.
fn whole_in_each_copy(
    means: &PruneMeans<'_>,
    after: &RepositoryIndex,
    gathered: &[(Gathered, u8)],
) -> Result<(), PruneError> {
    let packs =
        PackReader::new(Arc::clone(&means.store) as Arc<dyn ReadStore>, Arc::clone(&means.keys), SEGMENT_CACHE_BYTES);
    let mut coverage = Coverage::default();
    for &(Gathered { space, bytes }, copies) in gathered {
        for copy in 0..copies {
            let held = coverage.of(after, &packs, space, Some(copy)).map_err(unreadable)?;
            if let Some((start, end)) = first_hole(held, 0, bytes) {
                let reason = format!("bytes {start} to {end} of copy {copy} were not written");
                return Err(PruneError::NotProved { what: format!("literal space {space}"), reason });
            }
        }
    }
    Ok(())
}

/// A generation above the present one. The low half is random, so that two prunes that write a record of the same
/// version at the same time never give it the same number.
fn next_generation(present: u32, means: &PruneMeans<'_>) -> u32 {
    let [a, b] = means.random.bytes::<2>();
    ((present >> 16) + 1) << 16 | u32::from(u16::from_le_bytes([a, b]))
}

/// Proves that everything needed is still there when nothing but `after` is left. Returns the versions decoded.
fn prove(
    (means, heads): (&PruneMeans<'_>, &HeadFacts),
    view: &View,
    plan: &Plan,
    after: &RepositoryIndex,
    gone: &HashSet<PackNumber>,
) -> Result<u64, PruneError> {
    let total = plan.merges.len() as u64;
    means.observer.event(&Event::PhaseStarted {
        phase: "proving what is kept",
        total_bytes: None,
        total_items: Some(total),
    });
    // the proof has caches of its own
    view.packs.drop_caches();
    let packs =
        PackReader::new(Arc::clone(&means.store) as Arc<dyn ReadStore>, Arc::clone(&means.keys), SEGMENT_CACHE_BYTES);
    let failed = |what: String| {
        move |error: RepoError| match error {
            error if error.concerns_one_object() || matches!(error, RepoError::ProofFailed { .. }) => {
                PruneError::NotProved { what, reason: error.to_string() }
            }
            error => PruneError::Repository(error),
        }
    };
    // marked anew from what stays: whatever the first marking forgot is missing here. What is known of heads is known of
    // records that the index of what stays names, too; those that are written anew are read
    let marking = Marking::of(after, &packs, heads, &view.needed).map_err(failed("the records".to_owned()))?;
    covered(view, after, &packs, &marking, gone)?;
    let mut done = 0;
    for merge in &plan.merges {
        means.cancel.check()?;
        let what = format!("version {}", merge.version);
        let (head, _) = read_head(after, &packs, merge.version).map_err(failed(what.clone()))?;
        if head.parent != merge.parent {
            let reason = "it is not the record that was written".to_owned();
            return Err(PruneError::NotProved { what, reason });
        }
        match head.proof {
            Proof::Stream { .. } => prove_stream(after, &packs, merge.version).map_err(failed(what))?,
            // file contents are proved by their tree; here the two forms are compared byte for byte
            Proof::Files { .. } => same_bytes(view, after, &packs, merge.version).map_err(failed(what))?,
        }
        done += 1;
        means.observer.event(&Event::Progress(Progress {
            items_done: done,
            total_items: Some(total),
            ..Progress::default()
        }));
    }
    let healed = packs.healed();
    match healed.first() {
        None => Ok(done),
        Some(reason) => Err(PruneError::NotProved { what: "a second copy".to_owned(), reason: reason.clone() }),
    }
}

/// Every literal space and every record with a part in a pack that goes: what is needed of it is in packs that stay, in
/// the same copy number.
fn covered(
    view: &View,
    after: &RepositoryIndex,
    packs: &PackReader,
    marking: &Marking,
    gone: &HashSet<PackNumber>,
) -> Result<(), PruneError> {
    let lost = lost_literals((&view.index, &view.packs), (after, packs), marking, gone).map_err(unreadable)?;
    if let Some(LostLiterals { space, bytes: (start, end), copy }) = lost {
        let reason = format!("bytes {start} to {end} of copy {copy} would be lost");
        return Err(PruneError::NotProved { what: format!("literal space {space}"), reason });
    }
    let mut versions: BTreeSet<VersionId> = BTreeSet::new();
    for version in view.index.versions().filter(|v| view.needed.contains(v)) {
        if view.index.all_record_places(version).iter().any(|p| gone.contains(&p.pack)) {
            versions.insert(version);
        }
    }
    for version in versions {
        let (head, _) = read_head(after, packs, version).map_err(unreadable)?;
        let slices = u32::try_from(head.slices.len()).unwrap_or(u32::MAX);
        let is_new = view.index.all_record_places(version).iter().all(|place| place.generation != head.generation);
        let parts = || std::iter::once(None).chain((0..slices).map(Some));
        for (copy, part) in parts().map(|part| (0u8, part)).chain(parts().map(|part| (1, part))) {
            let wanted = (version, head.generation, part);
            // what was never held cannot be lost: a repair may have found no second copy to make it from
            let expected = is_new || holds_record(&view.index, &view.packs, wanted, copy)?;
            if expected && !holds_record(after, packs, wanted, copy)? {
                let reason = format!("copy {copy} of a part of its record would be lost");
                return Err(PruneError::NotProved { what: format!("version {version}"), reason });
            }
        }
    }
    Ok(())
}

/// Compares a version as it reads today with how it will read.
fn same_bytes(view: &View, after: &RepositoryIndex, packs: &PackReader, version: VersionId) -> Result<(), RepoError> {
    let mut old = StreamReader::open(&view.index, &view.packs, version)?;
    let mut new = StreamReader::open(after, packs, version)?;
    let differ = |at: u64| RepoError::ProofFailed {
        what: format!("version {version}"),
        reason: format!("its bytes differ from {at} on"),
    };
    let total = old.plain_bytes();
    if new.plain_bytes() != total {
        return Err(differ(total));
    }
    let (mut at, mut a, mut b) = (0, Vec::new(), Vec::new());
    while at < total {
        let to = (at + COMPARE_BYTES).min(total);
        a.clear();
        b.clear();
        old.read(&view.index, &view.packs, at, to, &mut a)?;
        new.read(after, packs, at, to, &mut b)?;
        if a != b {
            return Err(differ(at));
        }
        at = to;
    }
    Ok(())
}

/// Names the new packs in index objects, then condemns the old ones.
fn publish_and_condemn(
    means: &PruneMeans<'_>,
    view: View,
    plan: Plan,
    written: Vec<IndexedPack>,
    gone: HashSet<PackNumber>,
    report: &mut PruneReport,
) -> Result<Own, PruneError> {
    let new_bytes: u64 = written.iter().map(|p| p.stored_bytes).sum();
    let published = name_packs(means.store.as_ref(), &means.keys, means.random.as_ref(), written)?;
    let mut packs: Vec<PackId> = gone.iter().filter_map(|n| view.index.pack(*n).map(|i| i.id)).collect();
    packs.extend(view.orphans.iter().map(|o| o.0));
    packs.sort_unstable();
    let record = Condemned {
        id: CondemnedId(means.random.bytes()),
        created_ns: i64::try_from(means.clock.now().as_nanosecond()).unwrap_or(i64::MAX),
        host: means.host.clone(),
        packs,
        snapshots: view.roots.gone.clone(),
    };
    condemned::put(means.store.as_ref(), &means.keys, &record)?;
    report.records_merged += plan.merges.len() as u64;
    report.packs_rewritten += plan.rewrite.len() as u64;
    report.packs_recompressed += plan.harder.len() as u64;
    report.packs_removed += (plan.remove.len() + view.orphans.len()) as u64;
    report.written_bytes += new_bytes;
    let index_objects: BTreeSet<IndexId> =
        view.index.objects().keys().copied().chain(published.iter().map(|named| named.id)).collect();
    let gone_bytes = plan.freed_bytes() + view.orphans.iter().map(|o| o.1).sum::<u64>();
    Ok(Own { record, roots: view.roots, index_objects, gone_bytes })
}
