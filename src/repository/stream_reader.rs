//! Reads a stored version: chain of records, flat recipe of a window, bytes.

use super::error::{RepoError, Result};
use super::index::{RecordPlace, RepositoryIndex};
use super::pack_reader::{PackReader, Segment};
use crate::domain::id::VersionId;
use crate::format::codec;
use crate::format::records::{SliceInfo, VersionHead};
use crate::format::slice::{self, OWN, SliceFrame};
use crate::recipe::compose::{self, Uncovered};
use crate::recipe::run::{PARENT, Run, clip};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Longest chain that a reader follows; writers stay far below.
pub const DEPTH_MAX: usize = 4096;
/// Largest encoded head.
const HEAD_BYTES_MAX: usize = 64 << 20;
/// Stream bytes flattened at a time.
const WINDOW_BYTES: u64 = 4 << 20;
/// A range this short, this far from the window, is flattened alone: a row that moved, after which the stream goes on.
const DETOUR_BYTES: u64 = 256 << 10;
/// Bytes of segments held by a reader beside the shared cache.
const HELD_BYTES_MAX: usize = 14 << 20;
/// Decoded runs of slices kept, bytes, unless [`StreamReader::keep_slices`] says otherwise.
const SLICES_KEPT_BYTES: usize = 12 << 20;

impl From<Uncovered> for RepoError {
    fn from(error: Uncovered) -> Self {
        Self::Damaged { object: "a recipe".to_owned(), reason: error.to_string() }
    }
}

/// One record of a chain, with what is needed to place its slices.
#[derive(Debug)]
struct Level {
    head: VersionHead,
    places: Vec<RecordPlace>,
    frames: Vec<SliceFrame>,
    /// Record-local space numbers to numbers in [`StreamReader::spaces`].
    spaces: Vec<u32>,
}

/// Who else wants to see the runs that are read.
type Each<'a, 'b> = Option<&'a mut (dyn FnMut(Run) + 'b)>;

/// A decoded slice and when it was last used.
type CachedSlice = (Arc<Vec<Run>>, u64);

/// Reads any part of one version. Cheap to open, bounded in memory.
#[derive(Debug)]
pub struct StreamReader {
    levels: Vec<Level>,
    spaces: Vec<VersionId>,
    slices: HashMap<(usize, usize), CachedSlice>,
    slices_bytes: usize,
    slices_bytes_max: usize,
    tick: u64,
    window: (u64, u64, Arc<Vec<Run>>),
    held: HeldSegments,
    /// The state of [`PackReader::newest`] that this was opened with.
    epoch: u64,
}

/// Reads a record's head, from whichever copy is good.
///
/// # Errors
/// [`RepoError::Missing`] without any, damage when all are damaged.
pub fn read_head(
    index: &RepositoryIndex,
    packs: &PackReader,
    version: VersionId,
) -> Result<(VersionHead, Vec<RecordPlace>)> {
    let places = index.record_places(version);
    let raw = read_record(index, packs, version, &places, None)?;
    let damaged = |reason: &str| RepoError::damaged_version(version, reason);
    let head: VersionHead =
        codec::decode::<_, HEAD_BYTES_MAX>(&raw).map_err(|_| damaged("its head does not decode"))?;
    let generation = places.first().map_or(0, |p| p.generation);
    if head.version != version || head.generation != generation {
        return Err(damaged("its head belongs to another record"));
    }
    let sum = |f: fn(&SliceInfo) -> u64| head.slices.iter().try_fold(0u64, |a, s| a.checked_add(f(s)));
    if sum(|s| s.plain_bytes) != Some(head.plain_bytes) || sum(|s| s.literal_bytes) != Some(head.literal_bytes) {
        return Err(damaged("its slices do not add up"));
    }
    if head.parent.is_none() && head.parent_bytes != 0 {
        return Err(damaged("its head contradicts itself"));
    }
    Ok((head, places))
}

