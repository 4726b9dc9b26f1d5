//! Acts: the stories of dangerous things, told before they are done. docs/format.md, "Acts", gives the bytes.
//!
//! An act is a series of small objects, `acts/ID.0000` and so on. Whoever does the dangerous thing writes each entry
//! before the step that it announces, so after a crash the last entry says what may have been begun. Entries are
//! written once, and a name that is taken is refused: of two processes that go on with the same act, one writes the
//! next entry and the other learns that it must stop.
//!
//! Invariants: an entry is durable before [`Act::note`] returns; an act whose newest readable entry does not say that
//! it is finished counts as open; an entry that cannot be read is named and never in the way of the others.

use super::error::{RepoError, Result};
use crate::domain::act::{ActKind, Owner};
use crate::domain::id::{ActId, SnapshotId};
use crate::domain::system::{Clock, Random};
use crate::domain::time_spec::timestamp_ns;
use crate::format::envelope::{Expected, Header, ObjectTag};
use crate::format::records::KIND_ACT;
use crate::format::seal::Keys;
use crate::format::sealed;
use crate::storage::{DeleteStore, ErrorKind, ObjectKind, ObjectName, ReadStore, WriteStore};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest entry, bytes.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Most entries of one act.
pub const ENTRIES_MAX: u16 = 10_000;
/// More than any entry has as a stored object, bytes.
pub const OBJECT_BYTES_MAX: u64 = 2 * ENTRY_BYTES_MAX as u64;

/// One entry of an act, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActEntry {
    /// The act.
    pub act: ActId,
    /// Number of the entry, from 0.
    pub sequence: u16,
    /// The word of the act's [`ActKind`]; a later version may know more of them.
    pub kind: String,
    /// When it was written, nanoseconds since 1970 UTC. For people and for retention.
    pub time_ns: i64,
    /// Host that wrote it.
    pub host: String,
    /// User who wrote it.
    pub user: String,
    /// Process that wrote it.
    pub process: u32,
    /// Tells that process from others, see [`Owner::mark`].
    pub mark: String,
    /// Nothing comes after this entry.
    pub finished: bool,
    /// What is about to be done, as JSON. Its fields belong to the kind, except `state`, a word, and `text`, a line
    /// for people, which histories show.
    pub body: String,
}

impl ActEntry {
    /// Who wrote it.
    pub fn owner(&self) -> Owner {
        let (host, user, mark) = (self.host.clone(), self.user.clone(), self.mark.clone());
        Owner { host, user, process: self.process, mark }
    }

    /// The body.
    ///
    /// # Errors
    /// When it is not the JSON of a `T`: an unknown version wrote it.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.body).map_err(|error| RepoError::Damaged {
            object: ObjectName::act(self.act, self.sequence).to_string(),
            reason: format!("its text is not what an act of kind {} holds ({error})", self.kind),
        })
    }

    /// The word that says how far the act is.
    pub fn state(&self) -> String {
        self.text_field("state")
    }

    /// The line for people, empty where there is none.
    pub fn text(&self) -> String {
        self.text_field("text")
    }

    fn text_field(&self, name: &str) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    }
}

/// One act with everything that can be read of it.
#[derive(Debug)]
pub struct Story {
    /// Its id.
    pub id: ActId,
    /// Its kind.
    pub kind: ActKind,
    /// Its readable entries in order; at least one.
    pub entries: Vec<ActEntry>,
    /// Numbers of entries that exist and cannot be read.
    pub damaged: Vec<u16>,
}

impl Story {
    /// The first entry that can be read.
    pub fn first(&self) -> &ActEntry {
        &self.entries[0]
    }

    /// The newest entry that can be read.
    pub fn last(&self) -> &ActEntry {
        &self.entries[self.entries.len() - 1]
    }

    /// True when nothing is to be done any more.
    pub fn is_finished(&self) -> bool {
        self.entries.iter().any(|entry| entry.finished)
    }

    /// The number of the next entry.
    fn next(&self) -> u16 {
        self.damaged.iter().copied().max().unwrap_or(0).max(self.last().sequence).saturating_add(1)
    }
}

/// What is known of the acts of a repository.
#[derive(Debug, Default)]
pub struct Stories {
    /// Those of which something can be read, oldest first.
    pub stories: Vec<Story>,
    /// Entries that cannot be read, with their numbers, by act.
    pub damaged: Vec<(ActId, u16, RepoError)>,
}

impl Stories {
    /// Snapshots that acts which are not finished may still need, with the line for people of one such act. Every kind
    /// names them in the same fields of its body: `snapshot`, `safety`, and `snapshot` of its `plan`.
    pub fn held_snapshots(&self) -> BTreeMap<SnapshotId, String> {
        let mut held = BTreeMap::new();
        for story in self.stories.iter().filter(|story| !story.is_finished()) {
            for entry in &story.entries {
                let body: serde_json::Value = serde_json::from_str(&entry.body).unwrap_or_default();
                for field in ["/snapshot", "/safety", "/plan/snapshot"] {
                    let text = body.pointer(field).and_then(serde_json::Value::as_str);
                    if let Some(id) = text.and_then(|text| SnapshotId::parse(text).ok()) {
                        held.insert(id, format!("{} {}", story.kind.as_str(), entry.text()));
                    }
                }
            }
        }
        held
    }
}

