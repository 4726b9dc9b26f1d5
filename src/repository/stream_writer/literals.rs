//! What the parent has becomes copies; what it has not is looked up by chunk or becomes literal bytes in segments.

use super::stored_again::{AGAIN_SEGMENT_BYTES, cut_copy};
use super::{BULK_RUN_BYTES, StreamWriter};
use crate::domain::id::{ChunkId, VersionId};
use crate::format::slice::OWN;
use crate::recipe::late::Piece;
use crate::recipe::matcher::{Copy, ParentView};
use crate::recipe::run::PARENT;
use crate::repository::error::Result;
use crate::repository::index::ChunkPlace;
use crate::repository::pack_writer::NewBlob;
use crate::repository::session::BackupSession;

/// Literal bytes on their way into a segment.
#[derive(Debug, Default)]
pub(super) struct SegmentBuffer {
    start: u64,
    bytes: Vec<u8>,
    chunks: Vec<(ChunkId, u64, u32)>,
    bulk: bool,
}

impl StreamWriter {
    /// Takes what was found of a window.
    pub(super) fn emit_window(&mut self, session: &mut BackupSession, child: &[u8], copies: &[Copy]) -> Result<()> {
        let mut at = 0;
        for copy in copies {
            self.take_new(session, child.get(at..copy.at).unwrap_or_default())?;
            match self.settings.late_matches {
                true => self.take_copy(child, copy),
                false => self.emit_copy(session, copy.src, copy.len as u64)?,
            }
            at = copy.at + copy.len;
        }
        self.take_new(session, child.get(at..).unwrap_or_default())?;
        let now = self.matcher.expected();
        self.look_back(now);
        if self.late.is_full() { self.settle(session) } else { Ok(()) }
    }

    /// A copy waits among the new bytes; those of its bytes that are to be stored again do so as if they were new.
    fn take_copy(&mut self, child: &[u8], copy: &Copy) {
        let again = self.parent.as_ref().map_or(&[][..], |p| p.window.again.as_slice());
        cut_copy(copy.src, copy.len, again, |at, len, again| match again {
            true => {
                self.late.again(copy.src + at as u64, child.get(copy.at + at..copy.at + at + len).unwrap_or_default())
            }
            false => self.late.copy(copy.src + at as u64, len as u64),
        });
    }

    /// Bytes that were not found in the parent: few wait for late matches, many are stored at once.
    fn take_new(&mut self, session: &mut BackupSession, bytes: &[u8]) -> Result<()> {
        if self.settings.late_matches && bytes.len() < BULK_RUN_BYTES {
            self.late.new_bytes(bytes);
            return Ok(());
        }
        self.settle(session)?;
        self.emit_new(session, bytes)
    }

    /// Looks for bytes that wait in the parent's bytes before `now` that nothing was copied from.
    pub(super) fn look_back(&mut self, now: u64) {
        if let Some(parent) = self.parent.as_ref().filter(|_| self.settings.late_matches) {
            let view = ParentView { start: parent.window.start, bytes: &parent.window.bytes };
            self.late.passed(&view, now);
        }
    }

    /// Writes all that waits for late matches.
    pub(super) fn settle(&mut self, session: &mut BackupSession) -> Result<()> {
        if self.late.is_empty() {
            return Ok(());
        }
        let mut late = std::mem::take(&mut self.late);
        let result = late.drain(|piece| match piece {
            Piece::New(bytes) => self.emit_new(session, bytes),
            Piece::Copy { src, len } => self.emit_copy(session, src, len),
        });
        self.late = late;
        result
    }

    /// Bytes that the parent does not have.
    fn emit_new(&mut self, session: &mut BackupSession, bytes: &[u8]) -> Result<()> {
        if bytes.len() >= BULK_RUN_BYTES {
            self.store_chunks(session, bytes, true)?;
            return Ok(());
        }
        if !bytes.is_empty() {
            self.literal(session, bytes, false)?;
            let again = self.parent.as_ref().is_some_and(|p| p.again.is_any());
            let aim = if again { AGAIN_SEGMENT_BYTES } else { 0 }.max(self.settings.small_segment_bytes);
            if self.segment.bytes.len() >= aim {
                self.flush_segment(session)?;
            }
        }
        Ok(())
    }

    /// Cuts bytes into chunks and stores those that the repository does not have; or stores them all, if the settings
    /// want no chunks. Returns how many bytes were taken; all of them if `last`.
    pub(super) fn store_chunks(&mut self, session: &mut BackupSession, bytes: &[u8], last: bool) -> Result<usize> {
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
            if !last && rest.len() < session.chunker.max_bytes() {
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

    pub(super) fn flush_segment(&mut self, session: &mut BackupSession) -> Result<()> {
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
    pub(super) fn emit_copy(&mut self, session: &mut BackupSession, src: u64, length: u64) -> Result<()> {
        #[cfg(test)]
        let src = crate::repository::planted_fault::shifted(
            src,
            length,
            self.parent.as_ref().map_or(0, |p| p.reader.plain_bytes()),
        );
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
}
