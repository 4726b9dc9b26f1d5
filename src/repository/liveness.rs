//! What the visible snapshots still need: which records, and which bytes of which literal space. Reads records, decodes
//! no literal bytes.
//!
//! A version that a snapshot names is needed whole, and so are all literals that it brought. A version that none names
//! is needed for those of its literals that other records name. Its record is not needed once the records of the
//! versions above it are merged past it ([`Merge`]); marking composes them as they will be.
//!
//! A planned merge may also bring literals together ([`Gather`]): what its record alone names of spaces that no other
//! record needs whole is then needed at no old place, because the merge writes it into a space of its own.

use super::error::{RepoError, Result};
use super::head_facts::{Facts, HeadFacts};
use super::index::RepositoryIndex;
use super::named_parts::NamedParts;
use super::pack_reader::PackReader;
use super::record_merge::{self, Merge};
use super::stream_reader::{DEPTH_MAX, read_head};
use super::stream_writer::FULL_RECIPE_DEPTH;
use crate::domain::id::VersionId;
use crate::format::gathered::Gathered;
use crate::recipe::run::{Intervals, intersect, normalize, subtract};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Dead bytes between two live pieces that are kept with them: naming two pieces would cost as much.
pub const PIECE_GAP_BYTES: u64 = 4;
/// Runs of a flat recipe that a merge holds in memory, 32 bytes each.
const PLACES_MAX: u64 = 1 << 20;
/// Literal runs of this length stay where they are: they cost little in a record, and whole chunks lie in them, which
/// backups may look up.
const GATHERED_RUN_BYTES: u32 = 32 << 10;
/// Places that a record must name, one not going on where the one before ended, to be worth a space of its own.
const GATHERED_JUMPS_MIN: usize = 32;

/// Which records' literals are brought together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gather {
    /// None: everything stays at its address.
    #[default]
    Nothing,
    /// Those of records that are merged anyway, and of full recipes that can become edits: these would hold everything
    /// at its old address.
    Merged,
    /// Also those of records that would only become better by it.
    Everything,
}

/// What is needed of a literal space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Live {
    /// Everything.
    Whole,
    /// These parts, ascending and apart.
    Parts(Intervals),
}

/// What is needed.
#[derive(Debug, Default)]
pub struct Marking {
    /// Versions that snapshots name, with the generation of the record that serves.
    needed: HashMap<VersionId, u32>,
    /// Literal spaces that are needed whole, with their length: those of needed versions, and those gathered for their
    /// records.
    whole: HashMap<VersionId, u64>,
    /// Whose record a gathered space was made for.
    gathered_for: HashMap<VersionId, VersionId>,
    /// Other literal spaces, as far as they are needed.
    parts: HashMap<VersionId, Intervals>,
    /// What merges take over into spaces of their own.
    moved: HashMap<VersionId, Intervals>,
    /// Records to be written anew, parents before children.
    merges: Vec<Merge>,
    merged: HashSet<VersionId>,
}

impl Marking {
    /// Follows what `roots` need.
    ///
    /// # Errors
    /// Damage or absence of anything that is needed: then nothing may be deleted. Storage errors.
    pub fn of(
        index: &RepositoryIndex,
        packs: &PackReader,
        heads: &HeadFacts,
        roots: &HashSet<VersionId>,
    ) -> Result<Self> {
        Self::gathering((index, packs), heads, roots, Gather::Nothing)
    }

