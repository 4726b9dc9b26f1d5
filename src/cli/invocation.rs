//! One run of the program: its global flags, surroundings, settings, output, clock, randomness and the wish to stop.
//! Every command takes it as its first argument.

use super::args::global::{GlobalArgs, LogFormat};
use super::environment::{Environment, SystemClock};
use super::errors::file_failure;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::log::{Log, LogLevel};
use super::output::{JsonMode, Output};
use super::progress::{ProgressOptions, ProgressView};
use super::settings::Settings;
use super::signals;
use crate::domain::system::Clock;
use crate::domain::time_spec::Context;
use crate::fsio::system::RealRandom;
use crate::ops::cancel::Cancel;
use crate::ops::observer::Observer;
use crate::ops::patience::Patience;
use crate::source::postgres::connect::LibpqEnvironment;
use crate::source::process::SystemProcesses;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// One run of the program.
pub(crate) struct Invocation {
    /// Flags of every command.
    pub(crate) global: GlobalArgs,
    /// What surrounds the process.
    pub(crate) environment: Environment,
    /// Standard output and standard error.
    pub(crate) output: Arc<Output>,
    /// The wish to stop.
    pub(crate) cancel: Cancel,
    /// The time.
    pub(crate) clock: SystemClock,
    /// Identifiers and keys.
    pub(crate) random: RealRandom,
    /// Starts programs; their reads and waits end when the run is cancelled.
    pub(crate) processes: SystemProcesses,
    settings: OnceLock<Settings>,
    progress: OnceLock<ProgressView>,
    wants_line: Arc<AtomicBool>,
    began: Instant,
}

impl Invocation {
    /// Prepares a run: checks flags that have no meaning yet, connects the signals. `json` is how the command prints
    /// JSON.
    pub(crate) fn new(mut global: GlobalArgs, environment: Environment, json: JsonMode) -> Result<Self, Failure> {
        refuse_reserved(&global)?;
        let debug = environment.text("DEBUG").is_some_and(|text| matches!(text.trim(), "1" | "true" | "yes" | "on"));
        if debug && !global.quiet {
            global.verbose = global.verbose.max(1);
        }
        let level = environment.text("HOLDFAST_LOG").map_or(Ok(LogLevel::default()), LogLevel::parse)?;
        if !global.quiet {
            global.verbose = global.verbose.max(level.verbosity());
        }
        let mut output = Output::system(global.output_options(&environment, json));
        if let Some(path) = &global.log_file {
            let path = environment.directory.join(path);
            let lines = global.log_format == LogFormat::Json;
            let log = Log::open(&path, lines, level, Box::new(SystemClock));
            output = output.with_log(log.map_err(|error| file_failure("write the log to", &path, &error))?);
        }
        let output = Arc::new(output);
        let (cancel, wants_line) = (Cancel::new(), Arc::new(AtomicBool::new(false)));
        let connected = signals::install(&cancel, &wants_line);
        connected.map_err(|error| Failure::from_error(ExitCode::Failed, "signals", &error))?;
        Ok(Self {
            global,
            environment,
            output,
            processes: SystemProcesses::new(Some(cancel.flag())),
            cancel,
            clock: SystemClock,
            random: RealRandom,
            settings: OnceLock::new(),
            progress: OnceLock::new(),
            wants_line,
            began: Instant::now(),
        })
    }

