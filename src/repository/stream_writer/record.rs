//! The version's record: runs gather into slices, and the head ends it.

use super::{HEAD_LEVEL, StoredVersion, StreamWriter};
use crate::domain::id::VersionId;
use crate::format::codec;
use crate::format::records::{Proof, SliceInfo, VersionHead};
use crate::format::slice::{self, OWN, SLICE_RUNS_MAX, SliceFrame};
use crate::recipe::run::{PARENT, RUN_BYTES_MAX, push};
use crate::repository::error::{RepoError, Result};
use crate::repository::pack_writer::NewBlob;
use crate::repository::session::BackupSession;

impl StreamWriter {
    pub(super) fn emit(&mut self, session: &mut BackupSession, space: u32, src: u64, length: u64) -> Result<()> {
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

    pub(super) fn close(mut self, session: &mut BackupSession, proof: Proof) -> Result<StoredVersion> {
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
