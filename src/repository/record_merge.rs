//! Writes a version's record anew when versions between it and its nearest kept ancestor go away: their edits are
//! composed into one record of a higher generation. Most bytes of the stream stay where they are; short runs of literals
//! that this record alone names are brought together in a literal space of its own, in the order of the stream, so that
//! the record need not name many places in many spaces.
//!
//! Source of the algorithm: interval composition as in [`crate::recipe::compose`]; docs/format.md, "Garbage
//! collection".

use super::error::{RepoError, Result};
use super::index::RepositoryIndex;
use super::liveness::Marking;
use super::pack_reader::PackReader;
use super::pack_writer::{NewBlob, PackWriter};
use super::stream_reader::{StreamReader, read_head};
use super::taken::Taken;
use crate::domain::id::VersionId;
use crate::format::codec;
use crate::format::gathered::{self, Gathered};
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

/// Hands every composed run of a merge to `each`, in stream order: the space (None: the kept parent's stream) and the run.
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
        let mut places = Places::of(index, packs, parent)?;
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
    /// The flat recipe in the order of the stream, spaces by number.
    runs: Vec<Run>,
    /// The same by space and offset there, apart from each other: position in `runs`, and bytes of that run that an earlier
    /// place has.
    by_source: Vec<(u32, u32)>,
    /// Offset in this stream minus offset in the other one, where the last bytes were found.
    diagonal: u64,
}

impl Places {
    fn of(index: &RepositoryIndex, packs: &PackReader, version: VersionId) -> Result<Self> {
        let mut reader = StreamReader::open(index, packs, version)?;
        let (mut numbers, mut runs) = (HashMap::new(), Vec::new());
        let (mut at, total) = (0, reader.plain_bytes());
        while at < total {
            let to = (at + WINDOW_BYTES).min(total);
            for run in reader.flat(index, packs, at, to)? {
                let id = reader.space(run.space).unwrap_or_default();
                let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                push(&mut runs, run.dst, *numbers.entry(id).or_insert(next), run.src, u64::from(run.len));
            }
            at = to;
        }
        Ok(Self::new(numbers, runs))
    }

    fn new(numbers: HashMap<VersionId, u32>, runs: Vec<Run>) -> Self {
        let all = u32::try_from(runs.len()).unwrap_or(u32::MAX);
        let mut by_source: Vec<(u32, u32)> = (0..all).map(|at| (at, 0)).collect();
        let run = |at: u32| runs[at as usize];
        by_source.sort_unstable_by_key(|&(at, _)| (run(at).space, run(at).src, run(at).dst));
        // bytes that the stream has twice are found at the first place
        let (mut space, mut reached) = (PARENT, 0u64);
        by_source.retain_mut(|(at, cut)| {
            let run = run(*at);
            if run.space != space {
                (space, reached) = (run.space, 0);
            }
            *cut = length(reached.saturating_sub(run.src).min(u64::from(run.len)));
            reached = reached.max(run.src_end());
            *cut < run.len
        });
        Self { numbers, runs, by_source, diagonal: 0 }
    }

    /// A place by position in `by_source`: space, first offset there, first offset in the stream, length.
    fn place(&self, at: usize) -> Option<(u32, u64, u64, u64)> {
        let &(run, cut) = self.by_source.get(at)?;
        let run = self.runs.get(run as usize)?;
        Some((run.space, run.src + u64::from(cut), run.dst + u64::from(cut), u64::from(run.len - cut)))
    }

    /// Bytes from `src` of a space on that the stream has at `dst`.
    fn length_at(&self, dst: u64, number: u32, src: u64) -> u64 {
        let at = self.runs.partition_point(|run| run.dst_end() <= dst);
        let run = self.runs.get(at).filter(|run| run.dst <= dst && run.space == number);
        run.filter(|run| run.src + (dst - run.dst) == src).map_or(0, |run| run.dst_end() - dst)
    }

    /// Hands a run on in parts: copies of the stream where it has the same bytes, the run itself elsewhere.
    fn split(
        &mut self,
        space: VersionId,
        run: Run,
        each: &mut impl FnMut(Option<VersionId>, Run) -> Result<()>,
    ) -> Result<()> {
        let Some(&number) = self.numbers.get(&space) else { return each(Some(space), run) };
        let (mut src, mut dst, end) = (run.src, run.dst, run.src_end());
        while src < end {
            // of bytes that the stream has twice, those that go on where the last copy ended make one run with it
            let on = self.length_at(dst.wrapping_add(self.diagonal), number, src).min(end - src);
            if on > 0 {
                each(None, Run { dst, src: dst.wrapping_add(self.diagonal), len: length(on), space: PARENT })?;
                (src, dst) = (src + on, dst + on);
                continue;
            }
            let after = self.by_source.partition_point(|&(at, cut)| {
                let run = &self.runs[at as usize];
                (run.space, run.src + u64::from(cut)) <= (number, src)
            });
            let found = after.checked_sub(1).and_then(|at| self.place(at)).filter(|p| p.0 == number && src < p.1 + p.3);
            if let Some((_, from, place, len)) = found {
                let at = place + (src - from);
                self.diagonal = at.wrapping_sub(dst);
                let len = (from + len).min(end) - src;
                each(None, Run { dst, src: at, len: length(len), space: PARENT })?;
                (src, dst) = (src + len, dst + len);
                continue;
            }
            let next = self.place(after).filter(|p| p.0 == number).map_or(end, |p| p.1.min(end));
            each(Some(space), Run { dst, src, len: length(next - src), space: run.space })?;
            (src, dst) = (next, dst + (next - src));
        }
        Ok(())
    }
}

