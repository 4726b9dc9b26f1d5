//! Whose turn it is: of several runs that save a source of the same name on the same host, one goes on at a time.
//!
//! This saves work (two runs at once would both store what is new) and keeps histories straight. Safety never rests on
//! it: two runs that both went on would both commit.
//!
//! The rules, which `tests` below plays through in every order:
//! 1. A run makes its own session visible before it looks for others.
//! 2. It goes on when it sees no other run of its sources. So of two at least one sees the other.
//! 3. It gives way (ends its session, waits, begins anew) when another one has gone on already, or began earlier.
//! 4. Otherwise it stays at the door and looks again: the later one will give way, or turns out to have gone on.
//!
//! "Has gone on" shows in the session's part `saw`, "began earlier" in its start time and id. Sessions without sources
//! (prune, undelete) are no concern of a backup, and sessions of dead processes are closed.

use super::{BackupError, now_ns};
use crate::domain::id::SnapshotId;
use crate::domain::system::{Clock, Random};
use crate::domain::time_spec::ns_timestamp;
use crate::domain::units::format_duration;
use crate::format::seal::Keys;
use crate::ops::cancel::Cancel;
use crate::ops::observer::{Event, Observer};
use crate::ops::patience;
use crate::repository::error::RepoError;
use crate::repository::session::{self, Announced, SessionStart};
use crate::storage::{ErrorKind, ObjectName, SessionPart, WriteStore};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a run that gave way looks again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a run at the door looks again: who gives way does so at once.
const LOOK_EVERY_AT_THE_DOOR: Duration = Duration::from_millis(20);
/// How long a run stays at the door at least, even if it may not wait for others.
const AT_THE_DOOR_MAX: Duration = Duration::from_secs(10);

/// What a run needs to take its turn.
pub struct TurnMeans<'a> {
    /// The repository's objects.
    pub store: Arc<dyn WriteStore>,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// For ids.
    pub random: &'a dyn Random,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Watches.
    pub observer: &'a dyn Observer,
    /// Ends the wait early.
    pub cancel: &'a Cancel,
    /// This process's id, for the session record.
    pub process_id: u32,
    /// How long another run of the same source is waited for; zero: not at all.
    pub patience: Duration,
}

impl std::fmt::Debug for TurnMeans<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TurnMeans({})", self.store.location())
    }
}

/// Another run that saves one of the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process and host, and since when it runs.
    pub start: SessionStart,
    /// The sources that both save.
    pub shared: Vec<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = ns_timestamp(self.start.started_ns).strftime("%Y-%m-%d %H:%M:%S UTC");
        let (process, host) = (self.start.process, &self.start.host);
        write!(f, "process {process} on {host} saves {} since {since}", self.shared.join(", "))
    }
}

/// A session whose turn it is. Dropped without being used, it ends.
pub struct Turn {
    announced: Option<Announced>,
    store: Arc<dyn WriteStore>,
    /// When the run began, nanoseconds since 1970 UTC.
    pub(super) started_ns: i64,
    /// Sessions of dead runs that were closed on the way.
    pub(super) fenced: Vec<SnapshotId>,
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Turn({:?})", self.announced)
    }
}

impl Turn {
    /// The session, which from now on is the caller's to end.
    pub(super) fn take(mut self) -> Option<Announced> {
        self.announced.take()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(announced) = &self.announced {
            // best effort: what a dead session leaves is closed by the next run as well
            let _ = self.store.fence(announced.id());
        }
    }
}

/// What a run at the door does, by what it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    GoOn,
    GiveWay,
    LookAgain,
}

/// One of the other runs, as far as the decision needs it: when it began, and whether it has gone on.
type Seen = ((i64, SnapshotId), bool);

/// Rules 2 to 4.
fn decide(own: (i64, SnapshotId), others: &[Seen]) -> Decision {
    if others.is_empty() {
        Decision::GoOn
    } else if others.iter().any(|&(order, has_gone_on)| has_gone_on || order < own) {
        Decision::GiveWay
    } else {
        Decision::LookAgain
    }
}

