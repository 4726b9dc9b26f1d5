//! `repair packs`: what is whole in damaged packs goes into new ones, what another copy has is made again, then the
//! index names the new packs and the damaged ones are put aside.
//!
//! Order: new packs → read back and compared → index objects that name them → old index objects aside → damaged packs
//! aside. A crash anywhere leaves a repository in which the same repair finds the same work again, or less. What only a
//! damaged blob held is in no index object any more, so the next backup stores it again if its source still has it.

use super::parity::{self, ParityReport, Wanted};
use super::salvage::{BlobKey, Salvage, key_of, new_blob};
use super::second_copies::{self, Lacking};
use super::{LostStream, RepairError, RepairMeans, begin, lost_streams, open_reading, refuse_beside_another};
use crate::domain::id::{IndexId, PackId, VersionId};
use crate::format::records::{IndexBody, IndexedPack};
use crate::ops::observer::{Event, Progress};
use crate::ops::verify::examine::{self, Examined, Fault};
use crate::repository::condemned;
use crate::repository::index::{PackNumber, RepositoryIndex};
use crate::repository::pack_reader::{LoadedTable, PackReader, load_index};
use crate::repository::pack_writer::{PackWriter, name_packs, put_index};
use crate::repository::reading::Reading;
use crate::repository::session;
use crate::repository::snapshots::LoadedSnapshot;
use crate::storage::{ObjectName, ReadStore, WriteStore};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// New packs aim at this length at least.
const PACK_BYTES_MIN: u64 = 4 << 20;
/// Reasons kept for each pack.
const REASONS_MAX: usize = 5;

/// What to repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PacksRequest {
    /// Only these packs are read; empty: all that the index names.
    pub packs: Vec<PackId>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// A pack that was not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairedPack {
    /// Its object.
    pub object: String,
    /// `damaged` or `missing`.
    pub problem: &'static str,
    /// What is wrong, the first few findings.
    pub reasons: Vec<String>,
    /// Blobs in its table.
    pub blobs: u64,
    /// Blobs that were whole and are in a new pack now.
    pub blobs_copied: u64,
    /// Blobs made again from another pack, or held by one that stays.
    pub blobs_healed: u64,
    /// Blobs that no pack has.
    pub blobs_lost: u64,
    /// Its parity made it whole, so nothing of it is lost.
    pub by_parity: bool,
    /// Where it was moved; none when it was missing, or nothing was done.
    pub quarantined: Option<String>,
}

/// A stream whose record or literals were made again from a second copy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HealedStream {
    /// The snapshot's id.
    pub snapshot: String,
    /// The source.
    pub source: String,
    /// The stream's file name on restore.
    pub stream: String,
}

/// What a repair of packs did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PacksReport {
    /// Nothing was written.
    pub dry_run: bool,
    /// Packs that the index names.
    pub packs: u64,
    /// Packs that were read in full.
    pub packs_read: u64,
    /// Those that were damaged or missing.
    pub damaged: Vec<RepairedPack>,
    /// Parts of records and trees that one copy alone held, and that have both again (a dry run: that would be made again).
    pub copies_made: u64,
    /// Packs that were written.
    pub packs_written: u64,
    /// Their stored bytes.
    pub written_bytes: u64,
    /// Streams of visible snapshots that lived on a second copy and have both again.
    pub healed: Vec<HealedStream>,
    /// Streams of visible snapshots that cannot be given back whole.
    pub lost: Vec<LostStream>,
    /// Visible snapshots whose record cannot be read.
    pub unreadable_snapshots: Vec<String>,
    /// Damaged packs that were left alone, with the reason.
    pub left: Vec<(String, String)>,
    /// What happened to parity.
    pub parity: ParityReport,
}

