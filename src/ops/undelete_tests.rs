//! `undelete` against stores that misbehave at the worst moment, in memory.

use super::backup::{self, BackupMeans, BackupRequest, SourceFrom, SourceRequest};
use super::cancel::Cancel;
use super::forget::{self, ForgetMeans, Forgetter, Removal};
use super::observer::Silent;
use super::prune::{self, PruneMeans, PruneOptions, PruneReport};
use super::repair::RepairMeans;
use super::repair::packs::{self, PacksRequest};
use super::repair_index::Local;
use super::undelete::{self, UndeleteError, UndeleteMeans};
use crate::catalog::Catalog;
use crate::domain::id::{RepositoryId, SnapshotId};
use crate::domain::snapshot::SystemInfo;
use crate::domain::system::{FixedClock, Random, SeededRandom};
use crate::format::config_object::WriterParameters;
use crate::format::seal::{Keys, Suite};
use crate::repository::reading::Reading;
use crate::repository::session::prove_stream;
use crate::repository::snapshots::LoadedSnapshot;
use crate::repository::{condemned, reading, tombstones};
use crate::source::process::SystemProcesses;
use crate::storage::memory::MemoryStore;
use crate::storage::{
    DeleteStore, ObjectInfo, ObjectKind, ObjectName, ObjectWriter, ReadStore, Result, SessionGuard, WriteStore,
};
use std::io::Cursor;
use std::sync::{Arc, Mutex};
use std::time::Duration;

type BeforeDelete = Box<dyn Fn(&MemoryStore) + Send + Sync>;
type AfterList = Box<dyn Fn(ObjectKind) + Send + Sync>;
type InsteadOfPut = Box<dyn Fn(&ObjectName, &[u8]) -> bool + Send + Sync>;

/// A store in which something else happens at a chosen moment.
struct Interrupted {
    store: MemoryStore,
    /// Before an object is removed.
    before_delete: BeforeDelete,
    /// After objects were listed.
    after_list: AfterList,
    /// Before an object is written; true when it was written on the way.
    instead_of_put: InsteadOfPut,
}

impl Interrupted {
    fn deleting(store: &MemoryStore, before_delete: BeforeDelete) -> Self {
        Self { before_delete, ..Self::new(store) }
    }

    fn listing(store: &MemoryStore, after_list: AfterList) -> Self {
        Self { after_list, ..Self::new(store) }
    }

    fn putting(store: &MemoryStore, instead_of_put: InsteadOfPut) -> Self {
        Self { instead_of_put, ..Self::new(store) }
    }

    fn new(store: &MemoryStore) -> Self {
        Self {
            store: store.clone(),
            before_delete: Box::new(|_| ()),
            after_list: Box::new(|_| ()),
            instead_of_put: Box::new(|_, _| false),
        }
    }
}

impl ReadStore for Interrupted {
    fn location(&self) -> String {
        self.store.location()
    }
    fn get(&self, name: &ObjectName, max_bytes: u64) -> Result<Vec<u8>> {
        self.store.get(name, max_bytes)
    }
    fn get_range(&self, name: &ObjectName, offset: u64, length: u32) -> Result<Vec<u8>> {
        self.store.get_range(name, offset, length)
    }
    fn stored_bytes(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.store.stored_bytes(name)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectInfo>> {
        let listed = self.store.list(kind);
        (self.after_list)(kind);
        listed
    }
    fn list_strays(&self) -> Result<Vec<String>> {
        self.store.list_strays()
    }
    fn reserve_fault(&self) -> Result<Option<String>> {
        self.store.reserve_fault()
    }
}

impl WriteStore for Interrupted {
    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        if (self.instead_of_put)(name, bytes) { Ok(()) } else { self.store.put_new(name, bytes) }
    }
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>> {
        self.store.create(name)
    }
    fn begin_session(&self, id: SnapshotId, start: &[u8]) -> Result<Box<dyn SessionGuard>> {
        self.store.begin_session(id, start)
    }
    fn commit(&self, guard: &dyn SessionGuard) -> Result<()> {
        self.store.commit(guard)
    }
    fn fence(&self, id: SnapshotId) -> Result<bool> {
        self.store.fence(id)
    }
    fn session_is_alive(&self, id: SnapshotId) -> Result<bool> {
        self.store.session_is_alive(id)
    }
    fn settle(&self, kind: ObjectKind) -> Result<()> {
        self.store.settle(kind)
    }
    fn clear_leftovers(&self) -> Result<u64> {
        self.store.clear_leftovers()
    }
}

impl DeleteStore for Interrupted {
    fn delete(&self, name: &ObjectName) -> Result<bool> {
        (self.before_delete)(&self.store);
        self.store.delete(name)
    }
    fn remove_run(&self, kind: ObjectKind, id: SnapshotId) -> Result<bool> {
        self.store.remove_run(kind, id)
    }
    fn quarantine(&self, name: &ObjectName) -> Result<Option<ObjectName>> {
        self.store.quarantine(name)
    }
    fn release_reserve(&self) -> Result<u64> {
        self.store.release_reserve()
    }
    fn restore_reserve(&self) -> Result<()> {
        self.store.restore_reserve()
    }
}

