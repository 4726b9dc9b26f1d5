//! `guard`: something dangerous with a proved way back.

use super::guard_hands::{ConfiguredHands, exit_of};
use super::{history, net};
use crate::cli::args::guard::{BeginArgs, CloseArgs, CoverArgs, GuardAction, GuardArgs, RunArgs, StatusArgs, TestArgs};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::cli::opening::{self, Listing};
use crate::cli::settings::{Settings, SourceKindSettings, SourceSettings, TargetSettings};
use crate::domain::act::{ActKind, Census, Owner, Whereabouts};
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::SourceKind;
use crate::domain::system::Clock;
use crate::domain::time_spec::{format_local, timestamp_ns};
use crate::domain::units::format_age;
use crate::fsio::census::SystemCensus;
use crate::ops::guard::{
    self, Command, Covered, Done, Ending, Entry, Error, Holder, Means, NotBack, Plan, Purpose, State, Unfit, UnfitKind,
};
use crate::repository::acts::Recorder;
use crate::source::process::{OutputMode, ProcessSpec, StdinMode, SystemProcesses};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// Longest name of a source.
const SOURCE_NAME_MAX: usize = 128;

/// Does what is asked for.
pub(crate) fn run(invocation: &Invocation, args: &GuardArgs) -> Result<ExitCode, Failure> {
    match &args.action {
        GuardAction::Run(args) => run_command(invocation, args),
        GuardAction::Test(args) => test(invocation, args),
        GuardAction::Begin(args) => begin(invocation, args),
        GuardAction::Complete(args) => complete(invocation, args),
        GuardAction::Rollback(args) => roll_back(invocation, args),
        GuardAction::Status(args) => status(invocation, args),
        GuardAction::History(args) => {
            let listing = opening::open_for_listing(invocation)?;
            history::show(invocation, &listing, Some(ActKind::Guard), args.steps)?;
            listing.conclude(invocation, ExitCode::Success)
        }
        GuardAction::Cleanup(args) => super::guard_cleanup::run(invocation, args.days),
    }
}

/// An open repository with what guards need beside it.
struct Bench<'i> {
    invocation: &'i Invocation,
    listing: Listing,
    census: SystemCensus,
    processes: SystemProcesses,
}

impl<'i> Bench<'i> {
    fn open(invocation: &'i Invocation) -> Result<Self, Failure> {
        let listing = opening::open_for_listing(invocation)?;
        // Not ended by the wish to stop itself: the guard ends what it started.
        Ok(Self { invocation, listing, census: SystemCensus, processes: SystemProcesses::new(None) })
    }

    fn hands(&self, i_know: bool) -> ConfiguredHands<'_> {
        ConfiguredHands { invocation: self.invocation, listing: &self.listing, i_know }
    }

    fn means<'a>(&'a self, hands: &'a ConfiguredHands<'a>) -> Means<'a> {
        let (environment, process) = (&self.invocation.environment, std::process::id());
        let mark = self.census.mark(process);
        let owner = Owner { host: environment.host.clone(), user: environment.user.clone(), process, mark };
        let recorder = Recorder {
            store: self.listing.repository.store.as_ref(),
            keys: &self.listing.repository.keys,
            clock: &self.invocation.clock,
            random: &self.invocation.random,
            owner,
        };
        Means {
            recorder,
            census: &self.census,
            processes: &self.processes,
            observer: self.invocation.observer(),
            cancel: &self.invocation.cancel,
            hands,
        }
    }

    fn conclude(&self, exit: ExitCode) -> Result<ExitCode, Failure> {
        self.listing.conclude(self.invocation, exit)
    }
}

fn run_command(invocation: &Invocation, args: &RunArgs) -> Result<ExitCode, Failure> {
    let (name, message) = (args.name.clone(), args.message.clone());
    let plan = plan(invocation, name, message, Purpose::Migration, &args.cover)?;
    let limit = match args.validate.validate_timeout {
        Some(limit) => limit,
        None => invocation.settings()?.sections.restore.check_timeout,
    };
    let validation = args.validate.validate.as_ref().map(|text| shell(invocation, text, limit));
    guarded(invocation, plan, &args.cover, &args.command, validation.as_ref())
}

fn test(invocation: &Invocation, args: &TestArgs) -> Result<ExitCode, Failure> {
    let name = args.name.clone().unwrap_or_else(|| {
        let zone = invocation.environment.time_zone.clone();
        invocation.clock.now().to_zoned(zone).strftime("test-%Y%m%d_%H%M%S").to_string()
    });
    let plan = plan(invocation, name, args.message.clone(), Purpose::Test, &args.cover)?;
    if let Some((name, _)) = production(invocation, &args.cover)? {
        let message = format!("Destructive tests do not run on production ({name})");
        return Err(Failure::new(ExitCode::GuardClosed, "guard.production", message)
            .hint("name the environment of the tests with --env; nothing was touched"));
    }
    guarded(invocation, plan, &args.cover, &args.command, None)
}

