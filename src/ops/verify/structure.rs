//! Index objects in full, packs against the index, and which bytes of which literal space can be read.

use super::{BadBlobs, Run, VerifyError, parity};
use crate::domain::id::{IndexId, PackId, VersionId};
use crate::format::envelope;
use crate::format::records::{BlobEntry, BlobMeta, IndexBody, IndexedPack, PACK_TRAILER_BYTES, PackTable};
use crate::recipe::run::{Intervals, normalize};
use crate::repository::Problem;
use crate::repository::error::RepoError;
use crate::repository::index_loader;
use crate::repository::pack_reader::{LoadedTable, Segment, TABLE_BYTES_MAX, decode_index, open_blob};
use crate::storage::{ErrorKind, ObjectKind, ObjectName};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The readable parts of every literal space, for each copy number and for both together.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    spaces: HashMap<VersionId, [Intervals; 3]>,
}

impl Coverage {
    fn add(&mut self, space: VersionId, copy: u8, start: u64, end: u64) {
        let lists = self.spaces.entry(space).or_default();
        for list in [usize::from(copy != 0), 2] {
            match lists[list].last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => lists[list].push((start, end)),
            }
        }
    }

    fn finish(mut self) -> Self {
        for lists in self.spaces.values_mut() {
            for list in lists {
                normalize(list, 0);
                list.shrink_to_fit();
            }
        }
        self
    }

    /// The parts of `[start, end)` of a space that no copy gives.
    pub(super) fn holes(&self, space: VersionId, start: u64, end: u64) -> Intervals {
        self.holes_in(2, space, start, end)
    }

    /// The parts of `[start, end)` of a space that one copy does not give.
    pub(super) fn holes_of_copy(&self, copy: u8, space: VersionId, start: u64, end: u64) -> Intervals {
        self.holes_in(usize::from(copy != 0), space, start, end)
    }

    fn holes_in(&self, list: usize, space: VersionId, start: u64, end: u64) -> Intervals {
        let covered = self.spaces.get(&space).map_or(&[][..], |lists| lists[list].as_slice());
        let first = covered.partition_point(|c| c.1 <= start);
        let mut holes = Vec::new();
        let mut at = start;
        for &(from, to) in covered.get(first..).unwrap_or_default().iter().take_while(|c| c.0 < end) {
            if from > at {
                holes.push((at, from));
            }
            at = at.max(to);
        }
        if at < end {
            holes.push((at, end));
        }
        holes
    }
}

/// Checks index objects and packs. `bad` are blobs known to be unreadable.
pub(super) fn check(run: &Run<'_>, bad: &BadBlobs) -> Result<Coverage, VerifyError> {
    let store = run.reading.store.as_ref();
    let total = run.reading.index.packs().len() as u64;
    run.phase("verifying the index", None, Some(total));
    let mut coverage = Coverage::default();
    let mut superseded: HashSet<IndexId> = HashSet::new();
    let mut damaged: Vec<(IndexId, Problem, String)> = Vec::new();
    let mut readable = Vec::new();
    for id in index_loader::list_objects(store)? {
        run.cancel.check()?;
        match read_index(run, id) {
            Ok(Some(body)) => {
                superseded.extend(body.supersedes);
                readable.push(id);
            }
            Ok(None) => {}
            Err((problem, reason)) => damaged.push((id, problem, reason)),
        }
    }
    // the packs of those that others have replaced may be gone
    readable.retain(|id| !superseded.contains(id));
    run.gatherer.count(|r| r.objects_read += (readable.len() + damaged.len()) as u64);
    let protected = parity::listed(run)?;
    let mut named = HashSet::new();
    for id in readable {
        run.cancel.check()?;
        let Ok(Some(body)) = read_index(run, id) else { continue };
        let results: Vec<Usable> = body.packs.par_iter().map(|pack| check_pack(run, id, pack, &protected)).collect();
        for (pack, usable) in body.packs.into_iter().zip(results) {
            named.insert(pack.pack);
            cover(run, &mut coverage, &pack, usable, bad.get(&pack.pack));
        }
        run.progress(0, None, named.len() as u64, Some(total));
    }
    for (id, problem, reason) in damaged {
        let object = format!("index/{id}");
        if superseded.contains(&id) {
            let message = format!("It is {} and was replaced by `repair index`: {reason}", problem.as_str());
            run.gatherer.note("index.superseded", object, message);
        } else {
            run.gatherer.finding(object, problem, reason);
        }
    }
    strays(run, &named)?;
    Ok(coverage.finish())
}

