//! Parts of records, and of trees' literals, that one copy number alone holds: a prune had condemned the other before an
//! `undelete` came, or a repair found nothing to make it from at the time. The other copy makes it again.
//!
//! What a damaged pack names is not missing here: [`super::salvage`] heals it.

use super::RepairError;
use super::salvage::Salvage;
use crate::domain::id::VersionId;
use crate::domain::snapshot::StreamRole;
use crate::format::gathered::Gathered;
use crate::format::records::VersionHead;
use crate::repository::closure::{Coverage, first_hole};
use crate::repository::error::RepoError;
use crate::repository::index::PackNumber;
use crate::repository::reading::Reading;
use crate::repository::snapshots::LoadedSnapshot;
use crate::repository::stream_reader::StreamReader;
use std::collections::HashSet;

/// A part that a copy number lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The head (None) or a slice of the record of this generation.
    Record(u32, Option<u32>),
    /// Literal bytes: first offset and the one after the last.
    Literals(u64, u64),
}

/// What a copy number lacks of a version or literal space.
pub(super) type Lacking = (u8, VersionId, Part);

/// Looks at every version that the snapshots need, without those packs that a prune is about to delete. What cannot be read
/// in either copy is left out.
///
/// # Errors
/// Storage errors.
pub(super) fn find(
    reading: &Reading,
    condemned: &HashSet<PackNumber>,
    snapshots: &[LoadedSnapshot],
) -> Result<Vec<Lacking>, RepairError> {
    let index = reading.index.without(condemned);
    let mut looker = Looker { reading, index: &index, coverage: Coverage::default(), found: Vec::new() };
    let mut seen: HashSet<VersionId> = HashSet::new();
    let streams = || snapshots.iter().flat_map(|s| s.snapshot.sources.iter().flat_map(|source| &source.streams));
    let trees: HashSet<VersionId> = streams().filter(|s| s.role == StreamRole::Tree).map(|s| s.version).collect();
    for stream in streams() {
        if seen.contains(&stream.version) {
            continue;
        }
        let Some(reader) = readable(StreamReader::open(&reading.index, &reading.packs, stream.version))? else {
            continue;
        };
        for head in reader.heads().filter(|head| seen.insert(head.version)) {
            looker.record(head)?;
            if trees.contains(&head.version) {
                looker.literals(head)?;
            }
        }
    }
    Ok(looker.found)
}

fn readable<T>(result: Result<T, RepoError>) -> Result<Option<T>, RepairError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.concerns_one_object() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

struct Looker<'l> {
    reading: &'l Reading,
    index: &'l crate::repository::index::RepositoryIndex,
    coverage: Coverage,
    found: Vec<Lacking>,
}

impl Looker<'_> {
    fn record(&mut self, head: &VersionHead) -> Result<(), RepairError> {
        let slices = u32::try_from(head.slices.len()).unwrap_or(u32::MAX);
        let (version, generation) = (head.version, head.generation);
        for copy in [0u8, 1] {
            let mut tables = Vec::new();
            for place in self.index.all_record_places(version).iter().filter(|p| p.generation == generation) {
                if self.index.pack(place.pack).is_some_and(|info| (info.copy != 0) == (copy != 0)) {
                    tables.extend(readable(self.reading.packs.table(self.index, place.pack))?);
                }
            }
            for part in std::iter::once(None).chain((0..slices).map(Some)) {
                if !tables.iter().any(|table| table.record(version, generation, part).is_some()) {
                    self.found.push((copy, version, Part::Record(generation, part)));
                }
            }
        }
        Ok(())
    }

    fn literals(&mut self, head: &VersionHead) -> Result<(), RepairError> {
        let own = Some((head.version, head.literal_bytes));
        let gathered = Gathered::of(&head.extensions).map(|gathered| (gathered.space, gathered.bytes));
        for (space, bytes) in own.into_iter().chain(gathered) {
            for copy in [0u8, 1] {
                let Some(held) = readable(self.coverage.of(self.index, &self.reading.packs, space, Some(copy)))? else {
                    continue;
                };
                let mut at = 0;
                while let Some((start, end)) = first_hole(held, at, bytes) {
                    self.found.push((copy, space, Part::Literals(start, end)));
                    at = end;
                }
            }
        }
        Ok(())
    }
}

/// Makes these parts again as far as the other copy can be read; says how many.
///
/// # Errors
/// As [`Salvage::pack`].
pub(super) fn make(salvage: &mut Salvage<'_>, lacking: &[Lacking]) -> Result<u64, RepairError> {
    let mut made = 0;
    for &(copy, owner, part) in lacking {
        let is_there = match part {
            Part::Record(generation, part) => salvage.record_again(copy, owner, generation, part)?,
            Part::Literals(start, end) => salvage.heal_literals(copy, owner, (start, end), &[])?,
        };
        if is_there {
            salvage.healed.insert(owner);
            made += 1;
        }
    }
    Ok(made)
}
