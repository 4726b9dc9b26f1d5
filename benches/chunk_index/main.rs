//! The chunk index of a large repository: memory, disk and time of building, storing, opening and asking it.
//!
//! `cargo bench --bench chunk_index` makes an index of 16 million chunks, `cargo bench --bench chunk_index -- N` one of
//! N. Without `--bench` (as `cargo test --benches` starts it) a small one shows that the program still works. Each half
//! runs in a process of its own, so that the peak of one is not that of the other. A chunk that is not found, or one
//! that is found and should not be, ends the run with an error.

use holdfast::domain::id::{ChunkId, IndexId, PackId, RepositoryId, VersionId};
use holdfast::format::records::{BlobEntry, BlobMeta, ChunkEntry, IndexedPack, PackTable};
use holdfast::format::seal::{Keys, Suite};
use holdfast::repository::chunk_table::ChunkTable;
use holdfast::repository::index::RepositoryIndex;
use holdfast::repository::index_cache;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

/// Chunks of 64 KiB: a terabyte that is all different.
const CHUNKS: u64 = 16_000_000;
const CHUNKS_SMALL: u64 = 50_000;
/// Chunks of one pack.
const PACK_CHUNKS: u64 = 512;
/// Packs of one version's literal space.
const SPACE_PACKS: u64 = 4;
const CHUNK_BYTES: u32 = 64 << 10;
const LOOKUPS: u64 = 100_000;

fn keys() -> Arc<Keys> {
    Arc::new(Keys::derive(&[1; 32], RepositoryId([2; 16]), Suite::Aes256Gcm))
}

fn digest(kind: &str, number: u64) -> [u8; 32] {
    *blake3::Hasher::new().update(kind.as_bytes()).update(&number.to_le_bytes()).finalize().as_bytes()
}

fn short(kind: &str, number: u64) -> [u8; 16] {
    digest(kind, number).first_chunk().copied().unwrap_or_default()
}

/// The pack of the chunks from `first` on.
fn pack(first: u64, chunks: u64) -> IndexedPack {
    let number = first / PACK_CHUNKS;
    let count = PACK_CHUNKS.min(chunks - first);
    let base = number % SPACE_PACKS * PACK_CHUNKS * u64::from(CHUNK_BYTES);
    let start = |n: u64| base + n * u64::from(CHUNK_BYTES);
    let raw_bytes = 16 * CHUNK_BYTES;
    let blobs = (0..count).step_by(16).map(|n| BlobEntry {
        meta: BlobMeta::Segment { space: 0, start: start(n) },
        stored_bytes: raw_bytes / 2,
        raw_bytes,
    });
    let chunks = (0..count).map(|n| ChunkEntry {
        id: ChunkId(digest("chunk", first + n)),
        space: 0,
        start: start(n),
        plain_bytes: CHUNK_BYTES,
    });
    let ids = vec![VersionId(short("space", number / SPACE_PACKS))];
    let table = PackTable { ids, blobs: blobs.collect(), chunks: chunks.collect() };
    IndexedPack { pack: PackId(short("pack", number)), copy: 0, stored_bytes: 16 << 20, table }
}

/// A line of this process's status, kB.
fn status_kb(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|l| l.trim_start_matches(':').split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn peak(what: &str) {
    println!(
        "{what}: VmHWM {:.1} MB, VmRSS {:.1} MB",
        status_kb("VmHWM") as f64 / 1e3,
        status_kb("VmRSS") as f64 / 1e3
    );
}

fn per_chunk(bytes: u64, chunks: u64) -> f64 {
    bytes as f64 / chunks as f64
}

fn build(folder: &Path, chunks: u64) -> Result<(), Box<dyn Error>> {
    let keys = keys();
    let mut index = RepositoryIndex::new(ChunkTable::on_disk(Some(folder), &keys));
    let began = Instant::now();
    for first in (0..chunks).step_by(PACK_CHUNKS as usize) {
        let object = IndexId(short("index", first / PACK_CHUNKS / 64));
        index.add_pack(&pack(first, chunks), Some(object));
        index.add_object(object);
    }
    println!("built: {} chunks in {} packs, {:.1} s", chunks, index.packs().len(), began.elapsed().as_secs_f64());
    peak("after building");
    let began = Instant::now();
    index_cache::store(folder, &keys, &mut index)?;
    println!("stored: {:.1} s", began.elapsed().as_secs_f64());
    peak("after storing");
    Ok(())
}

fn ask(index: &RepositoryIndex, kind: &str, step: u64, wanted: bool) -> Result<f64, Box<dyn Error>> {
    // ids are made beforehand: their hashing is not the index's work
    let ids: Vec<ChunkId> = (0..LOOKUPS).map(|n| ChunkId(digest(kind, n * step))).collect();
    let began = Instant::now();
    let found = ids.iter().filter(|id| index.chunk(id).is_some()).count();
    let seconds = began.elapsed().as_secs_f64();
    if found as u64 != if wanted { LOOKUPS } else { 0 } {
        return Err(format!("{found} of {LOOKUPS} chunks of kind {kind} were found").into());
    }
    Ok(seconds * 1e6 / LOOKUPS as f64)
}

fn look_up(folder: &Path, chunks: u64) -> Result<(), Box<dyn Error>> {
    let disk_bytes = folder.join("index").metadata()?.len();
    let began = Instant::now();
    let index = index_cache::open(folder, &keys()).ok_or("the stored index does not open")?;
    println!("opened: {:.2} s", began.elapsed().as_secs_f64());
    peak("after opening");
    if index.chunks().len() != chunks {
        return Err(format!("{} chunks instead of {chunks}", index.chunks().len()).into());
    }
    let present = ask(&index, "chunk", (chunks / LOOKUPS).max(1), chunks >= LOOKUPS);
    if chunks >= LOOKUPS {
        println!("look-up of a chunk that is there: {:.2} us", present?);
    }
    println!("look-up of a chunk that is not: {:.2} us", ask(&index, "absent", 1, false)?);
    peak("after looking up");
    let run_bytes = index.chunks().run_memory_bytes();
    println!("memory: {:.3} bytes a chunk ({run_bytes} bytes)", per_chunk(run_bytes, chunks));
    println!("disk: {:.2} bytes a chunk ({disk_bytes} bytes)", per_chunk(disk_bytes, chunks));
    Ok(())
}

/// Runs one half in a process of its own.
fn half(name: &str, folder: &Path, chunks: u64) -> Result<(), Box<dyn Error>> {
    let status = Command::new(std::env::current_exe()?).arg(name).arg(folder).arg(chunks.to_string()).status()?;
    if status.success() { Ok(()) } else { Err(format!("'{name}' ended with {status}").into()) }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [half, folder, chunks] = arguments.as_slice() {
        let (folder, chunks) = (Path::new(folder), chunks.parse()?);
        return if half == "build" { build(folder, chunks) } else { look_up(folder, chunks) };
    }
    let whole = if arguments.iter().any(|a| a == "--bench") { CHUNKS } else { CHUNKS_SMALL };
    let chunks = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(whole);
    let folder = tempfile::tempdir()?;
    half("build", folder.path(), chunks)?;
    half("look-up", folder.path(), chunks)
}
