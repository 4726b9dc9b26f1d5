//! `forget`: hides snapshots behind tombstones. What is decided is [`crate::domain::retention`]'s business, or the user's; this writes
//! it down. Nothing is deleted: `undelete` brings a snapshot back until prune has condemned what it needs.

use super::cancel::{Cancel, Cancelled};
use crate::domain::id::SnapshotId;
use crate::domain::retention::{Candidate, Outcome, Policies};
use crate::domain::snapshot::{Series, Snapshot};
use crate::domain::system::Clock;
use crate::domain::time_spec::timestamp_ns;
use crate::format::seal::Keys;
use crate::repository::error::RepoError;
use crate::repository::snapshots::LoadedSnapshot;
use crate::repository::tombstones::{self, Tombstone};
use crate::storage::{ErrorKind, ObjectName, WriteStore};
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Who forgets; written into the tombstones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgetter {
    /// Host name.
    pub host: String,
    /// User name.
    pub user: String,
    /// Version of the program.
    pub tool_version: String,
}

/// What forgetting needs.
pub struct ForgetMeans<'a> {
    /// The repository.
    pub store: &'a dyn WriteStore,
    /// Its keys.
    pub keys: &'a Keys,
    /// The time that tombstones carry.
    pub clock: &'a dyn Clock,
    /// The wish to stop.
    pub cancel: &'a Cancel,
    /// Who forgets.
    pub who: Forgetter,
}

/// A snapshot to forget, and why.
#[derive(Debug, Clone)]
pub struct Removal<'a> {
    /// The snapshot.
    pub snapshot: &'a LoadedSnapshot,
    /// Why, for people.
    pub reason: String,
}

/// What was done.
#[derive(Debug, Default)]
pub struct ForgetReport {
    /// Snapshots that are hidden now.
    pub forgotten: Vec<SnapshotId>,
    /// Snapshots behind whose name a damaged tombstone stands, which hides nothing and cannot be replaced.
    pub blocked: Vec<SnapshotId>,
}

/// Forgetting failed; what was forgotten before stays so.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The wish to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Snapshots as retention sees them. Names of zones that this machine does not know are returned beside them; UTC
/// stands in for those.
pub fn candidates<'s>(
    snapshots: impl IntoIterator<Item = &'s Snapshot>,
    in_scope: impl Fn(&Snapshot) -> bool,
) -> (Vec<Candidate>, BTreeSet<String>) {
    let mut zones: HashMap<&str, TimeZone> = HashMap::new();
    let mut unknown = BTreeSet::new();
    let mut candidates = Vec::new();
    for snapshot in snapshots {
        let zone = zones.entry(&snapshot.time_zone).or_insert_with(|| {
            TimeZone::get(&snapshot.time_zone).unwrap_or_else(|_| {
                unknown.insert(snapshot.time_zone.clone());
                TimeZone::UTC
            })
        });
        candidates.push(Candidate::new(snapshot, zone.clone(), in_scope(snapshot)));
    }
    (candidates, unknown)
}

/// Why snapshots that were named must not be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// A tag pins one of them.
    Pinned {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The tag.
        tag: String,
    },
    /// Nothing good of a source would be left in the series.
    LastGood {
        /// The series.
        series: Series,
        /// The source.
        source: String,
        /// Its newest good snapshot, which is among those named.
        snapshot: SnapshotId,
    },
}

/// What speaks against forgetting the named snapshots.
pub fn objections(all: &[Candidate], named: &BTreeSet<SnapshotId>, policies: &Policies) -> Vec<Objection> {
    let mut found = Vec::new();
    let mut good: BTreeMap<(&Series, &str), Vec<&Candidate>> = BTreeMap::new();
    for candidate in all {
        if named.contains(&candidate.id)
            && let Some(tag) = policies.of(candidate.policy_class()).1.pin(&candidate.tags)
        {
            found.push(Objection::Pinned { snapshot: candidate.id, tag: tag.to_owned() });
        }
        for (source, outcome) in &candidate.sources {
            if *outcome == Outcome::Good {
                good.entry((&candidate.series, source)).or_default().push(candidate);
            }
        }
    }
    for ((series, source), members) in good {
        let newest = members.iter().max_by_key(|member| (member.time_ns, member.id));
        if let Some(newest) = newest.filter(|_| members.iter().all(|member| named.contains(&member.id))) {
            let (series, source) = (series.clone(), source.to_owned());
            found.push(Objection::LastGood { series, source, snapshot: newest.id });
        }
    }
    found
}

/// Forgets snapshots, oldest first, so that an interruption leaves the newer ones.
///
/// # Errors
/// [`ForgetError`]; what was forgotten before stays so.
pub fn run(means: &ForgetMeans<'_>, mut removals: Vec<Removal<'_>>) -> Result<ForgetReport, ForgetError> {
    removals.sort_by_key(|removal| (removal.snapshot.snapshot.time_ns, removal.snapshot.snapshot.id));
    let mut report = ForgetReport::default();
    for removal in removals {
        means.cancel.check()?;
        let snapshot = &removal.snapshot.snapshot;
        let tombstone = Tombstone {
            snapshot: snapshot.id,
            record: removal.snapshot.digest,
            time_ns: snapshot.time_ns,
            forgotten_ns: timestamp_ns(means.clock.now()),
            host: means.who.host.clone(),
            user: means.who.user.clone(),
            tool_version: means.who.tool_version.clone(),
            reason: removal.reason,
        };
        match tombstones::write(means.store, means.keys, &tombstone) {
            Ok(()) => report.forgotten.push(snapshot.id),
            Err(RepoError::Storage(error)) if error.kind == ErrorKind::AlreadyExists => {
                match is_hidden(means, snapshot.id)? {
                    true => report.forgotten.push(snapshot.id),
                    false => report.blocked.push(snapshot.id),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(report)
}

/// True when somebody else forgot it meanwhile; false when its tombstone is damaged.
fn is_hidden(means: &ForgetMeans<'_>, id: SnapshotId) -> Result<bool, RepoError> {
    let bytes = means.store.get(&ObjectName::tombstone(id), tombstones::OBJECT_BYTES_MAX).map_err(RepoError::from);
    match bytes.and_then(|bytes| tombstones::decode(means.keys, id, &bytes)) {
        Ok(_) => Ok(true),
        Err(error) if error.concerns_one_object() => Ok(false),
        Err(error) => Err(error),
    }
}
