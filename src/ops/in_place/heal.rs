//! What a dead run left is finished: before the swap the new is thrown away, after it the way is gone to its end, or
//! back where that is wished or the verification fails.

use super::places::Replacement;
use super::record::{Ending, PlannedItem, Standing, Step};
use super::steps::Run;
use super::{Context, Error, Item, Outcome, Trouble};
use crate::domain::act::{ActKind, Whereabouts};
use crate::domain::id::ActId;
use crate::repository::acts::{self, Story};
use crate::repository::error::RepoError;
use crate::target::replace::State;

/// Where a run that was cut short after its swap is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To its end, if the verification agrees.
    Forward,
    /// To the state before.
    Back,
}

/// What was done about one run that was cut short.
#[derive(Debug)]
pub struct Healed {
    /// The act.
    pub act: ActId,
    /// The step in which it was cut short.
    pub step: Step,
    /// How it stands now; an error says why it could not be brought to an end.
    pub result: Result<Mended, Error>,
}

/// How a run that was cut short was brought to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mended {
    /// The new is in its place.
    Restored(Box<Outcome>),
    /// The old is in its place.
    RolledBack,
    /// Nothing had been touched.
    Untouched,
}

/// Restores in place that have not ended, with where their processes are, oldest first. The second list names what could
/// not be read.
///
/// # Errors
/// Storage errors.
pub fn unfinished(context: &Context<'_>) -> Result<Vec<(Story, Whereabouts)>, RepoError> {
    let recorder = &context.recorder;
    let stories = acts::list(recorder.store, recorder.keys, Some(ActKind::Restore))?.stories;
    let open = stories.into_iter().filter(|story| !story.is_finished());
    Ok(open.map(|story| (context.census.find(&story.last().owner()), story)).map(|(w, s)| (s, w)).collect())
}

/// Brings every restore in place that was cut short on this machine to an end.
///
/// # Errors
/// When the acts cannot be listed. What cannot be brought to an end is part of the result.
pub fn heal(context: &Context<'_>, direction: Direction) -> Result<Vec<Healed>, RepoError> {
    heal_of(context, direction, &[Whereabouts::Dead])
}

/// As [`heal`], also for runs of other machines, of which somebody says that they will not come back.
///
/// # Errors
/// As [`heal`].
pub fn heal_with_others(context: &Context<'_>, direction: Direction) -> Result<Vec<Healed>, RepoError> {
    heal_of(context, direction, &[Whereabouts::Dead, Whereabouts::Elsewhere])
}

fn heal_of(context: &Context<'_>, direction: Direction, whose: &[Whereabouts]) -> Result<Vec<Healed>, RepoError> {
    let mut healed = Vec::new();
    for (story, whereabouts) in unfinished(context)? {
        if !whose.contains(&whereabouts) {
            continue;
        }
        let Some(standing) = Standing::of(&story) else { continue };
        let step = standing.last.state;
        healed.push(Healed { act: story.id, step, result: mend(context, &story, standing, direction) });
    }
    Ok(healed)
}

fn mend(context: &Context<'_>, story: &Story, standing: Standing, direction: Direction) -> Result<Mended, Error> {
    let (last, reached) = (standing.last, standing.reached);
    let act = context.recorder.resume(story);
    let unreachable = |trouble: Trouble| Error::NotRolledBack {
        act: story.id,
        step: reached,
        source: Box::new(trouble),
        back: Vec::new(),
        places: Vec::new(),
        safety: last.safety,
    };
    let mut items = Vec::new();
    for planned in &last.plan.items {
        let place = context
            .surroundings
            .place(planned)
            .map_err(|reason| unreachable(Trouble::Unreachable { place: planned.place.clone(), reason }))?;
        let (source, safety_source) = (planned.source.clone(), planned.safety_source.clone());
        items.push(Item { source, safety_source, place, empties: planned.empties });
    }
    let mut run = Run::of(context, act, last.plan, items, last.safety, reached)?;
    match last.state {
        Step::Prerequisites | Step::ServiceStop | Step::Safety if run.has_begun_nothing() => {
            run.finish(Ending::Refused, Some("the run was cut short".to_owned()))?;
            Ok(Mended::Untouched)
        }
        Step::Settle | Step::Finished => run.settle().map(|outcome| Mended::Restored(Box::new(outcome))),
        Step::Swap | Step::ServiceStart | Step::Verification if direction == Direction::Forward => {
            match run.swap_and_verify() {
                Ok(()) => run.settle().map(|outcome| Mended::Restored(Box::new(outcome))),
                Err(trouble) => Err(run.back(trouble)),
            }
        }
        _ => match run.back(Trouble::Interrupted) {
            Error::RolledBack { stopped: None, .. } => Ok(Mended::RolledBack),
            other => Err(other),
        },
    }
}

/// What stands in the places of an act now, one line for each, for people.
pub fn places_now(context: &Context<'_>, story: &Story) -> Vec<String> {
    let Some(standing) = Standing::of(story) else {
        return vec!["its newest entry cannot be understood: a newer holdfast wrote it".to_owned()];
    };
    let mut lines = Vec::new();
    for planned in &standing.last.plan.items {
        let place = context.surroundings.place(planned);
        let line = match place.map(|place| place.replacement(story.id, planned)) {
            Ok(Ok(replacement)) => where_is(&replacement, planned),
            Ok(Err(error)) => format!("{}: cannot be looked at ({error})", planned.place),
            Err(reason) => format!("{}: cannot be reached ({reason})", planned.place),
        };
        lines.push(line);
    }
    lines
}

/// What is where now, for people.
pub(super) fn where_is(replacement: &Replacement, planned: &PlannedItem) -> String {
    let steps = replacement.steps();
    let names = steps.names();
    match steps.state() {
        Ok(_) if planned.within => format!("{}: goes with the tree around it", planned.place),
        Ok(State::Untouched | State::Staged) if planned.empties => format!("{}: what is to go is there", planned.place),
        Ok(State::Swapped) if planned.empties => {
            format!("{}: nothing is there, what was there is {}", planned.place, names.old)
        }
        Ok(State::Untouched) => format!("{}: what was there before is in its place", planned.place),
        Ok(State::Staged) => {
            format!("{}: what was there before is in its place, the new is {}", planned.place, names.new)
        }
        Ok(State::Swapped) => {
            format!("{}: the new is in its place, what was there before is {}", planned.place, names.old)
        }
        Ok(State::Halfway) => {
            format!(
                "{}: halfway, what was there before is {} or in its place, the new {}",
                planned.place, names.old, names.new
            )
        }
        Err(error) => format!(
            "{}: cannot be looked at ({error}); what was there before is in its place or is {}",
            planned.place, names.old
        ),
    }
}
