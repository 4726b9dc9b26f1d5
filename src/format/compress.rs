//! Compression of segments and records: one method byte, then the bytes, either raw or as one zstd frame.
//!
//! Invariants: what is compressed never grows by more than the method byte; decompression writes into a buffer of
//! exactly the length the caller states, so that no frame, however hostile, takes more memory than that; the caller
//! has authenticated the bytes before they come here.

use super::{Error, Result};
use std::cell::RefCell;
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

/// The longest input of one compressed unit, plain bytes.
pub const RAW_BYTES_MAX: usize = 64 << 20;

/// The method byte of bytes that were stored as they are.
const METHOD_RAW: u8 = 0;
/// The method byte of one zstd frame.
const METHOD_ZSTD: u8 = 1;

/// A compressor that has grown beyond this is given back: every thread has one, and higher levels over MiBs take five
/// to ten times as much as others, which machines with many cores would keep for ever.
const CONTEXT_BYTES_KEPT: usize = 4 << 20;

thread_local! {
    // Contexts are the expensive part of small frames; each thread keeps one of each.
    static COMPRESSOR: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// Compresses `bytes` into `out` (cleared first): the method byte and a zstd frame of the given level, or the bytes
/// themselves where a frame would not be shorter.
///
/// # Panics
/// If `bytes` is longer than [`RAW_BYTES_MAX`]: callers cut their input long before.
pub fn compress(level: i32, bytes: &[u8], out: &mut Vec<u8>) {
    assert!(bytes.len() <= RAW_BYTES_MAX, "one compressed unit holds at most {RAW_BYTES_MAX} bytes");
    out.clear();
    if zstd_into(level, bytes, out) && out.len() <= bytes.len() {
        return;
    }
    out.clear();
    out.reserve_exact(bytes.len() + 1);
    out.push(METHOD_RAW);
    out.extend_from_slice(bytes);
}

/// Appends the method byte and a frame. False: the library refused, and what stands in `out` means nothing.
fn zstd_into(level: i32, bytes: &[u8], out: &mut Vec<u8>) -> bool {
    out.reserve(1 + zstd_safe::compress_bound(bytes.len()));
    out.push(METHOD_ZSTD);
    COMPRESSOR.with_borrow_mut(|context| {
        let ready = context.reset(zstd_safe::ResetDirective::SessionAndParameters).is_ok()
            && context.set_parameter(CParameter::CompressionLevel(level)).is_ok()
            && context.set_parameter(CParameter::ContentSizeFlag(true)).is_ok()
            && context.set_parameter(CParameter::ChecksumFlag(false)).is_ok();
        let mut target = zstd_safe::OutBuffer::around_pos(out, 1);
        let end = zstd_safe::zstd_sys::ZSTD_EndDirective::ZSTD_e_end;
        // One call with the end directive and room for the bound is a single-pass compression with a known length.
        let done = ready
            && context.set_pledged_src_size(Some(bytes.len() as u64)).is_ok()
            && context.compress_stream2(&mut target, &mut zstd_safe::InBuffer::around(bytes), end) == Ok(0);
        if context.sizeof() > CONTEXT_BYTES_KEPT {
            *context = CCtx::create();
        }
        done
    })
}

/// Undoes [`compress`] into `out` (cleared first). The result has exactly `raw_len` bytes.
///
/// # Errors
/// [`Error::Damaged`] when the bytes are anything but one raw unit or one zstd frame of exactly that length.
pub fn decompress_exact(bytes: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<()> {
    let damaged = |reason: &str| Error::damaged("Compressed unit", 0, reason);
    out.clear();
    if raw_len > RAW_BYTES_MAX {
        return Err(damaged("its stated length is beyond the bound"));
    }
    let (method, rest) = bytes.split_first().ok_or_else(|| damaged("no bytes"))?;
    match *method {
        METHOD_RAW if rest.len() == raw_len => {
            out.extend_from_slice(rest);
            Ok(())
        }
        METHOD_RAW => Err(damaged("its length is not the stated one")),
        METHOD_ZSTD => decompress_frame(rest, raw_len, out),
        _ => Err(damaged("unknown compression method")),
    }
}

fn decompress_frame(frame: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<()> {
    let damaged = |reason: &str| Error::damaged("Compressed unit", 1, reason);
    // The frame itself must state the same length and end where the input ends; then nothing is decoded for nothing.
    if !matches!(zstd_safe::get_frame_content_size(frame), Ok(Some(length)) if length == raw_len as u64) {
        return Err(damaged("the frame states another length"));
    }
    if zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err(damaged("not one whole frame"));
    }
    out.reserve_exact(raw_len);
    // A single call decodes straight into the buffer: no window is allocated, whatever window the frame asks for, and
    // nothing is written past the buffer's capacity.
    let result = DECOMPRESSOR.with_borrow_mut(|context| context.decompress(out, frame));
    match result {
        Ok(length) if length == raw_len && out.len() == raw_len => Ok(()),
        Ok(_) => Err(damaged("its length is not the stated one")),
        Err(_) => Err(damaged("the frame does not decompress")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(level: i32, bytes: &[u8]) -> usize {
        let (mut packed, mut plain) = (vec![9; 3], vec![9; 3]);
        compress(level, bytes, &mut packed);
        decompress_exact(&packed, bytes.len(), &mut plain).unwrap();
        assert_eq!(plain, bytes);
        assert!(packed.len() <= bytes.len() + 1);
        packed.len()
    }

    #[test]
    fn text_shrinks_and_noise_is_stored_raw() {
        assert!(round_trip(3, &b"INSERT INTO orders VALUES (1);\n".repeat(1000)) < 400);
        let mut noise = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(round_trip(3, &noise), noise.len() + 1);
        for level in [-5, 1, 9, 19] {
            round_trip(level, b"");
            round_trip(level, b"x");
        }
    }

    #[test]
    fn a_compressor_that_grew_is_given_back() {
        let text: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        round_trip(12, &text);
        assert!(COMPRESSOR.with_borrow(CCtx::sizeof) <= CONTEXT_BYTES_KEPT);
    }

    #[test]
    fn a_wrong_stated_length_is_refused() {
        for bytes in [b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".as_slice(), b"ab"] {
            let (mut packed, mut out) = (Vec::new(), Vec::new());
            compress(3, bytes, &mut packed);
            for wrong in [0, bytes.len() - 1, bytes.len() + 1, RAW_BYTES_MAX + 1, usize::MAX] {
                assert!(decompress_exact(&packed, wrong, &mut out).is_err(), "{wrong}");
            }
        }
    }

    #[test]
    fn two_frames_and_frames_without_length_are_refused() {
        let half = zstd::bulk::compress(&[7; 500], 3).unwrap();
        let mut two = vec![METHOD_ZSTD];
        two.extend_from_slice(&half);
        two.extend_from_slice(&half);
        let mut out = Vec::new();
        assert!(decompress_exact(&two, 1000, &mut out).is_err());
        assert!(decompress_exact(&two, 500, &mut out).is_err());
        let mut unsized_frame = vec![METHOD_ZSTD];
        unsized_frame.extend(zstd::stream::encode_all([7u8; 500].as_slice(), 3).unwrap());
        assert!(decompress_exact(&unsized_frame, 500, &mut out).is_err());
        assert!(decompress_exact(&[], 0, &mut out).is_err());
        assert!(decompress_exact(&[2, 0], 1, &mut out).is_err());
    }

    #[test]
    fn a_bomb_takes_no_memory() {
        let mut packed = Vec::new();
        compress(19, &vec![0; 32 << 20], &mut packed);
        assert!(packed.len() < 10_000);
        let mut out = Vec::new();
        assert!(decompress_exact(&packed, 1000, &mut out).is_err());
        assert!(out.capacity() <= 1000);
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip(bytes in proptest::collection::vec(0u8..4, 0..5000), level in -3i32..12) {
            round_trip(level, &bytes);
        }

        #[test]
        fn mutated_frames_never_panic(seed in proptest::collection::vec(0u8..4, 1..2000), at: usize, xor in 1u8..) {
            let (mut packed, mut out) = (Vec::new(), Vec::new());
            compress(3, &seed, &mut packed);
            let at = at % packed.len();
            packed[at] ^= xor;
            if decompress_exact(&packed, seed.len(), &mut out).is_ok() {
                prop_assert_eq!(out.len(), seed.len());
            }
        }
    }
}
