//! Guards that another process opened: completed, rolled back, closed by force.

use super::holders::{Holder, open_stories};
use super::open::{Opened, ended};
use super::record::{Ending, Entry, Plan, State};
use super::run::Done;
use super::{Error, Means, Unfit, UnfitKind};
use crate::domain::act::{ActKind, Owner, Whereabouts};
use crate::repository::acts::{self, Story};
use crate::repository::error::RepoError;

/// The newest guard of a name, open or not, with its story; by the beginning of its act's id as well.
///
/// # Errors
/// Storage errors.
pub fn find(means: &Means<'_>, name: &str) -> Result<Option<(Story, Entry)>, RepoError> {
    let found = acts::list(means.recorder.store, means.recorder.keys, Some(ActKind::Guard))?;
    let named = found.stories.into_iter().rev().filter_map(|story| Some((Entry::newest(&story)?, story)));
    let mut all: Vec<(Entry, Story)> = named
        .filter(|(entry, story)| entry.plan.name == name || (name.len() >= 8 && story.id.hex().starts_with(name)))
        .collect();
    // an open one first
    all.sort_by_key(|(_, story)| story.is_finished());
    Ok(all.into_iter().next().map(|(entry, story)| (story, entry)))
}

/// The open guard of a name.
fn find_open(means: &Means<'_>, name: &str) -> Result<(Story, Entry, Holder), Error> {
    match find(means, name)? {
        Some((story, entry)) if !story.is_finished() => {
            let holder = Holder::of(means, &story);
            Ok((story, entry, holder))
        }
        other => {
            let ended = other.and_then(|(_, entry)| entry.ending);
            Err(Error::NotOpen { name: name.to_owned(), ended })
        }
    }
}

/// Refuses to take a guard over from a process that works, or of which nobody can tell; with `force` only from one that
/// certainly works. A guard that waits for its owner's word belongs to nobody's process.
fn refuse_busy(means: &Means<'_>, entry: &Entry, holder: Holder, force: bool) -> Result<(), Error> {
    if entry.state == State::Open {
        return Ok(());
    }
    let busy = match holder.whereabouts {
        Whereabouts::Alive => true,
        Whereabouts::Elsewhere => !force,
        Whereabouts::Dead => false,
    };
    if busy {
        return Err(Error::Busy { holder: Box::new(holder) });
    }
    let runs = entry.running.as_ref().filter(|running| {
        let owner = Owner { process: running.process, mark: running.mark.clone(), ..holder.owner.clone() };
        means.census.find(&owner) == Whereabouts::Alive
    });
    match runs {
        Some(running) => Err(Error::CommandRuns { name: holder.name, process: running.process }),
        None => Ok(()),
    }
}

/// Refuses what [`complete`] and [`roll_back`] refuse, before anybody is asked about it.
///
/// # Errors
/// [`Error::NotOpen`], [`Error::Busy`], [`Error::CommandRuns`], storage errors.
pub fn refuse_taking_over(means: &Means<'_>, name: &str, force: bool) -> Result<(), Error> {
    let (_, entry, holder) = find_open(means, name)?;
    refuse_busy(means, &entry, holder, force)
}

/// Closes a guard that opened or ran: what was done under it stays.
///
/// # Errors
/// [`Error`]; the guard is as it was.
pub fn complete(means: &Means<'_>, name: &str, force: bool) -> Result<Done, Error> {
    let (story, entry, holder) = find_open(means, name)?;
    let wrong = |reason: &str, rolling_back| {
        Err(Error::WrongState { name: name.to_owned(), reason: reason.to_owned(), rolling_back })
    };
    refuse_busy(means, &entry, holder, force)?;
    if entry.state.is_harmless() {
        return wrong("it was cut short before it opened, and nothing was done under it", false);
    }
    if entry.state == State::RollingBack {
        return wrong("its rollback has begun and was cut short", true);
    }
    if entry.state != State::Open {
        means.warn("guard.unvalidated", "The command was cut short or not validated; what is there stays");
    }
    opened(means, &story, entry)?.complete()
}

/// Puts back the state before a guard, whatever it reached.
///
/// # Errors
/// [`Error`].
pub fn roll_back(means: &Means<'_>, name: &str, force: bool) -> Result<Done, Error> {
    let (story, entry, holder) = find_open(means, name)?;
    refuse_busy(means, &entry, holder.clone(), force)?;
    if entry.state.is_harmless() {
        let snapshot = entry.snapshot.unwrap_or_default();
        give_up(means, &holder)?;
        means.note("guard.closed", "nothing had been done under this guard; it is closed");
        return Ok(Done { act: story.id, name: entry.plan.name, snapshot, ending: Ending::Refused });
    }
    opened(means, &story, entry)?.back(means, None)
}

/// The guard, held by this process from its next entry on.
fn opened<'a>(means: &Means<'a>, story: &Story, entry: Entry) -> Result<Opened<'a>, Error> {
    let Entry { plan, snapshot, .. } = entry;
    let Some(snapshot) = snapshot else {
        let message = format!("Guard {} names no snapshot", plan.name);
        let source = Unfit { kind: UnfitKind::Damaged, message, causes: Vec::new() };
        return Err(Error::Unfit { source });
    };
    Ok(Opened { act: means.recorder.resume(story), plan, snapshot, running: None })
}

/// Closes a guard under which nothing was done.
pub(super) fn give_up(means: &Means<'_>, holder: &Holder) -> Result<(), Error> {
    close(means, holder, Ending::Refused, "its process ended before it opened")
}

/// Closes a guard by force, whatever was done under it. Its process, should it live, does nothing more.
///
/// # Errors
/// Storage errors.
pub fn break_guard(means: &Means<'_>, holder: &Holder) -> Result<(), Error> {
    close(means, holder, Ending::Broken, "closed by force")
}

fn close(means: &Means<'_>, holder: &Holder, ending: Ending, cause: &str) -> Result<(), Error> {
    let found = acts::list(means.recorder.store, means.recorder.keys, Some(ActKind::Guard))?;
    let Some(story) = open_stories(&found).find(|story| story.id == holder.act) else { return Ok(()) };
    let entry = Entry::newest(story);
    let snapshot = entry.as_ref().and_then(|entry| entry.snapshot);
    let unknown = || Plan {
        name: holder.name.clone(),
        description: holder.description.clone(),
        purpose: super::Purpose::Migration,
        environment: None,
        covered: Vec::new(),
    };
    let plan = entry.map_or_else(unknown, |entry| entry.plan);
    match means.recorder.resume(story).finish(&ended(ending, &plan, snapshot, Some(cause.to_owned()))) {
        // somebody else goes on with it, or has closed it: whoever asks next sees which
        Ok(()) | Err(RepoError::ActTaken { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Refuses when the rollback of a guard of these sources has begun and did not come to its end: what stands there is
/// nobody's state.
///
/// # Errors
/// [`Error::WrongState`], storage errors.
pub fn refuse_unsettled(holders: &[Holder]) -> Result<(), Error> {
    let unsettled = holders.iter().find(|h| matches!(h.state, Some(State::RollingBack | State::RollbackFailed)));
    match unsettled {
        Some(holder) => Err(Error::WrongState {
            name: holder.name.clone(),
            reason: "its rollback has begun and did not come to its end".to_owned(),
            rolling_back: true,
        }),
        None => Ok(()),
    }
}
