//! What is fuzzed: for each parser a function that takes any bytes, and the inputs that fuzzing starts from.
//!
//! No target may panic, and its memory is bounded by its input. Beyond that, each states what must hold of what was
//! accepted: what is written again is read as the same, and a reader of streams judges alike however its input is cut.
//! Parsers behind encryption are given what decryption would give them. The file is part of the fuzz crate and of the
//! integration tests, which replay the seeds on stable.

use holdfast::cli::environment::Environment;
use holdfast::cli::settings::{Overrides, Settings};
use holdfast::domain::id::{
    ActId, ChunkId, CondemnedId, Digest, IndexId, KeySlotId, PackId, RepositoryId, SnapshotId, VersionId,
};
use holdfast::domain::original::{self, Original};
use holdfast::domain::retention::Window;
use holdfast::domain::selector::Selector;
use holdfast::domain::snapshot::{Snapshot, SourceKind, SourceRecord, StreamRecord, StreamRole, SystemInfo, TableRows};
use holdfast::domain::suspicion::Sample;
use holdfast::domain::time_spec::{Context, format_local, parse_time};
use holdfast::domain::{entry, units};
use holdfast::format::config_object::{ChunkerConfig, Config, UnverifiedConfig};
use holdfast::format::envelope::{self, Expected, HEADER_BYTES, Header, ObjectTag, StoredHasher};
use holdfast::format::key_slot::{KdfCosts, KeySlot, Secret, SlotFacts, SlotKind};
use holdfast::format::parity::{self, Parity, ParityShare, Shape};
use holdfast::format::records::{
    BlobEntry, BlobMeta, ChunkEntry, IndexBody, IndexedPack, PACK_TRAILER_BYTES, PackTable, Proof, SliceInfo,
    VersionHead,
};
use holdfast::format::seal::{Keys, Suite};
use holdfast::format::slice::{self, SliceFrame};
use holdfast::format::tree::{TreeReader, TreeWriter};
use holdfast::format::{codec, compress, originals, samples, secret_text, sparse};
use holdfast::recipe::run::{PARENT, Run};
use holdfast::recipe::sketch::Sketch;
use holdfast::repository::accepted::Acceptance;
use holdfast::repository::acts::ActEntry;
use holdfast::repository::chunk_table::ChunkTable;
use holdfast::repository::condemned::Condemned;
use holdfast::repository::index::RepositoryIndex;
use holdfast::repository::pack_reader::{LoadedTable, PackTrailer};
use holdfast::repository::tombstones::Tombstone;
use holdfast::source::files::rules::Rules;
use holdfast::source::original::sql_text::SqlText;
use holdfast::source::original::tar_format::{self, TarJudge};
use holdfast::source::original::unpack;
use holdfast::source::postgres::conninfo;
use holdfast::source::postgres::dump_format::CustomArchive;
use holdfast::source::postgres::inspect::Verdict;
use holdfast::source::postgres::plain_format::{PlainDump, PlainKind};

/// Longer inputs are cut: what a parser does with more of the same is not what fuzzing looks for.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Decoded bytes of one record: enough for every input, little enough for a machine.
const RECORD_BYTES_MAX: usize = 8 << 20;

