//! `export`: a snapshot as plain files that need no holdfast.

use super::restore;
use crate::cli::args::export::ExportArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::cli::opening;
use crate::domain::snapshot::Snapshot;
use crate::domain::time_spec::ns_timestamp;
use crate::domain::units::{format_counted, format_size};
use crate::ops::export::{self, ExportError, ExportMeans, ExportOptions, MANIFEST, SUMS};
use crate::ops::restore::{Kinds, Options, PathFilter, Selection};
use crate::target::files;
use jiff::tz::TimeZone;
use serde_json::json;
use std::path::{Component, Path, PathBuf};

/// Exports and prints the folder.
pub(crate) fn run(invocation: &Invocation, args: &ExportArgs) -> Result<ExitCode, Failure> {
    // a layout that cannot be read is said before a password is asked for
    check_layout(&args.layout)?;
    let repository = opening::open_for_reading(invocation)?;
    let chosen = repository.choose(invocation, &args.selector, &args.scope)?;
    let snapshot = &chosen.snapshot.snapshot;
    let target = invocation.environment.directory.join(&args.target);
    let place = target.join(expand(&args.layout, snapshot)?);
    let paths = PathFilter::new(chosen.path.as_deref(), &[], &[])
        .map_err(|error| Failure::from_error(ExitCode::Usage, "export.path", &error))?;
    let kinds = match (args.db_only, args.code_only) {
        (true, _) => Kinds::Databases,
        (_, true) => Kinds::Files,
        _ => Kinds::All,
    };
    let selection = Selection { sources: args.scope.sources.clone(), kinds, paths };
    let history = match snapshot.sources.iter().any(|source| source.failure.is_some()) {
        true => repository.snapshots()?,
        false => Vec::new(),
    };
    let accepted = chosen.snapshot.accepted;
    let manifest = |files: u64, bytes: u64| {
        let body = json!({
            "snapshot": json::snapshot(snapshot, accepted),
            "exported_by": Invocation::program(),
            "layout": args.layout,
            "checksums": SUMS,
            "files": files,
            "bytes": bytes,
        });
        let text = json::envelope(Kind::Result, &body).and_then(|value| serde_json::to_vec_pretty(&value));
        text.map(|text| [text, b"\n".to_vec()].concat()).unwrap_or_default()
    };
    let means = ExportMeans {
        reading: &repository.reading,
        history: &history,
        random: &invocation.random,
        observer: invocation.observer(),
        cancel: &invocation.cancel,
        manifest: &manifest,
    };
    let restore = Options {
        existing: None,
        target: place.clone(),
        selection,
        dry_run: invocation.global.dry_run,
        attributes: files::Options::for_this_user(),
    };
    let report = export::run(&means, snapshot, ExportOptions { place: place.clone(), restore })
        .map_err(|error| failure_of(error, snapshot, &place))?;
    if invocation.global.json {
        let body = json!({
            "snapshot_id": snapshot.id.hex(),
            "dry_run": invocation.global.dry_run,
            "path": place.to_string_lossy(),
            "files": report.files,
            "bytes": report.bytes,
            "checksums": SUMS,
            "manifest": MANIFEST,
            "sources": report.restored.sources,
            "failed_sources": report.restored.failed_sources,
            "left_out": report.restored.left_out,
        });
        invocation.output.json(Kind::Summary, &body);
    } else if invocation.global.dry_run {
        let size = format_size(report.restored.bytes_restored);
        invocation.output.note("export.would", &format!("would export {size} to {}", place.display()));
    } else {
        invocation.output.line(&place.to_string_lossy());
        let (count, size) = (format_counted(report.files, "file", "files"), format_size(report.bytes));
        let text = format!("exported {count}, {size}; check them with `sha256sum -c {SUMS}`");
        invocation.output.note("export.summary", &text);
    }
    let exit = if report.restored.is_complete() { ExitCode::Success } else { ExitCode::Incomplete };
    repository.conclude(invocation, exit)
}

