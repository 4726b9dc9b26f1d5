//! `guard`: something dangerous with a proved way back.

use super::guard_cover::{confirm_name, confirm_production, plan, production};
use super::guard_errors::failure_of;
use super::guard_hands::ConfiguredHands;
use super::guard_status::{lines_of, status};
use super::{history, net};
use crate::cli::args::guard::{BeginArgs, CloseArgs, CoverArgs, GuardAction, GuardArgs, RunArgs, TestArgs};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening::{self, Listing};
use crate::domain::act::ActKind;
use crate::domain::id::SnapshotId;
use crate::domain::system::Clock;
use crate::domain::time_spec::format_local;
use crate::fsio::census::SystemCensus;
use crate::ops::guard::{self, Command, Done, Ending, Error, Means, Plan, Purpose, State};
use crate::source::process::{OutputMode, ProcessSpec, StdinMode, SystemProcesses};
use serde_json::json;
use std::ffi::OsString;
use std::time::Duration;

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
pub(super) struct Bench<'i> {
    invocation: &'i Invocation,
    listing: Listing,
    census: SystemCensus,
    processes: SystemProcesses,
}

impl<'i> Bench<'i> {
    pub(super) fn open(invocation: &'i Invocation) -> Result<Self, Failure> {
        let listing = opening::open_for_listing(invocation)?;
        // Not ended by the wish to stop itself: the guard ends what it started.
        Ok(Self { invocation, listing, census: SystemCensus, processes: SystemProcesses::new(None) })
    }

    pub(super) fn hands(&self, i_know: bool) -> ConfiguredHands<'_> {
        ConfiguredHands { invocation: self.invocation, listing: &self.listing, i_know }
    }

    pub(super) fn means<'a>(&'a self, hands: &'a ConfiguredHands<'a>) -> Means<'a> {
        Means {
            recorder: net::recorder(self.invocation, &self.listing),
            census: &self.census,
            processes: &self.processes,
            observer: self.invocation.observer(),
            cancel: &self.invocation.cancel,
            hands,
        }
    }

    pub(super) fn conclude(&self, exit: ExitCode) -> Result<ExitCode, Failure> {
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
    guard::refuse_taking_over(&means, &args.name, args.break_others).map_err(|error| failure_of(invocation, error))?;
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
