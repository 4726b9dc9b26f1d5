//! Which files a backup reads again, and what a tree that was copied afresh costs.

use crate::domain::id::{RepositoryId, SnapshotId, VersionId};
use crate::domain::snapshot::{FileCounts, Snapshot, StreamRecord, StreamRole, SystemInfo};
use crate::domain::system::{FixedClock, Random, SeededRandom};
use crate::format::config_object::WriterParameters;
use crate::format::seal::{Keys, Suite};
use crate::ops::backup::{self, BackupMeans, BackupReport, BackupRequest, SourceFrom, SourceRequest};
use crate::ops::cancel::Cancel;
use crate::ops::observer::Silent;
use crate::repository::index_loader;
use crate::repository::reading::{Reading, load_snapshots};
use crate::repository::session::{BackupSession, SessionStart};
use crate::repository::stream_writer::{StreamSettings, StreamWriter};
use crate::source::process::SystemProcesses;
use crate::storage::WriteStore;
use crate::storage::memory::MemoryStore;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// A tree on disk and a repository without encryption, whose packs show what they hold.
struct World {
    directory: tempfile::TempDir,
    store: MemoryStore,
    keys: Arc<Keys>,
    random: Arc<dyn Random>,
}

impl World {
    /// With `count` files in folders of a hundred.
    fn new(count: usize) -> Self {
        let keys = Arc::new(Keys::derive(&[3; 32], RepositoryId([1; 16]), Suite::None));
        let directory = tempfile::tempdir().unwrap();
        let world = Self { directory, store: MemoryStore::new(), keys, random: Arc::new(SeededRandom::new(5)) };
        world.fill(count);
        world
    }

    /// Makes every file of the tree, with the same contents and times whenever it is called.
    fn fill(&self, count: usize) {
        for n in 0..count {
            let text = format!("file {n}, {}", "text ".repeat(n % 40));
            self.write(&format!("d{:02}/f{n:05}", n / 100), text.as_bytes());
        }
    }

    fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tree().join(name)
    }

    /// A file that is an hour old, in a folder that is.
    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        for path in path.ancestors().take_while(|path| *path != self.directory.path()) {
            set_time(path, 0);
        }
    }

    fn backup(&self) -> BackupReport {
        let (snapshots, unreadable) = load_snapshots(&self.store, &self.keys).unwrap();
        assert!(unreadable.is_empty());
        let means = BackupMeans {
            store: Arc::new(self.store.clone()) as Arc<dyn WriteStore>,
            keys: Arc::clone(&self.keys),
            random: Arc::clone(&self.random),
            parameters: WriterParameters::DEFAULT,
            own_folders: &[],
            // every file is long settled; each run is newer than the one before
            clock: &FixedClock(Mutex::new(
                jiff::Timestamp::from_second(4_000_000_000 + snapshots.len() as i64).unwrap(),
            )),
            processes: &SystemProcesses::default(),
            observer: &Silent,
            cancel: &Cancel::new(),
            snapshots: &snapshots,
            process_id: 1,
            cache: None,
        };
        let from = SourceFrom::Files {
            roots: vec![self.tree()],
            exclude: Vec::new(),
            default_excludes: true,
            one_file_system: false,
        };
        let request = BackupRequest {
            sources: vec![SourceRequest { name: "code".to_owned(), from }],
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
        let report = backup::run(&means, request).unwrap();
        self.check(&report.snapshot);
        report
    }

    fn reading(&self) -> Reading {
        Reading::open(Arc::new(self.store.clone()), Arc::clone(&self.keys), None).unwrap()
    }

    /// Compares a snapshot of now with the tree as it is now.
    fn check(&self, snapshot: &Snapshot) {
        let reading = self.reading();
        let source = snapshot.source("code").unwrap();
        let mut content = reading.content(source).unwrap();
        let mut files = 0;
        for placed in reading.tree(source).unwrap().map(Result::unwrap) {
            let path = PathBuf::from(String::from_utf8(placed.entry.path.clone()).unwrap());
            if !path.is_file() {
                continue;
            }
            let mut bytes = Vec::new();
            let copied = reading.copy_file::<()>(&mut content, &placed, |part| {
                bytes.extend_from_slice(part);
                Ok(())
            });
            assert!(copied.is_ok() && bytes == fs::read(&path).unwrap(), "{path:?}");
            files += 1;
        }
        assert_eq!(files * 4, stream(snapshot, StreamRole::Identities).plain_bytes);
    }

    /// The bytes of a version.
    fn bytes(&self, version: VersionId) -> Vec<u8> {
        let reading = self.reading();
        let mut stream = reading.stream(version).unwrap();
        let (mut bytes, end) = (Vec::new(), stream.plain_bytes());
        stream.read(&reading.index, &reading.packs, 0, end, &mut bytes).unwrap();
        bytes
    }

    /// Commits the snapshot once more, with other identities or none.
    fn commit_with(&self, snapshot: &Snapshot, identities: Option<&[u8]>) {
        let id = SnapshotId(self.random.bytes());
        let mut session = self.session(id);
        let mut changed = Snapshot { id, time_ns: snapshot.time_ns + 1, ..snapshot.clone() };
        let streams = &mut changed.sources[0].streams;
        match identities {
            Some(bytes) => {
                let mut writer = StreamWriter::new(&session, None, Vec::new(), StreamSettings::identities());
                writer.push(&mut session, bytes).unwrap();
                let stored = writer.finish(&mut session).unwrap();
                let record = streams.iter_mut().find(|s| s.role == StreamRole::Identities).unwrap();
                (record.version, record.plain_bytes, record.blake3) = (stored.version, stored.plain_bytes, stored.root);
            }
            None => streams.retain(|s| s.role != StreamRole::Identities),
        }
        session.flush().unwrap();
        session.commit(&changed).unwrap();
    }

    fn session(&self, id: SnapshotId) -> BackupSession {
        let start = SessionStart { id, host: "h".into(), process: 1, started_ns: 0, sources: Vec::new() };
        let store: Arc<dyn WriteStore> = Arc::new(self.store.clone());
        let load = |store: &dyn WriteStore, keys: &Arc<Keys>, _: &_| Ok(index_loader::load(store, keys, None)?.0);
        BackupSession::begin(
            store,
            Arc::clone(&self.keys),
            Arc::clone(&self.random),
            &WriterParameters::DEFAULT,
            &start,
            load,
        )
        .unwrap()
    }

    fn packs(&self) -> Vec<String> {
        self.store.raw_names().into_iter().filter(|name| name.starts_with("packs/")).collect()
    }
}

