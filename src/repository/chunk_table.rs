//! Finds chunks by content, in bounded memory: recent ones in a map, the rest in sorted runs on local disk.

use super::chunk_run::{ChunkRun, RunEntries, RunEntry, RunWriter, key_of};
use super::index::ChunkPlace;
use crate::domain::id::{ChunkId, VersionId};
use crate::format::records::IndexedPack;
use crate::format::seal::Keys;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Chunks held in memory before they are spilled to a run: what a hash map of 2^18 places of 65 bytes takes without
/// growing, 17 MB.
const RECENT_MAX: usize = 7 << 15;
/// Runs before they are merged into one.
const RUNS_MAX: usize = 12;

/// Where runs may be kept.
#[derive(Debug, Clone)]
struct Disk {
    folder: PathBuf,
    keys: Arc<Keys>,
}

/// The chunk table.
#[derive(Debug, Default)]
pub struct ChunkTable {
    recent: HashMap<ChunkId, ChunkPlace>,
    runs: Vec<ChunkRun>,
    spaces: Vec<VersionId>,
    numbers: HashMap<VersionId, u32>,
    disk: Option<Disk>,
}

impl ChunkTable {
    /// A table that spills to unnamed files in `folder`. Without a folder everything stays in memory.
    pub fn on_disk(folder: Option<&Path>, keys: &Arc<Keys>) -> Self {
        let disk = folder.map(|folder| Disk { folder: folder.to_owned(), keys: Arc::clone(keys) });
        Self { disk, ..Self::default() }
    }

    /// A table that begins with a stored run; `spaces` are the literal spaces its entries name by number.
    pub(super) fn with_run(mut self, run: ChunkRun, spaces: Vec<VersionId>) -> Self {
        self.numbers = spaces.iter().copied().zip(0..).collect();
        self.spaces = spaces;
        self.runs.push(run);
        self
    }

    /// Adds the chunks of a pack.
    ///
    /// A failing local disk is no reason to fail: the chunks then stay in memory.
    pub fn add(&mut self, pack: &IndexedPack) {
        for chunk in &pack.table.chunks {
            if let Some(&space) = pack.table.ids.get(chunk.space as usize) {
                self.add_one(chunk.id, ChunkPlace { space, start: chunk.start, plain_bytes: chunk.plain_bytes });
            }
        }
    }

    /// Adds one chunk.
    pub fn add_one(&mut self, id: ChunkId, place: ChunkPlace) {
        self.recent.entry(id).or_insert(place);
        if self.recent.len() >= RECENT_MAX && self.disk.is_some() && self.spill().is_err() {
            self.disk = None;
        }
    }

    /// Finds a chunk.
    pub fn find(&self, id: &ChunkId) -> Option<ChunkPlace> {
        self.recent.get(id).copied().or_else(|| self.runs.iter().rev().find_map(|run| run.find(id, &self.spaces)))
    }

    /// Number of chunks; those that were added twice may count twice.
    pub fn len(&self) -> u64 {
        self.recent.len() as u64 + self.runs.iter().map(ChunkRun::len).sum::<u64>()
    }

    /// True without any chunk.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Chunks that are not in a run.
    pub fn recent_len(&self) -> usize {
        self.recent.len()
    }

    /// Bytes that the runs hold in memory.
    pub fn run_memory_bytes(&self) -> u64 {
        self.runs.iter().map(ChunkRun::memory_bytes).sum()
    }

    /// The literal spaces that runs name by number.
    pub(super) fn spaces(&self) -> &[VersionId] {
        &self.spaces
    }

    fn recent_sorted(&mut self) -> Vec<RunEntry> {
        let Self { recent, spaces, numbers, .. } = self;
        let mut entries: Vec<RunEntry> = Vec::with_capacity(recent.len());
        entries.extend(recent.iter().map(|(id, place)| {
            let space = *numbers.entry(place.space).or_insert_with(|| {
                spaces.push(place.space);
                u32::try_from(spaces.len() - 1).unwrap_or(u32::MAX - 1)
            });
            RunEntry { key: key_of(id), space, plain_bytes: place.plain_bytes, start: place.start }
        }));
        entries.sort_unstable();
        entries
    }

