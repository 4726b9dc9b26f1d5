//! A small repository that has every kind of object and every kind of record: two key slots, two data packs and more,
//! index objects, a chain of five edits, a full recipe on top of it, a files source with its tree, an act of three entries.

use holdfast::domain::act::{ActKind, Owner};
use holdfast::domain::entry::{Entry, EntryKind, FileContent, FileIdentity};
use holdfast::domain::id::{Digest, SnapshotId, VersionId};
use holdfast::domain::snapshot::{Snapshot, SourceKind, SourceRecord, StreamRecord, StreamRole, SystemInfo};
use holdfast::domain::system::{FixedClock, Random, SeededRandom};
use holdfast::format::config_object::{ChunkerConfig, WriterParameters};
use holdfast::format::identities;
use holdfast::format::key_slot::{KdfCosts, Secret};
use holdfast::format::seal::{Keys, Suite};
use holdfast::format::tree::TreeWriter;
use holdfast::repository::acts::Recorder;
use holdfast::repository::open::{self, InitOptions, SlotSecret};
use holdfast::repository::session::{BackupSession, SessionStart};
use holdfast::repository::stream_writer::{StoredVersion, StreamSettings, StreamWriter};
use holdfast::repository::{index_loader, reading::Reading};
use holdfast::storage::{ReadStore, WriteStore};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use zeroize::Zeroizing;

/// Edits before the writer puts a full recipe.
pub(crate) const EDITS: usize = 5;
/// Snapshots in all: one in full, the edits, the full recipe, one more edit on it.
pub(crate) const SNAPSHOTS: usize = EDITS + 3;
/// The password of the repository's second slot.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// What was saved.
pub(crate) struct Saved {
    pub(crate) id: SnapshotId,
    pub(crate) dump: Vec<u8>,
    /// Contents by path; empty where the snapshot has no files source.
    pub(crate) files: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) entries: Vec<Entry>,
}

/// The repository.
pub(crate) struct Small {
    pub(crate) key_file: Secret,
    pub(crate) keys: Arc<Keys>,
    /// In the order of backups.
    pub(crate) saved: Vec<Saved>,
}

struct Maker {
    store: Arc<dyn WriteStore>,
    keys: Arc<Keys>,
    random: Arc<dyn Random>,
    parameters: WriterParameters,
}

/// Makes it in an empty store.
pub(crate) fn make(store: Arc<dyn WriteStore>, suite: Suite, seed: u64) -> Small {
    make_with(store, suite, seed, WriterParameters::DEFAULT)
}

/// As [`make`], by a writer with wishes of its own.
pub(crate) fn make_with(store: Arc<dyn WriteStore>, suite: Suite, seed: u64, parameters: WriterParameters) -> Small {
    let random: Arc<dyn Random> = Arc::new(SeededRandom::new(seed));
    let key_file = Secret::new_key_file(random.as_ref());
    let passphrase = Secret::Passphrase(Zeroizing::new(PASSWORD.as_bytes().to_vec()));
    let secrets = match suite {
        Suite::None => Vec::new(),
        Suite::Aes256Gcm => vec![
            SlotSecret { secret: key_file.clone(), label: "key file".to_owned() },
            SlotSecret { secret: passphrase, label: "password".to_owned() },
        ],
    };
    let options = InitOptions {
        suite,
        secrets,
        kdf: KdfCosts::CHEAPEST,
        chunker: ChunkerConfig::DEFAULT,
        pack_bytes_target: 16 << 20,
        host: "host".to_owned(),
        created_by: "holdfast test".to_owned(),
    };
    let clock = FixedClock(Mutex::new(jiff::Timestamp::UNIX_EPOCH));
    let opened = open::init(Arc::clone(&store), &options, &clock, random.as_ref()).expect("init");
    let maker = Maker { store, keys: opened.keys, random, parameters };
    let mut saved: Vec<Saved> = Vec::new();
    let mut parents: BTreeMap<&str, VersionId> = BTreeMap::new();
    let mut dump = rows(maker.random.as_ref(), 40);
    let mut files = BTreeMap::from([
        (b"/srv/app/a.txt".to_vec(), rows(maker.random.as_ref(), 8)),
        (b"/srv/app/b.bin".to_vec(), rows(maker.random.as_ref(), 5)),
        (b"/srv/app/empty".to_vec(), Vec::new()),
        (b"/srv/app/\xff not UTF-8".to_vec(), b"odd name".to_vec()),
    ]);
    for n in 0..SNAPSHOTS {
        let with_files = [0, 3, SNAPSHOTS - 1].contains(&n);
        let contents = if with_files { files.clone() } else { BTreeMap::new() };
        saved.push(maker.backup(n, &dump, &contents, &mut parents));
        edit(maker.random.as_ref(), &mut dump);
        if let Some(a) = files.get_mut(b"/srv/app/a.txt".as_slice()) {
            edit(maker.random.as_ref(), a);
        }
    }
    maker.act(&clock);
    Small { key_file, keys: maker.keys, saved }
}

