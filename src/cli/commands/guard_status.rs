//! Guards as people and programs see them.

use super::guard::Bench;
use super::guard_errors::failure_of;
use crate::cli::args::guard::StatusArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::domain::act::Whereabouts;
use crate::domain::system::Clock;
use crate::domain::time_spec::{format_local, timestamp_ns};
use crate::domain::units::format_age;
use crate::ops::guard::{self, Ending, Entry, Error, Holder, State};
use serde_json::{Value, json};
use std::time::Duration;

pub(super) fn status(invocation: &Invocation, args: &StatusArgs) -> Result<ExitCode, Failure> {
    let bench = Bench::open(invocation)?;
    let hands = bench.hands(false);
    let means = bench.means(&hands);
    if let Some(name) = &args.name
        && let Some((story, entry)) = guard::find(&means, name)?
        && story.is_finished()
    {
        let ended = entry.ending.map_or("closed", Ending::as_str);
        let text = format!("guard {} is closed: {ended}", entry.plan.name);
        match invocation.global.json {
            true => invocation.output.json(Kind::Result, &json!({ "guards": [closed_json(&story, &entry)] })),
            false => invocation.output.line(&text),
        }
        return bench.conclude(ExitCode::Success);
    }
    let mut open = guard::open_guards(&means)?;
    if let Some(name) = &args.name {
        open.retain(|holder| holder.name == *name || holder.act.hex().starts_with(name.as_str()));
        if open.is_empty() {
            return Err(failure_of(invocation, Error::NotOpen { name: name.clone(), ended: None }));
        }
    }
    if invocation.global.json {
        let guards: Vec<Value> = open.iter().map(|holder| holder_json(invocation, holder)).collect();
        invocation.output.json(Kind::Result, &json!({ "guards": guards }));
    } else if open.is_empty() {
        invocation.output.note("guard.none", "no guard is open");
    }
    open.iter().filter(|_| !invocation.global.json).for_each(|holder| print_guard(invocation, holder));
    bench.conclude(ExitCode::Success)
}

/// A guard with what to do about it.
pub(super) fn print_guard(invocation: &Invocation, holder: &Holder) {
    lines_of(invocation, holder).iter().for_each(|line| invocation.output.line(line));
    invocation.output.line(&format!("  {}", advice(holder)));
}

fn closed_json(story: &crate::repository::acts::Story, entry: &Entry) -> Value {
    json!({
        "guard": entry.plan.name,
        "description": entry.plan.description,
        "act": story.id.hex(),
        "state": entry.ending.map_or("finished", Ending::as_str),
        "finished": true,
        "time": json::time(story.first().time_ns),
        "changed": json::time(story.last().time_ns),
        "snapshot_id": entry.snapshot.map(|id| id.hex()),
        "sources": entry.plan.sources(),
        "environment": entry.plan.environment,
    })
}

pub(super) fn holder_json(invocation: &Invocation, holder: &Holder) -> Value {
    let entry = holder.entry.as_ref();
    json!({
        "guard": holder.name,
        "description": holder.description,
        "act": holder.act.hex(),
        "state": holder.state.map_or("unreadable", State::as_str),
        "finished": false,
        "time": json::time(holder.since_ns),
        "changed": json::time(holder.changed_ns),
        "age_seconds": age(invocation, holder).as_secs(),
        "host": holder.owner.host,
        "user": holder.owner.user,
        "process": holder.owner.process,
        "owner": holder.whereabouts.as_str(),
        "snapshot_id": entry.and_then(|entry| entry.snapshot).map(|id| id.hex()),
        "sources": entry.map(|entry| entry.plan.sources()),
        "environment": entry.and_then(|entry| entry.plan.environment.clone()),
        "cause": entry.and_then(|entry| entry.cause.clone()),
        "advice": advice(holder),
    })
}

fn age(invocation: &Invocation, holder: &Holder) -> Duration {
    let ns = timestamp_ns(invocation.clock.now()).saturating_sub(holder.since_ns);
    Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

/// A guard, for people.
pub(super) fn lines_of(invocation: &Invocation, holder: &Holder) -> Vec<String> {
    let described = if holder.description.is_empty() { String::new() } else { format!(" ({})", holder.description) };
    let state = holder.state.map_or("unreadable", State::as_str);
    let since = format_local(holder.since_ns, &invocation.environment.time_zone);
    let age = format_age(age(invocation, holder));
    let sources = holder.entry.as_ref().map(|entry| entry.plan.sources().join(", ")).unwrap_or_default();
    let waits = holder.state == Some(State::Open);
    let process = match holder.whereabouts {
        _ if waits => "",
        Whereabouts::Alive => ", which works",
        Whereabouts::Dead => ", which is dead",
        Whereabouts::Elsewhere => ", of which nobody can tell from here whether it works",
    };
    let owner = &holder.owner;
    let mut lines = vec![
        format!("guard {}{described}: {state}, begun {since} ({age}), act {}", holder.name, holder.act.short()),
        format!("  covers {sources}; by {} on {}, process {}{process}", owner.user, owner.host, owner.process),
    ];
    if let Some(snapshot) = holder.entry.as_ref().and_then(|entry| entry.snapshot) {
        lines.push(format!("  the state before is snapshot {} (guard:{})", snapshot.short(), holder.name));
    }
    if let Some(cause) = holder.entry.as_ref().and_then(|entry| entry.cause.as_ref()) {
        lines.push(format!("  {cause}"));
    }
    lines
}

/// What to do about an open guard.
pub(super) fn advice(holder: &Holder) -> String {
    let name = &holder.name;
    let close = format!(
        "`holdfast guard complete {name}` keeps what is there, `holdfast guard rollback {name}` puts the state before back"
    );
    match (holder.state, holder.whereabouts) {
        (None, _) => "its newest entry cannot be read; `holdfast verify` says why".to_owned(),
        (Some(State::Open), _) => close,
        (_, Whereabouts::Alive) => "it goes on by itself".to_owned(),
        (Some(state), Whereabouts::Dead) if state.is_harmless() => {
            format!(
                "nothing was changed under it; `holdfast guard rollback {name}` closes it, and so does the next guard"
            )
        }
        (Some(State::RollingBack | State::RollbackFailed), _) => {
            format!("`holdfast guard rollback {name}` brings the rollback to its end")
        }
        (_, Whereabouts::Dead) => format!("its command was cut short: {close}"),
        (_, Whereabouts::Elsewhere) => format!("if it does not work any more, with --break: {close}"),
    }
}
