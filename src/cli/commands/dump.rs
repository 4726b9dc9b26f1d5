//! `dump`: one stream or file to standard output. Nothing but its bytes goes there.

use super::backup;
use crate::cli::args::dump::{DumpArgs, DumpFormat};
use crate::cli::args::scope::ScopeArgs;
use crate::cli::errors::is_no_space;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::opening::{self, Chosen, ReadingRepository};
use crate::cli::output::Output;
use crate::cli::picker;
use crate::cli::settings::SourceKindSettings;
use crate::domain::snapshot::{Snapshot, SourceRecord};
use crate::domain::units::format_size;
use crate::ops::dump::{self, DumpFailure, Error, Found};
use crate::source::SourceError;
use crate::source::postgres::client::{self, ClientTools};
use crate::target::database::TargetError;
use crate::target::postgres::SqlConversion;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

/// What [`crate::ops::restore`] adds to the name of a source for its roles and settings.
const GLOBALS_SUFFIX: &str = ".globals.sql";

/// Writes one stream or file.
pub(crate) fn run(invocation: &Invocation, args: &DumpArgs) -> Result<ExitCode, Failure> {
    let repository = opening::open_for_reading(invocation)?;
    let chosen = choose(invocation, args, &repository)?;
    let snapshot = &chosen.snapshot.snapshot;
    let source = match (&args.source, args.selector.is_none()) {
        (None, true) => Some(ask_for_source(invocation, snapshot)?),
        _ => args.source.clone(),
    };
    let found = match (&chosen.path, &source) {
        (Some(path), source) => {
            dump::find_path(&repository.reading, snapshot, source.as_deref(), path, &invocation.cancel)
        }
        (None, Some(source)) => dump::find_source(snapshot, source),
        (None, None) => {
            return Err(Failure::usage("dump.nothing_named", "A dump needs the name of a source or a path")
                .hint(format!("this snapshot has {}", dump::available(snapshot).join(", ")))
                .hint("write `holdfast dump SELECTOR SOURCE` or `holdfast dump SELECTOR:PATH`"));
        }
    };
    let found = found.map_err(failure_of)?;
    if args.format.is_some() && !found.is_archive() {
        let message = "--format is for the dumps of PostgreSQL sources, and this is none";
        return Err(Failure::usage("dump.format", message).hint("leave out --format"));
    }
    if invocation.global.dry_run {
        let text = format!("would write {} of {}", format_size(found.plain_bytes()), found.source().name);
        invocation.output.note("dump.would", &text);
        return repository.conclude(invocation, ExitCode::Success);
    }
    let written = match args.format {
        Some(DumpFormat::Sql) => as_sql(invocation, &repository, &found),
        Some(DumpFormat::Custom) | None => as_stored(invocation, &repository, &found),
    };
    match written {
        Ok(()) => repository.conclude(invocation, ExitCode::Success),
        Err(Ended::Closed) => {
            invocation.output.detail("dump.closed", "Standard output was closed before the dump was complete");
            Ok(ExitCode::Failed)
        }
        Err(Ended::Failed(failure)) => Err(failure.hint("the bytes that were written already are not good")),
    }
}

/// The source that is wanted of a snapshot that was picked from a list.
fn ask_for_source(invocation: &Invocation, snapshot: &Snapshot) -> Result<String, Failure> {
    let available = dump::available(snapshot);
    if let [only] = available.as_slice() {
        return Ok(only.clone());
    }
    let answer = invocation.ask_or_end(&format!("Which source? {}: ", available.join(", ")))?;
    answer
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Failure::new(ExitCode::Failed, "dump.not_picked", "No source was chosen; nothing was written"))
}

/// Why a dump ended early.
enum Ended {
    /// Nobody reads any more.
    Closed,
    Failed(Failure),
}

/// The newest snapshot that holds the source, when the selector leaves it open.
fn choose(invocation: &Invocation, args: &DumpArgs, repository: &ReadingRepository) -> Result<Chosen, Failure> {
    let scoped = |name: Option<&str>| {
        let scope = ScopeArgs { host: args.host.clone(), sources: name.into_iter().map(str::to_owned).collect() };
        picker::choose(invocation, repository, args.selector.as_deref(), &scope)
    };
    let name = args.source.as_deref();
    match (scoped(name), name) {
        (Err(failure), Some(name)) if failure.exit == ExitCode::SnapshotNotFound => {
            // It may be a file name that a restore gives: then the scope is its source.
            match name.strip_suffix(GLOBALS_SUFFIX) {
                Some(source) => scoped(Some(source)),
                None => Err(failure),
            }
        }
        (result, _) => result,
    }
}

