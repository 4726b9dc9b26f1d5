//! A sorted run of chunk places in a local file: the searchable form of the chunk index.
//!
//! Memory: a Bloom filter of 12 bits for each chunk and one 8-byte fence for each page of 127 chunks, together under
//! 1.6 bytes a chunk; a look-up that passes the filter reads one page of 4 KiB. Pages are read with `pread`, never
//! mapped: a page that cannot be read must be an error, not a dead process. Every page carries a keyed hash with its
//! number, so that a damaged or forged cache never leads to a wrong reference; such a page counts as empty, and what
//! it named is merely stored again.

use super::index::ChunkPlace;
use crate::domain::id::{ChunkId, VersionId};
use crate::format::seal::Keys;
use memmap2::MmapMut;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Chunks of a page.
pub const PAGE_ENTRIES: usize = (PAGE_BYTES - 32) / ENTRY_BYTES;
/// Bytes of an entry: 16 of the chunk's id, 4 of its space's number, 4 of its length, 8 of its first offset.
pub const ENTRY_BYTES: usize = 32;
const FILTER_BITS_PER_CHUNK: u64 = 12;
const FILTER_PROBES: u32 = 6;

/// One entry as it lies in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunEntry {
    /// The first 16 bytes of the chunk's keyed hash.
    pub key: [u8; 16],
    /// Number of the literal space, in the numbering of whoever holds the run.
    pub space: u32,
    /// Length.
    pub plain_bytes: u32,
    /// First offset in the space.
    pub start: u64,
}

impl RunEntry {
    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[..16].copy_from_slice(&self.key);
        out[16..20].copy_from_slice(&self.space.to_le_bytes());
        out[20..24].copy_from_slice(&self.plain_bytes.to_le_bytes());
        out[24..].copy_from_slice(&self.start.to_le_bytes());
        out
    }

    fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let (key, rest) = bytes.split_first_chunk::<16>().map_or(([0; 16], &bytes[..]), |(k, r)| (*k, r));
        let word = |at: usize| rest.get(at..).and_then(<[u8]>::first_chunk::<4>).map_or(0, |w| u32::from_le_bytes(*w));
        let start = rest.get(8..).and_then(<[u8]>::first_chunk::<8>).map_or(0, |w| u64::from_le_bytes(*w));
        Self { key, space: word(0), plain_bytes: word(4), start }
    }
}

/// The part of a chunk's id that runs are sorted by. 128 bits of a keyed hash: nobody without the key can make two
/// chunks collide, and by chance none ever do.
pub fn key_of(id: &ChunkId) -> [u8; 16] {
    id.0.first_chunk::<16>().copied().unwrap_or_default()
}

fn prefix(key: &[u8; 16]) -> u64 {
    key.first_chunk::<8>().map_or(0, |w| u64::from_be_bytes(*w))
}

/// A Bloom filter over keys, which are uniform already.
struct Filter {
    bits: Option<MmapMut>,
    bit_count: u64,
}

impl Filter {
    fn new(chunks: u64) -> io::Result<Self> {
        let bit_count = (chunks * FILTER_BITS_PER_CHUNK).max(64).next_multiple_of(8);
        let bytes = usize::try_from(bit_count / 8).map_err(io::Error::other)?;
        // anonymous memory goes back to the system as a whole when the run is dropped
        Ok(Self { bits: Some(MmapMut::map_anon(bytes)?), bit_count })
    }

    fn places(&self, key: &[u8; 16]) -> impl Iterator<Item = u64> + use<> {
        let first = prefix(key);
        let second = key.last_chunk::<8>().map_or(1, |w| u64::from_le_bytes(*w)) | 1;
        let count = self.bit_count;
        (0..FILTER_PROBES).map(move |i| first.wrapping_add(second.wrapping_mul(u64::from(i))) % count)
    }

    fn insert(&mut self, key: &[u8; 16]) {
        for place in self.places(key) {
            if let Some(byte) = self.bits.as_mut().and_then(|b| b.get_mut((place / 8) as usize)) {
                *byte |= 1 << (place % 8);
            }
        }
    }

    fn may_hold(&self, key: &[u8; 16]) -> bool {
        self.places(key).all(|place| {
            self.bits.as_ref().and_then(|b| b.get((place / 8) as usize)).is_some_and(|b| b >> (place % 8) & 1 == 1)
        })
    }
}

/// A sorted run.
pub struct ChunkRun {
    file: File,
    /// Where the pages begin in the file.
    offset: u64,
    chunks: u64,
    fences: Vec<u64>,
    filter: Filter,
    keys: Arc<Keys>,
}

impl std::fmt::Debug for ChunkRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkRun({} chunks)", self.chunks)
    }
}

/// The keyed hash of a page: of its number and its bytes.
fn page_mac(keys: &Keys, number: u64, body: &[u8]) -> [u8; 32] {
    let mut input = Vec::with_capacity(body.len() + 24);
    input.extend_from_slice(b"chunk page");
    input.extend_from_slice(&number.to_le_bytes());
    input.extend_from_slice(body);
    keys.mac(&input)
}

