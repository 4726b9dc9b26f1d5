//! Small objects, read back after they were written: storage that says "stored" and has not is caught by the run that
//! relies on it, not by the restore that needs it.

use super::error::{RepoError, Result};
use crate::storage::{ErrorKind, ObjectName, WriteStore};

/// Writes an object under a new name, durably, and reads it back.
///
/// # Errors
/// Storage errors; [`RepoError::ProofFailed`] when it does not read as it was written.
pub(crate) fn put_proved(store: &dyn WriteStore, name: &ObjectName, bytes: &[u8]) -> Result<()> {
    store.put_new(name, bytes)?;
    let failed = |reason: &str| Err(RepoError::ProofFailed { what: name.to_string(), reason: reason.to_owned() });
    match store.get(name, bytes.len() as u64) {
        Ok(read) if read == bytes => Ok(()),
        Ok(_) => failed("it reads back as other bytes"),
        Err(error) if error.kind == ErrorKind::NotFound => failed("it is not there after it was stored"),
        Err(error) if error.kind == ErrorKind::Size => failed("it has another length than was stored"),
        Err(error) => Err(error.into()),
    }
}