fn as_stored(invocation: &Invocation, repository: &ReadingRepository, found: &Found<'_>) -> Result<(), Ended> {
    let mut output = invocation.output.raw();
    let write = |bytes: &[u8]| output.write_all(bytes);
    dump::run(&repository.reading, found, write, invocation.observer(), &invocation.cancel)
        .map(drop)
        .map_err(|failure| ended(failure, |error| sink_failed(&error)))
}

fn ended<E>(failure: DumpFailure<E>, of_receiver: impl FnOnce(E) -> Ended) -> Ended {
    match failure {
        DumpFailure::Repository(error) => Ended::Failed(Failure::from(error)),
        DumpFailure::Interrupted => Ended::Failed(Failure::interrupted(ExitCode::Interrupted)),
        DumpFailure::Receiver(error) => of_receiver(error),
    }
}

fn sink_failed(error: &io::Error) -> Ended {
    if error.kind() == ErrorKind::BrokenPipe {
        return Ended::Closed;
    }
    let exit = if is_no_space(error) { ExitCode::NoSpace } else { ExitCode::Failed };
    let failure = Failure::new(exit, "output.failed", "Cannot write to standard output").caused_by(error);
    Ended::Failed(if exit == ExitCode::NoSpace { failure.hint("free space where the dump goes") } else { failure })
}

/// Standard output for a thread of its own.
struct Stdout(Arc<Output>);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.raw().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.raw().flush()
    }
}

fn as_sql(invocation: &Invocation, repository: &ReadingRepository, found: &Found<'_>) -> Result<(), Ended> {
    let tools = tools(invocation, found.source()).map_err(|error| Ended::Failed(error.into()))?;
    let sink = Box::new(Stdout(Arc::clone(&invocation.output)));
    let mut conversion = SqlConversion::start(&invocation.processes, &tools, sink).map_err(conversion_failed)?;
    let write = |bytes: &[u8]| conversion.write(bytes);
    dump::run(&repository.reading, found, write, invocation.observer(), &invocation.cancel)
        .map_err(|failure| ended(failure, conversion_failed))?;
    conversion.finish().map_err(conversion_failed)
}

fn conversion_failed(error: TargetError) -> Ended {
    match error {
        TargetError::Path { source, .. } => sink_failed(&source),
        other => Ended::Failed(other.into()),
    }
}

/// The client programs of the dump's own server version: a newer one writes what that server does not know.
fn tools(invocation: &Invocation, source: &SourceRecord) -> Result<ClientTools, SourceError> {
    let configured =
        invocation.settings().ok().and_then(|settings| settings.sources.iter().find(|s| s.name == source.name));
    let (bin_dir, prefix) = match configured.map(|s| &s.kind) {
        Some(SourceKindSettings::Postgres(postgres)) => (postgres.pg_bin_dir.clone(), postgres.command_prefix.clone()),
        _ => (None, Vec::new()),
    };
    let search = backup::client_search(invocation, bin_dir, prefix);
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    let major: Option<u32> = source.server_version.as_deref().and_then(digits);
    client::find(&invocation.processes, &search, major).or_else(|_| client::find(&invocation.processes, &search, None))
}

fn failure_of(error: Error) -> Failure {
    let of = |exit, id| Failure::from_error(exit, id, &error);
    match &error {
        Error::Repository(_) => match error {
            Error::Repository(error) => error.into(),
            _ => Failure::new(ExitCode::Damaged, "dump", "The dump failed"),
        },
        Error::NoSuchSource { available, .. } => {
            of(ExitCode::SnapshotNotFound, "source.not_found").hint(format!("it has {}", available.join(", ")))
        }
        Error::SourceFailed { name, .. } => of(ExitCode::SnapshotNotFound, "source.failed_in_snapshot")
            .hint(format!("`holdfast snapshots --source {name}` lists others; latest passes over failed ones")),
        Error::HoldsFiles { .. } => of(ExitCode::Usage, "dump.files")
            .hint("name one file as in `holdfast dump latest:/etc/app.conf`, or use restore --target DIR"),
        Error::HoldsNoFiles { name } => {
            of(ExitCode::Usage, "dump.no_files").hint(format!("leave out the path: `holdfast dump SELECTOR {name}`"))
        }
        Error::NoSuchPath { .. } => of(ExitCode::SnapshotNotFound, "path.not_found")
            .hint("paths are absolute, as in latest:/etc/app.conf; `holdfast ls SELECTOR` lists them"),
        Error::NotAFile { .. } => {
            of(ExitCode::Usage, "dump.not_a_file").hint("restore it: `holdfast restore SELECTOR:PATH --target DIR`")
        }
        Error::Interrupted => Failure::interrupted(ExitCode::Interrupted),
    }
}
