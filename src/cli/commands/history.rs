//! `history`: what was done under the net, newest first.

use crate::cli::args::history::{HistoryArgs, HistoryKind};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json;
use crate::cli::opening::{self, Listing};
use crate::cli::output::Column;
use crate::domain::act::{ActKind, Census};
use crate::domain::time_spec::format_local;
use crate::fsio::census::SystemCensus;
use crate::repository::acts::{self, ActEntry, Story};
use crate::storage::ObjectName;
use serde_json::{Value, json};

/// Shows the history.
pub(crate) fn run(invocation: &Invocation, args: &HistoryArgs) -> Result<ExitCode, Failure> {
    let listing = opening::open_for_listing(invocation)?;
    show(invocation, &listing, args.kind.map(kind), args.steps)?;
    listing.conclude(invocation, ExitCode::Success)
}

fn kind(kind: HistoryKind) -> ActKind {
    match kind {
        HistoryKind::Restore => ActKind::Restore,
        HistoryKind::Guard => ActKind::Guard,
        HistoryKind::Drill => ActKind::Drill,
    }
}

/// Shows the acts of one kind, or of all. Entries that cannot be read are remembered as damage.
///
/// # Errors
/// When the storage fails.
pub(crate) fn show(
    invocation: &Invocation,
    listing: &Listing,
    kind: Option<ActKind>,
    steps: bool,
) -> Result<(), Failure> {
    let found = acts::list(&*listing.repository.store, &listing.repository.keys, kind)?;
    for (id, sequence, error) in &found.damaged {
        listing.remember(format!("{} cannot be read: {error}", ObjectName::act(*id, *sequence)));
    }
    let told: Vec<&Story> = found.stories.iter().rev().filter(|story| story.kind != ActKind::Lock).collect();
    let output = &invocation.output;
    if invocation.global.json {
        let mut document = output.document("history");
        for story in told {
            document.push(&story_json(story)).map_err(|error| super::snapshots::not_json(&error))?;
        }
        document.finish();
    } else if told.is_empty() {
        output.note("history.none", "nothing was done under the net yet");
    } else {
        let rows: Vec<Vec<String>> = told.iter().flat_map(|story| rows(invocation, story, steps)).collect();
        output.table(&["ID", "Time", "Kind", "State", "By", "What"].map(Column::text), &rows);
    }
    Ok(())
}

/// Whether the process of an open act lives; nothing for a finished one.
fn owner_state(story: &Story) -> Option<&'static str> {
    (!story.is_finished()).then(|| SystemCensus.find(&story.last().owner()).as_str())
}

fn rows(invocation: &Invocation, story: &Story, steps: bool) -> Vec<Vec<String>> {
    let time = |entry: &ActEntry| format_local(entry.time_ns, &invocation.environment.time_zone);
    let by = |entry: &ActEntry| format!("{}@{} ({})", entry.user, entry.host, entry.process);
    let text = |entries: &[ActEntry]| entries.iter().rev().map(ActEntry::text).find(|text| !text.is_empty());
    let state = match owner_state(story) {
        Some(owner) => format!("{}, {owner}", story.last().state()),
        None => story.last().state(),
    };
    let kind = story.kind.as_str().to_owned();
    let (id, first) = (story.id.short(), story.first());
    let mut rows = vec![vec![id, time(first), kind, state, by(first), text(&story.entries).unwrap_or_default()]];
    for entry in story.entries.iter().filter(|_| steps) {
        rows.push(vec![String::new(), time(entry), String::new(), entry.state(), by(entry), entry.text()]);
    }
    rows
}

/// An act with everything that it says about itself.
fn story_json(story: &Story) -> Value {
    let entry = |entry: &ActEntry| {
        json!({
            "sequence": entry.sequence,
            "time": json::time(entry.time_ns),
            "host": entry.host,
            "user": entry.user,
            "process": entry.process,
            "body": serde_json::from_str::<Value>(&entry.body).unwrap_or_default(),
        })
    };
    let (first, last) = (story.first(), story.last());
    json!({
        "id": story.id.hex(),
        "kind": story.kind.as_str(),
        "time": json::time(first.time_ns),
        "changed": json::time(last.time_ns),
        "finished": story.is_finished(),
        "state": last.state(),
        "host": first.host,
        "user": first.user,
        "owner": owner_state(story),
        "damaged_entries": story.damaged,
        "entries": story.entries.iter().map(entry).collect::<Vec<_>>(),
    })
}
