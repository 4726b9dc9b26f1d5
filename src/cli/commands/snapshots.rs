//! `snapshots`: the list, newest first.

use crate::cli::args::snapshots::SnapshotsArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json;
use crate::cli::opening;
use crate::cli::output::Column;
use crate::domain::snapshot::Snapshot;
use crate::domain::time_spec::{format_local, ns_timestamp};
use crate::domain::units::{format_count, format_size};
use crate::ops::stats::plain_bytes;
use crate::repository::snapshots::LoadedSnapshot;
use jiff::tz::TimeZone;

/// Lists snapshots.
pub(crate) fn run(invocation: &Invocation, args: &SnapshotsArgs) -> Result<ExitCode, Failure> {
    let listing = opening::open_for_listing(invocation)?;
    let wanted = |snapshot: &Snapshot| {
        args.class.as_ref().is_none_or(|class| snapshot.class.as_ref() == Some(class))
            && args.tags.iter().all(|tag| snapshot.tags.contains(tag))
    };
    let output = &invocation.output;
    if invocation.global.json {
        let chosen = listing.filter(invocation, &args.selectors, &args.scope, wanted)?;
        let mut document = output.document("snapshots");
        for loaded in &chosen {
            document.push(&json::snapshot(&loaded.snapshot, loaded.accepted)).map_err(|error| not_json(&error))?;
        }
        document.finish();
    } else if let Some(template) = &args.format {
        let line = |loaded: LoadedSnapshot| template.render(|field| field_text(&loaded.snapshot, field));
        for line in listing.listed(invocation, &args.selectors, &args.scope, wanted, line)? {
            output.line(&line);
        }
    } else {
        let zone = &invocation.environment.time_zone;
        let row = |loaded: LoadedSnapshot| row(&loaded.snapshot, zone, args.size);
        table(invocation, &listing.listed(invocation, &args.selectors, &args.scope, wanted, row)?, args.size);
    }
    listing.conclude(invocation, ExitCode::Success)
}

/// A value that has no form in JSON.
pub(crate) fn not_json(error: &serde_json::Error) -> Failure {
    Failure::new(ExitCode::Failed, "json", "The result cannot be written as JSON").caused_by(error)
}

fn table(invocation: &Invocation, rows: &[Vec<String>], size: bool) {
    if rows.is_empty() {
        invocation.output.note("snapshots.none", "there are no snapshots");
        return;
    }
    let mut columns: Vec<Column> =
        ["ID", "Time", "Host", "Class", "Tags", "Sources"].map(Column::text).into_iter().collect();
    if size {
        columns.extend([Column::number("Size"), Column::number("Added")]);
    }
    columns.push(Column::text("Status"));
    invocation.output.table(&columns, rows);
    let noun = if rows.len() == 1 { "snapshot" } else { "snapshots" };
    let number = format_count(u64::try_from(rows.len()).unwrap_or(u64::MAX));
    invocation.output.note("snapshots.count", &format!("{number} {noun}"));
}

fn row(snapshot: &Snapshot, zone: &TimeZone, size: bool) -> Vec<String> {
    let mut row = vec![
        snapshot.id.short(),
        format_local(snapshot.time_ns, zone),
        snapshot.system.host.clone(),
        snapshot.class.clone().unwrap_or_default(),
        snapshot.tags.join(","),
        sources(snapshot),
    ];
    if size {
        row.extend([format_size(plain_bytes(snapshot)), format_size(snapshot.stored_bytes)]);
    }
    row.push(status(snapshot));
    row
}

fn sources(snapshot: &Snapshot) -> String {
    let name = |source: &crate::domain::snapshot::SourceRecord| match source.failure {
        None => source.name.clone(),
        Some(_) => format!("{}(failed)", source.name),
    };
    snapshot.sources.iter().map(name).collect::<Vec<_>>().join(",")
}

/// `complete` or what is to be known about it.
fn status(snapshot: &Snapshot) -> String {
    let mut marks = Vec::new();
    if snapshot.suspect.is_some() {
        marks.push("suspect");
    }
    if snapshot.imported {
        marks.push("imported");
    }
    if !snapshot.is_complete() {
        marks.push("incomplete");
    }
    if marks.is_empty() { "complete".to_owned() } else { marks.join(",") }
}

/// A field of `--format`: plain values for scripts.
fn field_text(snapshot: &Snapshot, field: &str) -> String {
    let zone = TimeZone::get(&snapshot.time_zone).unwrap_or(TimeZone::UTC);
    match field {
        "id" => snapshot.id.hex(),
        "short_id" => snapshot.id.short(),
        "time" => json::time(snapshot.time_ns),
        "timestamp" => ns_timestamp(snapshot.time_ns).to_zoned(zone).strftime("%Y%m%d_%H%M%S").to_string(),
        "host" => snapshot.system.host.clone(),
        "user" => snapshot.system.user.clone(),
        "class" => snapshot.class.clone().unwrap_or_default(),
        "tags" => snapshot.tags.join(","),
        "sources" => snapshot.sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(","),
        "series" => snapshot.series().to_string(),
        "size" => plain_bytes(snapshot).to_string(),
        "added" => snapshot.stored_bytes.to_string(),
        "status" => status(snapshot),
        // The template was checked against the known fields.
        _ => String::new(),
    }
}
