//! A repository in memory, for tests: the whole contract of [`super`], and hooks that damage what is stored.
//!
//! Clones share the same objects, as two processes share a folder.

use super::{
    DeleteStore, Error, ErrorKind, ObjectInfo, ObjectKind, ObjectName, ObjectWriter, QUARANTINE_ATTEMPTS_MAX,
    ReadStore, Result, SessionGuard, SessionPart, WriteStore,
};
use crate::domain::id::SnapshotId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A store in memory; clones are handles to the same objects.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    objects: BTreeMap<String, Vec<u8>>,
    /// Sessions whose guard lives.
    alive: BTreeSet<SnapshotId>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Test hook: the names of all objects.
    pub fn raw_names(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Test hook: the bytes under a name.
    pub fn raw_get(&self, name: &str) -> Option<Vec<u8>> {
        self.lock().objects.get(name).cloned()
    }

    /// Test hook: puts bytes under a name, whatever is there.
    pub fn raw_replace(&self, name: &str, bytes: Vec<u8>) {
        self.lock().objects.insert(name.to_owned(), bytes);
    }

    /// Test hook: removes what is under a name; returns it.
    pub fn raw_remove(&self, name: &str) -> Option<Vec<u8>> {
        self.lock().objects.remove(name)
    }

    /// Test hook: a separate store with the same objects, as after a copy of the folder. No session is alive in it.
    pub fn raw_copy(&self) -> Self {
        let objects = self.lock().objects.clone();
        Self { shared: Arc::new(Mutex::new(Shared { objects, alive: BTreeSet::new() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, name: impl Into<String>) -> Error {
        Error { kind, operation, name: name.into(), location: self.location(), source: None }
    }
}

impl Shared {
    /// Moves the parts of a session to another folder; false when there is no such session.
    fn move_session(&mut self, id: SnapshotId, to: ObjectKind) -> bool {
        let prefix = format!("sessions/{id}/");
        let parts: Vec<String> = self.objects.keys().filter(|k| k.starts_with(&prefix)).cloned().collect();
        for part in &parts {
            if let Some(bytes) = self.objects.remove(part) {
                self.objects.insert(format!("{}/{id}/{}", to.folder(), &part[prefix.len()..]), bytes);
            }
        }
        !parts.is_empty()
    }

    fn holds_folder(&self, folder: &str) -> bool {
        let prefix = format!("{folder}/");
        self.objects.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
    }
}

impl ReadStore for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn get(&self, name: &ObjectName, max_bytes: u64) -> Result<Vec<u8>> {
        let shared = self.lock();
        let bytes =
            shared.objects.get(name.as_str()).ok_or_else(|| self.error(ErrorKind::NotFound, "read", name.as_str()))?;
        if bytes.len() as u64 > max_bytes {
            return Err(self.error(ErrorKind::Size, "read", name.as_str()));
        }
        Ok(bytes.clone())
    }

    fn get_range(&self, name: &ObjectName, offset: u64, length: u32) -> Result<Vec<u8>> {
        let shared = self.lock();
        let bytes =
            shared.objects.get(name.as_str()).ok_or_else(|| self.error(ErrorKind::NotFound, "read", name.as_str()))?;
        usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(usize::try_from(length).ok()?)?))
            .and_then(|range| bytes.get(range))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| self.error(ErrorKind::Size, "read", name.as_str()))
    }

    fn stored_bytes(&self, name: &ObjectName) -> Result<Option<u64>> {
        Ok(self.lock().objects.get(name.as_str()).map(|bytes| bytes.len() as u64))
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectInfo>> {
        let shared = self.lock();
        let of_kind = |name: &&String| {
            let found = ObjectName::found((*name).clone());
            found.kind() == Some(kind) && (kind == ObjectKind::Config || name.contains('/'))
        };
        let infos = shared.objects.iter().filter(|(name, _)| of_kind(name)).map(|(name, bytes)| ObjectInfo {
            name: ObjectName::found(name.clone()),
            stored_bytes: bytes.len() as u64,
        });
        Ok(infos.collect())
    }

    fn reserve_fault(&self) -> Result<Option<String>> {
        Ok(None)
    }

    fn list_strays(&self) -> Result<Vec<String>> {
        let shared = self.lock();
        let tops: BTreeSet<&str> = shared.objects.keys().filter_map(|name| name.split('/').next()).collect();
        let stray = |top: &&str| ObjectName::found((*top).to_owned()).kind().is_none();
        Ok(tops.into_iter().filter(stray).map(str::to_owned).collect())
    }
}

impl WriteStore for MemoryStore {
    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        let mut shared = self.lock();
        match name.kind() {
            None | Some(ObjectKind::Temporary) => {
                return Err(self.error(ErrorKind::Unsuitable, "write", name.as_str()));
            }
            Some(kind @ (ObjectKind::Session | ObjectKind::Snapshot | ObjectKind::Fenced)) => {
                let folder = name.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
                if !shared.holds_folder(folder) {
                    let gone = if kind == ObjectKind::Session { ErrorKind::Fenced } else { ErrorKind::NotFound };
                    return Err(self.error(gone, "write", name.as_str()));
                }
            }
            Some(_) => {}
        }
        if shared.objects.contains_key(name.as_str()) {
            return Err(self.error(ErrorKind::AlreadyExists, "write", name.as_str()));
        }
        shared.objects.insert(name.as_str().to_owned(), bytes.to_vec());
        Ok(())
    }

    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(MemoryWriter { store: self.clone(), name: name.clone(), bytes: Vec::new() }))
    }

    fn begin_session(&self, id: SnapshotId, start: &[u8]) -> Result<Box<dyn SessionGuard>> {
        let mut shared = self.lock();
        let name = ObjectName::session(id, SessionPart::Start);
        let taken = ["sessions", "snapshots", "fenced"].iter().any(|top| shared.holds_folder(&format!("{top}/{id}")));
        if taken || !shared.alive.insert(id) {
            return Err(self.error(ErrorKind::AlreadyExists, "begin", format!("session {id}")));
        }
        shared.objects.insert(name.as_str().to_owned(), start.to_vec());
        Ok(Box::new(MemoryGuard { store: self.clone(), id }))
    }

    fn commit(&self, guard: &dyn SessionGuard) -> Result<()> {
        if self.lock().move_session(guard.id(), ObjectKind::Snapshot) {
            Ok(())
        } else {
            Err(self.error(ErrorKind::Fenced, "commit", format!("session {}", guard.id())))
        }
    }

    fn fence(&self, id: SnapshotId) -> Result<bool> {
        Ok(self.lock().move_session(id, ObjectKind::Fenced))
    }

    fn session_is_alive(&self, id: SnapshotId) -> Result<bool> {
        let shared = self.lock();
        Ok(shared.alive.contains(&id) && shared.holds_folder(&format!("sessions/{id}")))
    }

    fn settle(&self, _: ObjectKind) -> Result<()> {
        Ok(())
    }

    fn clear_leftovers(&self) -> Result<u64> {
        let mut shared = self.lock();
        let before = shared.objects.len();
        shared.objects.retain(|name, _| !name.starts_with("tmp/"));
        Ok((before - shared.objects.len()) as u64)
    }
}

