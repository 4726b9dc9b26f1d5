//! Writes one version of a stream: finds what the parent has, what the repository has, and stores the rest.
//!
//! The path of a window of bytes: match against the parent -> copies; look up long unmatched runs by chunk -> foreign
//! runs; the remainder -> segments of the version's own literal space. Runs gather into slices. Nothing of the stream
//! is kept beyond a few windows.

use super::error::{RepoError, Result};
use super::index::ChunkPlace;
use super::pack_writer::NewBlob;
use super::session::BackupSession;
use super::stream_reader::StreamReader;
use crate::domain::id::{ChunkId, Digest, VersionId};
use crate::format::chunker::CHUNK_BYTES_MAX;
use crate::format::codec;
use crate::format::records::{Proof, SliceInfo, VersionHead};
use crate::format::slice::{self, OWN, SLICE_RUNS_MAX, SliceFrame};
use crate::format::stream_hash::{StreamHash, StreamHasher};
use crate::recipe::matcher::{Copy, MatchSettings, Matcher, ParentView};
use crate::recipe::parent_map::{Anchor, ParentMap};
use crate::recipe::run::{PARENT, RUN_BYTES_MAX, Run, push};
use crate::recipe::sketch::{SKETCH_INPUT_BYTES, Sketch};
use std::collections::HashMap;

