//! The Reed-Solomon code of parity, over 65,536 elements, with the rows at its first places (docs/format.md says which
//! code exactly). Works through windows of the shards, so that its memory does not grow with the pack.

use crate::format::{Error, Result};
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

/// Bytes of all shards together that are worked on at once.
const WORK_BYTES: usize = 4 << 20;
/// Bytes of a shard that belong together in the code.
const GRAIN: usize = 64;

/// Bytes of each shard in a window.
fn window(places: usize, shard_bytes: usize) -> usize {
    (WORK_BYTES / places.max(1) / GRAIN * GRAIN).clamp(GRAIN, shard_bytes.max(GRAIN))
}

fn refused(error: reed_solomon_simd::Error) -> Error {
    Error::damaged("Parity", 0, format!("the code refuses it: {error}"))
}

/// The rows of some shards, which all have `shard_bytes`, a multiple of 64.
///
/// # Errors
/// Numbers and lengths that the code does not have.
pub(super) fn rows_of(originals: &[&[u8]], rows: usize, shard_bytes: usize) -> Result<Vec<Vec<u8>>> {
    let window = window(originals.len(), shard_bytes);
    let mut made = vec![Vec::with_capacity(shard_bytes); rows];
    let mut encoder =
        HighRateEncoder::new(originals.len(), rows, GRAIN, DefaultEngine::new(), None).map_err(refused)?;
    for at in (0..shard_bytes).step_by(window) {
        let width = window.min(shard_bytes - at);
        encoder.reset(originals.len(), rows, width).map_err(refused)?;
        for shard in originals {
            encoder.add_original_shard(shard.get(at..at + width).unwrap_or_default()).map_err(refused)?;
        }
        let encoded = encoder.encode().map_err(refused)?;
        made.iter_mut().zip(encoded.recovery_iter()).for_each(|(row, bytes)| row.extend_from_slice(bytes));
    }
    Ok(made)
}

/// The missing shards, in order, from the others and the rows that there are; `None` when there are too few.
pub(super) fn originals_of(
    originals: &[Option<&[u8]>],
    rows: &[Option<&[u8]>],
    shard_bytes: usize,
) -> Option<Vec<Vec<u8>>> {
    let missing: Vec<usize> = originals.iter().enumerate().filter(|(_, s)| s.is_none()).map(|(n, _)| n).collect();
    let mut made = vec![Vec::with_capacity(shard_bytes); missing.len()];
    if missing.is_empty() {
        return Some(made);
    }
    let helpers: Vec<(usize, &[u8])> =
        rows.iter().enumerate().filter_map(|(n, row)| Some((n, (*row)?))).take(missing.len()).collect();
    if helpers.len() < missing.len() {
        return None;
    }
    let places = originals.len() + rows.len().next_power_of_two();
    let window = window(places.next_power_of_two(), shard_bytes);
    let mut decoder = HighRateDecoder::new(originals.len(), rows.len(), GRAIN, DefaultEngine::new(), None).ok()?;
    for at in (0..shard_bytes).step_by(window) {
        let width = window.min(shard_bytes - at);
        decoder.reset(originals.len(), rows.len(), width).ok()?;
        for (number, shard) in originals.iter().enumerate() {
            if let Some(shard) = shard {
                decoder.add_original_shard(number, shard.get(at..at + width)?).ok()?;
            }
        }
        for (number, row) in &helpers {
            decoder.add_recovery_shard(*number, row.get(at..at + width)?).ok()?;
        }
        let decoded = decoder.decode().ok()?;
        for (number, shard) in missing.iter().zip(&mut made) {
            shard.extend_from_slice(decoded.restored_original(*number)?);
        }
    }
    Some(made)
}
