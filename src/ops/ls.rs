//! `ls`: what is in a snapshot. Entries of files sources one by one from their trees, streams of all other sources.

use super::cancel::{Cancel, Cancelled};
use crate::domain::entry::Entry;
use crate::domain::snapshot::{Snapshot, SourceRecord, StreamRecord, StreamRole};
use crate::repository::error::RepoError;
use crate::repository::reading::Reading;
use std::ops::ControlFlow;

/// What is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LsOptions {
    /// Only these sources; empty: all.
    pub sources: Vec<String>,
    /// Only this path and what lies below it, or a stream by its file name; raw bytes.
    pub path: Option<Vec<u8>>,
}

/// One line of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed<'a> {
    /// An entry of a files source.
    Entry(&'a SourceRecord, &'a Entry),
    /// A stream of another source.
    Stream(&'a SourceRecord, &'a StreamRecord),
    /// A source that failed: nothing of it is in the snapshot.
    Failed(&'a SourceRecord, &'a str),
}

/// What was listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct LsReport {
    /// Entries and streams.
    pub items: u64,
    /// Sources that failed in this snapshot.
    pub failed_sources: u64,
}

/// Why nothing, or not everything, was listed.
#[derive(Debug, thiserror::Error)]
pub enum LsError {
    /// The repository.
    #[error("The snapshot cannot be listed")]
    Repository(#[from] RepoError),
    /// The snapshot has no such source.
    #[error("Snapshot {snapshot} has no source '{name}'")]
    NoSuchSource {
        /// Short id of the snapshot.
        snapshot: String,
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// Nothing has the path.
    #[error("Snapshot {snapshot} does not hold {}", String::from_utf8_lossy(path))]
    NoSuchPath {
        /// Short id of the snapshot.
        snapshot: String,
        /// The path, raw bytes.
        path: Vec<u8>,
    },
    /// The run was ended from outside.
    #[error("Interrupted")]
    Interrupted,
}

impl From<Cancelled> for LsError {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

/// Lists, item by item in bounded memory. `sink` may end the list early.
///
/// # Errors
/// [`LsError`].
pub fn run(
    reading: &Reading,
    snapshot: &Snapshot,
    options: &LsOptions,
    cancel: &Cancel,
    sink: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
) -> Result<LsReport, LsError> {
    for name in &options.sources {
        if snapshot.source(name).is_none() {
            let known = snapshot.sources.iter().map(|source| source.name.clone()).collect();
            return Err(LsError::NoSuchSource { snapshot: snapshot.id.short(), name: name.clone(), known });
        }
    }
    let wanted = options.path.as_deref().map(Wanted::new);
    let mut report = LsReport::default();
    for source in &snapshot.sources {
        if !options.sources.is_empty() && !options.sources.contains(&source.name) {
            continue;
        }
        if let Some(reason) = &source.failure {
            report.failed_sources += 1;
            if sink(Listed::Failed(source, reason)).is_break() {
                return Ok(report);
            }
            continue;
        }
        if list_source(reading, source, wanted.as_ref(), cancel, &mut report, sink)?.is_break() {
            return Ok(report);
        }
    }
    match options.path.clone() {
        Some(path) if report.items == 0 => Err(LsError::NoSuchPath { snapshot: snapshot.id.short(), path }),
        _ => Ok(report),
    }
}

fn list_source(
    reading: &Reading,
    source: &SourceRecord,
    wanted: Option<&Wanted>,
    cancel: &Cancel,
    report: &mut LsReport,
    sink: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, LsError> {
    for stream in &source.streams {
        match stream.role {
            // The contents belong to the entries of the tree, identities are for the next backup.
            StreamRole::Content | StreamRole::Identities => {}
            StreamRole::Tree => {
                for placed in reading.tree(source)? {
                    cancel.check()?;
                    let entry = placed?.entry;
                    if wanted.is_some_and(|wanted| !wanted.admits(&entry.path)) {
                        continue;
                    }
                    report.items += 1;
                    if sink(Listed::Entry(source, &entry)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            StreamRole::Data | StreamRole::Globals => {
                if wanted.is_some_and(|wanted| !wanted.names(&stream.file_name)) {
                    continue;
                }
                report.items += 1;
                if sink(Listed::Stream(source, stream)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// A path to begin at.
struct Wanted {
    /// Absolute, without slashes at the end; empty for the root.
    path: Vec<u8>,
}

impl Wanted {
    fn new(path: &[u8]) -> Self {
        let end = path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
        let path = path.get(..end).unwrap_or_default();
        // Trees hold absolute paths only, so a path without its first slash can mean only one thing.
        let slash: &[u8] = if path.is_empty() || path.starts_with(b"/") { b"" } else { b"/" };
        Self { path: [slash, path].concat() }
    }

    /// The path itself, or below it.
    fn admits(&self, path: &[u8]) -> bool {
        path.strip_prefix(self.path.as_slice()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// A stream of this file name.
    fn names(&self, file_name: &str) -> bool {
        self.path.is_empty() || self.path.strip_prefix(b"/") == Some(file_name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_admits_itself_and_what_lies_below() {
        for spelling in ["/srv/app", "/srv/app/", "/srv/app//", "srv/app"] {
            let wanted = Wanted::new(spelling.as_bytes());
            assert!(wanted.admits(b"/srv/app") && wanted.admits(b"/srv/app/x"), "{spelling}");
            assert!(!wanted.admits(b"/srv/apple") && !wanted.admits(b"/srv") && !wanted.admits(b"/"), "{spelling}");
            assert!(!wanted.names("app"));
        }
        let root = Wanted::new(b"/");
        assert!(root.admits(b"/") && root.admits(b"/srv") && root.names("app-db.dump"));
        assert!(Wanted::new(b"app-db.dump").names("app-db.dump"));
        assert!(!Wanted::new(b"app-db.dump").names("app-db.dump2"));
    }
}
