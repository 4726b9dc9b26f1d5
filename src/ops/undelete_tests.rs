//! `undelete` against stores that misbehave at the worst moment, in memory.

use super::backup::{self, BackupMeans, BackupRequest, SourceFrom, SourceRequest};
use super::cancel::Cancel;
use super::forget::{self, ForgetMeans, Forgetter, Removal};
use super::observer::Silent;
use super::undelete::{self, UndeleteError, UndeleteMeans};
use crate::domain::id::{RepositoryId, SnapshotId};
use crate::domain::snapshot::SystemInfo;
use crate::domain::system::{FixedClock, Random, SeededRandom};
use crate::format::config_object::WriterParameters;
use crate::format::seal::{Keys, Suite};
use crate::repository::{reading, tombstones};
use crate::source::process::SystemProcesses;
use crate::storage::memory::MemoryStore;
use crate::storage::{
    DeleteStore, ObjectInfo, ObjectKind, ObjectName, ObjectWriter, ReadStore, Result, SessionGuard, WriteStore,
};
use std::io::Cursor;
use std::sync::{Arc, Mutex};

/// A store in which somebody fences every session at the moment a tombstone is removed.
struct FencesOnDelete(MemoryStore);

impl ReadStore for FencesOnDelete {
    fn location(&self) -> String {
        self.0.location()
    }
    fn get(&self, name: &ObjectName, max_bytes: u64) -> Result<Vec<u8>> {
        self.0.get(name, max_bytes)
    }
    fn get_range(&self, name: &ObjectName, offset: u64, length: u32) -> Result<Vec<u8>> {
        self.0.get_range(name, offset, length)
    }
    fn stored_bytes(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.0.stored_bytes(name)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectInfo>> {
        self.0.list(kind)
    }
    fn list_strays(&self) -> Result<Vec<String>> {
        self.0.list_strays()
    }
    fn reserve_fault(&self) -> Result<Option<String>> {
        self.0.reserve_fault()
    }
}

impl WriteStore for FencesOnDelete {
    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.0.put_new(name, bytes)
    }
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>> {
        self.0.create(name)
    }
    fn begin_session(&self, id: SnapshotId, start: &[u8]) -> Result<Box<dyn SessionGuard>> {
        self.0.begin_session(id, start)
    }
    fn commit(&self, guard: &dyn SessionGuard) -> Result<()> {
        self.0.commit(guard)
    }
    fn fence(&self, id: SnapshotId) -> Result<bool> {
        self.0.fence(id)
    }
    fn session_is_alive(&self, id: SnapshotId) -> Result<bool> {
        self.0.session_is_alive(id)
    }
    fn settle(&self, kind: ObjectKind) -> Result<()> {
        self.0.settle(kind)
    }
    fn clear_leftovers(&self) -> Result<u64> {
        self.0.clear_leftovers()
    }
}

impl DeleteStore for FencesOnDelete {
    fn delete(&self, name: &ObjectName) -> Result<bool> {
        for id in self.0.list_runs(ObjectKind::Session)? {
            self.0.fence(id)?;
        }
        self.0.delete(name)
    }
    fn remove_run(&self, kind: ObjectKind, id: SnapshotId) -> Result<bool> {
        self.0.remove_run(kind, id)
    }
    fn quarantine(&self, name: &ObjectName) -> Result<Option<ObjectName>> {
        self.0.quarantine(name)
    }
    fn release_reserve(&self) -> Result<u64> {
        self.0.release_reserve()
    }
    fn restore_reserve(&self) -> Result<()> {
        self.0.restore_reserve()
    }
}

struct Setup {
    store: MemoryStore,
    keys: Arc<Keys>,
    random: Arc<dyn Random>,
    clock: FixedClock,
}

