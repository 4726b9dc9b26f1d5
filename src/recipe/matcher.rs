//! The matcher: finds which bytes of a new stream the parent stream already has.
//!
//! It walks the child and follows a *diagonal* (parent offset minus child offset): while both streams agree, bytes are
//! compared eight at a time and nothing else happens. Where they part, three candidates are tried: the current
//! diagonal, the last diagonal that carried a long match, and a hash table of 16-byte words of the parent that is
//! filled a little ahead of the estimated position. A short match is not taken before looking a little ahead for one
//! twice as long (lazy matching, as in deflate); without it the edits of row-oriented dumps grow threefold.

/// Parameters of the matcher. They shape the result only; any reader can decode any choice.
#[derive(Debug, Clone, Copy)]
pub struct MatchSettings {
    /// Shortest match taken from the hash table, bytes.
    pub match_bytes_min: usize,
    /// Shortest match taken on a diagonal, bytes.
    pub diagonal_bytes_min: usize,
    /// How far a better match is looked for, bytes.
    pub lazy_bytes: usize,
    /// Matches of this length are taken at once, bytes.
    pub good_bytes: usize,
    /// How far ahead of the estimated position the table is filled, bytes.
    pub ahead_bytes: u64,
}

impl Default for MatchSettings {
    fn default() -> Self {
        Self { match_bytes_min: 24, diagonal_bytes_min: 16, lazy_bytes: 128, good_bytes: 1024, ahead_bytes: 2 << 20 }
    }
}

/// log2 of the table's entries: 2^19 entries of 4 bytes.
const TABLE_BITS: u32 = 19;
/// Every eighth parent position is in the table.
const STRIDE: u64 = 8;
/// Bytes under one hash.
const WORD_BYTES: usize = 16;
/// How often the table is filled further, child bytes.
const FILL_EVERY: usize = 4096;

/// A part of the parent stream in memory.
#[derive(Debug, Clone, Copy)]
pub struct ParentView<'a> {
    /// Offset of the first byte in the parent stream.
    pub start: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl ParentView<'_> {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Index of a parent offset, if it is inside.
    fn index(&self, offset: u64) -> Option<usize> {
        (offset >= self.start && offset < self.end()).then(|| usize::try_from(offset - self.start).ok()).flatten()
    }
}

/// `len` child bytes at `at` equal the parent's bytes at `src`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Position in the child window.
    pub at: usize,
    /// Offset in the parent stream.
    pub src: u64,
    /// Length.
    pub len: usize,
}

/// Finds copies, window after window. See the module text.
#[derive(Debug)]
pub struct Matcher {
    settings: MatchSettings,
    /// Parent offset / STRIDE + 1, or 0.
    table: Vec<u32>,
    /// Parent offset up to which the table is filled.
    filled: u64,
    /// Parent offset minus child offset of the last copy, relative to the window's start.
    diagonal: i64,
    /// The same for the last long copy.
    main_diagonal: i64,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Candidate {
    at: usize,
    parent: usize,
    pub(super) len: usize,
}

impl Matcher {
    /// A matcher that expects the child to begin where the parent begins.
    pub fn new(settings: MatchSettings) -> Self {
        Self { settings, table: vec![0; 1 << TABLE_BITS], filled: 0, diagonal: 0, main_diagonal: 0 }
    }

    /// The parent offset expected for the first byte of the next window.
    pub fn expected(&self) -> u64 {
        u64::try_from(self.main_diagonal).unwrap_or(0)
    }

    /// Expects the next window to continue at this parent offset.
    pub fn jump(&mut self, parent: u64) {
        let parent = i64::try_from(parent).unwrap_or(i64::MAX / 2);
        self.diagonal = parent;
        self.main_diagonal = parent;
    }

    /// Empties the table: for a jump far away.
    pub fn forget(&mut self) {
        self.table.fill(0);
        self.filled = 0;
    }

