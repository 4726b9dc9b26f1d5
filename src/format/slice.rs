//! A slice: the runs of one part of a stream, as columns of numbers.
//!
//! Bytes (docs/format.md, "Slice"): five columns in the order tokens, moves, literal lengths, copy lengths, foreign
//! lengths. Each is `varint raw length, varint stored length, stored bytes`, where the stored bytes are what
//! [`super::compress`] gives. Every number inside a column is an unsigned LEB128 varint.
//!
//! * tokens: one per run: 0 = the version's own literals, 1 = the parent stream, 2 + k = the record's space number k.
//! * moves: for each parent run the change of its diagonal (source minus destination) against the last parent run of
//!   the slice (0 before the first); for each foreign run its source minus the end of the last run of the same space
//!   (0 before the first). Zigzag.
//! * lengths: one number for each run, in the column of its class.
//!
//! Own literals are consecutive: their sources need no numbers.

use super::compress;
use crate::recipe::run::{PARENT, Run, push};
use std::collections::HashMap;

/// Most runs in a slice; bounds what a reader must hold for each record of a chain.
pub const SLICE_RUNS_MAX: usize = 4096;

/// [`Run::space`] of a version's own literals, in record-local numbering. Space k of the record's table is k + 1.
pub const OWN: u32 = 0;

const COLUMNS: usize = 5;
const COLUMN_RAW_MAX: usize = SLICE_RUNS_MAX * 10;
/// Columns are small and read often enough: compress them hard.
const COLUMN_LEVEL: i32 = 15;

/// A slice that does not say what its record says, or no slice at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Slice is damaged: {0}")]
pub struct SliceError(pub &'static str);

/// What a slice's runs must add up to; kept in the version's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceFrame {
    /// First offset of the slice in its stream.
    pub dst_start: u64,
    /// Stream bytes.
    pub plain_bytes: u64,
    /// First offset in the version's own literal space.
    pub literal_start: u64,
    /// Own literal bytes.
    pub literal_bytes: u64,
    /// Length of the parent stream; 0 without parent.
    pub parent_bytes: u64,
    /// Entries of the record's space table.
    pub spaces: u32,
}

