//! One number for all rows of a table, whatever their order; see [`super::archive`] for why that proves anything.

/// A sum of keyed hashes: two numbers modulo 2^128, each added by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sum([u128; 2]);

impl Sum {
    /// Adds one hash.
    pub(super) fn add(&mut self, hash: &blake3::Hash) {
        let (low, high) = hash.as_bytes().split_at(16);
        let number = |half: &[u8]| half.try_into().map_or(0, u128::from_le_bytes);
        self.join(Self([number(low), number(high)]));
    }

    /// Adds another sum.
    pub(super) fn join(&mut self, other: Self) {
        let ([a, b], [c, d]) = (self.0, other.0);
        self.0 = [a.wrapping_add(c), b.wrapping_add(d)];
    }

    fn bytes(self) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        let (low, high) = bytes.split_at_mut(16);
        low.copy_from_slice(&self.0[0].to_le_bytes());
        high.copy_from_slice(&self.0[1].to_le_bytes());
        bytes
    }
}

/// Rows that come in several pieces are held up to this length; longer ones are hashed piece by piece.
const ROW_HELD_MAX: usize = 64 << 10;
/// The end mark of COPY data. Within the data a backslash is doubled, so no row is these bytes; empty lines follow it.
const END_MARK: &[u8] = b"\\.";

/// Hashes the rows of one table as they stream by.
#[derive(Default)]
pub(super) struct RowHasher {
    key: [u8; 32],
    sum: Sum,
    rows: u64,
    ended: bool,
    /// The first bytes of the row that is not complete, or its hasher once it is long.
    held: Vec<u8>,
    long: Option<Box<blake3::Hasher>>,
    /// For a table whose columns may change places.
    fields: Option<FieldHasher>,
}

impl std::fmt::Debug for RowHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RowHasher({} rows)", self.rows)
    }
}

impl RowHasher {
    /// A hasher of whole rows, or, given names of columns, of rows whose fields may change places with their columns.
    pub(super) fn new(key: &[u8; 32], columns: Option<&[Vec<u8>]>) -> Self {
        let fields = columns.map(|names| FieldHasher::new(key, names));
        Self { key: *key, fields, ..Self::default() }
    }

    /// Takes the next bytes of COPY data.
    pub(super) fn feed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && !self.ended {
            let Some(at) = piece.iter().position(|byte| *byte == b'\n') else { return self.hold(piece) };
            let (row, rest) = piece.split_at(at);
            piece = rest.get(1..).unwrap_or_default();
            if self.fields.is_none() && self.held.is_empty() && self.long.is_none() {
                // The usual case: a whole row in this piece.
                self.row(row);
            } else {
                self.hold(row);
                self.end_held();
            }
        }
    }

    /// True once the end mark was met.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// The number of rows, and their sum. Bytes after the last line end count as a row, which makes a difference seen.
    pub(super) fn finish(mut self) -> (u64, Sum) {
        let rest = !self.held.is_empty() || self.long.is_some() || self.fields.as_ref().is_some_and(|f| f.bytes > 0);
        if rest && !self.ended {
            self.end_held();
        }
        (self.rows, self.sum)
    }

    fn hold(&mut self, part: &[u8]) {
        if let Some(fields) = &mut self.fields {
            return fields.feed(part);
        }
        if let Some(long) = &mut self.long {
            long.update(part);
            return;
        }
        self.held.extend_from_slice(part);
        if self.held.len() > ROW_HELD_MAX {
            let mut long = Box::new(blake3::Hasher::new_keyed(&self.key));
            long.update(&self.held);
            self.held.clear();
            self.long = Some(long);
        }
    }

    fn end_held(&mut self) {
        if let Some(fields) = &mut self.fields {
            match fields.end_row() {
                None => self.ended = true,
                Some(hash) => {
                    self.rows += 1;
                    self.sum.add(&hash);
                }
            }
        } else if let Some(long) = self.long.take() {
            self.rows += 1;
            self.sum.add(&long.finalize());
        } else {
            let held = std::mem::take(&mut self.held);
            self.row(&held);
            self.held = held;
            self.held.clear();
        }
    }

    fn row(&mut self, row: &[u8]) {
        if row == END_MARK {
            self.ended = true;
        } else {
            self.rows += 1;
            self.sum.add(&blake3::keyed_hash(&self.key, row));
        }
    }
}