    /// Appends the copies found in `child`, in order and apart. `hints` are positions in the child where the parent
    /// offset is known to be likely (starts of files), ascending. The diagonal is carried to the next window.
    pub fn find(&mut self, child: &[u8], view: &ParentView<'_>, hints: &[(usize, u64)], out: &mut Vec<Copy>) {
        self.filled = self.filled.clamp(view.start, view.end());
        let mut hints = hints.iter().peekable();
        let (mut i, mut literal_start, mut next_fill) = (0usize, 0usize, 0usize);
        while i < child.len() {
            while let Some(&&(at, parent)) = hints.peek() {
                if at > i {
                    break;
                }
                let diagonal = i64::try_from(parent).unwrap_or(0) - i64::try_from(at).unwrap_or(0);
                self.diagonal = diagonal;
                self.main_diagonal = diagonal;
                hints.next();
            }
            if i >= next_fill {
                self.fill(view, i);
                next_fill = i + FILL_EVERY;
            }
            let mut best = self.best_at(child, view, i, literal_start);
            if best.len > 0 && best.len < self.settings.good_bytes {
                let lazy = self.look_ahead(child, view, i, literal_start, best);
                // bytes of the short match that lie before the better one are still worth taking
                if lazy.at > best.at && best.len > 0 {
                    let head = best.len.min(lazy.at - best.at);
                    if head >= self.settings.match_bytes_min {
                        out.push(Copy { at: best.at, src: view.start + best.parent as u64, len: head });
                    }
                }
                best = lazy;
            }
            if best.len == 0 {
                // go faster through bytes that match nothing
                i += 1 + ((i - literal_start) >> 9).min(8);
                continue;
            }
            let src = view.start + best.parent as u64;
            out.push(Copy { at: best.at, src, len: best.len });
            i = best.at + best.len;
            literal_start = i;
            self.diagonal = offset_of(src) - offset_of(best.at as u64);
            if best.len >= self.settings.good_bytes {
                self.main_diagonal = self.diagonal;
            }
        }
        let advance = offset_of(child.len() as u64);
        self.diagonal += advance;
        self.main_diagonal += advance;
    }

    /// Fills the table up to `ahead_bytes` beyond where the child position `i` is expected.
    fn fill(&mut self, view: &ParentView<'_>, i: usize) {
        let expected = u64::try_from(self.main_diagonal + offset_of(i as u64)).unwrap_or(0);
        let last = view.end().saturating_sub(WORD_BYTES as u64);
        let stop = (expected + self.settings.ahead_bytes).min(last);
        // after a jump the skipped part would only push out what is needed now
        let from = self.filled.max(expected.saturating_sub(self.settings.ahead_bytes));
        let mut at = from.next_multiple_of(STRIDE).max(view.start.next_multiple_of(STRIDE));
        while at < stop {
            if let Some(index) = view.index(at) {
                let slot = hash16(view.bytes, index, TABLE_BITS);
                if let Some(entry) = self.table.get_mut(slot) {
                    *entry = u32::try_from(at / STRIDE + 1).unwrap_or(0);
                }
            }
            at += STRIDE;
        }
        self.filled = self.filled.max(at);
    }

    /// The table's candidate for a child position: an index into the view.
    fn lookup(&self, child: &[u8], view: &ParentView<'_>, i: usize) -> Option<usize> {
        if i + WORD_BYTES > child.len() {
            return None;
        }
        let entry = *self.table.get(hash16(child, i, TABLE_BITS))?;
        let offset = u64::from(entry.checked_sub(1)?) * STRIDE;
        let index = view.index(offset)?;
        (word(child, i) == word(view.bytes, index)).then_some(index)
    }

    /// The parent index that a diagonal gives for a child position.
    fn on_diagonal(&self, view: &ParentView<'_>, diagonal: i64, i: usize) -> Option<usize> {
        view.index(u64::try_from(diagonal + offset_of(i as u64)).ok()?)
    }

