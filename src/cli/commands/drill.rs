//! `drill`: sources are restored for proof, timed, and removed again.

use super::net;
use crate::cli::args::drill::DrillArgs;
use crate::cli::errors::is_no_space;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::log::LogLevel;
use crate::cli::opening::{self, ReadingRepository};
use crate::domain::act::ActKind;
use crate::domain::snapshot::{PRE_RESTORE, Snapshot, SourceRecord};
use crate::domain::time_spec::format_local;
use crate::domain::units::{format_count, format_size};
use crate::ops::cancel::Cancel;
use crate::ops::drill::{self, Error, Means, Outcome, SourceDrill};
use crate::ops::{proof, restore};
use crate::repository::acts::Act;
use crate::source::postgres::connect::Connection;
use crate::target::cluster::ClusterError;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Differences that are printed for each source; JSON has more.
const DIFFERENCES_SHOWN: usize = 20;
/// Differences that the record keeps for each source.
const DIFFERENCES_RECORDED: usize = 10;

/// One source of one snapshot.
struct Task {
    snapshot: Snapshot,
    source: SourceRecord,
}

/// Drills and says how it went.
pub(crate) fn run(invocation: &Invocation, args: &DrillArgs) -> Result<ExitCode, Failure> {
    let repository = opening::open_for_reading(invocation)?;
    let tasks = choose(invocation, &repository, args)?;
    let server = server(invocation)?;
    if invocation.global.dry_run {
        for task in &tasks {
            invocation.output.line(&format!("would restore and prove {}", named(invocation, task)));
        }
        return repository.conclude(invocation, ExitCode::Success);
    }
    let carried =
        carry_out(invocation, &repository, server.as_ref(), &tasks, |task, done| say(invocation, task, done))?;
    if invocation.global.json {
        let sources: Vec<Value> = carried.drills.iter().map(json_of).collect();
        invocation.output.json(Kind::Result, &json!({ "proof": carried.state, "sources": sources }));
    }
    match carried.failure {
        None => repository.conclude(invocation, ExitCode::Success),
        Some(failure) => {
            if failure.exit == ExitCode::DrillFailed {
                // Prints what is damaged; that the whole is no success is said here.
                let _ = repository.conclude(invocation, ExitCode::DrillFailed);
            }
            Err(failure)
        }
    }
}

/// Drills everything in a snapshot for a command that does something dangerous next.
///
/// # Errors
/// Whatever kept a source from being restored and proved: exit code 19 when it differs.
pub(super) fn prove_snapshot(
    invocation: &Invocation,
    repository: &ReadingRepository,
    snapshot: &Snapshot,
) -> Result<(), Failure> {
    let server = server(invocation)?;
    let tasks: Vec<Task> =
        snapshot.sources.iter().map(|source| Task { snapshot: snapshot.clone(), source: source.clone() }).collect();
    let told = |task: &Task, done: &SourceDrill| {
        invocation.output.note("drill.source", &summary(invocation, task, done));
    };
    carry_out(invocation, repository, server.as_ref(), &tasks, told)?.failure.map_or(Ok(()), Err)
}

/// The scratch server of the configuration.
fn server(invocation: &Invocation) -> Result<Option<Connection>, Failure> {
    let url = invocation.settings()?.sections.drill.postgres.as_ref();
    url.map(|url| Ok(Connection::resolve(url, &invocation.libpq()?)?)).transpose()
}

/// Drills that are over, and recorded.
struct Carried {
    drills: Vec<SourceDrill>,
    state: &'static str,
    /// Why the whole is no success.
    failure: Option<Failure>,
}

fn carry_out(
    invocation: &Invocation,
    repository: &ReadingRepository,
    server: Option<&Connection>,
    tasks: &[Task],
    told: impl Fn(&Task, &SourceDrill),
) -> Result<Carried, Failure> {
    let settings = &invocation.settings()?.sections.drill;
    let recorder = net::recorder(invocation, repository);
    let names: Vec<String> = tasks.iter().map(|task| named(invocation, task)).collect();
    let act = recorder.begin(ActKind::Drill, &json!({ "state": "begun", "text": names.join(", ") }))?;
    let limit = Limit::start(settings.max_duration, &invocation.cancel);
    let mut drills = Vec::new();
    let mut failures = Vec::new();
    for task in tasks {
        if invocation.cancel.is_cancelled() {
            break;
        }
        let (done, error) = one(invocation, repository, server, task)?;
        told(task, &done);
        drills.push(done);
        failures.extend(error.map(|error| (task.source.name.clone(), error)));
    }
    let timed_out = limit.end();
    let all_equal = drills.len() == tasks.len() && drills.iter().all(|drill| drill.proof == Outcome::Equal);
    let interrupted = invocation.cancel.is_cancelled();
    let state = match (all_equal, drills.iter().any(|drill| drill.proof == Outcome::Different)) {
        (true, _) => "proved",
        (_, true) => "different",
        _ if timed_out => "too long",
        _ if interrupted => "interrupted",
        _ => "failed",
    };
    record(act, state, &drills)?;
    let different: Vec<&SourceDrill> = drills.iter().filter(|drill| drill.proof == Outcome::Different).collect();
    let failure = if timed_out {
        let most = settings.max_duration.unwrap_or_default().as_secs();
        let message = format!("The drill took longer than {most} s and was ended");
        let failure = Failure::new(ExitCode::Failed, "drill.max_duration", message);
        Some(failure.hint("what it had made was removed; [drill] max_duration gives it more time"))
    } else if interrupted {
        Some(Failure::interrupted(ExitCode::Interrupted).hint("what the drill had made was removed"))
    } else if !different.is_empty() {
        Some(different_failure(&different))
    } else {
        failures.into_iter().next().map(|(source, error)| failure_of(&source, error))
    };
    Ok(Carried { drills, state, failure })
}

