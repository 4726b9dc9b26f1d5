//! Writes one version of a stream: finds what the parent has, what the repository has, and stores the rest.
//!
//! The path of a window of bytes: match against the parent -> copies; look up long unmatched runs by chunk -> foreign
//! runs; let the remainder wait for late matches; what is left -> segments of the version's own literal space. Runs gather into slices. Nothing of the stream
//! is kept beyond a few windows. This file takes the bytes and leads them along that path; `matching` finds what the
//! parent has, `literals` stores what it has not, `record` writes slices and head.

mod literals;
mod matching;
mod parent;
mod record;
mod stored_again;

use self::literals::SegmentBuffer;
use self::parent::{Parent, ParentWindow};
pub use self::stored_again::AgainSettings;
use self::stored_again::StoredAgain;
use super::error::{RepoError, Result};
use super::session::BackupSession;
use super::stream_reader::StreamReader;
use crate::domain::id::{Digest, VersionId};
use crate::format::records::{Proof, SliceInfo};
use crate::format::slice::SliceFrame;
use crate::format::stream_hash::{StreamHash, StreamHasher};
use crate::recipe::late::Late;
use crate::recipe::matcher::{MatchSettings, Matcher};
use crate::recipe::run::Run;
use crate::recipe::sketch::{SKETCH_INPUT_BYTES, Sketch};
use std::collections::HashMap;

/// Child bytes matched at a time.
const WINDOW_BYTES: usize = 4 << 20;
/// Parent bytes kept before and after the place a window is expected at.
const PARENT_BEHIND_BYTES: u64 = 1 << 20;
const PARENT_AHEAD_BYTES: u64 = 3 << 20;
/// Decoded slices of the parent kept in memory, beside everything else that a writer holds.
const PARENT_SLICES_BYTES: usize = 6 << 20;
/// Unmatched runs at least this long are cut into chunks and looked up in the chunk index.
const BULK_RUN_BYTES: usize = 64 << 10;
/// A window with more unmatched bytes than one part in this sends the writer looking for its place again.
const LOST_SHARE: usize = 4;
/// Records below a version before a full recipe is written, unless the settings say otherwise.
pub const FULL_RECIPE_DEPTH: u32 = 83;
/// A full recipe is also due when the chain's stored bytes exceed this many bytes for each run of the flat recipe.
const CHAIN_BYTES_PER_RUN: u64 = 24;
/// Bytes of a chain below which no full recipe is written for its length alone.
const CHAIN_BYTES_FREE: u64 = 1 << 20;
/// New bytes of a files source that are worth four times the time. Source code, which is what pays for it (42 MB: 9.31 MB
/// at level 3 in segments of 1 MiB, 8.2 MB at level 8, half a second more; segments of 2 MiB would save 2 % and take 8 MB of memory), seldom has more; what
/// has more is mostly pictures and archives, where the time would buy nothing. Level 9 would give 8.08 MB for twice the
/// memory.
const THOROUGH_BYTES: u64 = 64 << 20;
/// Level for scattered literals of dumps: few bytes an hour, so that level 15 costs some 20 ms and saves 2 % against level 9.
const SMALL_LEVEL: i32 = 15;
/// Level for slices' heads.
const HEAD_LEVEL: i32 = 9;
/// Largest distance between two hinted places of the parent that are matched together.
const HINT_SPAN_BYTES: u64 = 6 << 20;

/// How a stream is to be stored.
#[derive(Debug, Clone, Copy)]
pub struct StreamSettings {
    /// Store the literals twice, as trees need.
    pub second_copy: bool,
    /// Raw bytes of a segment of scattered literals.
    pub small_segment_bytes: usize,
    /// Raw bytes of a segment of long literal runs.
    pub bulk_segment_bytes: usize,
    /// zstd level for scattered literals.
    pub small_level: i32,
    /// zstd level for long runs.
    pub bulk_level: i32,
    /// Of a version's own literal bytes, so many are compressed with `thorough_level` where they stand in long runs.
    pub thorough_bytes: u64,
    /// See `thorough_bytes`.
    pub thorough_level: i32,
    /// Long runs are looked up and listed in the chunk index. Off for bytes that no other stream can have.
    pub chunked: bool,
    /// New bytes wait until the parent was read further, for rows that moved far towards the beginning.
    pub late_matches: bool,
    /// What lies in segments that are little used is stored again now and then.
    pub stored_again: Option<AgainSettings>,
    /// The matcher's parameters.
    pub matching: MatchSettings,
    /// Hash the stream as a whole; off for file contents, which are proved file by file.
    pub hash_stream: bool,
    /// Records below a version before a full recipe is written.
    pub full_recipe_depth: u32,
}