struct Setup {
    store: MemoryStore,
    keys: Arc<Keys>,
    random: Arc<dyn Random>,
    clock: FixedClock,
}

impl Setup {
    fn new() -> Self {
        let keys = Arc::new(Keys::derive(&[3; 32], RepositoryId([1; 16]), Suite::Aes256Gcm));
        let clock = FixedClock(Mutex::new(jiff::Timestamp::UNIX_EPOCH));
        Self { store: MemoryStore::new(), keys, random: Arc::new(SeededRandom::new(5)), clock }
    }

    fn backup(&self, bytes: Vec<u8>) -> SnapshotId {
        let snapshots = self.snapshots();
        let means = BackupMeans {
            store: Arc::new(self.store.clone()) as Arc<dyn WriteStore>,
            keys: Arc::clone(&self.keys),
            random: Arc::clone(&self.random),
            parameters: WriterParameters::DEFAULT,
            own_folders: &[],
            clock: &self.clock,
            processes: &SystemProcesses::new(None),
            observer: &Silent,
            cancel: &Cancel::new(),
            snapshots: &snapshots,
            process_id: 1,
            cache: None,
        };
        let from = SourceFrom::Stdin { reader: Box::new(Cursor::new(bytes)), file_name: "app.sql".to_owned() };
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
        backup::run(&means, request).unwrap().snapshot.id
    }

    /// Forgets a snapshot, twice: once somebody else may have forgotten it meanwhile.
    fn forget(&self, id: SnapshotId) {
        let snapshots = self.snapshots();
        let snapshot = snapshots.iter().find(|loaded| loaded.snapshot.id == id).unwrap();
        let who = Forgetter { host: "h".to_owned(), user: "u".to_owned(), tool_version: "test".to_owned() };
        let cancel = Cancel::new();
        let means = ForgetMeans { store: &self.store, keys: &self.keys, clock: &self.clock, cancel: &cancel, who };
        let removal = Removal { snapshot, reason: "x".repeat(100_000) };
        let report = forget::run(&means, vec![removal.clone(), removal]).unwrap();
        assert_eq!((report.forgotten, report.blocked), (vec![id, id], vec![]));
        let tombstone = tombstones::load(&self.store, &self.keys).unwrap().whole.remove(&id).unwrap();
        assert_eq!(tombstone.record, snapshot.digest);
        assert_eq!(tombstone.reason.len(), tombstones::REASON_BYTES_MAX);
    }

    /// A repository with one snapshot, which is forgotten.
    fn forgotten() -> (Self, SnapshotId) {
        let setup = Self::new();
        let id = setup.backup(b"create table t (n int);\n".to_vec());
        setup.forget(id);
        assert_eq!(setup.visible(), 0);
        (setup, id)
    }

    /// Prunes at once what is forgotten.
    fn prune(&self, store: impl DeleteStore + 'static) -> PruneReport {
        let store = Arc::new(store);
        let catalog = Catalog::none();
        let roots = || prune::roots::read(&self.store, &self.keys, &catalog, i64::MAX, Duration::ZERO);
        let means = PruneMeans {
            store,
            keys: Arc::clone(&self.keys),
            parameters: WriterParameters::DEFAULT,
            random: Arc::clone(&self.random),
            clock: &self.clock,
            observer: &Silent,
            cancel: &Cancel::new(),
            cache: None,
            catalog: &catalog,
            host: "h".to_owned(),
            process_id: 1,
            roots: &roots,
        };
        prune::run(&means, &PruneOptions::default()).unwrap()
    }

    /// Parts of records that one copy number alone holds, and whether every visible stream proves.
    fn single_copies(&self) -> u64 {
        let reading = Reading::open(Arc::new(self.store.clone()), Arc::clone(&self.keys), None).unwrap();
        for loaded in self.snapshots() {
            let version = loaded.snapshot.sources[0].streams[0].version;
            prove_stream(&reading.index, &reading.packs, version).unwrap();
        }
        let catalog = Catalog::none();
        let means = RepairMeans {
            store: Arc::new(self.store.clone()),
            keys: Arc::clone(&self.keys),
            parameters: WriterParameters::DEFAULT,
            random: Arc::clone(&self.random),
            clock: &self.clock,
            observer: &Silent,
            cancel: &Cancel::new(),
            local: Local { catalog: &catalog, cache: None },
            host: "h".to_owned(),
            process_id: 1,
        };
        let report = packs::run(&means, &PacksRequest { dry_run: true, ..PacksRequest::default() }).unwrap();
        assert_eq!((report.damaged.len(), report.lost.len()), (0, 0), "{report:?}");
        report.copies_made
    }

    fn snapshots(&self) -> Vec<LoadedSnapshot> {
        reading::load_snapshots(&self.store, &self.keys).unwrap().0
    }

    fn visible(&self) -> usize {
        self.snapshots().len()
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
        undelete::run(&means, id)
    }
}