/// What is to be drilled.
fn choose(invocation: &Invocation, repository: &ReadingRepository, args: &DrillArgs) -> Result<Vec<Task>, Failure> {
    if let Some(selector) = &args.selector {
        let chosen = repository.choose(invocation, selector, &args.scope)?;
        if chosen.path.is_some() {
            return Err(Failure::usage("drill.path", "A drill takes whole sources, not a path")
                .hint("name the source with --source"));
        }
        let snapshot = chosen.snapshot.snapshot;
        if let Some(name) = args.scope.sources.iter().find(|name| snapshot.source(name).is_none()) {
            return Err(no_source(name));
        }
        let wanted = |s: &&SourceRecord| args.scope.sources.is_empty() || args.scope.sources.contains(&s.name);
        let task = |source: &SourceRecord| Task { snapshot: snapshot.clone(), source: source.clone() };
        return Ok(snapshot.sources.iter().filter(wanted).map(task).collect());
    }
    let mut history = repository.snapshots()?;
    history.retain(|loaded| !loaded.snapshot.imported);
    let host = args.scope.host.clone().unwrap_or_else(|| invocation.environment.host.clone());
    let implied = invocation.settings()?.configured_series(&invocation.environment.host);
    let implied = implied.filter(|_| args.scope.host.is_none() && args.scope.sources.is_empty() && !args.all);
    let aside = names_of_environments(invocation)?;
    let mut known: BTreeSet<(String, String)> = BTreeSet::new();
    for loaded in history.iter().filter(|loaded| loaded.snapshot.class.as_deref() != Some(PRE_RESTORE)) {
        let of_host = args.all || loaded.snapshot.system.host == host;
        for source in loaded.snapshot.sources.iter().filter(|_| of_host) {
            let named = args.scope.sources.contains(&source.name);
            let wanted = named || (args.scope.sources.is_empty() && !aside.contains(&source.name));
            if wanted && implied.as_ref().is_none_or(|series| series.sources.contains(&source.name)) {
                known.insert((loaded.snapshot.system.host.clone(), source.name.clone()));
            }
        }
    }
    if let Some(name) = args.scope.sources.iter().find(|name| !known.iter().any(|(_, source)| source == *name)) {
        return Err(no_source(name));
    }
    let tasks: Vec<Task> = known
        .iter()
        .filter_map(|(host, name)| {
            let snapshot = restore::newest_good(&history, host, name)?;
            Some(Task { snapshot: snapshot.clone(), source: snapshot.source(name)?.clone() })
        })
        .collect();
    if tasks.is_empty() {
        return Err(Failure::new(ExitCode::SnapshotNotFound, "drill.nothing", "There is no good snapshot to restore")
            .hint("`holdfast snapshots` shows what there is; --all takes those of other hosts too"));
    }
    for task in &tasks {
        invocation.output.note("snapshot.chosen", &named(invocation, task));
    }
    Ok(tasks)
}

/// Names under which something of another environment is saved before it is touched: not what a drill is about.
fn names_of_environments(invocation: &Invocation) -> Result<BTreeSet<String>, Failure> {
    let settings = invocation.settings()?;
    let pairs = settings.sections.environments.iter().flat_map(|(name, target)| {
        target.targets.keys().map(move |source| super::places::safety_name(source, Some(name)))
    });
    let own = |name: &String| settings.sources.iter().any(|source| source.name == *name);
    Ok(pairs.filter(|name| !own(name)).collect())
}

fn no_source(name: &str) -> Failure {
    Failure::new(ExitCode::SnapshotNotFound, "source.not_found", format!("No snapshot here has a source '{name}'"))
        .hint("`holdfast snapshots` shows the sources")
}