    /// The longest match that begins at `i` (or before it, extended backwards to the last copy).
    fn best_at(&self, child: &[u8], view: &ParentView<'_>, i: usize, literal_start: usize) -> Candidate {
        let mut best = Candidate::default();
        let diagonals = [self.diagonal, self.main_diagonal];
        let tries = if self.diagonal == self.main_diagonal { 1 } else { 2 };
        for &diagonal in &diagonals[..tries] {
            if let Some(parent) = self.on_diagonal(view, diagonal, i) {
                let len = common(child, i, view.bytes, parent);
                if len >= self.settings.diagonal_bytes_min && len > best.len {
                    best = Candidate { at: i, parent, len };
                }
            }
        }
        if best.len < self.settings.good_bytes
            && let Some(parent) = self.lookup(child, view, i)
        {
            let found = extend_back(child, view.bytes, i, parent, literal_start);
            let len = found.len + common(child, i, view.bytes, parent);
            if len >= self.settings.match_bytes_min && len > best.len {
                best = Candidate { len, ..found };
            }
        }
        if best.len > 0 && best.at == i {
            let back = extend_back(child, view.bytes, best.at, best.parent, literal_start);
            best = Candidate { at: back.at, parent: back.parent, len: best.len + back.len };
        }
        best
    }

    /// Looks for a match that begins shortly after `i` and is much longer than `best`.
    fn look_ahead(
        &self,
        child: &[u8],
        view: &ParentView<'_>,
        i: usize,
        literal_start: usize,
        first: Candidate,
    ) -> Candidate {
        let mut best = first;
        let last = (i + self.settings.lazy_bytes).min(child.len().saturating_sub(WORD_BYTES));
        let mut previous = None;
        for k in i + 1..=last {
            let from_table = self.lookup(child, view, k);
            let continues = previous.is_some() && from_table == previous.map(|p: usize| p + 1);
            previous = from_table;
            let from_main = (self.main_diagonal != self.diagonal)
                .then(|| self.on_diagonal(view, self.main_diagonal, k))
                .flatten()
                .filter(|&p| word(child, k) == word(view.bytes, p));
            for parent in [from_table.filter(|_| !continues), from_main].into_iter().flatten() {
                let len = common(child, k, view.bytes, parent);
                if len > best.len * 2 + 64 + (k - i) {
                    let back = extend_back(child, view.bytes, k, parent, literal_start);
                    best = Candidate { at: back.at, parent: back.parent, len: len + back.len };
                    if len >= self.settings.good_bytes {
                        return best;
                    }
                }
            }
        }
        best
    }
}

/// Offsets stay far below 2^63; saturating keeps the arithmetic total.
fn offset_of(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX / 2)
}

/// How far both sides agree before (`at`, `parent`), not before `limit`; `len` is that distance.
pub(super) fn extend_back(child: &[u8], parent: &[u8], at: usize, parent_at: usize, limit: usize) -> Candidate {
    let most = at.saturating_sub(limit).min(parent_at);
    let mut back = 0;
    while back < most && child.get(at - back - 1) == parent.get(parent_at - back - 1) {
        back += 1;
    }
    Candidate { at: at - back, parent: parent_at - back, len: back }
}

#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        Some(w) => u64::from_le_bytes(*w),
        None => 0,
    }
}

/// Multiplicative hash of the 16 bytes at `at`, cut to `bits` bits.
#[inline]
pub(super) fn hash16(bytes: &[u8], at: usize, bits: u32) -> usize {
    let mixed = word(bytes, at).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ word(bytes, at + 8).wrapping_mul(0xC2B2_AE3D_27D4_EB4F).rotate_left(29);
    (mixed.wrapping_mul(0x9FB2_1C65_1E98_DF25) >> (64 - bits)) as usize
}

