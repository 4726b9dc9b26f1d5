//! Making and opening a repository: the two copies of the configuration, the key slots, the root key.
//!
//! Invariants: the configuration appears last, so that there is never one without key slots; a root key is accepted
//! only if it authenticates the configuration; every copy is read, and one that is not as it was written becomes a
//! [`Finding`] even where the other served.

use super::{Error, Finding, Problem, Result};
use crate::domain::id::{KeySlotId, RepositoryId};
use crate::domain::system::{Clock, Random};
use crate::format;
use crate::format::config_object::{self, ChunkerConfig, Config, UnverifiedConfig};
use crate::format::key_slot::{self, KdfCosts, KeySlot, NewSlot, RootKey, Secret, SlotKind};
use crate::format::seal::{Keys, Suite};
use crate::storage::{self, ErrorKind, ObjectKind, ObjectName, ReadStore, WriteStore};
use std::collections::BTreeMap;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Passphrase slots that may exist: each one that a wrong password is tried on costs a whole derivation.
pub const PASSPHRASE_SLOTS_MAX: usize = 16;
/// Key slots of all kinds that are read; more names than this are not read.
pub const SLOTS_MAX: usize = 256;

/// A secret for a new slot and what to call the slot.
#[derive(Debug, Clone)]
pub struct SlotSecret {
    /// What opens it.
    pub secret: Secret,
    /// What its owner calls it.
    pub label: String,
}

/// What is decided when a repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Encryption.
    pub suite: Suite,
    /// One for each key slot; none without encryption, at least one with it.
    pub secrets: Vec<SlotSecret>,
    /// Costs of passphrase slots.
    pub kdf: KdfCosts,
    /// How streams are cut.
    pub chunker: ChunkerConfig,
    /// The longest pack that writers aim at, bytes.
    pub pack_bytes_target: u32,
    /// Name of this host.
    pub host: String,
    /// The program, for example `holdfast 0.1.0`.
    pub created_by: String,
}

/// An open repository.
#[derive(Debug)]
pub struct OpenRepository<S: ?Sized> {
    /// Where its objects are.
    pub store: Arc<S>,
    /// Its configuration, authenticated.
    pub config: Config,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// The slot that was opened; `None` without encryption.
    pub slot: Option<KeySlotId>,
    /// What was not as it was written.
    pub findings: Vec<Finding>,
}

/// Makes a repository in an empty store.
///
/// # Errors
/// [`Error::AlreadyInitialised`], [`Error::Options`], [`Error::OutOfMemory`], [`Error::Storage`].
pub fn init<S: WriteStore + ?Sized>(
    store: Arc<S>,
    options: &InitOptions,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<OpenRepository<S>> {
    let location = store.location();
    check_options(options)?;
    if is_initialised(&*store)? {
        return Err(Error::AlreadyInitialised { location });
    }
    let config = Config {
        repository: RepositoryId(random.bytes()),
        suite: options.suite,
        created_ns: now_ns(clock),
        created_by: options.created_by.clone(),
        chunker: options.chunker,
        pack_bytes_target: options.pack_bytes_target,
        notes: Vec::new(),
    };
    if config.writer_parameters().is_err() {
        return Err(Error::Options { reason: "The chunk or pack sizes are out of bounds".to_owned() });
    }
    let (keys, slot) = match options.suite {
        Suite::None => (Keys::public(config.repository), None),
        suite => {
            let root: RootKey = Zeroizing::new(random.bytes());
            let mut first = None;
            for new in &options.secrets {
                let facts = NewSlot {
                    label: new.label.clone(),
                    created_ns: config.created_ns,
                    host: options.host.clone(),
                    kdf: options.kdf,
                };
                let id = write_slot(&*store, config.repository, &root, &new.secret, facts, random)?;
                first = first.or(Some(id));
            }
            (Keys::derive(&root, config.repository, suite), first)
        }
    };
    // The second copy first: `config` itself says that init has come to its end.
    for copy in [1, 0] {
        let bytes = config.encode(&keys, copy);
        let name = ObjectName::config(u8::from(copy == 1));
        match put_and_read_back(&*store, &name, &bytes) {
            Err(Error::Storage(error)) if error.kind == ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyInitialised { location });
            }
            other => other?,
        }
    }
    Ok(OpenRepository { store, config, keys: Arc::new(keys), slot, findings: Vec::new() })
}