/// Appends a number as unsigned LEB128.
pub(super) fn put(column: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        column.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    column.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Result<u64, SliceError> {
    // most numbers are small
    if let Some((&byte, rest)) = bytes.split_first().filter(|(byte, _)| **byte < 0x80) {
        *bytes = rest;
        return Ok(u64::from(byte));
    }
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(SliceError("a number is cut off"))?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(SliceError("a number is too large"))
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Encodes runs in record-local numbering ([`OWN`], [`PARENT`], table entries from 1), sorted by destination.
pub fn encode(runs: &[Run]) -> Vec<u8> {
    let mut columns: [Vec<u8>; COLUMNS] = Default::default();
    let [tokens, moves, literals, copies, foreigns] = &mut columns;
    let mut diagonal = 0i64;
    let mut cursors: HashMap<u32, u64> = HashMap::new();
    for run in runs {
        match run.space {
            OWN => {
                put(tokens, 0);
                put(literals, u64::from(run.len));
            }
            PARENT => {
                put(tokens, 1);
                let now = run.src.wrapping_sub(run.dst) as i64;
                put(moves, zigzag(now.wrapping_sub(diagonal)));
                diagonal = now;
                put(copies, u64::from(run.len));
            }
            space => {
                put(tokens, u64::from(space) + 1);
                let cursor = cursors.entry(space).or_insert(0);
                put(moves, zigzag(run.src.wrapping_sub(*cursor) as i64));
                *cursor = run.src_end();
                put(foreigns, u64::from(run.len));
            }
        }
    }
    let mut out = Vec::new();
    for column in &columns {
        let mut stored = Vec::new();
        compress::compress(COLUMN_LEVEL, column, &mut stored);
        put(&mut out, column.len() as u64);
        put(&mut out, stored.len() as u64);
        out.extend_from_slice(&stored);
    }
    out
}

fn columns(mut bytes: &[u8]) -> Result<[Vec<u8>; COLUMNS], SliceError> {
    let mut all: [Vec<u8>; COLUMNS] = Default::default();
    for column in &mut all {
        let raw = usize::try_from(take(&mut bytes)?).unwrap_or(usize::MAX);
        let stored = usize::try_from(take(&mut bytes)?).unwrap_or(usize::MAX);
        if raw > COLUMN_RAW_MAX || stored > bytes.len() {
            return Err(SliceError("a column is longer than any valid one"));
        }
        let (now, rest) = bytes.split_at(stored);
        compress::decompress_exact(now, raw, column).map_err(|_| SliceError("a column does not decompress"))?;
        bytes = rest;
    }
    if bytes.is_empty() { Ok(all) } else { Err(SliceError("bytes follow the last column")) }
}

/// Decodes a slice and checks every run against its frame: no run leaves its stream, parent or space numbering.
///
/// # Errors
/// [`SliceError`] for anything that [`encode`] could not have written for this frame.
pub fn decode(bytes: &[u8], frame: &SliceFrame) -> Result<Vec<Run>, SliceError> {
    let all = columns(bytes)?;
    let [mut tokens, mut moves, mut literals, mut copies, mut foreigns] = all.each_ref().map(Vec::as_slice);
    let mut runs = Vec::with_capacity(tokens.len().min(SLICE_RUNS_MAX));
    let (mut dst, mut literal, mut diagonal) = (frame.dst_start, frame.literal_start, 0i64);
    let mut cursors: Vec<u64> = Vec::new();
    let dst_end = frame.dst_start.checked_add(frame.plain_bytes).ok_or(SliceError("the frame is too large"))?;
    let mut count = 0;
    while !tokens.is_empty() {
        count += 1;
        if count > SLICE_RUNS_MAX {
            return Err(SliceError("too many runs"));
        }
        let token = take(&mut tokens)?;
        let (space, src, len) = match token {
            0 => (OWN, literal, take(&mut literals)?),
            1 => {
                diagonal = diagonal.wrapping_add(unzigzag(take(&mut moves)?));
                (PARENT, dst.wrapping_add(diagonal as u64), take(&mut copies)?)
            }
            k => {
                let space = u32::try_from(k - 1).map_err(|_| SliceError("a space number is too large"))?;
                if space > frame.spaces {
                    return Err(SliceError("a space number is not in the table"));
                }
                // as long as the record's table of spaces at most
                let number = space as usize;
                if number >= cursors.len() {
                    cursors.resize(number + 1, 0);
                }
                let Some(cursor) = cursors.get_mut(number) else { continue };
                let src = cursor.wrapping_add(unzigzag(take(&mut moves)?) as u64);
                let len = take(&mut foreigns)?;
                *cursor = src.checked_add(len).ok_or(SliceError("a run is too long"))?;
                (space, src, len)
            }
        };
        let end = src.checked_add(len).ok_or(SliceError("a run is too long"))?;
        if len == 0 || len > dst_end - dst || (space == PARENT && end > frame.parent_bytes) {
            return Err(SliceError("a run leaves its stream"));
        }
        push(&mut runs, dst, space, src, len);
        dst += len;
        if space == OWN {
            literal = end;
        }
    }
    let used = moves.is_empty() && literals.is_empty() && copies.is_empty() && foreigns.is_empty();
    let lengths_fit = dst == dst_end && literal.checked_sub(frame.literal_start) == Some(frame.literal_bytes);
    if used && lengths_fit { Ok(runs) } else { Err(SliceError("the runs do not add up")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame_of(runs: &[Run], dst_start: u64, literal_start: u64, parent_bytes: u64) -> SliceFrame {
        let sum = |f: &dyn Fn(&&Run) -> bool| runs.iter().filter(f).map(|r| u64::from(r.len)).sum::<u64>();
        SliceFrame {
            dst_start,
            plain_bytes: sum(&|_| true),
            literal_start,
            literal_bytes: sum(&|r| r.space == OWN),
            parent_bytes,
            spaces: 3,
        }
    }

    fn script() -> impl Strategy<Value = (u64, u64, Vec<Run>)> {
        let op = (0u8..5, 0u64..1 << 40, 1u64..100_000);
        (0u64..1 << 40, 0u64..1 << 40, prop::collection::vec(op, 0..200)).prop_map(|(dst0, lit0, ops)| {
            let (mut runs, mut dst, mut lit) = (Vec::new(), dst0, lit0);
            for (kind, src, len) in ops {
                let (space, src) = match kind {
                    0 => (OWN, lit),
                    1 => (PARENT, src),
                    k => (u32::from(k) - 1, src),
                };
                if space == OWN {
                    lit += len;
                }
                push(&mut runs, dst, space, src, len);
                dst += len;
            }
            (dst0, lit0, runs)
        })
    }

    proptest! {
        #[test]
        fn round_trip((dst0, lit0, runs) in script()) {
            let frame = frame_of(&runs, dst0, lit0, 1 << 41);
            prop_assert_eq!(decode(&encode(&runs), &frame).unwrap(), runs);
        }

        #[test]
        fn damaged_bytes_never_panic((dst0, lit0, runs) in script(), at in any::<prop::sample::Index>(), mask in 1u8..) {
            let frame = frame_of(&runs, dst0, lit0, 1 << 41);
            let mut bytes = encode(&runs);
            let k = at.index(bytes.len());
            bytes[k] ^= mask;
            if let Ok(back) = decode(&bytes, &frame) {
                prop_assert_eq!(back.iter().map(|r| u64::from(r.len)).sum::<u64>(), frame.plain_bytes);
            }
        }
    }

    #[test]
    fn rejects_runs_that_leave_the_parent() {
        let mut runs = Vec::new();
        push(&mut runs, 0, PARENT, 90, 11);
        let frame = frame_of(&runs, 0, 0, 100);
        assert_eq!(decode(&encode(&runs), &frame), Err(SliceError("a run leaves its stream")));
    }
}
