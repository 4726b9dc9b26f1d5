//! Tests of the local store on a real file system.

use super::*;
use crate::domain::id::{IndexId, KeySlotId, PackId, SnapshotId};
use crate::domain::system::SeededRandom;
use crate::storage::conformance;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends a loop in another thread, also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn repository() -> (tempfile::TempDir, LocalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::create(&dir.path().join("a/repository")).unwrap();
    (dir, store)
}

fn path(store: &LocalStore, name: &str) -> PathBuf {
    store.inner.path.join(name)
}

#[test]
fn keeps_the_contract() {
    let (_dir, store) = repository();
    let other = LocalStore::open(&store.inner.path).unwrap();
    // The lock of the creation lies under tmp/; the contract is checked as later runs see it.
    drop(store);
    let store = LocalStore::open(&other.inner.path).unwrap();
    conformance::check(&store, &other, &SeededRandom::new(3)).unwrap();
    assert_eq!(store.list(ObjectKind::Temporary).unwrap(), []);
}

#[test]
fn files_belong_to_their_owner_alone() {
    let (_dir, store) = repository();
    let name = ObjectName::pack(PackId([7; 16]));
    store.put_new(&name, b"x").unwrap();
    let mode = |name: &str| path(&store, name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(name.as_str()), 0o600);
    for folder in ["", "packs", "packs/07", "keys", "tmp"] {
        assert_eq!(mode(folder), 0o700, "{folder}");
    }
}

#[test]
fn creation_refuses_what_is_there_and_touches_nothing() {
    let (_dir, store) = repository();
    let at = store.inner.path.clone();
    let create = || LocalStore::create(&at).map(|_| ()).unwrap_err().kind;
    assert_eq!(create(), ErrorKind::AlreadyExists, "while the first creator holds its lock");
    store.put_new(&ObjectName::key(KeySlotId([1; 16]), 0), b"slot").unwrap();
    drop(store);
    // What an interrupted init left is cleared: keys without a configuration open nothing.
    let store = LocalStore::create(&at).unwrap();
    assert_eq!(store.list(ObjectKind::Key).unwrap(), []);
    store.put_new(&ObjectName::key(KeySlotId([2; 16]), 0), b"slot").unwrap();
    store.put_new(&ObjectName::config(1), b"config").unwrap();
    drop(store);
    // So is the second copy of a configuration whose first one was never written, where nothing else is.
    let store = LocalStore::create(&at).unwrap();
    assert_eq!((store.list(ObjectKind::Key).unwrap(), store.list(ObjectKind::Config).unwrap()), (vec![], vec![]));
    store.put_new(&ObjectName::key(KeySlotId([3; 16]), 0), b"slot").unwrap();
    for copy in [1, 0] {
        store.put_new(&ObjectName::config(copy), b"config").unwrap();
    }
    drop(store);
    assert_eq!(create(), ErrorKind::AlreadyExists);
    std::fs::remove_file(at.join("config")).unwrap();
    let store = LocalStore::open(&at).unwrap();
    store.put_new(&ObjectName::tombstone(SnapshotId([1; 16])), b"tombstone").unwrap();
    assert_eq!(create(), ErrorKind::AlreadyExists, "a repository that was in use");
    assert_eq!(store.list(ObjectKind::Config).unwrap().len(), 1);
    std::fs::remove_file(at.join("config.copy")).unwrap();
    std::fs::remove_dir_all(at.join("forgotten")).unwrap();
    store.put_new(&ObjectName::pack(PackId([1; 16])), b"pack").unwrap();
    assert_eq!(create(), ErrorKind::AlreadyExists, "packs without a configuration are a damaged repository");
    assert_eq!(store.list(ObjectKind::Key).unwrap().len(), 1);
}

#[test]
fn creation_refuses_foreign_folders_and_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    std::fs::write(dir.path().join("holiday.jpg"), b"x").unwrap();
    let error = LocalStore::create(dir.path()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert!(error.source.unwrap().to_string().contains("holiday.jpg"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    assert!(LocalStore::create(&dir.path().join("holiday.jpg/repository")).is_err());
    std::fs::remove_file(dir.path().join("holiday.jpg")).unwrap();
    let store = LocalStore::create(dir.path()).unwrap();
    assert!(store.list_strays().unwrap().is_empty());
    std::fs::write(dir.path().join("notes.txt"), b"x").unwrap();
    assert_eq!(store.list_strays().unwrap(), ["notes.txt"]);
    let absent = LocalStore::open(&dir.path().join("absent")).unwrap_err();
    assert_eq!(absent.kind, ErrorKind::NotFound);
}

#[test]
fn a_failed_creation_leaves_nothing_new() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("new/repository");
    let made = create_folders_of(&at);
    create::probe(&at).unwrap();
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0, "the probe cleans up");
    std::fs::remove_dir(&at).unwrap();
    assert_eq!(made, 2);
}