/// Repairs packs.
///
/// # Errors
/// [`RepairError`].
pub fn run(means: &RepairMeans<'_>, request: &PacksRequest) -> Result<PacksReport, RepairError> {
    let reading = open_reading(means)?;
    if let Some(unknown) = request.packs.iter().find(|id| reading.index.pack_number(**id).is_none()) {
        return Err(RepairError::NoSuchPack { pack: unknown.hex() });
    }
    let (clock, observer, cancel) = (means.clock, means.observer, means.cancel);
    let examined = examine::examine(&reading, means.local.catalog, Some(&request.packs), clock, observer, cancel)?;
    let mut report = PacksReport {
        dry_run: request.dry_run,
        packs: reading.index.packs().len() as u64,
        packs_read: examined.report.packs_read,
        unreadable_snapshots: examined.report.unreadable_snapshots.clone(),
        ..PacksReport::default()
    };
    let faults = chosen(&examined, request);
    report.damaged = faults.iter().map(|(pack, fault)| described(&reading, &examined, *pack, fault)).collect();
    let share = means.parameters.parity();
    let wanted = parity::wanted(&examined, &reading.index, share, &request.packs, &mut report.parity);
    let looked_through = if request.packs.is_empty() { examined.snapshots.as_slice() } else { &[] };
    report.copies_made = second_copies::find(&reading, &HashSet::new(), looked_through)?.len() as u64;
    drop(reading);
    let work_to_do = !faults.is_empty() || !wanted.is_empty() || report.copies_made > 0;
    if work_to_do && !request.dry_run {
        report.copies_made = 0;
        refuse_beside_another(means, None)?;
        let guard = begin(means, Vec::new())?.into_parts().1;
        let worked = refuse_beside_another(means, Some(guard.id()))
            .and_then(|()| work(means, &faults, &wanted, (&examined.snapshots, looked_through), &mut report));
        // the session kept a prune from deleting what was read here; nobody needs to wait for it any more
        session::end(means.store.as_ref(), guard.id())?;
        worked?;
    }
    let lost = examined.report.affected;
    report.lost = lost_streams(lost, &examined.snapshots);
    Ok(report)
}

/// The damaged packs that were asked for.
fn chosen(examined: &Examined, request: &PacksRequest) -> BTreeMap<PackId, Fault> {
    let wanted = |pack: &PackId| request.packs.is_empty() || request.packs.contains(pack);
    examined.packs.iter().filter(|(pack, _)| wanted(pack)).map(|(pack, fault)| (*pack, fault.clone())).collect()
}

fn described(reading: &Reading, examined: &Examined, pack: PackId, fault: &Fault) -> RepairedPack {
    let object = ObjectName::pack(pack).to_string();
    let findings = examined.report.findings.iter().filter(|f| f.object == object);
    let table = reading.index.pack_number(pack).and_then(|n| reading.packs.table(&reading.index, n).ok());
    RepairedPack {
        problem: if *fault == Fault::Missing { "missing" } else { "damaged" },
        reasons: findings.map(|f| f.reason.clone()).take(REASONS_MAX).collect(),
        blobs: table.map_or(0, |t| t.table.blobs.len() as u64),
        blobs_copied: 0,
        blobs_healed: 0,
        blobs_lost: 0,
        by_parity: examined.report.repairable.contains(&object),
        quarantined: None,
        object,
    }
}

