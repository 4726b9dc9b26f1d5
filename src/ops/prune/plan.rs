//! Which packs go, which are rewritten: pure data from what is needed and what is there.

use crate::domain::id::{PackId, VersionId};
use crate::format::records::BlobMeta;
use crate::format::sparse;
use crate::recipe::run::{Intervals, normalize};
use crate::repository::error::Result;
use crate::repository::index::{PackNumber, RepositoryIndex};
use crate::repository::liveness::{Live, Marking};
use crate::repository::pack_reader::{LoadedTable, PackReader};
use crate::repository::record_merge::Merge;
use crate::repository::rewrite::Repeated;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Dead bytes that a normal prune leaves: this many thousandths of what is stored.
const DEAD_PERMILLE_LEFT: u64 = 40;
/// Packs below this length count as small; many small ones are merged.
const SMALL_PACK_BYTES: u64 = 512 << 10;
/// Small packs that are left alone.
const SMALL_PACKS_LEFT: usize = 24;
/// A pack is rewritten when merges write anew more than one part in so many of it.
const MOVED_SHARE_MIN: u64 = 20;
/// Dead bytes of a pack below which even a full prune leaves it: padding and rounding look like this.
const DEAD_BYTES_MIN: u64 = 64;

/// A pack that holds something dead, or is small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackState {
    /// The pack.
    pub id: PackId,
    /// Its number in the index.
    pub number: PackNumber,
    /// Copy number.
    pub copy: u8,
    /// Length of the object.
    pub stored_bytes: u64,
    /// Stored bytes of blobs, or of their share, that nothing needs once the merges are carried out; an estimate for
    /// segments.
    pub dead_bytes: u64,
    /// Those of them that merges write anew elsewhere.
    pub moved_bytes: u64,
    /// Nothing in it is needed.
    pub is_dead: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Assessment {
    /// Packs with dead bytes, and small ones.
    pub packs: Vec<PackState>,
    /// Blobs that another pack holds as well.
    pub repeated: Repeated,
    /// Stored bytes of all packs.
    pub stored_bytes: u64,
    /// Dead bytes of all packs.
    pub dead_bytes: u64,
    /// Stored bytes that merges take over into literal spaces of their own, an estimate.
    pub moved_bytes: u64,
}

/// How far to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Rewrite every pack with dead bytes.
    pub full: bool,
    /// Most stored bytes of packs to rewrite.
    pub repack_bytes: Option<u64>,
    /// The disk is full: at most so many bytes may be written before something is deleted.
    pub step_bytes: Option<u64>,
}

/// What one step of a prune does. It can be printed and refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Records to write anew.
    pub merges: Vec<Merge>,
    /// Packs of which what is needed is copied before they go.
    pub rewrite: Vec<PackState>,
    /// Those of `rewrite` whose literals are compressed harder on the way.
    pub harder: HashSet<PackNumber>,
    /// Packs that go as they are.
    pub remove: Vec<PackState>,
    /// Blobs that another pack holds as well, and that are not copied.
    pub repeated: Repeated,
    /// Stored bytes that the merges take over, an estimate.
    pub moved_bytes: u64,
    /// More is left for a next step.
    pub is_partial: bool,
}

impl Plan {
    /// True when there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.merges.is_empty() && self.rewrite.is_empty() && self.remove.is_empty()
    }

    /// Stored bytes of the packs that go.
    pub fn freed_bytes(&self) -> u64 {
        self.rewrite.iter().chain(&self.remove).map(|p| p.stored_bytes).sum()
    }

    /// Estimate of the bytes that are written.
    pub fn written_bytes(&self) -> u64 {
        let kept = |p: &PackState| p.stored_bytes - p.dead_bytes.min(p.stored_bytes);
        self.moved_bytes + self.rewrite.iter().map(kept).sum::<u64>()
    }
}

