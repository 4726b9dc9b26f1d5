//! Local knowledge about a repository that saves work and that may be lost at any time: a cache of snapshot records
//! (as they are stored, so still sealed), the ledger of when each object was last read in full, and which packs cannot be
//! made smaller.
//!
//! Invariants: the repository alone is the truth; nothing here can make an operation fail. A catalog that is missing,
//! damaged or of another version is made anew, and one that cannot be used at all is as good as an empty one; both
//! leave a note for the user.

mod schema;

use crate::domain::id::{PackId, RepositoryId, SnapshotId};
use rusqlite::{Connection, params};
use schema::Opened;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// When an object was last read in full, and how that went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRead {
    /// When, nanoseconds since 1970 UTC.
    pub read_ns: i64,
    /// Its stored length, bytes.
    pub stored_bytes: u64,
    /// True when every byte was as it was written.
    pub whole: bool,
}

/// The catalog of one repository on this machine. Several processes may use the same one.
#[derive(Debug)]
pub struct Catalog {
    connection: Mutex<Option<Opened>>,
    notes: Mutex<Vec<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Catalog {
    /// For runs without a state directory: remembers nothing.
    pub fn none() -> Self {
        Self { connection: Mutex::new(None), notes: Mutex::default() }
    }

    /// Opens the catalog of a repository below the state directory (`$XDG_STATE_HOME/holdfast`), or makes it.
    pub fn open(state: &Path, repository: RepositoryId) -> Self {
        let mut notes = Vec::new();
        let opened = match schema::open(&state.join(repository.hex())) {
            Ok((opened, note)) => {
                notes.extend(note);
                Some(opened)
            }
            Err(error) => {
                notes.push(format!("The local catalog in {} cannot be used: {error}", state.display()));
                None
            }
        };
        Self { connection: Mutex::new(opened), notes: Mutex::new(notes) }
    }

    /// What the user should know about the catalog, one sentence each. None of it concerns the repository.
    pub fn notes(&self) -> Vec<String> {
        locked(&self.notes).clone()
    }

    /// Runs an action on the database. A failure becomes a note and the default; after damage the file is removed, so
    /// that the next run makes a new one.
    fn with<T: Default>(&self, action: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> T {
        let mut slot = locked(&self.connection);
        let Some(opened) = slot.as_mut() else { return T::default() };
        match action(&mut opened.connection) {
            Ok(value) => value,
            Err(error) => {
                let path = opened.path.display().to_string();
                if schema::is_damage(&error) {
                    locked(&self.notes).push(format!("The local catalog {path} was damaged and is made anew: {error}"));
                    if let Some(opened) = slot.take() {
                        *slot = schema::make_anew(opened).ok();
                    }
                } else {
                    locked(&self.notes).push(format!("The local catalog {path} could not be used: {error}"));
                }
                T::default()
            }
        }
    }

    /// Hands the stored bytes of all records (copy 0) that are kept to `each`, in groups. The caller opens and so
    /// authenticates them.
    pub fn each_snapshot_record(&self, group: usize, mut each: impl FnMut(Vec<(SnapshotId, Vec<u8>)>)) {
        self.with(|db| {
            let mut statement = db.prepare("SELECT id, record FROM snapshots")?;
            let mut rows = statement.query([])?;
            let mut records = Vec::new();
            while let Some(row) = rows.next()? {
                if let Ok(id) = row.get::<_, Vec<u8>>(0)?.try_into() {
                    records.push((SnapshotId(id), row.get::<_, Vec<u8>>(1)?));
                }
                if records.len() >= group {
                    each(std::mem::take(&mut records));
                }
            }
            each(records);
            Ok(())
        });
    }

    /// Keeps records: id, backup time, stored bytes.
    pub fn put_snapshots(&self, records: &[(SnapshotId, i64, Vec<u8>)]) {
        if records.is_empty() {
            return;
        }
        self.with(|db| {
            let transaction = db.transaction()?;
            {
                let mut statement = transaction
                    .prepare("INSERT OR REPLACE INTO snapshots (id, time_ns, record) VALUES (?1, ?2, ?3)")?;
                for (id, time_ns, record) in records {
                    statement.execute(params![id.0.as_slice(), time_ns, record])?;
                }
            }
            transaction.commit()
        });
    }

    /// Drops records of snapshots that are gone.
    pub fn drop_snapshots(&self, ids: &[SnapshotId]) {
        if ids.is_empty() {
            return;
        }
        self.with(|db| {
            let transaction = db.transaction()?;
            {
                let mut statement = transaction.prepare("DELETE FROM snapshots WHERE id = ?1")?;
                for id in ids {
                    statement.execute(params![id.0.as_slice()])?;
                }
            }
            transaction.commit()
        });
    }

    /// Drops all records of snapshots; the ledger stays, because nothing could tell it again.
    pub fn clear_snapshots(&self) {
        self.with(|db| db.execute("DELETE FROM snapshots", []).map(|_| ()));
    }

    /// The ledger: by object name, when it was last read in full.
    pub fn last_reads(&self) -> HashMap<String, LastRead> {
        self.with(|db| {
            let mut statement = db.prepare("SELECT object, read_ns, stored_bytes, whole FROM ledger")?;
            let rows = statement.query_map([], |row| {
                let last = LastRead {
                    read_ns: row.get(1)?,
                    stored_bytes: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                    whole: row.get(3)?,
                };
                Ok((row.get::<_, String>(0)?, last))
            })?;
            rows.collect()
        })
    }

    /// Writes into the ledger.
    pub fn note_reads(&self, reads: &[(String, LastRead)]) {
        if reads.is_empty() {
            return;
        }
        self.with(|db| {
            let transaction = db.transaction()?;
            {
                let mut statement = transaction.prepare(
                    "INSERT OR REPLACE INTO ledger (object, read_ns, stored_bytes, whole) VALUES (?1, ?2, ?3, ?4)",
                )?;
                for (object, last) in reads {
                    let stored_bytes = i64::try_from(last.stored_bytes).unwrap_or(i64::MAX);
                    statement.execute(params![object, last.read_ns, stored_bytes, last.whole])?;
                }
            }
            transaction.commit()
        });
    }

    /// Packs of which it is known that compressing them harder gains nothing.
    pub fn settled_packs(&self) -> HashSet<PackId> {
        self.with(|db| {
            let mut statement = db.prepare("SELECT pack FROM settled_packs")?;
            let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
            let packs = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(packs.into_iter().filter_map(|pack| pack.try_into().ok().map(PackId)).collect())
        })
    }

    /// Remembers packs as settled, and drops some that are gone.
    pub fn note_settled_packs(&self, settled: &[PackId], gone: &[PackId]) {
        if settled.is_empty() && gone.is_empty() {
            return;
        }
        self.with(|db| {
            let transaction = db.transaction()?;
            for (statement, packs) in [
                ("INSERT OR REPLACE INTO settled_packs (pack) VALUES (?1)", settled),
                ("DELETE FROM settled_packs WHERE pack = ?1", gone),
            ] {
                let mut statement = transaction.prepare(statement)?;
                for pack in packs {
                    statement.execute(params![pack.0.as_slice()])?;
                }
            }
            transaction.commit()
        });
    }

    /// Drops ledger entries of objects that are gone.
    pub fn drop_reads(&self, objects: &[String]) {
        if objects.is_empty() {
            return;
        }
        self.with(|db| {
            let transaction = db.transaction()?;
            {
                let mut statement = transaction.prepare("DELETE FROM ledger WHERE object = ?1")?;
                for object in objects {
                    statement.execute(params![object])?;
                }
            }
            transaction.commit()
        });
    }
}

#[cfg(test)]
mod tests;
