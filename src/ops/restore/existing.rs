//! What a restore may do to what its target holds: decided here, done by `target/files`.

use super::roots::{named, roots};
use super::selection::is_at_or_below;
use super::{Error, Options, Overwriting, PathFilter, Planned, Run};
use crate::domain::snapshot::{Snapshot, SourceKind, SourceRecord, SourceWarning};
use crate::target::files::Existing;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What SQLite keeps beside a database.
const LOGS: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// The rules for a restore of these sources into a directory.
///
/// # Errors
/// When a tree cannot be read.
pub(super) fn plan(
    run: &mut Run<'_>,
    snapshot: &Snapshot,
    planned: &[Planned<'_>],
    options: &Options,
    overwriting: &Overwriting,
) -> Result<Existing, Error> {
    let mut existing = rules(snapshot, overwriting, &options.target);
    if overwriting.delete {
        for Planned { source, tree } in planned {
            if let Some(tree) = tree {
                let below = deletable(run, source, &options.selection.paths, tree.fault.is_some())?;
                existing.delete_below.extend(below);
            }
        }
    }
    Ok(existing)
}

/// The rules without anything that may go.
fn rules(snapshot: &Snapshot, overwriting: &Overwriting, target: &Path) -> Existing {
    let mut protect = protected(snapshot);
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let target = real(target);
    for folder in &overwriting.own_folders {
        if let Ok(rest) = real(folder).strip_prefix(&target) {
            protect.push([b"/", rest.as_os_str().as_bytes()].concat());
        }
    }
    Existing { overwrite: overwriting.overwrite, delete_below: Vec::new(), protect }
}

/// Where names that the snapshot does not have may be removed: within the roots of a source, as far as they are
/// restored. Nowhere, with a finding, when that is not certain.
fn deletable(
    run: &mut Run<'_>,
    source: &SourceRecord,
    filter: &PathFilter,
    damaged: bool,
) -> Result<Vec<Vec<u8>>, Error> {
    let found = if damaged { None } else { roots(run.reading, source, run.cancel)? };
    let Some(roots) = found.filter(|_| !filter.has_rules()) else {
        let message = match damaged {
            true => "Nothing is removed: the list of its files is damaged",
            false => "Nothing is removed: it cannot be told which directories were saved with everything in them",
        };
        let (code, subject) = ("restore.nothing_deleted".to_owned(), source.name.clone());
        let warning = SourceWarning { code, subject, message: message.to_owned(), incomplete: true };
        run.found(Some(&source.name), vec![warning]);
        return Ok(Vec::new());
    };
    let Some(below) = filter.below() else { return Ok(roots) };
    if roots.iter().any(|root| is_at_or_below(below, root)) {
        return Ok(vec![below.to_vec()]);
    }
    Ok(roots.into_iter().filter(|root| is_at_or_below(root, below)).collect())
}

/// Where the sources of a snapshot are: what one source does not have may be what another one is.
fn protected(snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    for source in &snapshot.sources {
        match source.kind {
            SourceKind::Files => paths.extend(named(&source.location)),
            SourceKind::Sqlite => {
                paths.extend(LOGS.map(|log| [source.location.as_bytes(), log.as_bytes()].concat()));
            }
            SourceKind::Postgres | SourceKind::Command | SourceKind::Stdin => {}
        }
    }
    paths
}
