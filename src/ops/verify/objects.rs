//! Reads every object that is neither pack nor index object in full, both copies: configuration, key slots, snapshots,
//! sessions, fenced sessions, tombstones, acceptances, acts, condemned records; and names what does not belong into a repository.

use super::{Run, VerifyError};
use crate::domain::id::{ActId, CondemnedId, KeySlotId, SnapshotId};
use crate::format::config_object::{self, UnverifiedConfig};
use crate::format::envelope::{Expected, ObjectTag};
use crate::format::key_slot::{self, KeySlot};
use crate::format::records::KIND_SESSION;
use crate::format::seal::Suite;
use crate::format::{self, sealed};
use crate::repository::Problem;
use crate::repository::condemned::{self, CONDEMNED_BYTES_MAX};
use crate::repository::error::RepoError;
use crate::repository::session::{SessionSaw, SessionStart};
use crate::repository::snapshots::{self, SNAPSHOT_BYTES_MAX};
use crate::repository::{accepted, acts, tombstones};
use crate::storage::{self, ErrorKind, ObjectKind, ObjectName, RESERVE_NAME, SessionPart};
use std::collections::{BTreeMap, BTreeSet};

/// Largest session record that is decoded, bytes.
const SESSION_BYTES_MAX: usize = 16 << 20;

const PARTS: [SessionPart; 4] =
    [SessionPart::Start, SessionPart::Saw, SessionPart::Manifest, SessionPart::ManifestCopy];

/// Checks them all.
pub(super) fn check(run: &Run<'_>) -> Result<(), VerifyError> {
    run.phase("verifying objects", None, None);
    config(run);
    keys(run)?;
    for kind in [ObjectKind::Snapshot, ObjectKind::Session, ObjectKind::Fenced] {
        run.cancel.check()?;
        sessions(run, kind)?;
    }
    tombstones(run)?;
    acceptances(run)?;
    acts(run)?;
    condemned_records(run)?;
    strays(run)?;
    Ok(())
}

fn list(run: &Run<'_>, kind: ObjectKind) -> Result<Vec<storage::ObjectInfo>, VerifyError> {
    Ok(run.reading.store.list(kind).map_err(RepoError::from)?)
}

/// Reads an object; what prevents it becomes a finding. `None` also when it went away and `may_go` says it may.
fn get(run: &Run<'_>, name: &ObjectName, max_bytes: u64, may_go: bool) -> Option<Vec<u8>> {
    match run.reading.store.get(name, max_bytes) {
        Ok(bytes) => {
            run.gatherer.count(|r| {
                r.objects_read += 1;
                r.stored_bytes_read += bytes.len() as u64;
            });
            Some(bytes)
        }
        Err(error) if error.kind == ErrorKind::NotFound && may_go => None,
        Err(error) => {
            let (object, problem, reason) = super::report::describe(&RepoError::Storage(error));
            run.gatherer.finding(object, problem, reason);
            None
        }
    }
}

fn stray(run: &Run<'_>, name: &str) {
    run.gatherer.note("object.stray", name, format!("{name} is not an object of a repository; nothing reads it"));
}

fn config(run: &Run<'_>) {
    let keys = &run.reading.keys;
    let mut whole = Vec::new();
    for copy in [0u8, 1] {
        let name = ObjectName::config(copy);
        let Some(bytes) = get(run, &name, config_object::STORED_BYTES_MAX, false) else { continue };
        let decoded = UnverifiedConfig::decode(&bytes, u16::from(copy)).and_then(|config| {
            if config.repository() != keys.repository() || config.suite() != keys.suite() {
                return Err(format::Error::damaged("Configuration", 24, "it belongs to another repository"));
            }
            config.verify(keys).cloned()
        });
        match decoded {
            Ok(config) => whole.push(config),
            Err(error) => run.gatherer.finding(name.as_str(), Problem::Damaged, error.to_string()),
        }
    }
    if matches!(whole.as_slice(), [a, b] if a != b) {
        run.gatherer.finding("config.copy", Problem::Damaged, "the two copies differ");
    }
}

fn keys(run: &Run<'_>) -> Result<(), VerifyError> {
    let mut ids = BTreeSet::new();
    let listed = match run.reading.store.list(ObjectKind::Key) {
        // Without encryption the folder is empty, and many programs that copy folders leave empty ones out.
        Err(error) if error.kind == ErrorKind::NotFound && run.reading.keys.suite() == Suite::None => Vec::new(),
        other => other.map_err(RepoError::from)?,
    };
    for info in listed {
        let text = info.name.as_str().strip_prefix("keys/").unwrap_or_default();
        match KeySlotId::parse(text.strip_suffix(".copy").unwrap_or(text)) {
            Ok(id) => drop(ids.insert(id)),
            Err(_) => stray(run, info.name.as_str()),
        }
    }
    for id in ids {
        let mut whole = Vec::new();
        for copy in [0u8, 1] {
            let name = ObjectName::key(id, copy);
            let Some(bytes) = get(run, &name, key_slot::STORED_BYTES_MAX, false) else { continue };
            match KeySlot::decode(&bytes, run.reading.keys.repository(), id, u16::from(copy)) {
                Ok(slot) => whole.push(slot),
                Err(error) => run.gatherer.finding(name.as_str(), Problem::Damaged, error.to_string()),
            }
        }
        if matches!(whole.as_slice(), [a, b] if a != b) {
            run.gatherer.finding(ObjectName::key(id, 1).as_str(), Problem::Damaged, "the two copies differ");
        }
    }
    Ok(())
}