impl StreamSettings {
    /// For database dumps and images.
    pub fn data() -> Self {
        Self {
            second_copy: false,
            small_segment_bytes: 32 << 10,
            bulk_segment_bytes: 512 << 10,
            small_level: SMALL_LEVEL,
            bulk_level: 3,
            thorough_bytes: 0,
            thorough_level: 3,
            chunked: true,
            late_matches: true,
            stored_again: Some(AgainSettings::default()),
            matching: MatchSettings::default(),
            hash_stream: true,
            full_recipe_depth: FULL_RECIPE_DEPTH,
        }
    }

    /// For what other tools left behind: written once, hardly ever read, so that time and larger units pay.
    pub fn originals() -> Self {
        Self {
            small_segment_bytes: 128 << 10,
            small_level: 12,
            bulk_segment_bytes: 1 << 20,
            bulk_level: 12,
            ..Self::data()
        }
    }

    /// For the contents of files.
    pub fn files() -> Self {
        let matching = MatchSettings { match_bytes_min: 32, ..MatchSettings::default() };
        Self {
            bulk_segment_bytes: 1 << 20,
            small_segment_bytes: 256 << 10,
            small_level: 9,
            thorough_bytes: THOROUGH_BYTES,
            thorough_level: 8,
            matching,
            late_matches: false,
            stored_again: None,
            hash_stream: false,
            ..Self::data()
        }
    }

    /// For tree streams, which are small and needed for everything else.
    pub fn tree() -> Self {
        Self {
            second_copy: true,
            bulk_segment_bytes: 256 << 10,
            small_level: 9,
            bulk_level: 6,
            late_matches: false,
            stored_again: None,
            ..Self::data()
        }
    }

    /// For the identities of files: as good as random, four bytes each, and nothing is lost with them, so they are
    /// stored once, hardly compressed, and no chunk of them is looked for elsewhere. A damaged segment costs reading
    /// some 16,000 files again.
    pub fn identities() -> Self {
        Self {
            small_segment_bytes: 64 << 10,
            bulk_segment_bytes: 64 << 10,
            small_level: 1,
            bulk_level: 1,
            chunked: false,
            late_matches: false,
            stored_again: None,
            ..Self::data()
        }
    }
}

/// A stored version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    /// The version.
    pub version: VersionId,
    /// Length of the stream.
    pub plain_bytes: u64,
    /// Root of its proof.
    pub root: Digest,
    /// False when the parent's version stands for this stream, too: nothing was written.
    pub is_new: bool,
}

/// Writes one version. See the module text.
pub struct StreamWriter {
    settings: StreamSettings,
    version: VersionId,
    parent: Option<Parent>,
    candidates: Vec<VersionId>,
    full: bool,
    matcher: Matcher,
    late: Late,
    child: Vec<u8>,
    hints: Vec<(usize, u64)>,
    begun: bool,
    /// The parent's bytes cannot be read any more.
    blind: bool,
    sketch: Sketch,
    hasher: StreamHasher,
    dst: u64,
    literal: u64,
    segment: SegmentBuffer,
    runs: Vec<Run>,
    run_count: u64,
    slice_start: SliceFrame,
    slices: Vec<SliceInfo>,
    record_bytes: u64,
    spaces: Vec<VersionId>,
    space_numbers: HashMap<VersionId, u32>,
}

impl std::fmt::Debug for StreamWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamWriter({} at {})", self.version, self.dst)
    }
}

impl StreamWriter {
    /// Starts a version. `parent` is the version to store edits against; without one, `candidates` are compared with
    /// the stream's beginning and the one most alike becomes the parent.
    pub fn new(
        session: &BackupSession,
        parent: Option<StreamReader>,
        candidates: Vec<VersionId>,
        settings: StreamSettings,
    ) -> Self {
        let version = VersionId(session.random.bytes());
        let mut writer = Self {
            settings,
            version,
            parent: None,
            candidates,
            full: true,
            matcher: Matcher::new(settings.matching),
            late: Late::default(),
            child: Vec::new(),
            hints: Vec::new(),
            begun: false,
            blind: false,
            sketch: Sketch::default(),
            hasher: StreamHasher::default(),
            dst: 0,
            literal: 0,
            segment: SegmentBuffer::default(),
            runs: Vec::new(),
            run_count: 0,
            slice_start: SliceFrame {
                dst_start: 0,
                plain_bytes: 0,
                literal_start: 0,
                literal_bytes: 0,
                parent_bytes: 0,
                spaces: 0,
            },
            slices: Vec::new(),
            record_bytes: 0,
            spaces: Vec::new(),
            space_numbers: HashMap::new(),
        };
        writer.adopt(parent);
        writer
    }

    fn adopt(&mut self, parent: Option<StreamReader>) {
        let Some(mut reader) = parent else { return };
        reader.keep_slices(PARENT_SLICES_BYTES);
        let head = reader.head();
        let chain_limit = (head.flat_runs.saturating_mul(CHAIN_BYTES_PER_RUN)).max(CHAIN_BYTES_FREE);
        self.full = head.depth >= self.settings.full_recipe_depth || head.chain_bytes > chain_limit;
        self.slice_start.parent_bytes = if self.full { 0 } else { reader.plain_bytes() };
        let again = match self.settings.stored_again {
            Some(settings) if self.full || (head.depth + 1).is_multiple_of(settings.every) => {
                StoredAgain::Due(settings)
            }
            _ => StoredAgain::Nothing,
        };
        self.parent = Some(Parent { reader, window: ParentWindow::default(), map: None, again });
    }