/// Child bytes matched at a time.
const WINDOW_BYTES: usize = 4 << 20;
/// Parent bytes kept before and after the place a window is expected at.
const PARENT_BEHIND_BYTES: u64 = 1 << 20;
const PARENT_AHEAD_BYTES: u64 = 3 << 20;
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
/// at level 3 in segments of 1 MiB, 8.09 MB at level 8 in segments of 2 MiB, half a second more), seldom has more; what
/// has more is mostly pictures and archives, where the time would buy nothing. Level 9 would give 8.08 MB for twice the
/// memory.
const THOROUGH_BYTES: u64 = 64 << 20;
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
            small_level: 9,
            bulk_level: 3,
            thorough_bytes: 0,
            thorough_level: 3,
            chunked: true,
            matching: MatchSettings::default(),
            hash_stream: true,
            full_recipe_depth: FULL_RECIPE_DEPTH,
        }
    }

    /// For the contents of files.
    pub fn files() -> Self {
        let matching = MatchSettings { match_bytes_min: 32, ..MatchSettings::default() };
        Self {
            bulk_segment_bytes: 2 << 20,
            small_segment_bytes: 256 << 10,
            thorough_bytes: THOROUGH_BYTES,
            thorough_level: 8,
            matching,
            hash_stream: false,
            ..Self::data()
        }
    }

    /// For tree streams, which are small and needed for everything else.
    pub fn tree() -> Self {
        Self { second_copy: true, bulk_segment_bytes: 256 << 10, bulk_level: 6, ..Self::data() }
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

/// A part of the parent stream in memory.
#[derive(Debug, Default)]
struct ParentWindow {
    start: u64,
    bytes: Vec<u8>,
}

/// The parent of the version being written.
struct Parent {
    reader: StreamReader,
    window: ParentWindow,
    map: Option<ParentMap>,
}

/// Literal bytes on their way into a segment.
#[derive(Debug, Default)]
struct SegmentBuffer {
    start: u64,
    bytes: Vec<u8>,
    chunks: Vec<(ChunkId, u64, u32)>,
    bulk: bool,
}

/// Writes one version. See the module text.
pub struct StreamWriter {
    settings: StreamSettings,
    version: VersionId,
    parent: Option<Parent>,
    candidates: Vec<VersionId>,
    full: bool,
    matcher: Matcher,
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
        let Some(reader) = parent else { return };
        let head = reader.head();
        let chain_limit = (head.flat_runs.saturating_mul(CHAIN_BYTES_PER_RUN)).max(CHAIN_BYTES_FREE);
        self.full = head.depth >= self.settings.full_recipe_depth || head.chain_bytes > chain_limit;
        self.slice_start.parent_bytes = if self.full { 0 } else { reader.plain_bytes() };
        self.parent = Some(Parent { reader, window: ParentWindow::default(), map: None });
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
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(WINDOW_BYTES.saturating_sub(self.child.len()).max(1)));
            self.child.extend_from_slice(now);
            bytes = rest;
            if self.child.len() >= WINDOW_BYTES {
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
            let done = self.store_chunks(session, &child, last)?;
            self.child = child;
            self.child.drain(..done);
            return Ok(());
        }
        for (from, to, place) in pieces(&child, &hints) {
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

    /// Matches one piece of the child against the part of the parent where it is expected.
    fn encode_piece(
        &mut self,
        session: &mut BackupSession,
        child: &[u8],
        hints: &[(usize, u64)],
        place: Option<(u64, u64)>,
    ) -> Result<()> {
        let (low, high) = match place {
            Some((low, high)) => {
                self.matcher.jump(low);
                let margin = (child.len() as u64 / 2).clamp(64 << 10, 1 << 20);
                (low.saturating_sub(margin), high + margin)
            }
            None => {
                let expected = self.matcher.expected();
                let high = expected + child.len() as u64 + PARENT_AHEAD_BYTES;
                (expected.saturating_sub(PARENT_BEHIND_BYTES), high)
            }
        };
        let mut copies = Vec::new();
        self.match_against(session, child, hints, low, high, &mut copies)?;
        let covered: usize = copies.iter().map(|c| c.len).sum();
        if child.len() >= BULK_RUN_BYTES && (child.len() - covered) * LOST_SHARE > child.len() {
            self.find_again(session, child, &mut copies)?;
        }
        self.emit_window(session, child, &copies)
    }

    fn match_against(
        &mut self,
        session: &mut BackupSession,
        child: &[u8],
        hints: &[(usize, u64)],
        low: u64,
        high: u64,
        copies: &mut Vec<Copy>,
    ) -> Result<()> {
        let Some(parent) = &mut self.parent else { return Ok(()) };
        match parent.load(session, low, high) {
            Ok(()) => {}
            Err(error) if error.is_damage() => return self.go_on_blind(session, &error),
            Err(error) => return Err(error),
        }
        let view = ParentView { start: parent.window.start, bytes: &parent.window.bytes };
        self.matcher.find(child, &view, hints, copies);
        Ok(())
    }

    /// The piece matched badly: looks for its chunks in the whole parent and matches around the places found. Keeps
    /// the result only where it is better.
    fn find_again(&mut self, session: &mut BackupSession, child: &[u8], copies: &mut Vec<Copy>) -> Result<()> {
        let Some(parent) = &mut self.parent else { return Ok(()) };
        let anchors = match parent.map(session) {
            Ok(map) => map.anchors(child),
            Err(error) if error.is_damage() => return self.go_on_blind(session, &error),
            Err(error) => return Err(error),
        };
        let after = self.matcher.expected();
        let mut better: Vec<Copy> = Vec::new();
        let mut from = 0;
        let groups = group_anchors(&anchors);
        for (k, group) in groups.iter().enumerate() {
            let Some(&Anchor { at, parent: place, .. }) = group.first() else { continue };
            let to = groups.get(k + 1).and_then(|g| g.first()).map_or(child.len(), |a| a.at);
            let start = place.saturating_sub((at - from) as u64);
            let part = child.get(from..to).unwrap_or_default();
            self.matcher.jump(start);
            let hints: Vec<(usize, u64)> = group.iter().map(|a| (a.at - from, a.parent)).collect();
            let mut found = Vec::new();
            let end = group.last().map_or(place, |a| a.parent) + (64 << 10);
            let high = end.max(start + part.len() as u64);
            self.match_against(session, part, &hints, start.saturating_sub(64 << 10), high, &mut found)?;
            better.extend(found.iter().map(|c| Copy { at: c.at + from, ..*c }));
            from = to;
        }
        let sum = |c: &[Copy]| c.iter().map(|c| c.len).sum::<usize>();
        if sum(&better) > sum(copies) {
            *copies = better;
        } else {
            // a window of new bytes: the parent continues where it was left
            let stay = after.saturating_sub(child.len() as u64);
            self.matcher.jump(if sum(copies) == 0 { stay } else { after });
        }
        Ok(())
    }

    /// The parent's bytes are damaged here: from now on the stream is stored without looking at it, so that what the
    /// source still has is in the repository again.
    fn go_on_blind(&mut self, session: &BackupSession, error: &RepoError) -> Result<()> {
        session.reader.note_healed(format!("{error}; the rest of the stream is stored anew"));
        self.blind = true;
        Ok(())
    }

    fn emit_window(&mut self, session: &mut BackupSession, child: &[u8], copies: &[Copy]) -> Result<()> {
        let mut at = 0;
        for copy in copies {
            self.emit_new(session, child.get(at..copy.at).unwrap_or_default())?;
            self.emit_copy(session, copy.src, copy.len as u64)?;
            at = copy.at + copy.len;
        }
        self.emit_new(session, child.get(at..).unwrap_or_default())
    }

    /// Bytes that the parent does not have.
    fn emit_new(&mut self, session: &mut BackupSession, bytes: &[u8]) -> Result<()> {
        if bytes.len() >= BULK_RUN_BYTES {
            self.store_chunks(session, bytes, true)?;
            return Ok(());
        }
        if !bytes.is_empty() {
            self.literal(session, bytes, false)?;
            if self.segment.bytes.len() >= self.settings.small_segment_bytes {
                self.flush_segment(session)?;
            }
        }
        Ok(())
    }

    /// Cuts bytes into chunks and stores those that the repository does not have; or stores them all, if the settings
    /// want no chunks. Returns how many bytes were taken; all of them if `last`.
    fn store_chunks(&mut self, session: &mut BackupSession, bytes: &[u8], last: bool) -> Result<usize> {
        let mut at = 0;
        if !self.settings.chunked {
            for piece in bytes.chunks(self.settings.bulk_segment_bytes) {
                self.literal(session, piece, true)?;
                if self.segment.bytes.len() >= self.settings.bulk_segment_bytes {
                    self.flush_segment(session)?;
                }
            }
            return Ok(bytes.len());
        }
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            if !last && rest.len() < CHUNK_BYTES_MAX {
                break;
            }
            let length = session.chunker.cut(rest);
            let chunk = rest.get(..length).unwrap_or(rest);
            let id = session.keys.chunk_id(chunk);
            match session.index.chunk(&id).filter(|p| p.plain_bytes as usize == chunk.len()) {
                Some(place) => self.emit_foreign(session, place)?,
                None => {
                    let start = self.literal;
                    self.literal(session, chunk, true)?;
                    let plain_bytes = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
                    self.segment.chunks.push((id, start, plain_bytes));
                    let place = ChunkPlace { space: self.version, start, plain_bytes };
                    session.index.chunks_mut().add_one(id, place);
                    if self.segment.bytes.len() >= self.settings.bulk_segment_bytes {
                        self.flush_segment(session)?;
                    }
                }
            }
            at += chunk.len();
        }
        Ok(at)
    }

    /// Appends to the version's own literal space.
    fn literal(&mut self, session: &mut BackupSession, bytes: &[u8], bulk: bool) -> Result<()> {
        if self.segment.bulk != bulk && !self.segment.bytes.is_empty() {
            self.flush_segment(session)?;
        }
        if self.segment.bytes.is_empty() {
            self.segment.start = self.literal;
            self.segment.bulk = bulk;
        }
        self.segment.bytes.extend_from_slice(bytes);
        let start = self.literal;
        self.literal += bytes.len() as u64;
        self.emit(session, OWN, start, bytes.len() as u64)
    }

    fn flush_segment(&mut self, session: &mut BackupSession) -> Result<()> {
        let segment = std::mem::take(&mut self.segment);
        if segment.bytes.is_empty() {
            return Ok(());
        }
        let level = match segment.bulk {
            true if segment.start < self.settings.thorough_bytes => self.settings.thorough_level,
            true => self.settings.bulk_level,
            false => self.settings.small_level,
        };
        for (id, start, plain_bytes) in segment.chunks {
            session.writer.add_chunk(id, self.version, start, plain_bytes)?;
        }
        let blob = NewBlob::Segment { space: self.version, start: segment.start };
        if self.settings.second_copy {
            session.writer.add(1, blob, segment.bytes.clone(), level)?;
        }
        session.writer.add(0, blob, segment.bytes, level)?;
        session.absorb_finished();
        Ok(())
    }

    fn emit_foreign(&mut self, session: &mut BackupSession, place: ChunkPlace) -> Result<()> {
        if place.space == self.version {
            return self.emit_own_again(session, place);
        }
        let space = self.space_number(place.space);
        self.emit(session, space, place.start, u64::from(place.plain_bytes))
    }

    /// A chunk that this very version stored before. Own literals must be consecutive in [`OWN`], so it is named as a
    /// foreign space with the version's own id.
    fn emit_own_again(&mut self, session: &mut BackupSession, place: ChunkPlace) -> Result<()> {
        let space = self.space_number(self.version);
        self.emit(session, space, place.start, u64::from(place.plain_bytes))
    }

    fn space_number(&mut self, id: VersionId) -> u32 {
        *self.space_numbers.entry(id).or_insert_with(|| {
            self.spaces.push(id);
            u32::try_from(self.spaces.len()).unwrap_or(u32::MAX - 1)
        })
    }

    /// A copy of the parent: as it is, or flattened when a full recipe is being written.
    fn emit_copy(&mut self, session: &mut BackupSession, src: u64, length: u64) -> Result<()> {
        #[cfg(test)]
        let src =
            super::planted_fault::shifted(src, length, self.parent.as_ref().map_or(0, |p| p.reader.plain_bytes()));
        if !self.full {
            return self.emit(session, PARENT, src, length);
        }
        let Some(parent) = &mut self.parent else { return Ok(()) };
        let mut flat = Vec::new();
        parent.reader.flat_each(&session.index, &session.reader, src, src + length, |run| flat.push(run))?;
        for run in flat {
            let id = self.parent.as_ref().and_then(|p| p.reader.space(run.space)).unwrap_or_default();
            let space = self.space_number(id);
            self.emit(session, space, run.src, u64::from(run.len))?;
        }
        Ok(())
    }

    fn emit(&mut self, session: &mut BackupSession, space: u32, src: u64, length: u64) -> Result<()> {
        let (mut src, mut left) = (src, length);
        while left > 0 {
            let take = left.min(u64::from(RUN_BYTES_MAX));
            push(&mut self.runs, self.dst, space, src, take);
            self.dst += take;
            src += take;
            left -= take;
            if self.runs.len() >= SLICE_RUNS_MAX {
                self.close_slice(session)?;
            }
        }
        Ok(())
    }

    /// Encodes the runs so far, proves that they decode to themselves, and stores both copies.
    fn close_slice(&mut self, session: &mut BackupSession) -> Result<()> {
        let runs = std::mem::take(&mut self.runs);
        if runs.is_empty() {
            return Ok(());
        }
        let own: u64 = runs.iter().filter(|r| r.space == OWN).map(|r| u64::from(r.len)).sum();
        let frame = SliceFrame {
            plain_bytes: self.dst - self.slice_start.dst_start,
            literal_bytes: own,
            spaces: u32::try_from(self.spaces.len()).unwrap_or(u32::MAX),
            ..self.slice_start
        };
        let bytes = slice::encode(&runs);
        let failed = |reason: String| RepoError::ProofFailed { what: "a slice of the recipe".to_owned(), reason };
        let back = slice::decode(&bytes, &frame).map_err(|e| failed(e.to_string()))?;
        if back != runs {
            return Err(failed("it decodes to other runs".to_owned()));
        }
        let sequence =
            u32::try_from(self.slices.len()).map_err(|_| RepoError::Limit { what: "A record".to_owned() })?;
        let blob = NewBlob::Slice { version: self.version, generation: 0, sequence };
        self.record_bytes += bytes.len() as u64;
        self.run_count += runs.len() as u64;
        // the columns are compressed already
        session.writer.add(1, blob, bytes.clone(), 1)?;
        session.writer.add(0, blob, bytes, 1)?;
        session.absorb_finished();
        self.slices.push(SliceInfo { plain_bytes: frame.plain_bytes, literal_bytes: frame.literal_bytes });
        self.slice_start.dst_start = self.dst;
        self.slice_start.literal_start += own;
        Ok(())
    }

    /// Ends the stream with the hash of its bytes.
    ///
    /// # Errors
    /// Repository errors.
    pub fn finish(mut self, session: &mut BackupSession) -> Result<StoredVersion> {
        self.encode(session, true)?;
        let StreamHash { root, leaves, .. } = std::mem::take(&mut self.hasher).finish();
        self.close(session, Proof::Stream { root, leaves })
    }

    /// Ends a stream of file contents that is proved by its tree; `root` is the hash over all files.
    ///
    /// # Errors
    /// Repository errors.
    pub fn finish_files(mut self, session: &mut BackupSession, root: Digest) -> Result<StoredVersion> {
        self.encode(session, true)?;
        self.close(session, Proof::Files { root })
    }

    fn close(mut self, session: &mut BackupSession, proof: Proof) -> Result<StoredVersion> {
        let root = proof.root();
        if let Some(same) = self.same_as_parent(&proof) {
            return Ok(StoredVersion { version: same, plain_bytes: self.dst, root, is_new: false });
        }
        self.flush_segment(session)?;
        self.close_slice(session)?;
        let below = self.parent.as_ref().filter(|_| !self.full).map(|p| p.reader.head());
        let head = VersionHead {
            version: self.version,
            generation: 0,
            parent: below.map(|h| h.version),
            parent_bytes: below.map_or(0, |h| h.plain_bytes),
            depth: below.map_or(0, |h| h.depth + 1),
            chain_bytes: self.record_bytes + below.map_or(0, |h| h.chain_bytes),
            flat_runs: self.run_count + below.map_or(0, |h| h.flat_runs),
            plain_bytes: self.dst,
            literal_bytes: self.literal,
            spaces: std::mem::take(&mut self.spaces),
            slices: std::mem::take(&mut self.slices),
            proof,
            sketch: std::mem::take(&mut self.sketch),
            extensions: Vec::new(),
        };
        let bytes = codec::encode(&head);
        let blob = NewBlob::Head { version: self.version, generation: 0 };
        session.writer.add(1, blob, bytes.clone(), HEAD_LEVEL)?;
        session.writer.add(0, blob, bytes, HEAD_LEVEL)?;
        session.absorb_finished();
        Ok(StoredVersion { version: self.version, plain_bytes: self.dst, root, is_new: true })
    }

    /// The parent's version when the stream is the parent, byte for byte, and proves it.
    fn same_as_parent(&self, proof: &Proof) -> Option<VersionId> {
        let head = self.parent.as_ref()?.reader.head();
        let whole = self.literal == 0 && self.slices.is_empty() && self.dst == head.plain_bytes;
        let in_place = self.runs.iter().all(|r| r.space == PARENT && r.src == r.dst);
        (whole && in_place && !self.full && head.proof == *proof).then_some(head.version)
    }
}