impl Setup {
    /// A repository with one snapshot, which is forgotten.
    fn forgotten() -> (Self, SnapshotId) {
        let keys = Arc::new(Keys::derive(&[3; 32], RepositoryId([1; 16]), Suite::Aes256Gcm));
        let clock = FixedClock(Mutex::new(jiff::Timestamp::UNIX_EPOCH));
        let setup = Self { store: MemoryStore::new(), keys, random: Arc::new(SeededRandom::new(5)), clock };
        let means = BackupMeans {
            store: Arc::new(setup.store.clone()) as Arc<dyn WriteStore>,
            keys: Arc::clone(&setup.keys),
            random: Arc::clone(&setup.random),
            parameters: WriterParameters::DEFAULT,
            own_folders: &[],
            clock: &setup.clock,
            processes: &SystemProcesses::new(None),
            observer: &Silent,
            cancel: &Cancel::new(),
            snapshots: &[],
            process_id: 1,
            cache: None,
        };
        let reader = Box::new(Cursor::new(b"create table t (n int);\n".to_vec()));
        let from = SourceFrom::Stdin { reader, file_name: "app.sql".to_owned() };
        let request = BackupRequest {
            sources: vec![SourceRequest { name: "app".to_owned(), from }],
            time_ns: None,
            time_zone: "UTC".to_owned(),
            class: None,
            tags: Vec::new(),
            scope: Vec::new(),
            project_root: None,
            git: None,
            system: SystemInfo { host: "h".to_owned(), ..SystemInfo::default() },
            allow_empty: false,
            min_sizes: Default::default(),
        };
        backup::run(&means, request).unwrap();
        let (snapshots, _) = reading::load_snapshots(&setup.store, &setup.keys).unwrap();
        let who = Forgetter { host: "h".to_owned(), user: "u".to_owned(), tool_version: "test".to_owned() };
        let cancel = Cancel::new();
        let means = ForgetMeans { store: &setup.store, keys: &setup.keys, clock: &setup.clock, cancel: &cancel, who };
        let removal = Removal { snapshot: &snapshots[0], reason: "x".repeat(100_000) };
        let report = forget::run(&means, vec![removal.clone(), removal]).unwrap();
        let id = snapshots[0].snapshot.id;
        // Twice is once: somebody else may have forgotten it meanwhile.
        assert_eq!((report.forgotten, report.blocked), (vec![id, id], vec![]));
        let tombstone = tombstones::load(&setup.store, &setup.keys).unwrap().whole.remove(&id).unwrap();
        assert_eq!(tombstone.record, snapshots[0].digest);
        assert_eq!(tombstone.reason.len(), tombstones::REASON_BYTES_MAX);
        assert_eq!(setup.visible(), 0);
        (setup, id)
    }

    fn visible(&self) -> usize {
        reading::load_snapshots(&self.store, &self.keys).unwrap().0.len()
    }

    fn undelete<S: DeleteStore + 'static>(&self, store: S, id: SnapshotId) -> std::result::Result<(), UndeleteError> {
        let means = UndeleteMeans {
            store: Arc::new(store),
            keys: Arc::clone(&self.keys),
            parameters: WriterParameters::DEFAULT,
            random: Arc::clone(&self.random),
            clock: &self.clock,
            host: "h".to_owned(),
            process_id: 1,
            cache: None,
        };
        let result = undelete::run(&means, id);
        assert!(self.store.list(ObjectKind::Session).unwrap().is_empty(), "no session is left behind");
        result
    }
}

#[test]
fn a_snapshot_comes_back_once() {
    let (setup, id) = Setup::forgotten();
    setup.undelete(setup.store.clone(), id).unwrap();
    assert_eq!(setup.visible(), 1);
    assert!(matches!(setup.undelete(setup.store.clone(), id), Err(UndeleteError::NotForgotten(_))));
}

#[test]
fn one_that_is_fenced_meanwhile_puts_the_tombstone_back() {
    let (setup, id) = Setup::forgotten();
    let result = setup.undelete(FencesOnDelete(setup.store.clone()), id);
    assert!(matches!(result, Err(UndeleteError::Fenced(_))), "{result:?}");
    assert_eq!(setup.visible(), 0);
    assert!(tombstones::load(&setup.store, &setup.keys).unwrap().hides(id));
}

#[test]
fn what_is_gone_or_damaged_does_not_come_back() {
    let (setup, id) = Setup::forgotten();
    for name in setup.store.raw_names().iter().filter(|name| name.starts_with("packs/")) {
        setup.store.raw_remove(name);
    }
    let result = setup.undelete(setup.store.clone(), id);
    assert!(matches!(&result, Err(UndeleteError::Repository(error)) if error.is_damage()), "{result:?}");
    for name in setup.store.raw_names().iter().filter(|name| name.starts_with("snapshots/")) {
        setup.store.raw_remove(name);
    }
    let result = setup.undelete(setup.store.clone(), id);
    assert!(matches!(result, Err(UndeleteError::Gone(_))), "{result:?}");
    assert!(tombstones::load(&setup.store, &setup.keys).unwrap().hides(id));
}

#[test]
fn a_tombstone_under_another_name_hides_nothing() {
    let (setup, id) = Setup::forgotten();
    let bytes = setup.store.get(&ObjectName::tombstone(id), u64::MAX).unwrap();
    setup.store.raw_replace(&format!("forgotten/{}", "ab".repeat(16)), bytes);
    let all = tombstones::load(&setup.store, &setup.keys).unwrap();
    assert_eq!((all.whole.len(), all.damaged.len()), (1, 1));
    assert!(!all.hides(SnapshotId([0xab; 16])));
}
