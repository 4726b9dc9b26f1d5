//! What the visible snapshots still need: which records, and which bytes of which literal space. Reads records, decodes
//! no literal bytes.
//!
//! A version that a snapshot names is needed whole, and so are all literals that it brought. A version that none names
//! is needed for those of its literals that other records name. Its record is not needed once the records of the
//! versions above it are merged past it ([`Merge`]); marking composes them as they will be.

use super::error::{RepoError, Result};
use super::index::RepositoryIndex;
use super::pack_reader::PackReader;
use super::record_merge::{self, Merge};
use super::stream_reader::{DEPTH_MAX, read_head};
use super::stream_writer::FULL_RECIPE_DEPTH;
use crate::domain::id::VersionId;
use crate::recipe::run::{Intervals, normalize};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

/// Dead bytes between two live pieces that are kept with them: naming two pieces would cost as much.
pub const PIECE_GAP_BYTES: u64 = 4;
/// Runs of a flat recipe that a merge holds in memory, 32 bytes each.
const PLACES_MAX: u64 = 1 << 20;
/// Intervals gathered for a space before they are joined.
const PENDING_MAX: usize = 1 << 14;

/// What is needed of a literal space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Live {
    /// Everything.
    Whole,
    /// These parts, ascending and apart.
    Parts(Intervals),
}

/// The parts of a head that marking needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    generation: u32,
    depth: u32,
    flat_runs: u64,
    parent: Option<VersionId>,
    spaces: Vec<VersionId>,
    literal_bytes: u64,
}

/// What is needed.
#[derive(Debug, Default)]
pub struct Marking {
    /// Versions that snapshots name, with the generation of the record that serves.
    needed: HashMap<VersionId, u32>,
    literal_bytes: HashMap<VersionId, u64>,
    /// Literal spaces of other versions, as far as they are needed.
    parts: HashMap<VersionId, Intervals>,
    /// Records to be written anew, parents before children.
    merges: Vec<Merge>,
    merged: HashSet<VersionId>,
}

impl Marking {
    /// Follows what `roots` need.
    ///
    /// # Errors
    /// Damage or absence of anything that is needed: then nothing may be deleted. Storage errors.
    pub fn of(index: &RepositoryIndex, packs: &PackReader, roots: &HashSet<VersionId>) -> Result<Self> {
        let mut known: HashMap<VersionId, Facts> = HashMap::new();
        let mut marking = Self::default();
        let mut merges: Vec<Merge> = Vec::new();
        let mut sorted: Vec<VersionId> = roots.iter().copied().collect();
        sorted.sort_unstable();
        for &version in &sorted {
            let own = facts(index, packs, &mut known, version)?.clone();
            marking.needed.insert(version, own.generation);
            marking.literal_bytes.insert(version, own.literal_bytes);
            let (mut levels, mut below) = (1, own.parent);
            let mut lowest = Vec::new();
            while let Some(id) = below.filter(|id| !roots.contains(id)) {
                if levels >= DEPTH_MAX {
                    return Err(RepoError::damaged_version(version, "its chain of records does not end"));
                }
                let passed = facts(index, packs, &mut known, id)?;
                below = passed.parent;
                levels += 1;
                if below.is_none() {
                    lowest.clone_from(&passed.spaces);
                }
            }
            if levels > 1 {
                // a full recipe goes: rather than another one, edits against a version that it was made from
                let mut older = None;
                for id in lowest.into_iter().filter(|id| roots.contains(id)) {
                    let found = facts(index, packs, &mut known, id)?;
                    let fits = found.depth < FULL_RECIPE_DEPTH && found.flat_runs <= PLACES_MAX;
                    older = older.max(fits.then_some((found.depth, id)));
                }
                let by_recipe = older.is_some();
                let parent = older.map(|(_, id)| id).or(below);
                merges.push(Merge { version, parent, levels, by_recipe });
            } else if own.spaces.iter().any(|space| !roots.contains(space)) {
                let record = Merge { version, parent: own.parent, levels: 1, by_recipe: false };
                marking.mark_literals(index, packs, &record, roots)?;
            }
        }
        for merge in parents_first(merges) {
            marking.mark_literals(index, packs, &merge, roots)?;
            marking.merged.insert(merge.version);
            marking.merges.push(merge);
        }
        for parts in marking.parts.values_mut() {
            normalize(parts, PIECE_GAP_BYTES);
        }
        Ok(marking)
    }

