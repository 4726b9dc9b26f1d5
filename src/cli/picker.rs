//! Choosing a snapshot from a list, where a command names none and somebody is there to ask.

use super::args::scope::ScopeArgs;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::invocation::Invocation;
use super::opening::{Chosen, Listing};
use crate::domain::snapshot::Snapshot;
use crate::domain::time_spec::format_local;
use crate::repository::snapshots::LoadedSnapshot;
use std::ffi::OsStr;

/// Snapshots that are shown at a time.
const PAGE: usize = 20;

/// The snapshot that a selector means; without one, the one that is picked from the newest of the series.
///
/// # Errors
/// Exit code 2 when none is named and nobody can be asked, 1 when none is picked, and as [`Listing::choose`].
pub(crate) fn choose(
    invocation: &Invocation,
    listing: &Listing,
    selector: Option<&OsStr>,
    scope: &ScopeArgs,
) -> Result<Chosen, Failure> {
    match selector {
        Some(selector) => listing.choose(invocation, selector, scope),
        None => pick(invocation, listing, scope),
    }
}

fn pick(invocation: &Invocation, listing: &Listing, scope: &ScopeArgs) -> Result<Chosen, Failure> {
    if !invocation.may_ask() {
        return Err(Failure::usage(
            "selector.missing",
            "No snapshot is named, and there is no terminal to choose one on",
        )
        .hint("name one: `latest`, an id, @yesterday, tag:NAME; `holdfast snapshots` lists them"));
    }
    let mut listed = of_series(invocation, listing.snapshots()?, scope)?;
    if listed.is_empty() {
        return Err(Failure::new(ExitCode::SnapshotNotFound, "snapshot.none", "There are no snapshots to choose from"));
    }
    let mut shown = 0;
    loop {
        let page: Vec<String> = listed
            .iter()
            .enumerate()
            .skip(shown)
            .take(PAGE)
            .map(|(at, l)| line(invocation, at + 1, &l.snapshot))
            .collect();
        page.iter().for_each(|line| invocation.output.talk(line));
        shown += page.len();
        if let Some(number) = ask(invocation, shown, shown < listed.len())? {
            let snapshot = listed.swap_remove(number - 1);
            invocation.output.note("snapshot.chosen", &format!("chosen: {}", snapshot.snapshot.id.short()));
            return Ok(Chosen { snapshot, path: None });
        }
    }
}

/// A number from the list; none: more are to be shown.
fn ask(invocation: &Invocation, shown: usize, more: bool) -> Result<Option<usize>, Failure> {
    let enter = if more { ", Enter for older ones" } else { "" };
    loop {
        let answer = invocation.ask_or_end(&format!("Which one? A number{enter}, q to leave: "))?;
        match answer.as_deref() {
            None | Some("q" | "Q") => {
                let message = "None was chosen; nothing was changed";
                return Err(Failure::new(ExitCode::Failed, "snapshot.not_picked", message));
            }
            Some("") if more => return Ok(None),
            Some(text) => match text.parse::<usize>() {
                Ok(number) if (1..=shown).contains(&number) => return Ok(Some(number)),
                _ => invocation.output.talk(&format!("A number from 1 to {shown}, please.")),
            },
        }
    }
}

/// The snapshots of the series that is meant, newest first: what the scope says, else what the configuration describes, else all.
fn of_series(
    invocation: &Invocation,
    mut loaded: Vec<LoadedSnapshot>,
    scope: &ScopeArgs,
) -> Result<Vec<LoadedSnapshot>, Failure> {
    let fits = |snapshot: &Snapshot| {
        scope.host.as_ref().is_none_or(|host| &snapshot.system.host == host)
            && scope.sources.iter().all(|name| snapshot.source(name).is_some())
    };
    loaded.retain(|loaded| fits(&loaded.snapshot));
    let configured = invocation.settings()?.configured_series(&invocation.environment.host);
    let is_of = |loaded: &LoadedSnapshot| configured.as_ref().is_some_and(|series| &loaded.snapshot.series() == series);
    if scope.host.is_none() && scope.sources.is_empty() && loaded.iter().any(is_of) {
        loaded.retain(is_of);
    }
    loaded.sort_by_key(|loaded| std::cmp::Reverse((loaded.snapshot.time_ns, loaded.snapshot.id)));
    Ok(loaded)
}

fn line(invocation: &Invocation, number: usize, snapshot: &Snapshot) -> String {
    let time = format_local(snapshot.time_ns, &invocation.environment.time_zone);
    let class = snapshot.class.as_deref().map(|class| format!("  {class}")).unwrap_or_default();
    let tags = if snapshot.tags.is_empty() { String::new() } else { format!("  [{}]", snapshot.tags.join(", ")) };
    let mut marks = if snapshot.suspect.is_some() { "  suspect".to_owned() } else { String::new() };
    let failed: Vec<&str> =
        snapshot.sources.iter().filter(|source| source.failure.is_some()).map(|source| source.name.as_str()).collect();
    if !failed.is_empty() {
        marks.push_str(&format!("  failed: {}", failed.join(", ")));
    }
    format!("{number:>4}  {}  {time}  {}{class}{tags}{marks}", snapshot.id.short(), snapshot.series())
}
