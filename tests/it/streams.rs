//! Versions of streams through a whole repository: whatever is written reads back, at any depth, from any parent.

use holdfast::domain::id::{RepositoryId, SnapshotId, VersionId};
use holdfast::domain::system::{Random, SeededRandom};
use holdfast::format::config_object::WriterParameters;
use holdfast::format::seal::{Keys, Suite};
use holdfast::repository::index_loader;
use holdfast::repository::reading::Reading;
use holdfast::repository::session::{BackupSession, SessionStart};
use holdfast::repository::stream_writer::{
    AgainSettings, FULL_RECIPE_DEPTH, StoredVersion, StreamSettings, StreamWriter,
};
use holdfast::storage::memory::MemoryStore;
use proptest::prelude::*;
use std::sync::Arc;

pub(crate) struct Repo {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) random: Arc<dyn Random>,
}

impl Repo {
    pub(crate) fn new(seed: u64) -> Self {
        let keys = Arc::new(Keys::derive(&[9; 32], RepositoryId([4; 16]), Suite::Aes256Gcm));
        Self { store: Arc::new(MemoryStore::new()), keys, random: Arc::new(SeededRandom::new(seed)) }
    }

    pub(crate) fn session(&self) -> BackupSession {
        self.session_of("test")
    }

    pub(crate) fn session_of(&self, source: &str) -> BackupSession {
        self.session_with(vec![source.into()])
    }

    /// A maintenance run.
    pub(crate) fn session_of_none(&self) -> BackupSession {
        self.session_with(Vec::new())
    }

    fn session_with(&self, sources: Vec<String>) -> BackupSession {
        let id = SnapshotId(self.random.bytes());
        let start = SessionStart { id, host: "test".into(), process: 1, started_ns: 0, sources };
        let load =
            |store: &dyn holdfast::storage::WriteStore, keys: &Arc<Keys>, gone: &std::collections::HashSet<_>| {
                Ok(index_loader::load_without(store, keys, None, gone)?.0)
            };
        BackupSession::begin(
            Arc::clone(&self.store) as Arc<_>,
            Arc::clone(&self.keys),
            Arc::clone(&self.random),
            &WriterParameters::DEFAULT,
            &start,
            load,
        )
        .expect("begin")
    }

    /// Stores one version in a session of its own and proves it. Returns it and the bytes the repository grew by.
    pub(crate) fn put(
        &self,
        bytes: &[u8],
        parent: Option<VersionId>,
        candidates: &[VersionId],
    ) -> (StoredVersion, u64) {
        self.put_with(bytes, parent, candidates, StreamSettings::data())
    }

    pub(crate) fn put_with(
        &self,
        bytes: &[u8],
        parent: Option<VersionId>,
        candidates: &[VersionId],
        settings: StreamSettings,
    ) -> (StoredVersion, u64) {
        let mut session = self.session();
        let parent = parent.map(|v| session.open_parent(v).expect("parent").expect("usable parent"));
        let mut writer = StreamWriter::new(&session, parent, candidates.to_vec(), settings);
        for part in bytes.chunks(300_001) {
            writer.push(&mut session, part).expect("push");
        }
        let stored = writer.finish(&mut session).expect("finish");
        session.flush().expect("flush");
        session.prove(stored.version).expect("prove");
        assert_eq!(stored.root.0, *blake3::hash(bytes).as_bytes());
        let added = session.stored_bytes();
        (stored, added)
    }

    /// Stores one version in a given session.
    pub(crate) fn put_in(&self, mut session: BackupSession, bytes: &[u8], parent: Option<VersionId>) -> VersionId {
        let parent = parent.and_then(|v| session.open_parent(v).expect("parent"));
        let mut writer = StreamWriter::new(&session, parent, Vec::new(), StreamSettings::data());
        writer.push(&mut session, bytes).expect("push");
        let stored = writer.finish(&mut session).expect("finish");
        session.flush().expect("flush");
        session.prove(stored.version).expect("prove");
        stored.version
    }

    pub(crate) fn has_record(&self, version: VersionId) -> bool {
        let reading = Reading::open(Arc::clone(&self.store) as Arc<_>, Arc::clone(&self.keys), None).expect("open");
        !reading.index.record_places(version).is_empty()
    }

    pub(crate) fn read(&self, version: VersionId) -> Vec<u8> {
        let reading = Reading::open(Arc::clone(&self.store) as Arc<_>, Arc::clone(&self.keys), None).expect("open");
        let mut stream = reading.stream(version).expect("stream");
        let mut out = Vec::new();
        let total = stream.plain_bytes();
        stream.read(&reading.index, &reading.packs, 0, total, &mut out).expect("read");
        assert!(reading.findings().is_empty());
        out
    }
}

