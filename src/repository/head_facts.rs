//! What marking ([`super::liveness`]) needs of the heads of records, remembered from one prune to the next: otherwise each
//! prune would read the head of every version that is kept, however little there is to do.
//!
//! The file in the local cache is disposable: derived from records, which never change under a version and a generation,
//! keyed to the repository, left aside whenever anything about it is not as expected, and never asked about a record that
//! the index does not name. It holds what the last prune asked for, so it grows with the kept versions alone. A full prune
//! reads everything anew.
//!
//! File: 8 bytes magic, u64 length, 32 bytes keyed hash over the length and the rest, the rest (codec).

use super::error::Result;
use super::index::RepositoryIndex;
use super::pack_reader::PackReader;
use super::stream_reader::read_head;
use crate::domain::id::VersionId;
use crate::format::codec;
use crate::format::gathered::Gathered;
use crate::format::seal::Keys;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;

const MAGIC: &[u8; 8] = b"hf-rec-1";
const HEAD_BYTES: usize = 8 + 8 + 32;
const FILE_NAME: &str = "records";
/// Longest file that is written or read: some million records.
const BODY_BYTES_MAX: u64 = 128 << 20;
/// What its records may take in memory.
const DECODED_BYTES_MAX: usize = 1 << 30;

/// The parts of a head that marking needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) generation: u32,
    pub(super) flat_runs: u64,
    pub(super) parent: Option<VersionId>,
    /// Foreign literal spaces.
    pub(super) spaces: Vec<VersionId>,
    pub(super) literal_bytes: u64,
    pub(super) gathered: Option<Gathered>,
}

/// The facts of many heads.
#[derive(Debug, Default)]
pub struct HeadFacts {
    known: RefCell<HashMap<(VersionId, u32), Rc<Facts>>>,
    asked: RefCell<HashSet<(VersionId, u32)>>,
    /// Heads that had to be read.
    read: Cell<u64>,
}

fn mac(keys: &Keys, body: &[u8]) -> [u8; 32] {
    let mut input = b"head facts".to_vec();
    input.extend_from_slice(&(body.len() as u64).to_le_bytes());
    input.extend_from_slice(body);
    keys.mac(&input)
}

impl HeadFacts {
    /// What the file in a cache folder holds; nothing where there is none, or where it is not as it was written.
    pub fn open(folder: Option<&Path>, keys: &Keys) -> Self {
        let known = folder.and_then(|folder| stored(&folder.join(FILE_NAME), keys)).unwrap_or_default();
        let known = known.into_iter().map(|(id, facts)| ((id, facts.generation), Rc::new(facts))).collect();
        Self { known: RefCell::new(known), ..Self::default() }
    }

    /// Replaces the file, if there is anything new to remember.
    ///
    /// # Errors
    /// What the system says; nothing but time is lost by it.
    pub fn store(&self, folder: &Path, keys: &Keys) -> io::Result<()> {
        let (known, asked) = (self.known.borrow(), self.asked.borrow());
        if self.read.get() == 0 && asked.len() == known.len() {
            return Ok(());
        }
        let facts: Vec<(VersionId, &Facts)> =
            asked.iter().filter_map(|key| Some((key.0, known.get(key)?.as_ref()))).collect();
        let body = codec::encode(&facts);
        if body.len() as u64 > BODY_BYTES_MAX {
            return Ok(());
        }
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(MAGIC)?;
        file.write_all(&(body.len() as u64).to_le_bytes())?;
        file.write_all(&mac(keys, &body))?;
        file.write_all(&body)?;
        file.persist(folder.join(FILE_NAME)).map_err(|e| e.error)?;
        Ok(())
    }

    /// Heads that were read because nothing was known of them.
    pub fn heads_read(&self) -> u64 {
        self.read.get()
    }

