//! The steps, forwards and back.

use super::places::{Replacement, stage};
use super::record::{Ending, Entry, Plan, PlannedItem, Step};
use super::{Context, Error, Item, Outcome, Program, Request, Trouble, checks, heal, nested, programs};
use crate::domain::act::ActKind;
use crate::domain::id::{ActId, SnapshotId};
use crate::domain::snapshot::Snapshot;
use crate::ops::observer::Event;
use crate::repository::acts::Act;
use crate::repository::error::RepoError;
use crate::source::process::Processes;

/// Restores in place.
///
/// # Errors
/// [`Error`], which says what stands in the places now.
pub fn run(context: &Context<'_>, request: &Request<'_>) -> Result<Outcome, Error> {
    let plan = plan(request)?;
    let mut run = Run::begin(context, plan, request.items.clone())?;
    run.snapshot = Some(request.snapshot.clone());
    if let Err(error) = checks::rivals(context, &run.plan, run.id) {
        run.finish(Ending::Refused, Some(error.to_string()))?;
        return Err(error);
    }
    let checked = checks::check(context, request).and_then(|checks| Ok(context.cancel.check().map(|()| checks)?));
    let mut failed = checked.map_err(|trouble| run.untouched(Step::Prerequisites, trouble))?;
    failed.retain(|check| !check.good);
    if !failed.is_empty() {
        let cause = failed.iter().map(|check| format!("{}: {}", check.subject, check.finding)).collect::<Vec<_>>();
        run.finish(Ending::Refused, Some(cause.join("; ")))?;
        return Err(Error::Unready { failed });
    }
    match run.forward(request.safety) {
        Ok(()) => run.settle(),
        Err(trouble) if run.has_begun_nothing() => Err(run.untouched(run.reached, trouble)),
        Err(trouble) => Err(run.back(trouble)),
    }
}

/// What is about to be done.
fn plan(request: &Request<'_>) -> Result<Plan, Error> {
    let mut items = Vec::new();
    for item in &request.items {
        let untouched = |trouble: Trouble| Error::Untouched { step: Step::Prerequisites, source: Box::new(trouble) };
        let kind = match &item.place {
            super::Place::Postgres { .. } => crate::domain::snapshot::SourceKind::Postgres,
            super::Place::Sqlite { .. } => crate::domain::snapshot::SourceKind::Sqlite,
            super::Place::Tree { .. } => crate::domain::snapshot::SourceKind::Files,
        };
        let from = match &item.place {
            super::Place::Tree { from, .. } => Some(from.clone()),
            _ => None,
        };
        items.push(PlannedItem {
            source: item.source.clone(),
            safety_source: item.safety_source.clone(),
            kind,
            place: item.place.shown(),
            reach: item.place.reach(),
            from,
            existed: item.place.exists().map_err(|error| untouched(error.into()))?,
            empties: item.empties,
            within: false,
        });
    }
    nested::mark(&mut items);
    Ok(Plan {
        purpose: request.purpose,
        snapshot: request.snapshot.id,
        snapshot_ns: request.snapshot.time_ns,
        environment: request.environment.clone(),
        service: request.service,
        check: request.check,
        items,
    })
}

/// What became of putting back.
struct PutBack {
    /// What could not be put back; empty when the state before is in every place.
    problems: Vec<String>,
    /// What of the new could not be removed from beside the places.
    left: Vec<String>,
    /// Why the application does not run, although everything is in its place.
    stopped: Option<String>,
}

/// An act on its way.
pub(super) struct Run<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) id: ActId,
    act: Option<Act<'a>>,
    pub(super) plan: Plan,
    items: Vec<Item>,
    replacements: Vec<Replacement>,
    snapshot: Option<Snapshot>,
    pub(super) safety: Option<SnapshotId>,
    /// When that was saved, nanoseconds since 1970 UTC; not known of a run that another process began.
    safety_ns: Option<i64>,
    /// The last step of the way forward that has begun.
    pub(super) reached: Step,
}

impl<'a> Run<'a> {
    fn begin(context: &'a Context<'a>, plan: Plan, items: Vec<Item>) -> Result<Self, Error> {
        let entry = entry(Step::Prerequisites, &plan, None, None);
        let act = context.recorder.begin(ActKind::Restore, &entry)?;
        Self::of(context, act, plan, items, None, Step::Prerequisites)
    }

