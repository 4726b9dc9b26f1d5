//! Claims: which guard has a source for itself. docs/format.md, "Acts", gives the bytes.
//!
//! A claim is an act of one entry. Its id follows from the name of the source and a number, one more than that of the
//! newest claim of the source, so of two guards that want a source at the same time the storage lets one write it. A
//! claim holds for as long as the guard that it names is open; nothing is written or removed to give a source back.

use super::acts::{Recorder, Stories};
use super::error::{RepoError, Result};
use crate::domain::act::ActKind;
use crate::domain::id::ActId;
use crate::format::seal::Keys;
use crate::storage::{ObjectName, ReadStore};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Claims whose number is tried beyond the newest readable one: more than ever were damaged in a row.
const PROBES_MAX: u64 = 1000;

/// What a claim says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Name of the source.
    pub source: String,
    /// Number of the claim among those of its source, from 0.
    pub number: u64,
    /// The guard, as hex.
    pub guard: String,
}

impl Claim {
    /// The guard; `None` when the text is no id.
    pub fn guard_id(&self) -> Option<ActId> {
        ActId::parse(&self.guard).ok()
    }

    /// Its own id.
    pub fn id(&self, keys: &Keys) -> ActId {
        claim_id(keys, &self.source, self.number)
    }
}

/// The id of a claim. Keyed, so that nobody learns names of sources from names of objects.
pub fn claim_id(keys: &Keys, source: &str, number: u64) -> ActId {
    let text = [b"holdfast v1 claim".as_slice(), &number.to_le_bytes(), source.as_bytes()].concat();
    let mut id = ActId::default();
    id.0.copy_from_slice(&keys.mac(&text)[..ActId::LEN]);
    id
}

/// The newest readable claim of each source.
pub fn newest(stories: &Stories) -> BTreeMap<String, Claim> {
    let mut all: BTreeMap<String, Claim> = BTreeMap::new();
    for story in stories.stories.iter().filter(|story| story.kind == ActKind::Lock) {
        let Ok(claim) = story.first().read::<Claim>() else { continue };
        match all.get(&claim.source) {
            Some(known) if known.number >= claim.number => {}
            _ => _ = all.insert(claim.source.clone(), claim),
        }
    }
    all
}

/// The number that the next claim of a source has, and whether claims are in between that cannot be read.
///
/// # Errors
/// Storage errors.
pub fn next_number(store: &dyn ReadStore, keys: &Keys, source: &str, newest: Option<&Claim>) -> Result<(u64, bool)> {
    let first = newest.map_or(0, |claim| claim.number.saturating_add(1));
    for number in first..first.saturating_add(PROBES_MAX) {
        let name = ObjectName::act(claim_id(keys, source, number), 0);
        if store.stored_bytes(&name)?.is_none() {
            return Ok((number, number > first));
        }
    }
    Err(RepoError::Limit { what: format!("The number of claims on source {source}") })
}

/// Claims a source for a guard; durable on return.
///
/// # Errors
/// [`RepoError::ActTaken`] when another guard was faster; storage errors.
pub fn put(recorder: &Recorder<'_>, claim: &Claim) -> Result<()> {
    recorder.record_as(claim.id(recorder.keys), ActKind::Lock, claim)
}