/// Salvages, proves, publishes, puts aside.
fn work(
    means: &RepairMeans<'_>,
    faults: &BTreeMap<PackId, Fault>,
    wanted: &Wanted,
    (snapshots, looked_through): (&[LoadedSnapshot], &[LoadedSnapshot]),
    report: &mut PacksReport,
) -> Result<(), RepairError> {
    // anew: only what the session protects may be relied on
    let reading = open_reading(means)?;
    let records = condemned::load_all(means.store.as_ref(), &means.keys)?;
    let condemned: HashSet<PackNumber> =
        condemned::packs_of(&records).iter().filter_map(|id| reading.index.pack_number(*id)).collect();
    let number = |pack: PackId| reading.index.pack_number(pack);
    let stays = |pack: PackId| number(pack).is_some_and(|n| !condemned.contains(&n));
    parity::write(means, wanted, stays, &mut report.parity)?;
    let lacking = second_copies::find(&reading, &condemned, looked_through)?;
    if faults.is_empty() && lacking.is_empty() {
        return Ok(());
    }
    let mut gone: HashSet<PackNumber> = HashSet::new();
    for pack in faults.keys() {
        let object = ObjectName::pack(*pack).to_string();
        match reading.index.pack_number(*pack) {
            None => report.left.push((object, "no index object names it any more".to_owned())),
            Some(n) if condemned.contains(&n) => report.left.push((object, "a prune is about to delete it".to_owned())),
            Some(n) => match reading.packs.table(&reading.index, n) {
                Ok(_) => drop(gone.insert(n)),
                Err(error) if error.concerns_one_object() => report.left.push((object, error.to_string())),
                Err(error) => return Err(error.into()),
            },
        }
    }
    let (store, keys, random) =
        (Arc::clone(&means.store) as Arc<dyn WriteStore>, Arc::clone(&means.keys), Arc::clone(&means.random));
    let mut writer = PackWriter::new(store, keys, random).with_target(&means.parameters).for_rewriting(PACK_BYTES_MIN);
    let mut written = Vec::new();
    let (gone_or_going, writing) = ((&gone, &condemned), (&mut writer, &mut written));
    match salvage_and_prove(means, &reading, gone_or_going, &lacking, writing, report) {
        Ok(healed) => {
            report.packs_written = written.len() as u64;
            report.written_bytes = written.iter().map(|p| p.stored_bytes).sum::<u64>() + writer.parity_bytes();
            publish(means, &reading.index, &gone, written)?;
            put_aside(means, &reading.index, &gone, report)?;
            report.healed = healed_streams(&healed, snapshots);
            Ok(())
        }
        Err(error) => {
            writer.abandon(means.store.as_ref(), &mut written);
            Err(error)
        }
    }
}

fn salvage_and_prove(
    means: &RepairMeans<'_>,
    reading: &Reading,
    (gone, condemned): (&HashSet<PackNumber>, &HashSet<PackNumber>),
    lacking: &[Lacking],
    (writer, written): (&mut PackWriter, &mut Vec<IndexedPack>),
    report: &mut PacksReport,
) -> Result<BTreeSet<VersionId>, RepairError> {
    let total_items = Some(gone.len() as u64);
    means.observer.event(&Event::PhaseStarted { phase: "keeping what is whole", total_bytes: None, total_items });
    let mut salvage = Salvage {
        index: &reading.index,
        packs: &reading.packs,
        keys: &means.keys,
        writer,
        gone,
        condemned,
        expected: HashMap::new(),
        healed: BTreeSet::new(),
    };
    let mut numbers: Vec<PackNumber> = gone.iter().copied().collect();
    numbers.sort_unstable();
    for (items_done, number) in (1u64..).zip(numbers) {
        means.cancel.check()?;
        let fared = salvage.pack(number)?;
        let object = reading.index.pack(number).map(|info| ObjectName::pack(info.id).to_string()).unwrap_or_default();
        if let Some(pack) = report.damaged.iter_mut().find(|p| p.object == object) {
            (pack.blobs, pack.blobs_copied) = (fared.blobs, fared.copied);
            (pack.blobs_healed, pack.blobs_lost) = (fared.healed, fared.lost);
        }
        means.observer.event(&Event::Progress(Progress { items_done, total_items, ..Progress::default() }));
    }
    report.copies_made = second_copies::make(&mut salvage, lacking)?;
    let (expected, healed) = (std::mem::take(&mut salvage.expected), std::mem::take(&mut salvage.healed));
    written.extend(writer.finish_packs()?);
    prove(means, written, expected)?;
    Ok(healed)
}