fn create_folders_of(at: &Path) -> usize {
    crate::fsio::folder::create_folders(at).unwrap().len()
}

#[test]
fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
    let (_dir, store) = repository();
    let other = LocalStore::open(&store.inner.path).unwrap();
    std::fs::write(path(&store, "tmp/none-dead"), b"half").unwrap();
    std::fs::create_dir(path(&store, "tmp/none-1.session")).unwrap();
    std::fs::create_dir(path(&store, "tmp/none-2.session")).unwrap();
    std::fs::write(path(&store, "tmp/none-2.session/start"), b"half").unwrap();
    let mut writer = store.create(&ObjectName::index(IndexId([1; 16]))).unwrap();
    writer.write(b"alive").unwrap();
    assert_eq!(other.clear_leftovers().unwrap(), 3);
    writer.finish().unwrap();
    assert_eq!(other.get(&ObjectName::index(IndexId([1; 16])), 5).unwrap(), b"alive");
    std::fs::create_dir(path(&store, "tmp/none-3.session")).unwrap();
    std::fs::write(path(&store, "tmp/none-3.session/start"), b"x").unwrap();
    let held = File::open(path(&store, "tmp/none-3.session/start")).unwrap();
    held.try_lock_shared().unwrap();
    assert_eq!(other.clear_leftovers().unwrap(), 0);
}

#[test]
fn sessions_begin_while_leftovers_are_cleared() {
    let (_dir, store) = repository();
    let other = LocalStore::open(&store.inner.path).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let cleaner = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                other.clear_leftovers().unwrap();
            }
        });
        let stop_at_end = StopOnDrop(&stop);
        for n in 0..60u8 {
            let guard = store.begin_session(SnapshotId([n; 16]), b"start").unwrap();
            store.put_new(&ObjectName::session(guard.id(), SessionPart::Manifest), b"m").unwrap();
            store.commit(&*guard).unwrap();
        }
        drop(stop_at_end);
        cleaner.join().unwrap();
    });
    assert_eq!(store.list(ObjectKind::Snapshot).unwrap().len(), 120);
}

