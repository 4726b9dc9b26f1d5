//! `guard cleanup`: snapshots of closed guards that are old are forgotten.

use super::forget;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening;
use crate::domain::act::ActKind;
use crate::domain::id::SnapshotId;
use crate::domain::retention::{Policies, Window, defaults};
use crate::domain::snapshot::Snapshot;
use crate::domain::system::Clock;
use crate::domain::time_spec::timestamp_ns;
use crate::ops::forget::Removal;
use crate::ops::guard::Entry;
use crate::repository::acts;
use serde_json::json;
use std::collections::HashSet;

/// Forgets them. What is forgotten can be brought back until a prune.
pub(super) fn run(invocation: &Invocation, days: Option<u32>) -> Result<ExitCode, Failure> {
    let listing = opening::open_for_listing(invocation)?;
    let window = window(invocation, days)?;
    let before = window.start_before(timestamp_ns(invocation.clock.now()), &invocation.environment.time_zone);
    let found = acts::list(&*listing.repository.store, &listing.repository.keys, Some(ActKind::Guard))?;
    let held: HashSet<SnapshotId> = found
        .stories
        .iter()
        .filter(|story| !story.is_finished())
        .filter_map(|story| Entry::newest(story)?.snapshot)
        .collect();
    let loaded = listing.snapshots()?;
    let of_guard = |snapshot: &Snapshot| {
        matches!(snapshot.class.as_deref(), Some("pre-migration" | "safety"))
            && snapshot.tags.iter().any(|tag| tag.starts_with("guard:"))
    };
    let old = loaded.iter().filter(|l| of_guard(&l.snapshot) && l.snapshot.time_ns < before);
    let (kept, gone): (Vec<_>, Vec<_>) = old.partition(|l| held.contains(&l.snapshot.id));
    for loaded in kept {
        let text = format!("{} is kept: its guard is open", loaded.snapshot.id.short());
        invocation.output.note("guard.kept", &text);
    }
    if !gone.is_empty() && !invocation.global.dry_run && !invocation.global.yes && invocation.may_ask() {
        invocation.confirm(&format!("Forget {} of closed guards?", forget::snapshots(gone.len())))?;
    }
    let ids: Vec<String> = gone.iter().map(|loaded| loaded.snapshot.id.hex()).collect();
    let reason = format!("guard cleanup: older than {window}");
    let removals = gone.into_iter().map(|snapshot| Removal { snapshot, reason: reason.clone() }).collect();
    let whole = forget::write(invocation, &listing, removals)?;
    if invocation.global.json {
        let body = json!({ "forgotten": ids, "dry_run": invocation.global.dry_run });
        invocation.output.json(Kind::Result, &body);
    }
    listing.conclude(invocation, if whole { ExitCode::Success } else { ExitCode::Incomplete })
}

/// What is younger stays: so many days, or what the class is kept.
fn window(invocation: &Invocation, days: Option<u32>) -> Result<Window, Failure> {
    if let Some(days) = days {
        return Ok(Window::days(days));
    }
    let of = |policies: &Policies| policies.classes.get("pre-migration").and_then(|policy| policy.keep_within);
    let configured = of(&invocation.settings()?.sections.retention);
    Ok(configured.or_else(|| of(&defaults())).unwrap_or(Window::days(30)))
}