/// Writes acts.
#[derive(Clone)]
pub struct Recorder<'a> {
    /// The repository.
    pub store: &'a dyn WriteStore,
    /// Its keys.
    pub keys: &'a Keys,
    /// The time that entries carry.
    pub clock: &'a dyn Clock,
    /// For ids.
    pub random: &'a dyn Random,
    /// This process.
    pub owner: Owner,
}

impl std::fmt::Debug for Recorder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorder({}, {:?})", self.store.location(), self.owner)
    }
}

impl<'a> Recorder<'a> {
    /// Begins an act: its first entry is durable on return.
    ///
    /// # Errors
    /// Storage errors; a body beyond the limits of the format.
    pub fn begin(&self, kind: ActKind, body: &impl Serialize) -> Result<Act<'a>> {
        self.begin_as(ActId(self.random.bytes()), kind, body)
    }

    /// Begins an act under an id that follows from something else, so that only one process can begin it.
    ///
    /// # Errors
    /// [`RepoError::ActTaken`] when there is one of this id already; storage errors.
    pub fn begin_as(&self, id: ActId, kind: ActKind, body: &impl Serialize) -> Result<Act<'a>> {
        let mut act = Act { id, kind, next: 0, recorder: self.clone() };
        act.note(body)?;
        Ok(act)
    }

    /// Writes an act of one entry, which finishes it, under an id that follows from something else.
    ///
    /// # Errors
    /// As [`Self::begin_as`].
    pub fn record_as(&self, id: ActId, kind: ActKind, body: &impl Serialize) -> Result<()> {
        Act { id, kind, next: 0, recorder: self.clone() }.finish(body)
    }

    /// Goes on with an act that another process left, after everything that is there of it.
    pub fn resume(&self, story: &Story) -> Act<'a> {
        Act { id: story.id, kind: story.kind, next: story.next(), recorder: self.clone() }
    }
}

/// An act that this process is doing.
#[derive(Debug, Clone)]
pub struct Act<'a> {
    id: ActId,
    kind: ActKind,
    next: u16,
    recorder: Recorder<'a>,
}

impl Act<'_> {
    /// Its id.
    pub fn id(&self) -> ActId {
        self.id
    }

    /// Says what will be done next; durable on return.
    ///
    /// # Errors
    /// [`RepoError::ActTaken`] when another process goes on with it: this one must do nothing more. Storage errors.
    pub fn note(&mut self, body: &impl Serialize) -> Result<()> {
        self.write(body, false)
    }

    /// Says that everything is done; durable on return.
    ///
    /// # Errors
    /// As [`Self::note`].
    pub fn finish(mut self, body: &impl Serialize) -> Result<()> {
        self.write(body, true)
    }

    fn write(&mut self, body: &impl Serialize, finished: bool) -> Result<()> {
        let beyond = || RepoError::Limit { what: format!("Act {}", self.id.short()) };
        let Owner { host, user, process, mark } = self.recorder.owner.clone();
        let entry = ActEntry {
            act: self.id,
            sequence: self.next,
            kind: self.kind.as_str().to_owned(),
            time_ns: timestamp_ns(self.recorder.clock.now()),
            host,
            user,
            process,
            mark,
            finished,
            body: serde_json::to_string(body).map_err(|_| beyond())?,
        };
        if entry.sequence >= ENTRIES_MAX || entry.body.len() > ENTRY_BYTES_MAX / 2 {
            return Err(beyond());
        }
        match put(self.recorder.store, self.recorder.keys, &entry) {
            Err(RepoError::Storage(error)) if error.kind == ErrorKind::AlreadyExists => {
                Err(RepoError::ActTaken { act: self.id })
            }
            other => other.map(|()| self.next += 1),
        }
    }
}

/// Writes an entry, after proving that it can be read.
fn put(store: &dyn WriteStore, keys: &Keys, entry: &ActEntry) -> Result<()> {
    let bytes = encode(keys, entry)?;
    if decode(keys, entry.act, entry.sequence, &bytes)? != *entry {
        return Err(RepoError::ProofFailed {
            what: "the entry of an act".to_owned(),
            reason: "it decodes to another record".to_owned(),
        });
    }
    store.put_new(&ObjectName::act(entry.act, entry.sequence), &bytes)?;
    Ok(())
}

/// Encodes an entry as an object.
///
/// # Errors
/// A record beyond the format's limits.
pub fn encode(keys: &Keys, entry: &ActEntry) -> Result<Vec<u8>> {
    let header = Header::new(ObjectTag::Act, keys.repository(), entry.act.0, keys.suite().number());
    sealed::encode(&header, keys.meta(), KIND_ACT, u32::from(entry.sequence), entry)
        .map_err(|_| RepoError::Limit { what: "The entry of an act".to_owned() })
}