/// Looks at every pack that may hold something dead. Packs of which everything is needed are told from the index alone;
/// the tables of the others are read.
///
/// # Errors
/// Damage of tables, storage errors.
pub fn assess(index: &RepositoryIndex, packs: &PackReader, marking: &Marking) -> Result<Assessment> {
    let mut result = Assessment::default();
    let suspects = suspects(index, marking);
    let mut seen = Seen::default();
    for (number, info) in (0..).zip(index.packs()) {
        if index.pack_number(info.id) != Some(number) {
            continue;
        }
        result.stored_bytes += info.stored_bytes;
        let small = info.stored_bytes < SMALL_PACK_BYTES;
        if !suspects.contains(&number) {
            if small {
                let (id, copy, stored_bytes) = (info.id, info.copy, info.stored_bytes);
                let state = PackState { id, number, copy, stored_bytes, dead_bytes: 0, moved_bytes: 0, is_dead: false };
                result.packs.push(state);
            }
            continue;
        }
        let table = packs.table(index, number)?;
        let Judged { dead, moved, is_dead } =
            seen.judge((index, packs), number, &table, marking, &mut result.repeated)?;
        result.dead_bytes += dead.saturating_sub(moved);
        result.moved_bytes += moved;
        if dead > 0 || is_dead || small {
            result.packs.push(PackState {
                id: info.id,
                number,
                copy: info.copy,
                stored_bytes: info.stored_bytes,
                dead_bytes: if is_dead { info.stored_bytes } else { dead },
                moved_bytes: moved,
                is_dead,
            });
        }
    }
    Ok(result)
}

/// Packs that may hold something dead or something twice.
fn suspects(index: &RepositoryIndex, marking: &Marking) -> BTreeSet<PackNumber> {
    let mut found = BTreeSet::new();
    for (space, parts) in index.spaces() {
        for part in parts {
            if marking.live_in(space, part.start, part.end) != Live::Whole {
                found.insert(part.pack);
            }
        }
        let mut sorted: Vec<_> =
            parts.iter().map(|p| (index.pack(p.pack).map_or(0, |i| i.copy), p.start, p.end, p.pack)).collect();
        sorted.sort_unstable();
        for pair in sorted.windows(2) {
            if let [(copy, _, end, a), (next_copy, start, _, b)] = pair
                && copy == next_copy
                && start < end
            {
                found.extend([*a, *b]);
            }
        }
    }
    let mut counts: HashMap<(u32, u8), usize> = HashMap::new();
    for version in index.versions() {
        counts.clear();
        for place in index.all_record_places(version) {
            let copy = index.pack(place.pack).map_or(0, |i| i.copy);
            *counts.entry((place.generation, copy)).or_default() += 1;
        }
        for place in index.all_record_places(version) {
            let copy = index.pack(place.pack).map_or(0, |i| i.copy);
            let several = counts.get(&(place.generation, copy)).is_some_and(|n| *n > 1);
            if several || !marking.needs_record(version, place.generation) {
                found.insert(place.pack);
            }
        }
    }
    // a pack without any blob
    let named: HashSet<PackNumber> = index.spaces().flat_map(|(_, parts)| parts.iter().map(|p| p.pack)).collect();
    let recorded: HashSet<PackNumber> =
        index.versions().flat_map(|v| index.all_record_places(v).iter().map(|p| p.pack)).collect();
    let all = 0..PackNumber::try_from(index.packs().len()).unwrap_or(PackNumber::MAX);
    found.extend(all.filter(|n| !named.contains(n) && !recorded.contains(n)));
    found
}

/// What earlier packs of the same copy number hold.
#[derive(Default)]
struct Seen {
    records: HashSet<(u8, VersionId, u32, Option<u32>)>,
    literals: HashMap<(u8, VersionId), Held>,
}

/// What earlier packs hold of a literal space. Which bytes of its span a sparse segment has is read only where spans meet.
#[derive(Default)]
struct Held {
    parts: Intervals,
    /// Sparse segments whose pieces are not among `parts` yet: first offset, the one after the last, pack, ordinal.
    unread: Vec<(u64, u64, PackNumber, u32)>,
}

impl Held {
    /// True when everything that a blob holds is held already; takes it in.
    fn takes_in(
        &mut self,
        (index, packs): (&RepositoryIndex, &PackReader),
        (number, ordinal): (PackNumber, u32),
        (start, end): (u64, u64),
        is_whole: bool,
    ) -> Result<bool> {
        let pieces = |number, ordinal| -> Result<Intervals> {
            let table = packs.table(index, number)?;
            let segment = packs.literal_blob(index, number, &table, ordinal)?;
            Ok(segment.pieces().iter().map(|(at, b)| (*at, at + b.len() as u64)).collect())
        };
        let met: Vec<_> = self.unread.extract_if(.., |other| other.0 < end && start < other.1).collect();
        for (_, _, number, ordinal) in &met {
            self.parts.extend(pieces(*number, *ordinal)?);
        }
        normalize(&mut self.parts, 0);
        let after = self.parts.partition_point(|part| part.1 <= start);
        let near = !met.is_empty() || self.parts.get(after).is_some_and(|part| part.0 < end);
        if !is_whole && !near {
            self.unread.push((start, end, number, ordinal));
            return Ok(false);
        }
        let own = if is_whole { vec![(start, end)] } else { pieces(number, ordinal)? };
        let is_repeated = own.iter().all(|part| covers(&self.parts, part.0, part.1));
        self.parts.extend(own);
        normalize(&mut self.parts, 0);
        Ok(is_repeated)
    }
}