fn rows(random: &dyn Random, count: usize) -> Vec<u8> {
    (0..count).map(|_| format!("{}\n", data_encoding::BASE64.encode(&random.bytes::<33>()))).collect::<String>().into()
}

/// Changes one row in the middle, takes one away and adds one.
fn edit(random: &dyn Random, bytes: &mut Vec<u8>) {
    let row = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| n + 1);
    let middle = bytes.len() / row / 2 * row;
    bytes.splice(middle..(middle + 2 * row).min(bytes.len()), rows(random, 1));
    bytes.extend(rows(random, 1));
}

impl Maker {
    /// A drill of three entries, the last of which finishes it.
    fn act(&self, clock: &FixedClock) {
        let owner = Owner { host: "host".into(), user: "app".into(), process: 1, mark: "m/b/n/1".into() };
        let (store, keys, random) = (self.store.as_ref(), self.keys.as_ref(), self.random.as_ref());
        let recorder = Recorder { store, keys, clock, random, owner };
        let mut act = recorder.begin(ActKind::Drill, &serde_json::json!({"state": "begun"})).expect("act");
        act.note(&serde_json::json!({"state": "restore"})).expect("entry");
        act.finish(&serde_json::json!({"state": "proved"})).expect("entry");
    }

    fn backup(
        &self,
        n: usize,
        dump: &[u8],
        files: &BTreeMap<Vec<u8>, Vec<u8>>,
        parents: &mut BTreeMap<&str, VersionId>,
    ) -> Saved {
        let id = SnapshotId(self.random.bytes());
        let start = SessionStart { id, host: "host".into(), process: 1, started_ns: 0, sources: vec!["app".into()] };
        let load = |store: &dyn WriteStore, keys: &Arc<Keys>, _: &_| Ok(index_loader::load(store, keys, None)?.0);
        let (store, keys, random) = (Arc::clone(&self.store), Arc::clone(&self.keys), Arc::clone(&self.random));
        let mut session = BackupSession::begin(store, keys, random, &self.parameters, &start, load).expect("begin");
        let data = StreamSettings { full_recipe_depth: EDITS as u32, ..StreamSettings::data() };
        let stored = write(&mut session, parents, "dump", data, dump);
        let mut sources = vec![source("app", SourceKind::Command, vec![record(StreamRole::Data, "app.dump", &stored)])];
        let mut entries = Vec::new();
        if !files.is_empty() {
            entries = tree_of(files);
            sources.push(self.files(&mut session, files, &entries, parents));
        }
        session.flush().expect("flush");
        for stream in sources.iter().flat_map(|s| &s.streams) {
            session.prove(stream.version).expect("prove");
        }
        session.commit(&snapshot(id, n, sources)).expect("commit");
        Saved { id, dump: dump.to_vec(), files: files.clone(), entries }
    }

    fn files(
        &self,
        session: &mut BackupSession,
        files: &BTreeMap<Vec<u8>, Vec<u8>>,
        entries: &[Entry],
        parents: &mut BTreeMap<&str, VersionId>,
    ) -> SourceRecord {
        let mut root = blake3::Hasher::new();
        for entry in entries {
            if let EntryKind::File(file) = &entry.kind {
                root.update(&file.stream_bytes().to_le_bytes()).update(&file.hash.0);
            }
        }
        let parent = parents.get("content").map(|v| session.open_parent(*v).expect("parent").expect("usable"));
        let mut writer = StreamWriter::new(session, parent, Vec::new(), StreamSettings::files());
        for bytes in files.values() {
            writer.push(session, bytes).expect("push");
        }
        let content = writer.finish_files(session, Digest(*root.finalize().as_bytes())).expect("content");
        parents.insert("content", content.version);
        let mut tree = TreeWriter::new();
        entries.iter().for_each(|entry| tree.push(entry).expect("entry"));
        let tree = write(session, parents, "tree", StreamSettings::tree(), &tree.finish());
        let mut bytes = Vec::new();
        for file in files.values() {
            let [a, b, c, d, ..] = *blake3::hash(file).as_bytes();
            identities::put(&mut bytes, Some(FileIdentity::new([a, b, c, d])));
        }
        let identities = write(session, parents, "identities", StreamSettings::identities(), &bytes);
        let streams = vec![
            record(StreamRole::Content, "content", &content),
            record(StreamRole::Tree, "tree", &tree),
            record(StreamRole::Identities, "identities", &identities),
        ];
        source("code", SourceKind::Files, streams)
    }
}

fn write<'n>(
    session: &mut BackupSession,
    parents: &mut BTreeMap<&'n str, VersionId>,
    name: &'n str,
    settings: StreamSettings,
    bytes: &[u8],
) -> StoredVersion {
    let parent = parents.get(name).map(|v| session.open_parent(*v).expect("parent").expect("usable"));
    let mut writer = StreamWriter::new(session, parent, Vec::new(), settings);
    writer.push(session, bytes).expect("push");
    let stored = writer.finish(session).expect("finish");
    parents.insert(name, stored.version);
    stored
}