    /// The facts of the record that serves a version in this index.
    ///
    /// # Errors
    /// Damage or absence of the record, storage errors.
    pub(super) fn of(&self, index: &RepositoryIndex, packs: &PackReader, version: VersionId) -> Result<Rc<Facts>> {
        if let Some(place) = index.record_places(version).first() {
            let key = (version, place.generation);
            if let Some(facts) = self.known.borrow().get(&key) {
                self.asked.borrow_mut().insert(key);
                return Ok(Rc::clone(facts));
            }
        }
        let (head, _) = read_head(index, packs, version)?;
        let facts = Rc::new(Facts {
            generation: head.generation,
            flat_runs: head.flat_runs,
            parent: head.parent,
            gathered: Gathered::of(&head.extensions),
            spaces: head.spaces.into_iter().filter(|space| *space != version).collect(),
            literal_bytes: head.literal_bytes,
        });
        self.read.set(self.read.get() + 1);
        let key = (version, facts.generation);
        self.known.borrow_mut().insert(key, Rc::clone(&facts));
        self.asked.borrow_mut().insert(key);
        Ok(facts)
    }
}

fn stored(path: &Path, keys: &Keys) -> Option<Vec<(VersionId, Facts)>> {
    let mut file = File::open(path).ok()?;
    let mut head = [0u8; HEAD_BYTES];
    file.read_exact(&mut head).ok()?;
    let (magic, rest) = head.split_first_chunk::<8>()?;
    let (length, wanted) = rest.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    if magic != MAGIC || length > BODY_BYTES_MAX || file.metadata().ok()?.len() != HEAD_BYTES as u64 + length {
        return None;
    }
    let mut body = vec![0; usize::try_from(length).ok()?];
    file.read_exact(&mut body).ok()?;
    if mac(keys, &body) != wanted {
        return None;
    }
    codec::decode::<_, DECODED_BYTES_MAX>(&body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::RepositoryId;
    use crate::format::seal::Suite;

    fn keys(root: u8) -> Keys {
        Keys::derive(&[root; 32], RepositoryId([7; 16]), Suite::Aes256Gcm)
    }

    fn some() -> HeadFacts {
        let all = HeadFacts::default();
        for n in 0..50u8 {
            let facts = Facts {
                generation: u32::from(n),
                flat_runs: 7,
                parent: (n > 0).then(|| VersionId([n - 1; 16])),
                spaces: vec![VersionId([200; 16]); usize::from(n)],
                literal_bytes: u64::from(n) << 33,
                gathered: (n % 3 == 0).then_some(Gathered { space: VersionId([n; 16]), bytes: 5 }),
            };
            all.known.borrow_mut().insert((VersionId([n; 16]), u32::from(n)), Rc::new(facts));
        }
        all
    }

    #[test]
    fn is_read_as_written_and_anything_else_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let all = some();
        all.read.set(50);
        all.asked.borrow_mut().extend(all.known.borrow().keys().filter(|key| key.1 != 4));
        all.store(folder.path(), &keys(1)).unwrap();
        let back = HeadFacts::open(Some(folder.path()), &keys(1));
        assert_eq!(back.known.borrow().len(), 49, "what nobody asked for is dropped");
        for (key, facts) in back.known.borrow().iter() {
            assert_eq!(Some(facts), all.known.borrow().get(key));
        }
        assert!(HeadFacts::open(Some(folder.path()), &keys(2)).known.borrow().is_empty());
        assert!(HeadFacts::open(None, &keys(1)).known.borrow().is_empty());
        let whole = std::fs::read(folder.path().join(FILE_NAME)).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(folder.path().join(FILE_NAME), &bytes).unwrap();
            assert!(stored(&folder.path().join(FILE_NAME), &keys(1)).is_none(), "byte {at}");
            std::fs::write(folder.path().join(FILE_NAME), &whole[..at]).unwrap();
            assert!(stored(&folder.path().join(FILE_NAME), &keys(1)).is_none(), "cut at {at}");
        }
    }
}
