//! `verify`: what is in the repository, against what was written.

use crate::cli::args::verify::{Subset, VerifyArgs};
use crate::cli::errors::file_failure;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::cli::log::LogLevel;
use crate::cli::opening::{self, ReadingRepository};
use crate::domain::units;
use crate::ops::verify::{
    self, Affected, PackSelection, VerifyError, VerifyFinding, VerifyOptions, VerifyReport, VerifyScope,
};
use crate::repository::error::RepoError;
use crate::repository::{self, open};
use std::path::Path;
use std::sync::Arc;

/// Affected files printed for each stream; the JSON report names more.
const PATHS_SHOWN: usize = 10;

/// Verifies and says what it found.
pub(crate) fn run(invocation: &Invocation, args: &VerifyArgs) -> Result<ExitCode, Failure> {
    if args.stored_only {
        return stored_only(invocation, args);
    }
    let opened = opening::open_for_reading(invocation)?;
    let options = VerifyOptions {
        scope: scope(invocation, &opened, args)?,
        sources: args.scope.sources.clone(),
        max_duration: args.max_duration,
        unverified_for: args.unverified_for,
        packs: Vec::new(),
    };
    let catalog = opening::catalog(invocation, opened.repository.config.repository)?;
    let (clock, observer, cancel) = (&invocation.clock, invocation.observer(), &invocation.cancel);
    let report = verify::run(&opened.reading, &catalog, &options, clock, observer, cancel);
    say(invocation, args, &report.map_err(failure_of)?)
}

/// Without opening the repository: no password is asked for, and one that is set is not used.
fn stored_only(invocation: &Invocation, args: &VerifyArgs) -> Result<ExitCode, Failure> {
    use repository::Error::{NewerVersion, NoRepository, Unfinished};
    let store = Arc::new(opening::locate(invocation)?);
    // only to tell a damaged repository from none and from a newer one
    if let Err(error @ (NoRepository { .. } | Unfinished { .. } | NewerVersion { .. })) =
        open::open(Arc::clone(&store), None)
    {
        return Err(error.into());
    }
    let report = verify::stored::run_stored(store.as_ref(), invocation.observer(), &invocation.cancel);
    say(invocation, args, &report.map_err(failure_of)?)
}

/// A verification that could not be carried out.
pub(super) fn failure_of(error: VerifyError) -> Failure {
    match error {
        VerifyError::Repository(RepoError::Interrupted) => Failure::from(crate::ops::cancel::Cancelled),
        VerifyError::Repository(error) => Failure::from(error),
        VerifyError::Cancelled(cancelled) => Failure::from(cancelled),
    }
}

/// Writes and prints the report.
fn say(invocation: &Invocation, args: &VerifyArgs, report: &VerifyReport) -> Result<ExitCode, Failure> {
    if let Some(path) = &args.report {
        write_report(path, report)?;
    }
    if invocation.global.json {
        invocation.output.json(Kind::Result, report);
    } else {
        print(invocation, report);
    }
    for VerifyFinding { object, problem, reason } in &report.findings {
        let message = format!("is {problem}: {reason}");
        invocation.output.log(LogLevel::Warn, "verify.finding", object, &message);
    }
    let (mode, findings) = (report.mode, report.findings.len() as u64 + report.findings_omitted);
    let read = units::format_size(report.stored_bytes_read);
    let text = format!("{mode}: {findings} findings; {} packs and {read} read in full", report.packs_read);
    invocation.output.log(LogLevel::Info, "verify.summary", "", &text);
    conclude(report)
}

/// True when all that is known comes from checksums: nothing can be said about snapshots and their data.
fn is_stored_only(report: &VerifyReport) -> bool {
    report.mode == verify::stored::MODE
}

fn scope(invocation: &Invocation, opened: &ReadingRepository, args: &VerifyArgs) -> Result<VerifyScope, Failure> {
    if !args.selectors.is_empty() {
        let chosen = opened.filter(invocation, &args.selectors, &args.scope, |_| true)?;
        for loaded in &chosen {
            invocation.output.note("snapshot.chosen", &format!("verifying snapshot {}", loaded.snapshot.id));
        }
        return Ok(VerifyScope::Snapshots(chosen.iter().map(|loaded| loaded.snapshot.id).collect()));
    }
    Ok(match args.read_data_subset {
        Some(Subset::Part { part, parts }) => VerifyScope::ReadData(PackSelection::Part { part, parts }),
        Some(Subset::Permille(share)) => VerifyScope::ReadData(PackSelection::Permille(share)),
        Some(Subset::Bytes(bytes)) => VerifyScope::ReadData(PackSelection::Bytes(bytes)),
        // a time limit or an age speaks of reading packs
        None if args.read_data || args.max_duration.is_some() || args.unverified_for.is_some() => {
            VerifyScope::ReadData(PackSelection::All)
        }
        None => VerifyScope::Structure,
    })
}