/// Lengths inside a run fit it.
fn length(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A record that was written.
#[derive(Debug)]
pub struct Written {
    /// Its head.
    pub head: VersionHead,
    /// The literal space that was made for it, if it has one.
    pub gathered: Option<Gathered>,
    /// Copy numbers that hold that space, from 0 on.
    pub copies: u8,
}

/// Writes the record of a merge, both copies, under a generation, and the literals that `marking` has it take over, into
/// the space `gathered`. `below` is the head of the kept parent.
///
/// # Errors
/// Damage, storage errors; [`RepoError::ProofFailed`] when a slice does not decode to its runs.
pub fn write(
    (index, packs): (&RepositoryIndex, &PackReader),
    writer: &mut PackWriter,
    marking: &Marking,
    merge: &Merge,
    (generation, gathered): (u32, VersionId),
    below: Option<&VersionHead>,
) -> Result<Written> {
    let (mut old, _) = read_head(index, packs, merge.version)?;
    old.extensions.retain(|(name, _)| name != gathered::EXTENSION);
    // what was stored twice stays so
    let is_twice = |space: VersionId| {
        let mut parts = index.space_parts(space).iter();
        marking.moves_of(space) && parts.any(|part| index.pack(part.pack).is_some_and(|info| info.copy == 1))
    };
    let copies = if StreamReader::open(index, packs, merge.version)?.closure().any(is_twice) { 2 } else { 1 };
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
        taken: Taken::new(gathered, copies),
    };
    compose(index, packs, merge, |space, run| {
        let Some(id) = space else { return record.put(writer, PARENT, run.dst, run.src, u64::from(run.len)) };
        let mut at = run.src;
        for (start, end) in marking.moved_in(id, run.src, run.src_end()) {
            record.push(writer, id, part_of(run, at, start))?;
            let part = part_of(run, start, end);
            let number = record.number(gathered);
            record.put(writer, number, part.dst, record.taken.end(), end - start)?;
            record.taken.add(id, &part);
            if record.taken.is_full() {
                record.taken.write((index, packs), writer)?;
            }
            at = end;
        }
        record.push(writer, id, part_of(run, at, run.src_end()))
    })?;
    record.close_slice(writer)?;
    record.taken.finish((index, packs), writer)?;
    record.finish(writer, below)
}

/// The part of a run over a literal space that has these offsets there.
fn part_of(run: Run, start: u64, end: u64) -> Run {
    Run { dst: run.dst + (start - run.src), src: start, len: length(end.saturating_sub(start)), space: run.space }
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
    taken: Taken,
}

impl Record {
    /// A run over a literal space. Own literals are consecutive and need no source; a place that the version names a second
    /// time needs a number.
    fn push(&mut self, writer: &mut PackWriter, id: VersionId, run: Run) -> Result<()> {
        if run.len == 0 {
            return Ok(());
        }
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

    fn finish(mut self, writer: &mut PackWriter, below: Option<&VersionHead>) -> Result<Written> {
        let gathered = self.taken.gathered();
        self.head.extensions.extend(gathered.map(|gathered| gathered.extension()));
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
        Ok(Written { head: self.head, gathered, copies: self.taken.copies() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each byte of a run comes out once, in order, either as itself or as a copy of a place that holds it; and it comes
        /// out as itself only if no place holds it.
        #[test]
        fn split_keeps_every_byte(
            parts in prop::collection::vec((0u32..2, 0u64..200, 1u32..40), 0..20),
            wanted in prop::collection::vec((0u8..3, 0u64..220, 1u32..120), 1..6),
        ) {
            let ids: Vec<VersionId> = (0..3u8).map(|n| VersionId([n; 16])).collect();
            let mut runs = Vec::new();
            let mut end = 0;
            for (space, src, len) in parts {
                push(&mut runs, end, space, src, u64::from(len));
                end += u64::from(len);
            }
            let mut places = Places::new([(ids[0], 0), (ids[1], 1)].into(), runs.clone());
            let mut out = Vec::new();
            let (mut dst, mut expected) = (5, Vec::new());
            for (space, src, len) in wanted {
                let id = ids[usize::from(space)];
                places.split(id, Run { dst, src, len, space: 77 }, &mut |s, r| {
                    out.push((s, r));
                    Ok(())
                }).unwrap();
                dst += u64::from(len);
                expected.extend((0..u64::from(len)).map(|k| (id, src + k)));
            }
            let mut bytes = Vec::new();
            for (s, r) in out {
                prop_assert_eq!(r.dst, 5 + bytes.len() as u64);
                for at in r.src..r.src_end() {
                    bytes.push(match s {
                        Some(id) => {
                            let held = runs.iter().any(|p| ids[p.space as usize] == id && p.src <= at && at < p.src_end());
                            prop_assert!(!held, "a copy was possible");
                            (id, at)
                        }
                        None => {
                            let p = runs.iter().find(|p| p.dst <= at && at < p.dst_end()).unwrap();
                            (ids[p.space as usize], p.src + (at - p.dst))
                        }
                    });
                }
            }
            prop_assert_eq!(bytes, expected);
        }
    }
}