#[test]
fn a_snapshot_comes_back_once() {
    let (setup, id) = Setup::forgotten();
    setup.undelete(setup.store.clone(), id).unwrap();
    assert!(setup.store.list(ObjectKind::Session).unwrap().is_empty(), "no session is left behind");
    assert_eq!(setup.visible(), 1);
    assert!(matches!(setup.undelete(setup.store.clone(), id), Err(UndeleteError::NotForgotten(_))));
}

#[test]
fn one_that_is_fenced_meanwhile_puts_the_tombstone_back() {
    let (setup, id) = Setup::forgotten();
    let fence_all = |store: &MemoryStore| {
        for id in store.list_runs(ObjectKind::Session).unwrap() {
            store.fence(id).unwrap();
        }
    };
    let result = setup.undelete(Interrupted::deleting(&setup.store, Box::new(fence_all)), id);
    assert!(matches!(result, Err(UndeleteError::Fenced(_))), "{result:?}");
    assert!(setup.store.list(ObjectKind::Session).unwrap().is_empty(), "no session is left behind");
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

/// Rows of which a later state changes some.
fn rows(state: u64) -> Vec<u8> {
    let row = |n: u64| {
        let changed = if n % 2000 == 7 { state } else { 0 };
        format!("{n}\t{}\n", blake3::hash(&(n * 100 + changed).to_le_bytes()).to_hex())
    };
    (0..8000).map(row).collect::<String>().into_bytes()
}

/// A prune has marked without the snapshot when it is undeleted, before the prune's record is written or while it is. Of what
/// the record names the other copy would serve every reader; it must not be all that is left.
#[test]
fn what_comes_back_while_a_prune_condemns_it_keeps_both_copies() {
    for record_first in [false, true] {
        let setup = Arc::new(Setup::new());
        let first = setup.backup(rows(0));
        setup.backup(rows(1));
        setup.forget(first);
        let inner = Arc::clone(&setup);
        let comes_back = move |name: &ObjectName, bytes: &[u8]| {
            if !name.as_str().starts_with("condemned/") {
                return false;
            }
            let (name, bytes) = (name.clone(), bytes.to_vec());
            let store = Interrupted::deleting(
                &inner.store,
                Box::new(move |store| {
                    if record_first {
                        store.put_new(&name, &bytes).unwrap();
                    }
                }),
            );
            inner.undelete(store, first).unwrap();
            record_first
        };
        let report = setup.prune(Interrupted::putting(&setup.store, Box::new(comes_back)));
        assert!(report.packs_removed > 0 && report.removed_bytes == 0, "{report:?}");
        assert_eq!(setup.visible(), 2);
        for _ in 0..2 {
            setup.prune(setup.store.clone());
            assert_eq!((setup.visible(), setup.single_copies()), (2, 0));
        }
        assert_eq!(condemned::list(&setup.store).unwrap(), []);
    }
}

/// A snapshot that is forgotten after a prune has read the tombstones is kept by it.
#[test]
fn what_is_forgotten_while_a_prune_lists_is_kept_by_it() {
    let setup = Arc::new(Setup::new());
    let (first, second) = (setup.backup(rows(0)), setup.backup(rows(1)));
    let inner = Arc::clone(&setup);
    let forgets = move |kind| {
        if kind == ObjectKind::Forgotten && inner.visible() == 2 {
            inner.forget(first);
        }
    };
    let store = Interrupted::listing(&setup.store, Box::new(forgets));
    let roots = prune::roots::read(&store, &setup.keys, &Catalog::none(), i64::MAX, Duration::ZERO).unwrap();
    assert_eq!(setup.visible(), 1);
    let mut both = vec![first, second];
    both.sort_unstable();
    assert_eq!((roots.kept, roots.gone, roots.versions.len()), (both, vec![], 2));
}

/// A clock may only delay: what was forgotten a moment ago stays, however far the clock of a later prune is ahead.
#[test]
fn a_clock_that_jumps_ahead_ends_no_grace() {
    let setup = Setup::new();
    let (first, second) = (setup.backup(rows(0)), setup.backup(rows(1)));
    setup.forget(first);
    let grace = Duration::from_secs(7 * 86_400);
    for now_ns in [i64::MIN, 0, i64::MAX / 2, i64::MAX] {
        let roots = prune::roots::read(&setup.store, &setup.keys, &Catalog::none(), now_ns, grace).unwrap();
        assert!(roots.kept.len() == 2 && roots.gone.is_empty(), "{now_ns}: {roots:?}");
    }
    // not even where nothing is left that could say how late it is
    setup.forget(second);
    let roots = prune::roots::read(&setup.store, &setup.keys, &Catalog::none(), i64::MAX, grace).unwrap();
    assert!(roots.kept.len() == 2 && roots.gone.is_empty(), "{roots:?}");
    let roots = prune::roots::read(&setup.store, &setup.keys, &Catalog::none(), 0, Duration::ZERO).unwrap();
    assert!(roots.kept.is_empty() && roots.gone.len() == 2, "{roots:?}");
}