impl DeleteStore for MemoryStore {
    fn delete(&self, name: &ObjectName) -> Result<bool> {
        Ok(self.lock().objects.remove(name.as_str()).is_some())
    }

    fn remove_run(&self, kind: ObjectKind, id: SnapshotId) -> Result<bool> {
        let mut shared = self.lock();
        let (folder, before) = (format!("{}/{id}/", kind.folder()), shared.objects.len());
        shared.objects.retain(|name, _| !name.starts_with(&folder));
        Ok(shared.objects.len() < before)
    }

    fn quarantine(&self, name: &ObjectName) -> Result<Option<ObjectName>> {
        let mut shared = self.lock();
        let Some(bytes) = shared.objects.remove(name.as_str()) else { return Ok(None) };
        let mut names = (0..QUARANTINE_ATTEMPTS_MAX).map(|attempt| ObjectName::quarantined(name, attempt));
        match names.find(|free| !shared.objects.contains_key(free.as_str())) {
            Some(free) => {
                shared.objects.insert(free.as_str().to_owned(), bytes);
                Ok(Some(free))
            }
            None => {
                shared.objects.insert(name.as_str().to_owned(), bytes);
                Err(self.error(ErrorKind::AlreadyExists, "put aside", name.as_str()))
            }
        }
    }

    fn release_reserve(&self) -> Result<u64> {
        Ok(u64::MAX)
    }

    fn restore_reserve(&self) -> Result<()> {
        Ok(())
    }
}

struct MemoryWriter {
    store: MemoryStore,
    name: ObjectName,
    bytes: Vec<u8>,
}

impl ObjectWriter for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.store.put_new(&self.name, &self.bytes)
    }
}

struct MemoryGuard {
    store: MemoryStore,
    id: SnapshotId,
}

impl SessionGuard for MemoryGuard {
    fn id(&self) -> SnapshotId {
        self.id
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        self.store.lock().alive.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::SeededRandom;
    use crate::storage::conformance;

    #[test]
    fn keeps_the_contract() {
        let store = MemoryStore::new();
        conformance::check(&store, &store.clone(), &SeededRandom::new(1)).unwrap();
    }

    #[test]
    fn hooks_reach_the_raw_objects() {
        let store = MemoryStore::new();
        store.put_new(&ObjectName::config(0), b"abc").unwrap();
        store.raw_replace("config", b"x".to_vec());
        assert_eq!(store.get(&ObjectName::config(0), 9).unwrap(), b"x");
        let copy = store.raw_copy();
        assert_eq!(store.raw_remove("config"), Some(b"x".to_vec()));
        assert_eq!(copy.raw_names(), ["config"]);
        store.raw_replace("tmp/left", vec![1]);
        store.raw_replace("odd", vec![1]);
        assert_eq!(store.list_strays().unwrap(), ["odd"]);
        assert_eq!(store.clear_leftovers().unwrap(), 1);
    }
}
