//! `prune`: frees what no snapshot needs.

use crate::cli::args::prune::{PruneArgs, PruneLimits};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening::{self, Listing};
use crate::domain::retention::{Policies, Window, defaults};
use crate::domain::system::Clock;
use crate::domain::time_spec::timestamp_ns;
use crate::domain::units::{format_count, format_size};
use crate::fsio::system::RealRandom;
use crate::ops::prune::acts::{self, KeptSince};
use crate::ops::prune::{self, PruneError, PruneMeans, PruneOptions, PruneReport, roots};
use std::sync::Arc;

/// Prunes.
pub(crate) fn run(invocation: &Invocation, args: &PruneArgs) -> Result<ExitCode, Failure> {
    let listing = opening::open_for_listing(invocation)?;
    if !invocation.global.dry_run && !invocation.global.yes && invocation.may_ask() {
        invocation.confirm("Free what no snapshot needs? Forgotten snapshots cannot be undeleted afterwards.")?;
    }
    let report = prune(invocation, &listing, &args.limits)?;
    tell(invocation, &report);
    listing.conclude(invocation, ExitCode::Success)
}

/// Prunes an open repository.
pub(crate) fn prune(invocation: &Invocation, listing: &Listing, limits: &PruneLimits) -> Result<PruneReport, Failure> {
    let repository = &listing.repository;
    let id = repository.config.repository;
    let cache = opening::cache_folder(invocation, id)?;
    let catalog = opening::catalog(invocation, id)?;
    let settings = &invocation.settings()?.sections.prune;
    let (store, keys, grace) = (&repository.store, &repository.keys, limits.grace.unwrap_or_default());
    let read_roots = || roots::read(&**store, keys, &catalog, timestamp_ns(invocation.clock.now()), grace);
    let means = PruneMeans {
        store: Arc::clone(&repository.store) as Arc<_>,
        keys: Arc::clone(&repository.keys),
        parameters: opening::writer_parameters(invocation, &repository.config)?,
        random: Arc::new(RealRandom),
        clock: &invocation.clock,
        observer: invocation.observer(),
        cancel: &invocation.cancel,
        cache: cache.as_deref(),
        catalog: &catalog,
        host: invocation.environment.host.clone(),
        process_id: std::process::id(),
        roots: &read_roots,
    };
    let options = PruneOptions {
        dry_run: invocation.global.dry_run,
        full: limits.full,
        max_repack_bytes: limits.max_repack_size.or(settings.max_repack_bytes),
        recompress_before_ns: limits.recompress_older.or(settings.recompress_older).map(|age| {
            let age_ns = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
            timestamp_ns(invocation.clock.now()).saturating_sub(age_ns)
        }),
    };
    let busy = |error: &PruneError| match error {
        PruneError::Busy { who } => Some(who.clone()),
        _ => None,
    };
    let mut report = invocation.patience().attempt(busy, || prune::run(&means, &options)).map_err(failure)?;
    let kept = acts_kept_since(invocation)?;
    report.acts_removed = acts::remove_finished(&**store, keys, &kept, options.dry_run)?;
    Ok(report)
}

/// How long finished acts stay: as long as the snapshots that belong to them.
fn acts_kept_since(invocation: &Invocation) -> Result<KeptSince, Failure> {
    let configured = &invocation.settings()?.sections.retention;
    let (built_in, now) = (defaults(), timestamp_ns(invocation.clock.now()));
    let since = |class: &str| {
        let window = |policies: &Policies| policies.classes.get(class).and_then(|policy| policy.keep_within);
        let window = window(configured).or_else(|| window(&built_in)).unwrap_or(Window::days(30));
        window.start_before(now, &invocation.environment.time_zone)
    };
    Ok(KeptSince { restore_ns: since("pre-restore"), guard_ns: since("pre-migration"), drill_ns: since("drill") })
}

fn failure(error: PruneError) -> Failure {
    let of = |exit, id| Failure::from_error(exit, id, &error);
    match &error {
        PruneError::Repository(_) => match error {
            PruneError::Repository(error) => Failure::from(error),
            _ => of(ExitCode::Failed, "prune.failed"),
        },
        PruneError::Unreadable { reason, .. } => of(ExitCode::Damaged, "prune.unreadable")
            .cause(reason.clone())
            .hint("nothing was deleted; `holdfast verify` says what is damaged, `holdfast repair` what can be healed"),
        PruneError::NotProved { reason, .. } => of(ExitCode::Damaged, "prune.not_proved")
            .cause(reason.clone())
            .hint("nothing was deleted, the old form is untouched; run `holdfast verify --read-data`"),
        PruneError::Busy { .. } => {
            of(ExitCode::Locked, "prune.busy")
                .hint("run it again when it is over, or let it wait longer with --retry-lock DURATION; backups and restores need not wait")
        }
        PruneError::Cancelled(cancelled) => Failure::from(*cancelled),
    }
}

/// Says what a prune did.
pub(crate) fn tell(invocation: &Invocation, report: &PruneReport) {
    let output = &invocation.output;
    for run in &report.closed_runs {
        let short = run.get(..8).unwrap_or(run);
        output.note("session.closed", &format!("closed run {short} that ended without a snapshot"));
    }
    for who in &report.waiting_for {
        let message = format!(
            "{} in {} packs stay until {who} is over, which may still need them; the next prune frees them",
            format_size(report.waiting_bytes),
            report.packs_waiting
        );
        output.warning("prune.waiting", None, who, &message);
    }
    if report.is_partial {
        let message = "More can be freed: a limit was reached";
        output.note("prune.partial", message);
    }
    if invocation.global.json {
        output.json(Kind::Result, report);
        return;
    }
    let (would, freed) = (if report.dry_run { "would free" } else { "freed" }, format_size(report.freed_bytes()));
    output.line(&format!(
        "{would} {freed}: {} packs removed, {} rewritten, {} written; {} records merged{}",
        format_count(report.packs_removed),
        format_count(report.packs_rewritten),
        format_size(report.written_bytes),
        format_count(report.records_merged),
        if report.dry_run { String::new() } else { format!(", {} versions proved", report.versions_proved) }
    ));
    if report.packs_recompressed > 0 {
        let would = if report.dry_run { "would compress" } else { "compressed" };
        output.line(&format!("{would} {} old packs harder", format_count(report.packs_recompressed)));
    }
    if report.acts_removed > 0 {
        let would = if report.dry_run { "would remove" } else { "removed" };
        let count = format_count(report.acts_removed);
        output.line(&format!("{would} the history of {count} acts that are finished and old enough"));
    }
    output.line(&format!(
        "{} snapshots are kept; the repository had {} in {} packs before, {} of it dead",
        format_count(report.snapshots_kept),
        format_size(report.stored_bytes),
        format_count(report.packs),
        format_size(report.dead_bytes)
    ));
}
