//! What a guard writes down before each step: enough for another process to go on with it or to take it back.

use crate::domain::id::SnapshotId;
use crate::domain::snapshot::SourceKind;
use crate::repository::acts::{ActEntry, Story};
use serde::{Deserialize, Serialize};

/// How far a guard is; written down before what it announces begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The sources are claimed.
    Opening,
    /// The sources are looked at.
    Checking,
    /// The sources are saved.
    Saving,
    /// What was saved is read again and compared.
    Verifying,
    /// Everything is ready; whoever opened it does what is dangerous, and then completes it or rolls it back.
    Open,
    /// The command may have begun.
    Running,
    /// The command is over, and whether it did well is being found out.
    Validating,
    /// The state before is being put back.
    RollingBack,
    /// The state before could not be put back; whoever comes next tries again.
    RollbackFailed,
    /// Nothing is to be done any more.
    Finished,
}

impl State {
    /// The word in the repository, for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Checking => "checking",
            Self::Saving => "saving",
            Self::Verifying => "verifying",
            Self::Open => "open",
            Self::Running => "running",
            Self::Validating => "validating",
            Self::RollingBack => "rolling-back",
            Self::RollbackFailed => "rollback-failed",
            Self::Finished => "finished",
        }
    }

    /// True while nothing dangerous can have been done under the guard.
    pub fn is_harmless(self) -> bool {
        self < Self::Open
    }
}

/// How a guard ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// What was done stays.
    Completed,
    /// The state before is back, and was proved.
    RolledBack,
    /// It never opened: nothing dangerous was done under it.
    Refused,
    /// Somebody closed it without knowing what was done under it.
    Broken,
}

impl Ending {
    /// The word in the repository, for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::RolledBack => "rolled-back",
            Self::Refused => "refused",
            Self::Broken => "broken",
        }
    }
}

/// What a guard is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A migration or a deployment: what it does stays, if it succeeds.
    Migration,
    /// A test that may destroy: the state before is put back, whatever its result.
    Test,
}

impl Purpose {
    /// The class of the snapshot.
    pub fn class(self) -> &'static str {
        match self {
            Self::Migration => "pre-migration",
            Self::Test => "safety",
        }
    }
}

/// One thing that a guard covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// The source that nobody else may guard meanwhile.
    pub source: String,
    /// Its name in the guard's snapshot.
    pub saved_as: String,
    /// What it is.
    pub kind: SourceKind,
    /// Where it is, for people: a path, or a URI without password.
    pub place: String,
    /// How the place is reached again: for PostgreSQL pairs for libpq without secrets, else the path.
    pub reach: String,
}

/// Everything that was decided before a guard opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The name that people gave it.
    pub name: String,
    /// What for, for people; may be empty.
    pub description: String,
    /// Migration or test.
    pub purpose: Purpose,
    /// The environment whose places these are.
    pub environment: Option<String>,
    /// What it covers, by source.
    pub covered: Vec<Covered>,
}

impl Plan {
    /// Names of the sources that are claimed, ascending, each once.
    pub fn sources(&self) -> Vec<String> {
        let mut names: Vec<String> = self.covered.iter().map(|covered| covered.source.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The tag by which the selector `guard:NAME` finds the snapshot.
    pub fn tag(&self) -> String {
        format!("guard:{}", self.name)
    }
}

/// A program that runs under a guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its process id on the host of the entry.
    pub process: u32,
    /// Tells it from others; see [`crate::domain::act::Owner::mark`].
    pub mark: String,
}

/// The body of an entry of the act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The step that begins now.
    pub state: State,
    /// The same for people.
    pub text: String,
    /// The whole plan, in every entry: each can be read alone.
    pub plan: Plan,
    /// The snapshot of the state before, once there is one.
    pub snapshot: Option<SnapshotId>,
    /// The program that was started, once it was.
    pub running: Option<Running>,
    /// Why it is taken back, or was refused.
    pub cause: Option<String>,
    /// How it ended; in the last entry alone.
    pub ending: Option<Ending>,
}

impl Entry {
    /// Reads an entry of an act; `None` for one that this version does not understand.
    pub fn of(entry: &ActEntry) -> Option<Self> {
        entry.read().ok()
    }

    /// The newest entry of a story that can be read and understood.
    pub fn newest(story: &Story) -> Option<Self> {
        story.entries.iter().rev().find_map(Self::of)
    }
}