/// Opens, runs, closes.
fn guarded(
    invocation: &Invocation,
    plan: Plan,
    cover: &CoverArgs,
    words: &[OsString],
    validation: Option<&Command>,
) -> Result<ExitCode, Failure> {
    let command = command(invocation, words);
    if invocation.global.dry_run {
        return would(invocation, &plan, Some(&command.shown));
    }
    confirm_production(invocation, cover)?;
    let bench = Bench::open(invocation)?;
    let hands = bench.hands(cover.i_know);
    let means = bench.means(&hands);
    make_way(invocation, &means, &plan, cover)?;
    let sources = plan.sources();
    let opened = guard::open(&means, plan, cover.break_others).map_err(|error| failure_of(invocation, error))?;
    say_open(invocation, &opened.plan, opened.snapshot);
    let done = guard::run(&means, opened, &command, validation).map_err(|error| failure_of(invocation, error))?;
    say_done(invocation, &done, &sources);
    bench.conclude(ExitCode::Success)
}

fn begin(invocation: &Invocation, args: &BeginArgs) -> Result<ExitCode, Failure> {
    let plan = plan(invocation, args.name.clone(), args.message.clone(), Purpose::Migration, &args.cover)?;
    if invocation.global.dry_run {
        return would(invocation, &plan, None);
    }
    confirm_production(invocation, &args.cover)?;
    let bench = Bench::open(invocation)?;
    let hands = bench.hands(args.cover.i_know);
    let means = bench.means(&hands);
    make_way(invocation, &means, &plan, &args.cover)?;
    let opened = guard::open(&means, plan, args.cover.break_others).map_err(|error| failure_of(invocation, error))?;
    let (name, snapshot) = (opened.plan.name.clone(), opened.snapshot);
    say_open(invocation, &opened.plan, snapshot);
    let advice = format!(
        "when it is done: `holdfast guard complete {name}`, or `holdfast guard rollback {name}` to go back to before"
    );
    invocation.output.note("guard.advice", &advice);
    match invocation.global.json {
        true => invocation.output.json(
            Kind::Result,
            &json!({
                "guard": name,
                "act": opened.act().hex(),
                "snapshot_id": snapshot.hex(),
                "state": State::Open.as_str(),
                "sources": opened.plan.sources(),
            }),
        ),
        false => invocation.output.line(&snapshot.hex()),
    }
    bench.conclude(ExitCode::Success)
}

fn complete(invocation: &Invocation, args: &CloseArgs) -> Result<ExitCode, Failure> {
    let bench = Bench::open(invocation)?;
    let hands = bench.hands(false);
    let means = bench.means(&hands);
    if invocation.global.dry_run {
        return would_close(invocation, &means, &args.name, "keep what was done under");
    }
    let done = guard::complete(&means, &args.name, args.break_others).map_err(|error| failure_of(invocation, error))?;
    say_done(invocation, &done, &[]);
    bench.conclude(ExitCode::Success)
}

fn roll_back(invocation: &Invocation, args: &CloseArgs) -> Result<ExitCode, Failure> {
    let bench = Bench::open(invocation)?;
    let hands = bench.hands(false);
    let means = bench.means(&hands);
    if invocation.global.dry_run {
        return would_close(invocation, &means, &args.name, "put back the state before");
    }
    if let Some((story, entry)) = guard::find(&means, &args.name)?
        && !story.is_finished()
        && !entry.state.is_harmless()
    {
        let places: Vec<&str> = entry.plan.covered.iter().map(|covered| covered.place.as_str()).collect();
        let time = format_local(story.first().time_ns, &invocation.environment.time_zone);
        let text = format!("guard {} of {time}: {} goes back to before it", entry.plan.name, places.join(", "));
        invocation.output.note("guard.rollback", &text);
        let named = entry.plan.environment.as_ref();
        match named.and_then(|name| Some((name, invocation.settings().ok()?.sections.environments.get(name)?))) {
            Some((name, target)) if target.production => confirm_name(invocation, name, "")?,
            _ => invocation.confirm("Put the state before back? What was written since is lost.")?,
        }
    }
    let done =
        guard::roll_back(&means, &args.name, args.break_others).map_err(|error| failure_of(invocation, error))?;
    say_done(invocation, &done, &[]);
    bench.conclude(ExitCode::Success)
}