    /// The settings, gathered on first use: help, completions and the like need none.
    pub(crate) fn settings(&self) -> Result<&Settings, Failure> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let settings = Settings::load(&self.global.overrides(), &self.environment)?;
        for warning in &settings.warnings {
            self.output.warning("settings", None, "", warning);
        }
        Ok(self.settings.get_or_init(|| settings))
    }

    /// Who watches operations: the progress display, started on first use.
    pub(crate) fn observer(&self) -> &dyn Observer {
        self.progress.get_or_init(|| {
            let fps = self.settings.get().and_then(|settings| settings.progress_fps);
            let wants_line = Arc::clone(&self.wants_line);
            let options = ProgressOptions { disabled: self.global.no_progress, fps, wants_line };
            ProgressView::start(Arc::clone(&self.output), options)
        })
    }

    /// How long another maintenance run is waited for.
    pub(crate) fn patience(&self) -> Patience<'_> {
        Patience {
            longest: self.global.retry_lock,
            random: &self.random,
            observer: self.observer(),
            cancel: &self.cancel,
        }
    }

    /// Now and here, for times that people write.
    pub(crate) fn time_context(&self) -> Context {
        Context { now: self.clock.now(), tz: self.environment.time_zone.clone() }
    }

    /// What libpq would find around it.
    pub(crate) fn libpq(&self) -> Result<LibpqEnvironment, Failure> {
        Ok(LibpqEnvironment {
            variables: self.settings()?.postgres_variables.0.clone(),
            home: self.environment.home.clone(),
            os_user: self.environment.user.clone(),
        })
    }

    /// The program and its version, as it signs what it makes.
    pub(crate) fn program() -> String {
        format!("holdfast {}", env!("CARGO_PKG_VERSION"))
    }

    /// True when there is somebody to ask: a terminal, neither `--no-input` nor JSON.
    pub(crate) fn may_ask(&self) -> bool {
        let terminal = self.environment.stdin_terminal && self.environment.stderr_terminal;
        terminal && !self.global.no_input && !self.global.json
    }

    /// Asks for a yes before something that cannot be undone; `--yes` answers it.
    ///
    /// # Errors
    /// Exit code 17 where nobody can be asked, 1 when the answer is no.
    pub(crate) fn confirm(&self, question: &str) -> Result<(), Failure> {
        if self.global.yes {
            return Ok(());
        }
        if !self.may_ask() {
            let message = format!("A confirmation is needed: {question}");
            return Err(Failure::new(ExitCode::NeedsConfirmation, "confirmation.needed", message).hint("give --yes"));
        }
        let answer = self.ask(&format!("{question} [y/N] "))?;
        match answer.to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::new(ExitCode::Failed, "confirmation.refused", "Not confirmed; nothing was changed")),
        }
    }

    /// Asks one question on the terminal; `None` when the input has ended.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub(crate) fn ask_or_end(&self, question: &str) -> Result<Option<String>, Failure> {
        let mut input = std::io::BufReader::new(Answers { cancel: &self.cancel });
        let answer = self.output.ask_or_end(question, &mut input);
        // The line of the question ends here.
        self.cancel.check().inspect_err(|_| self.output.talk(""))?;
        answer.map_err(|error| {
            Failure::new(ExitCode::Failed, "terminal", "Cannot read an answer from the terminal").caused_by(&error)
        })
    }

    /// Asks one question on the terminal.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub(crate) fn ask(&self, question: &str) -> Result<String, Failure> {
        Ok(self.ask_or_end(question)?.unwrap_or_default())
    }

    /// Begins the log of the run. Arguments are not logged: nobody knows what is in them.
    pub(crate) fn log_start(&self, verb: &str) {
        self.output.log(LogLevel::Info, "run.start", "", &format!("{} begins {verb}", Self::program()));
    }

    /// Ends the run: progress goes away, a failure is printed, and the exit code is what it must be.
    pub(crate) fn finish(mut self, result: Result<ExitCode, Failure>) -> ExitCode {
        if let Some(progress) = self.progress.get_mut() {
            progress.finish();
        }
        let result = match (result, self.output.stdout_error()) {
            (Ok(_), Some(reason)) => {
                let message = "Cannot write to standard output, so the result is not complete";
                Err(Failure::new(ExitCode::Failed, "output.failed", message).cause(reason))
            }
            (result, _) => result,
        };
        let exit = match result {
            Ok(code) => code,
            Err(mut failure) => {
                if failure.exit == ExitCode::Interrupted {
                    failure.exit = signals::exit_code(&self.cancel);
                }
                self.output.failure(&failure);
                failure.exit
            }
        };
        let seconds = self.began.elapsed().as_secs_f64();
        let text = format!("ended with exit code {} ({}) after {seconds:.1} s", exit.code(), exit.meaning());
        self.output.log(LogLevel::Info, "run.end", "", &text);
        exit
    }
}

/// Standard input while a question is open: a signal ends the waiting. A terminal gives one line at a time, so nothing
/// that belongs to the next question is read ahead.
struct Answers<'a> {
    cancel: &'a Cancel,
}

impl std::io::Read for Answers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let stdin = rustix::stdio::stdin();
        loop {
            if self.cancel.is_cancelled() {
                return Err(std::io::Error::other("interrupted"));
            }
            match poll(&mut [PollFd::from_borrowed_fd(stdin, PollFlags::IN)], Some(&SLICE)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(rustix::io::read(stdin, buffer)?),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Flags that are understood but have nothing to act on yet: accepting them in silence would promise something.
fn refuse_reserved(global: &GlobalArgs) -> Result<(), Failure> {
    let reserved =
        [(global.limit_upload.is_some(), "--limit-upload"), (global.limit_download.is_some(), "--limit-download")];
    match reserved.into_iter().find(|(given, _)| *given) {
        Some((_, flag)) => {
            let message = format!("{flag} is reserved for a later version of holdfast");
            Err(Failure::usage("flag.reserved", message).hint("leave it out"))
        }
        None => Ok(()),
    }
}
