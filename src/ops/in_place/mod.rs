//! Restore in place: what a snapshot holds takes the place of what is there, in seven steps that are written down
//! before they begin, with a way back.
//!
//! The line: prerequisites looked at -> application stopped -> what is there saved -> the new made beside the old and
//! proved -> the new takes the place of the old -> application started -> the application's own check -> the old
//! removed. Whatever fails before the last of these puts the old back.
//!
//! Invariants: the old is whole until the new was proved and verified; every step is recorded in the repository before
//! it begins (`record.rs`), so that another process can go on or take back ([`heal`]); a second run of the same places is
//! refused. Only what the act itself made beside a place is ever removed.

mod checks;
mod heal;
mod left_out;
mod nested;
mod places;
mod programs;
mod record;
mod steps;

pub use checks::{Check, Concern, check};
pub use heal::{Direction, Healed, Mended, heal, heal_with_others, places_now, unfinished};
pub use left_out::LeftOut;
pub use programs::{Program, ProgramError, Service, run as run_program};
pub use record::{Ending, Entry, Plan, PlannedItem, Purpose, Standing, Step};
pub use steps::run;

use super::backup::BackupError;
use super::cancel::{Cancel, Cancelled};
use super::observer::Observer;
use super::{proof, restore};
use crate::domain::act::Census;
use crate::domain::id::{ActId, SnapshotId};
use crate::domain::snapshot::Snapshot;
use crate::repository::acts::Recorder;
use crate::repository::error::RepoError;
use crate::repository::reading::Reading;
use crate::source::SourceError;
use crate::source::postgres::client::ClientSearch;
use crate::source::postgres::connect::Connection;
use crate::source::process::Processes;
use crate::target::replace;
use std::path::PathBuf;

/// Where something is put back.
#[derive(Debug, Clone)]
pub enum Place {
    /// A PostgreSQL database.
    Postgres {
        /// How to reach it, the database's own name included.
        connection: Box<Connection>,
        /// Where the client programs are.
        search: ClientSearch,
    },
    /// A SQLite database.
    Sqlite {
        /// Its file; absolute.
        path: PathBuf,
    },
    /// A directory with everything in it, or one file.
    Tree {
        /// Absolute.
        path: PathBuf,
        /// The path in the snapshot that goes there.
        from: String,
        /// What of the old tree goes along, because no backup holds it.
        left_out: Option<LeftOut>,
    },
}

/// One thing that is put back.
#[derive(Debug, Clone)]
pub struct Item {
    /// The source in the snapshot.
    pub source: String,
    /// The name under which a safety snapshot holds what is there now.
    pub safety_source: String,
    /// Where it goes.
    pub place: Place,
    /// Nothing goes there: what is there now is saved and removed.
    pub empties: bool,
}

/// What is to be put back, and how.
#[derive(Debug)]
pub struct Request<'a> {
    /// Why.
    pub purpose: Purpose,
    /// What is restored; its records were read and authenticated.
    pub snapshot: &'a Snapshot,
    /// What goes where; not empty, every place once.
    pub items: Vec<Item>,
    /// The environment whose places these are.
    pub environment: Option<String>,
    /// Save what is there first.
    pub safety: bool,
    /// Stop and start the application.
    pub service: bool,
    /// Run the application's own check.
    pub check: bool,
}

/// What a restore in place needs of the world around it.
pub struct Context<'a> {
    /// Writes down what is about to be done.
    pub recorder: Recorder<'a>,
    /// Tells which processes live.
    pub census: &'a dyn Census,
    /// Reads what is restored.
    pub reading: &'a Reading,
    /// Starts programs; ends them when the run is interrupted.
    pub processes: &'a dyn Processes,
    /// Starts programs that an interruption does not end: they take things back.
    pub steady: &'a dyn Processes,
    /// Watches.
    pub observer: &'a dyn Observer,
    /// Ends the run early; what was begun is taken back.
    pub cancel: &'a Cancel,
    /// The configuration.
    pub surroundings: &'a dyn Surroundings,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({:?})", self.recorder)
    }
}

/// What the configuration says.
pub trait Surroundings {
    /// Reaches a place again that an earlier run wrote down.
    ///
    /// # Errors
    /// Why it cannot be reached, for people.
    fn place(&self, planned: &PlannedItem) -> Result<Place, String>;

    /// The application of an environment; without a name that of the configuration.
    fn service(&self, environment: Option<&str>) -> Service;

    /// The application's own check.
    fn check(&self) -> Option<Program>;

    /// True when a program can be executed: by its path, or by its name in one of the folders where names are looked up.
    fn finds(&self, program: &str) -> bool;

    /// Folders that must stay where they are, the repository first.
    fn own_folders(&self) -> Vec<PathBuf>;

    /// Saves what is in the places of these items, each under its safety name; complete or not at all.
    ///
    /// # Errors
    /// [`SaveError`]; then there is no way back from a snapshot.
    fn save(&self, items: &[Item]) -> Result<Snapshot, SaveError>;
}