/// True where a repository is, be it damaged. What an `init` leaves that died between its two copies of the configuration is none.
///
/// # Errors
/// When the storage cannot tell.
pub fn is_initialised<S: ReadStore + ?Sized>(store: &S) -> storage::Result<bool> {
    if store.stored_bytes(&ObjectName::config(0))?.is_some() {
        return Ok(true);
    }
    Ok(store.stored_bytes(&ObjectName::config(1))?.is_some() && !is_unfinished(store))
}

/// Whether a store without `config` holds nothing but what `init` writes before it. Nobody can have stored anything there, and nobody
/// may begin to: another `init` makes new keys.
fn is_unfinished<S: ReadStore + ?Sized>(store: &S) -> bool {
    let by_init = [ObjectKind::Config, ObjectKind::Key, ObjectKind::Temporary];
    ObjectKind::ALL.into_iter().filter(|kind| !by_init.contains(kind)).all(|kind| match store.list(kind) {
        Ok(list) => list.is_empty(),
        Err(error) => error.kind == ErrorKind::NotFound,
    })
}

/// Opens a repository.
///
/// # Errors
/// [`Error::NoRepository`], [`Error::Unfinished`], [`Error::SecretNeeded`], [`Error::WrongSecret`], [`Error::NotEncrypted`],
/// [`Error::NewerVersion`], [`Error::Damaged`], [`Error::OutOfMemory`], [`Error::Storage`].
pub fn open<S: ReadStore + ?Sized>(store: Arc<S>, unlock: Option<&Secret>) -> Result<OpenRepository<S>> {
    let unlocked = unlock_root(&*store, unlock)?;
    Ok(OpenRepository {
        store,
        config: unlocked.config,
        keys: Arc::new(unlocked.keys),
        slot: unlocked.slot,
        findings: unlocked.findings,
    })
}

/// What a secret gives.
pub(super) struct Unlocked {
    pub(super) config: Config,
    pub(super) keys: Keys,
    /// `None` without encryption.
    pub(super) root: Option<RootKey>,
    pub(super) slot: Option<KeySlotId>,
    pub(super) findings: Vec<Finding>,
}

