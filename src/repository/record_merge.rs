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
