//! `repair`: what can be made again from what is there.

use super::repair_data;
use crate::cli::args::repair::{RepairArgs, RepairCommand};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening;
use crate::domain::id::SnapshotId;
use crate::domain::system::{Clock, Random};
use crate::domain::time_spec::timestamp_ns;
use crate::fsio::system::RealRandom;
use crate::ops::repair_index::{self, Local, RepairError, RepairIndexReport};
use crate::repository::session::SessionStart;
use crate::storage::WriteStore;
use std::sync::Arc;

/// Repairs.
pub(crate) fn run(invocation: &Invocation, args: &RepairArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        RepairCommand::Index => index(invocation),
        RepairCommand::Packs(args) => repair_data::packs(invocation, args),
        RepairCommand::Snapshots(args) => repair_data::snapshots(invocation, args),
    }
}

fn index(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let repository = opening::open_for_writing(invocation, false)?;
    let id = repository.config.repository;
    let (catalog, cache) = (opening::catalog(invocation, id)?, opening::cache_folder(invocation, id)?);
    let local = Local { catalog: &catalog, cache: cache.as_deref() };
    let store = Arc::clone(&repository.store) as Arc<dyn WriteStore>;
    let dry_run = invocation.global.dry_run;
    let (observer, cancel) = (invocation.observer(), &invocation.cancel);
    let start = SessionStart {
        id: SnapshotId((&RealRandom as &dyn Random).bytes()),
        host: invocation.environment.host.clone(),
        process: std::process::id(),
        started_ns: timestamp_ns(invocation.clock.now()),
        sources: Vec::new(),
    };
    let start = (!dry_run).then_some(&start);
    let report = repair_index::run(&store, &repository.keys, &RealRandom, local, start, observer, cancel);
    let report = report.map_err(|error| match error {
        RepairError::Repository(error) => Failure::from(error),
        RepairError::Cancelled(cancelled) => Failure::from(cancelled),
    })?;
    if invocation.global.json {
        invocation.output.json(Kind::Result, &report);
    } else {
        print(invocation, &report);
    }
    let mut findings: Vec<String> = repository.findings.iter().map(opening::describe).collect();
    findings.extend(report.unusable_packs.iter().map(|p| format!("{} cannot be indexed: {}", p.object, p.reason)));
    opening::conclude(invocation, findings, ExitCode::Success)
}

fn print(invocation: &Invocation, report: &RepairIndexReport) {
    let (would, output) = (if report.dry_run { "would be " } else { "" }, &invocation.output);
    for damaged in &report.damaged_index_objects {
        output.line(&format!("{} is damaged and {would}replaced: {}", damaged.object, damaged.reason));
    }
    for pack in &report.packs_added {
        output.line(&format!("packs/{pack} {would}added to the index"));
    }
    if report.packs_condemned > 0 {
        output.line(&format!(
            "{} packs that a prune is deleting were left alone; if something is missing afterwards, prune and run this again",
            report.packs_condemned
        ));
    }
    let (packs, objects) = (report.packs, report.index_objects);
    match (report.packs_added.len(), report.damaged_index_objects.len()) {
        (0, 0) => output.line(&format!("{objects} index objects name all {packs} packs; nothing to repair")),
        (added, replaced) => output.line(&format!(
            "Of {packs} packs {added} {would}added to the index; {replaced} damaged index objects {would}replaced"
        )),
    }
    if !report.dry_run {
        output.line(&format!("Local catalog and index cache made anew ({} snapshots)", report.snapshots));
    }
}
