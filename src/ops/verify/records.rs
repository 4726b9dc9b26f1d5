//! Follows the records of every version that a snapshot needs: each head and slice is read in both copies, and every
//! run must lead to bytes that exist.
//!
//! A version is checked once, after its parent, however many snapshots and versions build on it: when each record
//! covers its whole stream with runs that end inside literal spaces or the parent's stream, so does every composition
//! of them. What cannot be read is carried from parent to child as intervals of the stream.

use super::structure::Coverage;
use super::{Run, VerifyError};
use crate::domain::id::{Digest, VersionId};
use crate::domain::snapshot::StreamRole;
use crate::format::gathered::Gathered;
use crate::format::records::{Proof, VersionHead};
use crate::format::slice::{self, OWN};
use crate::format::stream_hash::LEAF_BYTES;
use crate::recipe::run::{Intervals, PARENT, Run as Range, normalize};
use crate::repository::Problem;
use crate::repository::error::RepoError;
use crate::repository::index::RecordPlace;
use crate::repository::snapshots::LoadedSnapshot;
use crate::repository::stream_reader::{DEPTH_MAX, frames, read_head};
use std::collections::{HashMap, HashSet};

/// What is known about a version.
#[derive(Debug, Default)]
pub(super) struct VersionState {
    /// Length of its stream; None when no copy of its record can be read.
    pub(super) plain_bytes: Option<u64>,
    root: Digest,
    /// Parts of the stream that cannot be given back.
    pub(super) bad: Intervals,
}

/// By version.
pub(super) type States = HashMap<VersionId, VersionState>;

/// Checks the closure of all snapshots.
pub(super) fn check(run: &Run<'_>, snapshots: &[LoadedSnapshot], coverage: &Coverage) -> Result<States, VerifyError> {
    run.phase("verifying records", None, Some(snapshots.len() as u64));
    let streams = || snapshots.iter().flat_map(|s| s.snapshot.sources.iter().flat_map(|source| &source.streams));
    let trees: HashSet<VersionId> = streams().filter(|s| s.role == StreamRole::Tree).map(|s| s.version).collect();
    let mut checker = Checker { run, coverage, trees, states: States::default() };
    // oldest first: parents before children, mostly
    for (done, loaded) in (1u64..).zip(snapshots.iter().rev()) {
        run.cancel.check()?;
        for source in &loaded.snapshot.sources {
            for stream in &source.streams {
                checker.resolve(stream.version)?;
                let state = checker.states.get(&stream.version);
                let differs = |s: &VersionState| {
                    s.plain_bytes.is_some_and(|n| n != stream.plain_bytes || s.root != stream.blake3)
                };
                if state.is_some_and(differs) {
                    let reason = format!(
                        "stream {} of source {} is recorded otherwise than version {}",
                        stream.file_name, source.name, stream.version
                    );
                    run.gatherer.finding(format!("snapshots/{}", loaded.snapshot.id), Problem::Damaged, reason);
                }
            }
        }
        run.progress(0, None, done, Some(snapshots.len() as u64));
    }
    let versions = checker.states.len() as u64;
    run.gatherer.count(|r| r.versions = versions);
    Ok(checker.states)
}

struct Checker<'r> {
    run: &'r Run<'r>,
    coverage: &'r Coverage,
    trees: HashSet<VersionId>,
    states: States,
}