fn named(invocation: &Invocation, task: &Task) -> String {
    let time = format_local(task.snapshot.time_ns, &invocation.environment.time_zone);
    format!("{} of {} ({time})", task.source.name, task.snapshot.id.short())
}

fn one(
    invocation: &Invocation,
    repository: &ReadingRepository,
    server: Option<&Connection>,
    task: &Task,
) -> Result<(SourceDrill, Option<Error>), Failure> {
    let search = net::local_search(invocation, &task.source.name)?;
    let live =
        |source: &SourceRecord| net::server(invocation, &source.name, &source.location).ok().map(|found| found.0);
    let temp_dir = invocation.environment.path("TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp"));
    let means = Means {
        reading: &repository.reading,
        processes: &invocation.processes,
        random: &invocation.random,
        search: &search,
        server,
        live: &live,
        temp_dir: &temp_dir,
        observer: invocation.observer(),
        cancel: &invocation.cancel,
    };
    Ok(drill::run(&means, &task.snapshot, &task.source))
}

/// Ends the run when its time is over.
struct Limit {
    stop: Option<crossbeam_channel::Sender<()>>,
    over: Arc<AtomicBool>,
}

impl Limit {
    fn start(most: Option<Duration>, cancel: &Cancel) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let Some(most) = most else { return Self { stop: None, over } };
        let (stop, ended) = crossbeam_channel::bounded::<()>(0);
        let (flag, cancel) = (Arc::clone(&over), cancel.clone());
        // Without the thread there is no limit, which is better than no drill.
        let _ = std::thread::Builder::new().name("limit".into()).spawn(move || {
            if ended.recv_timeout(most) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                flag.store(true, Ordering::SeqCst);
                cancel.cancel();
            }
        });
        Self { stop: Some(stop), over }
    }

    /// Stops watching; true when the time was over.
    fn end(self) -> bool {
        drop(self.stop);
        self.over.load(Ordering::SeqCst)
    }
}

fn seconds(duration: Duration) -> f64 {
    // Milliseconds are what a clock of a machine at work tells.
    f64::from(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)) / 1000.0
}

/// A source as JSON: its own fields, and the times in seconds.
fn json_of(drill: &SourceDrill) -> Value {
    let mut value = serde_json::to_value(drill).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.insert("duration_seconds".to_owned(), seconds(drill.restore_time).into());
        fields.insert("proof_seconds".to_owned(), seconds(drill.proof_time).into());
    }
    value
}

/// Finishes the act: the record of the drill, without the rows of each table.
fn record(act: Act<'_>, state: &str, drills: &[SourceDrill]) -> Result<(), Failure> {
    let short = |drill: &SourceDrill| {
        let first: Vec<&String> = drill.differences.iter().take(DIFFERENCES_RECORDED).collect();
        json!({
            "source": drill.source, "snapshot_id": drill.snapshot_id, "proof": drill.proof, "place": drill.place,
            "duration_seconds": seconds(drill.restore_time), "proof_seconds": seconds(drill.proof_time),
            "bytes_restored": drill.bytes_restored, "tables": drill.tables.len(), "differences": first,
            "difference_count": drill.difference_count, "failure": drill.failure,
        })
    };
    let text: Vec<String> = drills.iter().map(|drill| format!("{} {}", drill.source, word(drill.proof))).collect();
    let sources: Vec<Value> = drills.iter().map(short).collect();
    act.finish(&json!({ "state": state, "text": text.join(", "), "sources": sources }))?;
    Ok(())
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Equal => "equal",
        Outcome::Different => "different",
        Outcome::Failed => "failed",
    }
}

/// How the drill of a source went, in one line.
fn summary(invocation: &Invocation, task: &Task, drill: &SourceDrill) -> String {
    let rows: u64 = drill.tables.iter().filter_map(|table| table.rows_restored).sum();
    let tables = match drill.tables.len() {
        0 => String::new(),
        n => format!(", {} rows in {n} tables", format_count(rows)),
    };
    let (name, size) = (named(invocation, task), format_size(drill.bytes_restored));
    let (restore, proof) = (seconds(drill.restore_time), seconds(drill.proof_time));
    let done = format!("{size}{tables}, restored in {restore:.1} s to {}, proof {proof:.1} s", drill.place);
    match drill.proof {
        Outcome::Equal => format!("{name}: equal ({done})"),
        Outcome::Different => {
            format!("{name}: NOT EQUAL, {} differences ({done})", format_count(drill.difference_count))
        }
        Outcome::Failed => format!("{name}: FAILED: {}", drill.failure.as_deref().unwrap_or_default()),
    }
}

