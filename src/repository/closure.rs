//! What a version needs: is all of it there? Looks at records and at which literal bytes exist, decodes no stream.

use super::error::{RepoError, Result};
use super::index::{PackNumber, RepositoryIndex};
use super::liveness::Marking;
use super::pack_reader::PackReader;
use super::stream_reader::StreamReader;
use crate::domain::id::VersionId;
use crate::format::records::BlobMeta;
use crate::recipe::run::{Intervals, normalize};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Stream bytes composed at a time.
const WINDOW_BYTES: u64 = 16 << 20;

/// Which bytes of literal spaces the packs of an index hold. Filled as it is asked.
#[derive(Debug, Default)]
pub struct Coverage {
    spaces: HashMap<(VersionId, Option<u8>), Intervals>,
}

impl Coverage {
    /// The parts of a space that exist: in packs of one copy number, or in any.
    ///
    /// # Errors
    /// Tables or sparse segments that cannot be read.
    pub fn of(
        &mut self,
        index: &RepositoryIndex,
        packs: &PackReader,
        space: VersionId,
        copy: Option<u8>,
    ) -> Result<&Intervals> {
        Ok(match self.spaces.entry((space, copy)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(parts_of(index, packs, space, copy)?),
        })
    }
}

fn parts_of(index: &RepositoryIndex, packs: &PackReader, space: VersionId, copy: Option<u8>) -> Result<Intervals> {
    let mut parts = Intervals::new();
    for part in index.space_parts(space) {
        if copy.is_some_and(|copy| index.pack(part.pack).is_none_or(|info| info.copy != copy)) {
            continue;
        }
        let table = packs.table(index, part.pack)?;
        for (ordinal, start, end) in table.segments_of(space) {
            match table.blob(ordinal).map(|b| b.0.meta) {
                Some(BlobMeta::Sparse { .. }) => {
                    let segment = packs.literal_blob(index, part.pack, &table, ordinal)?;
                    parts.extend(segment.pieces().iter().map(|(at, b)| (*at, at + b.len() as u64)));
                }
                _ => parts.push((start, end)),
            }
        }
    }
    normalize(&mut parts, 0);
    Ok(parts)
}

/// The first part of `[start, end)` that intervals (sorted, apart) leave out.
pub fn first_hole(covered: &[(u64, u64)], start: u64, end: u64) -> Option<(u64, u64)> {
    let mut at = start;
    let first = covered.partition_point(|c| c.1 <= start);
    for &(from, to) in covered.get(first..).unwrap_or_default() {
        if from > at || at >= end {
            break;
        }
        at = at.max(to);
    }
    let next = covered.get(first..).unwrap_or_default().iter().find(|c| c.0 > at).map_or(end, |c| c.0.min(end));
    (at < end).then_some((at, next))
}

/// The first part of what is live that was held before and is not kept: what was never held cannot be lost. All three
/// are ascending and apart.
pub fn first_loss(live: &[(u64, u64)], held: &[(u64, u64)], kept: &[(u64, u64)]) -> Option<(u64, u64)> {
    live.iter().find_map(|&(start, end)| {
        let first = held.partition_point(|p| p.1 <= start);
        let inside = held.get(first..).unwrap_or_default().iter().take_while(|p| p.0 < end);
        inside.into_iter().find_map(|p| first_hole(kept, p.0.max(start), p.1.min(end)))
    })
}

/// Literal bytes that would be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostLiterals {
    /// The literal space.
    pub space: VersionId,
    /// First offset and first offset after them.
    pub bytes: (u64, u64),
    /// The copy that would lack them.
    pub copy: u8,
}

/// The first literal bytes that are live, that packs of `gone` hold, and that nothing of `after` has in the same copy
/// number. Second copies count apart: one that is left alone serves, until it is damaged.
///
/// # Errors
/// Tables or sparse segments that cannot be read.
pub fn lost_literals(
    before: (&RepositoryIndex, &PackReader),
    after: (&RepositoryIndex, &PackReader),
    marking: &Marking,
    gone: &HashSet<PackNumber>,
) -> Result<Option<LostLiterals>> {
    let mut coverage = Coverage::default();
    for (space, parts) in before.0.spaces() {
        let going = parts.iter().filter(|part| gone.contains(&part.pack));
        let copies: BTreeSet<u8> = going.filter_map(|p| before.0.pack(p.pack).map(|i| i.copy)).collect();
        for copy in copies {
            let mut held = Coverage::default();
            let held = held.of(before.0, before.1, space, Some(copy))?;
            let kept = coverage.of(after.0, after.1, space, Some(copy))?;
            if let Some(bytes) = first_loss(&marking.live_parts(space), held, kept) {
                return Ok(Some(LostLiterals { space, bytes, copy }));
            }
        }
    }
    Ok(None)
}

/// True when every byte of a version can be found through this index.
///
/// # Errors
/// Storage errors; damage counts as incomplete.
pub fn is_complete(index: &RepositoryIndex, packs: &PackReader, version: VersionId) -> Result<bool> {
    match check(index, packs, &mut Coverage::default(), version) {
        Ok(()) => Ok(true),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Follows every run of a version down to literal bytes that exist.
///
/// # Errors
/// [`RepoError::Missing`] with the first thing that is not there; damage; storage errors.
pub fn check(index: &RepositoryIndex, packs: &PackReader, coverage: &mut Coverage, version: VersionId) -> Result<()> {
    let mut reader = StreamReader::open(index, packs, version)?;
    let total = reader.plain_bytes();
    let mut at = 0;
    while at < total {
        let to = (at + WINDOW_BYTES).min(total);
        for run in reader.flat(index, packs, at, to)? {
            let space = reader.space(run.space).unwrap_or_default();
            let covered = coverage.of(index, packs, space, None)?;
            if let Some((start, end)) = first_hole(covered, run.src, run.src_end()) {
                return Err(RepoError::Missing { what: format!("bytes {start} to {end} of literal space {space}") });
            }
        }
        at = to;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_hole() {
        let covered = [(10, 20), (20, 30), (40, 50)];
        assert_eq!(first_hole(&covered, 12, 28), None);
        assert_eq!(first_hole(&covered, 10, 30), None);
        assert_eq!(first_hole(&covered, 5, 12), Some((5, 10)));
        assert_eq!(first_hole(&covered, 25, 45), Some((30, 40)));
        assert_eq!(first_hole(&covered, 45, 60), Some((50, 60)));
        assert_eq!(first_hole(&covered, 60, 61), Some((60, 61)));
        assert_eq!(first_hole(&[], 0, 1), Some((0, 1)));
        assert_eq!(first_hole(&covered, 15, 15), None);
    }
}
