//! `accept`: says that a suspect snapshot is good.

use crate::cli::args::accept::AcceptArgs;
use crate::cli::args::scope::ScopeArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::cli::opening::{self, Listing};
use crate::domain::snapshot::Series;
use crate::domain::time_spec::format_local;
use crate::ops::accept::{self, AcceptMeans, suspect_sources};
use crate::repository::snapshots::LoadedSnapshot;
use serde_json::json;
use std::collections::BTreeMap;

/// Accepts the chosen snapshot.
pub(crate) fn run(invocation: &Invocation, args: &AcceptArgs) -> Result<ExitCode, Failure> {
    let listing = opening::open_for_listing(invocation)?;
    let loaded = match &args.selector {
        Some(selector) => {
            let scope = ScopeArgs { host: args.host.clone(), sources: args.sources.clone() };
            let found = listing.choose(invocation, selector, &scope)?;
            if found.path.is_some() {
                let message = format!("'{}' names a path, and only whole snapshots are accepted", selector.display());
                return Err(Failure::usage("selector.path", message));
            }
            found.snapshot
        }
        None => newest_suspect(invocation, &listing, args)?,
    };
    let (snapshot, short) = (&loaded.snapshot, loaded.snapshot.id.short());
    if loaded.accepted {
        invocation.output.note("accept.already", &format!("snapshot {short} is accepted already"));
        return listing.conclude(invocation, ExitCode::Success);
    }
    let suspect = suspect_sources(snapshot);
    if suspect.is_empty() {
        let message = format!("Snapshot {short} is not suspect, so there is nothing to accept");
        let failure = Failure::new(ExitCode::SnapshotNotFound, "snapshot.not_suspect", message);
        return Err(failure.hint("`holdfast accept` without a selector takes the newest suspect snapshot"));
    }
    let unnamed: Vec<&String> = suspect.iter().filter(|name| !args.sources.contains(name)).collect();
    if !args.sources.is_empty() && !unnamed.is_empty() {
        let names: Vec<&str> = unnamed.into_iter().map(String::as_str).collect();
        let message = format!("Snapshot {short} looked wrong for {} too", names.join(", "));
        let failure = Failure::new(ExitCode::Refused, "accept.more_sources", message);
        let reason = snapshot.suspect.clone().unwrap_or_default();
        return Err(failure
            .cause(reason)
            .hint("name every source that is right, or none for all; nothing was changed"));
    }
    tell(invocation, &loaded, &suspect);
    if invocation.global.dry_run {
        invocation.output.note("accept.would", &format!("would accept snapshot {short}; nothing was changed"));
        return listing.conclude(invocation, ExitCode::Success);
    }
    let means = AcceptMeans {
        store: &*listing.repository.store,
        keys: &listing.repository.keys,
        clock: &invocation.clock,
        host: invocation.environment.host.clone(),
        user: invocation.environment.user.clone(),
        tool_version: Invocation::program(),
    };
    let acceptance = accept::run(&means, &loaded)?;
    invocation.output.note("accept.done", &format!("snapshot {short} is good from now on"));
    if invocation.global.json {
        let body = json!({
            "accepted": snapshot.id.hex(),
            "sources": acceptance.sources,
            "time": json::time(acceptance.accepted_ns),
        });
        invocation.output.json(Kind::Result, &body);
    }
    listing.conclude(invocation, ExitCode::Success)
}

/// Says once more what looked wrong, since that is what is being accepted.
fn tell(invocation: &Invocation, loaded: &LoadedSnapshot, suspect: &[String]) {
    let snapshot = &loaded.snapshot;
    let time = format_local(snapshot.time_ns, &invocation.environment.time_zone);
    let reason = snapshot.suspect.as_deref().unwrap_or_default();
    let text = format!("{} of {time} looked wrong for {}: {reason}", snapshot.id.short(), suspect.join(", "));
    invocation.output.note("accept.suspect", &text);
}

/// The newest suspect snapshot of the one series that has any in the scope.
fn newest_suspect(invocation: &Invocation, listing: &Listing, args: &AcceptArgs) -> Result<LoadedSnapshot, Failure> {
    let mut newest: BTreeMap<Series, LoadedSnapshot> = BTreeMap::new();
    for loaded in listing.snapshots()? {
        let suspect = suspect_sources(&loaded.snapshot);
        let is_meant = args.host.as_ref().is_none_or(|host| *host == loaded.snapshot.system.host)
            && !suspect.is_empty()
            && args.sources.iter().all(|name| suspect.contains(name));
        if is_meant {
            newest.entry(loaded.snapshot.series()).or_insert(loaded);
        }
    }
    let implied = invocation.settings()?.configured_series(&invocation.environment.host);
    if newest.len() > 1
        && let Some(loaded) = implied.and_then(|series| newest.remove(&series))
    {
        return Ok(loaded);
    }
    if newest.len() > 1 {
        let message = format!("{} series have suspect snapshots", newest.len());
        let failure = Failure::usage("series.ambiguous", message);
        let line =
            |(series, loaded): (&Series, &LoadedSnapshot)| format!("series {series}, newest {}", loaded.snapshot.id);
        let failure = newest.iter().map(line).fold(failure, Failure::cause);
        return Err(failure.hint("name one by its id, or with --host and --source"));
    }
    newest.into_values().next().ok_or_else(|| {
        let failure = Failure::new(ExitCode::SnapshotNotFound, "snapshot.not_suspect", "No snapshot is suspect");
        failure.hint("run `holdfast snapshots` to see what there is")
    })
}