/// What would be done, without doing it.
fn would(invocation: &Invocation, plan: &Plan, command: Option<&str>) -> Result<ExitCode, Failure> {
    for covered in &plan.covered {
        let text = format!("would save {} ({}) and verify it", covered.source, covered.place);
        invocation.output.note("guard.would", &text);
    }
    if let Some(command) = command {
        invocation.output.note("guard.would", &format!("would then run {command}"));
    }
    Ok(ExitCode::Success)
}

fn would_close(invocation: &Invocation, means: &Means<'_>, name: &str, what: &str) -> Result<ExitCode, Failure> {
    match guard::find(means, name)? {
        Some((story, entry)) if !story.is_finished() => {
            let text = format!("would {what} guard {}, which is {}", entry.plan.name, entry.state.as_str());
            invocation.output.note("guard.would", &text);
            Ok(ExitCode::Success)
        }
        other => {
            let ended = other.and_then(|(_, entry)| entry.ending);
            Err(failure_of(invocation, Error::NotOpen { name: name.to_owned(), ended }))
        }
    }
}

/// What a guard of this run covers.
fn plan(
    invocation: &Invocation,
    name: String,
    description: String,
    purpose: Purpose,
    cover: &CoverArgs,
) -> Result<Plan, Failure> {
    let settings = invocation.settings()?;
    let environment = super::in_place::environment(settings, cover.env.as_deref())?;
    let mut all = Vec::new();
    for source in wanted(settings, cover, environment)? {
        all.extend(covered(invocation, source, environment)?);
    }
    Ok(Plan { name, description, purpose, environment: cover.env.clone(), covered: all })
}

/// The sources that are covered: those that are named, else those of `[guard]`, else every database.
fn wanted<'s>(
    settings: &'s Settings,
    cover: &CoverArgs,
    environment: Option<(&str, &TargetSettings)>,
) -> Result<Vec<&'s SourceSettings>, Failure> {
    let named = if cover.sources.is_empty() {
        settings.sections.guard.sources.clone().unwrap_or_default()
    } else {
        cover.sources.clone()
    };
    let mut names: Vec<&str> = named.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        return names.into_iter().map(|name| settings.source(name)).collect();
    }
    let in_environment =
        |source: &&SourceSettings| environment.is_none_or(|(_, target)| target.targets.contains_key(&source.name));
    let databases = settings.sources.iter().filter(|source| source.source_kind().is_database());
    let found: Vec<&SourceSettings> = databases.filter(in_environment).collect();
    if found.is_empty() {
        let message = "There is nothing to guard: no database is configured";
        return Err(Failure::usage("guard.no_source", message)
            .hint("write [[source]] tables of kind postgres or sqlite, or name a source with --source"));
    }
    Ok(found)
}

/// The places of one source.
fn covered(
    invocation: &Invocation,
    source: &SourceSettings,
    environment: Option<(&str, &TargetSettings)>,
) -> Result<Vec<Covered>, Failure> {
    let name = &source.name;
    let target = match environment {
        None => None,
        Some((environment, target)) => Some(target.targets.get(name).map(String::as_str).ok_or_else(|| {
            let message = format!("It is not known where source '{name}' is in environment '{environment}'");
            Failure::usage("guard.no_place", message)
                .hint(format!("name its place under targets in [env.{environment}]"))
        })?),
    };
    let absolute = |path: &Path| {
        let path = invocation.environment.directory.join(path);
        // The database or tree itself is replaced, not a link that leads to it.
        path.canonicalize().unwrap_or(path).to_string_lossy().into_owned()
    };
    let saved_as = super::in_place::safety_name(name, environment.map(|(name, _)| name));
    let of = |place: String, reach: String| {
        let (source, saved_as) = (name.clone(), saved_as.chars().take(SOURCE_NAME_MAX).collect());
        Covered { source, saved_as, kind: SourceKind::Files, place, reach }
    };
    match (&source.kind, target) {
        (SourceKindSettings::Postgres(postgres), target) => {
            let url = target.unwrap_or(&postgres.url);
            let (connection, _) = net::server(invocation, name, url)?;
            let place = of(connection.without_password(), connection.client_conninfo(false));
            Ok(vec![Covered { kind: SourceKind::Postgres, ..place }])
        }
        (SourceKindSettings::Sqlite { path }, target) => {
            let path = absolute(target.map_or(path.as_path(), Path::new));
            Ok(vec![Covered { kind: SourceKind::Sqlite, ..of(path.clone(), path) }])
        }
        (SourceKindSettings::Files(_), Some(target)) => {
            let path = absolute(Path::new(target));
            Ok(vec![of(path.clone(), path)])
        }
        (SourceKindSettings::Files(files), None) => {
            Ok(files.paths.iter().map(|path| of(absolute(path), absolute(path))).collect())
        }
        (SourceKindSettings::Command { .. }, _) => {
            let message = format!("Source '{name}' is the output of a program and cannot be put back by a guard");
            Err(Failure::usage("guard.no_way_back", message).hint("leave it out of --source and of [guard] sources"))
        }
    }
}

