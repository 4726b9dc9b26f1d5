//! Parity of packs in a repository: written when a pack is finished and read back, before any index object names the
//! pack; looked for when a pack cannot be read as it was written.
//!
//! A pack never depends on its parity: without it, it is a pack like any other.

use super::error::{RepoError, Result};
use super::proved_put::put_proved;
use crate::domain::id::PackId;
use crate::format::envelope::{self, Header, ObjectTag};
use crate::format::parity::{self, Parity, ParityShare, Shape, Unhealable};
use crate::storage::{DeleteStore, ErrorKind, ObjectKind, ObjectName, ReadStore, WriteStore};
use std::collections::BTreeMap;

/// Longest parity object that is read, bytes.
pub const OBJECT_BYTES_MAX: u64 = envelope::OBJECT_BYTES_MAX;
/// Bytes read at a time from an object that the storage may be unable to read in parts.
const PIECE_BYTES: u64 = 1 << 20;
/// Shortest part that is tried alone: what cannot be read becomes zeros. A sector of a disk.
const SECTOR_BYTES: u64 = 4096;

/// What came of trying to heal a pack.
#[derive(Debug)]
pub enum Healing {
    /// The whole pack, proved by its own checksum.
    Healed(Vec<u8>),
    /// It has no parity.
    NoParity,
    /// Its parity is not enough.
    TooDamaged(String),
}

/// Writes the parity of a whole pack, durably, and reads it back. Returns its stored length.
///
/// # Errors
/// Storage errors; [`RepoError::ProofFailed`]; a pack that is damaged.
pub fn put(store: &dyn WriteStore, id: PackId, pack: &[u8], share: ParityShare) -> Result<u64> {
    let object = encode(id, pack, Shape::choose(pack.len() as u64, share))?;
    put_encoded(store, id, &object)?;
    Ok(object.len() as u64)
}

/// Writes what [`encode`] made, durably, and reads it back.
///
/// # Errors
/// Storage errors; [`RepoError::ProofFailed`].
pub fn put_encoded(store: &dyn WriteStore, id: PackId, object: &[u8]) -> Result<()> {
    put_proved(store, &ObjectName::parity(id), object)
}

/// The parity object that a whole pack must have in this shape.
///
/// # Errors
/// Damage of the pack; a shape that does not fit it.
pub fn encode(id: PackId, pack: &[u8], shape: Shape) -> Result<Vec<u8>> {
    let failed = |source| RepoError::Format { object: ObjectName::pack(id).to_string(), source };
    let head = pack.first_chunk::<{ envelope::HEADER_BYTES }>();
    let head = head.ok_or_else(|| RepoError::damaged_pack(id, "it is too short"))?;
    let header = Header::from_bytes(head).map_err(failed)?;
    if header.tag != ObjectTag::Pack || header.object_id != id.0 {
        return Err(RepoError::damaged_pack(id, "it holds another object"));
    }
    parity::encode(&header, shape, pack).map_err(failed)
}

/// Makes a pack again from what can be read of it and of its parity. `stored_bytes` is its length as the index has it.
///
/// # Errors
/// Storage errors that do not concern these objects alone.
pub fn heal(store: &dyn ReadStore, id: PackId, stored_bytes: u64) -> Result<Healing> {
    heal_if(store, id, |parity_of| parity_of == stored_bytes)
}

/// As [`heal`] for whoever has no key and so no index: the length is what the parity says.
///
/// # Errors
/// As [`heal`].
pub fn heal_without_index(store: &dyn ReadStore, id: PackId) -> Result<Healing> {
    heal_if(store, id, |_| true)
}

fn heal_if(store: &dyn ReadStore, id: PackId, is_length: impl Fn(u64) -> bool) -> Result<Healing> {
    let Some(object) = read_what_there_is(store, &ObjectName::parity(id), OBJECT_BYTES_MAX)? else {
        return Ok(Healing::NoParity);
    };
    let Some(parity) = Parity::find(&object, id) else {
        return Ok(Healing::TooDamaged("its parity is damaged".to_owned()));
    };
    let stored_bytes = parity.shape().pack_bytes;
    if !is_length(stored_bytes) {
        return Ok(Healing::TooDamaged("its parity is of a pack of another length".to_owned()));
    }
    let pack = read_what_there_is(store, &ObjectName::pack(id), stored_bytes)?.unwrap_or_default();
    Ok(match parity.heal(&pack) {
        Ok(pack) => Healing::Healed(pack),
        Err(error @ (Unhealable::RowsDamaged { .. } | Unhealable::BeyondBudget { .. } | Unhealable::OtherBytes)) => {
            Healing::TooDamaged(error.to_string())
        }
    })
}