pub(crate) fn rows(seed: u64, n: usize) -> Vec<u8> {
    let random = SeededRandom::new(seed);
    let mut out = Vec::new();
    for i in 0..n {
        let mut noise = [0u8; 9];
        random.fill(&mut noise);
        out.extend(format!("{seed}:{i}\t{}\n", blake3::hash(&noise).to_hex().split_at(20).0).into_bytes());
    }
    out
}

/// One change of a stream: (kind, position in 1/65536, length).
pub(crate) type Change = (u8, u16, u16);

pub(crate) fn apply(bytes: &mut Vec<u8>, (kind, at, len): Change, salt: u64) {
    let at = bytes.len() * usize::from(at) / 65536;
    let len = usize::from(len).min(bytes.len() - at);
    match kind % 4 {
        0 => drop(bytes.drain(at..at + len)),
        1 => drop(bytes.splice(at..at, rows(salt, usize::from(kind) + 1))),
        2 => drop(bytes.splice(at..at + len, rows(salt, len / 30))),
        _ => {
            let moved: Vec<u8> = bytes.drain(at..at + len).collect();
            let to = bytes.len() / 3;
            drop(bytes.splice(to..to, moved));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A tree of versions, each with a random earlier one (or none) as parent.
    #[test]
    fn any_tree_of_versions_reads_back(
        script in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<Change>(), 0..6)), 1..9),
        seed in any::<u64>(),
    ) {
        let repo = Repo::new(seed);
        let mut all: Vec<(VersionId, Vec<u8>)> = Vec::new();
        for (n, (pick, changes)) in script.into_iter().enumerate() {
            let base = (!all.is_empty() && pick % 5 != 0).then(|| &all[usize::from(pick) % all.len()]);
            let mut bytes = base.map_or_else(|| rows(seed ^ n as u64, 3000), |b| b.1.clone());
            for (k, change) in changes.into_iter().enumerate() {
                apply(&mut bytes, change, seed.wrapping_add((n * 100 + k) as u64));
            }
            // as if every segment that any byte is missing from were crowded, in half of the cases
            let often = AgainSettings { every: 1 + u32::from(pick % 3), decoded_percent_max: 0 };
            let settings = StreamSettings { stored_again: (seed % 2 == 0).then_some(often), ..StreamSettings::data() };
            let (stored, _) = repo.put_with(&bytes, base.map(|b| b.0), &[], settings);
            all.push((stored.version, bytes));
        }
        for (version, bytes) in &all {
            prop_assert!(repo.read(*version) == *bytes);
        }
    }
}

#[test]
fn a_long_chain_stays_readable_and_gets_a_full_recipe() {
    let repo = Repo::new(7);
    let mut bytes = rows(1, 4000);
    let mut parent = None;
    let mut kept = Vec::new();
    let mut depths = Vec::new();
    for n in 0..u64::from(FULL_RECIPE_DEPTH) + 6 {
        apply(&mut bytes, (2, (n * 7919) as u16, 200), 1000 + n);
        let (stored, added) = repo.put(&bytes, parent, &[]);
        assert!(n == 0 || added < 30_000, "version {n} added {added}");
        parent = Some(stored.version);
        let reading = Reading::open(Arc::clone(&repo.store) as Arc<_>, Arc::clone(&repo.keys), None).expect("open");
        depths.push(reading.stream(stored.version).expect("stream").depth());
        kept.push((stored.version, bytes.clone()));
    }
    assert_eq!(depths.iter().max(), Some(&(FULL_RECIPE_DEPTH as usize + 1)));
    assert!(depths.iter().skip(1).any(|d| *d == 1), "a full recipe was written: {depths:?}");
    for (version, bytes) in kept.iter().step_by(9).chain(kept.last()) {
        assert!(repo.read(*version) == *bytes);
    }
}

/// Rows that change here and there: decoded bytes of the newest version in percent of its length, the stored bytes of all,
/// and the bytes of the newest version.
fn after_many_changes(settings: StreamSettings) -> (u64, u64, Vec<u8>) {
    const ROW: usize = 200;
    let repo = Repo::new(11);
    let random = SeededRandom::new(12);
    let row = |out: &mut [u8]| {
        random.fill(out);
        out.iter_mut().for_each(|b| *b = b'a' + *b % 16);
    };
    let mut bytes = vec![0; 15_000 * ROW];
    bytes.chunks_mut(ROW).for_each(row);
    let (mut parent, mut stored_bytes) = (None, 0);
    for _ in 0..41 {
        let (stored, added) = repo.put_with(&bytes, parent, &[], settings);
        (parent, stored_bytes) = (Some(stored.version), stored_bytes + added);
        let rows = bytes.len() / ROW;
        for _ in 0..rows / 60 {
            let mut n = [0; 8];
            random.fill(&mut n);
            let n = u64::from_le_bytes(n) as usize % rows;
            row(&mut bytes[n * ROW..(n + 1) * ROW]);
        }
    }
    let newest = parent.expect("a version");
    let reading = Reading::open(Arc::clone(&repo.store) as Arc<_>, Arc::clone(&repo.keys), None).expect("open");
    let mut stream = reading.stream(newest).expect("stream");
    let (mut out, total) = (Vec::new(), stream.plain_bytes());
    stream.read(&reading.index, &reading.packs, 0, total, &mut out).expect("read");
    (reading.packs.counters.decoded() * 100 / total, stored_bytes, out)
}

