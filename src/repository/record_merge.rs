//! Writes a version's record anew when versions between it and its nearest kept ancestor go away: their edits are
//! composed into one record of a higher generation. The bytes of the stream stay where they are.
//!
//! Source of the algorithm: interval composition as in [`crate::recipe::compose`]; docs/format.md, "Garbage
//! collection".

use super::error::{RepoError, Result};
use super::index::RepositoryIndex;
use super::pack_reader::PackReader;
use super::pack_writer::{NewBlob, PackWriter};
use super::stream_reader::{StreamReader, read_head};
use crate::domain::id::VersionId;
use crate::format::codec;
use crate::format::records::{SliceInfo, VersionHead};
use crate::format::slice::{self, OWN, SLICE_RUNS_MAX, SliceFrame};
use crate::recipe::run::{PARENT, Run, push};
use std::collections::HashMap;

/// Stream bytes composed at a time.
const WINDOW_BYTES: u64 = 16 << 20;
/// Level for heads.
const HEAD_LEVEL: i32 = 9;

/// A record to be written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// The version that keeps its bytes and gets a new record.
    pub version: VersionId,
    /// The kept version that the new record is made against; None: it becomes a full recipe.
    pub parent: Option<VersionId>,
    /// Records composed: the version's own and those of the versions between.
    pub levels: usize,
    /// The parent is not below the version: its flat recipe is compared with the version's, and what both take from
    /// the same place becomes a copy.
    pub by_recipe: bool,
}

/// Hands every composed run of a merge to `each`, in stream order: the space (None: the kept parent's stream) and the
/// run.
///
/// # Errors
/// Damage, storage errors, what `each` returns.
pub fn compose(
    index: &RepositoryIndex,
    packs: &PackReader,
    merge: &Merge,
    mut each: impl FnMut(Option<VersionId>, Run) -> Result<()>,
) -> Result<()> {
    let mut reader = StreamReader::open(index, packs, merge.version)?;
    let (mut at, total) = (0, reader.plain_bytes());
    if let Some(parent) = merge.parent.filter(|_| merge.by_recipe) {
        let places = Places::of(index, packs, parent)?;
        while at < total {
            let to = (at + WINDOW_BYTES).min(total);
            for run in reader.flat(index, packs, at, to)? {
                let space = reader.space(run.space).unwrap_or_default();
                // own literals stay own
                if space == merge.version {
                    each(Some(space), run)?;
                } else {
                    places.split(space, run, &mut each)?;
                }
            }
            at = to;
        }
        return Ok(());
    }
    while at < total {
        let to = (at + WINDOW_BYTES).min(total);
        for run in reader.composed(index, packs, at, to, merge.levels)? {
            let space = if run.space == PARENT { None } else { reader.space(run.space) };
            each(space, run)?;
        }
        at = to;
    }
    Ok(())
}

/// Where the bytes of literal spaces are in a stream.
struct Places {
    numbers: HashMap<VersionId, u32>,
    /// (space, first offset in the space, first offset in the stream, length), ascending, apart.
    places: Vec<(u32, u64, u64, u64)>,
}

impl Places {
    fn of(index: &RepositoryIndex, packs: &PackReader, version: VersionId) -> Result<Self> {
        let mut reader = StreamReader::open(index, packs, version)?;
        let mut found = Self { numbers: HashMap::new(), places: Vec::new() };
        let (mut at, total) = (0, reader.plain_bytes());
        while at < total {
            let to = (at + WINDOW_BYTES).min(total);
            for run in reader.flat(index, packs, at, to)? {
                let id = reader.space(run.space).unwrap_or_default();
                let next = u32::try_from(found.numbers.len()).unwrap_or(u32::MAX);
                let number = *found.numbers.entry(id).or_insert(next);
                found.places.push((number, run.src, run.dst, u64::from(run.len)));
            }
            at = to;
        }
        found.places.sort_unstable();
        // bytes that the stream has twice are found at the first place
        let mut kept: Vec<(u32, u64, u64, u64)> = Vec::with_capacity(found.places.len());
        for (number, src, dst, len) in found.places.drain(..) {
            let end = kept.last().filter(|last| last.0 == number).map_or(0, |last| last.1 + last.3);
            let cut = end.saturating_sub(src).min(len);
            if cut < len {
                kept.push((number, src + cut, dst + cut, len - cut));
            }
        }
        found.places = kept;
        Ok(found)
    }