/// One parser.
pub struct Target {
    /// Name of the target and of its corpus.
    pub name: &'static str,
    /// Feeds it one input. True when it was accepted.
    pub feed: fn(&[u8]) -> bool,
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets, by name.
pub const TARGETS: &[Target] = &[
    Target { name: "acceptance", feed: feed_acceptance, seeds: seed_acceptance },
    Target { name: "act", feed: feed_act, seeds: seed_act },
    Target { name: "compress", feed: feed_compress, seeds: seed_compress },
    Target { name: "config_object", feed: feed_config_object, seeds: seed_config_object },
    Target { name: "conninfo", feed: feed_conninfo, seeds: seed_conninfo },
    Target { name: "custom_archive", feed: feed_custom_archive, seeds: seed_custom_archive },
    Target { name: "envelope", feed: feed_envelope, seeds: seed_envelope },
    Target { name: "ignore_rules", feed: feed_ignore_rules, seeds: seed_ignore_rules },
    Target { name: "index_object", feed: feed_index_object, seeds: seed_index_object },
    Target { name: "key_slot", feed: feed_key_slot, seeds: seed_key_slot },
    Target { name: "original", feed: feed_original, seeds: seed_original },
    Target { name: "originals", feed: feed_originals, seeds: seed_originals },
    Target { name: "pack_table", feed: feed_pack_table, seeds: seed_pack_table },
    Target { name: "plain_dump", feed: feed_plain_dump, seeds: seed_plain_dump },
    Target { name: "samples", feed: feed_samples, seeds: seed_samples },
    Target { name: "secret_text", feed: feed_secret_text, seeds: seed_secret_text },
    Target { name: "selector", feed: feed_selector, seeds: seed_selector },
    Target { name: "settings", feed: feed_settings, seeds: seed_settings },
    Target { name: "slice", feed: feed_slice, seeds: seed_slice },
    Target { name: "snapshot", feed: feed_snapshot, seeds: seed_snapshot },
    Target { name: "time_spec", feed: feed_time_spec, seeds: seed_time_spec },
    Target { name: "sparse", feed: feed_sparse, seeds: seed_sparse },
    Target { name: "condemned", feed: feed_condemned, seeds: seed_condemned },
    Target { name: "parity", feed: feed_parity, seeds: seed_parity },
    Target { name: "tombstone", feed: feed_tombstone, seeds: seed_tombstone },
    Target { name: "tree", feed: feed_tree, seeds: seed_tree },
    Target { name: "units", feed: feed_units, seeds: seed_units },
    Target { name: "version_head", feed: feed_version_head, seeds: seed_version_head },
];

/// Feeds one input to the target of that name. True when it was accepted.
///
/// # Panics
/// Without such a target, and when the target has found something.
pub fn run(name: &str, input: &[u8]) -> bool {
    let Some(target) = TARGETS.iter().find(|t| t.name == name) else { panic!("no target is called {name}") };
    (target.feed)(input.get(..INPUT_BYTES_MAX).unwrap_or(input))
}

const REPOSITORY: RepositoryId = RepositoryId([2; 16]);

fn keys() -> Keys {
    Keys::derive(&[1; 32], REPOSITORY, Suite::Aes256Gcm)
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A part of the input that decides where the rest is cut.
fn cut(input: &[u8]) -> (usize, &[u8]) {
    let Some((&at, rest)) = input.split_first() else { return (0, input) };
    (rest.len() * usize::from(at) / 256, rest)
}

// Objects

fn feed_envelope(input: &[u8]) -> bool {
    let (at, bytes) = cut(input);
    let whole = envelope::check_stored(bytes);
    let mut hasher = StoredHasher::new();
    let (one, two) = bytes.split_at(at);
    hasher.update(one);
    hasher.update(two);
    assert_eq!(hasher.finish().is_ok(), whole.is_ok(), "a stored object is judged in two ways");
    for tag in ObjectTag::ALL {
        if let Ok((header, body)) = envelope::decode_object(bytes, &Expected::any(tag)) {
            let again = envelope::encode_object(&header, body);
            assert_eq!(envelope::decode_object(&again, &Expected::any(tag)), Ok((header, body)));
        }
    }
    if let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let _ = Header::from_bytes(header);
    }
    whole.is_ok()
}

fn seed_envelope() -> Vec<Vec<u8>> {
    let seed = |tag, body: &[u8]| {
        let object = envelope::encode_object(&Header::new(tag, REPOSITORY, [9; 16], 1), body);
        [[100].as_slice(), &object].concat()
    };
    vec![seed(ObjectTag::Pack, b""), seed(ObjectTag::Snapshot, b"a body of a snapshot")]
}

/// The input is the body of a whole object: its hash would otherwise hide the parser.
fn feed_config_object(input: &[u8]) -> bool {
    let mut accepted = false;
    for suite in [Suite::None, Suite::Aes256Gcm] {
        let header = Header::new(ObjectTag::Config, REPOSITORY, REPOSITORY.0, suite.number());
        let object = envelope::encode_object(&header, input);
        let Ok(config) = UnverifiedConfig::decode(&object, 0) else { continue };
        accepted = true;
        assert_eq!(config.repository(), REPOSITORY);
        if let Ok(config) = config.verify(&keys()) {
            let _ = config.writer_parameters();
        }
    }
    UnverifiedConfig::decode(input, 0).is_ok() || accepted
}

fn seed_config_object() -> Vec<Vec<u8>> {
    let config = Config {
        repository: REPOSITORY,
        suite: Suite::Aes256Gcm,
        created_ns: 1_700_000_000_000_000_000,
        created_by: "holdfast 0.1.0".into(),
        chunker: ChunkerConfig::DEFAULT,
        pack_bytes_target: 16 << 20,
        notes: vec![("note".into(), vec![1, 2, 3])],
    };
    let object = config.encode(&keys(), 0);
    let body = object.get(HEADER_BYTES..object.len() - envelope::FOOTER_BYTES).unwrap_or_default().to_vec();
    vec![body, object]
}

fn feed_key_slot(input: &[u8]) -> bool {
    let id = KeySlotId([5; 16]);
    let header = Header::new(ObjectTag::KeySlot, REPOSITORY, id.0, Suite::Aes256Gcm.number());
    let object = envelope::encode_object(&header, input);
    let Ok(slot) = KeySlot::decode(&object, REPOSITORY, id, 0) else { return false };
    assert_eq!(KeySlot::decode(&slot.encode(0), REPOSITORY, id, 0).as_ref(), Ok(&slot));
    // key files cost nothing to derive; costs of passphrases only get checked
    assert!(slot.facts.kdf.is_none_or(|costs| costs.are_acceptable()));
    let secret = Secret::KeyFile([7; 32].into());
    assert!(!matches!(slot.open(&secret), Ok(Some(_))), "a slot opens with a key that it was not made for");
    true
}

fn seed_key_slot() -> Vec<Vec<u8>> {
    let slot = |kind, kdf| {
        let (label, host) = ("main".into(), "server".into());
        let facts = SlotFacts { kind, label, created_ns: 17, host, kdf, salt: [3; 32], commitment: [4; 32] };
        [codec::encode(&facts), vec![6; 48]].concat()
    };
    vec![
        slot(SlotKind::Passphrase, Some(KdfCosts::DEFAULT)),
        slot(SlotKind::KeyFile, None),
        slot(SlotKind::Recovery, None),
    ]
}

// Records

fn pack_table() -> PackTable {
    let meta = [
        BlobMeta::Segment { space: 0, start: 4096 },
        BlobMeta::Head { version: 1, generation: 0 },
        BlobMeta::Slice { version: 1, generation: 0, sequence: 2 },
    ];
    PackTable {
        ids: vec![VersionId([1; 16]), VersionId([2; 16])],
        blobs: meta.into_iter().map(|meta| BlobEntry { meta, stored_bytes: 1000, raw_bytes: 70_000 }).collect(),
        chunks: vec![ChunkEntry { id: ChunkId([8; 32]), space: 0, start: 4096, plain_bytes: 65_536 }],
    }
}

fn check_record<T>(input: &[u8]) -> Option<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let record: T = codec::decode::<T, RECORD_BYTES_MAX>(input).ok()?;
    assert_eq!(codec::decode::<T, RECORD_BYTES_MAX>(&codec::encode(&record)).as_ref(), Ok(&record));
    Some(record)
}