#[test]
fn a_long_history_does_not_make_the_newest_version_decode_much_more_than_its_length() {
    let never = StreamSettings { stored_again: None, ..StreamSettings::data() };
    let (without, stored_without, expected) = after_many_changes(never);
    let (with, stored_with, bytes) = after_many_changes(StreamSettings::data());
    assert!(bytes == expected);
    assert!(without > 145, "the history is too tame: {without} %");
    assert!(with <= 130, "{with} % are decoded");
    assert!(stored_with < stored_without * 3 / 2, "{stored_with} bytes stored, {stored_without} without");
}

#[test]
fn an_unchanged_stream_is_the_same_version() {
    let repo = Repo::new(8);
    let bytes = rows(3, 50_000);
    let (first, _) = repo.put(&bytes, None, &[]);
    let (second, added) = repo.put(&bytes, Some(first.version), &[]);
    assert!(!second.is_new && second.version == first.version && added == 0);
    let (empty, _) = repo.put(b"", None, &[]);
    assert_eq!(repo.read(empty.version), b"");
}

#[test]
fn the_same_bytes_under_another_name_cost_almost_nothing() {
    let repo = Repo::new(9);
    let mut bytes = rows(4, 200_000);
    let (first, size) = repo.put(&bytes, None, &[]);
    // by chunk identity alone
    let (second, added) = repo.put(&bytes, None, &[]);
    assert!(added * 50 < size, "{added} of {size}");
    assert!(repo.read(second.version) == bytes);
    // by likeness, after edits everywhere
    for k in 0..400u64 {
        apply(&mut bytes, (2, (k * 163) as u16, 40), k);
    }
    let (third, added) = repo.put(&bytes, None, &[first.version]);
    assert!(added * 20 < size, "{added} of {size}");
    assert!(repo.read(third.version) == bytes);
}

#[test]
fn blocks_that_moved_far_are_found_again() {
    let repo = Repo::new(10);
    let tables: Vec<Vec<u8>> = (0..6).map(|t| rows(100 + t, 120_000)).collect();
    let (first, size) = repo.put(&tables.concat(), None, &[]);
    let moved = [&tables[4], &tables[5], &tables[0], &tables[3]].map(Vec::as_slice).concat();
    let (second, added) = repo.put(&moved, Some(first.version), &[]);
    assert!(added * 20 < size, "{added} of {size}");
    assert!(repo.read(second.version) == moved);
}

/// A database puts the new version of a row where there is room, often megabytes before the old one.
#[test]
fn rows_that_moved_far_to_the_beginning_are_not_stored_again() {
    let random = SeededRandom::new(77);
    let mut table: Vec<Vec<u8>> = (0..30_000u32)
        .map(|n| {
            let mut noise = [0u8; 300];
            random.fill(&mut noise);
            format!("{n}\t{}\n", data_encoding::HEXLOWER.encode(&noise)).into_bytes()
        })
        .collect();
    let parent = table.concat();
    for k in 0..150 {
        let mut row = table.remove(29_000 - k * 60);
        row.splice(300..310, *b"a new text");
        table.insert(k * 30, row);
    }
    let child = table.concat();
    let repo = Repo::new(12);
    let (first, _) = repo.put(&parent, None, &[]);
    let settings = StreamSettings::data();
    let (second, added) = repo.put_with(&child, Some(first.version), &[], settings);
    let without = StreamSettings { late_matches: false, ..settings };
    let (_, more) = repo.put_with(&child, Some(first.version), &[], without);
    assert!(added < 12_000, "{added} bytes for 150 rows that moved");
    assert!(more > 45_000, "{more}: these rows are found without late matches, so the test tests nothing");
    assert!(repo.read(second.version) == child);
}

#[test]
fn unrelated_bytes_with_a_parent_are_stored_as_chunks() {
    let repo = Repo::new(11);
    let (first, _) = repo.put(&rows(1, 60_000), None, &[]);
    let other = rows(2, 60_000);
    let (second, _) = repo.put(&other, Some(first.version), &[]);
    let (_, again) = repo.put(&other, None, &[]);
    assert!(again < 40_000, "{again}");
    assert!(repo.read(second.version) == other);
}
