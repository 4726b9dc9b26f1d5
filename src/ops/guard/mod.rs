//! Guard: what is dangerous (a migration, a deployment, a destructive test) is done with a proved way back.
//!
//! The line: the guard's act begun -> its sources claimed -> sources looked at -> saved -> what was saved read again and
//! compared -> the command run -> its validation run -> completed. Whatever fails from the command on puts exactly the
//! covered sources back to what was saved.
//!
//! Invariants: nothing dangerous begins before a verified snapshot of everything covered is there; every step is
//! recorded in the repository before it begins (`record.rs`), so that another process can go on or take back; one
//! guard alone has a source ([`crate::repository::act_claims`]); a process that finds that somebody else went on with its
//! guard does nothing more. Nothing here prints or knows how sources are saved and put back: that comes as [`Hands`].

mod command;
mod holders;
mod open;
mod record;
mod resume;
mod run;
#[cfg(test)]
mod tests;

pub use command::{Command, Failed};
pub use holders::{Holder, holders, open_guards};
pub use open::{Opened, open};
pub use record::{Covered, Ending, Entry, Plan, Purpose, Running, State};
pub use resume::{break_guard, complete, find, refuse_taking_over, refuse_unsettled, roll_back};
pub use run::{Done, run};

use super::cancel::{Cancel, Cancelled};
use super::observer::{Event, Observer};
use crate::domain::act::Census;
use crate::domain::id::{ActId, SnapshotId};
use crate::repository::acts::Recorder;
use crate::repository::error::RepoError;
use crate::source::process::Processes;

/// What a guard works with.
pub struct Means<'a> {
    /// Writes down what is about to be done.
    pub recorder: Recorder<'a>,
    /// Tells which processes live.
    pub census: &'a dyn Census,
    /// Starts programs.
    pub processes: &'a dyn Processes,
    /// Watches.
    pub observer: &'a dyn Observer,
    /// Ends the run early; from the command on the state before is put back.
    pub cancel: &'a Cancel,
    /// Saves, verifies and puts back.
    pub hands: &'a dyn Hands,
}

impl std::fmt::Debug for Means<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "guard::Means({:?})", self.recorder)
    }
}

impl Means<'_> {
    fn phase(&self, phase: &'static str) {
        self.observer.event(&Event::PhaseStarted { phase, total_bytes: None, total_items: None });
    }

    fn note(&self, code: &str, message: &str) {
        self.observer.event(&Event::Note { code, message });
    }

    fn warn(&self, code: &str, message: &str) {
        self.observer.event(&Event::Warning { code, source: None, subject: "", message });
    }
}

/// What the guard has done for it: saving, verifying and putting back.
pub trait Hands {
    /// Looks whether everything that is covered can be reached and is consistent, and whether the guard may open at all.
    ///
    /// # Errors
    /// [`Unfit`]: nothing was touched.
    fn look(&self, plan: &Plan) -> Result<(), Unfit>;

    /// Saves everything that is covered in one snapshot; complete or not at all.
    ///
    /// # Errors
    /// [`Unfit`]: there is no way back.
    fn save(&self, plan: &Plan) -> Result<SnapshotId, Unfit>;

    /// Reads the snapshot's data from the repository and compares it with its proofs; for a test it also restores it to
    /// a scratch place, as far as that can be done.
    ///
    /// # Errors
    /// [`Unfit`]: it is no way back.
    fn verify(&self, plan: &Plan, snapshot: SnapshotId) -> Result<(), Unfit>;

    /// Puts back exactly what is covered, after the snapshot was read and compared once more, and proves it. Must not be ended by the wish to stop: what was begun is
    /// carried through. Can be repeated after it was cut short.
    ///
    /// # Errors
    /// [`NotBack`].
    fn put_back(&self, plan: &Plan, snapshot: SnapshotId) -> Result<(), NotBack>;
}

/// Why a guard did not open. Nothing was touched.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Unfit {
    /// What kind of thing is in the way.
    pub kind: UnfitKind,
    /// One sentence.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
}

