//! The guarded command and its validation: run with our own input and output, watched, ended when they must end.

use super::Means;
use super::record::Running;
use crate::source::process::{Child, Exit, ProcessSpec};
use std::time::{Duration, Instant};

/// How often a running program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A program that runs under a guard.
#[derive(Debug, Clone)]
pub struct Command {
    /// How it is started.
    pub spec: ProcessSpec,
    /// Its words, for people.
    pub shown: String,
    /// Longest time; none: it may take as long as it likes.
    pub limit: Option<Duration>,
}

/// Why what was done under a guard does not stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// The command did not succeed.
    Command {
        /// Its words.
        shown: String,
        /// The predicate: `exited with status 1`.
        outcome: String,
        /// The wish to stop ended it.
        interrupted: bool,
    },
    /// The command succeeded, and its validation did not.
    Validation {
        /// Its words.
        shown: String,
        /// The predicate.
        outcome: String,
        /// The wish to stop ended it.
        interrupted: bool,
    },
}

impl Failed {
    /// True when somebody wished the run to end.
    pub fn is_interruption(&self) -> bool {
        match self {
            Self::Command { interrupted, .. } | Self::Validation { interrupted, .. } => *interrupted,
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command { shown, outcome, .. } => write!(f, "The command `{shown}` {outcome}"),
            Self::Validation { shown, outcome, .. } => write!(f, "The validation `{shown}` {outcome}"),
        }
    }
}

/// How a program did not succeed.
pub(super) struct Outcome {
    pub(super) text: String,
    pub(super) interrupted: bool,
}

/// A program that was started.
pub(super) struct Started {
    child: Box<dyn Child>,
    at: Instant,
}

impl Started {
    /// What another process needs to find it.
    pub(super) fn running(&self, means: &Means<'_>) -> Option<Running> {
        let process = self.child.id()?;
        Some(Running { process, mark: means.census.mark(process) })
    }
}

impl Command {
    /// Starts it.
    pub(super) fn start(&self, means: &Means<'_>) -> Result<Started, Outcome> {
        let child = means
            .processes
            .spawn(&self.spec)
            .map_err(|error| Outcome { text: format!("cannot be run: {error}"), interrupted: false })?;
        Ok(Started { child, at: Instant::now() })
    }

    /// Waits for its end; ends it when its time is over or the run is to stop.
    pub(super) fn wait(&self, means: &Means<'_>, mut started: Started) -> Result<(), Outcome> {
        let fail = |text: String, interrupted| Err(Outcome { text, interrupted });
        loop {
            match started.child.wait(Some(LOOK_EVERY)) {
                Ok(Some(exit)) if means.cancel.is_cancelled() => {
                    return fail(format!("{exit} when the run was interrupted"), true);
                }
                Ok(Some(Exit::Code(0))) => return Ok(()),
                Ok(Some(exit)) => return fail(exit.to_string(), false),
                Ok(None) => {}
                Err(error) => return fail(format!("cannot be waited for: {error}"), false),
            }
            if means.cancel.is_cancelled() {
                started.child.kill();
                return fail("was ended because the run was interrupted".to_owned(), true);
            }
            if let Some(limit) = self.limit.filter(|limit| started.at.elapsed() >= *limit) {
                started.child.kill();
                let limit = crate::domain::units::format_duration(limit);
                return fail(format!("did not end within {limit} and was ended"), false);
            }
        }
    }
}
