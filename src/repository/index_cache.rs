//! The local index cache: everything the index objects said up to some moment, in one file that opens quickly.
//!
//! It is disposable: derived from the repository's own objects, keyed to it, and left aside whenever anything about it
//! is not as expected or an object that it was made from is gone. Losing it costs time, nothing else.
//!
//! File: 8 bytes magic, u64 length and u64 chunk count, 32 bytes keyed hash over these and the summary, then the
//! summary (codec), then the pages of a [`super::chunk_run`].

use super::chunk_run::ChunkRun;
use super::chunk_table::ChunkTable;
use super::index::{IndexSummary, RepositoryIndex};
use crate::domain::id::VersionId;
use crate::format::codec;
use crate::format::seal::Keys;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"hf-idx-2";
const HEAD_BYTES: usize = 8 + 8 + 8 + 32;
/// Decoded bytes of the largest summary: about ten million packs.
const SUMMARY_BYTES_MAX: usize = 1 << 30;
const FILE_NAME: &str = "index";

/// The searchable parts but chunks.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    summary: IndexSummary,
    chunk_spaces: Vec<VersionId>,
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join(FILE_NAME)
}

fn mac(keys: &Keys, length: u64, chunks: u64, body: &[u8]) -> [u8; 32] {
    let mut input = Vec::with_capacity(body.len() + 40);
    input.extend_from_slice(b"index cache");
    input.extend_from_slice(&length.to_le_bytes());
    input.extend_from_slice(&chunks.to_le_bytes());
    input.extend_from_slice(body);
    keys.mac(&input)
}

/// Opens the cache in `folder`. None when there is none or it is not as it was written.
pub fn open(folder: &Path, keys: &Arc<Keys>) -> Option<RepositoryIndex> {
    let mut file = File::open(path_in(folder)).ok()?;
    let mut head = [0u8; HEAD_BYTES];
    file.read_exact(&mut head).ok()?;
    let (magic, rest) = head.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (chunks, stored_mac) = rest.split_first_chunk::<8>()?;
    let (length, chunks) = (u64::from_le_bytes(*length), u64::from_le_bytes(*chunks));
    if magic != MAGIC || length > file.metadata().ok()?.len() {
        return None;
    }
    let mut body = vec![0; usize::try_from(length).ok()?];
    file.read_exact(&mut body).ok()?;
    if mac(keys, length, chunks, &body) != *stored_mac {
        return None;
    }
    let stored: Stored = codec::decode::<_, SUMMARY_BYTES_MAX>(&body).ok()?;
    drop(body);
    let run = ChunkRun::open(file, HEAD_BYTES as u64 + length, chunks, Arc::clone(keys)).ok()?;
    let table = ChunkTable::on_disk(Some(folder), keys).with_run(run, stored.chunk_spaces);
    Some(RepositoryIndex::from_summary(stored.summary, table))
}

/// Removes the cache; the next run makes a new one. One that cannot be removed is judged when it is opened.
pub fn remove(folder: &Path) {
    let _ = std::fs::remove_file(path_in(folder));
}

/// Writes the cache, replacing the one that is there.
///
/// # Errors
/// What the system says; the caller goes on without a cache.
pub fn store(folder: &Path, keys: &Arc<Keys>, index: &mut RepositoryIndex) -> io::Result<()> {
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    let summary = index.summary();
    // numbers of spaces are given while runs are merged: merge to an unnamed file first
    let run = index.chunks_mut().merge_into(tempfile::tempfile_in(folder)?, Arc::clone(keys))?;
    let stored = Stored { summary, chunk_spaces: index.chunks().spaces().to_vec() };
    let body = codec::encode(&stored);
    let length = body.len() as u64;
    let file = temporary.as_file_mut();
    file.write_all(MAGIC)?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&run.len().to_le_bytes())?;
    file.write_all(&mac(keys, length, run.len(), &body))?;
    file.write_all(&body)?;
    run.copy_pages(file)?;
    temporary.persist(path_in(folder)).map_err(|e| e.error)?;
    Ok(())
}