fn feed_pack_table(input: &[u8]) -> bool {
    let (trailer, record) = input.split_at(PACK_TRAILER_BYTES.min(input.len()));
    let trailer = PackTrailer::parse(trailer);
    let Some(table) = check_record::<PackTable>(record) else { return false };
    let loaded = LoadedTable::new(table);
    for (blob, ordinal) in loaded.table.blobs.iter().zip(0u32..).take(64) {
        assert!(loaded.blob(ordinal).is_some());
        let id = |n: u32| loaded.table.ids.get(n as usize).copied().unwrap_or_default();
        match blob.meta {
            BlobMeta::Segment { space, start } | BlobMeta::Sparse { space, start, .. } => {
                let _ = loaded.segment(id(space), start);
            }
            BlobMeta::Head { version, generation } => {
                let _ = loaded.record(id(version), generation, None);
            }
            BlobMeta::Slice { version, generation, sequence } => {
                let _ = loaded.record(id(version), generation, Some(sequence));
            }
        }
    }
    trailer.is_some()
}

fn seed_pack_table() -> Vec<Vec<u8>> {
    let mut trailer = 123_456u64.to_le_bytes().to_vec();
    trailer.extend_from_slice(&[200, 0, 0, 0, 44, 1, 0, 0, 0, 0, 0, 0]);
    vec![
        [trailer.clone(), codec::encode(&pack_table())].concat(),
        [trailer, codec::encode(&PackTable::default())].concat(),
    ]
}

fn feed_index_object(input: &[u8]) -> bool {
    let Some(body) = check_record::<IndexBody>(input) else { return false };
    let mut index = RepositoryIndex::new(ChunkTable::default());
    for pack in &body.packs {
        let number = index.add_pack(pack, Some(IndexId([1; 16])));
        assert_eq!(index.pack_number(pack.pack), Some(number));
        for id in pack.table.ids.iter().take(64) {
            let _ = (index.space_parts(*id).len(), index.record_places(*id));
        }
    }
    true
}

fn seed_index_object() -> Vec<Vec<u8>> {
    let pack = IndexedPack { pack: PackId([7; 16]), copy: 0, stored_bytes: 1 << 20, table: pack_table() };
    let two = vec![pack.clone(), IndexedPack { pack: PackId([8; 16]), copy: 1, ..pack }];
    vec![codec::encode(&IndexBody { supersedes: vec![IndexId([3; 16])], packs: two })]
}

fn feed_snapshot(input: &[u8]) -> bool {
    let Some(snapshot) = check_record::<Snapshot>(input) else { return false };
    let _ = (snapshot.series().to_string(), snapshot.is_complete(), snapshot.source_names().count());
    for source in &snapshot.sources {
        let _ = (snapshot.source(&source.name), source.kind.is_database());
    }
    true
}

fn snapshot() -> Snapshot {
    let stream = StreamRecord {
        role: StreamRole::Data,
        file_name: "app-db.dump".into(),
        version: VersionId([4; 16]),
        plain_bytes: 46_000_000,
        blake3: Digest([5; 32]),
        sha256: Some(Digest([6; 32])),
        added_bytes: 140_000,
        volatile: Vec::new(),
    };
    let identities = StreamRecord { role: StreamRole::Identities, plain_bytes: 4000, ..stream.clone() };
    let source = SourceRecord {
        name: "app-db".into(),
        kind: SourceKind::Postgres,
        location: "postgres://db/app".into(),
        failure: None,
        streams: vec![stream, identities],
        reader_version: "pg_dump (PostgreSQL) 15.18".into(),
        server_version: Some("15.18".into()),
        tables: vec![TableRows { table: "public.item".into(), rows: 1000 }],
        files: None,
        warnings: Vec::new(),
        live_bytes: Some(1 << 26),
        duration_ms: 1200,
    };
    Snapshot {
        id: SnapshotId([1; 16]),
        time_ns: 1_763_640_000_000_000_000,
        time_zone: "Europe/Berlin".into(),
        started_ns: 1_763_640_000_000_000_000,
        finished_ns: 1_763_640_005_000_000_000,
        system: SystemInfo { host: "server".into(), ..SystemInfo::default() },
        class: Some("hourly".into()),
        tags: vec!["before-deploy".into()],
        imported: false,
        suspect: None,
        git: None,
        project_root: Some("/srv/app".into()),
        scope: Vec::new(),
        sources: vec![source],
        heads: vec![(SnapshotId([2; 16]), Digest([3; 32]))],
        stored_bytes: 140_000,
        extensions: Vec::new(),
    }
}

fn seed_snapshot() -> Vec<Vec<u8>> {
    vec![codec::encode(&snapshot())]
}

fn feed_sparse(input: &[u8]) -> bool {
    let Some((head, raw)) = input.split_first_chunk::<12>() else { return false };
    let (start, span) = head.split_first_chunk::<8>().expect("12 bytes");
    let (start, span) = (u64::from_le_bytes(*start), u32::from_le_bytes(span.try_into().expect("4 bytes")));
    let Ok(pieces) = sparse::decode(start, span, raw) else { return false };
    let bytes = |p: &sparse::Piece| &raw[p.at as usize..p.at as usize + p.len as usize];
    let parts: Vec<(u64, &[u8])> = pieces.iter().map(|p| (p.start, bytes(p))).collect();
    // numbers may be longer than they need be, so the bytes need not be the same; what they say must be
    let again = sparse::encode(start, &parts);
    let back = sparse::decode(start, span, &again).expect("what was encoded decodes");
    assert_eq!(
        back.iter().map(|p| (p.start, p.len)).collect::<Vec<_>>(),
        pieces.iter().map(|p| (p.start, p.len)).collect::<Vec<_>>()
    );
    true
}