/// What a pack holds that need not stay in it.
struct Judged {
    /// Stored bytes that nothing will need.
    dead: u64,
    /// Those of them that merges take over.
    moved: u64,
    /// Nothing in it is needed.
    is_dead: bool,
}

impl Seen {
    fn judge(
        &mut self,
        (index, packs): (&RepositoryIndex, &PackReader),
        number: PackNumber,
        table: &LoadedTable,
        marking: &Marking,
        repeated: &mut Repeated,
    ) -> Result<Judged> {
        let (mut dead, mut moved, mut is_dead) = (0u64, 0u64, true);
        let copy = index.pack(number).map_or(0, |info| info.copy);
        for (ordinal, blob) in (0u32..).zip(&table.table.blobs) {
            let owner = table.table.ids.get(blob.meta.owner() as usize).copied().unwrap_or_default();
            let stored = u64::from(blob.stored_bytes);
            let needed = match blob.meta {
                BlobMeta::Head { generation, .. } => {
                    marking.needs_record(owner, generation) && self.records.insert((copy, owner, generation, None))
                }
                BlobMeta::Slice { generation, sequence, .. } => {
                    marking.needs_record(owner, generation)
                        && self.records.insert((copy, owner, generation, Some(sequence)))
                }
                BlobMeta::Segment { .. } | BlobMeta::Sparse { .. } => {
                    let Some((_, start, end)) = blob.literal_span() else { continue };
                    let is_whole = matches!(blob.meta, BlobMeta::Segment { .. });
                    let held = self.literals.entry((copy, owner)).or_default();
                    if held.takes_in((index, packs), (number, ordinal), (start, end), is_whole)? {
                        repeated.insert((number, ordinal));
                        dead += stored;
                        continue;
                    }
                    let parts = match marking.live_in(owner, start, end) {
                        Live::Whole => vec![(start, end)],
                        Live::Parts(parts) => parts,
                    };
                    let live: u64 = parts.iter().map(|p| p.1 - p.0).sum();
                    // of a sparse segment the raw bytes are what it holds and where that belongs, of a whole one its span
                    let raw = u64::from(blob.raw_bytes).max(1);
                    let listed = if is_whole { 0 } else { sparse::list_bytes(start, &parts) };
                    let gone = raw.saturating_sub((live + listed).min(raw));
                    // pieces that other packs hold make it look emptier than it is by a little
                    if is_whole || gone * 20 > raw {
                        dead += stored * gone / raw;
                        let taken: u64 = marking.moved_in(owner, start, end).iter().map(|p| p.1 - p.0).sum();
                        moved += stored * taken.min(gone) / raw;
                    }
                    is_dead &= live == 0;
                    continue;
                }
            };
            if needed {
                is_dead = false;
            } else {
                let version_needed = matches!(blob.meta, BlobMeta::Head { generation, .. } | BlobMeta::Slice { generation, .. } if marking.needs_record(owner, generation));
                if version_needed {
                    repeated.insert((number, ordinal));
                }
                dead += stored;
            }
        }
        Ok(Judged { dead, moved, is_dead })
    }
}

fn covers(parts: &[(u64, u64)], start: u64, end: u64) -> bool {
    let at = parts.partition_point(|p| p.1 <= start);
    parts.get(at).is_some_and(|p| p.0 <= start && p.1 >= end)
}