/// Writes sorted entries as pages.
pub struct RunWriter {
    out: BufWriter<File>,
    offset: u64,
    page: Vec<u8>,
    last: Option<[u8; 16]>,
    chunks: u64,
    fences: Vec<u64>,
    filter: Filter,
    keys: Arc<Keys>,
}

impl RunWriter {
    /// Starts a run at the file's current end, for at most `chunks_max` entries.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(mut file: File, chunks_max: u64, keys: Arc<Keys>) -> io::Result<Self> {
        let offset = file.seek(SeekFrom::End(0))?;
        let filter = Filter::new(chunks_max)?;
        let (page, fences) = (Vec::with_capacity(PAGE_BYTES), Vec::new());
        Ok(Self {
            out: BufWriter::with_capacity(1 << 18, file),
            offset,
            page,
            last: None,
            chunks: 0,
            fences,
            filter,
            keys,
        })
    }

    /// Adds an entry; keys ascend, and of equal keys the first counts.
    ///
    /// # Errors
    /// What the system says.
    pub fn push(&mut self, entry: RunEntry) -> io::Result<()> {
        if self.last == Some(entry.key) {
            return Ok(());
        }
        self.last = Some(entry.key);
        if self.page.is_empty() {
            self.fences.push(prefix(&entry.key));
        }
        self.page.extend_from_slice(&entry.to_bytes());
        self.filter.insert(&entry.key);
        self.chunks += 1;
        if self.page.len() == PAGE_ENTRIES * ENTRY_BYTES { self.write_page() } else { Ok(()) }
    }

    fn write_page(&mut self) -> io::Result<()> {
        // unused entries are all ones: they sort last and name nothing
        self.page.resize(PAGE_ENTRIES * ENTRY_BYTES, 0xff);
        let mac = page_mac(&self.keys, self.fences.len() as u64 - 1, &self.page);
        self.out.write_all(&self.page)?;
        self.out.write_all(&mac)?;
        self.page.clear();
        Ok(())
    }

    /// Ends the run.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(mut self) -> io::Result<ChunkRun> {
        if !self.page.is_empty() {
            self.write_page()?;
        }
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let (offset, chunks, fences, filter) = (self.offset, self.chunks, self.fences, self.filter);
        Ok(ChunkRun { file, offset, chunks, fences, filter, keys: self.keys })
    }
}

impl ChunkRun {
    /// Opens a run of `chunks` entries whose pages begin at `offset`, reading every page once for fences and filter.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidData`] for a page that is not as it was written.
    pub fn open(file: File, offset: u64, chunks: u64, keys: Arc<Keys>) -> io::Result<Self> {
        let mut run = Self { filter: Filter::new(chunks)?, file, offset, chunks, fences: Vec::new(), keys };
        let mut entries = run.entries()?;
        let mut found = 0;
        let (mut fences, mut filter) = (Vec::new(), Filter::new(chunks)?);
        while let Some(page) = entries.next_page()? {
            fences.push(page.first().map_or(0, |e| prefix(&e.key)));
            for entry in page {
                filter.insert(&entry.key);
                found += 1;
            }
        }
        if found != chunks {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the cache holds another number of chunks"));
        }
        (run.fences, run.filter) = (fences, filter);
        Ok(run)
    }

    /// Number of chunks.
    pub fn len(&self) -> u64 {
        self.chunks
    }

    /// True without chunks.
    pub fn is_empty(&self) -> bool {
        self.chunks == 0
    }

    /// Bytes held in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.filter.bit_count / 8 + self.fences.len() as u64 * 8
    }

    fn page_count(&self) -> u64 {
        self.chunks.div_ceil(PAGE_ENTRIES as u64)
    }

    fn page(&self, number: u64) -> io::Result<Vec<RunEntry>> {
        let mut bytes = [0u8; PAGE_BYTES];
        self.file.read_exact_at(&mut bytes, self.offset + number * PAGE_BYTES as u64)?;
        check_page(&self.keys, number, &bytes)
    }

    /// Finds a chunk; `spaces` gives the literal spaces by number. A page that cannot be read or is not as it was
    /// written counts as empty.
    pub fn find(&self, id: &ChunkId, spaces: &[VersionId]) -> Option<ChunkPlace> {
        let key = key_of(id);
        if !self.filter.may_hold(&key) {
            return None;
        }
        let after = self.fences.partition_point(|&fence| fence <= prefix(&key));
        // equal prefixes may begin on an earlier page
        let mut number = after.checked_sub(1)?;
        loop {
            let page = self.page(number as u64).ok()?;
            if let Ok(k) = page.binary_search_by_key(&key, |e| e.key) {
                let entry = page.get(k)?;
                let space = *spaces.get(entry.space as usize)?;
                return Some(ChunkPlace { space, start: entry.start, plain_bytes: entry.plain_bytes });
            }
            let earlier = number.checked_sub(1)?;
            if self.fences.get(number) != Some(&prefix(&key)) {
                return None;
            }
            number = earlier;
        }
    }

    /// Copies the pages to another file.
    ///
    /// # Errors
    /// What the system says.
    pub fn copy_pages(&self, to: &mut File) -> io::Result<()> {
        let length = self.page_count() * PAGE_BYTES as u64;
        let from = PositionedReader { file: self.file.try_clone()?, at: self.offset };
        io::copy(&mut from.take(length), to).map(|_| ())
    }

    /// All entries in order, a page at a time.
    ///
    /// # Errors
    /// What the system says.
    pub fn entries(&self) -> io::Result<RunEntries> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(self.offset))?;
        let reader = io::BufReader::with_capacity(1 << 17, PositionedReader { file, at: self.offset });
        Ok(RunEntries { reader, keys: Arc::clone(&self.keys), next: 0, pages: self.page_count() })
    }
}

