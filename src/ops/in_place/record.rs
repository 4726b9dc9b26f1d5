//! What a restore in place writes down before each step: enough for another process to go on with it or to take it back.

use crate::domain::id::SnapshotId;
use crate::domain::snapshot::SourceKind;
use crate::repository::acts::{ActEntry, Story};
use serde::{Deserialize, Serialize};

/// A step, written down before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Everything is looked at, nothing is touched.
    Prerequisites,
    /// The application is stopped.
    ServiceStop,
    /// What is there now is saved. After the application was stopped: nothing that it wrote is missing.
    Safety,
    /// The new is made beside the old, and proved.
    Restore,
    /// The new takes the place of the old.
    Swap,
    /// The application is started.
    ServiceStart,
    /// The application is asked whether it is content.
    Verification,
    /// The old is removed; there is no way back but the safety snapshot.
    Settle,
    /// The old is put back into its place.
    Rollback,
    /// Putting back failed; it will be tried again by whoever comes next.
    RollbackFailed,
    /// Everything is done.
    Finished,
}

impl Step {
    /// The word in the repository, for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prerequisites => "prerequisites",
            Self::ServiceStop => "service-stop",
            Self::Safety => "safety",
            Self::Restore => "restore",
            Self::Swap => "swap",
            Self::ServiceStart => "service-start",
            Self::Verification => "verification",
            Self::Settle => "settle",
            Self::Rollback => "rollback",
            Self::RollbackFailed => "rollback-failed",
            Self::Finished => "finished",
        }
    }
}

/// How a restore in place ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The new is in its place, proved and verified.
    Restored,
    /// The old is in its place, as it was.
    RolledBack,
    /// It ended before anything was touched.
    Refused,
}

impl Ending {
    /// The word in the repository, for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::RolledBack => "rolled-back",
            Self::Refused => "refused",
        }
    }
}

/// Why something is restored in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Somebody asked for a restore.
    Restore,
    /// Somebody asked for the state before something.
    Rollback,
    /// A guard puts back what was there before its command.
    Guard,
}

/// One thing that is put back, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedItem {
    /// The source in the snapshot.
    pub source: String,
    /// The name under which the safety snapshot holds what was there.
    pub safety_source: String,
    /// What it is.
    pub kind: SourceKind,
    /// Where it goes, for people: a path, or a URI without password.
    pub place: String,
    /// How the place is reached again: for PostgreSQL pairs for libpq without secrets, else the path.
    pub reach: String,
    /// The path in the snapshot that goes there; files only.
    pub from: Option<String>,
    /// Something was there when the act began.
    pub existed: bool,
    /// Nothing is put there, and what is there goes: before an earlier restore the place was empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empties: bool,
    /// It lies in the tree of another item and comes and goes with that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub within: bool,
}

/// Everything that a restore in place decided before it touched anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Why.
    pub purpose: Purpose,
    /// What is restored.
    #[serde(with = "hex")]
    pub snapshot: SnapshotId,
    /// Its time, nanoseconds since 1970 UTC.
    pub snapshot_ns: i64,
    /// The environment whose places these are.
    pub environment: Option<String>,
    /// The application is stopped and started.
    pub service: bool,
    /// The application's own check is run.
    pub check: bool,
    /// What goes where.
    pub items: Vec<PlannedItem>,
}

/// The body of an entry of the act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The step that begins now.
    pub state: Step,
    /// The same for people, with what went wrong if anything did.
    pub text: String,
    /// The whole plan, in every entry: each can be read alone.
    pub plan: Plan,
    /// The snapshot of what was there, once there is one.
    #[serde(with = "hex_option")]
    pub safety: Option<SnapshotId>,
    /// Why it is taken back, or was not done.
    pub cause: Option<String>,
    /// How it ended; in the last entry alone.
    pub ending: Option<Ending>,
}

impl Entry {
    /// Reads an entry of an act; `None` for one that this version does not understand.
    pub fn of(entry: &ActEntry) -> Option<Self> {
        entry.read().ok()
    }
}

/// Ids are stored as people write them.
mod hex {
    use super::SnapshotId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &SnapshotId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&id.hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SnapshotId, D::Error> {
        SnapshotId::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

mod hex_option {
    use super::SnapshotId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &Option<SnapshotId>, serializer: S) -> Result<S::Ok, S::Error> {
        id.map(|id| id.hex()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SnapshotId>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| SnapshotId::parse(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

/// How far a restore in place is, from its story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The newest entry that can be read.
    pub last: Entry,
    /// The last step of the way forward that had begun; what a rollback takes back.
    pub reached: Step,
}

impl Standing {
    /// Reads a story; `None` when its newest entry cannot be understood.
    pub fn of(story: &Story) -> Option<Self> {
        let last = Entry::of(story.last())?;
        let forward = story.entries.iter().filter_map(Entry::of).map(|entry| entry.state);
        let reached = forward.filter(|state| *state <= Step::Settle).max().unwrap_or(Step::Prerequisites);
        Some(Self { last, reached })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/format.md, section 26, shows this text.
    #[test]
    fn an_entry_is_stored_as_the_format_says() {
        let item = PlannedItem {
            source: "db".to_owned(),
            safety_source: "db".to_owned(),
            kind: SourceKind::Postgres,
            place: "postgres://u@h:5432/app".to_owned(),
            reach: "dbname=app host=h".to_owned(),
            from: None,
            existed: true,
            empties: false,
            within: false,
        };
        let plan = Plan {
            purpose: Purpose::Restore,
            snapshot: SnapshotId([0xab; 16]),
            snapshot_ns: 1,
            environment: None,
            service: true,
            check: false,
            items: vec![item],
        };
        let (state, text) = (Step::ServiceStop, "t".to_owned());
        let entry = Entry { state, text, plan, safety: Some(SnapshotId([1; 16])), cause: None, ending: None };
        let json = serde_json::to_value(&entry).unwrap();
        let expected = serde_json::json!({
            "state": "service-stop", "text": "t", "safety": "01".repeat(16), "cause": null, "ending": null,
            "plan": {
                "purpose": "restore", "snapshot": "ab".repeat(16), "snapshot_ns": 1, "environment": null,
                "service": true, "check": false,
                "items": [{
                    "source": "db", "safety_source": "db", "kind": "postgres", "place": "postgres://u@h:5432/app",
                    "reach": "dbname=app host=h", "from": null, "existed": true,
                }],
            },
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Entry>(json.clone()).unwrap(), entry);
        let mut emptied = entry;
        emptied.plan.items[0].empties = true;
        let mut expected = json;
        expected["plan"]["items"][0]["empties"] = true.into();
        assert_eq!(serde_json::to_value(&emptied).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Entry>(expected).unwrap(), emptied);
    }
}
