//! How much of each segment one version uses, and which crowded ones it would rather not need.
//!
//! A restore decodes whole segments. As rows change, a version uses less and less of the segments that older versions
//! left, so more is decoded than given back. A segment that is little used is cheap to leave: its used bytes are stored
//! again, and all of it need not be decoded any more.

use super::error::{RepoError, Result};
use super::index::RepositoryIndex;
use super::pack_reader::PackReader;
use super::stream_reader::StreamReader;
use crate::domain::id::VersionId;
use crate::recipe::run::Run;

/// Segments looked at most; a stream of some 30 GB has so many.
const SEGMENTS_MAX: usize = 256 << 10;
/// Stored bytes of a run in both copies of the recipes to come, as raw bytes that compress to as much.
const RUN_COST_BYTES: u64 = 16;

/// A segment and how much of it is used.
#[derive(Debug, Clone, Copy)]
struct Used {
    start: u64,
    end: u64,
    raw_bytes: u32,
    bytes: u32,
    runs: u32,
    left: bool,
}

impl Used {
    /// Bytes that are decoded in vain.
    fn vain_bytes(&self) -> u64 {
        u64::from(self.raw_bytes).saturating_sub(u64::from(self.bytes))
    }

    /// What it costs to store the used bytes again.
    fn cost(&self) -> u64 {
        u64::from(self.bytes) + u64::from(self.runs) * RUN_COST_BYTES
    }
}

/// The segments of a version, by the numbers that its reader gives to literal spaces.
#[derive(Debug, Default)]
pub struct SegmentUse {
    spaces: Vec<Option<Space>>,
    segments: usize,
}

#[derive(Debug, Default)]
struct Space {
    /// By first offset.
    segments: Vec<Used>,
    /// The one used last.
    at: usize,
}

impl Space {
    /// The segment that holds an offset.
    fn find(&mut self, offset: u64) -> Option<usize> {
        let holds = |at: usize| self.segments.get(at).is_some_and(|s| s.start <= offset && offset < s.end);
        if !holds(self.at) {
            self.at = self.segments.partition_point(|s| s.start <= offset).checked_sub(1)?;
        }
        self.segments.get(self.at).filter(|s| offset < s.end).map(|_| self.at)
    }
}

impl SegmentUse {
    /// What the whole version uses; `None` for a version of too many segments.
    ///
    /// # Errors
    /// Damage, storage errors.
    pub fn of(index: &RepositoryIndex, packs: &PackReader, reader: &mut StreamReader) -> Result<Option<Self>> {
        let mut found = Self::default();
        let names: Vec<VersionId> = reader.closure().collect();
        let mut failure: Option<RepoError> = None;
        reader.flat_each(index, packs, 0, reader.plain_bytes(), |run| {
            if failure.is_none() && found.segments <= SEGMENTS_MAX {
                let space = names.get(run.space as usize).copied().unwrap_or_default();
                failure = found.note(index, packs, space, &run).err();
            }
        })?;
        match failure {
            Some(error) => Err(error),
            None => Ok((found.segments <= SEGMENTS_MAX).then_some(found)),
        }
    }

    fn note(&mut self, index: &RepositoryIndex, packs: &PackReader, id: VersionId, run: &Run) -> Result<()> {
        let number = run.space as usize;
        if self.spaces.len() <= number {
            self.spaces.resize_with(number + 1, || None);
        }
        let Some(slot) = self.spaces.get_mut(number) else { return Ok(()) };
        let space = match slot {
            Some(space) => space,
            None => {
                let space = Space { segments: segments_of(index, packs, id)?, at: 0 };
                self.segments += space.segments.len();
                slot.insert(space)
            }
        };
        let (mut at, end) = (run.src, run.src_end());
        while at < end {
            let Some(found) = space.find(at) else { return Ok(()) };
            let Some(segment) = space.segments.get_mut(found) else { return Ok(()) };
            let to = end.min(segment.end);
            segment.bytes = segment.bytes.saturating_add(u32::try_from(to - at).unwrap_or(u32::MAX));
            segment.runs += 1;
            at = to;
        }
        Ok(())
    }

    /// Raw bytes of all segments that are used.
    pub fn decoded_bytes(&self) -> u64 {
        self.used().map(|s| u64::from(s.raw_bytes)).sum()
    }

    fn used(&self) -> impl Iterator<Item = &Used> {
        self.spaces.iter().flatten().flat_map(|s| &s.segments).filter(|s| s.bytes > 0)
    }

    /// Leaves the segments that cost least for what they give, until a version without them decodes at most
    /// `decoded_bytes_max`, or `again_bytes_max` are to be stored again. Returns the bytes to be stored again.
    pub fn leave(&mut self, decoded_bytes_max: u64, again_bytes_max: u64) -> u64 {
        let mut decoded = self.decoded_bytes();
        let mut order: Vec<&mut Used> =
            self.spaces.iter_mut().flatten().flat_map(|s| &mut s.segments).filter(|s| s.bytes > 0).collect();
        // cost for each byte that is not decoded any more, smallest first, compared without division
        order.sort_by(|a, b| {
            let (left, right) =
                (u128::from(a.cost()) * u128::from(b.vain_bytes()), u128::from(b.cost()) * u128::from(a.vain_bytes()));
            left.cmp(&right)
        });
        let mut again = 0;
        for segment in order {
            if decoded <= decoded_bytes_max || again >= again_bytes_max || segment.vain_bytes() == 0 {
                break;
            }
            segment.left = true;
            decoded -= segment.vain_bytes();
            again += u64::from(segment.bytes);
        }
        again
    }

    /// Hands out the parts of a run that lie in segments that are to be left, in the stream's offsets.
    pub fn each_left(&mut self, run: &Run, mut each: impl FnMut(u64, u64)) {
        let Some(Some(space)) = self.spaces.get_mut(run.space as usize) else { return };
        let (mut at, end) = (run.src, run.src_end());
        while at < end {
            let Some(segment) = space.find(at).and_then(|found| space.segments.get(found)) else { return };
            let to = end.min(segment.end);
            if segment.left {
                each(run.dst + (at - run.src), run.dst + (to - run.src));
            }
            at = to;
        }
    }
}

/// The segments of a literal space in the packs of first copies.
fn segments_of(index: &RepositoryIndex, packs: &PackReader, space: VersionId) -> Result<Vec<Used>> {
    let mut all = Vec::new();
    let mut last = None;
    for part in index.space_parts(space) {
        let is_first = index.pack(part.pack).is_some_and(|info| info.copy == 0);
        if !is_first || last == Some(part.pack) {
            continue;
        }
        last = Some(part.pack);
        let table = packs.table(index, part.pack)?;
        for (ordinal, start, end) in table.segments_of(space) {
            let raw_bytes = table.blob(ordinal).map_or(0, |(entry, _)| entry.raw_bytes);
            all.push(Used { start, end, raw_bytes, bytes: 0, runs: 0, left: false });
        }
    }
    all.sort_unstable_by_key(|s| (s.start, s.end));
    all.dedup_by_key(|s| (s.start, s.end));
    Ok(all)
}