/// The environment, if it is production.
fn production<'s>(
    invocation: &'s Invocation,
    cover: &CoverArgs,
) -> Result<Option<(&'s str, &'s TargetSettings)>, Failure> {
    let environment = super::in_place::environment(invocation.settings()?, cover.env.as_deref())?;
    Ok(environment.filter(|(_, target)| target.production))
}

fn confirm_production(invocation: &Invocation, cover: &CoverArgs) -> Result<(), Failure> {
    match production(invocation, cover)? {
        Some((name, _)) => confirm_name(invocation, name, " --env "),
        None => Ok(()),
    }
}

/// Asks for the name of production.
fn confirm_name(invocation: &Invocation, name: &str, flag: &str) -> Result<(), Failure> {
    if invocation.global.yes {
        return Ok(());
    }
    if !invocation.may_ask() {
        let message = format!("A confirmation is needed: {name} is production");
        let environment = if flag.is_empty() { String::new() } else { format!("{flag}{name}") };
        return Err(Failure::new(ExitCode::NeedsConfirmation, "confirmation.needed", message)
            .hint(format!("give --yes{environment}")));
    }
    let answer = invocation.ask(&format!("This is production. Type its name ({name}) to go on: "))?;
    match answer == name {
        true => Ok(()),
        false => Err(Failure::new(ExitCode::Failed, "confirmation.refused", "Not confirmed; nothing was changed")),
    }
}

/// Closes what is in the way, if that is wished.
fn make_way(invocation: &Invocation, means: &Means<'_>, plan: &Plan, cover: &CoverArgs) -> Result<(), Failure> {
    if !cover.break_others {
        return Ok(());
    }
    let holders = guard::holders(means, &plan.sources(), &plan.name)?;
    guard::refuse_unsettled(&holders).map_err(|error| failure_of(invocation, error))?;
    for holder in holders {
        lines_of(invocation, &holder).iter().for_each(|line| invocation.output.note("guard.in_the_way", line));
        invocation.confirm(&format!("Close guard {} by force? What was done under it stays.", holder.name))?;
        guard::break_guard(means, &holder).map_err(|error| failure_of(invocation, error))?;
        invocation.output.note("guard.broken", &format!("guard {} is closed by force", holder.name));
    }
    Ok(())
}

/// How a guarded program gets its input and output: ours. With JSON, what it prints is no part of our document.
fn attached(invocation: &Invocation, mut spec: ProcessSpec, stdin: StdinMode) -> ProcessSpec {
    spec.stdin = stdin;
    spec.output = if invocation.global.json { OutputMode::ToStderr } else { OutputMode::Inherit };
    spec.foreground = invocation.environment.stdin_terminal;
    spec
}

fn command(invocation: &Invocation, words: &[OsString]) -> Command {
    let (program, rest) = words.split_first().map_or((OsString::new(), &[][..]), |(first, rest)| (first.clone(), rest));
    let shown: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let shown = crate::cli::args::url::mask_passwords(&shown.join(" "));
    Command { spec: attached(invocation, ProcessSpec::new(program, rest), StdinMode::Inherit), shown, limit: None }
}

fn shell(invocation: &Invocation, text: &str, limit: Duration) -> Command {
    let spec = ProcessSpec::new("/bin/sh", ["-c", text]);
    let shown = crate::cli::args::url::mask_passwords(text);
    Command { spec: attached(invocation, spec, StdinMode::Null), shown, limit: Some(limit) }
}

fn say_open(invocation: &Invocation, plan: &Plan, snapshot: SnapshotId) {
    let sources = plan.sources().join(", ");
    let text = format!(
        "guard {} is open: {sources} is saved as {} (guard:{}) and verified",
        plan.name,
        snapshot.short(),
        plan.name
    );
    invocation.output.note("guard.open", &text);
}

