//! Reads packs in full, on all cores: the checksum over the stored bytes, every blob opened and decompressed, every
//! chunk identified again. Each pack that was read goes into the ledger.
//!
//! Memory: one piece, one blob and one table for each thread.

use super::{BadBlobs, PackSelection, Run, VerifyError, VerifyOptions};
use crate::catalog::LastRead;
use crate::domain::id::PackId;
use crate::format::envelope::{Header, OBJECT_BYTES_MAX, ObjectTag, StoredHasher};
use crate::format::records::{BlobEntry, ChunkEntry};
use crate::repository::Problem;
use crate::repository::error::RepoError;
use crate::repository::index::{PackInfo, PackNumber};
use crate::repository::pack_reader::{LoadedTable, Segment, open_blob};
use crate::storage::{ObjectName, ReadStore};
use jiff::SignedDuration;
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap};

/// Bytes of a pack read at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// Packs for each thread between two looks at the clock.
const GROUP_PACKS: usize = 4;

/// Reads the packs that are wanted and adds those that are not whole to `bad`, with the blobs that cannot be opened.
pub(super) fn read(
    run: &Run<'_>,
    selection: PackSelection,
    options: &VerifyOptions,
    bad: &mut BadBlobs,
) -> Result<(), VerifyError> {
    let last_reads = run.catalog.last_reads();
    let chosen = choose(run, selection, options, &last_reads);
    let total_bytes: u64 = chosen.iter().filter_map(|n| run.reading.index.pack(*n)).map(|p| p.stored_bytes).sum();
    run.phase("verifying packs", Some(total_bytes), Some(chosen.len() as u64));
    let limit = options.max_duration.and_then(|d| SignedDuration::try_from(d).ok());
    let deadline = limit.and_then(|limit| run.clock.now().checked_add(limit).ok());
    let (mut done_bytes, mut done) = (0, 0usize);
    for group in chosen.chunks(rayon::current_num_threads().max(1) * GROUP_PACKS) {
        run.cancel.check()?;
        if deadline.is_some_and(|deadline| run.clock.now() >= deadline) {
            let left = (chosen.len() - done) as u64;
            run.gatherer.count(|r| {
                r.complete = false;
                r.packs_left = left;
            });
            break;
        }
        let results: Vec<Outcome> = group.par_iter().filter_map(|number| read_pack(run, *number)).collect();
        let read_ns = run.now_ns();
        let mut reads = Vec::with_capacity(results.len());
        for outcome in results {
            done_bytes += outcome.stored_bytes;
            let last = LastRead { read_ns, stored_bytes: outcome.stored_bytes, whole: outcome.whole };
            reads.push((ObjectName::pack(outcome.pack).as_str().to_owned(), last));
            if !outcome.whole {
                bad.entry(outcome.pack).or_default().extend(outcome.bad);
            }
        }
        run.catalog.note_reads(&reads);
        done += group.len();
        run.progress(done_bytes, Some(total_bytes), done as u64, Some(chosen.len() as u64));
    }
    forget_gone(run, &last_reads);
    Ok(())
}

/// Drops ledger entries of packs that the index names no more.
fn forget_gone(run: &Run<'_>, last_reads: &HashMap<String, LastRead>) {
    let named: BTreeSet<String> =
        run.reading.index.packs().iter().map(|p| ObjectName::pack(p.id).as_str().to_owned()).collect();
    let gone: Vec<String> = last_reads.keys().filter(|name| !named.contains(*name)).cloned().collect();
    run.catalog.drop_reads(&gone);
}

/// The packs to read, in order.
fn choose(
    run: &Run<'_>,
    selection: PackSelection,
    options: &VerifyOptions,
    last_reads: &HashMap<String, LastRead>,
) -> Vec<PackNumber> {
    let age = options.unverified_for.and_then(|d| SignedDuration::try_from(d).ok());
    let since = age.map(|age| run.clock.now().saturating_sub(age).map_or(i64::MIN, |t| clamp_ns(t.as_nanosecond())));
    let last = |info: &PackInfo| last_reads.get(ObjectName::pack(info.id).as_str());
    let mut packs: Vec<(i64, PackNumber, u64)> = (0..)
        .zip(run.reading.index.packs())
        .filter(|(_, info)| match selection {
            PackSelection::Part { part, parts } => part_of(info.id, parts) == part,
            _ => true,
        })
        .filter(|(_, info)| options.packs.is_empty() || options.packs.contains(&info.id))
        .filter(|(_, info)| since.is_none_or(|since| last(info).is_none_or(|l| !l.whole || l.read_ns < since)))
        .map(|(number, info)| {
            // what was never read whole comes first
            (last(info).filter(|l| l.whole).map_or(i64::MIN, |l| l.read_ns), number, info.stored_bytes)
        })
        .collect();
    packs.sort_unstable();
    let all: u64 = packs.iter().map(|p| p.2).sum();
    let mut budget = match selection {
        PackSelection::Permille(share) => Some(all / 1000 * u64::from(share) + all % 1000 * u64::from(share) / 1000),
        PackSelection::Bytes(bytes) => Some(bytes),
        PackSelection::All | PackSelection::Part { .. } => None,
    };
    let within = |(_, number, stored_bytes): (i64, PackNumber, u64)| {
        if budget == Some(0) {
            return None;
        }
        budget = budget.map(|left| left.saturating_sub(stored_bytes));
        Some(number)
    };
    packs.into_iter().map_while(within).collect()
}

