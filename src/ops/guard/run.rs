//! The command under an open guard, and what follows from how it ends.

use super::command::{Command, Failed, Outcome};
use super::open::{Opened, ended, entry};
use super::record::{Ending, Purpose, State};
use super::{Error, Means};
use crate::domain::id::{ActId, SnapshotId};
use crate::repository::error::RepoError;

/// A guard that ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The act.
    pub act: ActId,
    /// Its name.
    pub name: String,
    /// The snapshot of the state before.
    pub snapshot: SnapshotId,
    /// How it ended.
    pub ending: Ending,
}

/// Runs a command under a guard, then its validation. Success keeps what was done (of a migration) or puts the state
/// before back (of a test); failure puts it back.
///
/// # Errors
/// [`Error::RolledBack`] and the other ends of a guard that was open.
pub fn run(
    means: &Means<'_>,
    mut opened: Opened<'_>,
    command: &Command,
    validation: Option<&Command>,
) -> Result<Done, Error> {
    match carry_out(means, &mut opened, command, validation)? {
        None if opened.plan.purpose == Purpose::Migration => opened.complete(),
        None => opened.back(means, None),
        Some(failed) => opened.back(means, Some(failed)),
    }
}

/// What failed; `None` when nothing did.
fn carry_out(
    means: &Means<'_>,
    opened: &mut Opened<'_>,
    command: &Command,
    validation: Option<&Command>,
) -> Result<Option<Failed>, Error> {
    let command_failed = |outcome: Outcome| {
        let (shown, outcome, interrupted) = (command.shown.clone(), outcome.text, outcome.interrupted);
        Ok(Some(Failed::Command { shown, outcome, interrupted }))
    };
    // Before the command is started: after a crash it may have begun.
    match opened.say(State::Running) {
        Ok(()) => {}
        Err(Error::TakenOver { name }) => return Err(Error::TakenOver { name }),
        Err(error) => {
            let _ = opened.act.clone().finish(&ended(
                Ending::Refused,
                &opened.plan,
                Some(opened.snapshot),
                Some(super::open::line(&error)),
            ));
            return Err(error);
        }
    }
    means.note("guard.running", &format!("running {}", command.shown));
    means.phase("");
    let started = match command.start(means) {
        Ok(started) => started,
        Err(outcome) => return command_failed(outcome),
    };
    opened.running = started.running(means);
    // Only so that others can find it: without this entry they know that it runs, and not as which process.
    if let Err(taken @ Error::TakenOver { .. }) = opened.say(State::Running) {
        drop(started);
        return Err(taken);
    }
    if let Err(outcome) = command.wait(means, started) {
        return command_failed(outcome);
    }
    let Some(validation) = validation else { return Ok(None) };
    match opened.say(State::Validating) {
        Err(taken @ Error::TakenOver { .. }) => return Err(taken),
        Err(error) => means.warn("guard.unrecorded", &format!("The next step cannot be written down: {error}")),
        Ok(()) => {}
    }
    means.note("guard.validating", &format!("validating with {}", validation.shown));
    means.phase("");
    let result = validation.start(means).and_then(|started| validation.wait(means, started));
    Ok(result.err().map(|outcome| Failed::Validation {
        shown: validation.shown.clone(),
        outcome: outcome.text,
        interrupted: outcome.interrupted,
    }))
}

impl Opened<'_> {
    /// Writes the next step down; it may begin when this returns.
    fn say(&mut self, state: State) -> Result<(), Error> {
        let mut entry = entry(state, &self.plan, Some(self.snapshot), None);
        entry.running.clone_from(&self.running);
        self.act.note(&entry).map_err(|error| match error {
            RepoError::ActTaken { .. } => Error::TakenOver { name: self.plan.name.clone() },
            other => Error::Repository(other),
        })
    }

    /// The act.
    pub fn act(&self) -> ActId {
        self.act.id()
    }

    pub(super) fn complete(self) -> Result<Done, Error> {
        let done = self.done(Ending::Completed);
        let Self { act, plan, snapshot, .. } = self;
        match act.finish(&ended(Ending::Completed, &plan, Some(snapshot), None)) {
            Ok(()) => Ok(done),
            Err(RepoError::ActTaken { .. }) => Err(Error::TakenOver { name: plan.name }),
            Err(source) => Err(Error::NotClosed { name: plan.name, source }),
        }
    }

    fn done(&self, ending: Ending) -> Done {
        Done { act: self.act.id(), name: self.plan.name.clone(), snapshot: self.snapshot, ending }
    }

    /// Puts the state before back.
    pub(super) fn back(mut self, means: &Means<'_>, failed: Option<Failed>) -> Result<Done, Error> {
        if let Some(failed) = &failed {
            means.warn("guard.failed", &format!("{failed}; the state before is put back now"));
        }
        let cause = failed.as_ref().map(Failed::to_string);
        let mut noted = entry(State::RollingBack, &self.plan, Some(self.snapshot), cause.clone());
        noted.running.clone_from(&self.running);
        match self.act.note(&noted) {
            Ok(()) => {}
            Err(RepoError::ActTaken { .. }) => return Err(Error::TakenOver { name: self.plan.name }),
            // A repository that is full must not keep the state before from coming back.
            Err(error) => means.warn("guard.unrecorded", &format!("The rollback cannot be written down: {error}")),
        }
        means.phase("putting the state before back");
        let done = self.done(Ending::RolledBack);
        match means.hands.put_back(&self.plan, self.snapshot) {
            Ok(()) => {}
            Err(back) => {
                let cause = Some(back.to_string());
                let _ = self.act.note(&entry(State::RollbackFailed, &self.plan, Some(self.snapshot), cause));
                let (name, snapshot) = (self.plan.name, self.snapshot);
                return Err(Error::NotRolledBack { name, failed, snapshot, back: Box::new(back) });
            }
        }
        let finished = self.act.finish(&ended(Ending::RolledBack, &self.plan, Some(self.snapshot), cause));
        if let Err(error) = finished {
            // The data is as it must be; only that it is so could not be written down.
            let name = &self.plan.name;
            let text =
                format!("Guard {name} cannot be closed: {error}; `holdfast guard rollback {name}` does it later");
            means.warn("guard.unrecorded", &text);
        }
        match failed {
            None => Ok(done),
            Some(failed) => Err(Error::RolledBack { name: self.plan.name, failed, snapshot: self.snapshot }),
        }
    }
}