fn write_report(path: &Path, report: &VerifyReport) -> Result<(), Failure> {
    let failed = |error: std::io::Error| file_failure("write", path, &error);
    let value = json::envelope(Kind::Result, report).map_err(|error| failed(std::io::Error::other(error)))?;
    std::fs::write(path, format!("{value:#}\n")).map_err(failed)
}

fn print(invocation: &Invocation, report: &VerifyReport) {
    let output = &invocation.output;
    for note in &report.notes {
        output.note(note.code, &format!("{}: {}", note.object, note.message));
    }
    for finding in &report.findings {
        output.line(&format!("{} is {}: {}", finding.object, finding.problem, finding.reason));
    }
    if report.findings_omitted > 0 {
        output.line(&format!("and {} more", report.findings_omitted));
    }
    for id in &report.unreadable_snapshots {
        output.line(&format!("Snapshot {id} cannot be read: its sources are not known"));
    }
    for affected in &report.affected {
        print_affected(invocation, affected);
    }
    let no_loss = report.affected.is_empty() && report.unreadable_snapshots.is_empty();
    if report.is_damaged() && no_loss && !is_stored_only(report) {
        output.line(
            "No data of a snapshot is lost as far as was verified: second copies or parity serve, or nothing needs it",
        );
    }
    let size = units::format_size;
    if report.packs_read > 0 {
        let (read, packs) = (report.packs_read, report.packs);
        output.line(&format!(
            "Read {read} of {packs} packs and {} other objects in full ({})",
            report.objects_read,
            size(report.stored_bytes_read)
        ));
    }
    if report.streams_proved > 0 {
        let streams = crate::domain::units::format_counted(report.streams_proved, "stream", "streams");
        let files = crate::domain::units::format_counted(report.files_proved, "file", "files");
        output.line(&format!(
            "Decoded {streams} and {files} ({}) and compared them with their proofs",
            size(report.bytes_proved)
        ));
    }
    if report.packs_with_parity > 0 {
        output.line(&format!("{} of {} packs have parity", report.packs_with_parity, report.packs));
    }
    if report.packs_left > 0 {
        output.line(&format!("Time was up: {} packs are left for the next run", report.packs_left));
    }
    if !report.is_damaged() {
        let snapshots = report.snapshots;
        output.line(&format!("No damage found; {snapshots} snapshots, {} packs", report.packs));
        if is_stored_only(report) {
            output.note("verify.stored_only", "What only the key can tell, missing packs among it, was not looked for");
        }
    }
}

fn print_affected(invocation: &Invocation, affected: &Affected) {
    let Affected { snapshot, time, host, source, stream, .. } = affected;
    let extent = affected.damaged_bytes.map_or_else(
        || "cannot be given back whole".to_owned(),
        |bytes| format!("has lost {}", units::format_size(bytes)),
    );
    invocation.output.line(&format!("Snapshot {snapshot} of {time} ({host}): source {source}, {stream} {extent}"));
    for path in affected.paths.iter().take(PATHS_SHOWN) {
        invocation.output.line(&format!("  {path}"));
    }
    let more = affected.paths.len().saturating_sub(PATHS_SHOWN) as u64 + affected.paths_omitted;
    if more > 0 {
        invocation.output.line(&format!("  and {more} more files"));
    }
}

fn conclude(report: &VerifyReport) -> Result<ExitCode, Failure> {
    if !report.is_damaged() {
        return Ok(ExitCode::Success);
    }
    let objects: std::collections::BTreeSet<&str> = report.findings.iter().map(|f| f.object.as_str()).collect();
    let failure = Failure::new(
        ExitCode::Damaged,
        "repository.damaged",
        match objects.len() {
            1 => "One object of the repository is not as it was written".to_owned(),
            n => format!("{n} objects of the repository are not as they were written"),
        },
    );
    let index = report.findings.iter().any(|f| f.object.starts_with("index/"))
        || report.notes.iter().any(|n| n.code == "pack.unindexed");
    let failure =
        if index { failure.hint("`holdfast repair index` makes the index anew from the packs") } else { failure };
    let failure = match report.repairable.len() {
        0 => failure,
        1 => failure.hint("one pack is repairable, its parity makes it whole: run `holdfast repair packs`"),
        n => failure
            .hint(format!("{n} packs are repairable, their parity makes them whole: run `holdfast repair packs`")),
    };
    let failure = if report.findings.iter().any(|f| f.object.starts_with("parity/")) {
        failure.hint("`holdfast repair packs` writes damaged and missing parity again")
    } else {
        failure
    };
    if is_stored_only(report) {
        return Err(failure.hint("run `holdfast verify --read-data` with the key to see which data is hit"));
    }
    Err(if report.affected.is_empty() && report.unreadable_snapshots.is_empty() {
        failure.hint("no data is lost as far as was verified; check the disk before more is damaged")
    } else {
        failure.hint("check the disk; snapshots that are not named are whole as far as was verified")
    })
}