fn seed_sparse() -> Vec<Vec<u8>> {
    let parts: [(u64, &[u8]); 3] = [(1000, b"one"), (1100, b"second piece"), (70_000, &[7; 300])];
    let head = [1000u64.to_le_bytes().as_slice(), &100_000u32.to_le_bytes()].concat();
    vec![[head.clone(), sparse::encode(1000, &parts)].concat(), [head, sparse::encode(1000, &parts[..1])].concat()]
}

fn feed_condemned(input: &[u8]) -> bool {
    check_record::<Condemned>(input).is_some()
}

fn seed_condemned() -> Vec<Vec<u8>> {
    let record = Condemned {
        id: CondemnedId([1; 16]),
        created_ns: 1_700_000_000_000_000_000,
        host: "web1".to_owned(),
        packs: vec![PackId([2; 16]), PackId([3; 16])],
        snapshots: vec![SnapshotId([4; 16])],
    };
    vec![codec::encode(&record), codec::encode(&Condemned::default())]
}

/// The pack whose parity every input pretends to be.
const PARITY_OF: PackId = PackId([7; 16]);

/// As it is, and with the checksums of its rows made right, so that whatever its numbers say is believed.
fn feed_parity(input: &[u8]) -> bool {
    let accepted = heal_with(input).is_some();
    let mut believed = input.to_vec();
    if reseal_rows(&mut believed).is_some() {
        heal_with(&believed);
    }
    accepted
}

/// Heals a pack that is gone and one of the right kind; whatever comes out is a whole pack.
fn heal_with(object: &[u8]) -> Option<()> {
    let parity = Parity::find(object, PARITY_OF)?;
    assert!(parity.whole_rows() > 0 && parity.whole_rows() <= object.len() / 64);
    let length = usize::try_from(parity.shape().pack_bytes).ok().filter(|length| *length <= 1 << 20)?;
    for pack in [Vec::new(), parity_pack(length.saturating_sub(112))] {
        if let Ok(healed) = parity.heal(&pack) {
            assert_eq!(healed.len(), length);
            envelope::check_stored(&healed).expect("what is healed is whole");
        }
    }
    Some(())
}

/// Makes the checksum of each row fit, as far as the rows are there that the first card speaks of.
fn reseal_rows(object: &mut [u8]) -> Option<()> {
    let number = |at: usize, bytes: usize| {
        let field = object.get(at..at + bytes)?;
        usize::try_from(field.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b))).ok()
    };
    let (length, shard, rows) = (number(88, 8)?, number(96, 4)?, number(100, 4)?);
    let pieces = rows.div_ceil(2).max(1);
    let piece = length.div_ceil(shard.max(1)).checked_mul(16)?.div_ceil(pieces).checked_next_multiple_of(64)?;
    let row_bytes = shard.checked_add(piece)?.checked_add(64)?;
    for row in object.get_mut(64..)?.chunks_exact_mut(row_bytes) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&row[..48]).update(&row[64..]);
        row[48..64].copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    }
    Some(())
}

fn parity_pack(body_bytes: usize) -> Vec<u8> {
    let header = Header::new(ObjectTag::Pack, RepositoryId([1; 16]), PARITY_OF.0, 1);
    let body: Vec<u8> = (0..body_bytes).map(|n| (n % 251) as u8).collect();
    envelope::encode_object(&header, &body)
}

fn seed_parity() -> Vec<Vec<u8>> {
    let shapes = [(0, 5), (900, 5), (900, 100), (12_000, 30)];
    let seed = |(body_bytes, percent)| {
        let pack = parity_pack(body_bytes);
        let header = Header::new(ObjectTag::Pack, RepositoryId([1; 16]), PARITY_OF.0, 1);
        let share = ParityShare::new(percent).expect("a share");
        parity::encode(&header, Shape::choose(pack.len() as u64, share), &pack).expect("encodes")
    };
    shapes.map(seed).to_vec()
}

fn feed_tombstone(input: &[u8]) -> bool {
    check_record::<Tombstone>(input).is_some()
}

fn seed_tombstone() -> Vec<Vec<u8>> {
    vec![codec::encode(&Tombstone {
        snapshot: SnapshotId([1; 16]),
        record: Digest([3; 32]),
        time_ns: 1_763_640_000_000_000_000,
        forgotten_ns: 1_763_650_000_000_000_000,
        host: "server".into(),
        user: "backup".into(),
        tool_version: "holdfast 0.1.0".into(),
        reason: "by policy: 48 newer hourly kept; older than 7d".into(),
    })]
}

fn feed_acceptance(input: &[u8]) -> bool {
    check_record::<Acceptance>(input).is_some()
}

fn seed_acceptance() -> Vec<Vec<u8>> {
    vec![codec::encode(&Acceptance {
        snapshot: SnapshotId([1; 16]),
        record: Digest([3; 32]),
        accepted_ns: 1_763_650_000_000_000_000,
        host: "server".into(),
        user: "backup".into(),
        tool_version: "holdfast 0.1.0".into(),
        sources: vec!["app-db".into()],
    })]
}

fn feed_act(input: &[u8]) -> bool {
    let Some(entry) = check_record::<ActEntry>(input) else { return false };
    let _ = (entry.state(), entry.text(), entry.read::<u64>().is_ok());
    true
}

