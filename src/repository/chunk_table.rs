//! Finds chunks by content: what the run itself added in memory, everything older in a sorted local cache file.

use super::index::ChunkPlace;
use crate::domain::id::ChunkId;
use crate::format::records::IndexedPack;
use std::collections::HashMap;

/// The chunk table.
#[derive(Debug, Default)]
pub struct ChunkTable {
    recent: HashMap<ChunkId, ChunkPlace>,
}

impl ChunkTable {
    /// Adds the chunks of a pack.
    pub fn add(&mut self, pack: &IndexedPack) {
        for chunk in &pack.table.chunks {
            if let Some(&space) = pack.table.ids.get(chunk.space as usize) {
                let place = ChunkPlace { space, start: chunk.start, plain_bytes: chunk.plain_bytes };
                self.recent.entry(chunk.id).or_insert(place);
            }
        }
    }

    /// Adds one chunk of the pack being written.
    pub fn add_one(&mut self, id: ChunkId, place: ChunkPlace) {
        self.recent.entry(id).or_insert(place);
    }

    /// Finds a chunk.
    pub fn find(&self, id: &ChunkId) -> Option<ChunkPlace> {
        self.recent.get(id).copied()
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.recent.len()
    }

    /// True without any chunk.
    pub fn is_empty(&self) -> bool {
        self.recent.is_empty()
    }
}