    /// Hands a run on in parts: copies of the stream where it has the same bytes, the run itself elsewhere.
    fn split(
        &self,
        space: VersionId,
        run: Run,
        each: &mut impl FnMut(Option<VersionId>, Run) -> Result<()>,
    ) -> Result<()> {
        let Some(&number) = self.numbers.get(&space) else { return each(Some(space), run) };
        let (mut src, mut dst, end) = (run.src, run.dst, run.src_end());
        let mut at = self.places.partition_point(|p| (p.0, p.1) <= (number, src)).saturating_sub(1);
        while src < end {
            let place = self.places.get(at).filter(|p| p.0 == number);
            let (from, to) = place.map_or((0, 0), |p| (p.1, p.1 + p.3));
            if let Some(place) = place.filter(|_| from <= src && src < to) {
                let len = to.min(end) - src;
                each(None, Run { dst, src: place.2 + (src - from), len: length(len), space: PARENT })?;
                (src, dst) = (src + len, dst + len);
                at += 1;
                continue;
            }
            // the next place of this space that begins after `src`
            if to <= src && self.places.get(at + 1).is_some_and(|p| p.0 == number) {
                at += 1;
                if self.places.get(at).is_some_and(|p| p.1 <= src) {
                    continue;
                }
            }
            let next = self.places.get(at).filter(|p| p.0 == number && p.1 > src).map_or(end, |p| p.1.min(end));
            let len = next - src;
            each(Some(space), Run { dst, src, len: length(len), space: run.space })?;
            (src, dst) = (src + len, dst + len);
        }
        Ok(())
    }
}

