//! The rows in a plain SQL script, summed up as those of an archive.

use super::archive::{EntryKey, Item, Summary};
use super::rows::{RowHasher, Sum};
use std::collections::BTreeMap;
use std::io::{self, BufRead};

/// Bytes of a line outside of rows that are looked at.
const LINE_MAX: usize = 256 << 10;

impl Summary {
    /// Sums up the rows that a script holds, under the key of this summary. `copies` leads from COPY statements to
    /// entries; rows of other statements are passed over. Ends early when `go_on` says no.
    pub(super) fn rows_of_script(
        &self,
        mut reader: impl BufRead,
        copies: &BTreeMap<Vec<u8>, EntryKey>,
        go_on: impl Fn() -> bool,
    ) -> io::Result<Self> {
        let mut found = self.twin();
        found.server_version.clone_from(&self.server_version);
        found.dump_version.clone_from(&self.dump_version);
        let mut line = Vec::new();
        let mut table: Option<(EntryKey, RowHasher)> = None;
        while go_on() {
            let held = reader.fill_buf()?;
            if held.is_empty() {
                break;
            }
            let n = held.iter().position(|byte| *byte == b'\n').map_or(held.len(), |at| at + 1);
            let piece = held.get(..n).unwrap_or_default();
            let mut ended = false;
            match &mut table {
                Some((_, hasher)) => {
                    hasher.feed(piece);
                    ended = hasher.is_ended();
                }
                None => {
                    let room = LINE_MAX.saturating_sub(line.len());
                    line.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
                    if piece.ends_with(b"\n") {
                        let copy = line.trim_ascii_end();
                        table = copies.get(copy).map(|key| (key.clone(), self.hasher_of(key, copy)));
                        line.clear();
                    }
                }
            }
            if ended {
                self.take_rows(&mut found, table.take());
            }
            reader.consume(n);
        }
        self.take_rows(&mut found, table);
        Ok(found)
    }

    /// The definition is taken over: a script's statements are not compared.
    fn take_rows(&self, found: &mut Self, table: Option<(EntryKey, RowHasher)>) {
        let Some((key, hasher)) = table else { return };
        let (rows, content) = hasher.finish();
        let places = found.items.entry(key.clone()).or_default();
        let same = self.items.get(&key).and_then(|items| items.get(places.len()));
        let definition = same.map_or(Sum::default(), |item| item.definition);
        places.push(Item { definition, rows: Some(rows), content });
    }
}
