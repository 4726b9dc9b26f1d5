//! Second copies: of two copies of which one is damaged or missing, the good one is written under the other's name.
//!
//! Configuration, key slots, snapshot records. The damaged copy moves below `quarantine/` first; until the new one is
//! there, the good one serves, as it did before.

use super::{RepairError, RepairMeans};
use crate::domain::id::{KeySlotId, SnapshotId};
use crate::format::config_object::{self, UnverifiedConfig};
use crate::format::key_slot::{self, KeySlot};
use crate::repository::condemned;
use crate::repository::snapshots::{self, SNAPSHOT_BYTES_MAX};
use crate::storage::{ErrorKind, ObjectKind, ObjectName, SessionPart};
use serde::Serialize;
use std::collections::BTreeSet;

/// A copy that was made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealedCopy {
    /// Its object.
    pub object: String,
    /// What was wrong with it.
    pub reason: String,
    /// Where the damaged one was moved; none when it was missing, or nothing was done.
    pub quarantined: Option<String>,
}

/// What was done, or would be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopiesReport {
    /// Copies made again.
    pub healed: Vec<HealedCopy>,
    /// Objects of which no copy serves, or whose copies say different things, with the reason. They stay as they are.
    pub left: Vec<(String, String)>,
}

/// One of two copies: what it says, or why it says nothing.
type Copy<T> = Result<T, String>;

/// Heals every second copy.
///
/// # Errors
/// [`RepairError::Repository`]; what is in the report is done.
pub fn heal(means: &RepairMeans<'_>, dry_run: bool, report: &mut CopiesReport) -> Result<(), RepairError> {
    let mut healer = Healer { means, dry_run, report };
    healer.config()?;
    healer.keys()?;
    let records = condemned::load_all(means.store.as_ref(), &means.keys)?;
    for id in snapshots::list(means.store.as_ref())? {
        means.cancel.check()?;
        // a prune that is at work removes its parts one after the other
        if !records.iter().any(|record| record.snapshots.contains(&id)) {
            healer.snapshot(id)?;
        }
    }
    Ok(())
}

struct Healer<'a, 'm> {
    means: &'a RepairMeans<'m>,
    dry_run: bool,
    report: &'a mut CopiesReport,
}

impl Healer<'_, '_> {
    fn read<T>(
        &self,
        name: &ObjectName,
        max_bytes: u64,
        decode: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<Copy<T>, RepairError> {
        match self.means.store.get(name, max_bytes) {
            Ok(bytes) => Ok(decode(&bytes)),
            Err(error) => match error.kind {
                ErrorKind::NotFound => Ok(Err("it is missing".to_owned())),
                ErrorKind::Size => Ok(Err("it is longer than any valid one".to_owned())),
                ErrorKind::Other => Ok(Err(error.to_string())),
                _ => Err(error.into()),
            },
        }
    }

    /// Decides by what both copies say.
    fn settle<T: PartialEq>(
        &mut self,
        names: &[ObjectName; 2],
        copies: [Copy<T>; 2],
        encode: impl Fn(&T, u8) -> Result<Vec<u8>, RepairError>,
    ) -> Result<(), RepairError> {
        let [name0, name1] = names;
        match copies {
            [Ok(a), Ok(b)] if a == b => Ok(()),
            [Ok(_), Ok(_)] => {
                self.report
                    .left
                    .push((name1.to_string(), "the two copies differ, and both are well formed".to_owned()));
                Ok(())
            }
            [Ok(good), Err(reason)] => self.replace(name1, reason, encode(&good, 1)?),
            [Err(reason), Ok(good)] => self.replace(name0, reason, encode(&good, 0)?),
            [Err(reason), Err(_)] => {
                self.report.left.push((name0.to_string(), format!("neither copy serves: {reason}")));
                Ok(())
            }
        }
    }

    fn replace(&mut self, name: &ObjectName, reason: String, bytes: Vec<u8>) -> Result<(), RepairError> {
        let mut healed = HealedCopy { object: name.to_string(), reason, quarantined: None };
        if !self.dry_run {
            healed.quarantined = self.means.store.quarantine(name)?.map(|to| to.to_string());
            self.means.store.put_new(name, &bytes)?;
            if self.means.store.get(name, bytes.len() as u64)? != bytes {
                let reason = "the storage gives back other bytes than were written".to_owned();
                return Err(RepairError::NotProved { what: name.to_string(), reason });
            }
        }
        self.report.healed.push(healed);
        Ok(())
    }

    fn config(&mut self) -> Result<(), RepairError> {
        let keys = &self.means.keys;
        let names = [ObjectName::config(0), ObjectName::config(1)];
        let read = |copy: u8| {
            self.read(&names[usize::from(copy)], config_object::STORED_BYTES_MAX, |bytes| {
                let config = UnverifiedConfig::decode(bytes, u16::from(copy)).map_err(|e| e.to_string())?;
                if config.repository() != keys.repository() || config.suite() != keys.suite() {
                    return Err("it belongs to another repository".to_owned());
                }
                config.verify(keys).cloned().map_err(|e| e.to_string())
            })
        };
        let copies = [read(0)?, read(1)?];
        self.settle(&names, copies, |config, copy| Ok(config.encode(keys, u16::from(copy))))
    }

    fn keys(&mut self) -> Result<(), RepairError> {
        let listed = match self.means.store.list(ObjectKind::Key) {
            // a repository without encryption has none, and its empty folder may be gone
            Err(error) if error.kind == ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let id = |name: &ObjectName| {
            let text = name.as_str().strip_prefix("keys/")?;
            KeySlotId::parse(text.strip_suffix(".copy").unwrap_or(text)).ok()
        };
        let ids: BTreeSet<KeySlotId> = listed.iter().filter_map(|info| id(&info.name)).collect();
        for id in ids {
            let names = [ObjectName::key(id, 0), ObjectName::key(id, 1)];
            let repository = self.means.keys.repository();
            let read = |copy: u8| {
                self.read(&names[usize::from(copy)], key_slot::STORED_BYTES_MAX, |bytes| {
                    KeySlot::decode(bytes, repository, id, u16::from(copy)).map_err(|e| e.to_string())
                })
            };
            let copies = [read(0)?, read(1)?];
            self.settle(&names, copies, |slot, copy| Ok(slot.encode(u16::from(copy))))?;
        }
        Ok(())
    }

    fn snapshot(&mut self, id: SnapshotId) -> Result<(), RepairError> {
        let keys = &self.means.keys;
        let parts = [SessionPart::Manifest, SessionPart::ManifestCopy];
        let names = parts.map(|part| ObjectName::snapshot(id, part));
        let read = |copy: u8| {
            self.read(&names[usize::from(copy)], SNAPSHOT_BYTES_MAX as u64, |bytes| {
                snapshots::decode(keys, id, copy, bytes).map_err(|e| {
                    let cause = std::error::Error::source(&e).map(ToString::to_string);
                    cause.unwrap_or_else(|| e.to_string())
                })
            })
        };
        let copies = [read(0)?, read(1)?];
        // a folder that holds neither is what a removal left, or went away since the listing
        if names.iter().all(|name| matches!(self.means.store.stored_bytes(name), Ok(None))) {
            return Ok(());
        }
        self.settle(&names, copies, |snapshot, copy| Ok(snapshots::encode(keys, snapshot, copy)?))
    }
}