    fn mark_literals(
        &mut self,
        index: &RepositoryIndex,
        packs: &PackReader,
        record: &Merge,
        roots: &HashSet<VersionId>,
    ) -> Result<()> {
        record_merge::compose(index, packs, record, |space, run| {
            if let Some(space) = space.filter(|space| !roots.contains(space)) {
                let parts = self.parts.entry(space).or_default();
                match parts.last_mut() {
                    Some(last) if last.1 == run.src => last.1 = run.src_end(),
                    _ => parts.push((run.src, run.src_end())),
                }
                if parts.len() >= PENDING_MAX && parts.len().is_power_of_two() {
                    normalize(parts, PIECE_GAP_BYTES);
                }
            }
            Ok(())
        })
    }

    /// The records to be written anew, parents before children.
    pub fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// The versions that a merge makes unnecessary as records, which it must not as long as it is not carried out.
    ///
    /// # Errors
    /// Damage, storage errors.
    pub fn passed_over(index: &RepositoryIndex, packs: &PackReader, merge: &Merge) -> Result<Vec<VersionId>> {
        let mut passed = Vec::new();
        let mut below = read_head(index, packs, merge.version)?.0.parent;
        for _ in 1..merge.levels {
            let Some(id) = below else { break };
            passed.push(id);
            below = read_head(index, packs, id)?.0.parent;
        }
        Ok(passed)
    }

    /// True when a record of this generation is needed as it is.
    pub fn needs_record(&self, version: VersionId, generation: u32) -> bool {
        self.needed.get(&version) == Some(&generation) && !self.merged.contains(&version)
    }

    /// The generation of the record that serves a needed version today.
    pub fn generation(&self, version: VersionId) -> Option<u32> {
        self.needed.get(&version).copied()
    }

    /// What is needed of `[start, end)` of a literal space; [`Live::Parts`] are cut to it and may be empty.
    pub fn live_in(&self, space: VersionId, start: u64, end: u64) -> Live {
        if self.needed.contains_key(&space) {
            return Live::Whole;
        }
        let parts = self.parts.get(&space).map_or(&[][..], Vec::as_slice);
        let first = parts.partition_point(|p| p.1 <= start);
        let inside = parts.get(first..).unwrap_or_default().iter().take_while(|p| p.0 < end);
        let cut: Intervals = inside.map(|p| (p.0.max(start), p.1.min(end))).collect();
        if cut == [(start, end)] { Live::Whole } else { Live::Parts(cut) }
    }

    /// Everything that is needed of a literal space.
    pub fn live_parts(&self, space: VersionId) -> Intervals {
        match self.literal_bytes.get(&space) {
            Some(0) => Intervals::new(),
            Some(&bytes) => vec![(0, bytes)],
            None => self.parts.get(&space).cloned().unwrap_or_default(),
        }
    }
}

/// Merges in an order in which no one comes before that of its parent.
fn parents_first(merges: Vec<Merge>) -> Vec<Merge> {
    let mut waiting: HashMap<VersionId, Merge> = merges.iter().map(|m| (m.version, m.clone())).collect();
    let mut ordered = Vec::with_capacity(merges.len());
    for merge in merges {
        let mut chain = Vec::new();
        let mut next = waiting.remove(&merge.version);
        while let Some(merge) = next {
            next = merge.parent.and_then(|parent| waiting.remove(&parent));
            chain.push(merge);
        }
        ordered.extend(chain.into_iter().rev());
    }
    ordered
}

fn facts<'k>(
    index: &RepositoryIndex,
    packs: &PackReader,
    known: &'k mut HashMap<VersionId, Facts>,
    version: VersionId,
) -> Result<&'k Facts> {
    match known.entry(version) {
        Entry::Occupied(found) => Ok(found.into_mut()),
        Entry::Vacant(unknown) => {
            let (head, _) = read_head(index, packs, version)?;
            Ok(unknown.insert(Facts {
                generation: head.generation,
                depth: head.depth,
                flat_runs: head.flat_runs,
                parent: head.parent,
                spaces: head.spaces.into_iter().filter(|s| *s != version).collect(),
                literal_bytes: head.literal_bytes,
            }))
        }
    }
}
