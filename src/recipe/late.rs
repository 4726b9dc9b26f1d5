//! Late matches: new bytes that turn out to be old ones when the parent is read further.
//!
//! The matcher sees the parent a few MiB around the place where the stream is. A row that moves farther towards the
//! beginning (PostgreSQL puts the new version of a row where an old one was vacuumed away) stands in the parent behind
//! all that. So new bytes wait here a while, with the copies around them, and every part of the parent that nothing was
//! copied from is looked up among them when the stream comes by. A row that moves towards the end needs none of this
//! only as long as it moves less far than the parent's window reaches back; rows seldom do.

use super::matcher::{ParentView, common, extend_back, hash16, word};
use std::collections::BTreeMap;

/// Shortest late match, bytes. A copy from far away costs some 16 bytes in both records together.
const MATCH_BYTES_MIN: usize = 40;
/// Bytes under one hash.
const WORD_BYTES: usize = 16;
/// Every eighth new byte is in the table.
const STRIDE: usize = 8;
/// log2 of the table's entries.
const TABLE_BITS: u32 = 17;
/// New bytes that wait at most.
const NEW_BYTES_MAX: usize = 1 << 20;
/// Pieces that wait at most.
const PIECES_MAX: usize = 64 << 10;
/// Bytes of the parent looked up between two calls of [`Late::passed`]; more than that is no row that moved.
const LEFT_BYTES_MAX: usize = 1 << 20;