fn clamp_ns(ns: i128) -> i64 {
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

/// The part, counted from 1, that a pack belongs to.
fn part_of(id: PackId, parts: u64) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) % parts.max(1) + 1
}

/// How reading a pack went.
struct Outcome {
    pack: PackId,
    stored_bytes: u64,
    whole: bool,
    bad: BTreeSet<u32>,
}

/// Reads one pack; `None` when it is gone together with the index object that named it.
fn read_pack(run: &Run<'_>, number: PackNumber) -> Option<Outcome> {
    let info = run.reading.index.pack(number)?;
    let name = ObjectName::pack(info.id);
    let mut whole = true;
    let mut fault = |problem: Problem, reason: String| {
        whole = false;
        run.gatherer.finding(name.as_str(), problem, reason);
    };
    let stored_bytes = match run.reading.store.stored_bytes(&name) {
        Ok(Some(stored_bytes)) => stored_bytes,
        // `structure` says so
        Ok(None) => return None,
        Err(error) => {
            let (_, problem, reason) = super::report::describe(&RepoError::Storage(error));
            fault(problem, reason);
            return None;
        }
    };
    if let Err(error) = run.reading.packs.table_of(info.id, info.stored_bytes) {
        let (_, problem, reason) = super::report::describe(&error);
        fault(problem, reason);
    }
    // from the index object where the pack's own is damaged
    let table = run.reading.packs.table(&run.reading.index, number).ok();
    let mut contents = Contents::new(run, info, table.as_deref());
    let mut hasher = StoredHasher::new();
    let mut at = 0;
    let mut broken = false;
    let protected = run.reading.store.stored_bytes(&ObjectName::parity(info.id)).is_ok_and(|stored| stored.is_some());
    // parity is compared with all bytes of its pack
    let mut kept = Vec::new();
    while at < stored_bytes.min(OBJECT_BYTES_MAX + 1) && !broken {
        let length = (stored_bytes - at).min(PIECE_BYTES);
        match run.reading.store.get_range(&name, at, u32::try_from(length).unwrap_or(u32::MAX)) {
            Ok(piece) => {
                hasher.update(&piece);
                contents.take(&piece);
                if protected {
                    kept.extend_from_slice(&piece);
                }
            }
            Err(error) => {
                let (_, problem, reason) = super::report::describe(&RepoError::Storage(error));
                fault(problem, format!("from byte {at}: {reason}"));
                broken = true;
            }
        }
        at += length;
    }
    if !broken {
        let checked = hasher.finish().and_then(|head| Header::from_bytes(&head));
        match checked {
            Ok(header) => {
                if let Some(reason) = wrong_header(run, info, &header) {
                    fault(Problem::Damaged, reason.to_owned());
                }
            }
            Err(error) => fault(Problem::Damaged, error.to_string()),
        }
    }
    let (mut bad, plain_bytes) = contents.finish(run.reading.store.as_ref(), &name, &mut fault);
    if protected {
        super::parity::compare(run, info, whole.then_some(kept.as_slice()));
    }
    if !whole && super::parity::repairable(run, info.id, info.stored_bytes) {
        bad.clear();
    }
    run.gatherer.count(|r| {
        r.packs_read += 1;
        r.stored_bytes_read += at;
        r.plain_bytes_read += plain_bytes;
    });
    Some(Outcome { pack: info.id, stored_bytes: at, whole, bad })
}

fn wrong_header(run: &Run<'_>, info: &PackInfo, header: &Header) -> Option<&'static str> {
    let keys = &run.reading.keys;
    if header.tag != ObjectTag::Pack || header.object_id != info.id.0 {
        Some("it holds another object")
    } else if header.repository != keys.repository() || header.suite != keys.suite().number() {
        Some("it belongs to another repository")
    } else if header.copy != u16::from(info.copy) {
        Some("its copy number is not the one that the index states")
    } else {
        None
    }
}

/// Opens the blobs of a pack as its bytes pass by.
struct Contents<'r> {
    run: &'r Run<'r>,
    pack: PackId,
    table: Option<&'r LoadedTable>,
    /// Positions in the table's chunks, by space and offset.
    chunks: Vec<u32>,
    next: u32,
    buffer: Vec<u8>,
    buffer_at: u64,
    faults: Vec<(u32, String)>,
    chunks_seen: usize,
    plain_bytes: u64,
}