    /// The same, for choosing what to do: with literals to bring together. What these merges move is not needed at its
    /// old place, so this marking is true only once they are carried out.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn gathering(
        from: (&RepositoryIndex, &PackReader),
        heads: &HeadFacts,
        roots: &HashSet<VersionId>,
        gather: Gather,
    ) -> Result<Self> {
        let mut records = Records::new(from, heads, roots, gather);
        let mut marking = Self::default();
        let (mut merges, mut staying): (Vec<Merge>, Vec<Merge>) = (Vec::new(), Vec::new());
        let mut sorted: Vec<VersionId> = roots.iter().copied().collect();
        sorted.sort_unstable();
        for &version in &sorted {
            let own = records.facts(version)?;
            let (generation, literal_bytes, parent) = (own.generation, own.literal_bytes, own.parent);
            marking.needed.insert(version, generation);
            marking.whole.insert(version, literal_bytes);
            let (levels, base) = records.descend(version)?;
            // a full recipe goes: rather than another one, edits against a version that it was made from
            let older = match base {
                Base::Kept(_) => None,
                Base::FullRecipe(lowest) => records.older(lowest)?.map(|(id, _)| id),
            };
            let by_recipe = older.is_some();
            if levels > 1 || by_recipe {
                let below = match base {
                    Base::Kept(parent) => Some(parent),
                    Base::FullRecipe(_) => None,
                };
                merges.push(Merge { version, parent: older.or(below), levels, by_recipe });
            } else {
                staying.push(Merge { version, parent, levels: 1, by_recipe: false });
            }
        }
        let mut improved = HashSet::new();
        if gather == Gather::Everything {
            for record in &staying {
                let own = records.own_space(record.version)?;
                let is_known = |space: VersionId| roots.contains(&space) || own == Some(space);
                if records.names_more(record, is_known)? && records.jumps(record, is_known)? {
                    improved.insert(record.version);
                }
            }
        }
        merges.extend(staying.extract_if(.., |record| improved.contains(&record.version)));
        for record in &staying {
            if let Some(Gathered { space, bytes }) = records.facts(record.version)?.gathered {
                marking.whole.insert(space, bytes);
                marking.gathered_for.insert(space, record.version);
            }
        }
        let mut named: HashMap<VersionId, NamedParts> = HashMap::new();
        for record in &staying {
            if records.names_more(record, |space| marking.whole.contains_key(&space))? {
                marking.name_parts(&records, record, Gather::Nothing, &mut named)?;
            }
        }
        let merges = parents_first(merges);
        for merge in &merges {
            marking.name_parts(&records, merge, gather, &mut named)?;
        }
        for (space, named) in named {
            let (fixed, movable) = named.into_fixed_and_movable();
            marking.parts.insert(space, fixed);
            if !movable.is_empty() {
                marking.moved.insert(space, movable);
            }
        }
        let in_vain = marking.take_back_in_vain(&mut records, &merges, &improved)?;
        for parts in marking.parts.values_mut() {
            normalize(parts, PIECE_GAP_BYTES);
        }
        marking.merges = merges.into_iter().filter(|merge| !in_vain.contains(&merge.version)).collect();
        marking.merged = marking.merges.iter().map(|merge| merge.version).collect();
        Ok(marking)
    }

    /// Notes what a record names of spaces that are not needed whole.
    fn name_parts(
        &self,
        records: &Records<'_>,
        record: &Merge,
        gather: Gather,
        named: &mut HashMap<VersionId, NamedParts>,
    ) -> Result<()> {
        let mut jumps = Jumps::default();
        // few places are not worth a space of their own: whether they are few is known at the end
        let mut first: Vec<(VersionId, u64, u64)> = Vec::new();
        record_merge::compose(records.index, records.packs, record, |space, run| {
            let Some(space) = space.filter(|space| !self.whole.contains_key(space)) else { return Ok(()) };
            let (start, end) = (run.src, run.src_end());
            if gather == Gather::Nothing || run.len >= GATHERED_RUN_BYTES {
                named.entry(space).or_default().add_fixed(start, end);
                return Ok(());
            }
            jumps.count(space, start, end);
            if !jumps.are_many() {
                first.push((space, start, end));
                return Ok(());
            }
            for (space, start, end) in first.drain(..).chain([(space, start, end)]) {
                named.entry(space).or_default().add_movable(start, end);
            }
            Ok(())
        })?;
        for (space, start, end) in first {
            named.entry(space).or_default().add_fixed(start, end);
        }
        Ok(())
    }

    /// Records that were to be written anew only for their literals, and most of these must stay: leaves them as they are.
    fn take_back_in_vain(
        &mut self,
        records: &mut Records<'_>,
        merges: &[Merge],
        improved: &HashSet<VersionId>,
    ) -> Result<HashSet<VersionId>> {
        let mut in_vain = HashSet::new();
        for merge in merges.iter().filter(|merge| improved.contains(&merge.version)) {
            let (mut jumps, mut found): (Jumps, HashMap<VersionId, Intervals>) = Default::default();
            let own = records.own_space(merge.version)?;
            record_merge::compose(records.index, records.packs, merge, |space, run| {
                if let Some(space) = space.filter(|_| run.len < GATHERED_RUN_BYTES) {
                    for (start, end) in self.moved_in(space, run.src, run.src_end()) {
                        if own != Some(space) {
                            jumps.count(space, start, end);
                        }
                        found.entry(space).or_default().push((start, end));
                    }
                }
                Ok(())
            })?;
            if jumps.are_many() {
                continue;
            }
            in_vain.insert(merge.version);
            for (space, mut back) in found {
                normalize(&mut back, 0);
                if let Some(moved) = self.moved.get_mut(&space) {
                    *moved = subtract(moved, &back);
                }
                self.parts.entry(space).or_default().append(&mut back);
            }
        }
        for parts in self.parts.values_mut() {
            normalize(parts, 0);
        }
        Ok(in_vain)
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
        if self.whole.contains_key(&space) {
            return Live::Whole;
        }
        let parts = self.parts.get(&space).map_or(&[][..], Vec::as_slice);
        let first = parts.partition_point(|p| p.1 <= start);
        let inside = parts.get(first..).unwrap_or_default().iter().take_while(|p| p.0 < end);
        let cut: Intervals = inside.map(|p| (p.0.max(start), p.1.min(end))).collect();
        if cut == [(start, end)] { Live::Whole } else { Live::Parts(cut) }
    }

    /// What a merge takes over of `[start, end)` of a literal space: ascending and apart.
    pub fn moved_in(&self, space: VersionId, start: u64, end: u64) -> Intervals {
        self.moved.get(&space).map_or_else(Intervals::new, |moved| {
            let first = moved.partition_point(|p| p.1 <= start);
            intersect(&[(start, end)], moved.get(first..).unwrap_or_default())
        })
    }

    /// True when merges take something over of this literal space.
    pub fn moves_of(&self, space: VersionId) -> bool {
        self.moved.get(&space).is_some_and(|moved| !moved.is_empty())
    }

    /// The version that a literal space belongs to: its own, or the one whose record it was gathered for.
    pub fn owner_of(&self, space: VersionId) -> VersionId {
        self.gathered_for.get(&space).copied().unwrap_or(space)
    }

    /// Everything that is needed of a literal space.
    pub fn live_parts(&self, space: VersionId) -> Intervals {
        match self.whole.get(&space) {
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

/// Places that do not go on where the one before ended.
#[derive(Debug, Default)]
struct Jumps {
    count: usize,
    last: Option<(VersionId, u64)>,
}

impl Jumps {
    fn count(&mut self, space: VersionId, start: u64, end: u64) {
        self.count += usize::from(self.last != Some((space, start)));
        self.last = Some((space, end));
    }

    fn are_many(&self) -> bool {
        self.count >= GATHERED_JUMPS_MIN
    }
}

/// Where a chain of records that are not needed ends.
enum Base {
    /// At the record of a version that is needed.
    Kept(VersionId),
    /// At a full recipe.
    FullRecipe(VersionId),
}

/// A version to make edits against, and records that are kept below it.
type Older = Option<(VersionId, u32)>;

/// The heads of records and what follows from them.
struct Records<'r> {
    index: &'r RepositoryIndex,
    packs: &'r PackReader,
    heads: &'r HeadFacts,
    roots: &'r HashSet<VersionId>,
    gather: Gather,
    known: HashMap<VersionId, Rc<Facts>>,
    depths: HashMap<VersionId, u32>,
    /// For each full recipe; without a value while it is looked for.
    older: HashMap<VersionId, Option<Older>>,
}

impl<'r> Records<'r> {
    fn new(
        (index, packs): (&'r RepositoryIndex, &'r PackReader),
        heads: &'r HeadFacts,
        roots: &'r HashSet<VersionId>,
        gather: Gather,
    ) -> Self {
        let (known, depths, older) = Default::default();
        Self { index, packs, heads, roots, gather, known, depths, older }
    }

    fn facts(&mut self, version: VersionId) -> Result<&Facts> {
        Ok(match self.known.entry(version) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(self.heads.of(self.index, self.packs, version)?),
        })
    }

    /// How many records there are down to the next one that is needed, the version's own counted, and what is there.
    fn descend(&mut self, version: VersionId) -> Result<(usize, Base)> {
        let (mut levels, mut at) = (1, version);
        loop {
            let parent = self.facts(at)?.parent;
            match parent {
                None => return Ok((levels, Base::FullRecipe(at))),
                Some(parent) if self.roots.contains(&parent) => return Ok((levels, Base::Kept(parent))),
                Some(parent) => at = parent,
            }
            levels += 1;
            if levels > DEPTH_MAX {
                return Err(RepoError::damaged_version(version, "its chain of records does not end"));
            }
        }
    }

    /// The newest version that a full recipe was made from and that is needed, unless too many records lie below it. A
    /// full recipe that is needed itself has one only where literals are brought together: it would name them all at
    /// their old addresses.
    fn older(&mut self, base: VersionId) -> Result<Older> {
        if let Some(known) = self.older.get(&base) {
            return Ok(known.flatten());
        }
        self.older.insert(base, None);
        let spaces = self.facts(base)?.spaces.clone();
        let stays = self.roots.contains(&base)
            && (self.gather == Gather::Nothing || spaces.iter().all(|space| self.roots.contains(space)));
        let mut found: Older = None;
        for id in spaces.into_iter().filter(|id| !stays && *id != base && self.roots.contains(id)) {
            let flat_runs = self.facts(id)?.flat_runs;
            let depth = self.depth(id)?;
            if depth < FULL_RECIPE_DEPTH && flat_runs <= PLACES_MAX {
                found = match found {
                    Some((other, below)) if (below, other) > (depth, id) => found,
                    _ => Some((id, depth)),
                };
            }
        }
        self.older.insert(base, Some(found));
        Ok(found)
    }

    /// Records that will lie below that of a version once everything that is not needed is merged past. What goes round
    /// in circles counts as too deep.
    fn depth(&mut self, version: VersionId) -> Result<u32> {
        if let Some(&depth) = self.depths.get(&version) {
            return Ok(depth);
        }
        let (mut depth, mut at) = (0u32, version);
        let base = loop {
            match self.descend(at)?.1 {
                Base::Kept(parent) => (depth, at) = (depth + 1, parent),
                Base::FullRecipe(base) => break base,
            }
            if depth as usize > DEPTH_MAX {
                return Err(RepoError::damaged_version(version, "its chain of records does not end"));
            }
        };
        let is_circle = self.older.get(&base).is_some_and(Option::is_none);
        let below = if is_circle { Some(u32::MAX - 1) } else { self.older(base)?.map(|(_, depth)| depth) };
        let depth = below.map_or(depth, |below| depth.saturating_add(below + 1));
        self.depths.insert(version, depth);
        Ok(depth)
    }

    /// True when a record names other literal spaces than those that `is_known`.
    fn names_more(&mut self, record: &Merge, is_known: impl Fn(VersionId) -> bool) -> Result<bool> {
        Ok(self.facts(record.version)?.spaces.iter().any(|space| !is_known(*space)))
    }

    /// The space that was made for a version's record.
    fn own_space(&mut self, version: VersionId) -> Result<Option<VersionId>> {
        Ok(self.facts(version)?.gathered.map(|gathered| gathered.space))
    }

    /// True when a record names many short places here and there, beside what is known.
    fn jumps(&self, record: &Merge, is_known: impl Fn(VersionId) -> bool) -> Result<bool> {
        let mut jumps = Jumps::default();
        record_merge::compose(self.index, self.packs, record, |space, run| {
            if let Some(space) = space.filter(|space| run.len < GATHERED_RUN_BYTES && !is_known(*space)) {
                jumps.count(space, run.src, run.src_end());
            }
            Ok(())
        })?;
        Ok(jumps.are_many())
    }
}
