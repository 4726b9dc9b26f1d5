//! Whom damage hits: snapshots, sources, streams, and the files whose contents lie in the damaged parts.

use super::records::States;
use super::report::{Affected, PATHS_MAX};
use super::{Run, VerifyError};
use crate::domain::entry::EntryKind;
use crate::domain::snapshot::{Snapshot, SourceRecord, StreamRecord, StreamRole};
use crate::repository::snapshots::LoadedSnapshot;
use jiff::Timestamp;

/// Files of a source, as far as they are listed.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths {
    pub(super) listed: Vec<String>,
    pub(super) omitted: u64,
}

impl Paths {
    pub(super) fn add(&mut self, path: &[u8]) {
        if self.listed.len() < PATHS_MAX {
            self.listed.push(String::from_utf8_lossy(path).into_owned());
        } else {
            self.omitted += 1;
        }
    }
}

/// Adds to the report every stream that has a part which cannot be given back.
pub(super) fn find(run: &Run<'_>, snapshots: &[LoadedSnapshot], states: &States) -> Result<(), VerifyError> {
    if !run.gatherer.has_findings() {
        return Ok(());
    }
    for loaded in snapshots {
        run.cancel.check()?;
        for source in &loaded.snapshot.sources {
            for stream in &source.streams {
                let Some(state) = states.get(&stream.version) else { continue };
                let whole = [(0, u64::MAX)];
                let bad = if state.plain_bytes.is_some() { state.bad.as_slice() } else { &whole };
                if bad.is_empty() {
                    continue;
                }
                let paths = if stream.role == StreamRole::Content { files(run, source, bad) } else { Paths::default() };
                let bytes = state.plain_bytes.map(|_| bad.iter().map(|(start, end)| end - start).sum());
                add(run, &loaded.snapshot, source, stream, bytes, paths);
            }
        }
    }
    Ok(())
}

/// Adds one stream, unless it is in the report already. Damaged identities hit nobody: nothing that was saved is lost,
/// the next backup reads the files.
pub(super) fn add(
    run: &Run<'_>,
    snapshot: &Snapshot,
    source: &SourceRecord,
    stream: &StreamRecord,
    damaged_bytes: Option<u64>,
    paths: Paths,
) {
    if stream.role == StreamRole::Identities {
        return;
    }
    let time =
        Timestamp::from_nanosecond(i128::from(snapshot.time_ns)).map_or_else(|_| String::new(), |t| t.to_string());
    let affected = Affected {
        snapshot: snapshot.id.hex(),
        time,
        host: snapshot.system.host.clone(),
        source: source.name.clone(),
        stream: stream.file_name.clone(),
        damaged_bytes,
        paths: paths.listed,
        paths_omitted: paths.omitted,
    };
    run.gatherer.count(|r| {
        let same = |a: &&mut Affected| {
            a.snapshot == affected.snapshot && a.source == affected.source && a.stream == affected.stream
        };
        match r.affected.iter_mut().find(same) {
            Some(known) if known.damaged_bytes.is_none() => *known = affected,
            Some(_) => {}
            None => r.affected.push(affected),
        }
    });
}

/// The files that touch damaged parts of the content stream, as far as the tree can be read.
fn files(run: &Run<'_>, source: &SourceRecord, bad: &[(u64, u64)]) -> Paths {
    let mut paths = Paths::default();
    let Ok(entries) = run.reading.tree(source) else { return paths };
    for placed in entries.map_while(Result::ok) {
        let EntryKind::File(file) = &placed.entry.kind else { continue };
        let (start, end) = (placed.content_offset, placed.content_offset.saturating_add(file.stream_bytes()));
        let next = bad.partition_point(|b| b.1 <= start);
        if start < end && bad.get(next).is_some_and(|b| b.0 < end) {
            paths.add(&placed.entry.path);
        }
    }
    paths
}