/// Lengths inside a run fit it.
fn length(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Writes the record of a merge, both copies, under a generation. `below` is the head of the kept parent. Returns the new head.
///
/// # Errors
/// Damage, storage errors; [`RepoError::ProofFailed`] when a slice does not decode to its runs.
pub fn write(
    index: &RepositoryIndex,
    packs: &PackReader,
    writer: &mut PackWriter,
    merge: &Merge,
    generation: u32,
    below: Option<&VersionHead>,
) -> Result<VersionHead> {
    let (old, _) = read_head(index, packs, merge.version)?;
    let mut record = Record {
        head: VersionHead {
            generation,
            parent: below.map(|h| h.version),
            parent_bytes: below.map_or(0, |h| h.plain_bytes),
            depth: below.map_or(0, |h| h.depth + 1),
            chain_bytes: 0,
            flat_runs: 0,
            spaces: Vec::new(),
            slices: Vec::new(),
            ..old
        },
        numbers: HashMap::new(),
        runs: Vec::new(),
        dst: 0,
        literal: 0,
        own_end: 0,
        run_count: 0,
        bytes: 0,
    };
    compose(index, packs, merge, |space, run| record.push(writer, space, run))?;
    record.finish(writer, below)
}

/// A record being written.
struct Record {
    head: VersionHead,
    numbers: HashMap<VersionId, u32>,
    runs: Vec<Run>,
    /// First offset of the open slice, in the stream and in the own literal space.
    dst: u64,
    literal: u64,
    /// Own literal bytes named so far.
    own_end: u64,
    run_count: u64,
    bytes: u64,
}

impl Record {
    /// Own literals are consecutive and need no source; a place that the version names a second time needs a number.
    fn push(&mut self, writer: &mut PackWriter, space: Option<VersionId>, run: Run) -> Result<()> {
        let Some(id) = space else { return self.put(writer, PARENT, run.dst, run.src, u64::from(run.len)) };
        if id != self.head.version || run.src_end() <= self.own_end {
            let number = self.number(id);
            return self.put(writer, number, run.dst, run.src, u64::from(run.len));
        }
        // bytes named again may run on into bytes named for the first time
        let again = self.own_end.saturating_sub(run.src);
        if again > 0 {
            let number = self.number(id);
            self.put(writer, number, run.dst, run.src, again)?;
        }
        let (src, len) = (run.src + again, u64::from(run.len) - again);
        self.own_end = run.src_end();
        self.put(writer, OWN, run.dst + again, src, len)
    }

    fn number(&mut self, id: VersionId) -> u32 {
        let spaces = &mut self.head.spaces;
        *self.numbers.entry(id).or_insert_with(|| {
            spaces.push(id);
            u32::try_from(spaces.len()).unwrap_or(u32::MAX - 1)
        })
    }

    fn put(&mut self, writer: &mut PackWriter, space: u32, dst: u64, src: u64, len: u64) -> Result<()> {
        push(&mut self.runs, dst, space, src, len);
        if self.runs.len() >= SLICE_RUNS_MAX { self.close_slice(writer) } else { Ok(()) }
    }

    fn close_slice(&mut self, writer: &mut PackWriter) -> Result<()> {
        let runs = std::mem::take(&mut self.runs);
        let Some(end) = runs.last().map(Run::dst_end) else { return Ok(()) };
        let own: u64 = runs.iter().filter(|r| r.space == OWN).map(|r| u64::from(r.len)).sum();
        let frame = SliceFrame {
            dst_start: self.dst,
            plain_bytes: end - self.dst,
            literal_start: self.literal,
            literal_bytes: own,
            parent_bytes: self.head.parent_bytes,
            spaces: u32::try_from(self.head.spaces.len()).unwrap_or(u32::MAX),
        };
        let bytes = slice::encode(&runs);
        let what = || format!("a merged slice of version {}", self.head.version);
        let back = slice::decode(&bytes, &frame)
            .map_err(|e| RepoError::ProofFailed { what: what(), reason: e.to_string() })?;
        if back != runs {
            return Err(RepoError::ProofFailed { what: what(), reason: "it decodes to other runs".to_owned() });
        }
        let sequence =
            u32::try_from(self.head.slices.len()).map_err(|_| RepoError::Limit { what: "A record".to_owned() })?;
        let blob = NewBlob::Slice { version: self.head.version, generation: self.head.generation, sequence };
        self.bytes += bytes.len() as u64;
        self.run_count += runs.len() as u64;
        writer.add(1, blob, bytes.clone(), 1)?;
        writer.add(0, blob, bytes, 1)?;
        self.head.slices.push(SliceInfo { plain_bytes: frame.plain_bytes, literal_bytes: own });
        self.dst = end;
        self.literal += own;
        Ok(())
    }

    fn finish(mut self, writer: &mut PackWriter, below: Option<&VersionHead>) -> Result<VersionHead> {
        self.close_slice(writer)?;
        if self.dst != self.head.plain_bytes || self.literal != self.head.literal_bytes {
            return Err(RepoError::ProofFailed {
                what: format!("the merged record of version {}", self.head.version),
                reason: "it does not cover the stream".to_owned(),
            });
        }
        self.head.chain_bytes = self.bytes + below.map_or(0, |h| h.chain_bytes);
        self.head.flat_runs = self.run_count + below.map_or(0, |h| h.flat_runs);
        let bytes = codec::encode(&self.head);
        let blob = NewBlob::Head { version: self.head.version, generation: self.head.generation };
        writer.add(1, blob, bytes.clone(), HEAD_LEVEL)?;
        writer.add(0, blob, bytes, HEAD_LEVEL)?;
        Ok(self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each byte of a run comes out once, in order, either as itself or as a copy of a place that holds it.
        #[test]
        fn split_keeps_every_byte(
            parts in prop::collection::vec((0u32..3, 0u64..200, 1u64..40), 0..20),
            space in 0u8..3, src in 0u64..220, len in 1u32..120,
        ) {
            let ids: Vec<VersionId> = (0..3u8).map(|n| VersionId([n; 16])).collect();
            let mut places = Places { numbers: HashMap::new(), places: Vec::new() };
            for (n, id) in (0u32..).zip(&ids[..2]) {
                places.numbers.insert(*id, n);
            }
            let mut sorted: Vec<_> = parts.into_iter().filter(|p| p.0 < 2).collect();
            sorted.sort_unstable();
            let mut dst = 1000;
            for (n, at, len) in sorted {
                let end = places.places.last().filter(|l| l.0 == n).map_or(0, |l| l.1 + l.3);
                if at >= end {
                    places.places.push((n, at, dst, len));
                    dst += len + 3;
                }
            }
            let run = Run { dst: 5, src, len, space: 77 };
            let mut out = Vec::new();
            places.split(ids[usize::from(space)], run, &mut |s, r| {
                out.push((s, r));
                Ok(())
            }).unwrap();
            let mut bytes = Vec::new();
            for (s, r) in out {
                prop_assert_eq!(r.dst, 5 + bytes.len() as u64);
                for k in 0..u64::from(r.len) {
                    bytes.push(match s {
                        Some(id) => (id, r.src + k),
                        None => {
                            let at = r.src + k;
                            let p = places.places.iter().find(|p| p.2 <= at && at < p.2 + p.3).unwrap();
                            (ids[p.0 as usize], p.1 + (at - p.2))
                        }
                    });
                }
            }
            let expected: Vec<_> = (0..u64::from(len)).map(|k| (ids[usize::from(space)], src + k)).collect();
            prop_assert_eq!(bytes, expected);
            // and nothing that is there is left out
        }
    }
}
