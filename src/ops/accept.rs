//! `accept`: a snapshot that looked wrong is good from now on, because somebody who knows said so.

use crate::domain::snapshot::Snapshot;
use crate::domain::system::Clock;
use crate::domain::time_spec::timestamp_ns;
use crate::format::seal::Keys;
use crate::repository::accepted::{self, Acceptance};
use crate::repository::error::RepoError;
use crate::repository::snapshots::LoadedSnapshot;
use crate::storage::{DeleteStore, ErrorKind, ObjectName};

/// What accepting needs.
pub struct AcceptMeans<'a> {
    /// The repository.
    pub store: &'a dyn DeleteStore,
    /// Its keys.
    pub keys: &'a Keys,
    /// The time that acceptances carry.
    pub clock: &'a dyn Clock,
    /// Host name of whoever accepts.
    pub host: String,
    /// User name of whoever accepts.
    pub user: String,
    /// Version of the program.
    pub tool_version: String,
}

/// Names of the sources that looked wrong in a snapshot.
pub fn suspect_sources(snapshot: &Snapshot) -> Vec<String> {
    let names = snapshot.sources.iter().filter(|source| snapshot.is_suspect_for(&source.name));
    names.map(|source| source.name.clone()).collect()
}

/// Accepts a suspect snapshot. An acceptance that cannot be read says nothing, so it is replaced.
///
/// # Errors
/// Storage errors.
pub fn run(means: &AcceptMeans<'_>, loaded: &LoadedSnapshot) -> Result<Acceptance, RepoError> {
    let id = loaded.snapshot.id;
    let acceptance = Acceptance {
        snapshot: id,
        record: loaded.digest,
        accepted_ns: timestamp_ns(means.clock.now()),
        host: means.host.clone(),
        user: means.user.clone(),
        tool_version: means.tool_version.clone(),
        sources: suspect_sources(&loaded.snapshot),
    };
    match accepted::write(means.store, means.keys, &acceptance) {
        Err(RepoError::Storage(error)) if error.kind == ErrorKind::AlreadyExists => {
            let name = ObjectName::acceptance(id);
            let bytes = means.store.get(&name, accepted::OBJECT_BYTES_MAX).map_err(RepoError::from);
            match bytes.and_then(|bytes| accepted::decode(means.keys, id, &bytes)) {
                // somebody else was faster
                Ok(there) => Ok(there),
                Err(error) if error.concerns_one_object() => {
                    means.store.delete(&name)?;
                    accepted::write(means.store, means.keys, &acceptance)?;
                    Ok(acceptance)
                }
                Err(error) => Err(error),
            }
        }
        other => other.map(|()| acceptance),
    }
}