#[test]
fn a_process_that_dies_leaves_a_dead_session() {
    let (_dir, store) = repository();
    let id = SnapshotId([8; 16]);
    drop(store.begin_session(id, b"start").unwrap());
    assert!(!store.session_is_alive(id).unwrap());
    let start = path(&store, &format!("sessions/{id}/start"));
    let mut command = std::process::Command::new("flock");
    command.arg("--no-fork").arg(&start).args(["sh", "-c", "echo locked; exec sleep 60"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = [0u8; 7];
    child.stdout.take().unwrap().read_exact(&mut line).unwrap();
    assert!(store.session_is_alive(id).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!store.session_is_alive(id).unwrap());
    assert!(store.fence(id).unwrap());
}

#[test]
fn missing_folders_are_empty_only_where_that_is_harmless() {
    let (_dir, store) = repository();
    for kind in ObjectKind::ALL.into_iter().filter(|k| *k != ObjectKind::Config && *k != ObjectKind::Temporary) {
        std::fs::remove_dir(path(&store, kind.folder())).unwrap();
        let harmful = matches!(kind, ObjectKind::Key | ObjectKind::Pack | ObjectKind::Index | ObjectKind::Snapshot);
        assert_eq!(store.list(kind).is_err(), harmful, "{kind:?}");
    }
    // Folders come back when they are needed.
    store.put_new(&ObjectName::pack(PackId([1; 16])), b"x").unwrap();
    let guard = store.begin_session(SnapshotId([1; 16]), b"start").unwrap();
    store.commit(&*guard).unwrap();
    assert_eq!(store.list(ObjectKind::Snapshot).unwrap().len(), 1);
}

#[test]
fn links_in_place_of_objects_are_refused() {
    let (dir, store) = repository();
    std::fs::write(dir.path().join("secret"), b"secret").unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret"), path(&store, "config")).unwrap();
    let name = ObjectName::config(0);
    assert!(store.get(&name, 99).is_err());
    assert!(store.get_range(&name, 0, 1).is_err());
    assert!(store.stored_bytes(&name).is_err());
    assert_eq!(store.put_new(&name, b"x").unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(dir.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn unknown_names_are_listed_with_their_kind() {
    let (_dir, store) = repository();
    std::fs::write(path(&store, "packs/notes"), b"12").unwrap();
    std::fs::create_dir_all(path(&store, "snapshots/odd")).unwrap();
    std::fs::write(path(&store, "snapshots/odd/part"), b"123").unwrap();
    let names = |kind| {
        let list = store.list(kind).unwrap();
        list.into_iter().map(|i| (i.name.as_str().to_owned(), i.stored_bytes)).collect::<Vec<_>>()
    };
    assert_eq!(names(ObjectKind::Pack), [("packs/notes".to_owned(), 2)]);
    assert_eq!(names(ObjectKind::Snapshot), [("snapshots/odd/part".to_owned(), 3)]);
}

#[test]
fn open_files_are_bounded() {
    let (_dir, store) = repository();
    for n in 0..100u8 {
        let name = ObjectName::pack(PackId([n; 16]));
        store.put_new(&name, &[n; 10]).unwrap();
        assert_eq!(store.get_range(&name, 3, 2).unwrap(), [n; 2]);
        assert!(lock(&store.inner.open_files).len() <= OPEN_FILES_MAX);
    }
    assert_eq!(store.get_range(&ObjectName::pack(PackId([1; 16])), 0, 10).unwrap(), [1; 10]);
}

#[test]
fn a_deleted_snapshot_leaves_no_folder() {
    let (_dir, store) = repository();
    let guard = store.begin_session(SnapshotId([1; 16]), b"start").unwrap();
    store.commit(&*guard).unwrap();
    assert!(store.delete(&ObjectName::snapshot(guard.id(), SessionPart::Start)).unwrap());
    assert_eq!(std::fs::read_dir(path(&store, "snapshots")).unwrap().count(), 0);
}

#[test]
fn the_system_says_what_went_wrong() {
    use rustix::io::Errno;
    for (errno, kind) in [
        (Errno::NOSPC, ErrorKind::NoSpace),
        (Errno::DQUOT, ErrorKind::NoSpace),
        (Errno::FBIG, ErrorKind::NoSpace),
        (Errno::ACCESS, ErrorKind::Refused),
        (Errno::ROFS, ErrorKind::Refused),
        (Errno::NOENT, ErrorKind::NotFound),
        (Errno::EXIST, ErrorKind::AlreadyExists),
        (Errno::INVAL, ErrorKind::Unsuitable),
        (Errno::IO, ErrorKind::Other),
    ] {
        assert_eq!(classify(&errno.into()), kind, "{errno:?}");
    }
}

#[test]
fn a_file_of_another_length_is_dead() {
    let (_dir, store) = repository();
    let mut pending = Pending::create(&store.inner).unwrap();
    let temporary = path(&store, pending.path());
    std::fs::File::options().write(true).open(&temporary).unwrap().set_len(3).unwrap();
    pending.write(b"x").unwrap();
    assert!(pending.sync().is_err(), "the length is checked");
    assert!(pending.write(b"y").is_err(), "a file whose sync failed is dead");
    assert!(pending.sync().is_err(), "and is not synced again");
    drop(pending);
    assert!(!temporary.exists());
}

/// A real limit: a process that may write no file longer than a few KiB, which is this test once more.
#[test]
fn a_full_disk_is_reported_and_leaves_nothing() {
    const PLACE: &str = "HOLDFAST_TEST_FULL_DISK";
    if let Some(at) = std::env::var_os(PLACE) {
        let store = LocalStore::open(Path::new(&at)).unwrap();
        let name = ObjectName::index(IndexId([1; 16]));
        assert_eq!(store.put_new(&name, &[7; 1 << 20]).unwrap_err().kind, ErrorKind::NoSpace);
        assert_eq!(store.stored_bytes(&name).unwrap(), None);
        let mut writer = store.create(&name).unwrap();
        let failed = (0..1024).find_map(|_| writer.write(&[7; 1024]).err()).unwrap();
        assert_eq!(failed.kind, ErrorKind::NoSpace);
        assert!(writer.write(b"x").is_err(), "a writer that failed stays failed");
        assert!(writer.finish().is_err(), "and never gives its object a name");
        assert_eq!(store.stored_bytes(&name).unwrap(), None);
        assert_eq!(store.list(ObjectKind::Temporary).unwrap(), []);
        store.put_new(&name, b"short enough").unwrap();
        return;
    }
    let (_dir, store) = repository();
    let at = store.inner.path.clone();
    drop(store);
    let limited = "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact \"$1\" --nocapture";
    let name = concat!(module_path!(), "::a_full_disk_is_reported_and_leaves_nothing");
    let output = std::process::Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .arg(name.split_once("::").unwrap().1)
        .env(PLACE, &at)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let object = LocalStore::open(&at).unwrap().get(&ObjectName::index(IndexId([1; 16])), 99).unwrap();
    assert_eq!(object, b"short enough");
}