impl<'r> Contents<'r> {
    fn new(run: &'r Run<'r>, info: &PackInfo, table: Option<&'r LoadedTable>) -> Self {
        let all = table.map_or(&[][..], |t| t.table.chunks.as_slice());
        let mut chunks: Vec<u32> = (0..).zip(all).map(|(n, _)| n).collect();
        chunks.sort_unstable_by_key(|n| all.get(*n as usize).map(|c| (c.space, c.start)));
        Self {
            run,
            pack: info.id,
            table,
            chunks,
            next: 0,
            buffer: Vec::new(),
            buffer_at: 0,
            faults: Vec::new(),
            chunks_seen: 0,
            plain_bytes: 0,
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let Some(table) = self.table else { return };
        self.buffer.extend_from_slice(piece);
        let end = self.buffer_at + self.buffer.len() as u64;
        let mut used = self.buffer_at;
        while let Some((entry, offset)) = table.blob(self.next) {
            let blob_end = offset.saturating_add(u64::from(entry.stored_bytes));
            if blob_end > end {
                used = offset.min(end).max(used);
                break;
            }
            let from = usize::try_from(offset - self.buffer_at).unwrap_or(usize::MAX);
            let to = usize::try_from(blob_end - self.buffer_at).unwrap_or(usize::MAX);
            let stored = self.buffer.get(from..to).unwrap_or_default().to_vec();
            self.open(self.next, *entry, &stored);
            self.next += 1;
            used = blob_end;
        }
        if table.blob(self.next).is_none() {
            used = end;
        }
        self.buffer.drain(..usize::try_from(used - self.buffer_at).unwrap_or(0));
        self.buffer_at = used;
    }

    fn open(&mut self, ordinal: u32, entry: BlobEntry, stored: &[u8]) {
        match open_blob(&self.run.reading.keys, self.pack, ordinal, &entry, stored) {
            Ok(raw) => {
                self.plain_bytes += raw.len() as u64;
                if let Err(reason) = self.check_literals(&entry, raw) {
                    self.faults.push((ordinal, format!("blob {ordinal}: {reason}")));
                }
            }
            Err(error) => {
                let (_, _, reason) = super::report::describe(&error);
                self.faults.push((ordinal, reason));
            }
        }
    }

    /// Identifies the chunks of a blob of literal bytes again.
    fn check_literals(&mut self, entry: &BlobEntry, raw: Vec<u8>) -> Result<(), String> {
        let Some((space, start, end)) = entry.literal_span() else { return Ok(()) };
        let Some(table) = self.table else { return Ok(()) };
        let segment = Segment::new(entry.meta, raw).map_err(|e| e.to_string())?;
        let chunk = |n: &u32| table.table.chunks.get(*n as usize);
        let first = self.chunks.partition_point(|n| chunk(n).is_some_and(|c| (c.space, c.start) < (space, start)));
        let inside = |c: &ChunkEntry| c.space == space && c.start < end;
        for c in self.chunks.get(first..).unwrap_or_default().iter().map_while(chunk).take_while(|c| inside(c)) {
            let bytes = segment.bytes_at(c.start).get(..c.plain_bytes as usize);
            if bytes.is_none_or(|bytes| self.run.reading.keys.chunk_id(bytes) != c.id) {
                return Err(format!("chunk {} at offset {} is not what its id says", c.id.short(), c.start));
            }
            self.chunks_seen += 1;
        }
        Ok(())
    }

    /// Blobs that did not pass by are read one by one. Returns the bad ones and the plain bytes seen.
    fn finish(
        mut self,
        store: &dyn ReadStore,
        name: &ObjectName,
        fault: &mut dyn FnMut(Problem, String),
    ) -> (BTreeSet<u32>, u64) {
        let Some(table) = self.table else { return (BTreeSet::new(), 0) };
        self.buffer = Vec::new();
        while let Some((entry, offset)) = table.blob(self.next) {
            match store.get_range(name, offset, entry.stored_bytes) {
                Ok(stored) => self.open(self.next, *entry, &stored),
                Err(error) => {
                    let (_, _, reason) = super::report::describe(&RepoError::Storage(error));
                    self.faults.push((self.next, format!("blob {}: {reason}", self.next)));
                }
            }
            self.next += 1;
        }
        if self.faults.is_empty() && self.chunks_seen != self.chunks.len() {
            fault(Problem::Damaged, "its table names chunks that its segments do not hold".to_owned());
        }
        for (_, reason) in &self.faults {
            fault(Problem::Damaged, reason.clone());
        }
        (self.faults.into_iter().map(|(ordinal, _)| ordinal).collect(), self.plain_bytes)
    }
}