fn bad_layout(layout: &str, reason: &str) -> Failure {
    Failure::usage("export.layout", format!("The layout '{layout}' cannot be used: {reason}"))
        .hint("a layout is a path below --target, such as daily/%Y/%m/%d or {class}/%Y-%m-%d_{id}")
}

/// Reads a layout without a snapshot.
fn check_layout(layout: &str) -> Result<(), Failure> {
    let filled = layout.replace("{id}", "x").replace("{host}", "x").replace("{class}", "x");
    if filled.contains(['{', '}']) {
        return Err(bad_layout(layout, "only {id}, {host} and {class} are known"));
    }
    let zoned = ns_timestamp(0).to_zoned(TimeZone::UTC);
    let text = jiff::fmt::strtime::format(&filled, &zoned).map_err(|error| bad_layout(layout, &error.to_string()))?;
    below(layout, &text).map(drop)
}

/// A path that stays below the folder it is joined to.
fn below(layout: &str, text: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(text);
    if text.is_empty() || text.contains('\0') || !path.components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(bad_layout(layout, "it must be a relative path without '..'"));
    }
    Ok(path.to_owned())
}

/// The path that a layout means for a snapshot, by the time zone that it was made in.
fn expand(layout: &str, snapshot: &Snapshot) -> Result<PathBuf, Failure> {
    let zone = TimeZone::get(&snapshot.time_zone).unwrap_or(TimeZone::UTC);
    let zoned = ns_timestamp(snapshot.time_ns).to_zoned(zone);
    // names come after the fields, so that a percent sign in them stays one
    let dated = jiff::fmt::strtime::format(layout, &zoned).map_err(|e| bad_layout(layout, &e.to_string()))?;
    let plain = |text: &str| match text {
        "" | "." | ".." => "none".to_owned(),
        text => text.replace(['/', '\0'], "_"),
    };
    let class = plain(snapshot.class.as_deref().unwrap_or("none"));
    let filled = dated.replace("{id}", &snapshot.id.short()).replace("{class}", &class);
    below(layout, &filled.replace("{host}", &plain(&snapshot.system.host)))
}

fn failure_of(error: ExportError, snapshot: &Snapshot, place: &Path) -> Failure {
    let of = |exit, id| Failure::from_error(exit, id, &error);
    match &error {
        ExportError::Exists { .. } => of(ExitCode::Refused, "export.exists")
            .hint("nothing was touched; give a layout that names another folder, for example with %H%M%S or {id}"),
        ExportError::Lost { report } => restore::lost_failure(snapshot, report).hint("nothing was exported"),
        ExportError::Restore(_) => match error {
            ExportError::Restore(error) => restore::failure_of(*error, place).hint("nothing is left of the export"),
            _ => Failure::new(ExitCode::Failed, "export", "The export failed"),
        },
        ExportError::NameTaken { .. } => {
            of(ExitCode::Refused, "export.name_taken").hint("export the other sources, or a part of the files, by name")
        }
        ExportError::Differs { .. } => {
            of(ExitCode::Damaged, "export.differs").hint("nothing was exported; test the memory and the target's disk")
        }
        ExportError::Io { source, .. } => {
            let no_space = matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge
            );
            match no_space {
                true => of(ExitCode::NoSpace, "export.no_space").hint("free some space; nothing is left of the export"),
                false => of(ExitCode::Failed, "export.failed").hint("nothing was exported"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_stay_below_their_target() {
        for good in ["daily/%Y/%m/%d", "{class}/%G/week-%V", "%Y-%m-%d_{id}", "100%%"] {
            check_layout(good).unwrap();
        }
        for bad in ["", "/abs", "../x", "a/../b", "%!", "{name}", "./", "%"] {
            let failure = check_layout(bad).unwrap_err();
            assert_eq!(failure.exit, ExitCode::Usage, "{bad}");
        }
    }
}