/// How the drill of a source went, as its result.
fn say(invocation: &Invocation, task: &Task, drill: &SourceDrill) {
    for note in &drill.notes {
        invocation.output.note("drill.note", &format!("{}: {note}", drill.source));
    }
    let text = summary(invocation, task, drill);
    let level = if drill.proof == Outcome::Equal { LogLevel::Info } else { LogLevel::Error };
    if invocation.global.json {
        invocation.output.log(level, "drill.source", "", &text);
        return;
    }
    invocation.output.line(&text);
    for difference in drill.differences.iter().take(DIFFERENCES_SHOWN) {
        invocation.output.line(&format!("  {difference}"));
    }
    let more = drill.difference_count.saturating_sub(DIFFERENCES_SHOWN as u64);
    if more > 0 {
        invocation.output.line(&format!("  and {} more", format_count(more)));
    }
}

fn different_failure(different: &[&SourceDrill]) -> Failure {
    let names: Vec<&str> = different.iter().map(|drill| drill.source.as_str()).collect();
    let message = format!("What was restored is not what was saved: {}", names.join(", "));
    let mut failure = Failure::new(ExitCode::DrillFailed, "drill.different", message);
    for drill in different {
        for difference in drill.differences.iter().take(DIFFERENCES_RECORDED) {
            failure = failure.cause(format!("{}: {difference}", drill.source));
        }
    }
    failure
        .hint("run `holdfast verify --read-data`: when it finds nothing, the stored bytes are those that were saved")
        .hint("then the dump, the server or its programs lost something on the way: try the drill on another server")
}

/// Errors of a drill, for people. What the drill had made is gone in every case.
fn failure_of(source: &str, error: Error) -> Failure {
    let of = |exit, id| Failure::from_error(exit, id, &error);
    let failure = match &error {
        Error::Repository(_) | Error::Target(_) | Error::Source(_) => match error {
            Error::Repository(error) => Failure::from(error),
            Error::Target(error) => Failure::from(error),
            Error::Source(error) => Failure::from(error),
            _ => Failure::new(ExitCode::Failed, "drill", "The drill failed"),
        },
        Error::Restore(_) => of(ExitCode::RolledBack, "drill.restore"),
        Error::Cluster(cluster) => of_cluster(cluster),
        Error::Proof(proof::Error::Source(_) | proof::Error::Dump { .. } | proof::Error::Io { .. }) => {
            of(ExitCode::DrillFailed, "drill.no_proof")
        }
        Error::Proof(_) => of(ExitCode::DrillFailed, "drill.no_proof"),
        Error::NoSpace { .. } => {
            of(ExitCode::NoSpace, "drill.no_space").hint("free space there, or set TMPDIR to another place")
        }
        Error::OlderServer { dump, .. } => of(ExitCode::Refused, "drill.older_server")
            .hint(format!("name a server of version {dump} or later as [drill] postgres, or leave it out")),
        Error::OwnDatabase { .. } => of(ExitCode::Refused, "drill.own_database"),
        Error::NotSaved { .. } => of(ExitCode::SnapshotNotFound, "source.failed_in_snapshot")
            .hint("without a selector a drill takes the newest good snapshot of each source"),
        Error::Lost { .. } => of(ExitCode::Damaged, "restore.lost")
            .hint("run `holdfast verify --read-data` to see everything that is affected"),
        Error::Interrupted => Failure::interrupted(ExitCode::Interrupted),
    };
    failure.cause(format!("source {source} was not drilled"))
}

fn of_cluster(error: &ClusterError) -> Failure {
    let of = |exit, id| Failure::from_error(exit, id, error);
    match error {
        ClusterError::NoServer { wanted, .. } => of(ExitCode::NoSource, "drill.no_server").hint(format!(
            "install the server (Debian: postgresql-{wanted}; it need not run), or name a scratch server as [drill] postgres"
        )),
        ClusterError::NoUser => of(ExitCode::NoSource, "drill.no_user").hint("run the drill as another user"),
        ClusterError::Io { source, .. } if is_no_space(source) => {
            of(ExitCode::NoSpace, "drill.no_space").hint("free space there, or set TMPDIR to another place")
        }
        ClusterError::Io { .. } => of(ExitCode::Failed, "drill.folder").hint("set TMPDIR to a folder that can be written"),
        ClusterError::Failed { stderr, folder, .. } => {
            let failure = of(ExitCode::NoSource, "drill.server");
            let failure = stderr.lines().fold(failure, |failure, line| failure.cause(line.to_owned()));
            failure.hint(format!(
                "as root the server runs as the user postgres, who must be able to enter {}: set TMPDIR to another place",
                folder.parent().unwrap_or(folder).display()
            ))
        }
        ClusterError::Interrupted => Failure::interrupted(ExitCode::Interrupted),
    }
}