impl Parent {
    /// Brings `[low, high)` of the parent stream into the window.
    fn load(&mut self, session: &BackupSession, low: u64, high: u64) -> Result<()> {
        let high = high.min(self.reader.plain_bytes());
        let low = low.min(high);
        let end = self.window.start + self.window.bytes.len() as u64;
        if low >= self.window.start && low <= end {
            let drop = usize::try_from(low - self.window.start).unwrap_or(0);
            // moving the bytes down costs a copy: only when it frees much
            if drop > WINDOW_BYTES / 2 || high > end {
                self.window.bytes.drain(..drop);
                self.window.start = low;
            }
        } else {
            self.window.bytes.clear();
            self.window.start = low;
        }
        let from = self.window.start + self.window.bytes.len() as u64;
        if high > from {
            self.window.bytes.reserve_exact(usize::try_from(high - from).unwrap_or(0));
            self.reader.read(&session.index, &session.reader, from, high, &mut self.window.bytes)?;
        }
        Ok(())
    }

    /// The map of the whole parent, made on first use.
    fn map(&mut self, session: &BackupSession) -> Result<&ParentMap> {
        if self.map.is_none() {
            let mut map = ParentMap::default();
            let (mut at, total) = (0, self.reader.plain_bytes());
            let mut buffer = Vec::new();
            while at < total {
                let to = (at + WINDOW_BYTES as u64).min(total);
                buffer.clear();
                self.reader.read(&session.index, &session.reader, at, to, &mut buffer)?;
                map.feed(&buffer);
                at = to;
            }
            map.seal();
            self.map = Some(map);
        }
        Ok(self.map.get_or_insert_default())
    }
}