/// Reads the configuration, finds the root key, and proves one with the other.
pub(super) fn unlock_root<S: ReadStore + ?Sized>(store: &S, unlock: Option<&Secret>) -> Result<Unlocked> {
    let location = store.location();
    let mut findings = Vec::new();
    let configs = read_config(store, &mut findings)?;
    // The copies say the same in every repository that is whole. Where they do not, one of them is damaged or forged,
    // and only the key tells which; the encrypted one goes first, so that nobody turns encryption off.
    let mut claims: Vec<(RepositoryId, Suite)> = configs.iter().map(|(_, c)| (c.repository(), c.suite())).collect();
    claims.dedup();
    claims.sort_by_key(|(_, suite)| *suite == Suite::None);
    let mut first_error = None;
    for (repository, suite) in claims {
        match try_claim(store, repository, suite, unlock, &configs, &mut findings) {
            Ok(unlocked) => return Ok(Unlocked { findings, ..unlocked }),
            // A slot that opened, or none that was asked for, is not tried again under the other claim.
            Err(error @ (Error::SecretNeeded { .. } | Error::OutOfMemory { .. } | Error::Storage(_))) => {
                return Err(error);
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or(Error::NoRepository { location }))
}

/// Opens under the assumption that a copy's repository and suite are true.
fn try_claim<S: ReadStore + ?Sized>(
    store: &S,
    repository: RepositoryId,
    suite: Suite,
    unlock: Option<&Secret>,
    configs: &[(u8, UnverifiedConfig)],
    findings: &mut Vec<Finding>,
) -> Result<Unlocked> {
    let location = store.location();
    let (keys, root, slot) = match (suite, unlock) {
        (Suite::None, None) => (Keys::public(repository), None, None),
        (Suite::None, Some(_)) => return Err(Error::NotEncrypted { location }),
        (_, None) => return Err(Error::SecretNeeded { location }),
        (suite, Some(secret)) => {
            let slots = read_slots(store, repository, findings)?;
            let (root, id) = open_slot(&location, &slots, secret, findings)?;
            (Keys::derive(&root, repository, suite), Some(root), Some(id))
        }
    };
    let mut authentic = None;
    let mut first_error = None;
    for (copy, config) in configs {
        match config.verify(&keys) {
            Ok(config) => authentic = authentic.or(Some(config.clone())),
            Err(error) => {
                findings.push(finding(&ObjectName::config(*copy), Problem::Damaged, error.to_string()));
                first_error = first_error.or(Some(error));
            }
        }
    }
    match (authentic, first_error) {
        (Some(config), _) => Ok(Unlocked { config, keys, root, slot, findings: Vec::new() }),
        (None, Some(source)) => Err(Error::Damaged { location, source }),
        (None, None) => Err(Error::NoRepository { location }),
    }
}

/// The copies of the configuration that are whole, at least one.
pub(super) fn read_config<S: ReadStore + ?Sized>(
    store: &S,
    findings: &mut Vec<Finding>,
) -> Result<Vec<(u8, UnverifiedConfig)>> {
    let location = store.location();
    let mut whole = Vec::new();
    let mut missing = 0;
    let mut first_error = None;
    for copy in [0u8, 1] {
        let name = ObjectName::config(copy);
        let decode = |bytes: Vec<u8>| UnverifiedConfig::decode(&bytes, u16::from(copy));
        match read_copy(store, &name, config_object::STORED_BYTES_MAX, decode) {
            Ok(config) => whole.push((copy, config)),
            Err(CopyError::Newer(source)) => return Err(Error::NewerVersion { location, source }),
            Err(error) => {
                missing += u8::from(matches!(error, CopyError::Missing));
                findings.push(error.finding(&name));
                first_error = first_error.or(Some(error));
            }
        }
    }
    let without_first = findings.iter().any(|f| f.object == "config" && f.problem == Problem::Missing);
    if without_first && missing == 1 && is_unfinished(store) {
        return Err(Error::Unfinished { location });
    }
    if !whole.is_empty() {
        return Ok(whole);
    }
    if missing == 2 && !holds_objects(store) {
        return Err(Error::NoRepository { location });
    }
    Err(match first_error {
        Some(CopyError::Unreadable(error)) => Error::Storage(error),
        Some(CopyError::Damaged(source) | CopyError::Newer(source)) => Error::Damaged { location, source },
        Some(CopyError::Missing) | None => {
            let source = format::Error::damaged("Configuration", 0, "both copies are missing");
            Error::Damaged { location, source }
        }
    })
}

/// Whether a store without configuration is what remains of a repository.
fn holds_objects<S: ReadStore + ?Sized>(store: &S) -> bool {
    let kinds = [ObjectKind::Snapshot, ObjectKind::Key, ObjectKind::Index];
    kinds.into_iter().any(|kind| store.list(kind).is_ok_and(|list| !list.is_empty()))
}

/// The key slots with at least one whole copy, sorted by id.
pub(super) fn read_slots<S: ReadStore + ?Sized>(
    store: &S,
    repository: RepositoryId,
    findings: &mut Vec<Finding>,
) -> Result<Vec<KeySlot>> {
    let mut names: BTreeMap<KeySlotId, ()> = BTreeMap::new();
    for info in store.list(ObjectKind::Key)? {
        let text = info.name.as_str().strip_prefix("keys/").unwrap_or_default();
        match KeySlotId::parse(text.strip_suffix(".copy").unwrap_or(text)) {
            Ok(id) if names.len() < SLOTS_MAX || names.contains_key(&id) => drop(names.insert(id, ())),
            Ok(_) => findings.push(finding(&info.name, Problem::Unknown, "there are too many key slots".to_owned())),
            Err(_) => findings.push(finding(&info.name, Problem::Unknown, "no key slot has this name".to_owned())),
        }
    }
    let mut slots = Vec::new();
    for id in names.into_keys() {
        let mut whole: Vec<KeySlot> = Vec::new();
        for copy in [0u8, 1] {
            let name = ObjectName::key(id, copy);
            let decode = |bytes: Vec<u8>| KeySlot::decode(&bytes, repository, id, u16::from(copy));
            match read_copy(store, &name, key_slot::STORED_BYTES_MAX, decode) {
                // Copies that differ are both kept: only the secret can tell which is the true one.
                Ok(slot) if whole.contains(&slot) => {}
                Ok(slot) => whole.push(slot),
                Err(error) => findings.push(error.finding(&name)),
            }
        }
        if whole.len() > 1 {
            let reason = "the two copies of the slot differ".to_owned();
            findings.push(finding(&ObjectName::key(id, 1), Problem::Damaged, reason));
        }
        slots.append(&mut whole);
    }
    Ok(slots)
}

/// Tries a secret on the slots of its kind.
fn open_slot(
    location: &str,
    slots: &[KeySlot],
    secret: &Secret,
    findings: &mut Vec<Finding>,
) -> Result<(RootKey, KeySlotId)> {
    let location = location.to_owned();
    if slots.is_empty() {
        let source = format::Error::damaged("Key slots", 0, "none is left that can be read");
        return Err(Error::Damaged { location, source });
    }
    let of_kind = slots.iter().filter(|slot| slot.facts.kind == secret.kind());
    // One more than may be added: a change of password has both for a moment, and for longer if it is interrupted.
    let limit = if secret.kind() == SlotKind::Passphrase { PASSPHRASE_SLOTS_MAX + 1 } else { SLOTS_MAX };
    let mut tried = 0;
    let mut damaged = None;
    for slot in of_kind.take(limit) {
        tried += 1;
        match slot.open(secret) {
            Ok(Some(root)) => return Ok((root, slot.id)),
            Ok(None) => {}
            Err(source @ format::Error::OutOfMemory { .. }) => return Err(Error::OutOfMemory { location, source }),
            Err(error) => {
                findings.push(finding(&ObjectName::key(slot.id, 0), Problem::Damaged, error.to_string()));
                damaged = damaged.or(Some(error));
            }
        }
    }
    let unreadable = |f: &Finding| f.object.starts_with("keys/") && f.problem != Problem::Unknown;
    match damaged {
        // The secret was right for that slot.
        Some(source) => Err(Error::Damaged { location, source }),
        // It may belong to one of the slots that cannot be read.
        None if tried == 0 && findings.iter().any(unreadable) => {
            let source = format::Error::damaged("Key slots", 0, "none of this kind is left that can be read");
            Err(Error::Damaged { location, source })
        }
        None => Err(Error::WrongSecret { location, kind: kind_word(secret.kind()), tried }),
    }
}

fn kind_word(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Passphrase => "password",
        SlotKind::KeyFile => "key file",
        SlotKind::Recovery => "recovery key",
    }
}

/// Writes both copies of a new slot and reads them back.
pub(super) fn write_slot<S: WriteStore + ?Sized>(
    store: &S,
    repository: RepositoryId,
    root: &RootKey,
    secret: &Secret,
    facts: NewSlot,
    random: &dyn Random,
) -> Result<KeySlotId> {
    let slot = KeySlot::seal(repository, root, secret, facts, random).map_err(|source| match source {
        format::Error::OutOfMemory { .. } => Error::OutOfMemory { location: store.location(), source },
        _ => Error::Options { reason: "The costs of the key derivation are out of bounds".to_owned() },
    })?;
    for copy in [0u8, 1] {
        put_and_read_back(store, &ObjectName::key(slot.id, copy), &slot.encode(u16::from(copy)))?;
    }
    Ok(slot.id)
}

/// Writes an object without which nothing can be read, and sees that the store gives it back.
fn put_and_read_back<S: WriteStore + ?Sized>(store: &S, name: &ObjectName, bytes: &[u8]) -> Result<()> {
    store.put_new(name, bytes)?;
    if store.get(name, bytes.len() as u64)? == bytes {
        return Ok(());
    }
    let source = format::Error::damaged(name.as_str(), 0, "the storage gives back other bytes than were written");
    Err(Error::Damaged { location: store.location(), source })
}

fn check_options(options: &InitOptions) -> Result<()> {
    let refuse = |reason: &str| Err(Error::Options { reason: reason.to_owned() });
    let passphrases = options.secrets.iter().filter(|s| s.secret.kind() == SlotKind::Passphrase).count();
    match options.suite {
        Suite::None if !options.secrets.is_empty() => refuse("A repository without encryption has no keys"),
        Suite::Aes256Gcm if options.secrets.is_empty() => refuse("An encrypted repository needs a password or a key"),
        _ if passphrases > PASSPHRASE_SLOTS_MAX => refuse("A repository has at most 16 passwords"),
        _ => options.secrets.iter().try_for_each(|new| check_secret(&new.secret)),
    }
}

/// Refuses what protects nothing.
pub(super) fn check_secret(secret: &Secret) -> Result<()> {
    match secret {
        Secret::Passphrase(text) if text.is_empty() => {
            Err(Error::Options { reason: "The password is empty".to_owned() })
        }
        _ => Ok(()),
    }
}

/// Why a copy does not serve.
enum CopyError {
    Missing,
    Damaged(format::Error),
    Newer(format::Error),
    Unreadable(storage::Error),
}

impl CopyError {
    fn finding(&self, name: &ObjectName) -> Finding {
        match self {
            Self::Missing => finding(name, Problem::Missing, "this copy is missing".to_owned()),
            Self::Damaged(error) | Self::Newer(error) => finding(name, Problem::Damaged, error.to_string()),
            Self::Unreadable(error) => {
                let reason = error.source.as_ref().map_or_else(|| error.to_string(), ToString::to_string);
                finding(name, Problem::Unreadable, reason)
            }
        }
    }
}

fn read_copy<S: ReadStore + ?Sized, T>(
    store: &S,
    name: &ObjectName,
    max_bytes: u64,
    decode: impl FnOnce(Vec<u8>) -> format::Result<T>,
) -> std::result::Result<T, CopyError> {
    match store.get(name, max_bytes) {
        Ok(bytes) => decode(bytes).map_err(|error| match error {
            format::Error::NewerVersion { .. } | format::Error::UnknownFeatures { .. } => CopyError::Newer(error),
            other => CopyError::Damaged(other),
        }),
        Err(error) => Err(match error.kind {
            ErrorKind::NotFound => CopyError::Missing,
            ErrorKind::Size => {
                CopyError::Damaged(format::Error::damaged(name.as_str(), max_bytes, "it is longer than any valid one"))
            }
            _ => CopyError::Unreadable(error),
        }),
    }
}

pub(super) fn finding(name: &ObjectName, problem: Problem, reason: String) -> Finding {
    Finding { object: name.as_str().to_owned(), problem, reason }
}

/// The time for records; far beyond any date that matters it stands still.
pub(super) fn now_ns(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.now().as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