/// Sets a modification time: an hour after the beginning of 2020, and so many seconds.
fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_840_400 + seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

fn stream(snapshot: &Snapshot, role: StreamRole) -> &StreamRecord {
    snapshot.sources[0].streams.iter().find(|s| s.role == role).unwrap()
}

fn versions(report: &BackupReport) -> [VersionId; 3] {
    [StreamRole::Content, StreamRole::Tree, StreamRole::Identities].map(|role| stream(&report.snapshot, role).version)
}

/// Files that were (new, changed, not read).
fn counts(report: &BackupReport) -> (u64, u64, u64) {
    let FileCounts { files_new, files_changed, files_unmodified, .. } = report.snapshot.sources[0].files.unwrap();
    (files_new, files_changed, files_unmodified)
}

#[test]
fn an_unchanged_source_reads_no_file_and_names_the_same_versions() {
    let world = World::new(150);
    let first = world.backup();
    assert_eq!(counts(&first), (150, 0, 0));
    let second = world.backup();
    assert_eq!(counts(&second), (0, 0, 150));
    assert_eq!(versions(&first), versions(&second));
    assert!(second.snapshot.sources[0].streams.iter().all(|s| s.added_bytes == 0) && second.findings.is_empty());
}

#[test]
fn a_tree_copied_afresh_costs_its_identities() {
    let world = World::new(1000);
    let first = world.backup();
    // held, so that no inode number comes back
    fs::rename(world.tree(), world.directory.path().join("old")).unwrap();
    world.fill(1000);
    let second = world.backup();
    assert_eq!(counts(&second), (0, 1000, 0));
    let added = |role| stream(&second.snapshot, role).added_bytes;
    assert!(added(StreamRole::Tree) < 8_000, "the tree takes {}", added(StreamRole::Tree));
    assert!((4_000..6_000).contains(&added(StreamRole::Identities)), "{}", added(StreamRole::Identities));
    assert_eq!(versions(&first)[0], versions(&second)[0], "the contents are the same");
}

#[test]
fn a_file_that_comes_first_moves_the_others_and_none_is_read() {
    let world = World::new(150);
    world.backup();
    world.write("a file that comes first", b"new");
    let second = world.backup();
    assert_eq!(counts(&second), (1, 0, 150));
    let head = world.reading().stream(versions(&second)[2]).unwrap().head().clone();
    assert_eq!((head.literal_bytes, head.plain_bytes), (4, 151 * 4));
    assert_eq!(counts(&world.backup()), (0, 0, 151));
    // and out again, with others that do not stand at the end
    for name in ["a file that comes first", "d00/f00070", "d01/f00101"] {
        fs::remove_file(world.path(name)).unwrap();
    }
    assert_eq!(counts(&world.backup()), (0, 0, 148));
}