fn seed_act() -> Vec<Vec<u8>> {
    let entry = |sequence, finished, body: &str| {
        codec::encode(&ActEntry {
            act: ActId([1; 16]),
            sequence,
            kind: "guard".into(),
            time_ns: 1_763_650_000_000_000_000,
            host: "server".into(),
            user: "backup".into(),
            process: 4711,
            mark: "machine/boot/4026531836/12345".into(),
            finished,
            body: body.into(),
        })
    };
    vec![entry(0, false, r#"{"state":"open","text":"v2.3.1"}"#), entry(700, true, "no JSON")]
}

fn feed_samples(input: &[u8]) -> bool {
    let found = samples::of(&[(samples::EXTENSION.to_owned(), input.to_vec())]);
    for sample in &found {
        assert!(sample.saved_percent().is_none() || sample.sampled_bytes > 0);
    }
    match samples::extension(&found) {
        Some(written) => {
            assert_eq!(samples::of(&[written]), found);
            true
        }
        None => false,
    }
}

fn seed_samples() -> Vec<Vec<u8>> {
    let database =
        Sample { source: "app-db".into(), sampled_bytes: 1 << 20, saved_bytes: 700_000, ..Sample::default() };
    let files = Sample { source: "code".into(), changed_files: 300, hardened_files: 2, ..Sample::default() };
    samples::extension(&[database, files]).into_iter().map(|(_, bytes)| bytes).collect()
}

fn feed_version_head(input: &[u8]) -> bool {
    let Some(head) = check_record::<VersionHead>(input) else { return false };
    let _ = head.proof.root();
    true
}

fn seed_version_head() -> Vec<Vec<u8>> {
    let head = |parent: Option<VersionId>, proof| VersionHead {
        version: VersionId([1; 16]),
        generation: 0,
        parent,
        parent_bytes: if parent.is_some() { 3 << 20 } else { 0 },
        depth: parent.is_some().into(),
        chain_bytes: 5000,
        flat_runs: 17,
        plain_bytes: 1 << 20,
        literal_bytes: 1000,
        spaces: vec![VersionId([3; 16])],
        slices: vec![SliceInfo { plain_bytes: 1 << 20, literal_bytes: 1000 }],
        proof,
        sketch: Sketch(vec![1, 2, 3]),
        extensions: Vec::new(),
    };
    let stream = Proof::Stream { root: Digest([5; 32]), leaves: vec![Digest([6; 32])] };
    let records = [head(Some(VersionId([2; 16])), stream), head(None, Proof::Files { root: Digest([7; 32]) })];
    records.iter().map(codec::encode).collect()
}

// Parts of records

const FRAME_BYTES: usize = 44;

/// The first bytes are the frame, which the record's head would give.
fn feed_slice(input: &[u8]) -> bool {
    let Some((frame, bytes)) = input.split_first_chunk::<FRAME_BYTES>() else { return false };
    let word = |n: usize| frame.get(8 * n..).and_then(<[u8]>::first_chunk::<8>).map_or(0, |w| u64::from_le_bytes(*w));
    let spaces = frame.last_chunk::<4>().map_or(0, |w| u32::from_le_bytes(*w));
    let frame = SliceFrame {
        dst_start: word(0),
        plain_bytes: word(1),
        literal_start: word(2),
        literal_bytes: word(3),
        parent_bytes: word(4),
        spaces,
    };
    let Ok(runs) = slice::decode(bytes, &frame) else { return false };
    let mut at = frame.dst_start;
    for run in &runs {
        assert_eq!(run.dst, at, "runs leave a gap");
        at = run.dst_end();
        assert!(run.space != PARENT || run.src_end() <= frame.parent_bytes, "a copy from beyond the parent");
    }
    assert_eq!(at, frame.dst_start + frame.plain_bytes);
    assert_eq!(slice::decode(&slice::encode(&runs), &frame).as_ref(), Ok(&runs));
    true
}

fn seed_slice() -> Vec<Vec<u8>> {
    let runs = [
        Run { dst: 100, src: 50, len: 10, space: slice::OWN },
        Run { dst: 110, src: 300, len: 40, space: PARENT },
        Run { dst: 150, src: 60, len: 5, space: slice::OWN },
        Run { dst: 155, src: 900, len: 45, space: 1 },
    ];
    let mut seed = Vec::new();
    for word in [100u64, 100, 50, 15, 1000] {
        seed.extend_from_slice(&word.to_le_bytes());
    }
    seed.extend_from_slice(&2u32.to_le_bytes());
    seed.extend_from_slice(&slice::encode(&runs));
    vec![seed]
}

fn read_tree(parts: &[&[u8]]) -> Result<Vec<entry::Entry>, String> {
    let mut reader = TreeReader::new();
    let mut entries = Vec::new();
    for part in parts {
        reader.feed(part);
        while let Some(entry) = reader.next_entry().map_err(|e| e.to_string())? {
            entries.push(entry);
        }
    }
    reader.finish().map(|_| entries).map_err(|e| e.to_string())
}

fn feed_tree(input: &[u8]) -> bool {
    let (at, bytes) = cut(input);
    let whole = read_tree(&[bytes]);
    let (one, two) = bytes.split_at(at);
    let halves = read_tree(&[one, two]);
    assert_eq!(whole.is_ok(), halves.is_ok(), "a tree in two parts is judged in another way: {whole:?}, {halves:?}");
    let Ok(entries) = whole else { return false };
    let mut writer = TreeWriter::new();
    for entry in &entries {
        if let entry::EntryKind::File(content) = &entry.kind {
            let _ = content.stream_bytes();
        }
        if let Err(error) = writer.push(entry) {
            panic!("an entry that was read cannot be written: {error}");
        }
    }
    assert_eq!(read_tree(&[&writer.finish()]), Ok(entries));
    true
}

fn seed_tree() -> Vec<Vec<u8>> {
    use entry::{Entry, EntryKind, FileContent};
    let file = FileContent { size: 5, hash: Digest([9; 32]), ..FileContent::default() };
    let sparse = FileContent { size: 1 << 20, extents: vec![(4096, 4096)], sparse: true, ..file.clone() };
    let entries = [
        (b"/".as_slice(), EntryKind::Directory),
        (b"/srv", EntryKind::Directory),
        (b"/srv/app", EntryKind::Directory),
        (b"/srv/app/a", EntryKind::File(file)),
        (b"/srv/app/b", EntryKind::HardLink(b"/srv/app/a".to_vec())),
        (b"/srv/app/c", EntryKind::Symlink(b"a".to_vec())),
        (b"/srv/app/d", EntryKind::File(sparse)),
        (b"/srv/app/e", EntryKind::Fifo),
        (b"/srv/app/f", EntryKind::CharDevice { major: 1, minor: 3 }),
    ];
    let mut writer = TreeWriter::new();
    for (path, kind) in entries {
        let entry = Entry {
            path: path.to_vec(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            user: Some("root".into()),
            group: None,
            mtime_ns: 1_763_640_000_000_000_000,
            xattrs: vec![(b"user.note".to_vec(), b"x".to_vec())],
        };
        if let Err(error) = writer.push(&entry) {
            panic!("the seed is no tree: {error}");
        }
    }
    vec![[vec![90], writer.finish()].concat(), [vec![0], TreeWriter::new().finish()].concat()]
}

fn feed_compress(input: &[u8]) -> bool {
    let Some((length, bytes)) = input.split_first_chunk::<3>() else { return false };
    let raw_len = usize::from(length[0]) | usize::from(length[1]) << 8 | usize::from(length[2] & 0x0f) << 16;
    let (mut raw, mut packed) = (Vec::new(), Vec::new());
    let accepted = compress::decompress_exact(bytes, raw_len, &mut raw).is_ok();
    assert!(!accepted || raw.len() == raw_len);
    compress::compress(3, bytes, &mut packed);
    assert!(compress::decompress_exact(&packed, bytes.len(), &mut raw).is_ok() && raw == bytes);
    accepted
}

fn seed_compress() -> Vec<Vec<u8>> {
    let text = b"the same words, the same words, and the same words again. ".repeat(20);
    let mut packed = Vec::new();
    compress::compress(3, &text, &mut packed);
    let length = (text.len() as u32).to_le_bytes();
    vec![[length.get(..3).unwrap_or_default(), &packed].concat(), vec![3, 0, 0, 0, b'a', b'b', b'c']]
}

// Texts

fn context() -> Context {
    let now = jiff::Timestamp::from_second(1_795_185_045).unwrap_or_default();
    Context { now, tz: jiff::tz::TimeZone::get("Europe/Berlin").unwrap_or(jiff::tz::TimeZone::UTC) }
}

fn feed_selector(input: &[u8]) -> bool {
    let context = context();
    let Ok(selector) = Selector::parse_bytes(input, &context) else { return false };
    assert!(selector.path.as_ref().is_none_or(|path| !path.is_empty()));
    assert_eq!(Selector::parse_bytes(input, &context), Ok(selector));
    true
}

fn seed_selector() -> Vec<Vec<u8>> {
    texts(&[
        "latest",
        "latest~2:/srv/app",
        "@yesterday 14:00:/etc",
        "tag:a",
        "class:daily:x",
        "20240708_143022",
        "0123abcd",
    ])
}

fn feed_time_spec(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let context = context();
    let Ok(moment) = parse_time(text, &context) else { return false };
    assert!(moment.start <= moment.end, "{text} ends before it begins");
    let _ = format_local(moment.end_ns(), &context.tz);
    true
}

fn seed_time_spec() -> Vec<Vec<u8>> {
    let forms =
        ["2026-11-20", "2026-11-20 14:00", "2026-11-20T14:00:30+01:00", "20261120_140030", "14:00", "now", "today"];
    let words = ["yesterday 14:00", "last monday", "3h ago", "2 hours ago", "unix:1700000000"];
    [texts(&forms), texts(&words)].concat()
}

fn feed_units(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let (size, duration) = (units::parse_size(text), units::parse_duration(text));
    let accepted = size.is_ok() || duration.is_ok();
    if let Ok(bytes) = size {
        assert_eq!(units::parse_size(&units::format_size_exact(bytes)), Ok(bytes));
        let _ = units::format_size(bytes);
    }
    if let Ok(duration) = duration {
        assert_eq!(units::parse_duration(&units::format_duration_exact(duration)), Ok(duration));
        let _ = (units::format_duration(duration), units::format_age(duration));
    }
    if let Ok(window) = Window::parse(text) {
        assert_eq!(Window::parse(&window.to_string()), Ok(window));
    }
    accepted
}

fn seed_units() -> Vec<Vec<u8>> {
    texts(&["10 KB", "1.5GiB", "512 MiB", "0", "18446744073709551615", "90s", "1h30m", "26h", "2w", "250ms"])
}

fn feed_secret_text(input: &[u8]) -> bool {
    let _ = Secret::from_key_file(input);
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok((kind, secret)) = secret_text::parse(text) else { return false };
    assert_eq!(secret_text::parse(&secret_text::block(&secret, kind)), Ok((kind, secret)));
    true
}

fn seed_secret_text() -> Vec<Vec<u8>> {
    let block = |kind| secret_text::block(&[0x5a; 32].into(), kind).as_bytes().to_vec();
    vec![block(secret_text::TextKind::KeyFile), block(secret_text::TextKind::Recovery)]
}

fn feed_conninfo(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let _ = holdfast::cli::args::url::mask_passwords(text);
    let Ok(pairs) = conninfo::parse(text) else { return false };
    if !pairs.is_empty() {
        assert_eq!(conninfo::parse(&conninfo::write(&pairs)).ok(), Some(pairs));
    }
    true
}

fn seed_conninfo() -> Vec<Vec<u8>> {
    texts(&[
        "postgres://backup:secret@127.0.0.1:5432/app?sslmode=require&connect_timeout=3",
        "postgresql://%2Fvar%2Frun/db",
        "host=/tmp dbname='my db' user=me password='it\\'s'",
    ])
}

thread_local! {
    /// Settings are read from files.
    static FOLDER: Option<tempfile::TempDir> = tempfile::tempdir().ok();
}

fn feed_settings(input: &[u8]) -> bool {
    FOLDER.with(|folder| {
        let Some(folder) = folder else { panic!("no temporary folder") };
        let file = folder.path().join("holdfast.toml");
        if std::fs::write(&file, input).is_err() {
            panic!("the temporary folder cannot be written");
        }
        let overrides = Overrides { config: Some(file), ..Overrides::default() };
        let Ok(settings) = Settings::load(&overrides, &Environment::empty(folder.path())) else { return false };
        let _ = (holdfast::cli::settings::show_text(&settings), settings.configured_series("host"));
        true
    })
}

fn seed_settings() -> Vec<Vec<u8>> {
    vec![include_bytes!("../../holdfast.example.toml").to_vec(), b"[repository]\nlocation = \"/r\"\n".to_vec()]
}

fn feed_ignore_rules(input: &[u8]) -> bool {
    // patterns become automata, which are much longer than they are
    let input = input.get(..1024).unwrap_or(input);
    let (at, bytes) = cut(input);
    let (patterns, file) = bytes.split_at(at);
    let lines = String::from_utf8_lossy(patterns).lines().map(str::to_owned).collect::<Vec<_>>();
    let Ok(rules) = Rules::new(lines, true) else { return false };
    let Ok(root) = rules.for_root(&[b"/srv/app"]) else { return false };
    let (inner, _) = root.with_ignore_file(b"sub", file);
    for path in [b"a.log".as_slice(), b"sub/a.log", b"sub/tmp", b"sub/\xff\xfe", b".git", patterns, file] {
        let _ = (root.exclusion(path, false), inner.exclusion(path, true));
    }
    true
}

fn seed_ignore_rules() -> Vec<Vec<u8>> {
    vec![b"\x80*.log\n/srv/app/tmp/\n!keep.log\n[a-c]?\n**/x/**\n# note\n".to_vec(), b"\x00/build\n*.o\n".to_vec()]
}

// Streams of databases

fn feed_custom_archive(input: &[u8]) -> bool {
    let (at, bytes) = cut(input);
    let judge = |parts: &[&[u8]]| {
        let mut reader = CustomArchive::default();
        parts.iter().for_each(|part| reader.feed(part));
        reader.finish()
    };
    let (one, two) = bytes.split_at(at);
    let whole = judge(&[bytes]);
    assert_eq!(whole, judge(&[one, two]), "an archive in two parts is judged in another way");
    matches!(whole, Verdict::Good(_))
}

/// The beginning of an archive as `pg_dump` 15 writes it: one table, one table's data.
fn seed_custom_archive() -> Vec<Vec<u8>> {
    fn int(out: &mut Vec<u8>, value: i32) {
        out.push(u8::from(value < 0));
        out.extend_from_slice(&value.unsigned_abs().to_le_bytes());
    }
    fn text(out: &mut Vec<u8>, value: &str) {
        int(out, i32::try_from(value.len()).unwrap_or(0));
        out.extend_from_slice(value.as_bytes());
    }
    let mut out = b"\x40PGDMP\x01\x0e\x00\x04\x08\x01".to_vec();
    [0, 41, 25, 13, 21, 10, 126, 0].iter().for_each(|value| int(&mut out, *value));
    ["app", "15.18", "15.18"].iter().for_each(|value| text(&mut out, value));
    int(&mut out, 1);
    int(&mut out, 2);
    int(&mut out, 1);
    for value in ["0", "0", "item", "TABLE DATA"] {
        text(&mut out, value);
    }
    int(&mut out, 3);
    for value in ["", "", "COPY item FROM stdin;\n", "public"] {
        text(&mut out, value);
    }
    int(&mut out, -1);
    int(&mut out, -1);
    text(&mut out, "owner");
    text(&mut out, "false");
    text(&mut out, "17");
    int(&mut out, -1);
    out.push(2);
    out.extend_from_slice(&[0; 8]);
    out.push(1);
    int(&mut out, 2);
    int(&mut out, 4);
    out.extend_from_slice(b"1\ta\n");
    int(&mut out, 0);
    vec![out]
}

fn feed_plain_dump(input: &[u8]) -> bool {
    let (at, bytes) = cut(input);
    let kind = PlainKind::of(bytes).unwrap_or(PlainKind::PgDump);
    let judge = |parts: &[&[u8]]| {
        let mut reader = PlainDump::new(kind);
        parts.iter().for_each(|part| reader.feed(part));
        reader.finish()
    };
    let (one, two) = bytes.split_at(at);
    let whole = judge(&[bytes]);
    assert_eq!(whole, judge(&[one, two]), "a dump in two parts is judged in another way");
    matches!(whole, Verdict::Good(_))
}

fn seed_plain_dump() -> Vec<Vec<u8>> {
    let postgres = "\x40--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\n-- Dumped from database version 15.18\n\n\
        COPY public.item (id, name) FROM stdin;\n1\ta\n2\tb\n\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n";
    let cluster = "\x40--\n-- PostgreSQL database cluster dump\n--\n\nCREATE ROLE app;\n\n--\n-- PostgreSQL database cluster dump complete\n--\n";
    let mysql = "\x40-- MySQL dump 10.13  Distrib 8.0.36\n--\nINSERT INTO `t` VALUES (1),(2);\n-- Dump completed on 2026-11-20 14:00:00\n";
    texts(&[postgres, cluster, mysql])
}

/// Bytes that are unpacked of one input: enough for every seed, and a bomb goes no further.
const UNPACKED_BYTES_MAX: u64 = 4 << 20;

/// A file of another tool: its name, its packing, and what is in it.
fn feed_original(input: &[u8]) -> bool {
    let (at, bytes) = cut(input);
    let name = String::from_utf8_lossy(bytes.get(..64).unwrap_or(bytes));
    assert!(!original::read_name(&name).source.is_empty(), "a source has a name");
    let unpacked = unpack::open(std::io::Cursor::new(bytes.to_vec())).and_then(|(reader, _)| {
        let mut out = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(reader, UNPACKED_BYTES_MAX), &mut out)?;
        Ok(out)
    });
    let Ok(plain) = unpacked else { return false };
    let (one, two) = plain.split_at(at.min(plain.len()));
    if tar_format::is_header(&plain) {
        let judge = |parts: &[&[u8]]| {
            let mut judge = TarJudge::default();
            parts.iter().for_each(|part| judge.feed(part));
            judge.finish()
        };
        let whole = judge(&[&plain]);
        assert_eq!(whole, judge(&[one, two]), "an archive in two parts is judged in another way");
        return whole.is_ok();
    }
    let judge = |parts: &[&[u8]]| {
        let mut judge = SqlText::new(&plain);
        parts.iter().for_each(|part| judge.feed(part));
        judge.finish()
    };
    let whole = judge(&[&plain]);
    assert_eq!(whole, judge(&[one, two]), "a script in two parts is judged in another way");
    whole.is_ok()
}

/// A tar archive of one file and one link, as POSIX has it.
fn seed_tar() -> Vec<u8> {
    let member = |name: &str, kind: u8, size: usize, link: &str| {
        let mut block = vec![0u8; tar_format::BLOCK_BYTES];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[148..156].fill(b' ');
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    };
    let fields = b"19 path=../outside\n".to_vec();
    let mut archive = member("x", b'x', 19, "");
    archive.extend_from_slice(&fields);
    archive.resize(1024, 0);
    archive.extend(member("media/a.txt", b'0', 5, ""));
    archive.extend_from_slice(b"hello");
    archive.resize(2048, 0);
    archive.extend(member("media/link", b'2', 0, "../../etc"));
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn seed_original() -> Vec<Vec<u8>> {
    let script = b"-- made by hand\nCREATE TABLE t (x int);\nINSERT INTO t VALUES (1);\n";
    let sqlite = b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE t(x);\nCOMMIT;\n";
    // made by gzip, bzip2 and xz
    let byte = |at: usize, text: &str| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    let hex = |text: &str| (0..text.len()).step_by(2).map(|at| byte(at, text)).collect::<Vec<u8>>();
    let packed = [GZIP_SEED, BZIP2_SEED, XZ_SEED, ZSTD_SEED].map(hex);
    let plain = [script.to_vec(), sqlite.to_vec(), seed_tar()];
    plain.into_iter().chain(packed).map(|bytes| [b"\x40".to_vec(), bytes].concat()).collect()
}

fn feed_originals(input: &[u8]) -> bool {
    let found = originals::of(&[(originals::EXTENSION.to_owned(), input.to_vec())]);
    if let Some(written) = originals::extension(&found) {
        assert_eq!(originals::of(&[written]), found, "originals are written in another way");
    }
    !found.is_empty()
}

fn seed_originals() -> Vec<Vec<u8>> {
    let original = Original {
        source: "app.sql".to_owned(),
        name: "2024-07-12/app.sql.gz".to_owned(),
        bytes: 123_456,
        sha256: Digest([7; 32]),
        modified_ns: 1_720_441_822_000_000_000,
        packing: "gzip".to_owned(),
    };
    let plain = Original { packing: String::new(), ..original.clone() };
    originals::extension(&[original, plain]).into_iter().map(|(_, bytes)| bytes).collect()
}
const GZIP_SEED: &str = "1f8b0800000000000003730e72750c7155087174f271552851d0a850c8cc2bd1b4e6f2f40b760d0a51f0f40bf1070a8739fa84ba062b6818026500ba1a214532000000";
const BZIP2_SEED: &str = "425a6839314159265359977bac2d00000adf800010406020083a259f0000210440200054500188d34d1a0d5313d47ea8f4d43d32220f72f7aeaae42a76a0c966dde3c9467303a8512a79b5ec3341a7f8bb9229c28484bbdd6168";
const XZ_SEED: &str = "fd377a585a000004e6d6b446020021010c0000008f98419c010031435245415445205441424c45207420287820696e74293b0a494e5345525420494e544f20742056414c554553202831293b0a000000ca1c5513163492ed00014a322443c7e21fb6f37d010000000004595a";
const ZSTD_SEED: &str = "28b52ffd0458910100435245415445205441424c45207420287820696e74293b0a494e5345525420494e544f20742056414c554553202831293b0a45bcb0e8";