    /// The parent's version, if there is one.
    pub fn parent_version(&self) -> Option<VersionId> {
        self.parent.as_ref().map(|p| p.reader.head().version)
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// Repository errors; the version is then lost.
    pub fn push(&mut self, session: &mut BackupSession, mut bytes: &[u8]) -> Result<()> {
        if self.settings.hash_stream {
            self.hasher.update(bytes);
        }
        // where the border of a chunk is, only so many bytes tell
        let window = WINDOW_BYTES.max(session.chunker.max_bytes());
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(window.saturating_sub(self.child.len()).max(1)));
            self.child.extend_from_slice(now);
            bytes = rest;
            if self.child.len() >= window {
                self.encode(session, false)?;
            }
        }
        Ok(())
    }

    /// Says that the next bytes probably resemble the parent stream from `parent_offset` on (the same file, earlier).
    pub fn hint(&mut self, parent_offset: u64) {
        if self.parent.is_some() {
            self.hints.push((self.child.len(), parent_offset));
        }
    }

    /// Adds `length` bytes of the parent stream without looking at them: an unchanged file. Only for streams that are
    /// proved file by file.
    ///
    /// # Errors
    /// Repository errors; a range outside the parent.
    pub fn copy_parent(&mut self, session: &mut BackupSession, parent_offset: u64, length: u64) -> Result<()> {
        debug_assert!(!self.settings.hash_stream, "a stream with a hash of its own needs its bytes");
        let Some(parent) = &self.parent else {
            return Err(RepoError::Missing { what: "the parent of a copied file".to_owned() });
        };
        if parent_offset.checked_add(length).is_none_or(|end| end > parent.reader.plain_bytes()) {
            return Err(RepoError::Missing { what: "a copied file in the parent".to_owned() });
        }
        self.encode(session, true)?;
        self.settle(session)?;
        self.emit_copy(session, parent_offset, length)?;
        self.matcher.jump(parent_offset + length);
        Ok(())
    }

    /// Encodes what is buffered. Without parent and not `last`, the bytes after the last certain chunk border stay.
    fn encode(&mut self, session: &mut BackupSession, last: bool) -> Result<()> {
        if self.child.is_empty() {
            self.hints.clear();
            return Ok(());
        }
        if !self.begun {
            self.begin(session)?;
        }
        let child = std::mem::take(&mut self.child);
        let hints = std::mem::take(&mut self.hints);
        if self.parent.is_none() || self.blind {
            self.settle(session)?;
            let done = self.store_chunks(session, &child, last)?;
            self.child = child;
            self.child.drain(..done);
            return Ok(());
        }
        for (from, to, place) in matching::pieces(&child, &hints) {
            let part = child.get(from..to).unwrap_or_default();
            let inside: Vec<(usize, u64)> =
                hints.iter().filter(|h| h.0 >= from && h.0 < to).map(|h| (h.0 - from, h.1)).collect();
            self.encode_piece(session, part, &inside, place)?;
        }
        // keep the allocation for the next window
        self.child = child;
        self.child.clear();
        Ok(())
    }

    /// First window: the sketch, and a parent by likeness if none was given by name.
    fn begin(&mut self, session: &mut BackupSession) -> Result<()> {
        self.begun = true;
        let beginning = self.child.get(..SKETCH_INPUT_BYTES).unwrap_or(&self.child);
        self.sketch = Sketch::of(&session.keys.sketch_key(), beginning);
        if self.parent.is_none() && !self.candidates.is_empty() {
            let candidates = std::mem::take(&mut self.candidates);
            let found = session.most_alike(&self.sketch, &candidates)?;
            self.adopt(found);
        }
        Ok(())
    }

    /// Ends the stream with the hash of its bytes.
    ///
    /// # Errors
    /// Repository errors.
    pub fn finish(mut self, session: &mut BackupSession) -> Result<StoredVersion> {
        self.encode(session, true)?;
        // rows at the parent's end may have moved, too
        self.look_back(u64::MAX);
        if let Some(parent) = &mut self.parent {
            parent.let_go();
        }
        self.settle(session)?;
        let StreamHash { root, leaves, .. } = std::mem::take(&mut self.hasher).finish();
        self.close(session, Proof::Stream { root, leaves })
    }

    /// Ends a stream of file contents that is proved by its tree; `root` is the hash over all files.
    ///
    /// # Errors
    /// Repository errors.
    pub fn finish_files(mut self, session: &mut BackupSession, root: Digest) -> Result<StoredVersion> {
        self.encode(session, true)?;
        self.settle(session)?;
        self.close(session, Proof::Files { root })
    }
}