#[test]
fn a_file_replaced_by_one_of_equal_size_and_time_is_read() {
    let world = World::new(150);
    world.backup();
    let path = world.path("d00/f00070");
    let other: Vec<u8> = fs::read(&path).unwrap().iter().rev().copied().collect();
    let kept = world.directory.path().join("old");
    fs::rename(&path, kept).unwrap();
    world.write("d00/f00070", &other);
    assert_eq!(counts(&world.backup()), (0, 1, 149));
}

#[test]
fn damaged_identities_cost_a_reading_and_heal() {
    let world = World::new(1000);
    let first = world.backup();
    let identities = world.bytes(versions(&first)[2]);
    let mut hits = 0;
    for name in world.packs() {
        let mut pack = world.store.raw_get(&name).unwrap();
        if let Some(at) = pack.windows(identities.len()).position(|window| window == identities) {
            pack[at + 1234] ^= 1;
            world.store.raw_replace(&name, pack);
            hits += 1;
        }
    }
    assert_eq!(hits, 1, "identities are stored once, as they are");
    let second = world.backup();
    assert_eq!(counts(&second), (0, 1000, 0));
    assert!(second.findings.iter().any(|f| f.contains("files are read again")), "{:?}", second.findings);
    // the tree holds the folders above, too, which others write to meanwhile
    let [content, _, renewed] = versions(&second);
    assert_eq!(content, versions(&first)[0]);
    assert!(renewed != versions(&first)[2] && world.bytes(renewed) == identities);
    let third = world.backup();
    assert_eq!((counts(&third), third.findings.as_slice()), ((0, 0, 1000), [].as_slice()));
}

/// Otherwise a run that stores them anew because they are damaged would find their damaged chunks, and fail.
#[test]
fn identities_are_never_taken_from_elsewhere() {
    let world = World::new(1);
    let mut bytes = vec![0; 300_000];
    world.random.fill(&mut bytes);
    for _ in 0..2 {
        let mut session = world.session(SnapshotId(world.random.bytes()));
        let mut writer = StreamWriter::new(&session, None, Vec::new(), StreamSettings::identities());
        writer.push(&mut session, &bytes).unwrap();
        let stored = writer.finish(&mut session).unwrap();
        session.flush().unwrap();
        let head = world.reading().stream(stored.version).unwrap().head().clone();
        assert_eq!((head.literal_bytes, head.spaces.as_slice()), (300_000, [].as_slice()));
    }
}

#[test]
fn identities_may_be_too_few_too_many_or_not_there() {
    let world = World::new(150);
    let first = world.backup();
    let identities = world.bytes(versions(&first)[2]);
    let mut newest = first.snapshot;
    let longer = [identities.as_slice(), &[7; 4000]].concat();
    // a cut in the middle of one of them
    let cases: [(Option<&[u8]>, u64, bool); 4] = [
        (Some(&identities[..70 * 4 + 2]), 70, true),
        (Some(b""), 0, true),
        (Some(&longer), 150, false),
        (None, 0, false),
    ];
    for (bytes, known, found) in cases {
        world.commit_with(&newest, bytes);
        let report = world.backup();
        assert_eq!((counts(&report), !report.findings.is_empty()), ((0, 150 - known, known), found));
        assert_eq!(world.bytes(versions(&report)[2]), identities);
        let next = world.backup();
        assert_eq!((counts(&next), next.findings.len()), ((0, 0, 150), 0));
        newest = next.snapshot;
    }
}

#[test]
fn tree_contents_and_identities_are_those_of_one_snapshot() {
    let world = World::new(150);
    world.backup();
    // twice the first file grows, which moves the contents of all others
    let grown = [1, 2].map(|n| {
        world.write("d00/f00000", "longer ".repeat(n * 100).as_bytes());
        world.backup()
    });
    let before = world.packs();
    // then times alone change: a new tree beside contents that two snapshots share
    set_time(&world.path("d00/f00039"), 1);
    let touched = world.backup();
    assert_eq!(counts(&touched), (0, 1, 149));
    assert_eq!(versions(&touched)[0], versions(&grown[1])[0]);
    let lost: Vec<String> = world.packs().into_iter().filter(|name| !before.contains(name)).collect();
    assert!(!lost.is_empty());
    for name in lost {
        world.store.raw_remove(&name);
    }
    // the tree before it is the parent now; [`World::backup`] compares every file
    assert_eq!(counts(&world.backup()), (0, 1, 149));
}
