//! Literals on their way into the literal space that a merge makes for its record ([`super::record_merge`]).
//!
//! A record takes them from many spaces, now here and now there, so reading each one when its turn comes would decode the
//! same segments again and again. Instead their places are noted until some MiB of them have come together; then they are
//! read in the order of the spaces, each segment once, and put where they belong.

use super::error::Result;
use super::index::RepositoryIndex;
use super::pack_reader::{PackReader, Segment};
use super::pack_writer::{NewBlob, PackWriter};
use crate::domain::id::VersionId;
use crate::format::gathered::Gathered;
use crate::recipe::run::Run;
use std::collections::HashMap;
use std::sync::Arc;

/// Raw bytes of a segment of gathered literals: of scattered ones, and where they are most of the stream.
const SCATTERED_BYTES: usize = 64 << 10;
const DENSE_BYTES: usize = 512 << 10;
const SCATTERED_LEVEL: i32 = 9;
const DENSE_LEVEL: i32 = 6;
/// Memory for the bytes that are read together, and for their places.
const READ_BYTES_MAX: usize = 8 << 20;
const PLACES_MAX: usize = 256 << 10;

/// A place that bytes come from, and where they go.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Number of the space that has them.
    space: u32,
    /// Position of the first byte among those read together.
    at: u32,
    src: u64,
    len: u32,
}

/// Literals that are taken over.
#[derive(Debug)]
pub(super) struct Taken {
    space: VersionId,
    copies: u8,
    /// Offset in the space of the first byte that is not written yet.
    start: u64,
    parts: Vec<Part>,
    bytes: usize,
    /// Where segments end, among those read together.
    ends: Vec<usize>,
    /// Offset in the stream where the open segment began.
    since: u64,
    numbers: HashMap<VersionId, u32>,
    spaces: Vec<VersionId>,
}

impl Taken {
    /// For the literal space `space`, which is stored in so many copies.
    pub(super) fn new(space: VersionId, copies: u8) -> Self {
        let (parts, ends, numbers, spaces) = Default::default();
        Self { space, copies, start: 0, parts, bytes: 0, ends, since: 0, numbers, spaces }
    }

    /// Copy numbers that hold the space, from 0 on.
    pub(super) fn copies(&self) -> u8 {
        self.copies
    }

    /// The space, once everything is written; None when nothing was taken.
    pub(super) fn gathered(&self) -> Option<Gathered> {
        (self.start > 0).then_some(Gathered { space: self.space, bytes: self.start })
    }

    /// Length of the space so far.
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes as u64
    }

    /// Takes a run over a literal space; it begins at [`Self::end`] of the new one.
    pub(super) fn add(&mut self, space: VersionId, run: &Run) {
        let spaces = &mut self.spaces;
        let number = *self.numbers.entry(space).or_insert_with(|| {
            spaces.push(space);
            u32::try_from(spaces.len() - 1).unwrap_or(u32::MAX)
        });
        let at = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        self.parts.push(Part { space: number, src: run.src, len: run.len, at });
        self.bytes += run.len as usize;
        let open = self.bytes - self.ends.last().copied().unwrap_or(0);
        let is_dense = open as u64 * 2 > run.dst_end().saturating_sub(self.since);
        if open >= if is_dense { DENSE_BYTES } else { SCATTERED_BYTES } {
            self.ends.push(self.bytes);
            self.since = run.dst_end();
        }
    }

    /// True when what was taken should be written: a segment has just ended, and little more may be held in memory.
    pub(super) fn is_full(&self) -> bool {
        self.ends.last() == Some(&self.bytes) && (self.bytes >= READ_BYTES_MAX || self.parts.len() >= PLACES_MAX)
    }

    /// Ends the last segment and writes everything that is left.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(super) fn finish(&mut self, from: (&RepositoryIndex, &PackReader), writer: &mut PackWriter) -> Result<()> {
        if self.bytes > self.ends.last().copied().unwrap_or(0) {
            self.ends.push(self.bytes);
        }
        self.write(from, writer)
    }

    /// Reads what was taken and writes it as segments.
    ///
    /// # Errors
    /// Damage, storage errors.
    pub(super) fn write(&mut self, from: (&RepositoryIndex, &PackReader), writer: &mut PackWriter) -> Result<()> {
        let mut bytes = vec![0; self.bytes];
        self.read(from, &mut bytes)?;
        let mut begin = 0;
        for end in std::mem::take(&mut self.ends) {
            let raw = bytes.get(begin..end).unwrap_or_default();
            let level = if raw.len() < DENSE_BYTES / 2 { SCATTERED_LEVEL } else { DENSE_LEVEL };
            let blob = NewBlob::Segment { space: self.space, start: self.start };
            for copy in (0..self.copies).rev() {
                writer.add(copy, blob, raw.to_vec(), level)?;
            }
            self.start += raw.len() as u64;
            begin = end;
        }
        self.bytes = 0;
        Ok(())
    }

    /// Fills the places of all parts, space by space.
    fn read(&mut self, (index, packs): (&RepositoryIndex, &PackReader), bytes: &mut [u8]) -> Result<()> {
        self.parts.sort_unstable_by_key(|part| (part.space, part.src));
        let mut held: Option<(u32, Arc<Segment>)> = None;
        for part in self.parts.drain(..) {
            let (mut src, mut at, mut left) = (part.src, part.at as usize, part.len as usize);
            while left > 0 {
                let has = match &held {
                    Some((space, segment)) if *space == part.space => segment.bytes_at(src),
                    _ => &[],
                };
                let now = has.get(..has.len().min(left)).unwrap_or_default();
                if now.is_empty() {
                    let space = self.spaces.get(part.space as usize).copied().unwrap_or_default();
                    held = Some((part.space, packs.segment(index, space, src)?));
                    continue;
                }
                if let Some(to) = bytes.get_mut(at..at + now.len()) {
                    to.copy_from_slice(now);
                }
                (src, at, left) = (src + now.len() as u64, at + now.len(), left - now.len());
            }
        }
        Ok(())
    }
}