    fn spill(&mut self) -> io::Result<()> {
        let Some(disk) = self.disk.clone() else { return Ok(()) };
        let entries = self.recent_sorted();
        let mut writer = RunWriter::new(tempfile::tempfile_in(&disk.folder)?, entries.len() as u64, disk.keys.clone())?;
        for entry in entries {
            writer.push(entry)?;
        }
        self.runs.push(writer.finish()?);
        self.recent = HashMap::new();
        if self.runs.len() > RUNS_MAX {
            let file = tempfile::tempfile_in(&disk.folder)?;
            let merged = self.merge_into(file, disk.keys)?;
            self.runs = vec![merged];
        }
        Ok(())
    }

    /// Writes everything as one run at the end of `file`.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn merge_into(&mut self, file: File, keys: Arc<Keys>) -> io::Result<ChunkRun> {
        let recent = self.recent_sorted();
        let mut writer = RunWriter::new(file, self.len(), keys)?;
        let mut sources = Vec::new();
        for run in &self.runs {
            sources.push(Cursor { pages: Some(run.entries()?), page: Vec::new().into_iter() });
        }
        sources.push(Cursor { pages: None, page: recent.into_iter() });
        let mut heap = BinaryHeap::new();
        for (n, source) in sources.iter_mut().enumerate() {
            if let Some(entry) = source.next()? {
                heap.push(Reverse((entry, n)));
            }
        }
        while let Some(Reverse((entry, n))) = heap.pop() {
            writer.push(entry)?;
            if let Some(source) = sources.get_mut(n)
                && let Some(next) = source.next()?
            {
                heap.push(Reverse((next, n)));
            }
        }
        writer.finish()
    }
}

/// Entries of one source of a merge.
struct Cursor {
    pages: Option<RunEntries>,
    page: std::vec::IntoIter<RunEntry>,
}

impl Cursor {
    fn next(&mut self) -> io::Result<Option<RunEntry>> {
        loop {
            if let Some(entry) = self.page.next() {
                return Ok(Some(entry));
            }
            let Some(pages) = &mut self.pages else { return Ok(None) };
            match pages.next_page()? {
                Some(page) => self.page = page.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::RepositoryId;
    use crate::format::seal::Suite;

    #[test]
    fn spills_merges_and_still_finds_everything() {
        let keys = Arc::new(Keys::derive(&[1; 32], RepositoryId([2; 16]), Suite::Aes256Gcm));
        let folder = tempfile::tempdir().unwrap();
        let mut table = ChunkTable::on_disk(Some(folder.path()), &keys);
        let id = |n: u64| ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let space = |n: u64| VersionId(*id(n % 50).0.first_chunk::<16>().unwrap());
        let total = RECENT_MAX as u64 * 3 + 1000;
        for n in 0..total {
            table.add_one(id(n), ChunkPlace { space: space(n), start: n, plain_bytes: 1 });
        }
        assert_eq!(table.runs.len(), 3);
        assert_eq!(table.recent_len(), 1000);
        let check = |table: &ChunkTable| {
            for n in (0..total).step_by(997) {
                assert_eq!(table.find(&id(n)), Some(ChunkPlace { space: space(n), start: n, plain_bytes: 1 }));
            }
            assert_eq!(table.find(&id(total + 1)), None);
        };
        check(&table);
        let merged = table.merge_into(tempfile::tempfile().unwrap(), keys.clone()).unwrap();
        assert_eq!(merged.len(), total);
        let spaces = table.spaces().to_vec();
        check(&ChunkTable::on_disk(None, &keys).with_run(merged, spaces));
    }
}