/// Chooses what one step does. `harder` are packs that would be smaller if they were compressed harder.
pub fn choose(
    marking: &Marking,
    mut found: Assessment,
    limits: &Limits,
    index: &RepositoryIndex,
    harder: HashSet<PackNumber>,
) -> Plan {
    let known: HashSet<PackNumber> = found.packs.iter().map(|p| p.number).collect();
    found.packs.extend(harder.iter().filter(|number| !known.contains(number)).filter_map(|&number| {
        let info = index.pack(number)?;
        let (id, copy, stored_bytes) = (info.id, info.copy, info.stored_bytes);
        Some(PackState { id, number, copy, stored_bytes, dead_bytes: 0, moved_bytes: 0, is_dead: false })
    }));
    let (merges, repeated, moved_bytes) = (marking.merges().to_vec(), found.repeated, found.moved_bytes);
    let mut plan = Plan { merges, repeated, moved_bytes, ..Plan::default() };
    plan.remove = found.packs.iter().filter(|p| p.is_dead).cloned().collect();
    let mut rest: Vec<&PackState> = found.packs.iter().filter(|p| !p.is_dead).collect();
    // the most dead for the bytes that must be written come first
    rest.sort_by_key(|p| {
        let share = p.dead_bytes.saturating_mul(1 << 20) / p.stored_bytes.max(1);
        (std::cmp::Reverse(share), p.number)
    });
    let gone: u64 = plan.remove.iter().map(|p| p.stored_bytes).sum();
    let mut stored = found.stored_bytes.saturating_sub(gone);
    let mut dead: u64 = rest.iter().map(|p| p.dead_bytes).sum();
    let mut budget = limits.repack_bytes.unwrap_or(u64::MAX);
    let mut chosen: HashSet<PackNumber> = HashSet::new();
    for pack in &rest {
        let enough = dead * 1000 <= stored * DEAD_PERMILLE_LEFT;
        if pack.dead_bytes < DEAD_BYTES_MIN || (enough && !limits.full) {
            break;
        }
        if pack.stored_bytes > budget {
            plan.is_partial = true;
            continue;
        }
        budget -= pack.stored_bytes;
        chosen.insert(pack.number);
        dead -= pack.dead_bytes;
        stored = stored.saturating_sub(pack.dead_bytes);
    }
    // what merges write anew must not stay where it was as well: a prune would make the repository larger
    for pack in rest.iter().filter(|p| p.moved_bytes * MOVED_SHARE_MIN > p.stored_bytes) {
        if !chosen.contains(&pack.number) && pack.stored_bytes <= budget {
            budget -= pack.stored_bytes;
            chosen.insert(pack.number);
        }
    }
    // what merges write is a small pack as well, mostly
    let written = usize::from(!plan.merges.is_empty());
    for copy in [0u8, 1] {
        let small: Vec<&PackState> =
            rest.iter().copied().filter(|p| p.copy == copy && p.stored_bytes < SMALL_PACK_BYTES).collect();
        if small.len() > SMALL_PACKS_LEFT || (limits.full && small.len() + written > 1) {
            let fitting: Vec<&PackState> = small
                .iter()
                .filter(|pack| !chosen.contains(&pack.number))
                .take_while(|pack| {
                    let fits = pack.stored_bytes <= budget;
                    budget -= if fits { pack.stored_bytes } else { 0 };
                    fits
                })
                .copied()
                .collect();
            let together = fitting.len() + small.iter().filter(|pack| chosen.contains(&pack.number)).count();
            plan.is_partial |= together < small.len();
            // one alone would be written again as it is, by every prune
            if together + written > 1 {
                chosen.extend(fitting.iter().map(|pack| pack.number));
            }
        }
    }
    for pack in rest.iter().filter(|p| harder.contains(&p.number)) {
        if chosen.contains(&pack.number) {
            continue;
        }
        if pack.stored_bytes > budget {
            plan.is_partial = true;
            continue;
        }
        budget -= pack.stored_bytes;
        chosen.insert(pack.number);
    }
    plan.harder = harder.intersection(&chosen).copied().collect();
    plan.rewrite = rest.into_iter().filter(|p| chosen.contains(&p.number)).cloned().collect();
    plan.rewrite.sort_by_key(|p| p.number);
    plan
}

/// Cuts the packs to rewrite down to what there is room for, those that free most for what they cost first.
pub fn shorten(plan: &mut Plan, step_bytes: u64) {
    if !plan.remove.is_empty() {
        plan.is_partial |= !plan.rewrite.is_empty();
        plan.rewrite.clear();
        return;
    }
    let needs = |p: &PackState| p.stored_bytes - p.dead_bytes.min(p.stored_bytes);
    let all = plan.rewrite.len();
    let mut room = step_bytes;
    plan.rewrite.sort_by_key(needs);
    plan.rewrite.retain(|p| {
        let fits = needs(p) <= room;
        room -= if fits { needs(p) } else { 0 };
        fits
    });
    plan.is_partial |= plan.rewrite.len() < all;
}
