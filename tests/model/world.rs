//! What the modelled repository is made of: versions, their records and literal spaces, and the packs that hold them.
//!
//! Two old snapshots stand in it: A names version 0 (a full recipe over the segments 0a and 0b of its space), B names
//! version 1 (edits against version 0, copying from segment 0a only, plus its own space). A backup writes one version of
//! its own, as edits against version 1, against version 0, or as literals. A collector may merge version 1: it writes a
//! full recipe of a higher generation, and segment 0a again **at the same logical address**, so that no recipe changes.
//! Records have two copies, 0 and 1, in different packs; only a copy of the same number counts as present.
//! Invariant: the content of a pack never changes; everything here is a pure function of masks.

/// A set of packs, one bit each.
pub(crate) type Packs = u16;
/// A set of items (segments and record copies), one bit each.
pub(crate) type Items = u16;

/// Backups that may run.
pub(crate) const SESSIONS: usize = 2;
/// Collectors that may run.
pub(crate) const COLLECTORS: usize = 2;

/// Segment 0a: copied by version 1.
pub(crate) const SEGMENT_0A: Items = 1;
/// Segment 0b: used by version 0 alone.
pub(crate) const SEGMENT_0B: Items = 1 << 1;
/// The space of version 1.
pub(crate) const SEGMENT_1: Items = 1 << 2;
/// Both copies of version 0's record.
pub(crate) const RECORD_0: Items = 0b11 << 3;
/// Both copies of version 1's edits (generation 1).
pub(crate) const RECORD_1: Items = 0b11 << 5;
/// Both copies of version 1's merged recipe (generation 2).
pub(crate) const RECORD_1_MERGED: Items = 0b11 << 7;
/// First copies of all records; the second copy is the next bit.
pub(crate) const FIRST_COPIES: Items = 1 << 3 | 1 << 5 | 1 << 7 | 1 << 10 | 1 << 13;
/// All copies of all records.
pub(crate) const ALL_RECORDS: Items = FIRST_COPIES | FIRST_COPIES << 1;

/// The space of a backup's own version.
pub(crate) const fn own_segment(session: usize) -> Items {
    1 << (9 + 3 * session)
}

/// Both copies of a backup's own record.
pub(crate) const fn own_record(session: usize) -> Items {
    0b11 << (10 + 3 * session)
}

/// Pack with segments 0a and 0b: half of it dies when A is forgotten.
pub(crate) const PACK_DATA_0: Packs = 1;
/// What a merge of version 1 replaces: the segments of version 0 and all old records.
pub(crate) const REPLACED_BY_MERGE: Packs = 0b0111;
/// Packs of the old world.
pub(crate) const OLD_PACKS: Packs = 0b1111;

/// The two packs a merge writes: one with the merged record and the rewritten segment, one with the second copy.
pub(crate) const fn merge_packs(collector: usize) -> Packs {
    0b11 << (4 + 2 * collector)
}

/// The two packs a backup writes.
pub(crate) const fn backup_packs(session: usize) -> Packs {
    0b11 << (8 + 2 * session)
}

/// What each pack holds, by bit number. Most hold two items, so that packs die by halves; the records of the two old
/// versions share packs, so that a record can outlive the segment it needs.
const CONTENT: [Items; 12] = [
    SEGMENT_0A | SEGMENT_0B,
    (RECORD_0 | RECORD_1) & FIRST_COPIES,
    (RECORD_0 | RECORD_1) & !FIRST_COPIES,
    SEGMENT_1,
    RECORD_1_MERGED & FIRST_COPIES | SEGMENT_0A,
    RECORD_1_MERGED & !FIRST_COPIES,
    RECORD_1_MERGED & FIRST_COPIES | SEGMENT_0A,
    RECORD_1_MERGED & !FIRST_COPIES,
    own_record(0) & FIRST_COPIES | own_segment(0),
    own_record(0) & !FIRST_COPIES,
    own_record(1) & FIRST_COPIES | own_segment(1),
    own_record(1) & !FIRST_COPIES,
];

/// Everything that a set of packs holds.
pub(crate) fn items_of(packs: Packs) -> Items {
    bits(packs).fold(0, |all, pack| all | CONTENT[pack])
}

/// The packs out of `among` that hold `item`.
pub(crate) fn holders(item: Items, among: Packs) -> Packs {
    bits(among).filter(|&pack| CONTENT[pack] & item != 0).fold(0, |all, pack| all | 1 << pack)
}