/// Reads from a place of its own, because clones of a file share one.
struct PositionedReader {
    file: File,
    at: u64,
}

impl Read for PositionedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Entries of a run in order.
pub struct RunEntries {
    reader: io::BufReader<PositionedReader>,
    keys: Arc<Keys>,
    next: u64,
    pages: u64,
}

impl std::fmt::Debug for RunEntries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunEntries({} of {})", self.next, self.pages)
    }
}

impl RunEntries {
    /// The next page's entries.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidData`] for a damaged page.
    pub fn next_page(&mut self) -> io::Result<Option<Vec<RunEntry>>> {
        if self.next == self.pages {
            return Ok(None);
        }
        let mut bytes = [0u8; PAGE_BYTES];
        self.reader.read_exact(&mut bytes)?;
        let page = check_page(&self.keys, self.next, &bytes)?;
        self.next += 1;
        Ok(Some(page))
    }
}

fn check_page(keys: &Keys, number: u64, bytes: &[u8; PAGE_BYTES]) -> io::Result<Vec<RunEntry>> {
    let (body, mac) = bytes.split_at(PAGE_ENTRIES * ENTRY_BYTES);
    if page_mac(keys, number, body) != *mac {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a page of the cache is damaged"));
    }
    let entries = body.chunks_exact(ENTRY_BYTES).filter_map(|e| e.first_chunk::<ENTRY_BYTES>());
    Ok(entries.map(RunEntry::from_bytes).take_while(|e| e.space != u32::MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::RepositoryId;
    use crate::domain::system::{Random, SeededRandom};
    use crate::format::seal::Suite;

    fn keys() -> Arc<Keys> {
        Arc::new(Keys::derive(&[1; 32], RepositoryId([2; 16]), Suite::Aes256Gcm))
    }

    fn ids(seed: u64, n: usize) -> Vec<ChunkId> {
        let random = SeededRandom::new(seed);
        let random: &dyn Random = &random;
        (0..n).map(|_| ChunkId(random.bytes())).collect()
    }

    fn write(ids: &[ChunkId]) -> ChunkRun {
        let mut entries: Vec<RunEntry> = ids
            .iter()
            .zip(0u32..)
            .map(|(id, n)| RunEntry { key: key_of(id), space: n % 3, plain_bytes: n + 1, start: u64::from(n) << 20 })
            .collect();
        entries.sort_unstable();
        let mut writer = RunWriter::new(tempfile::tempfile().unwrap(), ids.len() as u64, keys()).unwrap();
        for entry in entries {
            writer.push(entry).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn finds_what_it_holds_and_nothing_else() {
        let spaces = [VersionId([1; 16]), VersionId([2; 16]), VersionId([3; 16])];
        for n in [0usize, 1, 126, 127, 128, 5000] {
            let held = ids(n as u64 + 1, n);
            let run = write(&held);
            for (id, k) in held.iter().zip(0u32..) {
                let place = run.find(id, &spaces).unwrap();
                assert_eq!((place.plain_bytes, place.start), (k + 1, u64::from(k) << 20));
                assert_eq!(place.space, spaces[k as usize % 3]);
            }
            assert!(ids(999, 2000).iter().all(|id| run.find(id, &spaces).is_none()));
            let again = ChunkRun::open(run.file.try_clone().unwrap(), 0, run.len(), keys()).unwrap();
            assert!(held.iter().all(|id| again.find(id, &spaces).is_some()));
        }
    }

    #[test]
    fn a_damaged_page_is_no_answer_and_no_cache() {
        let held = ids(7, 1000);
        let run = write(&held);
        run.file.write_all_at(&[0x55], 3 * PAGE_BYTES as u64 + 100).unwrap();
        let spaces = [VersionId([1; 16]); 3];
        let found = held.iter().filter(|id| run.find(id, &spaces).is_some()).count();
        assert!((1000 - 127..1000).contains(&found), "{found}");
        assert!(ChunkRun::open(run.file.try_clone().unwrap(), 0, 1000, keys()).is_err());
    }

    #[test]
    fn memory_stays_below_two_bytes_a_chunk() {
        let run = write(&ids(8, 20_000));
        assert!(run.memory_bytes() < 20_000 * 2, "{}", run.memory_bytes());
    }
}
