//! `repair packs` and `repair snapshots`.

use crate::catalog::Catalog;
use crate::cli::args::repair::{PacksArgs, SnapshotsArgs};
use crate::cli::args::scope::ScopeArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening::{self, Listing};
use crate::domain::units::{format_count, format_size};
use crate::fsio::system::RealRandom;
use crate::ops::repair::packs::{self, PacksReport, PacksRequest};
use crate::ops::repair::parity::ParityReport;
use crate::ops::repair::snapshots::{self, SnapshotsReport, SnapshotsRequest};
use crate::ops::repair::{LostStream, RepairError, RepairMeans};
use crate::ops::repair_index::Local;
use std::sync::Arc;

/// Files and tables printed for each stream; the JSON report names more.
const NAMES_SHOWN: usize = 10;

/// Repairs packs.
pub(crate) fn packs(invocation: &Invocation, args: &PacksArgs) -> Result<ExitCode, Failure> {
    let listing = opening::open_for_listing(invocation)?;
    let request = PacksRequest { packs: args.packs.clone(), dry_run: invocation.global.dry_run };
    let report = with_means(invocation, &listing, |means| packs::run(means, &request))?;
    if invocation.global.json {
        invocation.output.json(Kind::Result, &report);
    } else {
        print_packs(invocation, &report);
    }
    let faulty = !report.damaged.is_empty() || !report.parity.damaged.is_empty();
    let open = report.dry_run && faulty || !report.left.is_empty() || !report.parity.left.is_empty();
    conclude(invocation, Some(&listing), &report.lost, &report.unreadable_snapshots, open)
}

/// Repairs snapshots.
pub(crate) fn snapshots(invocation: &Invocation, args: &SnapshotsArgs) -> Result<ExitCode, Failure> {
    let listing = opening::open_for_listing(invocation)?;
    let mut request = SnapshotsRequest {
        read_data: args.read_data,
        dry_run: invocation.global.dry_run,
        ..SnapshotsRequest::default()
    };
    if !args.selectors.is_empty() {
        let chosen = listing.filter(invocation, &args.selectors, &ScopeArgs::default(), |_| true)?;
        request.snapshots = chosen.iter().map(|l| l.snapshot.id).collect();
    }
    let report = with_means(invocation, &listing, |means| snapshots::run(means, &request))?;
    if invocation.global.json {
        invocation.output.json(Kind::Result, &report);
    } else {
        print_snapshots(invocation, &report);
    }
    let open = report.dry_run && !report.copies.healed.is_empty() || !report.copies.left.is_empty();
    // damage that was met when the repository was opened is healed now, or in the report
    conclude(invocation, None, &report.lost, &report.unreadable_snapshots, open)
}

