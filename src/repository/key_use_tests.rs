//! No key seals two texts, over crashes, runs that are begun again, and copies of a repository that go on apart from each other, even
//! where the random numbers are copied along (`format/seal/witness.rs` sees every sealing and ends the test).

use super::index_loader;
use super::open::{self, InitOptions, SlotSecret};
use super::session::{BackupSession, SessionStart};
use super::stream_writer::{StreamSettings, StreamWriter};
use crate::domain::id::{SnapshotId, VersionId};
use crate::domain::system::{FixedClock, Random, SeededRandom};
use crate::format::config_object::{ChunkerConfig, WriterParameters};
use crate::format::key_slot::{KdfCosts, Secret};
use crate::format::seal::{Keys, Suite, witness};
use crate::storage::WriteStore;
use crate::storage::memory::MemoryStore;
use std::sync::{Arc, Mutex};

/// Where a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Written,
    Flushed,
    Proved,
}

/// A run that stores a text against a parent and never commits, or that goes on until just before.
fn run(
    store: &MemoryStore,
    keys: &Arc<Keys>,
    seed: u64,
    parent: Option<VersionId>,
    text: &[u8],
    end: End,
) -> VersionId {
    let random: Arc<dyn Random> = Arc::new(SeededRandom::new(seed));
    let id = SnapshotId(random.bytes());
    let start = SessionStart { id, host: "h".to_owned(), process: 1, started_ns: 0, sources: vec!["s".to_owned()] };
    let load = |store: &dyn WriteStore, keys: &Arc<Keys>, _: &_| Ok(index_loader::load(store, keys, None)?.0);
    let whole: Arc<dyn WriteStore> = Arc::new(store.clone());
    let parameters = WriterParameters::DEFAULT;
    let mut session = BackupSession::begin(whole, Arc::clone(keys), random, &parameters, &start, load).expect("begun");
    let parent = parent.map(|parent| session.open_parent(parent).expect("read").expect("usable"));
    let mut writer = StreamWriter::new(&session, parent, Vec::new(), StreamSettings::data());
    writer.push(&mut session, text).expect("pushed");
    let stored = writer.finish(&mut session).expect("stored").version;
    if end != End::Written {
        session.flush().expect("flushed");
    }
    if end == End::Proved {
        session.prove(stored).expect("proved");
    }
    stored
}

/// Rows that differ from those of another number in their bytes and not in their lengths.
fn rows(number: u64) -> Vec<u8> {
    let random: &dyn Random = &SeededRandom::new(number);
    (0..400).map(|_| format!("{}\n", data_encoding::BASE64.encode(&random.bytes::<33>()))).collect::<String>().into()
}

#[test]
fn no_key_seals_two_texts_over_crashes_and_copies() {
    let options = InitOptions {
        suite: Suite::Aes256Gcm,
        secrets: vec![SlotSecret { secret: Secret::new_key_file(&SeededRandom::new(1)), label: "key".to_owned() }],
        kdf: KdfCosts::CHEAPEST,
        chunker: ChunkerConfig::DEFAULT,
        pack_bytes_target: 16 << 20,
        host: "h".to_owned(),
        created_by: "test".to_owned(),
    };
    let clock = FixedClock(Mutex::new(jiff::Timestamp::UNIX_EPOCH));
    let base = MemoryStore::new();
    let keys = open::init(Arc::new(base.clone()), &options, &clock, &SeededRandom::new(2)).expect("made").keys;
    let parent = run(&base, &keys, 3, None, &rows(0), End::Proved);
    let before = witness::keys();
    let (mut runs, mut stores) = (0, Vec::new());
    for end in [End::Written, End::Flushed, End::Proved] {
        for text in 1..40u64 {
            // A copy of the repository and of the random numbers, which the run goes on with: with a text of its own, or an edit of
            // the parent's at the same place and of the same length.
            let copy = base.raw_copy();
            let mut edited = rows(0);
            let at = 45 * 100;
            edited[at..at + 45].copy_from_slice(&rows(text)[at..at + 45]);
            for (parent, text) in [(None, rows(text)), (Some(parent), edited)] {
                let copy = copy.raw_copy();
                run(&copy, &keys, 99, parent, &text, end);
                // Begun again after the crash, with the same numbers but for the name of the run, and with others.
                run(&copy, &keys, 100, parent, &text, End::Proved);
                run(&copy, &keys, 101 + runs, parent, &rows(runs), end);
                runs += 3;
            }
            stores.push(copy);
        }
    }
    let sealed = witness::keys() - before;
    println!("{runs} runs, {sealed} keys, none met two texts");
    assert!(sealed > 1000, "{sealed}");
}

#[test]
#[should_panic(expected = "one (key, nonce) has sealed two texts")]
fn a_key_that_meets_two_texts_ends_the_test() {
    let key = [0x5a; 32];
    witness::met(&key, b"place", b"text");
    witness::met(&key, b"place", b"text");
    witness::met(&key, b"place", b"other");
}
