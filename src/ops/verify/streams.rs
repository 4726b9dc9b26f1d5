//! Decodes streams and compares them with their proofs: hashes of whole streams, the hash of every file.

use super::impact::{self, Paths};
use super::records::absorb;
use super::{BadBlobs, Run, VerifyError};
use crate::domain::entry::EntryKind;
use crate::domain::id::{Digest, VersionId};
use crate::domain::snapshot::{Snapshot, SourceRecord, StreamRecord, StreamRole};
use crate::ops::cancel::Cancelled;
use crate::ops::observer::Event;
use crate::repository::Problem;
use crate::repository::error::RepoError;
use crate::repository::reading::CopyError;
use std::collections::HashSet;

/// Stream bytes whose recipe is looked through at a time when damage is traced to blobs.
const TRACE_BYTES: u64 = 16 << 20;

/// Proves the data of some sources. Blobs that cannot be opened are added to `bad`.
pub(super) fn prove(
    run: &Run<'_>,
    sources: &[(&Snapshot, &SourceRecord)],
    bad: &mut BadBlobs,
) -> Result<(), VerifyError> {
    let total_bytes = sources.iter().flat_map(|(_, s)| &s.streams).map(|s| s.plain_bytes).sum();
    run.phase("verifying data", Some(total_bytes), Some(sources.len() as u64));
    let mut prover =
        Prover { run, bad, proved: HashSet::new(), bytes_done: 0, total_bytes, done: 0, total: sources.len() as u64 };
    for (snapshot, source) in sources {
        run.cancel.check()?;
        run.observer.event(&Event::SourceStarted { source: &source.name, kind: source.kind });
        let failed = prover.source(snapshot, source)?;
        let failure = failed.then_some("its data is damaged");
        run.observer.event(&Event::SourceFinished { source: &source.name, failure });
        prover.done += 1;
    }
    Ok(())
}

struct Prover<'r, 'b> {
    run: &'r Run<'r>,
    bad: &'b mut BadBlobs,
    /// Whole streams that are proved already: unchanged sources share their versions.
    proved: HashSet<(VersionId, Digest)>,
    bytes_done: u64,
    total_bytes: u64,
    done: u64,
    total: u64,
}

impl Prover<'_, '_> {
    /// True when something is damaged.
    fn source(&mut self, snapshot: &Snapshot, source: &SourceRecord) -> Result<bool, VerifyError> {
        let mut failed = false;
        for stream in &source.streams {
            if stream.role == StreamRole::Content {
                continue;
            }
            if self.proved.contains(&(stream.version, stream.blake3)) {
                self.advance(stream.plain_bytes);
                continue;
            }
            if let Err(error) = self.stream(stream) {
                absorb(self.run, error)?;
                self.trace(stream.version)?;
                impact::add(self.run, snapshot, source, stream, None, Paths::default());
                failed = true;
            } else {
                self.proved.insert((stream.version, stream.blake3));
                self.run.gatherer.count(|r| r.streams_proved += 1);
            }
            self.run.cancel.check()?;
        }
        if let Some(content) = source.streams.iter().find(|s| s.role == StreamRole::Content) {
            failed |= self.files(snapshot, source, content)?;
        }
        Ok(failed)
    }

    fn advance(&mut self, bytes: u64) {
        self.bytes_done += bytes;
        self.run.progress(self.bytes_done, Some(self.total_bytes), self.done, Some(self.total));
    }

    fn stream(&mut self, stream: &StreamRecord) -> Result<(), RepoError> {
        let run = self.run;
        let copied = run.reading.copy_stream::<Cancelled>(stream, |bytes| {
            self.advance(bytes.len() as u64);
            run.gatherer.count(|r| r.bytes_proved += bytes.len() as u64);
            run.cancel.check()
        });
        match copied {
            Ok(()) => Ok(()),
            Err(CopyError::Repository(error)) => Err(error),
            Err(CopyError::Sink(Cancelled)) => Err(RepoError::Interrupted),
        }
    }

