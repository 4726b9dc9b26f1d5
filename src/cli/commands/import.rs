//! `import`: piles of other tools' backups become snapshots. Standard output is the inventory.

use super::backup;
use crate::cli::args::import::ImportArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::cli::log::LogLevel;
use crate::cli::opening;
use crate::cli::output::{Column, display_path};
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::StreamRole;
use crate::domain::time_spec::format_local;
use crate::domain::units::{format_count, format_counted, format_size};
use crate::fsio::system::RealRandom;
use crate::ops::import::gather::gather;
use crate::ops::import::{self, FileReport, ImportMeans, ImportReport, ImportRequest, State};
use crate::ops::system_info::system_info;
use crate::repository::cached_snapshots::load_snapshots;
use crate::repository::error::RepoError;
use crate::repository::reading::{CopyError, Reading};
use crate::storage::{ReadStore, WriteStore};
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Failed files that a failure names.
const FAILED_SHOWN_MAX: usize = 10;

/// Imports and prints what became of each file.
pub(crate) fn run(invocation: &Invocation, args: &ImportArgs) -> Result<ExitCode, Failure> {
    if args.remove_imported && !invocation.global.dry_run {
        invocation.confirm("Delete each file once it is imported and proved?")?;
    }
    let (report, findings) = import(invocation, args, &args.paths)?;
    print(invocation, &report);
    let exit = verdict(invocation, report)?;
    opening::conclude(invocation, findings, exit)
}

/// Imports paths; returns what became of them and damage of the repository that was met.
pub(crate) fn import(
    invocation: &Invocation,
    args: &ImportArgs,
    paths: &[PathBuf],
) -> Result<(ImportReport, Vec<String>), Failure> {
    let environment = &invocation.environment;
    let repository = opening::open_for_writing(invocation, false)?;
    // before anything is written
    let parameters = opening::writer_parameters(invocation, &repository.config)?;
    let id = repository.config.repository;
    let own_folders = opening::own_folders(invocation, id)?;
    let catalog = opening::catalog(invocation, id)?;
    let cache = opening::cache_folder(invocation, id)?;
    let paths: Vec<PathBuf> = paths.iter().map(|path| environment.directory.join(path)).collect();
    let host = args.host.as_deref().unwrap_or(&environment.host);
    let request = ImportRequest {
        gathered: gather(&paths, &own_folders, &environment.time_zone),
        system: system_info(host, &environment.user, environment.os_release.as_deref()),
        time_zone: environment.time_zone.iana_name().unwrap_or("UTC").to_owned(),
        class: args.class.clone(),
        tags: args.tags.clone(),
        dry_run: invocation.global.dry_run,
        remove: args.remove_imported,
    };
    let load = || load_snapshots(repository.store.as_ref(), &repository.keys, &catalog);
    let snapshots = || load().map(|(good, _)| good);
    let reading: OnceCell<Reading> = OnceCell::new();
    let prove = |record: &crate::domain::snapshot::SourceRecord| -> Result<(), RepoError> {
        if reading.get().is_none() {
            let store: Arc<dyn ReadStore> = Arc::clone(&repository.store) as Arc<_>;
            let _ = reading.set(Reading::open(store, Arc::clone(&repository.keys), cache.as_deref())?);
        }
        let Some(reading) = reading.get() else { return Err(RepoError::Interrupted) };
        for stream in record.streams.iter().filter(|stream| stream.role == StreamRole::Data) {
            let cancelled = |_: &[u8]| if invocation.cancel.is_cancelled() { Err(()) } else { Ok(()) };
            reading.copy_stream(stream, cancelled).map_err(|error| match error {
                CopyError::Repository(error) => error,
                CopyError::Sink(()) => RepoError::Interrupted,
            })?;
        }
        Ok(())
    };
    let temp_dir = environment.path("TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp"));
    let means = ImportMeans {
        store: Arc::clone(&repository.store) as Arc<dyn WriteStore>,
        keys: Arc::clone(&repository.keys),
        random: Arc::new(RealRandom),
        parameters,
        clock: &invocation.clock,
        processes: &invocation.processes,
        observer: invocation.observer(),
        cancel: &invocation.cancel,
        cache: cache.as_deref(),
        process_id: std::process::id(),
        patience: invocation.global.retry_lock,
        snapshots: &snapshots,
        prove: &prove,
        temp_dir: &temp_dir,
    };
    let mut findings: Vec<String> = repository.findings.iter().map(opening::describe).collect();
    findings.extend(load()?.1.iter().map(|s| format!("Snapshot {} cannot be read: {}", s.id, s.error)));
    let report = import::run(&means, request);
    findings.extend(report.findings.iter().cloned());
    Ok((report, findings))
}

