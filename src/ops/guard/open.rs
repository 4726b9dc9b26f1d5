//! A guard opens: claimed, looked at, saved, verified.

use super::holders::{claim_all, open_guards};
use super::record::{Ending, Entry, Plan, Running, State};
use super::{Error, Means, Unfit, UnfitKind};
use crate::domain::act::ActKind;
use crate::domain::id::SnapshotId;
use crate::repository::acts::Act;
use crate::repository::error::RepoError;

/// A guard that this process holds.
#[derive(Debug)]
pub struct Opened<'a> {
    pub(super) act: Act<'a>,
    /// What it is.
    pub plan: Plan,
    /// The snapshot of the state before.
    pub snapshot: SnapshotId,
    pub(super) running: Option<Running>,
}

pub(super) fn entry(state: State, plan: &Plan, snapshot: Option<SnapshotId>, cause: Option<String>) -> Entry {
    let because = cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
    let what = if plan.description.is_empty() { String::new() } else { format!(" ({})", plan.description) };
    let text = format!("{}{what} on {}{because}", plan.name, plan.sources().join(", "));
    Entry { state, text, plan: plan.clone(), snapshot, running: None, cause, ending: None }
}

pub(super) fn ended(ending: Ending, plan: &Plan, snapshot: Option<SnapshotId>, cause: Option<String>) -> Entry {
    let mut entry = entry(State::Finished, plan, snapshot, cause);
    entry.text = format!("{}: {}", ending.as_str(), entry.text);
    entry.ending = Some(ending);
    entry
}

/// An error with its causes, as one line.
pub(super) fn line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let inner = source.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        next = source.source();
    }
    text
}

/// Opens a guard, up to the point where the dangerous thing may begin; its state is [`State::Open`] then. `force`: sources
/// of which nobody can tell whether they are free count as free.
///
/// # Errors
/// [`Error`]; nothing was touched, and the guard is closed again.
pub fn open<'a>(means: &Means<'a>, plan: Plan, force: bool) -> Result<Opened<'a>, Error> {
    means.cancel.check()?;
    close_harmless(means)?;
    means.phase("opening the guard");
    let mut act = means.recorder.begin(ActKind::Guard, &entry(State::Opening, &plan, None, None))?;
    match prepare(means, &mut act, &plan, force) {
        Ok(snapshot) => Ok(Opened { act, plan, snapshot, running: None }),
        Err(error) => {
            let error = match error {
                Error::Repository(RepoError::ActTaken { .. }) => return Err(Error::TakenOver { name: plan.name }),
                Error::Unfit { source: Unfit { kind: UnfitKind::Interrupted, .. } } => Error::Interrupted,
                other => other,
            };
            // Best effort: what is left is a guard that did nothing, whose process will be dead.
            let _ = act.finish(&ended(Ending::Refused, &plan, None, Some(line(&error))));
            Err(error)
        }
    }
}

/// Guards whose processes died before they did anything are closed, so that they are in nobody's way.
fn close_harmless(means: &Means<'_>) -> Result<(), Error> {
    for holder in open_guards(means)? {
        if holder.is_harmless_and_dead() {
            super::resume::give_up(means, &holder)?;
            let message = format!("guard {} was cut short before it opened and is closed now", holder.name);
            means.note("guard.closed", &message);
        }
    }
    Ok(())
}

fn prepare(means: &Means<'_>, act: &mut Act<'_>, plan: &Plan, force: bool) -> Result<SnapshotId, Error> {
    let unfit = |source: Unfit| Error::Unfit { source };
    claim_all(means, act.id(), &plan.name, &plan.sources(), force)?;
    means.cancel.check()?;
    act.note(&entry(State::Checking, plan, None, None))?;
    means.phase("checking sources");
    means.hands.look(plan).map_err(unfit)?;
    means.cancel.check()?;
    act.note(&entry(State::Saving, plan, None, None))?;
    let snapshot = means.hands.save(plan).map_err(unfit)?;
    means.cancel.check()?;
    act.note(&entry(State::Verifying, plan, Some(snapshot), None))?;
    means.phase("verifying the snapshot");
    means.hands.verify(plan, snapshot).map_err(unfit)?;
    means.cancel.check()?;
    act.note(&entry(State::Open, plan, Some(snapshot), None))?;
    Ok(snapshot)
}