/// The folders of committed, running or fenced runs.
fn sessions(run: &Run<'_>, kind: ObjectKind) -> Result<(), VerifyError> {
    let mut found: BTreeMap<SnapshotId, BTreeSet<SessionPart>> = BTreeMap::new();
    for info in list(run, kind)? {
        let text = info.name.as_str();
        let mut words = text.split('/').skip(1);
        let id = words.next().and_then(|id| SnapshotId::parse(id).ok());
        let part = words.next().and_then(|file| PARTS.into_iter().find(|p| p.file_name() == file));
        match (id, part, words.next()) {
            (Some(id), Some(part), None) => drop(found.entry(id).or_default().insert(part)),
            _ => stray(run, text),
        }
    }
    let total = found.len() as u64;
    for (done, (id, parts)) in (0u64..).zip(&found) {
        run.cancel.check()?;
        one_session(run, kind, *id, parts);
        if kind == ObjectKind::Snapshot {
            run.progress(0, None, done + 1, Some(total));
        }
    }
    Ok(())
}

fn one_session(run: &Run<'_>, kind: ObjectKind, id: SnapshotId, parts: &BTreeSet<SessionPart>) {
    let committed = kind == ObjectKind::Snapshot;
    let mut manifests = Vec::new();
    for part in PARTS {
        let name = part_name(kind, id, part);
        if !parts.contains(&part) {
            if committed {
                run.gatherer.finding(name.as_str(), Problem::Missing, "it is not there");
            }
            continue;
        }
        // A session commits or is fenced, a snapshot is forgotten while this runs: then all of its parts go.
        let Some(bytes) = get(run, &name, SNAPSHOT_BYTES_MAX as u64, true) else {
            if committed && still_there(run, id) {
                run.gatherer.finding(name.as_str(), Problem::Missing, "it is not there");
            }
            continue;
        };
        match decode_part(run, id, part, &bytes) {
            Ok(Some(digest)) => manifests.push(digest),
            Ok(None) => {}
            Err(reason) => run.gatherer.finding(name.as_str(), Problem::Damaged, reason),
        }
    }
    if committed && matches!(manifests.as_slice(), [a, b] if a != b) {
        let name = part_name(kind, id, SessionPart::ManifestCopy);
        run.gatherer.finding(name.as_str(), Problem::Damaged, "the two copies differ");
    }
}

fn still_there(run: &Run<'_>, id: SnapshotId) -> bool {
    PARTS.into_iter().any(|part| {
        run.reading.store.stored_bytes(&ObjectName::snapshot(id, part)).is_ok_and(|stored| stored.is_some())
    })
}

fn part_name(kind: ObjectKind, id: SnapshotId, part: SessionPart) -> ObjectName {
    match kind {
        ObjectKind::Session => ObjectName::session(id, part),
        ObjectKind::Fenced => ObjectName::found(format!("fenced/{id}/{}", part.file_name())),
        _ => ObjectName::snapshot(id, part),
    }
}

/// Decodes one part; for snapshot records the digest of what both copies must say.
fn decode_part(run: &Run<'_>, id: SnapshotId, part: SessionPart, bytes: &[u8]) -> Result<Option<blake3::Hash>, String> {
    let keys = &run.reading.keys;
    let expected = |tag| Expected {
        repository: Some(keys.repository()),
        object_id: Some(id.0),
        copy: Some(0),
        ..Expected::any(tag)
    };
    let text = |error: format::Error| error.to_string();
    match part {
        SessionPart::Start => {
            let (_, start) = sealed::decode::<SessionStart, SESSION_BYTES_MAX>(
                bytes,
                &expected(ObjectTag::SessionStart),
                keys.meta(),
                KIND_SESSION,
                0,
            )
            .map_err(text)?;
            if start.id == id { Ok(None) } else { Err(format!("it describes session {}", start.id)) }
        }
        SessionPart::Saw => sealed::decode::<SessionSaw, SESSION_BYTES_MAX>(
            bytes,
            &expected(ObjectTag::SessionSaw),
            keys.meta(),
            KIND_SESSION,
            1,
        )
        .map(|_| None)
        .map_err(text),
        SessionPart::Manifest | SessionPart::ManifestCopy => {
            let copy = u8::from(part == SessionPart::ManifestCopy);
            let snapshot = snapshots::decode(keys, id, copy, bytes).map_err(|error| {
                let (_, _, reason) = super::report::describe(&error);
                reason
            })?;
            Ok(Some(blake3::hash(&format::codec::encode(&snapshot))))
        }
    }
}