/// Names among packs and index objects that are none, and packs that no index object names.
fn strays(run: &Run<'_>, named: &HashSet<PackId>) -> Result<(), VerifyError> {
    let store = run.reading.store.as_ref();
    for info in store.list(ObjectKind::Index).map_err(RepoError::from)? {
        let text = info.name.as_str();
        let mut words = text.split('/').skip(1);
        if words.next().is_none_or(|word| IndexId::parse(word).is_err()) || words.next().is_some() {
            run.gatherer.note("object.stray", text, format!("{text} is not an index object; nothing reads it"));
        }
    }
    for info in store.list(ObjectKind::Pack).map_err(RepoError::from)? {
        let text = info.name.as_str();
        match super::super::repair_index::pack_id(&info.name) {
            None => run.gatherer.note("object.stray", text, format!("{text} is not a pack; nothing reads it")),
            Some(id) if !named.contains(&id) && run.reading.index.pack_number(id).is_none() => {
                let message = "No index object names it: it belongs to a run that is at work or died, or its index \
                               object was lost (then `holdfast repair index` finds it)";
                run.gatherer.note("pack.unindexed", text, message);
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Reads an index object; `None` when it was replaced since the listing.
fn read_index(run: &Run<'_>, id: IndexId) -> Result<Option<IndexBody>, (Problem, String)> {
    let name = ObjectName::index(id);
    let bytes_max = (TABLE_BYTES_MAX + envelope::OVERHEAD + 1024) as u64;
    let bytes = match run.reading.store.get(&name, bytes_max) {
        Ok(bytes) => bytes,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let (_, problem, reason) = super::report::describe(&RepoError::Storage(error));
            return Err((problem, reason));
        }
    };
    decode_index(&run.reading.keys, id, &bytes).map(Some).map_err(|error| {
        let (_, problem, reason) = super::report::describe(&error);
        (problem, reason)
    })
}

/// How many bytes of a pack are there.
struct Usable {
    stored_bytes: u64,
}

/// Existence, length and table of one pack.
fn check_pack(run: &Run<'_>, index: IndexId, pack: &IndexedPack, protected: &BTreeMap<PackId, u64>) -> Usable {
    let name = ObjectName::pack(pack.pack);
    let found = |problem, reason: String| run.gatherer.finding(name.as_str(), problem, reason);
    let stored_bytes = match run.reading.store.stored_bytes(&name) {
        Ok(Some(stored_bytes)) => stored_bytes,
        Ok(None) => {
            // a prune that is at work replaces the index object first
            if !matches!(run.reading.store.stored_bytes(&ObjectName::index(index)), Ok(None)) {
                found(Problem::Missing, "it is not there".to_owned());
                if parity::repairable(run, pack.pack, pack.stored_bytes) {
                    return Usable { stored_bytes: pack.stored_bytes };
                }
            }
            return Usable { stored_bytes: 0 };
        }
        Err(error) => {
            let (_, problem, reason) = super::report::describe(&RepoError::Storage(error));
            found(problem, reason);
            return Usable { stored_bytes: pack.stored_bytes };
        }
    };
    let mut usable = Usable { stored_bytes };
    if stored_bytes != pack.stored_bytes {
        found(Problem::Damaged, format!("it has {stored_bytes} bytes instead of {}", pack.stored_bytes));
        if parity::repairable(run, pack.pack, pack.stored_bytes) {
            usable = Usable { stored_bytes: pack.stored_bytes };
        }
    }
    parity::glance(run, pack.pack, pack.stored_bytes, protected);
    match run.reading.packs.table_of(pack.pack, pack.stored_bytes) {
        Ok(table) if table != pack.table => {
            found(Problem::Damaged, format!("its table is not the one that index/{index} holds"));
        }
        Ok(table) => {
            if let Some(reason) = contradiction(&table, pack.stored_bytes) {
                found(Problem::Damaged, reason.to_owned());
            }
        }
        Err(error) => {
            let (_, problem, reason) = super::report::describe(&error);
            found(problem, reason);
            parity::repairable(run, pack.pack, pack.stored_bytes);
        }
    }
    usable
}

/// What is wrong with a table in itself, if anything is.
fn contradiction(table: &PackTable, stored_bytes: u64) -> Option<&'static str> {
    let blobs = table.blobs.iter().try_fold(0u64, |sum, b| sum.checked_add(u64::from(b.stored_bytes)));
    let fixed = (envelope::OVERHEAD + PACK_TRAILER_BYTES) as u64;
    if blobs.and_then(|b| b.checked_add(fixed)).is_none_or(|least| least > stored_bytes) {
        return Some("its table describes more bytes than it has");
    }
    let known = |number: u32| (number as usize) < table.ids.len();
    let blob_ids = table.blobs.iter().all(|b| known(b.meta.owner()));
    if !blob_ids || !table.chunks.iter().all(|c| known(c.space)) {
        return Some("its table names ids that it does not list");
    }
    None
}

/// Adds the readable segments of a pack.
fn cover(run: &Run<'_>, coverage: &mut Coverage, pack: &IndexedPack, usable: Usable, bad: Option<&BTreeSet<u32>>) {
    let loaded = LoadedTable::new(pack.table.clone());
    for ordinal in 0..u32::try_from(pack.table.blobs.len()).unwrap_or(u32::MAX) {
        let Some((entry, offset)) = loaded.blob(ordinal) else { break };
        let Some((space, start, end)) = entry.literal_span() else { continue };
        let there = offset.saturating_add(u64::from(entry.stored_bytes)) <= usable.stored_bytes;
        if !there || bad.is_some_and(|bad| bad.contains(&ordinal)) {
            continue;
        }
        if let Some(&space) = pack.table.ids.get(space as usize) {
            if !matches!(entry.meta, BlobMeta::Sparse { .. }) {
                coverage.add(space, pack.copy, start, end);
                continue;
            }
            // which bytes are left stands in the blob itself
            match read_sparse(run, pack, *entry, ordinal, offset) {
                Ok(segment) => segment
                    .pieces()
                    .iter()
                    .for_each(|(at, bytes)| coverage.add(space, pack.copy, *at, at + bytes.len() as u64)),
                Err(error) => run.gatherer.error(&error),
            }
        }
    }
}

fn read_sparse(
    run: &Run<'_>,
    pack: &IndexedPack,
    entry: BlobEntry,
    ordinal: u32,
    offset: u64,
) -> Result<Segment, RepoError> {
    let stored = run.reading.store.get_range(&ObjectName::pack(pack.pack), offset, entry.stored_bytes);
    let opened = stored.map_err(RepoError::from);
    let opened = opened.and_then(|stored| open_blob(&run.reading.keys, pack.pack, ordinal, &entry, &stored));
    let raw = match opened {
        Err(error) if error.concerns_one_object() => {
            let whole = run.reading.packs.made_whole(pack.pack, pack.stored_bytes)?.ok_or(error)?;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let stored = whole.get(start..).and_then(|rest| rest.get(..entry.stored_bytes as usize));
            open_blob(&run.reading.keys, pack.pack, ordinal, &entry, stored.unwrap_or_default())?
        }
        other => other?,
    };
    Segment::new(entry.meta, raw).map_err(|e| RepoError::damaged_pack(pack.pack, format!("blob {ordinal}: {e}")))
}