/// Waits until no other run saves any of the sources on this host, at most for `means.patience`.
///
/// # Errors
/// [`BackupError::Busy`] when the others did not end in time; interruption; storage errors.
pub fn take_turn(means: &TurnMeans<'_>, host: &str, sources: &[String]) -> Result<Turn, BackupError> {
    let began = Instant::now();
    let mut fenced = close_dead_sessions(means)?;
    let mut said: Option<SnapshotId> = None;
    loop {
        let start = SessionStart {
            id: SnapshotId(means.random.bytes()),
            host: host.to_owned(),
            process: means.process_id,
            started_ns: now_ns(means.clock),
            sources: sources.to_vec(),
        };
        let announced = Announced::new(Arc::clone(&means.store), Arc::clone(&means.keys), &start)?;
        let store = Arc::clone(&means.store);
        let mut turn = Turn { announced: Some(announced), store, started_ns: start.started_ns, fenced: Vec::new() };
        let at_the_door = Instant::now();
        let holders = loop {
            let others = others(means, &start)?;
            let seen: Vec<Seen> =
                others.iter().map(|(h, gone_on)| ((h.start.started_ns, h.start.id), *gone_on)).collect();
            match decide((start.started_ns, start.id), &seen) {
                Decision::GoOn => {
                    turn.fenced = fenced;
                    return Ok(turn);
                }
                Decision::LookAgain if at_the_door.elapsed() < AT_THE_DOOR_MAX.max(means.patience) => {
                    pause(means, LOOK_EVERY_AT_THE_DOOR)?;
                }
                _ => break others,
            }
        };
        drop(turn);
        wait(means, &start, holders, began, &mut said)?;
        fenced.extend(close_dead_sessions(means)?);
    }
}

/// Waits without a session of its own until the others have ended.
fn wait(
    means: &TurnMeans<'_>,
    own: &SessionStart,
    mut holders: Vec<(Holder, bool)>,
    began: Instant,
    said: &mut Option<SnapshotId>,
) -> Result<(), BackupError> {
    loop {
        let Some((first, _)) = holders.first() else { return Ok(()) };
        if *said != Some(first.start.id) && !means.patience.is_zero() {
            *said = Some(first.start.id);
            let left = format_duration(means.patience.saturating_sub(began.elapsed()));
            let message = format!("Waiting up to {left}: {first}");
            means.observer.event(&Event::Note { code: "source.waiting", message: &message });
        }
        let left = means.patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            let holders = holders.into_iter().map(|(holder, _)| holder).collect();
            return Err(BackupError::Busy { holders, waited: began.elapsed() });
        }
        pause(means, LOOK_EVERY.min(left))?;
        close_dead_sessions(means)?;
        holders = others(means, own)?;
    }
}

fn pause(means: &TurnMeans<'_>, length: Duration) -> Result<(), BackupError> {
    patience::pause(means.cancel, length).map_err(|_| BackupError::Interrupted)
}

/// Living runs of the same sources on the same host, the one that began first at the front, and which have gone on.
fn others(means: &TurnMeans<'_>, own: &SessionStart) -> Result<Vec<(Holder, bool)>, RepoError> {
    let store = means.store.as_ref();
    let mut found = Vec::new();
    for (id, alive) in session::open_sessions(store)? {
        if id == own.id || !alive {
            continue;
        }
        let start = match session::load_start(store, &means.keys, id) {
            Ok(start) => start,
            // ended since the listing; or damaged, and then nobody can say what it works on
            Err(error) if error.concerns_one_object() => continue,
            Err(error) => return Err(error),
        };
        let shared: Vec<String> = start.sources.iter().filter(|s| own.sources.contains(s)).cloned().collect();
        if start.host != own.host || shared.is_empty() {
            continue;
        }
        let has_gone_on = match store.stored_bytes(&ObjectName::session(id, SessionPart::Saw)) {
            Ok(stored) => stored.is_some(),
            Err(error) if error.kind == ErrorKind::NotFound => false,
            Err(error) => return Err(error.into()),
        };
        found.push((Holder { start, shared }, has_gone_on));
    }
    found.sort_by_key(|(holder, has_gone_on)| (Reverse(*has_gone_on), holder.start.started_ns, holder.start.id));
    Ok(found)
}

/// Fences sessions whose processes died, so that nobody waits for them.
fn close_dead_sessions(means: &TurnMeans<'_>) -> Result<Vec<SnapshotId>, RepoError> {
    let closed = session::fence_dead(means.store.as_ref())?.fenced;
    for id in &closed {
        let message = format!("Closed run {} that ended without a snapshot; what it stored is used again", id.short());
        means.observer.event(&Event::Note { code: "session.closed", message: &message });
    }
    means.store.clear_leftovers()?;
    Ok(closed)
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