    /// Goes on with an act.
    pub(super) fn of(
        context: &'a Context<'a>,
        act: Act<'a>,
        plan: Plan,
        items: Vec<Item>,
        safety: Option<SnapshotId>,
        reached: Step,
    ) -> Result<Self, Error> {
        let id = act.id();
        let replacements: Result<Vec<_>, _> =
            items.iter().zip(&plan.items).map(|(item, p)| item.place.replacement(id, p)).collect();
        let (replacements, failed) = match replacements {
            Ok(replacements) => (replacements, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let (act, snapshot, safety_ns) = (Some(act), None, None);
        let mut run = Self { context, id, act, plan, items, replacements, snapshot, safety, safety_ns, reached };
        match failed {
            None => Ok(run),
            Some(error) if run.has_begun_nothing() => Err(run.untouched(reached, error.into())),
            Some(error) => Err(Error::NotRolledBack {
                act: id,
                step: reached,
                source: Box::new(error.into()),
                back: Vec::new(),
                places: Vec::new(),
                safety,
            }),
        }
    }

    /// True while neither the application nor a place has been touched.
    pub(super) fn has_begun_nothing(&self) -> bool {
        self.reached < Step::ServiceStop || (self.reached <= Step::Safety && !self.plan.service)
    }

    /// Steps 2 to 7.
    fn forward(&mut self, safety: bool) -> Result<(), Trouble> {
        self.stop()?;
        if safety {
            self.save()?;
        }
        self.stage()?;
        self.swap_and_verify()
    }

    /// Writes the next step down; it may begin when this returns.
    fn note(&mut self, step: Step, cause: Option<String>) -> Result<(), Trouble> {
        let entry = entry(step, &self.plan, self.safety, cause);
        let phase = Event::PhaseStarted { phase: phase(step), total_bytes: None, total_items: None };
        if step <= Step::Settle {
            self.reached = self.reached.max(step);
        }
        if let Some(act) = &mut self.act {
            act.note(&entry)?;
        }
        self.context.observer.event(&phase);
        Ok(())
    }

    /// Writes the end down.
    pub(super) fn finish(&mut self, ending: Ending, cause: Option<String>) -> Result<(), Error> {
        let mut entry = entry(Step::Finished, &self.plan, self.safety, cause);
        entry.text = format!("{}: {}", ending.as_str(), entry.text);
        entry.ending = Some(ending);
        match self.act.take() {
            Some(act) => act.finish(&entry).map_err(|error| self.unwritten(error)),
            None => Ok(()),
        }
    }

    fn unwritten(&self, error: RepoError) -> Error {
        match error {
            RepoError::ActTaken { act } => Error::TakenOver { act },
            other => Error::Repository(other),
        }
    }

    /// Ends the act: nothing was touched.
    pub(super) fn untouched(&mut self, step: Step, trouble: Trouble) -> Error {
        match self.finish(Ending::Refused, Some(describe(&trouble))) {
            Err(error @ Error::TakenOver { .. }) => error,
            _ => Error::Untouched { step, source: Box::new(trouble) },
        }
    }

    /// Step 3.
    fn save(&mut self) -> Result<(), Trouble> {
        let there: Vec<Item> =
            self.items.iter().zip(&self.plan.items).filter(|(_, p)| p.existed).map(|(i, _)| i.clone()).collect();
        if there.is_empty() {
            return Ok(());
        }
        self.note(Step::Safety, None)?;
        let saved = match self.context.surroundings.save(&there) {
            // Whatever a program said that was ended with us.
            Err(_) if self.context.cancel.is_cancelled() => return Err(Trouble::Interrupted),
            saved => saved?,
        };
        let message = format!("what is there now is saved as {}", saved.id.short());
        self.context.observer.event(&Event::Note { code: "restore.safety", message: &message });
        (self.safety, self.safety_ns) = (Some(saved.id), Some(saved.time_ns));
        Ok(())
    }

    /// Runs a command of the application on the way forward; an interruption ends it.
    fn program(&self, what: &'static str, program: Option<&Program>) -> Result<(), Trouble> {
        match run_program(self.context.processes, what, program) {
            Err(_) if self.context.cancel.is_cancelled() => Err(Trouble::Interrupted),
            other => other,
        }
    }

    /// Step 2.
    fn stop(&mut self) -> Result<(), Trouble> {
        self.context.cancel.check()?;
        if self.plan.service {
            self.note(Step::ServiceStop, None)?;
            let service = self.context.surroundings.service(self.plan.environment.as_deref());
            self.program("Stopping the application", service.stop.as_ref())?;
        }
        Ok(())
    }

    /// Step 4.
    fn stage(&mut self) -> Result<(), Trouble> {
        self.context.cancel.check()?;
        self.note(Step::Restore, None)?;
        let Some(snapshot) = &self.snapshot else { return Err(Trouble::Interrupted) };
        for (item, replacement) in self.items.iter().zip(&self.replacements) {
            self.context.cancel.check()?;
            match replacement {
                Replacement::Within(_) => continue,
                Replacement::Emptying(emptying) => {
                    emptying.begin()?;
                    continue;
                }
                _ => {}
            }
            let missing = || RepoError::Missing { what: format!("Source {} of the snapshot", item.source) };
            let source = snapshot.source(&item.source).ok_or_else(missing)?;
            stage(self.context, snapshot, source, &item.place, replacement)?;
        }
        nested::stage_all(self.context, snapshot, self.id, &self.plan.items, &self.items, &self.replacements)?;
        Ok(self.context.cancel.check()?)
    }

    /// Steps 5, 6 and 7; all of them can be done again.
    pub(super) fn swap_and_verify(&mut self) -> Result<(), Trouble> {
        self.note(Step::Swap, None)?;
        for replacement in &self.replacements {
            replacement.steps().swap()?;
        }
        if self.plan.service {
            self.note(Step::ServiceStart, None)?;
            let service = self.context.surroundings.service(self.plan.environment.as_deref());
            self.program("Starting the application", service.start.as_ref())?;
        }
        self.note(Step::Verification, None)?;
        self.context.cancel.check()?;
        if self.plan.check {
            let check = self.context.surroundings.check();
            self.program("The check after the restore", check.as_ref())?;
        }
        Ok(self.context.cancel.check()?)
    }

    /// The old is not needed any more.
    pub(super) fn settle(&mut self) -> Result<Outcome, Error> {
        match self.note(Step::Settle, None) {
            Ok(()) => {}
            Err(Trouble::Repository(RepoError::ActTaken { act })) => return Err(Error::TakenOver { act }),
            // Not written down that it is settled: the old must stay, and can still be put back.
            Err(trouble) => return Err(self.back(trouble)),
        }
        let mut left = Vec::new();
        for replacement in &self.replacements {
            if let Err(error) = replacement.steps().discard_old() {
                let names = replacement.steps().names();
                left.push(format!("{} (what was in {} before): {error}", names.old, names.place));
            }
        }
        // What could not be removed is tried again by whoever comes next.
        if left.is_empty() {
            match self.finish(Ending::Restored, None) {
                Ok(()) => {}
                Err(error @ Error::TakenOver { .. }) => return Err(error),
                // The new is in its place, verified, and the old is gone: there is nothing left to fail.
                Err(error) => self.warn(&format!(
                    "All is restored and verified. That it is so cannot be written down: {error}; the next restore or \
                     rollback does it"
                )),
            }
        }
        let (emptied, filled): (Vec<_>, Vec<_>) = self.plan.items.iter().partition(|item| item.empties);
        let places = filled.into_iter().map(|item| (item.source.clone(), item.place.clone())).collect();
        let removed = emptied.into_iter().map(|item| item.place.clone()).collect();
        let (safety, safety_ns) = (self.safety, self.safety_ns);
        Ok(Outcome { act: self.id, snapshot: self.plan.snapshot, places, removed, safety, safety_ns, left })
    }

    /// Puts back what was there, whatever has been reached.
    pub(super) fn back(&mut self, trouble: Trouble) -> Error {
        if let Trouble::Repository(RepoError::ActTaken { act }) = trouble {
            return Error::TakenOver { act };
        }
        let step = self.reached;
        let cause = describe(&trouble);
        // A repository that is full or gone must not keep the old from its place: the last entry still says what is to
        // be taken back.
        match self.note(Step::Rollback, Some(cause.clone())) {
            Err(Trouble::Repository(RepoError::ActTaken { act })) => return Error::TakenOver { act },
            Err(other) => self.warn(&format!("The rollback cannot be written down: {}", describe(&other))),
            Ok(()) => {}
        }
        let PutBack { problems, left, stopped } = self.put_back(step);
        let (act, open) = (self.id, stopped.iter().chain(&left).cloned().collect::<Vec<String>>().join("; "));
        if problems.is_empty() {
            let ended = match open.is_empty() {
                true => self.finish(Ending::RolledBack, Some(cause)),
                // The act stays open, so that the next run removes what is left and starts the application.
                false => {
                    let _ = self.note(Step::RollbackFailed, Some(format!("{cause}; then {open}")));
                    Ok(())
                }
            };
            return match ended {
                Err(error @ Error::TakenOver { .. }) => error,
                _ => Error::RolledBack { act, step, source: Box::new(trouble), left, stopped },
            };
        }
        let _ = self.note(Step::RollbackFailed, Some(format!("{cause}; then {}", problems.join("; "))));
        let places = self.replacements.iter().zip(&self.plan.items).map(|(r, planned)| heal::where_is(r, planned));
        let places = places.collect();
        let source = Box::new(trouble);
        Error::NotRolledBack { act: self.id, step, source, back: problems, places, safety: self.safety }
    }

    /// Puts the state before into every place.
    fn put_back(&self, reached: Step) -> PutBack {
        let (mut problems, mut left) = (Vec::new(), Vec::new());
        let service = self.context.surroundings.service(self.plan.environment.as_deref());
        if self.plan.service && reached >= Step::ServiceStart {
            let stopped = run_program(self.context.steady, "Stopping the application", service.stop.as_ref());
            // Not fatal: whoever is connected is in the way of the swap, which says so.
            if let Err(trouble) = stopped {
                self.warn(&describe(&trouble));
            }
        }
        // Nothing stands beside a place before its new one was begun.
        let begun = if reached >= Step::Restore { self.replacements.as_slice() } else { &[] };
        for replacement in begun.iter().rev() {
            let steps = replacement.steps();
            if let Err(error) = steps.unswap().and_then(|()| steps.discard_new()) {
                let problem = format!("{}: {}", steps.names().place, describe(&Trouble::Replace(error)));
                // Before the swap nothing has left its place, whether it can be looked at now or not.
                if reached < Step::Swap { left.push(problem) } else { problems.push(problem) }
            }
        }
        // An application on top of half of its data would make things worse.
        let mut stopped = None;
        if self.plan.service && reached >= Step::ServiceStop && problems.is_empty() {
            let started = run_program(self.context.steady, "Starting the application", service.start.as_ref());
            stopped = started.err().map(|trouble| describe(&trouble));
        }
        PutBack { problems, left, stopped }
    }

    fn warn(&self, message: &str) {
        let event = Event::Warning { code: "restore.rollback", source: None, subject: "", message };
        self.context.observer.event(&event);
    }
}

fn run_program(processes: &dyn Processes, what: &'static str, program: Option<&Program>) -> Result<(), Trouble> {
    let Some(program) = program else { return Ok(()) };
    programs::run(processes, program).map(|_| ()).map_err(|source| Trouble::Program { what, source })
}

fn entry(step: Step, plan: &Plan, safety: Option<SnapshotId>, cause: Option<String>) -> Entry {
    let places: Vec<&str> = plan.items.iter().map(|item| item.place.as_str()).collect();
    let because = cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
    let text = format!("{} to {}{because}", plan.snapshot.short(), places.join(", "));
    Entry { state: step, text, plan: plan.clone(), safety, cause, ending: None }
}

fn phase(step: Step) -> &'static str {
    match step {
        Step::Prerequisites => "checking prerequisites",
        Step::Safety => "saving what is there",
        Step::ServiceStop => "stopping the application",
        Step::Restore => "restoring beside",
        Step::Swap => "swapping",
        Step::ServiceStart => "starting the application",
        Step::Verification => "verifying",
        Step::Settle | Step::Finished => "settling",
        Step::Rollback | Step::RollbackFailed => "rolling back",
    }
}

/// An error with its causes and the last lines of programs, as one line.
pub(super) fn describe(trouble: &Trouble) -> String {
    let mut text = trouble.to_string();
    let mut next = std::error::Error::source(trouble);
    while let Some(source) = next {
        let inner = source.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        next = source.source();
    }
    if let Trouble::Program { source, .. } = trouble
        && let Some(last) = source.output.lines().last()
    {
        text = format!("{text}: {last}");
    }
    text
}