/// Kinds of [`Unfit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnfitKind {
    /// A source cannot be reached or saved.
    Source,
    /// A source, or what was saved of it, is damaged.
    Damaged,
    /// It was restored for proof and is not what was saved.
    Unproved,
    /// The rules for production are not kept.
    Closed,
    /// The repository cannot be written.
    Repository,
    /// No space.
    NoSpace,
    /// Somebody else holds what is needed.
    Locked,
    /// The wish to stop.
    Interrupted,
}

/// The state before could not be put back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotBack {
    /// One sentence.
    pub message: String,
    /// Why, and what stands where now; lines for people.
    pub details: Vec<String>,
}

/// Why a guard did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository cannot be read or written.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// Another guard has a source, or the name.
    #[error("Guard {} holds {what}", .holder.name)]
    Held {
        /// `source app-db`, or `the name v2.3.1`.
        what: String,
        /// Who.
        holder: Box<Holder>,
    },
    /// A claim on a source cannot be read, so nobody knows whether it is free.
    #[error("Nobody can tell whether source {claimed} is free: a claim on it cannot be read")]
    UnreadableClaim {
        /// The source.
        claimed: String,
    },
    /// It did not open. Nothing was touched.
    #[error("The guard did not open, and nothing was touched")]
    Unfit {
        /// Why.
        #[source]
        source: Unfit,
    },
    /// The command, or its validation, failed; the state before is back and was proved.
    #[error("{failed}, and the state before is restored and proved")]
    RolledBack {
        /// The guard's name.
        name: String,
        /// What failed.
        failed: Failed,
        /// The snapshot that was put back.
        snapshot: SnapshotId,
    },
    /// Something failed, and the state before could not be put back.
    #[error("{}the state before could not be put back", .failed.as_ref().map(|f| format!("{f}, and ")).unwrap_or_default())]
    NotRolledBack {
        /// The guard's name.
        name: String,
        /// What failed before; none when somebody asked for the rollback.
        failed: Option<Failed>,
        /// The snapshot of the state before.
        snapshot: SnapshotId,
        /// Why it could not be put back.
        #[source]
        back: Box<NotBack>,
    },
    /// Everything went well, but that cannot be written down: the guard stays open.
    #[error("The command succeeded, but guard {name} cannot be closed")]
    NotClosed {
        /// The guard's name.
        name: String,
        /// Why.
        #[source]
        source: RepoError,
    },
    /// Somebody else closed the guard or went on with it while the command ran.
    #[error("Somebody else went on with guard {name} meanwhile; this process did nothing more")]
    TakenOver {
        /// The guard's name.
        name: String,
    },
    /// There is no open guard of that name.
    #[error("No guard called {name} is open")]
    NotOpen {
        /// The name.
        name: String,
        /// How the newest of that name ended, if there is one.
        ended: Option<Ending>,
    },
    /// The process of the guard still works, or nobody can tell.
    #[error("Guard {} cannot be taken over from its process", .holder.name)]
    Busy {
        /// Who.
        holder: Box<Holder>,
    },
    /// The command of the guard still runs although the process that started it is over.
    #[error("The command of guard {name} still runs as process {process}")]
    CommandRuns {
        /// The guard's name.
        name: String,
        /// The process.
        process: u32,
    },
    /// What is asked for is not possible in the guard's state.
    #[error("Guard {name} cannot be completed: {reason}")]
    WrongState {
        /// The guard's name.
        name: String,
        /// Why.
        reason: String,
        /// True when a rollback has begun and must be brought to an end.
        rolling_back: bool,
    },
    /// The wish to stop came before anything was touched.
    #[error("Interrupted; nothing was touched")]
    Interrupted,
}

impl From<Cancelled> for Error {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

/// The name that a guard has in a message, until it can be read.
fn unknown_name(id: ActId) -> String {
    format!("{} (unreadable)", id.short())
}