/// What is there could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// There is no snapshot.
    #[error("What is there now could not be saved")]
    Backup(#[from] BackupError),
    /// There is a snapshot, but it lacks a part.
    #[error("What is there now could not be saved: {source_name} failed")]
    Incomplete {
        /// The source.
        source_name: String,
        /// Why it failed.
        source: SourceError,
    },
}

/// A restore in place that ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The act.
    pub act: ActId,
    /// What was restored.
    pub snapshot: SnapshotId,
    /// Where, for people.
    pub places: Vec<(String, String)>,
    /// Places that are empty now, for people.
    pub removed: Vec<String>,
    /// The snapshot of what was there before.
    pub safety: Option<SnapshotId>,
    /// When that was saved, nanoseconds since 1970 UTC; not known of a run that another process began.
    pub safety_ns: Option<i64>,
    /// What could not be removed although it is not needed any more, with the reason. The next run tries again.
    pub left: Vec<String>,
}

/// What went wrong within a step.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The repository cannot be read or written.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The new could not be made.
    #[error(transparent)]
    Restore(#[from] restore::Error),
    /// Nothing can be said of what was restored.
    #[error("What was restored cannot be compared with the snapshot")]
    Unproved(#[from] proof::Error),
    /// The new is not what the snapshot holds.
    #[error("What was restored for {place} is not what the snapshot holds: {reason}")]
    Proof {
        /// The place.
        place: String,
        /// What differs.
        reason: String,
    },
    /// The one cannot take the place of the other.
    #[error(transparent)]
    Replace(#[from] replace::Error),
    /// A command of the application failed.
    #[error("{what} failed")]
    Program {
        /// `The check after the restore`, `Stopping the application`.
        what: &'static str,
        /// The command and what it said.
        source: ProgramError,
    },
    /// What was there could not be saved.
    #[error(transparent)]
    Safety(#[from] SaveError),
    /// A place of an earlier run cannot be reached.
    #[error("{place} cannot be reached: {reason}")]
    Unreachable {
        /// The place.
        place: String,
        /// Why.
        reason: String,
    },
    /// The run was ended from outside.
    #[error("The restore was interrupted")]
    Interrupted,
}

impl From<Cancelled> for Trouble {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

impl Trouble {
    /// True when somebody wished the run to end.
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Interrupted
                | Self::Repository(RepoError::Interrupted)
                | Self::Safety(SaveError::Backup(BackupError::Interrupted))
                | Self::Restore(restore::Error::Interrupted)
                | Self::Unproved(proof::Error::Interrupted)
        )
    }
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository cannot be read or written. Nothing was touched.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// Another run does something with the same places.
    #[error("Another run works on {place}")]
    Busy {
        /// The place.
        place: String,
        /// Who and since when, for people.
        holder: String,
        /// False: nobody can tell from here whether that run lives.
        alive: bool,
    },
    /// A guard that is open has the source for itself. Nothing was touched.
    #[error("A guard is open on source '{name}'")]
    Guarded {
        /// The source.
        name: String,
        /// Whose guard, since when, for people.
        holder: String,
    },
    /// Something that is needed is not there. Nothing was touched.
    #[error("The restore cannot begin: {} is not as it must be", .failed.first().map_or("something", |check| &check.subject))]
    Unready {
        /// What is not as it must be.
        failed: Vec<Check>,
    },
    /// It failed before anything was touched.
    #[error("The restore ended before anything was touched, at step {}", .step.as_str())]
    Untouched {
        /// The step.
        step: Step,
        /// Why.
        source: Box<Trouble>,
    },
    /// It failed, and what was there before is back, or never left its place.
    #[error("The restore failed at step {}, and what was there before is in its place{}", .step.as_str(), if *.step < Step::Swap { "" } else { " again" })]
    RolledBack {
        /// The act.
        act: ActId,
        /// The step.
        step: Step,
        /// Why.
        source: Box<Trouble>,
        /// What of the new could not be removed yet; the next run tries again.
        left: Vec<String>,
        /// Why the application could not be started again; the next run tries that, too.
        stopped: Option<String>,
    },
    /// It failed, and what was there before could not be put back.
    #[error("The restore failed at step {}, and what was there before could not be put back", .step.as_str())]
    NotRolledBack {
        /// The act.
        act: ActId,
        /// The step.
        step: Step,
        /// Why it failed.
        source: Box<Trouble>,
        /// Why it could not be taken back.
        back: Vec<String>,
        /// What is where now, one line for each place.
        places: Vec<String>,
        /// The snapshot of what was there before.
        safety: Option<SnapshotId>,
    },
    /// Another process went on with the act of this one.
    #[error("Another process took over this restore (act {})", .act.short())]
    TakenOver {
        /// The act.
        act: ActId,
    },
}