/// Reads a head (`slice` None) or slice from the first copy that is good.
fn read_record(
    index: &RepositoryIndex,
    packs: &PackReader,
    version: VersionId,
    places: &[RecordPlace],
    slice: Option<u32>,
) -> Result<Vec<u8>> {
    let mut failure = None;
    for place in places {
        let result = packs.table(index, place.pack).and_then(|table| {
            let Some(ordinal) = table.record(version, place.generation, slice) else { return Ok(None) };
            packs.blob(index, place.pack, &table, ordinal).map(Some)
        });
        match result {
            Ok(Some(raw)) => {
                if let Some(error) = failure {
                    packs.note_healed(format!("{error}"));
                }
                return Ok(raw);
            }
            // another part of the record is there
            Ok(None) => {}
            Err(error @ RepoError::PackGone { .. }) => return Err(error),
            Err(error) if error.concerns_one_object() => failure = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or_else(|| RepoError::Missing { what: format!("the record of version {version}") }))
}

impl StreamReader {
    /// Opens a version: reads the heads of its whole chain.
    ///
    /// # Errors
    /// Missing or damaged heads; a chain that is too long or goes round.
    pub fn open(index: &RepositoryIndex, packs: &PackReader, version: VersionId) -> Result<Self> {
        loop {
            let (newest, epoch) = packs.newest();
            match Self::open_in(newest.as_deref().unwrap_or(index), packs, version, epoch) {
                Err(RepoError::PackGone { pack }) => packs.reload(index, pack)?,
                result => return result,
            }
        }
    }

    fn open_in(index: &RepositoryIndex, packs: &PackReader, version: VersionId, epoch: u64) -> Result<Self> {
        let mut reader = Self {
            levels: Vec::new(),
            spaces: Vec::new(),
            slices: HashMap::new(),
            slices_bytes: 0,
            slices_bytes_max: SLICES_KEPT_BYTES,
            tick: 0,
            window: (0, 0, Arc::default()),
            held: HeldSegments::default(),
            epoch,
        };
        let mut numbers: HashMap<VersionId, u32> = HashMap::new();
        let mut next = Some((version, None));
        while let Some((version, expected_bytes)) = next {
            let damaged = |reason: &str| RepoError::damaged_version(version, reason);
            if reader.levels.len() >= DEPTH_MAX || reader.levels.iter().any(|l| l.head.version == version) {
                return Err(damaged("its chain of records does not end"));
            }
            let (head, places) = read_head(index, packs, version)?;
            if expected_bytes.is_some_and(|n| n != head.plain_bytes) {
                return Err(damaged("its length is not what the next version was made from"));
            }
            next = head.parent.map(|parent| (parent, Some(head.parent_bytes)));
            let named = std::iter::once(version).chain(head.spaces.iter().copied());
            let spaces = named
                .map(|id| {
                    *numbers.entry(id).or_insert_with(|| {
                        reader.spaces.push(id);
                        u32::try_from(reader.spaces.len() - 1).unwrap_or(u32::MAX - 1)
                    })
                })
                .collect();
            let frames = frames(&head);
            reader.levels.push(Level { head, places, frames, spaces });
        }
        Ok(reader)
    }

    /// The head of the version itself.
    ///
    /// # Panics
    /// Never: `open` puts at least one level.
    pub fn head(&self) -> &VersionHead {
        &self.levels[0].head
    }

    /// Length of the stream.
    pub fn plain_bytes(&self) -> u64 {
        self.head().plain_bytes
    }

    /// Records in the chain, this version's included.
    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    /// All literal spaces and versions that the chain names.
    pub fn closure(&self) -> impl Iterator<Item = VersionId> + '_ {
        self.spaces.iter().copied()
    }

    /// The literal space that a number in flat runs means.
    pub fn space(&self, number: u32) -> Option<VersionId> {
        self.spaces.get(number as usize).copied()
    }

    /// The flat recipe of `[start, end)`: runs over literal spaces only, [`Run::space`] in this reader's numbering.
    ///
    /// # Errors
    /// Damage.
    pub fn flat(&mut self, index: &RepositoryIndex, packs: &PackReader, start: u64, end: u64) -> Result<Vec<Run>> {
        compose::flatten(start, end, |level, cover, runs| self.runs_of(index, packs, level, cover, runs))
    }

    /// The recipe of `[start, end)` composed over the version's first `levels` records only: what the last of them
    /// copies from its parent stays a copy of that stream. [`Run::space`] in this reader's numbering; 0 is the version's
    /// own literals.
    ///
    /// # Errors
    /// Damage.
    pub fn composed(
        &mut self,
        index: &RepositoryIndex,
        packs: &PackReader,
        start: u64,
        end: u64,
        levels: usize,
    ) -> Result<Vec<Run>> {
        compose::flatten_levels(start, end, levels, |level, cover, runs| self.runs_of(index, packs, level, cover, runs))
    }

    /// Keeps at most so many bytes of decoded slices.
    pub fn keep_slices(&mut self, bytes_max: usize) {
        self.slices_bytes_max = bytes_max;
    }

    /// Gives back the memory of decoded segments.
    pub fn let_go(&mut self) {
        self.held = HeldSegments::default();
    }

    /// The heads of the chain, the version's own first.
    pub fn heads(&self) -> impl Iterator<Item = &VersionHead> {
        self.levels.iter().map(|l| &l.head)
    }

    /// Appends the runs of one level inside the intervals, spaces in this reader's numbering.
    fn runs_of(
        &mut self,
        index: &RepositoryIndex,
        packs: &PackReader,
        level: usize,
        cover: &[(u64, u64)],
        out: &mut Vec<Run>,
    ) -> Result<()> {
        let Some(this) = self.levels.get(level) else {
            return Err(RepoError::Damaged {
                object: "a recipe".to_owned(),
                reason: "it copies from a parent that it does not name".to_owned(),
            });
        };
        // a slice, and the intervals that it has bytes of
        let mut wanted: Vec<(usize, Range<usize>)> = Vec::new();
        for (interval, &(start, end)) in cover.iter().enumerate() {
            let first = this.frames.partition_point(|f| f.dst_start + f.plain_bytes <= start);
            let more = this.frames.iter().enumerate().skip(first).take_while(|(_, f)| f.dst_start < end);
            for (n, _) in more {
                match wanted.last_mut() {
                    Some((last, intervals)) if *last == n => intervals.end = interval + 1,
                    _ => wanted.push((n, interval..interval + 1)),
                }
            }
        }
        for (n, intervals) in wanted {
            let runs = self.slice(index, packs, level, n)?;
            clip(&runs, cover.get(intervals).unwrap_or_default(), out);
        }
        Ok(())
    }

    /// A decoded slice, from the cache if it is there.
    fn slice(&mut self, index: &RepositoryIndex, packs: &PackReader, level: usize, n: usize) -> Result<Arc<Vec<Run>>> {
        self.tick += 1;
        if let Some((runs, used)) = self.slices.get_mut(&(level, n)) {
            *used = self.tick;
            return Ok(Arc::clone(runs));
        }
        let this = &self.levels[level];
        let frame = &this.frames[n];
        let version = this.head.version;
        let sequence = u32::try_from(n).unwrap_or(u32::MAX);
        let raw = read_record(index, packs, version, &this.places, Some(sequence))?;
        let mut runs =
            slice::decode(&raw, frame).map_err(|e| RepoError::damaged_version(version, format!("slice {n}: {e}")))?;
        for run in &mut runs {
            if run.space != PARENT {
                debug_assert!(run.space == OWN || run.space <= frame.spaces);
                run.space = *this.spaces.get(run.space as usize).unwrap_or(&(u32::MAX - 1));
            }
        }
        runs.shrink_to_fit();
        let bytes = runs.len() * size_of::<Run>();
        while self.slices_bytes + bytes > self.slices_bytes_max && !self.slices.is_empty() {
            let oldest = self.slices.iter().min_by_key(|(_, (_, used))| *used).map(|(k, _)| *k);
            if let Some((gone, _)) = oldest.and_then(|k| self.slices.remove(&k)) {
                self.slices_bytes -= gone.len() * size_of::<Run>();
            }
        }
        let runs = Arc::new(runs);
        self.slices_bytes += bytes;
        self.slices.insert((level, n), (Arc::clone(&runs), self.tick));
        Ok(runs)
    }

    /// The flat recipe of a window that holds `at`, and the window's end. Neighbouring calls get the same window.
    fn window_at(&mut self, index: &RepositoryIndex, packs: &PackReader, at: u64) -> Result<(u64, Arc<Vec<Run>>)> {
        if !(self.window.0 <= at && at < self.window.1) {
            // the old window goes before the new one is made
            self.window = (0, 0, Arc::default());
            let to = (at + WINDOW_BYTES).min(self.plain_bytes());
            let flat = self.flat(index, packs, at, to)?;
            self.window = (at, to, Arc::new(flat));
        }
        Ok((self.window.1, Arc::clone(&self.window.2)))
    }

    /// Like [`Self::flat`] for many small ranges near each other: hands every run, cut to the range, to `each`.
    ///
    /// # Errors
    /// Damage; what `each` returns.
    pub fn flat_each(
        &mut self,
        index: &RepositoryIndex,
        packs: &PackReader,
        start: u64,
        end: u64,
        mut each: impl FnMut(Run),
    ) -> Result<()> {
        let away = !(self.window.0..self.window.1).contains(&start) && start.abs_diff(self.window.1) > DETOUR_BYTES;
        if away && end.saturating_sub(start) <= DETOUR_BYTES {
            self.flat(index, packs, start, end)?.into_iter().for_each(&mut each);
            return Ok(());
        }
        let mut at = start;
        while at < end {
            let (to, runs) = self.window_at(index, packs, at)?;
            let stop = end.min(to);
            cut(&runs, at, stop).into_iter().for_each(&mut each);
            at = stop;
        }
        Ok(())
    }

    /// Appends the bytes of `[start, end)` to `out`.
    ///
    /// # Errors
    /// Damage; a range beyond the stream's end.
    pub fn read(
        &mut self,
        index: &RepositoryIndex,
        packs: &PackReader,
        start: u64,
        end: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.read_newest(index, packs, start, end, out, None)
    }

    /// Like [`Self::read`], and hands every run of the flat recipe, cut to the range, to `each`. When a prune replaces
    /// packs meanwhile, some runs come again.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_runs(
        &mut self,
        index: &RepositoryIndex,
        packs: &PackReader,
        start: u64,
        end: u64,
        out: &mut Vec<u8>,
        each: &mut dyn FnMut(Run),
    ) -> Result<()> {
        self.read_newest(index, packs, start, end, out, Some(each))
    }

    fn read_newest(
        &mut self,
        index: &RepositoryIndex,
        packs: &PackReader,
        start: u64,
        end: u64,
        out: &mut Vec<u8>,
        mut each: Each<'_, '_>,
    ) -> Result<()> {
        if start > end || end > self.plain_bytes() {
            return Err(RepoError::Missing {
                what: format!("bytes {start} to {end} of version {}", self.head().version),
            });
        }
        let before = out.len();
        loop {
            let (newest, epoch) = packs.newest();
            let current = newest.as_deref().unwrap_or(index);
            if epoch != self.epoch {
                *self = Self::open(index, packs, self.head().version)?;
                continue;
            }
            match self.read_in(current, packs, start, end, out, each.as_deref_mut()) {
                Err(RepoError::PackGone { pack }) => {
                    out.truncate(before);
                    packs.reload(index, pack)?;
                }
                result => return result,
            }
        }
    }

    fn read_in(
        &mut self,
        index: &RepositoryIndex,
        packs: &PackReader,
        start: u64,
        end: u64,
        out: &mut Vec<u8>,
        mut each: Each<'_, '_>,
    ) -> Result<()> {
        let mut at = start;
        while at < end {
            let (to, runs) = self.window_at(index, packs, at)?;
            let stop = end.min(to);
            self.gather(index, packs, &runs, at, stop, out)?;
            if let Some(each) = &mut each {
                cut(&runs, at, stop).into_iter().for_each(each);
            }
            at = stop;
        }
        Ok(())
    }

    fn gather(
        &mut self,
        index: &RepositoryIndex,
        packs: &PackReader,
        runs: &[Run],
        start: u64,
        end: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let first = runs.partition_point(|r| r.dst_end() <= start);
        for run in runs.get(first..).unwrap_or_default() {
            if run.dst >= end {
                break;
            }
            let from = run.dst.max(start);
            let mut left = run.dst_end().min(end) - from;
            let mut src = run.src + (from - run.dst);
            while left > 0 {
                let part = self.held.bytes_at(run.space, src);
                let take = part.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                if let Some(now) = part.get(..take).filter(|now| !now.is_empty()) {
                    out.extend_from_slice(now);
                    src += take as u64;
                    left -= take as u64;
                } else if !self.held.turn_back(run.space, src) {
                    let space = self.space(run.space).unwrap_or_default();
                    let segment = packs.segment(index, space, src)?;
                    self.held.keep(run.space, segment);
                }
            }
        }
        Ok(())
    }
}