fn say_done(invocation: &Invocation, done: &Done, sources: &[String]) {
    let text = match done.ending {
        Ending::Completed => format!("guard {} is complete; what was done stays", done.name),
        Ending::RolledBack => format!("guard {} is closed; the state before is restored and proved", done.name),
        Ending::Refused | Ending::Broken => format!("guard {} is closed; nothing was changed", done.name),
    };
    invocation.output.note("guard.closed", &text);
    if invocation.global.json {
        let body = json!({
            "guard": done.name,
            "act": done.act.hex(),
            "snapshot_id": done.snapshot.hex(),
            "state": done.ending.as_str(),
            "sources": sources,
        });
        invocation.output.json(Kind::Result, &body);
    }
}

fn status(invocation: &Invocation, args: &StatusArgs) -> Result<ExitCode, Failure> {
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
    for holder in open.iter().filter(|_| !invocation.global.json) {
        lines_of(invocation, holder).iter().for_each(|line| invocation.output.line(line));
        invocation.output.line(&format!("  {}", advice(holder)));
    }
    bench.conclude(ExitCode::Success)
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

fn holder_json(invocation: &Invocation, holder: &Holder) -> Value {
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
fn lines_of(invocation: &Invocation, holder: &Holder) -> Vec<String> {
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
fn advice(holder: &Holder) -> String {
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

fn with_holder(invocation: &Invocation, failure: Failure, holder: &Holder) -> Failure {
    let failure = lines_of(invocation, holder).into_iter().fold(failure, |f, line| f.cause(line.trim_start()));
    failure.hint(advice(holder))
}

/// What each error of a guard means for people.
fn failure_of(invocation: &Invocation, error: Error) -> Failure {
    let message = error.to_string();
    let of = |exit, id| Failure::new(exit, id, message.clone());
    match error {
        Error::Repository(error) => Failure::from(error),
        Error::Held { holder, .. } => with_holder(invocation, of(ExitCode::GuardClosed, "guard.held"), &holder)
            .hint("--break closes it by force; nothing was touched"),
        Error::UnreadableClaim { .. } => of(ExitCode::GuardClosed, "guard.claim_damaged")
            .hint("`holdfast guard status` shows what is open; if nothing is, give --break; nothing was touched"),
        Error::Unfit { source: Unfit { kind: UnfitKind::Interrupted, .. } } | Error::Interrupted => {
            Failure::interrupted(ExitCode::Interrupted)
        }
        Error::Unfit { source: Unfit { kind, message, causes } } => {
            let failure = causes.into_iter().fold(Failure::new(exit_of(kind), "guard.unfit", message), Failure::cause);
            let failure = failure.hint("the guard did not open, and nothing was touched");
            match kind {
                UnfitKind::Closed => failure.hint("run `holdfast backup` first, or give --i-know"),
                _ => failure,
            }
        }
        Error::RolledBack { failed, snapshot, .. } => {
            let exit = if failed.is_interruption() { ExitCode::Interrupted } else { ExitCode::GuardedCommandFailed };
            of(exit, "guard.rolled_back").hint(format!("the state before is snapshot {}", snapshot.short()))
        }
        Error::NotRolledBack { name, snapshot, back, .. } => {
            let NotBack { message: why, details } = *back;
            let failure = of(ExitCode::NotRolledBack, "guard.not_rolled_back").cause(why);
            let failure = details.into_iter().fold(failure, Failure::cause);
            failure
                .hint(format!("the state before is snapshot {} (guard:{name}); it is whole", snapshot.hex()))
                .hint(format!("when the cause is gone, `holdfast guard rollback {name}` tries again"))
                .hint(format!("by hand: `holdfast restore {} --to URL` into a new database", snapshot.short()))
        }
        Error::NotClosed { name, source } => Failure::from(source)
            .cause(message)
            .hint(format!("what was done stays; `holdfast guard complete {name}` closes the guard")),
        Error::TakenOver { name } => of(ExitCode::GuardClosed, "guard.taken_over")
            .hint(format!("`holdfast guard history` shows what became of {name}")),
        Error::NotOpen { ended, .. } => {
            let failure = of(ExitCode::Refused, "guard.not_open");
            let failure = match ended {
                Some(ended) => failure.cause(format!("the newest of that name is closed: {}", ended.as_str())),
                None => failure,
            };
            failure.hint("`holdfast guard status` shows what is open")
        }
        Error::Busy { holder } => with_holder(invocation, of(ExitCode::GuardClosed, "guard.busy"), &holder),
        Error::CommandRuns { process, .. } => of(ExitCode::GuardClosed, "guard.command_runs")
            .hint(format!("end process {process} first; nothing was touched")),
        Error::WrongState { name, rolling_back, .. } => of(ExitCode::Refused, "guard.state").hint(match rolling_back {
            true => format!("`holdfast guard rollback {name}` brings it to its end"),
            false => format!("`holdfast guard rollback {name}` closes it; nothing is put back"),
        }),
    }
}