impl Checker<'_> {
    /// Checks a version and all below it that are not known yet.
    fn resolve(&mut self, version: VersionId) -> Result<(), VerifyError> {
        let mut stack = vec![version];
        let mut open: HashSet<VersionId> = HashSet::from([version]);
        while let Some(&version) = stack.last() {
            if self.states.contains_key(&version) {
                stack.pop();
                continue;
            }
            let state = match read_head(&self.run.reading.index, &self.run.reading.packs, version) {
                Ok((head, places)) => {
                    if let Some(parent) = head.parent.filter(|p| !self.states.contains_key(p)) {
                        if stack.len() < DEPTH_MAX && open.insert(parent) {
                            stack.push(parent);
                            continue;
                        }
                        self.fault(version, "its chain of records does not end");
                        VersionState::default()
                    } else {
                        self.version(&head, &places)
                    }
                }
                Err(error) if error.concerns_one_object() => {
                    self.run.gatherer.error(&error);
                    VersionState::default()
                }
                Err(error) => return Err(error.into()),
            };
            self.states.insert(version, state);
            stack.pop();
        }
        Ok(())
    }

    fn fault(&self, version: VersionId, reason: impl Into<String>) {
        self.run.gatherer.finding(format!("version {version}"), Problem::Damaged, reason);
    }

    /// Checks one record whose parent is known.
    fn version(&self, head: &VersionHead, places: &[RecordPlace]) -> VersionState {
        let version = head.version;
        let below = head.parent.and_then(|p| self.states.get(&p));
        if below.is_some_and(|p| p.plain_bytes.is_some_and(|n| n != head.parent_bytes)) {
            self.fault(version, "its parent has not the length that it was made from");
        }
        if let Proof::Stream { leaves, .. } = &head.proof
            && leaves.len() as u64 != head.plain_bytes.div_ceil(LEAF_BYTES as u64)
        {
            self.fault(version, "its proof has not one hash for each MiB");
        }
        drop(self.both_copies(version, places, None));
        let mut bad = Intervals::new();
        for (sequence, frame) in (0u32..).zip(frames(head)) {
            let whole = (frame.dst_start, frame.dst_start.saturating_add(frame.plain_bytes));
            let raw = self.both_copies(version, places, Some(sequence));
            match raw.map(|raw| slice::decode(&raw, &frame)) {
                Some(Ok(runs)) => runs.iter().for_each(|range| self.range(head, below, range, &mut bad)),
                Some(Err(error)) => {
                    self.fault(version, format!("slice {sequence}: {error}"));
                    bad.push(whole);
                }
                None => bad.push(whole),
            }
        }
        normalize(&mut bad, 0);
        if self.trees.contains(&version) {
            self.tree_copies(head);
        }
        VersionState { plain_bytes: Some(head.plain_bytes), root: head.proof.root(), bad }
    }

    /// Adds the parts of a run that lead nowhere.
    fn range(&self, head: &VersionHead, below: Option<&VersionState>, range: &Range, bad: &mut Intervals) {
        let to_stream = |at: u64| range.dst + (at - range.src);
        if range.space == PARENT {
            match below {
                Some(VersionState { plain_bytes: Some(_), bad: below, .. }) => {
                    let first = below.partition_point(|b| b.1 <= range.src);
                    let more = below.get(first..).unwrap_or_default().iter().take_while(|b| b.0 < range.src_end());
                    bad.extend(more.map(|b| (to_stream(b.0.max(range.src)), to_stream(b.1.min(range.src_end())))));
                }
                _ => bad.push((range.dst, range.dst_end())),
            }
            return;
        }
        let space = match range.space {
            OWN => Some(head.version),
            k => head.spaces.get(k as usize - 1).copied(),
        };
        let holes = match space {
            Some(space) => self.coverage.holes(space, range.src, range.src_end()),
            None => vec![(range.src, range.src_end())],
        };
        for (start, end) in holes {
            let space = space.unwrap_or_default();
            let reason = format!("its literal bytes {start} to {end} of space {space} cannot be read from any pack");
            self.run.gatherer.finding(format!("version {}", head.version), Problem::Missing, reason);
            bad.push((to_stream(start), to_stream(end)));
        }
    }

    /// Reads a head (`part` None) or slice in both copies, compares them, and returns one.
    fn both_copies(&self, version: VersionId, places: &[RecordPlace], part: Option<u32>) -> Option<Vec<u8>> {
        let reading = self.run.reading;
        let mut found: [Option<Vec<u8>>; 2] = [None, None];
        for copy in [0u8, 1] {
            let of_copy =
                |p: &&RecordPlace| reading.index.pack(p.pack).is_some_and(|info| (info.copy != 0) == (copy != 0));
            let mut failed = false;
            for place in places.iter().filter(of_copy) {
                let read = reading.packs.table(&reading.index, place.pack).and_then(|table| {
                    let Some(ordinal) = table.record(version, place.generation, part) else { return Ok(None) };
                    reading.packs.blob(&reading.index, place.pack, &table, ordinal).map(Some)
                });
                match read {
                    Ok(Some(raw)) => {
                        found[usize::from(copy)] = Some(raw);
                        break;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        failed = true;
                        self.run.gatherer.error(&error);
                    }
                }
            }
            if found[usize::from(copy)].is_none() && !failed {
                let what = part.map_or_else(|| "the head".to_owned(), |n| format!("slice {n}"));
                let reason = format!("copy {copy} of {what} of its record is in no pack");
                self.run.gatherer.finding(format!("version {version}"), Problem::Missing, reason);
            }
        }
        let [first, second] = found;
        if let (Some(a), Some(b)) = (&first, &second)
            && a != b
        {
            self.fault(version, "the two copies of its record differ");
        }
        first.or(second)
    }

    /// The literals of trees are stored twice.
    fn tree_copies(&self, head: &VersionHead) {
        let gathered = Gathered::of(&head.extensions).map(|gathered| (gathered.space, gathered.bytes));
        let spaces = || [(head.version, head.literal_bytes)].into_iter().chain(gathered);
        for copy in [0u8, 1] {
            if spaces().any(|(space, bytes)| !self.coverage.holes_of_copy(copy, space, 0, bytes).is_empty()) {
                let reason = format!("copy {copy} of its literal bytes, a part of a tree, is not complete");
                self.run.gatherer.finding(format!("version {}", head.version), Problem::Missing, reason);
            }
        }
    }
}

/// For the other parts of a verification: damage becomes a finding, everything else ends the run.
pub(super) fn absorb(run: &Run<'_>, error: RepoError) -> Result<(), VerifyError> {
    if error.concerns_one_object() {
        run.gatherer.error(&error);
        return Ok(());
    }
    Err(error.into())
}
