//! What is left of a segment when a part of its bytes is not needed any more: the pieces that are, at their old
//! offsets. No I/O.
//!
//! Bytes (docs/format.md, "Sparse segments"): number of pieces, then for each piece the gap from the end of the one
//! before (from the start of the span for the first) and its length, all LEB128; then the bytes of the pieces, one
//! after the other.

use super::slice::put;

/// One piece of a sparse segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the literal space.
    pub start: u64,
    /// Length, at least 1.
    pub len: u32,
    /// Where its bytes begin in the decoded blob.
    pub at: u32,
}

impl Piece {
    /// First offset after the piece.
    pub fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }
}

/// A blob that is not a sparse segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Sparse segment is damaged: {0}")]
pub struct SparseError(pub &'static str);

fn take(bytes: &[u8], at: &mut usize) -> Result<u64, SparseError> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let &byte = bytes.get(*at).ok_or(SparseError("a number is cut off"))?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(SparseError("a number is too large"))
}

/// Encodes pieces, ascending and apart, of a span that begins at `start`. Each is (offset in the space, bytes).
pub fn encode(start: u64, pieces: &[(u64, &[u8])]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pieces.iter().map(|p| p.1.len() + 4).sum::<usize>() + 8);
    put(&mut out, pieces.len() as u64);
    let mut at = start;
    for (offset, bytes) in pieces {
        put(&mut out, offset.saturating_sub(at));
        put(&mut out, bytes.len() as u64);
        at = offset + bytes.len() as u64;
    }
    for (_, bytes) in pieces {
        out.extend_from_slice(bytes);
    }
    out
}

/// Bytes that [`encode`] needs to say where pieces belong: `parts` are their offsets in the space, ascending and apart.
pub fn list_bytes(start: u64, parts: &[(u64, u64)]) -> u64 {
    let number = |value: u64| u64::from((64 - (value | 1).leading_zeros()).div_ceil(7));
    let gaps = parts.iter().scan(start, |at, part| Some(part.0.saturating_sub(std::mem::replace(at, part.1))));
    let lengths = parts.iter().map(|part| part.1 - part.0);
    number(parts.len() as u64) + gaps.chain(lengths).map(number).sum::<u64>()
}

/// The pieces of a decoded blob, ascending and apart, all within `[start, start + span_bytes)`.
///
/// # Errors
/// [`SparseError`] for anything that [`encode`] could not have written for this span.
pub fn decode(start: u64, span_bytes: u32, raw: &[u8]) -> Result<Vec<Piece>, SparseError> {
    let mut at = 0;
    let count = take(raw, &mut at)?;
    if count == 0 || count > raw.len() as u64 {
        return Err(SparseError("its number of pieces is impossible"));
    }
    let end = start.checked_add(u64::from(span_bytes)).ok_or(SparseError("its span is too long"))?;
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut offset, mut sum) = (start, 0u32);
    for n in 0..count {
        let gap = take(raw, &mut at)?;
        let len = u32::try_from(take(raw, &mut at)?).map_err(|_| SparseError("a piece is too long"))?;
        let first = offset.checked_add(gap).ok_or(SparseError("a piece leaves the span"))?;
        offset = first.checked_add(u64::from(len)).ok_or(SparseError("a piece leaves the span"))?;
        if len == 0 || (n > 0 && gap == 0) || offset > end {
            return Err(SparseError("a piece is empty, touches another, or leaves the span"));
        }
        pieces.push(Piece { start: first, len, at: sum });
        sum = sum.checked_add(len).ok_or(SparseError("its pieces are too long"))?;
    }
    let header = u32::try_from(at).map_err(|_| SparseError("it is too long"))?;
    if (raw.len() - at) as u64 != u64::from(sum) {
        return Err(SparseError("its pieces do not add up"));
    }
    for piece in &mut pieces {
        piece.at += header;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(start in 0u64..1 << 40, parts in prop::collection::vec((1u64..500, 1usize..300), 1..60), first in 0u64..3) {
            let (mut at, mut bytes) = (start + first, Vec::new());
            for (n, (gap, len)) in parts.iter().enumerate() {
                bytes.push((at, vec![n as u8; *len]));
                at += *len as u64 + gap;
            }
            let pieces: Vec<(u64, &[u8])> = bytes.iter().map(|(o, b)| (*o, b.as_slice())).collect();
            let raw = encode(start, &pieces);
            let spans: Vec<(u64, u64)> = pieces.iter().map(|(at, b)| (*at, at + b.len() as u64)).collect();
            let held: usize = pieces.iter().map(|p| p.1.len()).sum();
            prop_assert_eq!(list_bytes(start, &spans), (raw.len() - held) as u64);
            let span = u32::try_from(at - start).unwrap();
            let back = decode(start, span, &raw).unwrap();
            let read: Vec<(u64, &[u8])> =
                back.iter().map(|p| (p.start, &raw[p.at as usize..p.at as usize + p.len as usize])).collect();
            prop_assert_eq!(read, pieces);
        }

        #[test]
        fn damaged_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..200), span in any::<u32>()) {
            if let Ok(pieces) = decode(7, span, &raw) {
                prop_assert!(pieces.iter().all(|p| p.at as usize + p.len as usize <= raw.len()));
                prop_assert!(pieces.windows(2).all(|w| w[0].end() < w[1].start));
            }
        }
    }

    #[test]
    fn refuses_what_it_would_not_write() {
        assert!(decode(0, 10, &[0]).is_err());
        assert!(decode(0, 10, &[1, 0, 0]).is_err());
        assert!(decode(0, 3, &[1, 0, 4, 1, 2, 3, 4]).is_err());
        assert!(decode(0, 9, &[2, 0, 1, 0, 1, 9, 9]).is_err());
        assert!(decode(0, 9, &[1, 0, 1, 9, 9]).is_err());
        assert!(decode(0, 9, &[1, 0, 1, 9]).is_ok());
    }
}