/// The runs of `[start, end)`, cut to it.
fn cut(runs: &[Run], start: u64, end: u64) -> Vec<Run> {
    let first = runs.partition_point(|r| r.dst_end() <= start);
    let last = first + runs.get(first..).map_or(0, |rest| rest.partition_point(|r| r.dst < end));
    let mut part = Vec::new();
    clip(runs.get(first..last).unwrap_or_default(), &[(start, end)], &mut part);
    part
}

/// The two segments last used of each literal space: runs of one space follow each other in it, but where one segment
/// ends and the next begins they go to and fro for a while. A long history has hundreds of spaces in use at any place of
/// the stream; those not asked for longest go first.
#[derive(Debug, Default)]
struct HeldSegments {
    by_space: Vec<[Option<HeldSegment>; 2]>,
    bytes: usize,
    tick: u32,
}

/// A segment and when it was asked for.
type HeldSegment = (Arc<Segment>, u32);

impl HeldSegments {
    /// The bytes of a space from `src` to the end of what the segment that is held has there; empty when another one is
    /// needed.
    #[inline]
    fn bytes_at(&self, space: u32, src: u64) -> &[u8] {
        match self.by_space.get(space as usize) {
            Some([Some((segment, _)), _]) => segment.bytes_at(src),
            _ => &[],
        }
    }