/// A piece of the stream that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes that the parent does not have.
    New(&'a [u8]),
    /// Bytes of the parent stream.
    Copy {
        /// Offset in the parent.
        src: u64,
        /// Length.
        len: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum Waiting {
    New { len: usize },
    Copy { src: u64, len: u64 },
}

/// New bytes and copies, in stream order, that are not written yet. See the module text.
#[derive(Debug, Default)]
pub struct Late {
    pieces: Vec<Waiting>,
    /// The new bytes of all pieces.
    bytes: Vec<u8>,
    /// Ends of the new pieces in `bytes`.
    ends: Vec<usize>,
    /// Index in `bytes` + 1, or 0.
    table: Vec<u32>,
    /// Late matches: start in `bytes` -> length, parent offset. They do not overlap.
    found: BTreeMap<usize, (usize, u64)>,
    /// Parts of the parent that were copied, at or after `looked`.
    used: Vec<(u64, u64)>,
    /// Parent offset up to which unused parts were looked up.
    looked: u64,
}

impl Late {
    /// Takes a copy of the parent.
    pub fn copy(&mut self, src: u64, len: u64) {
        self.pieces.push(Waiting::Copy { src, len });
        self.used.push((src, src + len));
    }

    /// Takes bytes that the parent has at `src` and that are to be stored again all the same.
    pub fn again(&mut self, src: u64, bytes: &[u8]) {
        self.wait(bytes);
        self.used.push((src, src + bytes.len() as u64));
    }

    /// Takes bytes that were not found.
    pub fn new_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.table.is_empty() {
            self.table = vec![0; 1 << TABLE_BITS];
        }
        let start = self.bytes.len();
        self.wait(bytes);
        for at in (0..(bytes.len() + 1).saturating_sub(WORD_BYTES)).step_by(STRIDE) {
            if let Some(entry) = self.table.get_mut(hash16(bytes, at, TABLE_BITS)) {
                *entry = u32::try_from(start + at + 1).unwrap_or(0);
            }
        }
    }

    fn wait(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pieces.push(Waiting::New { len: bytes.len() });
        self.ends.push(self.bytes.len());
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// More waits than should.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= NEW_BYTES_MAX || self.pieces.len() >= PIECES_MAX
    }

    /// The stream has come to `now` in the parent: what lies before it, is in `view` and was not copied is looked up
    /// among the bytes that wait.
    pub fn passed(&mut self, view: &ParentView<'_>, now: u64) {
        self.used.sort_unstable();
        let used = std::mem::take(&mut self.used);
        let mut budget = LEFT_BYTES_MAX;
        let mut at = self.looked.max(view.start);
        let end = now.min(view.start + view.bytes.len() as u64);
        for &(from, to) in used.iter().chain(std::iter::once(&(end, end))) {
            if from > at && !self.bytes.is_empty() {
                self.look_up(view, at, from.min(end), &mut budget);
            }
            at = at.max(to);
        }
        self.used = used;
        self.used.retain(|&(_, to)| to > now);
        self.looked = self.looked.max(now);
    }

    /// Looks the parent's bytes `[from, to)` up.
    fn look_up(&mut self, view: &ParentView<'_>, from: u64, to: u64, budget: &mut usize) {
        let index = |offset: u64| usize::try_from(offset.saturating_sub(view.start)).unwrap_or(usize::MAX);
        let (mut at, end) = (index(from), index(to).min(view.bytes.len()));
        if end.saturating_sub(at) > *budget {
            return;
        }
        *budget -= end.saturating_sub(at);
        while at + WORD_BYTES <= end {
            at += self.match_at(view, at).unwrap_or(1);
        }
    }

    /// Notes the late match that the parent's bytes at index `at` of the view begin, and returns how far it reaches.
    fn match_at(&mut self, view: &ParentView<'_>, at: usize) -> Option<usize> {
        let entry = *self.table.get(hash16(view.bytes, at, TABLE_BITS))?;
        let place = usize::try_from(entry.checked_sub(1)?).ok()?;
        if word(&self.bytes, place) != word(view.bytes, at) {
            return None;
        }
        let piece = self.ends.partition_point(|&end| end <= place);
        let limit = *self.ends.get(piece)?;
        let first = piece.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        // neither into the next late match nor into the one before
        let limit = self.found.range(place..).next().map_or(limit, |(&next, _)| limit.min(next));
        let first = self.found.range(..place).next_back().map_or(first, |(&start, &(len, _))| first.max(start + len));
        if first > place {
            return None;
        }
        let forward = common(self.bytes.get(..limit)?, place, view.bytes, at);
        let back = extend_back(&self.bytes, view.bytes, place, at, first).len;
        let len = back + forward;
        if len < MATCH_BYTES_MIN {
            return None;
        }
        self.found.insert(place - back, (len, view.start + (at - back) as u64));
        Some(forward)
    }

    /// Hands out all that waits, in stream order.
    ///
    /// # Errors
    /// The first that `each` returns; what waited is gone then.
    pub fn drain<E>(&mut self, mut each: impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        let (pieces, bytes) = (std::mem::take(&mut self.pieces), std::mem::take(&mut self.bytes));
        let found = std::mem::take(&mut self.found);
        self.ends.clear();
        self.table.fill(0);
        let mut found = found.into_iter().peekable();
        let mut at = 0;
        for piece in &pieces {
            let len = match *piece {
                Waiting::Copy { src, len } => {
                    each(Piece::Copy { src, len })?;
                    continue;
                }
                Waiting::New { len } => len,
            };
            let end = at + len;
            while let Some((start, (len, src))) = found.next_if(|(start, _)| *start < end) {
                if start > at {
                    each(Piece::New(bytes.get(at..start).unwrap_or_default()))?;
                }
                each(Piece::Copy { src, len: len as u64 })?;
                at = start + len;
            }
            if end > at {
                each(Piece::New(bytes.get(at..end).unwrap_or_default()))?;
            }
            at = end;
        }
        // keep the allocations for what comes
        (self.pieces, self.bytes) = (pieces, bytes);
        self.pieces.clear();
        self.bytes.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::{Random, SeededRandom};
    use proptest::prelude::*;

    /// Applies drained pieces to the parent: what the stream's reader will see, and the new bytes among it.
    fn play(late: &mut Late, parent: &[u8]) -> (Vec<u8>, usize) {
        let (mut out, mut new) = (Vec::new(), 0);
        let result: Result<(), ()> = late.drain(|piece| {
            match piece {
                Piece::New(bytes) => {
                    assert!(!bytes.is_empty());
                    new += bytes.len();
                    out.extend_from_slice(bytes);
                }
                Piece::Copy { src, len } => {
                    let (from, to) = (usize::try_from(src).unwrap(), usize::try_from(src + len).unwrap());
                    out.extend_from_slice(&parent[from..to]);
                }
            }
            Ok(())
        });
        result.unwrap();
        assert!(late.is_empty());
        (out, new)
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        SeededRandom::new(seed).fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_row_that_moved_to_the_beginning_becomes_a_copy() {
        let parent = noise(1, 10_000);
        let row = parent[8_000..8_200].to_vec();
        let new: Vec<u8> = [b"changed".as_slice(), &row[..90], b"and changed", &row[90..]].concat();
        let mut late = Late::default();
        late.copy(0, 500);
        late.new_bytes(&new);
        late.copy(500, 7_500);
        let view = ParentView { start: 0, bytes: &parent };
        late.passed(&view, 8_000);
        late.copy(8_200, 1_800);
        late.passed(&view, 10_000);
        let (out, left) = play(&mut late, &parent);
        assert_eq!(out, [&parent[..500], &new, &parent[500..8_000], &parent[8_200..]].concat());
        assert_eq!(left, b"changed".len() + b"and changed".len());
    }

    #[test]
    fn what_was_copied_is_not_looked_up_again() {
        let parent = noise(2, 4_000);
        let mut late = Late::default();
        late.new_bytes(&parent[1_000..1_200]);
        late.copy(0, 4_000);
        late.passed(&ParentView { start: 0, bytes: &parent }, 4_000);
        let (_, new) = play(&mut late, &parent);
        assert_eq!(new, 200);
    }

    #[test]
    fn it_is_full_before_it_is_large() {
        let mut late = Late::default();
        let mut taken = 0;
        while !late.is_full() {
            late.new_bytes(&noise(taken, 10_000));
            taken += 1;
        }
        assert!(taken <= (NEW_BYTES_MAX / 10_000 + 1) as u64);
        let mut late = Late::default();
        (0..PIECES_MAX as u64).for_each(|n| late.copy(n * 2, 1));
        assert!(late.is_full());
    }

    proptest! {
        /// Rows in any order, some new, some changed, views and lookups at any pace: the stream is what was put in.
        #[test]
        fn the_stream_stays_what_it_is(
            order in prop::collection::vec((0usize..60, 0u8..4, 0usize..70), 1..80),
            pace in 1usize..700,
        ) {
            let parent: Vec<u8> = (0..60).flat_map(|n| noise(n, 70)).collect();
            let (mut late, mut truth) = (Late::default(), Vec::new());
            let mut now = 0;
            for (row, kind, cut) in order {
                let bytes = &parent[row * 70..row * 70 + 70];
                match kind {
                    0 => late.copy(row as u64 * 70, 70),
                    1 => late.new_bytes(&bytes[cut..]),
                    2 => late.new_bytes(bytes),
                    _ => late.new_bytes(&[&bytes[..cut], b"x".as_slice(), &bytes[cut..]].concat()),
                }
                match kind {
                    1 => truth.extend_from_slice(&bytes[cut..]),
                    3 => truth.extend([&bytes[..cut], b"x".as_slice(), &bytes[cut..]].concat()),
                    _ => truth.extend_from_slice(bytes),
                }
                now = (now + pace).min(parent.len());
                let from = now.saturating_sub(1000);
                late.passed(&ParentView { start: from as u64, bytes: &parent[from..] }, now as u64);
            }
            prop_assert_eq!(play(&mut late, &parent).0, truth);
        }
    }
}