    /// Compares every file of a files source with its hash. One bad file does not stop the others.
    fn files(
        &mut self,
        snapshot: &Snapshot,
        source: &SourceRecord,
        content: &StreamRecord,
    ) -> Result<bool, VerifyError> {
        let run = self.run;
        let mut paths = Paths::default();
        let mut failed = false;
        let mut reader = match run.reading.content(source) {
            Ok(reader) => Some(reader),
            Err(error) => {
                absorb(run, error)?;
                failed = true;
                None
            }
        };
        let entries = match run.reading.tree(source) {
            Ok(entries) => entries,
            Err(error) => {
                absorb(run, error)?;
                impact::add(run, snapshot, source, content, None, paths);
                return Ok(true);
            }
        };
        let (mut root, mut at, mut complete) = (blake3::Hasher::new(), 0u64, true);
        for placed in entries {
            run.cancel.check()?;
            let placed = match placed {
                Ok(placed) => placed,
                Err(error) => {
                    absorb(run, error)?;
                    (failed, complete) = (true, false);
                    break;
                }
            };
            let EntryKind::File(file) = &placed.entry.kind else { continue };
            root.update(&file.stream_bytes().to_le_bytes()).update(&file.hash.0);
            at = placed.content_offset.saturating_add(file.stream_bytes());
            let Some(reader) = &mut reader else {
                paths.add(&placed.entry.path);
                continue;
            };
            match run.reading.copy_file::<Cancelled>(reader, &placed, |_| run.cancel.check()) {
                Ok(()) => run.gatherer.count(|r| {
                    r.files_proved += 1;
                    r.bytes_proved += file.stream_bytes();
                }),
                Err(CopyError::Sink(cancelled)) => return Err(cancelled.into()),
                Err(CopyError::Repository(error)) => {
                    absorb(run, error)?;
                    paths.add(&placed.entry.path);
                    failed = true;
                }
            }
            self.advance(file.stream_bytes());
        }
        let length = reader.as_ref().map(crate::repository::stream_reader::StreamReader::plain_bytes);
        if complete && (Digest(*root.finalize().as_bytes()) != content.blake3 || length.is_some_and(|n| n != at)) {
            let reason = format!("the tree of source {} does not fit its contents", source.name);
            run.gatherer.finding(format!("snapshots/{}", snapshot.id), Problem::Damaged, reason);
            failed = true;
        }
        if failed {
            self.trace(content.version)?;
            impact::add(run, snapshot, source, content, None, paths);
        } else {
            run.gatherer.count(|r| r.streams_proved += 1);
        }
        Ok(failed)
    }

    /// Finds the blobs that make a version unreadable.
    fn trace(&mut self, version: VersionId) -> Result<(), VerifyError> {
        let run = self.run;
        let (index, packs) = (&run.reading.index, &run.reading.packs);
        let mut reader = match run.reading.stream(version) {
            Ok(reader) => reader,
            Err(error) => return absorb(run, error),
        };
        let mut tried = HashSet::new();
        let (mut at, total) = (0, reader.plain_bytes());
        while at < total {
            run.cancel.check()?;
            let to = (at + TRACE_BYTES).min(total);
            match reader.flat(index, packs, at, to) {
                Ok(flat) => {
                    for range in flat {
                        let space = reader.space(range.space).unwrap_or_default();
                        self.try_blobs(space, range.src, range.src_end(), &mut tried)?;
                    }
                }
                Err(error) => absorb(run, error)?,
            }
            at = to;
        }
        Ok(())
    }

    /// Tries every blob that holds a part of `[start, end)` of a literal space.
    fn try_blobs(
        &mut self,
        space: VersionId,
        start: u64,
        end: u64,
        tried: &mut HashSet<(u32, u32)>,
    ) -> Result<(), VerifyError> {
        let (index, packs) = (&self.run.reading.index, &self.run.reading.packs);
        for part in index.space_parts(space).iter().filter(|p| p.start < end && start < p.end) {
            let (Some(info), Ok(table)) = (index.pack(part.pack), packs.table(index, part.pack)) else { continue };
            let mut at = start.max(part.start);
            while at < end.min(part.end) {
                // between the segments of this pack lie those of others
                let Some((ordinal, _, segment_end)) = table.segment(space, at) else { break };
                if tried.insert((part.pack, ordinal))
                    && let Err(error) = packs.blob(index, part.pack, &table, ordinal)
                {
                    self.bad.entry(info.id).or_default().insert(ordinal);
                    absorb(self.run, error)?;
                }
                at = segment_end;
            }
        }
        Ok(())
    }
}