/// A row as the sum of its fields, each hashed with the name of its column.
struct FieldHasher {
    key: [u8; 32],
    columns: Vec<[u8; 32]>,
    at: usize,
    hasher: Box<blake3::Hasher>,
    sum: Sum,
    /// The row's length so far, and its first bytes.
    bytes: u64,
    head: Vec<u8>,
}

impl FieldHasher {
    fn new(key: &[u8; 32], names: &[Vec<u8>]) -> Self {
        let columns = names.iter().map(|name| *blake3::hash(name).as_bytes()).collect();
        let hasher = Box::new(blake3::Hasher::new_keyed(key));
        let mut fields = Self { key: *key, columns, at: 0, hasher, sum: Sum::default(), bytes: 0, head: Vec::new() };
        fields.begin_field();
        fields
    }

    fn begin_field(&mut self) {
        self.hasher.reset();
        // A field beyond the last column, which no dump has, goes by its place.
        let place = *blake3::hash(&(self.at as u64).to_le_bytes()).as_bytes();
        self.hasher.update(self.columns.get(self.at).unwrap_or(&place));
    }

    fn feed(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        let room = (END_MARK.len() + 1).saturating_sub(self.head.len());
        self.head.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
        for (number, field) in part.split(|byte| *byte == b'\t').enumerate() {
            if number > 0 {
                self.sum.add(&self.hasher.finalize());
                self.at += 1;
                self.begin_field();
            }
            self.hasher.update(field);
        }
    }

    /// The row's hash; none for the end mark.
    fn end_row(&mut self) -> Option<blake3::Hash> {
        self.sum.add(&self.hasher.finalize());
        let hash = blake3::keyed_hash(&self.key, &self.sum.bytes());
        let is_end = self.head == END_MARK;
        (self.at, self.sum, self.bytes) = (0, Sum::default(), 0);
        self.head.clear();
        self.begin_field();
        (!is_end).then_some(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    fn sum(data: &[u8], step: usize, columns: Option<&[Vec<u8>]>) -> (u64, Sum) {
        let mut hasher = RowHasher::new(&KEY, columns);
        data.chunks(step).for_each(|piece| hasher.feed(piece));
        hasher.finish()
    }

    fn text(rows: &[String]) -> Vec<u8> {
        let mut out: String = rows.iter().map(|row| format!("{row}\n")).collect();
        out.push_str("\\.\n\n\n");
        out.into_bytes()
    }

    #[test]
    fn a_long_row_counts_whole_wherever_it_is_cut() {
        let long = vec!["a".to_owned(), "x".repeat(ROW_HELD_MAX * 3), "b".to_owned()];
        let mut other = long.clone();
        other[1].replace_range(ROW_HELD_MAX * 2..=ROW_HELD_MAX * 2, "y");
        let (bytes, other) = (text(&long), text(&other));
        let (rows, whole) = sum(&bytes, bytes.len(), None);
        assert_eq!(rows, 3);
        for step in [1000, 4096, 65_537] {
            assert_eq!(sum(&bytes, step, None), (3, whole), "{step}");
            assert_ne!(sum(&other, step, None), (3, whole), "{step}");
        }
    }

    #[test]
    fn fields_follow_their_columns_and_not_their_places() {
        let names = |list: &[&str]| list.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
        let one = sum(b"1\tx\n2\ty\n\\.\n\n\n", 3, Some(&names(&["a", "b"])));
        assert_eq!(one, sum(b"y\t2\nx\t1\n\\.\n\n\n", 100, Some(&names(&["b", "a"]))));
        assert_ne!(one, sum(b"1\ty\n2\tx\n\\.\n\n\n", 100, Some(&names(&["a", "b"]))));
        assert_ne!(one, sum(b"x\t1\ny\t2\n\\.\n\n\n", 100, Some(&names(&["a", "b"]))));
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_everything_else_does(
            rows in proptest::collection::vec("[a-c\\t]{0,4}", 1..12), step in 1usize..9, at in 0usize..12, from in 0usize..12,
        ) {
            let (bytes, at, from) = (text(&rows), at % rows.len(), from % rows.len());
            let (count, whole) = sum(&bytes, bytes.len(), None);
            prop_assert_eq!(count, rows.len() as u64);
            prop_assert_eq!(sum(&bytes, step, None), (count, whole));
            let mut other = rows.clone();
            other.swap(at, from);
            prop_assert_eq!(sum(&text(&other), step, None), (count, whole));
            // One lost, another doubled.
            if rows[at] != rows[from] {
                let mut other = rows.clone();
                other[at] = rows[from].clone();
                prop_assert_ne!(sum(&text(&other), step, None), (count, whole));
            }
        }
    }
}