fn with_means<T>(
    invocation: &Invocation,
    listing: &Listing,
    act: impl Fn(&RepairMeans<'_>) -> Result<T, RepairError>,
) -> Result<T, Failure> {
    let repository = &listing.repository;
    let id = repository.config.repository;
    let cache = opening::cache_folder(invocation, id)?;
    let catalog: Catalog = opening::catalog(invocation, id)?;
    let means = RepairMeans {
        store: Arc::clone(&repository.store) as Arc<_>,
        keys: Arc::clone(&repository.keys),
        parameters: opening::writer_parameters(invocation, &repository.config)?,
        random: Arc::new(RealRandom),
        clock: &invocation.clock,
        observer: invocation.observer(),
        cancel: &invocation.cancel,
        local: Local { catalog: &catalog, cache: cache.as_deref() },
        host: invocation.environment.host.clone(),
        process_id: std::process::id(),
    };
    let busy = |error: &RepairError| match error {
        RepairError::Busy { who } => Some(who.clone()),
        _ => None,
    };
    invocation.patience().attempt(busy, || act(&means)).map_err(failure)
}

fn failure(error: RepairError) -> Failure {
    let of = |exit, id| Failure::from_error(exit, id, &error);
    match &error {
        RepairError::Repository(_) => match error {
            RepairError::Repository(error) => Failure::from(error),
            _ => of(ExitCode::Failed, "repair.failed"),
        },
        RepairError::IndexDamaged { .. } => of(ExitCode::Damaged, "repair.index_damaged")
            .hint("nothing was changed; run `holdfast repair index` first"),
        RepairError::NoSuchPack { .. } => of(ExitCode::Usage, "repair.no_such_pack")
            .hint("`holdfast verify --read-data` names damaged packs; `holdfast repair index` finds those that the index lost"),
        RepairError::Busy { .. } => {
            of(ExitCode::Locked, "repair.busy")
                .hint("run it again when it is over, or let it wait longer with --retry-lock DURATION")
        }
        RepairError::NotProved { reason, .. } => of(ExitCode::Damaged, "repair.not_proved")
            .cause(reason.clone())
            .hint("check the disk and the memory of this machine"),
        RepairError::Cancelled(cancelled) => Failure::from(*cancelled),
    }
}

/// Ends with 13 when something is lost or stays damaged.
fn conclude(
    invocation: &Invocation,
    listing: Option<&Listing>,
    lost: &[LostStream],
    unreadable: &[String],
    open: bool,
) -> Result<ExitCode, Failure> {
    if lost.is_empty() && unreadable.is_empty() {
        if open {
            let message = "Something is still not as it was written";
            return Err(Failure::new(ExitCode::Damaged, "repository.damaged", message));
        }
        return listing.map_or(Ok(ExitCode::Success), |listing| listing.conclude(invocation, ExitCode::Success));
    }
    let ids: std::collections::BTreeSet<&str> =
        lost.iter().map(|l| l.stream.snapshot.as_str()).chain(unreadable.iter().map(String::as_str)).collect();
    let message = match ids.len() {
        1 => "One snapshot has lost data".to_owned(),
        n => format!("{n} snapshots have lost data"),
    };
    if listing.is_some() {
        invocation.output.note("repair.next", "The next backup stores again what its source still has");
    }
    Err(Failure::new(ExitCode::Damaged, "repository.damaged", message).hint(
        "`holdfast repair snapshots` saves what is whole of them; `holdfast forget ID` drops what you do not want to keep",
    ))
}

fn print_packs(invocation: &Invocation, report: &PacksReport) {
    let (output, would) = (&invocation.output, if report.dry_run { "would be " } else { "" });
    for pack in &report.damaged {
        let reasons = pack.reasons.join("; ");
        output.line(&format!("{} is {}: {reasons}", pack.object, pack.problem));
        if pack.by_parity {
            output.line("  its parity makes it whole");
        }
        if !report.dry_run {
            let to = pack.quarantined.as_ref().map_or_else(String::new, |to| format!("; moved to {to}"));
            output.line(&format!(
                "  of {} blobs {} kept, {} healed from another pack, {} lost{to}",
                format_count(pack.blobs),
                format_count(pack.blobs_copied),
                format_count(pack.blobs_healed),
                format_count(pack.blobs_lost)
            ));
        }
    }
    for (object, reason) in report.left.iter().chain(&report.parity.left) {
        output.line(&format!("{object} was left alone: {reason}"));
    }
    print_parity(invocation, &report.parity, report.dry_run);
    for healed in &report.healed {
        output.line(&format!("Healed: snapshot {}, source {}, {}", healed.snapshot, healed.source, healed.stream));
    }
    if report.copies_made > 0 {
        let parts = format_count(report.copies_made);
        output.line(&format!("{parts} parts of records and trees had one copy; the other {would}written again"));
    }
    print_lost(invocation, &report.lost, &report.unreadable_snapshots);
    match report.damaged.len() {
        0 => output.line(&format!("Read {} of {} packs; none is damaged", report.packs_read, report.packs)),
        n => output.line(&format!(
            "{n} of {} packs {would}put aside; {} written ({})",
            report.packs,
            report.packs_written,
            format_size(report.written_bytes)
        )),
    }
}

fn print_parity(invocation: &Invocation, report: &ParityReport, dry_run: bool) {
    let (output, would) = (&invocation.output, if dry_run { "would be " } else { "" });
    for parity in &report.damaged {
        let to = parity.quarantined.as_ref().map_or_else(String::new, |to| format!("; the damaged one is {to}"));
        output.line(&format!("{} is {}: {would}written again{to}", parity.object, parity.problem));
    }
    if report.unprotected > 0 && dry_run {
        output.line(&format!("{} packs have no parity and would get it", format_count(report.unprotected)));
    }
    if report.written > 0 {
        let (count, size) = (format_count(report.written), format_size(report.written_bytes));
        output.line(&format!("Parity of {count} packs written ({size})"));
    }
}

fn print_snapshots(invocation: &Invocation, report: &SnapshotsReport) {
    let (output, would) = (&invocation.output, if report.dry_run { "would be " } else { "" });
    for copy in &report.copies.healed {
        let to = copy.quarantined.as_ref().map_or_else(String::new, |to| format!("; the damaged one is {to}"));
        output.line(&format!("{} {would}written again from its other copy: {}{to}", copy.object, copy.reason));
    }
    for (object, reason) in &report.copies.left {
        output.line(&format!("{object} was left alone: {reason}"));
    }
    for id in &report.repaired_before {
        output.line(&format!("Snapshot {id} was repaired before"));
    }
    print_lost(invocation, &report.lost, &report.unreadable_snapshots);
    for repaired in &report.repaired {
        match &repaired.repaired {
            Some(id) => {
                output.line(&format!("What is whole of snapshot {} is in snapshot {id} now", repaired.original))
            }
            None if report.dry_run => {
                output.line(&format!("What is whole of snapshot {} would be saved again", repaired.original));
            }
            None => output.line(&format!("Nothing of snapshot {} is left", repaired.original)),
        }
        for source in &repaired.whole {
            output.line(&format!("  {source} is whole"));
        }
        for source in &repaired.sources {
            let (kept, lost) = (format_count(source.files_kept), format_count(source.files_lost));
            output.line(&match source.failed {
                true => format!("  {} is lost", source.source),
                false if source.files_lost == 0 => format!("  {} is kept in part", source.source),
                false => format!("  {}: {kept} files kept, {lost} lost", source.source),
            });
        }
    }
    let damaged = report.repaired.len() + report.repaired_before.len();
    output.line(&format!("{} snapshots looked at, {damaged} of them damaged", format_count(report.snapshots)));
}

/// What cannot be given back.
fn print_lost(invocation: &Invocation, lost: &[LostStream], unreadable: &[String]) {
    let output = &invocation.output;
    for id in unreadable {
        output.line(&format!("Lost: snapshot {id}; its record cannot be read, and its sources are not known"));
    }
    for LostStream { stream, tables } in lost {
        let extent = stream.damaged_bytes.map_or_else(|| "all".to_owned(), format_size);
        output.line(&format!(
            "Lost: snapshot {} of {} ({}), source {}: {extent} of {}",
            stream.snapshot, stream.time, stream.host, stream.source, stream.stream
        ));
        for (what, names, omitted) in [("file", &stream.paths, stream.paths_omitted), ("table", tables, 0)] {
            for name in names.iter().take(NAMES_SHOWN) {
                output.line(&format!("  {what} {name}"));
            }
            let more = names.len().saturating_sub(NAMES_SHOWN) as u64 + omitted;
            if more > 0 {
                output.line(&format!("  and {} more {what}s", format_count(more)));
            }
        }
    }
}
