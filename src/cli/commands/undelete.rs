//! `undelete`: forgotten snapshots become visible again.

use crate::cli::args::forget::UndeleteArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::cli::opening::{self, Listing};
use crate::cli::output::Column;
use crate::domain::id::SnapshotId;
use crate::domain::selector::PREFIX_DIGITS_MIN;
use crate::domain::time_spec::format_local;
use crate::fsio::system::RealRandom;
use crate::ops::undelete::{self, UndeleteError, UndeleteMeans};
use crate::repository::tombstones::{self, Tombstones};
use crate::repository::{condemned, snapshots};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Brings snapshots back, or lists which ones there are.
pub(crate) fn run(invocation: &Invocation, args: &UndeleteArgs) -> Result<ExitCode, Failure> {
    let listing = opening::open_for_listing(invocation)?;
    let tombstones = tombstones::load(&*listing.repository.store, &listing.repository.keys)?;
    if args.ids.is_empty() {
        // What a prune has removed for good is not listed.
        let store = &*listing.repository.store;
        let mut there: BTreeSet<SnapshotId> = snapshots::list(store)?.into_iter().collect();
        for record in condemned::load_all(store, &listing.repository.keys)? {
            record.snapshots.iter().for_each(|id| _ = there.remove(id));
        }
        list(invocation, &tombstones, &there);
        tombstones.damaged.values().for_each(|error| listing.remember(error.to_string()));
        return listing.conclude(invocation, ExitCode::Success);
    }
    let ids = args.ids.iter().map(|text| find(text, &tombstones)).collect::<Result<Vec<_>, _>>()?;
    if invocation.global.dry_run {
        ids.iter().for_each(|id| invocation.output.note("undelete.would", &format!("would undelete {}", id.short())));
        return Ok(ExitCode::Success);
    }
    let mut done = Vec::new();
    for id in ids {
        undelete(invocation, &listing, id)?;
        invocation.output.note("undelete.done", &format!("snapshot {} is back", id.short()));
        done.push(id.hex());
    }
    if invocation.global.json {
        invocation.output.json(Kind::Result, &json!({ "undeleted": done }));
    }
    listing.conclude(invocation, ExitCode::Success)
}

fn undelete(invocation: &Invocation, listing: &Listing, id: SnapshotId) -> Result<(), Failure> {
    let repository = &listing.repository;
    let cache = opening::cache_folder(invocation, repository.config.repository)?;
    let means = UndeleteMeans {
        store: Arc::clone(&repository.store),
        keys: Arc::clone(&repository.keys),
        parameters: opening::writer_parameters(invocation, &repository.config)?,
        random: Arc::new(RealRandom),
        clock: &invocation.clock,
        host: invocation.environment.host.clone(),
        process_id: std::process::id(),
        cache: cache.as_deref(),
    };
    undelete::run(&means, id).map_err(|error| {
        let of = |exit, id| Failure::from_error(exit, id, &error);
        match &error {
            UndeleteError::NotForgotten(_) => of(ExitCode::SnapshotNotFound, "snapshot.not_forgotten"),
            UndeleteError::Gone(_) => of(ExitCode::SnapshotNotFound, "snapshot.gone"),
            UndeleteError::Condemned { .. } => of(ExitCode::Refused, "snapshot.condemned")
                .hint("`holdfast snapshots` shows what is left; nothing was touched"),
            UndeleteError::Fenced(_) => of(ExitCode::Locked, "session.fenced").hint("run the command again"),
            UndeleteError::Repository(_) => match error {
                UndeleteError::Repository(error) => Failure::from(error),
                _ => of(ExitCode::Failed, "undelete.failed"),
            },
        }
    })
}

/// The one forgotten snapshot whose id begins like the text; damaged tombstones count.
fn find(text: &str, tombstones: &Tombstones) -> Result<SnapshotId, Failure> {
    let wanted = text.to_ascii_lowercase();
    let all = tombstones.whole.keys().chain(tombstones.damaged.keys());
    let found: Vec<&SnapshotId> = all.filter(|id| id.hex().starts_with(&wanted)).collect();
    match found.as_slice() {
        _ if wanted.len() < PREFIX_DIGITS_MIN => {
            let message = format!("'{text}' is too short for a snapshot id, which takes at least 4 digits");
            Err(Failure::new(ExitCode::SnapshotNotFound, "snapshot.not_found", message))
        }
        [id] => Ok(**id),
        [] => {
            let message = format!("No forgotten snapshot's id begins with '{text}'");
            let failure = Failure::new(ExitCode::SnapshotNotFound, "snapshot.not_forgotten", message);
            Err(failure.hint("run `holdfast undelete` to see what can be brought back"))
        }
        several => {
            let message = format!("'{text}' is the beginning of {} ids of forgotten snapshots", several.len());
            let failure = Failure::new(ExitCode::SnapshotNotFound, "snapshot.ambiguous", message);
            Err(several.iter().fold(failure, |failure, id| failure.cause(id.hex())).hint("give more digits"))
        }
    }
}

fn list(invocation: &Invocation, tombstones: &Tombstones, there: &BTreeSet<SnapshotId>) {
    let output = &invocation.output;
    // Forgotten last comes first: that is the one to be brought back.
    let mut all: Vec<_> = tombstones.whole.values().filter(|tombstone| there.contains(&tombstone.snapshot)).collect();
    all.sort_by_key(|tombstone| std::cmp::Reverse((tombstone.forgotten_ns, tombstone.time_ns)));
    if invocation.global.json {
        let items = all.iter().map(|tombstone| {
            json!({
                "id": tombstone.snapshot.hex(),
                "time": json::time(tombstone.time_ns),
                "forgotten": json::time(tombstone.forgotten_ns),
                "host": tombstone.host,
                "user": tombstone.user,
                "tool_version": tombstone.tool_version,
                "reason": tombstone.reason,
            })
        });
        output.json(Kind::Result, &json!({ "forgotten": items.collect::<Vec<_>>() }));
        return;
    }
    if all.is_empty() {
        output.note("undelete.none", "no snapshot is forgotten that could be brought back");
        return;
    }
    let zone = &invocation.environment.time_zone;
    let columns = ["ID", "Time", "Forgotten", "By", "Reason"].map(Column::text);
    let row = |tombstone: &&tombstones::Tombstone| {
        vec![
            tombstone.snapshot.short(),
            format_local(tombstone.time_ns, zone),
            format_local(tombstone.forgotten_ns, zone),
            format!("{}@{}", tombstone.user, tombstone.host),
            tombstone.reason.clone(),
        ]
    };
    output.table(&columns, &all.iter().map(row).collect::<Vec<_>>());
}