fn entry(path: &[u8], kind: EntryKind) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        user: Some("app".to_owned()),
        group: None,
        mtime_ns: 1_700_000_000_123_456_789,
        xattrs: vec![(b"user.k".to_vec(), b"v".to_vec())],
    }
}

fn tree_of(files: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<Entry> {
    let mut entries = vec![entry(b"/srv", EntryKind::Directory), entry(b"/srv/app", EntryKind::Directory)];
    for (path, bytes) in files {
        let hash = Digest(*blake3::hash(bytes).as_bytes());
        let content = FileContent { size: bytes.len() as u64, hash, ..FileContent::default() };
        entries.push(entry(path, EntryKind::File(content)));
    }
    entries.push(entry(b"/srv/link", EntryKind::Symlink(b"app/a.txt".to_vec())));
    entries
}

fn record(role: StreamRole, file_name: &str, stored: &StoredVersion) -> StreamRecord {
    StreamRecord {
        role,
        file_name: file_name.to_owned(),
        version: stored.version,
        plain_bytes: stored.plain_bytes,
        blake3: stored.root,
        sha256: None,
        added_bytes: 0,
        volatile: Vec::new(),
    }
}

fn source(name: &str, kind: SourceKind, streams: Vec<StreamRecord>) -> SourceRecord {
    SourceRecord {
        name: name.to_owned(),
        kind,
        location: "somewhere".to_owned(),
        failure: None,
        streams,
        reader_version: "1".to_owned(),
        server_version: None,
        tables: Vec::new(),
        files: None,
        warnings: Vec::new(),
        live_bytes: None,
        duration_ms: 1,
    }
}

fn snapshot(id: SnapshotId, n: usize, sources: Vec<SourceRecord>) -> Snapshot {
    let time_ns = 1_700_000_000_000_000_000 + n as i64 * 3_600_000_000_000;
    Snapshot {
        id,
        time_ns,
        time_zone: "UTC".to_owned(),
        started_ns: time_ns,
        finished_ns: time_ns,
        system: SystemInfo { host: "host".to_owned(), ..SystemInfo::default() },
        class: Some("hourly".to_owned()),
        tags: vec![format!("n{n}")],
        imported: false,
        suspect: None,
        git: None,
        project_root: None,
        scope: Vec::new(),
        sources,
        heads: Vec::new(),
        stored_bytes: 1,
        extensions: Vec::new(),
    }
}

/// Restores every snapshot and compares: nothing but what was saved may come out. Returns how many sources failed with
/// an error instead.
pub(crate) fn restore_all(reading: &Reading, saved: &[Saved]) -> usize {
    let mut failures = 0;
    let (loaded, unreadable) = reading.snapshots().expect("snapshots are listed");
    failures += unreadable.len();
    for expected in saved {
        let Some(snapshot) = loaded.iter().find(|l| l.snapshot.id == expected.id).map(|l| &l.snapshot) else {
            continue;
        };
        for source in &snapshot.sources {
            let whole = match source.kind {
                SourceKind::Files => restore_files(reading, source, expected),
                _ => restore_dump(reading, source, expected),
            };
            failures += usize::from(!whole);
        }
    }
    failures
}

fn restore_dump(reading: &Reading, source: &SourceRecord, expected: &Saved) -> bool {
    let mut bytes = Vec::new();
    let copied = reading.copy_stream::<()>(&source.streams[0], |part| {
        bytes.extend_from_slice(part);
        Ok(())
    });
    if copied.is_ok() {
        assert!(bytes == expected.dump, "wrong bytes of snapshot {} passed as good", expected.id);
    }
    copied.is_ok()
}

fn restore_files(reading: &Reading, source: &SourceRecord, expected: &Saved) -> bool {
    let (Ok(entries), Ok(mut content)) = (reading.tree(source), reading.content(source)) else { return false };
    let mut whole = true;
    let mut seen = Vec::new();
    for placed in entries {
        let Ok(placed) = placed else {
            whole = false;
            break;
        };
        if matches!(placed.entry.kind, EntryKind::File(_)) {
            let mut bytes = Vec::new();
            let copied = reading.copy_file::<()>(&mut content, &placed, |part| {
                bytes.extend_from_slice(part);
                Ok(())
            });
            match copied {
                Ok(()) => {
                    assert_eq!(expected.files.get(&placed.entry.path), Some(&bytes), "a wrong file passed as good")
                }
                Err(_) => whole = false,
            }
        }
        seen.push(placed.entry);
    }
    assert!(expected.entries.starts_with(&seen), "wrong entries of snapshot {} passed as good", expected.id);
    assert!(!whole || seen == expected.entries, "entries of snapshot {} are missing without an error", expected.id);
    whole
}

/// Opens a repository as a command does; `None` with an error that says damage.
pub(crate) fn open_reading(store: Arc<dyn ReadStore>, secret: Option<&Secret>) -> Option<Reading> {
    match open::open(store, secret) {
        Ok(opened) => Some(Reading::open(opened.store, opened.keys, None).expect("index")),
        Err(holdfast::repository::Error::Damaged { .. }) => None,
        Err(other) => panic!("a damaged repository is called something else: {other:?}"),
    }
}
