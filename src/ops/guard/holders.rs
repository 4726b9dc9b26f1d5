//! Who has which source, and who may have it next.

use super::record::{Entry, State};
use super::{Error, Means, unknown_name};
use crate::domain::act::{ActKind, Owner, Whereabouts};
use crate::domain::id::ActId;
use crate::repository::act_claims::{self, Claim};
use crate::repository::acts::{self, Stories, Story};
use crate::repository::error::RepoError;
use std::collections::BTreeMap;

/// An open guard, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The act.
    pub act: ActId,
    /// The name that people gave it.
    pub name: String,
    /// What for.
    pub description: String,
    /// How far it is; `None` when its newest entry cannot be understood.
    pub state: Option<State>,
    /// Who wrote its newest entry.
    pub owner: Owner,
    /// Whether that process lives.
    pub whereabouts: Whereabouts,
    /// When it began, nanoseconds since 1970 UTC.
    pub since_ns: i64,
    /// When its newest entry was written.
    pub changed_ns: i64,
    /// The newest entry.
    pub entry: Option<Entry>,
}

impl Holder {
    pub(super) fn of(means: &Means<'_>, story: &Story) -> Self {
        let entry = Entry::newest(story);
        let owner = story.last().owner();
        Self {
            act: story.id,
            name: entry.as_ref().map_or_else(|| unknown_name(story.id), |entry| entry.plan.name.clone()),
            description: entry.as_ref().map(|entry| entry.plan.description.clone()).unwrap_or_default(),
            state: entry.as_ref().map(|entry| entry.state),
            whereabouts: means.census.find(&owner),
            owner,
            since_ns: story.first().time_ns,
            changed_ns: story.last().time_ns,
            entry,
        }
    }

    /// True when its process died before anything dangerous could be done under it.
    pub fn is_harmless_and_dead(&self) -> bool {
        self.whereabouts == Whereabouts::Dead && self.state.is_some_and(State::is_harmless)
    }
}

/// The guards that are open, oldest first, as a listing found them.
pub(super) fn open_stories(found: &Stories) -> impl Iterator<Item = &Story> {
    found.stories.iter().filter(|story| story.kind == ActKind::Guard && !story.is_finished())
}

/// The guards that are open, oldest first.
///
/// # Errors
/// Storage errors.
pub fn open_guards(means: &Means<'_>) -> Result<Vec<Holder>, RepoError> {
    let found = acts::list(means.recorder.store, means.recorder.keys, None)?;
    Ok(open_stories(&found).map(|story| Holder::of(means, story)).collect())
}

/// Whom the newest claims on sources name: the guard, or `None` for one that is lost.
fn newest_claims(found: &Stories) -> BTreeMap<String, (Claim, Option<&Story>)> {
    act_claims::newest(found)
        .into_iter()
        .map(|(source, claim)| {
            let guard = claim.guard_id().and_then(|id| found.stories.iter().find(|story| story.id == id));
            (source, (claim, guard))
        })
        .collect()
}

/// The open guards that have any of these sources or this name, each once, oldest first.
///
/// # Errors
/// Storage errors.
pub fn holders(means: &Means<'_>, sources: &[String], name: &str) -> Result<Vec<Holder>, RepoError> {
    let found = acts::list(means.recorder.store, means.recorder.keys, None)?;
    let claims = newest_claims(&found);
    let holds = |story: &Story| {
        let claimed = sources
            .iter()
            .any(|source| claims.get(source).and_then(|(_, guard)| *guard).is_some_and(|guard| guard.id == story.id));
        claimed || Entry::newest(story).is_some_and(|entry| entry.plan.name == name)
    };
    Ok(open_stories(&found).filter(|story| holds(story)).map(|story| Holder::of(means, story)).collect())
}

/// Whether a source can be claimed, and with which number.
pub(super) enum Claimable {
    /// With this number.
    Free(u64),
    /// This guard has it.
    Held(Box<Holder>),
    /// A claim cannot be read, or its guard is lost.
    Unknown(u64),
}

/// Looks at one source.
pub(super) fn look(means: &Means<'_>, found: &Stories, source: &str) -> Result<Claimable, RepoError> {
    let claims = newest_claims(found);
    let newest = claims.get(source);
    let claim = newest.map(|(claim, _)| claim);
    let (next, unreadable) = act_claims::next_number(means.recorder.store, means.recorder.keys, source, claim)?;
    Ok(match newest {
        Some((_, Some(story))) if !story.is_finished() => Claimable::Held(Box::new(Holder::of(means, story))),
        // A claim that is there and cannot be read, or was written since the listing.
        _ if unreadable => Claimable::Unknown(next),
        Some((_, None)) => Claimable::Unknown(next),
        _ => Claimable::Free(next),
    })
}

/// Claims every source of a guard, in order. What was claimed before a refusal is free again once the guard is closed.
///
/// # Errors
/// [`Error::Held`], [`Error::UnreadableClaim`], storage errors.
pub(super) fn claim_all(
    means: &Means<'_>,
    own: ActId,
    name: &str,
    sources: &[String],
    force: bool,
) -> Result<(), Error> {
    let (store, keys) = (means.recorder.store, means.recorder.keys);
    for source in sources {
        loop {
            let found = acts::list(store, keys, None)?;
            let number = match look(means, &found, source)? {
                Claimable::Free(number) => number,
                Claimable::Held(holder) => return Err(Error::Held { what: format!("source {source}"), holder }),
                Claimable::Unknown(number) if force => number,
                Claimable::Unknown(_) => {
                    // Perhaps it was written since the listing: then it can be read now.
                    let again = acts::list(store, keys, None)?;
                    match look(means, &again, source)? {
                        Claimable::Unknown(_) => return Err(Error::UnreadableClaim { claimed: source.clone() }),
                        _ => continue,
                    }
                }
            };
            let claim = Claim { source: source.clone(), number, guard: own.hex() };
            match act_claims::put(&means.recorder, &claim) {
                Ok(()) => break,
                // Somebody was faster; who, the next look says.
                Err(RepoError::ActTaken { .. }) => means.cancel.check()?,
                Err(error) => return Err(error.into()),
            }
        }
    }
    // One name means one guard, so that `complete NAME` is never in doubt. Two that begin at once both see the other here
    // or one of them does.
    let found = acts::list(store, keys, None)?;
    let other = open_stories(&found)
        .find(|story| story.id != own && Entry::newest(story).is_some_and(|entry| entry.plan.name == name));
    match other {
        Some(story) => {
            let holder = Box::new(Holder::of(means, story));
            Err(Error::Held { what: format!("the name {name}"), holder })
        }
        None => Ok(()),
    }
}