/// Decodes an entry.
///
/// # Errors
/// Damage, or another entry under this name.
pub fn decode(keys: &Keys, id: ActId, sequence: u16, bytes: &[u8]) -> Result<ActEntry> {
    let object = || ObjectName::act(id, sequence).to_string();
    let expected = Expected {
        repository: Some(keys.repository()),
        object_id: Some(id.0),
        copy: Some(0),
        ..Expected::any(ObjectTag::Act)
    };
    let (_, entry) =
        sealed::decode::<ActEntry, ENTRY_BYTES_MAX>(bytes, &expected, keys.meta(), KIND_ACT, u32::from(sequence))
            .map_err(|source| RepoError::Format { object: object(), source })?;
    if (entry.act, entry.sequence) == (id, sequence) {
        Ok(entry)
    } else {
        let reason = format!("it is entry {} of act {}", entry.sequence, entry.act);
        Err(RepoError::Damaged { object: object(), reason })
    }
}

/// Act and number of an entry's name; `None` for names that no entry has.
pub fn parse_name(name: &ObjectName) -> Option<(ActId, u16)> {
    let (id, sequence) = name.as_str().strip_prefix("acts/")?.split_once('.')?;
    let sequence = Some(sequence).filter(|text| text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit()))?;
    Some((ActId::parse(id).ok()?, sequence.parse().ok()?))
}

/// Names of all entries, in order, by act.
///
/// # Errors
/// Storage errors.
pub fn names(store: &dyn ReadStore) -> Result<BTreeMap<ActId, Vec<u16>>> {
    let mut all: BTreeMap<ActId, Vec<u16>> = BTreeMap::new();
    for (id, sequence) in store.list(ObjectKind::Act)?.iter().filter_map(|info| parse_name(&info.name)) {
        all.entry(id).or_default().push(sequence);
    }
    Ok(all)
}

/// Reads one act; `None` when there is none of this id, or nothing of it can be read.
///
/// # Errors
/// Storage errors other than damage.
pub fn load(store: &dyn ReadStore, keys: &Keys, id: ActId) -> Result<Option<Story>> {
    let sequences = names(store)?.remove(&id).unwrap_or_default();
    Ok(read(store, keys, id, &sequences, &mut Vec::new())?.filter(|(kind, _)| kind.is_some()).map(|(_, story)| story))
}

/// Reads all acts, or those of one kind, oldest first. Acts of kinds that only a later version knows are left out.
///
/// # Errors
/// Storage errors other than damage.
pub fn list(store: &dyn ReadStore, keys: &Keys, kind: Option<ActKind>) -> Result<Stories> {
    let mut found = Stories::default();
    for (id, sequences) in names(store)? {
        let story = read(store, keys, id, &sequences, &mut found.damaged)?;
        found.stories.extend(story.filter(|(of, _)| of.is_some() && (kind.is_none() || *of == kind)).map(|(_, s)| s));
    }
    found.stories.sort_by_key(|story| (story.first().time_ns, story.id));
    Ok(found)
}

/// An act with its kind, `None` for one that is unknown.
type Found = (Option<ActKind>, Story);

fn read(
    store: &dyn ReadStore,
    keys: &Keys,
    id: ActId,
    sequences: &[u16],
    bad: &mut Vec<(ActId, u16, RepoError)>,
) -> Result<Option<Found>> {
    let (mut entries, mut damaged) = (Vec::new(), Vec::new());
    for &sequence in sequences {
        let read = store.get(&ObjectName::act(id, sequence), OBJECT_BYTES_MAX).map_err(RepoError::from);
        match read.and_then(|bytes| decode(keys, id, sequence, &bytes)) {
            Ok(entry) => entries.push(entry),
            // pruned since the listing
            Err(RepoError::Storage(e)) if e.kind == ErrorKind::NotFound => {}
            Err(error) if error.concerns_one_object() => {
                damaged.push(sequence);
                bad.push((id, sequence, error));
            }
            Err(error) => return Err(error),
        }
    }
    let Some(kind) = entries.first().map(|entry: &ActEntry| ActKind::parse(&entry.kind)) else { return Ok(None) };
    Ok(Some((kind, Story { id, kind: kind.unwrap_or(ActKind::Lock), entries, damaged })))
}

/// Removes a finished act, its last entry last, so that what a crash leaves is still finished.
///
/// # Errors
/// Storage errors.
pub fn remove(store: &dyn DeleteStore, story: &Story) -> Result<()> {
    let mut sequences: Vec<u16> = story.entries.iter().map(|entry| entry.sequence).collect();
    let end = story.entries.iter().find(|entry| entry.finished).map(|entry| entry.sequence);
    sequences.extend(&story.damaged);
    sequences.sort_unstable_by_key(|sequence| (Some(*sequence) == end, *sequence));
    for sequence in sequences {
        store.delete(&ObjectName::act(story.id, sequence))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "acts_tests.rs"]
mod tests;