/// Opens every blob of the new packs: they hold what was taken out of the old ones, all of it and nothing else.
fn prove(
    means: &RepairMeans<'_>,
    written: &[IndexedPack],
    mut expected: HashMap<BlobKey, blake3::Hash>,
) -> Result<(), RepairError> {
    let packs = PackReader::new(Arc::clone(&means.store) as Arc<dyn ReadStore>, Arc::clone(&means.keys), 0);
    let mut index = RepositoryIndex::default();
    let mut seen: HashSet<BlobKey> = HashSet::new();
    for pack in written {
        means.cancel.check()?;
        let number = index.add_pack(pack, None);
        let failed = |reason: String| RepairError::NotProved { what: ObjectName::pack(pack.pack).to_string(), reason };
        let table = LoadedTable::new(pack.table.clone());
        for (ordinal, entry) in (0u32..).zip(&pack.table.blobs) {
            let raw = packs.blob(&index, number, &table, ordinal).map_err(|error| failed(error.to_string()))?;
            let owner = pack.table.ids.get(entry.meta.owner() as usize).copied().unwrap_or_default();
            let key = key_of(pack.copy, new_blob(entry.meta, owner), u64::from(entry.raw_bytes));
            match expected.remove(&key) {
                Some(hash) if hash == blake3::hash(&raw) => drop(seen.insert(key)),
                // the same blob out of two damaged packs
                None if seen.contains(&key) => {}
                _ => return Err(failed(format!("blob {ordinal} is not what was to be kept"))),
            }
        }
    }
    if let Some(reason) = packs.healed().into_iter().next() {
        return Err(RepairError::NotProved { what: "what was kept".to_owned(), reason });
    }
    match expected.len() {
        0 => Ok(()),
        n => Err(RepairError::NotProved { what: "what was kept".to_owned(), reason: format!("{n} blobs are missing") }),
    }
}

/// Names the new packs, then replaces the index objects that name the damaged ones.
fn publish(
    means: &RepairMeans<'_>,
    index: &RepositoryIndex,
    gone: &HashSet<PackNumber>,
    written: Vec<IndexedPack>,
) -> Result<(), RepairError> {
    name_packs(means.store.as_ref(), &means.keys, means.random.as_ref(), written)?;
    let names_gone = |packs: &[PackNumber]| packs.iter().any(|n| gone.contains(n));
    let mut replaced: Vec<IndexId> =
        index.objects().iter().filter(|(_, packs)| names_gone(packs)).map(|(id, _)| *id).collect();
    replaced.sort_unstable();
    let ids: HashSet<PackId> = gone.iter().filter_map(|n| index.pack(*n).map(|info| info.id)).collect();
    for id in replaced {
        let mut left = load_index(means.store.as_ref(), &means.keys, id)?.packs;
        left.retain(|pack| !ids.contains(&pack.pack));
        if !left.is_empty() {
            let body = IndexBody { supersedes: vec![id], packs: left };
            put_index(means.store.as_ref(), &means.keys, means.random.as_ref(), &body)?;
        }
        means.store.quarantine(&ObjectName::index(id))?;
    }
    Ok(())
}

/// Moves the damaged packs, which nothing names any more.
fn put_aside(
    means: &RepairMeans<'_>,
    index: &RepositoryIndex,
    gone: &HashSet<PackNumber>,
    report: &mut PacksReport,
) -> Result<(), RepairError> {
    let (mut aside, mut ids) = (Vec::new(), HashSet::new());
    for number in gone {
        let Some(info) = index.pack(*number) else { continue };
        let name = ObjectName::pack(info.id);
        let moved = means.store.quarantine(&name)?;
        if let Some(pack) = report.damaged.iter_mut().find(|p| p.object == name.as_str()) {
            pack.quarantined = moved.map(|to| to.to_string());
        }
        aside.push(name.to_string());
        ids.insert(info.id);
    }
    parity::put_aside(means, &ids)?;
    means.local.catalog.drop_reads(&aside);
    Ok(())
}

/// The streams that name one of these versions.
fn healed_streams(healed: &BTreeSet<VersionId>, snapshots: &[LoadedSnapshot]) -> Vec<HealedStream> {
    let mut found = Vec::new();
    for loaded in snapshots {
        for source in &loaded.snapshot.sources {
            for stream in source.streams.iter().filter(|s| healed.contains(&s.version)) {
                found.push(HealedStream {
                    snapshot: loaded.snapshot.id.hex(),
                    source: source.name.clone(),
                    stream: stream.file_name.clone(),
                });
            }
        }
    }
    found
}