fn tombstones(run: &Run<'_>) -> Result<(), VerifyError> {
    for info in list(run, ObjectKind::Forgotten)? {
        let id = info.name.as_str().strip_prefix("forgotten/").and_then(|text| SnapshotId::parse(text).ok());
        let Some(id) = id else {
            stray(run, info.name.as_str());
            continue;
        };
        let Some(bytes) = get(run, &info.name, tombstones::OBJECT_BYTES_MAX, true) else { continue };
        if let Err(error) = tombstones::decode(&run.reading.keys, id, &bytes) {
            let (_, problem, reason) = super::report::describe(&error);
            run.gatherer.finding(info.name.as_str(), problem, reason);
        }
    }
    Ok(())
}

fn acceptances(run: &Run<'_>) -> Result<(), VerifyError> {
    for info in list(run, ObjectKind::Accepted)? {
        let id = info.name.as_str().strip_prefix("accepted/").and_then(|text| SnapshotId::parse(text).ok());
        let Some(id) = id else {
            stray(run, info.name.as_str());
            continue;
        };
        let Some(bytes) = get(run, &info.name, accepted::OBJECT_BYTES_MAX, true) else { continue };
        if let Err(error) = accepted::decode(&run.reading.keys, id, &bytes) {
            let (_, problem, reason) = super::report::describe(&error);
            run.gatherer.finding(info.name.as_str(), problem, reason);
        }
    }
    Ok(())
}

/// Every entry, and those that are missing between two others.
fn acts(run: &Run<'_>) -> Result<(), VerifyError> {
    let mut found: BTreeMap<ActId, BTreeMap<u16, bool>> = BTreeMap::new();
    for info in list(run, ObjectKind::Act)? {
        let Some((id, sequence)) = acts::parse_name(&info.name) else {
            stray(run, info.name.as_str());
            continue;
        };
        // also when it goes away before it is read: it was there
        found.entry(id).or_default().insert(sequence, false);
        let Some(bytes) = get(run, &info.name, acts::OBJECT_BYTES_MAX, true) else { continue };
        let finished = match acts::decode(&run.reading.keys, id, sequence, &bytes) {
            Ok(entry) => entry.finished,
            Err(error) => {
                let (_, problem, reason) = super::report::describe(&error);
                run.gatherer.finding(info.name.as_str(), problem, reason);
                false
            }
        };
        found.entry(id).or_default().insert(sequence, finished);
    }
    for (id, sequences) in found {
        let Some((last, _)) = sequences.last_key_value() else { continue };
        // a prune removes the entries of a finished act one after the other, the last one last
        if sequences.values().any(|finished| *finished) && !sequences.contains_key(&0) {
            continue;
        }
        for missing in (0..*last).filter(|sequence| !sequences.contains_key(sequence)) {
            run.gatherer.finding(ObjectName::act(id, missing).as_str(), Problem::Missing, "it is not there");
        }
    }
    Ok(())
}

fn condemned_records(run: &Run<'_>) -> Result<(), VerifyError> {
    for info in list(run, ObjectKind::Condemned)? {
        let id = info.name.as_str().split('/').nth(1).and_then(|text| CondemnedId::parse(text).ok());
        let Some(id) = id else {
            stray(run, info.name.as_str());
            continue;
        };
        let Some(bytes) = get(run, &info.name, CONDEMNED_BYTES_MAX as u64, true) else { continue };
        if let Err(error) = condemned::decode(&run.reading.keys, id, &bytes) {
            run.gatherer.error(&error);
        }
    }
    Ok(())
}

/// Names that belong to no kind, leftovers, and what was put aside.
fn strays(run: &Run<'_>) -> Result<(), VerifyError> {
    for name in run.reading.store.list_strays().map_err(RepoError::from)? {
        stray(run, &name);
    }
    match run.reading.store.reserve_fault() {
        Ok(None) => {}
        Ok(Some(reason)) => run.gatherer.finding(RESERVE_NAME, Problem::Damaged, reason),
        Err(error) => run.gatherer.finding(RESERVE_NAME, Problem::Unreadable, error.to_string()),
    }
    for info in list(run, ObjectKind::Temporary)? {
        let message = "It is being written, or was left by a run that died".to_owned();
        run.gatherer.note("object.temporary", info.name.as_str(), message);
    }
    for info in list(run, ObjectKind::Quarantine)? {
        let message = "It was found damaged before and put aside".to_owned();
        run.gatherer.note("object.quarantined", info.name.as_str(), message);
    }
    Ok(())
}
