//! Writers do what the configuration of the repository records, or refuse; readers do not care.

use crate::support::program::{Place, files_below};
use holdfast::domain::system::{FixedClock, SeededRandom};
use holdfast::format::config_object::{ChunkerConfig, Config};
use holdfast::format::key_slot::KdfCosts;
use holdfast::format::seal::{Keys, Suite};
use holdfast::repository::index_loader;
use holdfast::repository::open::{self, InitOptions};
use holdfast::storage::local::LocalStore;
use std::sync::{Arc, Mutex};

/// A place whose unencrypted repository has these parameters.
fn place_with(chunker: ChunkerConfig, pack_bytes_target: u32) -> (Place, Config) {
    let place = Place::new();
    let options = InitOptions {
        suite: Suite::None,
        secrets: Vec::new(),
        kdf: KdfCosts::CHEAPEST,
        chunker,
        pack_bytes_target,
        host: "host".to_owned(),
        created_by: "holdfast test".to_owned(),
    };
    let store = Arc::new(LocalStore::create(&place.path("repository")).unwrap());
    let clock = FixedClock(Mutex::new(jiff::Timestamp::UNIX_EPOCH));
    let opened = open::init(store, &options, &clock, &SeededRandom::new(7)).unwrap();
    (place, opened.config)
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut out);
    out
}

/// Chunks that the index knows, and the lengths of all packs.
fn stored(place: &Place) -> (Vec<u32>, Vec<u64>) {
    let store = LocalStore::open(&place.path("repository")).unwrap();
    let opened = open::open(Arc::new(store), None).unwrap();
    let mut chunks = Vec::new();
    for id in index_loader::list_objects(opened.store.as_ref()).unwrap() {
        let body = holdfast::repository::pack_reader::load_index(opened.store.as_ref(), &opened.keys, id).unwrap();
        chunks.extend(body.packs.iter().flat_map(|pack| pack.table.chunks.iter().map(|chunk| chunk.plain_bytes)));
    }
    let packs = files_below(&place.path("repository/packs"));
    (chunks, packs.iter().map(|file| file.metadata().unwrap().len()).collect())
}

#[test]
fn chunks_and_packs_have_the_recorded_sizes() {
    let small = ChunkerConfig { min_bytes: 4 << 10, avg_bytes: 8 << 10, max_bytes: 16 << 10, ..ChunkerConfig::DEFAULT };
    let large = ChunkerConfig { min_bytes: 1 << 20, avg_bytes: 4 << 20, max_bytes: 6 << 20, ..ChunkerConfig::DEFAULT };
    let input = noise(12 << 20);
    let cases = [
        (small, 2 << 20, 800..2800, 4..20),
        (ChunkerConfig::DEFAULT, 16 << 20, 70..300, 2..8),
        (large, 128 << 20, 2..12, 1..8),
    ];
    for (chunker, target, chunk_count, pack_count) in cases {
        let (place, _) = place_with(chunker, target);
        place.write("input", &input);
        place.run_bare(["backup", "input"]).good();
        let (chunks, packs) = stored(&place);
        assert!(chunk_count.contains(&chunks.len()), "{chunker:?}: {} chunks", chunks.len());
        assert!(chunks.iter().all(|bytes| *bytes <= chunker.max_bytes), "{chunker:?}");
        // the last of the contents, and the tree
        assert!(chunks.iter().filter(|bytes| **bytes < chunker.min_bytes).count() <= 2, "{chunker:?}: {chunks:?}");
        assert!(pack_count.contains(&packs.len()), "{target}: {packs:?}");
        if target == 2 << 20 {
            // A segment of 1 MiB is not cut, so the target is passed by less than one.
            assert!(packs.iter().all(|bytes| *bytes < u64::from(target) + (5 << 18)), "{packs:?}");
        }
        place.run_bare(["verify", "--read-data"]).good();
        let out = place.bare(["dump", &format!("latest:{}", place.path("input").display())]).output().unwrap();
        assert!(out.status.success() && out.stdout == input, "{chunker:?}");
    }
}

#[test]
fn what_a_writer_does_not_know_it_refuses_and_a_reader_reads() {
    let (place, config) = place_with(ChunkerConfig::DEFAULT, 16 << 20);
    place.write("input", "contents");
    let id = place.run_bare(["backup", "input"]).good().stdout.trim_end().to_owned();
    let keys = Keys::public(config.repository);
    let mut changed = vec![config.clone(); 3];
    changed[0].chunker.id = 2;
    changed[1].chunker.max_bytes = 64 << 20;
    changed[2].pack_bytes_target = 1 << 30;
    for (config, words) in changed.iter().zip(["chunker 2", "67108864", "1073741824"]) {
        for (name, copy) in [("config", 0), ("config.copy", 1)] {
            std::fs::write(place.path("repository").join(name), config.encode(&keys, copy)).unwrap();
        }
        let before = files_below(&place.path("repository"));
        let refused = place.run_bare(["backup", "input"]);
        refused.failed(24, words);
        assert!(refused.stderr.contains("install the newest holdfast"), "{refused:?}");
        assert_eq!(files_below(&place.path("repository")), before, "something was touched");
        assert!(place.run_bare(["ls", &id]).good().stdout.contains("input"));
        place.run_bare(["verify", "--read-data"]).good();
    }
}