/// The numbers of the set bits.
pub(crate) fn bits(mask: u16) -> impl Iterator<Item = usize> {
    (0..16).filter(move |bit| mask & 1 << bit != 0)
}

/// The version that a backup's edits are made against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) enum Parent {
    /// Literals only.
    #[default]
    None,
    /// Version 0.
    Version0,
    /// Version 1.
    Version1,
}

/// What version 0 needs: its record and its whole space.
const NEEDS_0: Items = RECORD_0 | SEGMENT_0A | SEGMENT_0B;
/// What version 1 needs when read through its edits: its parent's record too, and the parent's segment it resolves to.
const NEEDS_1_BY_EDITS: Items = RECORD_1 | SEGMENT_1 | RECORD_0 | SEGMENT_0A;
/// What version 1 needs when read through the merged recipe: the parent's record no more.
const NEEDS_1_MERGED: Items = RECORD_1_MERGED | SEGMENT_1 | SEGMENT_0A;

/// Which rule of liveness is in force; the last two are faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) enum Liveness {
    /// The closure: record, chain of edits up to a full recipe, every segment that resolves.
    #[default]
    Closure,
    /// Only what the visible versions wrote themselves.
    OwnOnly,
}

/// The closure of a parent, given what is reliably there. With no generation complete, everything of all is kept.
fn needs_parent(parent: Parent, reliable: Items) -> Items {
    match parent {
        Parent::None => 0,
        Parent::Version0 => NEEDS_0,
        Parent::Version1 if reliable & RECORD_1_MERGED == RECORD_1_MERGED => NEEDS_1_MERGED,
        Parent::Version1 if reliable & RECORD_1 == RECORD_1 => NEEDS_1_BY_EDITS,
        Parent::Version1 => NEEDS_1_BY_EDITS | NEEDS_1_MERGED,
    }
}

/// Snapshots that a list showed: bit 0 is A, bit 1 is B, bit 2 + i is that of backup i.
pub(crate) type Roots = u8;

/// Everything that the snapshots in `roots` need, when the items in `reliable` can be relied on.
pub(crate) fn live(roots: Roots, parents: &[Parent; SESSIONS], reliable: Items, rule: Liveness) -> Items {
    let mut need = 0;
    if roots & 1 != 0 {
        need |= needs_parent(Parent::Version0, reliable);
    }
    if roots & 2 != 0 {
        need |= needs_parent(Parent::Version1, reliable);
    }
    for (session, &parent) in parents.iter().enumerate().filter(|&(session, _)| roots & 4 << session != 0) {
        need |= own_record(session) | own_segment(session);
        if rule == Liveness::Closure {
            need |= needs_parent(parent, reliable);
        }
    }
    need
}

/// True when the whole closure of `parent` is in `usable`, both copies of every record.
pub(crate) fn closure_complete(parent: Parent, usable: Items) -> bool {
    match parent {
        Parent::None => true,
        Parent::Version0 => usable & NEEDS_0 == NEEDS_0,
        Parent::Version1 => usable & NEEDS_1_MERGED == NEEDS_1_MERGED || usable & NEEDS_1_BY_EDITS == NEEDS_1_BY_EDITS,
    }
}

/// True when version 1 can be read through its edits, which is what a merge does.
pub(crate) fn mergeable(usable: Items) -> bool {
    usable & NEEDS_1_BY_EDITS == NEEDS_1_BY_EDITS && usable & RECORD_1_MERGED == 0
}

/// True when a reader gets the version's bytes: it takes the highest generation there and either copy of a record.
pub(crate) fn readable(parent: Parent, there: Items, wrong_merge_there: bool) -> bool {
    let record = |both: Items| there & both != 0;
    match parent {
        Parent::None => true,
        Parent::Version0 => record(RECORD_0) && there & (SEGMENT_0A | SEGMENT_0B) == SEGMENT_0A | SEGMENT_0B,
        Parent::Version1 => {
            let segments = there & (SEGMENT_0A | SEGMENT_1) == SEGMENT_0A | SEGMENT_1;
            let by_merged = record(RECORD_1_MERGED);
            segments && if by_merged { !wrong_merge_there } else { record(RECORD_1) && record(RECORD_0) }
        }
    }
}