/// Imports one file and gives its snapshot and source; None in a dry run, after saying what the file is.
///
/// # Errors
/// Exit codes 2, 13, 14 for what is no file or no good backup; those of a backup.
pub(super) fn one(invocation: &Invocation, file: &Path) -> Result<Option<(SnapshotId, String)>, Failure> {
    let path = invocation.environment.directory.join(file);
    if path.is_dir() {
        let message = format!("{} is a folder, and --from-file takes one file", path.display());
        return Err(
            Failure::usage("restore.from_file", message).hint("import the folder, then restore what you choose")
        );
    }
    let (class, paths) = ("manual".to_owned(), vec![path]);
    let args = ImportArgs { paths: paths.clone(), class, tags: Vec::new(), host: None, remove_imported: false };
    let (report, _) = import(invocation, &args, &paths)?;
    let found = report.files.first().map(|file| (file.state.clone(), file.source.clone(), file.content));
    // what was damaged in the repository is met again by the restore
    verdict(invocation, report)?;
    match found {
        Some((State::Imported(Some(id)) | State::Already(Some(id)), source, _)) => {
            let text = format!("{} is snapshot {}, source {source}", file.display(), id.short());
            invocation.output.note("import.file", &text);
            Ok(Some((id, source)))
        }
        Some((_, source, content)) => {
            let content = content.map_or("backup", |content| content.as_str());
            let text = format!("{} is a good {content}; it would be imported as {source} and restored", file.display());
            invocation.output.note("import.would", &text);
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Counts of a report.
struct Counts {
    imported: u64,
    imported_bytes: u64,
    already: u64,
    failed: u64,
    removed: u64,
    not_removed: u64,
}

fn counts(report: &ImportReport) -> Counts {
    let (imported, imported_bytes) = report.count(|state| matches!(state, State::Imported(_)));
    let (already, _) = report.count(|state| matches!(state, State::Already(_)));
    let (failed, _) = report.count(|state| matches!(state, State::Failed(_)));
    let of = |is: &dyn Fn(&FileReport) -> bool| report.files.iter().filter(|f| is(f)).count() as u64;
    let (removed, not_removed) = (of(&|f| f.removed), of(&|f| f.not_removed.is_some()));
    Counts { imported, imported_bytes, already, failed, removed, not_removed }
}

/// The exit code, or why the run failed.
pub(crate) fn verdict(invocation: &Invocation, report: ImportReport) -> Result<ExitCode, Failure> {
    let Counts { imported, already, failed, not_removed, .. } = counts(&report);
    if let Some(error) = report.ended {
        let failure = backup::failure_of(error);
        return Err(match imported {
            0 => failure,
            n => failure.hint(format!(
                "{} imported before that; run it again for the rest",
                format_counted(n, "file was", "files were")
            )),
        });
    }
    if report.files.is_empty() {
        let failure =
            Failure::new(ExitCode::NoSource, "import.nothing", "There is no file to import below these paths");
        let hint = "taken are .sql, .dump, .tar, .sqlite and .db, packed or not; a file that is named itself is looked at \
                    whatever its name is";
        return Err(failure.hint(hint));
    }
    if failed == 0 {
        return Ok(if not_removed > 0 { ExitCode::Incomplete } else { ExitCode::Success });
    }
    if imported + already > 0 {
        let text = format!("{} left alone: not good", format_counted(failed, "file was", "files were"));
        invocation.output.note("import.failed", &text);
        return Ok(ExitCode::Incomplete);
    }
    // nobody could look at any of them
    let unread = report.files.iter().all(|file| file.time_ns.is_none());
    let (exit, message) = match unread {
        true => (ExitCode::NoSource, "Nothing was imported: the paths cannot be read"),
        false => (ExitCode::Damaged, "Nothing was imported: no file is a good backup"),
    };
    let mut failure = Failure::new(exit, "import.nothing", message);
    for file in report.files.iter().take(FAILED_SHOWN_MAX) {
        if let State::Failed(reason) = &file.state {
            failure = failure.cause(format!("{} {reason}", file.path.display()));
        }
    }
    Err(failure.hint("the files are as they were"))
}

fn word(dry_run: bool, state: &State) -> &'static str {
    match state {
        State::Imported(_) if dry_run => "good",
        State::Imported(_) => "imported",
        State::Already(_) => "already there",
        State::Failed(_) => "failed",
    }
}

/// The inventory: a table and a line to quote, or items and a summary as JSON.
fn print(invocation: &Invocation, report: &ImportReport) {
    let (output, dry_run) = (&invocation.output, invocation.global.dry_run);
    let all = counts(report);
    for left in &report.left_out {
        let text = format!("left out {}: {}", display_path(left.path.as_os_str().as_bytes()), left.reason);
        if invocation.global.json {
            output.log(LogLevel::Debug, "import.left_out", "", &text);
        } else {
            output.detail("import.left_out", &text);
        }
    }
    if invocation.global.json {
        report.files.iter().for_each(|file| output.json(Kind::Item, &item(file, dry_run)));
        let left_out =
            |left: &import::gather::NotTaken| json!({ "path": left.path.to_string_lossy(), "reason": left.reason });
        let body = json!({
            "dry_run": dry_run,
            "files": all.imported,
            "already": all.already,
            "failed": all.failed,
            "removed": all.removed,
            "not_removed": all.not_removed,
            "left_out": report.left_out.iter().map(left_out).collect::<Vec<_>>(),
            "snapshots": report.snapshots,
            "bytes": all.imported_bytes,
            "data_added": report.stored_bytes,
        });
        output.json(Kind::Summary, &body);
        return;
    }
    if report.files.is_empty() {
        return;
    }
    let columns = [
        Column::text("Time"),
        Column::text("File"),
        Column::text("Source"),
        Column::text("Content"),
        Column::number("Size"),
        Column::text("Result"),
    ];
    let rows: Vec<Vec<String>> = report.files.iter().map(|file| row(invocation, file)).collect();
    output.table(&columns, &rows);
    let mut text = format!("{}, {}", format_counted(all.imported, "file", "files"), format_size(all.imported_bytes));
    if dry_run {
        text.push_str(" would be imported");
    } else {
        text.push_str(&format!(" -> {}", format_size(report.stored_bytes)));
    }
    for (n, what) in [
        (all.already, "already there"),
        (all.failed, "failed"),
        (report.left_out.len() as u64, "left out (-v names them)"),
        (all.removed, "deleted"),
        (all.not_removed, "not deleted"),
    ] {
        if n > 0 {
            text.push_str(&format!("; {} {what}", format_count(n)));
        }
    }
    output.line(&text);
}

fn row(invocation: &Invocation, file: &FileReport) -> Vec<String> {
    let result = match &file.state {
        State::Imported(Some(id)) => id.short(),
        State::Already(Some(id)) => format!("already {}", id.short()),
        State::Failed(reason) => format!("failed: {reason}"),
        other => word(invocation.global.dry_run, other).to_owned(),
    };
    vec![
        file.time_ns.map(|ns| format_local(ns, &invocation.environment.time_zone)).unwrap_or_default(),
        file.name.clone(),
        file.source.clone(),
        file.content.map(|content| content.as_str().to_owned()).unwrap_or_default(),
        format_size(file.bytes),
        result,
    ]
}

fn item(file: &FileReport, dry_run: bool) -> Value {
    let mut object = serde_json::Map::new();
    json::insert_path(&mut object, file.path.as_os_str().as_bytes());
    let (id, reason) = match &file.state {
        State::Imported(id) | State::Already(id) => (id.map(|id| id.hex()), None),
        State::Failed(reason) => (None, Some(reason)),
    };
    let fields = json!({
        "name": file.name,
        "source": file.source,
        "time": file.time_ns.map(json::time),
        "time_from": file.time_from.map(|from| from.as_str()),
        "bytes": file.bytes,
        "plain_bytes": file.plain_bytes,
        "content": file.content.map(|content| content.as_str()),
        "sha256": file.sha256.map(|digest| digest.hex()),
        "warnings": file.warnings,
        "result": word(dry_run, &file.state),
        "reason": reason,
        "snapshot_id": id,
        "removed": file.removed,
        "not_removed": file.not_removed,
    });
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Value::Object(object)
}
