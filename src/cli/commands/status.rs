//! `service` and `status`: the application, and what is under way or was cut short.

use super::guard_hands::ConfiguredHands;
use super::guard_status::{holder_json, print_guard};
use super::net::{self, Net};
use super::places::environment;
use crate::cli::args::in_place::{ServiceAction, ServiceArgs};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening;
use crate::domain::act::Whereabouts;
use crate::domain::time_spec::format_local;
use crate::fsio::census::SystemCensus;
use crate::ops::in_place::Program;
use crate::ops::{guard, in_place};
use crate::source::process::SystemProcesses;
use clap::ValueEnum;
use serde_json::json;

/// Stops or starts the application, or asks whether it runs.
///
/// # Errors
/// Exit code 2 when it is not configured, 1 when the command fails.
pub(crate) fn service(invocation: &Invocation, args: &ServiceArgs) -> Result<ExitCode, Failure> {
    let settings = invocation.settings()?;
    let service = match environment(settings, args.env.as_deref())? {
        None => net::service_of(settings.sections.service.as_ref()),
        Some((_, target)) => net::service_of(target.service.as_ref()),
    };
    let steps = match args.action {
        ServiceAction::Stop => vec![("stop", service.stop)],
        ServiceAction::Start => vec![("start", service.start)],
        ServiceAction::Restart => vec![("stop", service.stop), ("start", service.start)],
        ServiceAction::Status => vec![("status", service.status)],
    };
    // Whether both are there is known before the first of two is run.
    let programs = steps.into_iter().map(|(word, program)| Ok((word, configured(args, word, program)?)));
    let mut said = Vec::new();
    for (word, program) in programs.collect::<Result<Vec<_>, Failure>>()? {
        said.extend(tell(invocation, word, &program)?);
    }
    if invocation.global.json {
        let word = args.action.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        invocation.output.json(Kind::Result, &json!({ "action": word, "output": said.join("\n") }));
    }
    Ok(ExitCode::Success)
}

fn configured(args: &ServiceArgs, word: &str, program: Option<Program>) -> Result<Program, Failure> {
    program.ok_or_else(|| {
        let table = args.env.as_ref().map_or_else(|| "[service]".to_owned(), |name| format!("service of [env.{name}]"));
        Failure::usage("service.not_configured", format!("No command '{word}' is configured"))
            .hint(format!("write it into {table}"))
    })
}

/// Runs one command of the application and prints what it says. Returns that; None: it said nothing.
fn tell(invocation: &Invocation, word: &str, program: &Program) -> Result<Option<String>, Failure> {
    if invocation.global.dry_run {
        invocation.output.note("service.would", &format!("would run {}", program.words.join(" ")));
        return Ok(None);
    }
    let said = in_place::run_program(&invocation.processes, program).map_err(|error| {
        let failure = Failure::from_error(ExitCode::Failed, "service.failed", &error);
        error.output.lines().fold(failure, Failure::cause)
    })?;
    if !invocation.global.json && !said.is_empty() {
        invocation.output.line(&said);
    }
    invocation.output.note("service.done", &format!("{word}: done"));
    Ok(Some(said).filter(|said| !said.is_empty()))
}

/// What is under way or was cut short.
///
/// # Errors
/// As for opening a repository.
pub(crate) fn status(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let repository = opening::open_for_reading(invocation)?;
    let net = Net::new(invocation, &repository)?;
    let context = net.context();
    let hands = ConfiguredHands { invocation, listing: &repository, i_know: false };
    let (census, processes) = (SystemCensus, SystemProcesses::new(None));
    let guards = guard::open_guards(&guard::Means {
        recorder: net::recorder(invocation, &repository),
        census: &census,
        processes: &processes,
        observer: invocation.observer(),
        cancel: &invocation.cancel,
        hands: &hands,
    })?;
    let (mut open, mut idle) = (Vec::new(), guards.is_empty());
    for (story, whereabouts) in in_place::unfinished(&context)? {
        idle = false;
        let places = in_place::places_now(&context, &story);
        let owner = story.last().owner();
        let state = story.last().state();
        if invocation.global.json {
            open.push(json!({
                "act": story.id.hex(),
                "kind": story.kind.as_str(),
                "state": state,
                "text": story.last().text(),
                "host": owner.host,
                "user": owner.user,
                "process": owner.process,
                "owner": whereabouts.as_str(),
                "time": crate::domain::time_spec::ns_timestamp(story.first().time_ns).to_string(),
                "places": places,
            }));
            continue;
        }
        let began = format_local(story.first().time_ns, &invocation.environment.time_zone);
        let who = format!("{} on {}, process {}", owner.user, owner.host, owner.process);
        let living = match whereabouts {
            Whereabouts::Alive => "under way",
            Whereabouts::Dead => "cut short",
            Whereabouts::Elsewhere => "of another machine",
        };
        let line = format!("restore {} of {began} by {who}: {living}, step {state}", story.id.short());
        invocation.output.line(&line);
        places.iter().for_each(|place| invocation.output.line(&format!("  {place}")));
        let hint = match whereabouts {
            Whereabouts::Alive => "  it goes on by itself",
            Whereabouts::Dead => {
                "  `holdfast rollback` takes it back; any `holdfast restore` brings it to an end first"
            }
            Whereabouts::Elsewhere => "  run `holdfast rollback` there, or here with --break if that machine is gone",
        };
        invocation.output.line(hint);
    }
    if invocation.global.json {
        let guards: Vec<_> = guards.iter().map(|holder| holder_json(invocation, holder)).collect();
        invocation.output.json(Kind::Result, &json!({ "status": open, "guards": guards }));
        return repository.conclude(invocation, ExitCode::Success);
    }
    guards.iter().for_each(|holder| print_guard(invocation, holder));
    if idle {
        invocation.output.note("status.idle", "nothing is under way");
    }
    repository.conclude(invocation, ExitCode::Success)
}