    /// Takes up the segment before the last again, if it has the byte.
    fn turn_back(&mut self, space: u32, src: u64) -> bool {
        let Some(pair) = self.by_space.get_mut(space as usize) else { return false };
        let found = pair[1].as_mut().filter(|(segment, _)| !segment.bytes_at(src).is_empty());
        let Some((_, asked)) = found else { return false };
        self.tick = self.tick.wrapping_add(1);
        *asked = self.tick;
        pair.swap(0, 1);
        true
    }

    fn keep(&mut self, space: u32, segment: Arc<Segment>) {
        if self.bytes > HELD_BYTES_MAX {
            self.drop_oldest();
        }
        let slot = space as usize;
        if self.by_space.len() <= slot {
            self.by_space.resize_with(slot + 1, || [None, None]);
        }
        self.tick = self.tick.wrapping_add(1);
        if let Some(pair) = self.by_space.get_mut(slot) {
            self.bytes += segment.held_bytes();
            pair.swap(0, 1);
            let old = pair[0].replace((segment, self.tick));
            self.bytes -= old.map_or(0, |(gone, _)| gone.held_bytes());
        }
    }

    /// Drops the half that was asked for first, so that this is seldom needed.
    fn drop_oldest(&mut self) {
        let mut ticks: Vec<u32> = self.by_space.iter().flatten().flatten().map(|(_, tick)| *tick).collect();
        ticks.sort_unstable();
        let Some(&middle) = ticks.get(ticks.len() / 2) else { return };
        for place in self.by_space.iter_mut().flatten() {
            if let Some((gone, _)) = place.take_if(|(_, tick)| *tick <= middle) {
                self.bytes -= gone.held_bytes();
            }
        }
    }
}

/// What each slice of a record must add up to, from its head.
pub fn frames(head: &VersionHead) -> Vec<SliceFrame> {
    let (mut dst, mut literal) = (0, 0);
    let spaces = u32::try_from(head.spaces.len()).unwrap_or(u32::MAX - 2);
    head.slices
        .iter()
        .map(|s| {
            let frame = SliceFrame {
                dst_start: dst,
                plain_bytes: s.plain_bytes,
                literal_start: literal,
                literal_bytes: s.literal_bytes,
                parent_bytes: head.parent_bytes,
                spaces,
            };
            dst = dst.saturating_add(s.plain_bytes);
            literal = literal.saturating_add(s.literal_bytes);
            frame
        })
        .collect()
}