/// Length of the common prefix of `a[i..]` and `b[j..]`.
pub fn common(a: &[u8], i: usize, b: &[u8], j: usize) -> usize {
    let (Some(a), Some(b)) = (a.get(i..), b.get(j..)) else { return 0 };
    let mut n = 0;
    for (x, y) in a.chunks_exact(64).zip(b.chunks_exact(64)) {
        if x != y {
            break;
        }
        n += 64;
    }
    while let (Some(x), Some(y)) =
        (a.get(n..).and_then(<[u8]>::first_chunk::<8>), b.get(n..).and_then(<[u8]>::first_chunk::<8>))
    {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return n + (differ.trailing_zeros() / 8) as usize;
        }
        n += 8;
    }
    while n < a.len() && n < b.len() && a.get(n) == b.get(n) {
        n += 1;
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::{Random, SeededRandom};

    fn rows(seed: u64, n: usize) -> Vec<Vec<u8>> {
        let random = SeededRandom::new(seed);
        (0..n)
            .map(|i| {
                let mut noise = [0u8; 24];
                random.fill(&mut noise);
                format!("{i}\tcustomer {i}\t{}\n", data_encoding::HEXLOWER.encode(&noise)).into_bytes()
            })
            .collect()
    }

    fn literals(child: &[u8], parent: &[u8], view_start: u64, copies: &[Copy]) -> usize {
        let (mut at, mut covered) = (0, 0);
        for c in copies {
            assert!(c.at >= at, "copies overlap");
            let from = usize::try_from(c.src - view_start).unwrap();
            assert_eq!(&child[c.at..c.at + c.len], &parent[from..from + c.len]);
            at = c.at + c.len;
            covered += c.len;
        }
        child.len() - covered
    }

    #[test]
    fn scattered_row_edits_cost_little_more_than_themselves() {
        let mut table = rows(1, 20_000);
        let parent = table.concat();
        let fresh = rows(2, 200);
        let mut new_bytes = 0;
        for (k, row) in fresh.iter().enumerate() {
            let at = (k * 97) % table.len();
            new_bytes += row.len();
            match k % 3 {
                0 => table[at] = row.clone(),
                1 => table.insert(at, row.clone()),
                _ => {
                    table.remove(at);
                }
            }
        }
        let child = table.concat();
        let mut matcher = Matcher::new(MatchSettings::default());
        let view = ParentView { start: 1 << 33, bytes: &parent };
        matcher.jump(1 << 33);
        let mut copies = Vec::new();
        let half = child.len() / 2;
        matcher.find(&child[..half], &view, &[], &mut copies);
        let mut second = Vec::new();
        matcher.find(&child[half..], &view, &[], &mut second);
        copies.extend(second.iter().map(|c| Copy { at: c.at + half, ..*c }));
        let literal = literals(&child, &parent, view.start, &copies);
        assert!(literal < new_bytes * 3 / 2, "{literal} literal bytes for {new_bytes} new ones");
    }

    #[test]
    fn equal_windows_are_one_copy_and_unrelated_ones_none() {
        let parent = rows(3, 5_000).concat();
        let mut matcher = Matcher::new(MatchSettings::default());
        let view = ParentView { start: 0, bytes: &parent };
        let mut copies = Vec::new();
        matcher.find(&parent, &view, &[], &mut copies);
        assert_eq!(copies, vec![Copy { at: 0, src: 0, len: parent.len() }]);
        assert_eq!(matcher.expected(), parent.len() as u64);
        let mut noise = vec![0u8; 1 << 20];
        SeededRandom::new(9).fill(&mut noise);
        copies.clear();
        matcher.jump(0);
        matcher.find(&noise, &view, &[], &mut copies);
        assert_eq!(literals(&noise, &parent, 0, &copies), noise.len());
    }

    #[test]
    fn hints_lead_to_files_that_moved() {
        let (a, b) = (rows(4, 2_000).concat(), rows(5, 2_000).concat());
        let parent = [a.clone(), b.clone()].concat();
        let child = [b.clone(), a.clone()].concat();
        let mut matcher = Matcher::new(MatchSettings { ahead_bytes: 1024, ..Default::default() });
        let mut copies = Vec::new();
        let hints = [(0, a.len() as u64), (b.len(), 0)];
        matcher.find(&child, &ParentView { start: 0, bytes: &parent }, &hints, &mut copies);
        assert_eq!(literals(&child, &parent, 0, &copies), 0);
    }
}