/// The bytes of an object, at most so many, with zeros where the storage cannot read it; `None` when it is not there.
///
/// # Errors
/// Storage errors that do not concern this object alone.
pub fn read_what_there_is(store: &dyn ReadStore, name: &ObjectName, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    let stored_bytes = match store.stored_bytes(name) {
        Ok(Some(stored_bytes)) => stored_bytes.min(bytes_max),
        // something else stands under the name
        Ok(None) => return Ok(None),
        Err(error) if error.kind == ErrorKind::Other => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    let mut waiting = vec![(0, stored_bytes)];
    // a stack: the part that comes first is on top
    while let Some((from, to)) = waiting.pop() {
        let length = to - from;
        if length > PIECE_BYTES {
            waiting.extend([(from + PIECE_BYTES, to), (from, from + PIECE_BYTES)]);
            continue;
        }
        match store.get_range(name, from, u32::try_from(length).unwrap_or(u32::MAX)) {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) if matches!(error.kind, ErrorKind::Other | ErrorKind::Size) && length > SECTOR_BYTES => {
                let middle = from + (length / 2).next_multiple_of(SECTOR_BYTES);
                waiting.extend([(middle, to), (from, middle)]);
            }
            Err(error) if matches!(error.kind, ErrorKind::Other | ErrorKind::Size) => {
                let zeros = usize::try_from(length).unwrap_or(0);
                bytes.resize(bytes.len() + zeros, 0);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(bytes))
}

/// The packs that have a parity object, with its stored length. Other names in the folder are left out.
///
/// # Errors
/// Storage errors.
pub fn list(store: &dyn ReadStore) -> Result<BTreeMap<PackId, u64>> {
    let listed = store.list(ObjectKind::Parity)?;
    Ok(listed.iter().filter_map(|info| Some((pack_of(&info.name)?, info.stored_bytes))).collect())
}

/// The pack whose parity has this name, if it is such a name.
pub fn pack_of(name: &ObjectName) -> Option<PackId> {
    let id = PackId::parse(name.as_str().rsplit('/').next()?).ok()?;
    (ObjectName::parity(id) == *name).then_some(id)
}

/// Deletes a pack and then its parity: parity without a pack is nothing, a pack without the parity that it should have
/// is damage. Returns the stored bytes that went.
///
/// # Errors
/// Storage errors.
pub fn delete_pack(store: &dyn DeleteStore, id: PackId) -> Result<u64> {
    let pack_bytes = store.stored_bytes(&ObjectName::pack(id))?;
    let mut removed = if store.delete(&ObjectName::pack(id))? { pack_bytes.unwrap_or(0) } else { 0 };
    if let Some(parity_bytes) = store.stored_bytes(&ObjectName::parity(id))?
        && store.delete(&ObjectName::parity(id))?
    {
        removed += parity_bytes;
    }
    Ok(removed)
}

/// Parity objects whose pack is neither there nor named by an index object: left by a run that died between the
/// two deletions of [`delete_pack`].
///
/// # Errors
/// Storage errors.
pub fn orphans(store: &dyn ReadStore, is_named: impl Fn(PackId) -> bool) -> Result<Vec<PackId>> {
    let mut found = Vec::new();
    // a pack is there before its parity is, so one that has gone by now is not to come
    for pack in list(store)?.into_keys().filter(|pack| !is_named(*pack)) {
        if store.stored_bytes(&ObjectName::pack(pack))?.is_none() {
            found.push(pack);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::RepositoryId;
    use crate::storage::memory::MemoryStore;

    fn whole_pack(id: PackId) -> Vec<u8> {
        let header = Header::new(ObjectTag::Pack, RepositoryId([1; 16]), id.0, 0);
        envelope::encode_object(&header, &(0..50_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
    }

    #[test]
    fn a_pack_comes_back_from_what_there_is() {
        let (store, id) = (MemoryStore::new(), PackId([0xab; 16]));
        let pack = whole_pack(id);
        let length = pack.len() as u64;
        store.put_new(&ObjectName::pack(id), &pack).unwrap();
        assert!(matches!(heal(&store, id, length).unwrap(), Healing::NoParity));
        let bytes = put(&store, id, &pack, ParityShare::new(5).unwrap()).unwrap();
        assert_eq!(list(&store).unwrap(), BTreeMap::from([(id, bytes)]));
        assert!(bytes > length / 20 && bytes < length / 14, "{bytes} of {length}");
        let mut bad = pack.clone();
        bad[5000..9000].fill(0);
        store.raw_replace(ObjectName::pack(id).as_str(), bad);
        assert!(matches!(heal(&store, id, length).unwrap(), Healing::Healed(healed) if healed == pack));
        assert!(matches!(heal(&store, id, length + 1).unwrap(), Healing::TooDamaged(_)));
        store.raw_remove(ObjectName::pack(id).as_str());
        assert!(matches!(heal(&store, id, length).unwrap(), Healing::TooDamaged(_)));
        assert_eq!(orphans(&store, |named| named == id).unwrap(), []);
        assert_eq!(orphans(&store, |_| false).unwrap(), [id]);
        assert_eq!(delete_pack(&store, id).unwrap(), bytes);
        assert_eq!(store.raw_names(), Vec::<String>::new());
    }

    /// Fails in every range that touches one sector of one object, as a disk does.
    struct BadSector(MemoryStore, ObjectName, u64);

    impl ReadStore for BadSector {
        fn location(&self) -> String {
            self.0.location()
        }
        fn get(&self, name: &ObjectName, max_bytes: u64) -> crate::storage::Result<Vec<u8>> {
            self.0.get(name, max_bytes)
        }
        fn get_range(&self, name: &ObjectName, offset: u64, length: u32) -> crate::storage::Result<Vec<u8>> {
            let sector = self.2..self.2 + SECTOR_BYTES;
            if *name == self.1 && offset < sector.end && sector.start < offset + u64::from(length) {
                let (kind, location) = (ErrorKind::Other, self.location());
                let name = name.to_string();
                return Err(crate::storage::Error { kind, operation: "read", name, location, source: None });
            }
            self.0.get_range(name, offset, length)
        }
        fn stored_bytes(&self, name: &ObjectName) -> crate::storage::Result<Option<u64>> {
            self.0.stored_bytes(name)
        }
        fn list(&self, kind: ObjectKind) -> crate::storage::Result<Vec<crate::storage::ObjectInfo>> {
            self.0.list(kind)
        }
        fn list_strays(&self) -> crate::storage::Result<Vec<String>> {
            self.0.list_strays()
        }
        fn reserve_fault(&self) -> crate::storage::Result<Option<String>> {
            self.0.reserve_fault()
        }
    }

    #[test]
    fn a_sector_that_cannot_be_read_costs_its_own_bytes_only() {
        let (store, id) = (MemoryStore::new(), PackId([0xab; 16]));
        let pack = whole_pack(id);
        store.put_new(&ObjectName::pack(id), &pack).unwrap();
        put(&store, id, &pack, ParityShare::new(5).unwrap()).unwrap();
        let name = ObjectName::pack(id);
        for at in [0, 4096, 61_440, pack.len() as u64 / 4096 * 4096] {
            let bad = BadSector(store.clone(), name.clone(), at);
            let read = read_what_there_is(&bad, &name, OBJECT_BYTES_MAX).unwrap().unwrap();
            let differs: Vec<usize> = (0..pack.len()).filter(|n| read[*n] != pack[*n]).collect();
            assert_eq!(read.len(), pack.len());
            assert!(differs.iter().all(|n| (at..at + 4096).contains(&(*n as u64))), "{at}: {}", differs.len());
            assert!(matches!(heal(&bad, id, pack.len() as u64).unwrap(), Healing::Healed(healed) if healed == pack));
        }
        let bad = BadSector(store, ObjectName::parity(id), 4096);
        assert!(matches!(heal(&bad, id, pack.len() as u64).unwrap(), Healing::Healed(healed) if healed == pack));
    }

    #[test]
    fn a_damaged_pack_gets_no_parity() {
        let (store, id) = (MemoryStore::new(), PackId([1; 16]));
        let share = ParityShare::new(5).unwrap();
        for bad in [Vec::new(), vec![0; 500], whole_pack(PackId([2; 16]))] {
            assert!(put(&store, id, &bad, share).is_err());
        }
        assert_eq!(store.raw_names(), Vec::<String>::new());
    }
}