/// From, to, and the part of the parent where these child bytes are expected.
type Piece = (usize, usize, Option<(u64, u64)>);

/// Parts of a window with the part of the parent where each is expected: (from, to, place). Without hints one part
/// without a place; with hints, neighbours in the child whose places are near each other stay together.
fn pieces(child: &[u8], hints: &[(usize, u64)]) -> Vec<Piece> {
    let mut parts: Vec<Piece> = Vec::new();
    let first = hints.first().map_or(child.len(), |h| h.0);
    if first > 0 {
        parts.push((0, first, None));
    }
    for (k, &(at, place)) in hints.iter().enumerate() {
        let to = hints.get(k + 1).map_or(child.len(), |h| h.0);
        let end = place + (to - at) as u64;
        if let Some((_, last_to, Some((low, high)))) = parts.last_mut()
            && place >= *low
            && end.saturating_sub(*low) <= HINT_SPAN_BYTES
        {
            *last_to = to;
            *high = end.max(*high);
            continue;
        }
        if to > at {
            parts.push((at, to, Some((place, end))));
        }
    }
    parts
}

/// Anchors that follow each other at about the same distance.
fn group_anchors(anchors: &[Anchor]) -> Vec<Vec<Anchor>> {
    let mut groups: Vec<Vec<Anchor>> = Vec::new();
    for anchor in anchors {
        if let Some(group) = groups.last_mut()
            && let Some(last) = group.last()
            && anchor.parent >= last.parent
            && (anchor.parent - last.parent).abs_diff((anchor.at - last.at) as u64) < 256 << 10
        {
            group.push(*anchor);
        } else {
            groups.push(vec![*anchor]);
        }
    }
    groups
}
