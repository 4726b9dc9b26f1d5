//! From the settings to an open repository, and from a selector to a snapshot. Damage that did not stop anything is
//! remembered on the way: a command that worked in spite of it ends with exit code 13.

use super::args::scope::ScopeArgs;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::invocation::Invocation;
use super::settings::{self, Settings, TerminalPrompt, Unlock};
use crate::catalog::Catalog;
use crate::domain::id::{RepositoryId, SnapshotId};
use crate::domain::selector::{self, Choice, Scope, Selector, SnapshotSummary};
use crate::domain::snapshot::Snapshot;
use crate::domain::time_spec::format_local;
use crate::format::config_object::{Config, WriterParameters};
use crate::format::key_slot::Secret;
use crate::repository::cached_snapshots::{self, load_snapshots};
use crate::repository::open::{self, OpenRepository};
use crate::repository::reading::Reading;
use crate::repository::snapshots::LoadedSnapshot;
use crate::repository::{self, Finding};
use crate::storage::local::LocalStore;
use crate::storage::{ErrorKind, ReadStore};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// How often a password may be typed.
const ATTEMPTS: usize = 3;

/// An open repository whose snapshots can be listed and chosen. Needs no index, so it stays quick when that is large
/// and works when that is damaged.
pub(crate) struct Listing {
    /// Its store, configuration and keys.
    pub(crate) repository: OpenRepository<LocalStore>,
    catalog: Catalog,
    findings: Mutex<Vec<String>>,
}

/// A repository opened for reading: a [`Listing`] with the index.
pub(crate) struct ReadingRepository {
    listing: Listing,
    /// Everything that is read goes through here.
    pub(crate) reading: Reading,
}

impl Deref for ReadingRepository {
    type Target = Listing;

    fn deref(&self) -> &Listing {
        &self.listing
    }
}

/// A snapshot that a selector chose.
pub(crate) struct Chosen {
    /// Its record.
    pub(crate) snapshot: LoadedSnapshot,
    /// The path after the selector's colon.
    pub(crate) path: Option<Vec<u8>>,
}

/// Opens the repository for listing snapshots.
///
/// # Errors
/// Exit codes 10, 12, 13, 15, 24.
pub(crate) fn open_for_listing(invocation: &Invocation) -> Result<Listing, Failure> {
    let (repository, _) = unlock(invocation, locate(invocation)?)?;
    let findings = repository.findings.iter().map(describe).collect();
    let catalog = catalog(invocation, repository.config.repository)?;
    Ok(Listing { repository, catalog, findings: Mutex::new(findings) })
}

/// Opens the repository for reading.
///
/// # Errors
/// Exit codes 10, 12, 13, 15, 24.
pub(crate) fn open_for_reading(invocation: &Invocation) -> Result<ReadingRepository, Failure> {
    open_for_listing(invocation)?.read(invocation)
}

/// The folder for this repository's local caches, made with access for its owner alone; None where there is no place
/// for one. A folder that cannot be made is no reason to fail.
///
/// # Errors
/// When the settings cannot be read.
pub(crate) fn cache_folder(invocation: &Invocation, id: RepositoryId) -> Result<Option<PathBuf>, Failure> {
    let Some(root) = &invocation.settings()?.cache_dir else { return Ok(None) };
    let folder = root.join(id.hex());
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    Ok(made.is_ok().then_some(folder))
}

/// Folders of holdfast itself that a backup must leave out: the repository, its cache and its state. Where the place of
/// caches or of state was chosen by somebody, other things may lie there too, so only this repository's part of it
/// counts; a folder that holdfast chose itself counts as a whole.
///
/// # Errors
/// When the settings cannot be read.
pub(crate) fn own_folders(invocation: &Invocation, id: RepositoryId) -> Result<Vec<PathBuf>, Failure> {
    let (settings, environment) = (invocation.settings()?, &invocation.environment);
    let mut folders = vec![settings.repository.value.clone()];
    if let Some(cache) = &settings.cache_dir {
        let ours = environment.cache_directory().as_ref() == Some(cache);
        folders.push(if ours { cache.clone() } else { cache.join(id.hex()) });
    }
    if let Some(state) = &settings.state_dir {
        // a service manager's folder is that of the whole service
        let ours = environment.raw("STATE_DIRECTORY").is_none();
        folders.push(if ours { state.clone() } else { state.join(id.hex()) });
    }
    Ok(folders)
}

/// The local catalog of a repository; one that remembers nothing where there is no place for it.
///
/// # Errors
/// When the settings cannot be read.
pub(crate) fn catalog(invocation: &Invocation, id: RepositoryId) -> Result<Catalog, Failure> {
    let catalog = invocation.settings()?.state_dir.as_deref().map_or_else(Catalog::none, |dir| Catalog::open(dir, id));
    for note in catalog.notes() {
        invocation.output.note("catalog", &note);
    }
    Ok(catalog)
}

/// Opens the repository for writing; `init` makes it where there is none.
///
/// # Errors
/// Exit codes 10, 12, 13, 15, 16, 24.
pub(crate) fn open_for_writing(invocation: &Invocation, init: bool) -> Result<OpenRepository<LocalStore>, Failure> {
    let opened = locate(invocation).and_then(|store| unlock(invocation, store));
    match opened {
        Ok((repository, _)) => Ok(repository),
        Err(failure) if init && failure.exit == ExitCode::NoRepository => {
            super::commands::init::make(invocation, &super::args::init::InitArgs::default())
        }
        Err(failure) => Err(failure),
    }
}

/// The folder of the repository, which may still turn out to be none.
///
/// # Errors
/// Exit code 10 when there is no folder.
pub(crate) fn locate(invocation: &Invocation) -> Result<LocalStore, Failure> {
    let path = &invocation.settings()?.repository.value;
    LocalStore::open(path).map_err(|error| match error.kind {
        ErrorKind::NotFound => no_repository(path),
        _ => Failure::from(error),
    })
}

/// Names of sources and of a host that no snapshot has.
fn missing_in_all(loaded: &[LoadedSnapshot], scope: &ScopeArgs) -> Vec<String> {
    let unknown = |name: &&String| !loaded.iter().any(|loaded| loaded.snapshot.source(name).is_some());
    let sources = scope.sources.iter().filter(unknown).map(|name| format!("no snapshot has a source '{name}'"));
    let host = scope.host.iter().filter(|host| !loaded.iter().any(|loaded| loaded.snapshot.system.host == **host));
    sources.chain(host.map(|host| format!("no snapshot is of a host '{host}'"))).collect()
}

fn no_repository(path: &std::path::Path) -> Failure {
    Failure::from(repository::Error::NoRepository { location: path.display().to_string() })
}

/// Opens with the secret that the settings name, or asks for one. Returns the secret too; `None` without encryption.
///
/// # Errors
/// Exit codes 10, 12, 13, 15, 24.
pub(crate) fn unlock(
    invocation: &Invocation,
    store: LocalStore,
) -> Result<(OpenRepository<LocalStore>, Option<Secret>), Failure> {
    let settings = invocation.settings()?;
    let store = Arc::new(store);
    // Without a secret first: whether there is a repository must be known before a password is asked for.
    match open::open(Arc::clone(&store), None) {
        Ok(_) if settings.unlock.is_some() => {
            return Err(repository::Error::NotEncrypted { location: store.location() }.into());
        }
        Ok(repository) => return Ok((repository, None)),
        Err(repository::Error::SecretNeeded { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let attempts = if settings.unlock.is_some() { 1 } else { ATTEMPTS };
    let mut attempt = 1;
    loop {
        let secret = fetch_secret(invocation, settings)?;
        match open::open(Arc::clone(&store), Some(&secret)) {
            Ok(repository) => return Ok((repository, Some(secret))),
            Err(error @ repository::Error::WrongSecret { .. }) if attempt < attempts => {
                invocation.output.warning("password.wrong", None, "", &format!("{error}, try again"));
                attempt += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn fetch_secret(invocation: &Invocation, settings: &Settings) -> Result<Secret, Failure> {
    let (environment, no_input) = (&invocation.environment, invocation.global.no_input);
    let unlock = settings::fetch(settings.unlock.as_ref(), environment, no_input, &mut TerminalPrompt)?;
    to_secret(&unlock)
}

/// What opens a key slot. A password that is a recovery key (its checks fit) is taken as one.
///
/// # Errors
/// Exit code 12 for a key file that is none.
pub(crate) fn to_secret(unlock: &Unlock) -> Result<Secret, Failure> {
    match unlock {
        Unlock::Password(password) => Ok(match password.expose_text() {
            Some(text) => Secret::from_typed(Zeroizing::new(text.to_owned())),
            None => Secret::Passphrase(Zeroizing::new(password.expose().to_vec())),
        }),
        Unlock::KeyFile { path, contents } => Secret::from_key_file(contents.expose()).map_err(|error| {
            let message = format!("The key file {} cannot be used", path.display());
            Failure::new(ExitCode::WrongSecret, "key_file.unreadable", message).caused_by(&error)
        }),
    }
}

/// A finding as one line.
pub(crate) fn describe(finding: &Finding) -> String {
    format!("{} is {}: {}", finding.object, finding.problem.as_str(), finding.reason)
}

/// Ends a command that worked: damage that was met on the way is printed and makes it end with exit code 13.
///
/// # Errors
/// Exit code 13 when there are findings.
pub(crate) fn conclude(
    invocation: &Invocation,
    mut findings: Vec<String>,
    exit: ExitCode,
) -> Result<ExitCode, Failure> {
    findings.sort();
    findings.dedup();
    if findings.is_empty() {
        return Ok(exit);
    }
    for finding in &findings {
        invocation.output.warning("object.damaged", None, "", finding);
    }
    let message = match findings.len() {
        1 => "The command did its work, but one object of the repository is not as it was written".to_owned(),
        n => format!("The command did its work, but {n} objects of the repository are not as they were written"),
    };
    let failure = Failure::new(ExitCode::Damaged, "repository.damaged", message);
    Err(failure.hint("run `holdfast verify --read-data` to see everything that is affected"))
}

impl ReadingRepository {
    /// Ends a command that worked: with `exit`, or with exit code 13 when damage was met on the way.
    ///
    /// # Errors
    /// Exit code 13 when there are findings.
    pub(crate) fn conclude(&self, invocation: &Invocation, exit: ExitCode) -> Result<ExitCode, Failure> {
        self.reading.findings().into_iter().for_each(|finding| self.remember(finding));
        self.listing.conclude(invocation, exit)
    }
}

impl Listing {
    /// The same repository once more, without asking for its secret again: what is opened from it sees what was written
    /// meanwhile.
    ///
    /// # Errors
    /// When the settings cannot be read.
    pub(crate) fn again(&self, invocation: &Invocation) -> Result<Self, Failure> {
        let repository = OpenRepository {
            store: Arc::clone(&self.repository.store),
            config: self.repository.config.clone(),
            keys: Arc::clone(&self.repository.keys),
            slot: self.repository.slot,
            findings: Vec::new(),
        };
        let catalog = catalog(invocation, repository.config.repository)?;
        Ok(Self { repository, catalog, findings: Mutex::default() })
    }

    /// Loads the index.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) fn read(self, invocation: &Invocation) -> Result<ReadingRepository, Failure> {
        let store: Arc<dyn ReadStore> = Arc::<LocalStore>::clone(&self.repository.store);
        let cache = cache_folder(invocation, self.repository.config.repository)?;
        let reading = Reading::open(store, Arc::clone(&self.repository.keys), cache.as_deref())?;
        Ok(ReadingRepository { listing: self, reading })
    }

    /// Remembers damage that did not stop anything.
    pub(crate) fn remember(&self, finding: String) {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }

    /// Every snapshot that can be read, newest first. Others are remembered as damage.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) fn snapshots(&self) -> Result<Vec<LoadedSnapshot>, Failure> {
        let (good, bad) = load_snapshots(&*self.repository.store, &self.repository.keys, &self.catalog)?;
        for snapshot in bad {
            self.remember(format!("Snapshot {} cannot be read: {}", snapshot.id.hex(), snapshot.error));
        }
        for healed in good.iter().filter_map(|snapshot| snapshot.healed.as_ref()) {
            self.remember(healed.clone());
        }
        Ok(good)
    }

    /// Chooses the one snapshot that a selector means, and says which it is.
    ///
    /// # Errors
    /// Exit codes 2 and 20.
    pub(crate) fn choose(
        &self,
        invocation: &Invocation,
        selector: &OsStr,
        scope: &ScopeArgs,
    ) -> Result<Chosen, Failure> {
        let selector = read_selector(invocation, selector)?;
        let mut loaded = self.snapshots()?;
        let summaries: Vec<SnapshotSummary> = loaded.iter().map(|l| SnapshotSummary::from(&l.snapshot)).collect();
        let named = scope;
        let scope = scope.scope(invocation.settings()?.configured_series(&invocation.environment.host));
        let chosen = selector::resolve(&selector, &summaries, &scope);
        let choice = chosen.map_err(|error| {
            let failure = Failure::from_selection(&error, selector.time_zone());
            missing_in_all(&loaded, named).into_iter().fold(failure, Failure::cause)
        })?;
        announce(invocation, &selector, &choice);
        let position = loaded.iter().position(|l| l.snapshot.id == choice.snapshot.id);
        let snapshot = position.map(|at| loaded.swap_remove(at)).ok_or_else(|| {
            Failure::new(ExitCode::SnapshotNotFound, "snapshot.not_found", "The chosen snapshot is gone")
        })?;
        Ok(Chosen { snapshot, path: choice.path })
    }

    /// Chooses for a list: one snapshot of each series that a selector matches, everything without a selector; newest
    /// first. Only snapshots that `keep` admits are there to choose from.
    ///
    /// # Errors
    /// Exit codes 2 and 20.
    pub(crate) fn filter<S: AsRef<OsStr>>(
        &self,
        invocation: &Invocation,
        selectors: &[S],
        scope: &ScopeArgs,
        keep: impl Fn(&Snapshot) -> bool + Sync,
    ) -> Result<Vec<LoadedSnapshot>, Failure> {
        self.listed(invocation, selectors, scope, keep, |loaded| loaded)
    }

    /// As [`Self::filter`], with what `shape` makes of each: a long list is never in memory as records.
    ///
    /// # Errors
    /// Exit codes 2 and 20.
    pub(crate) fn listed<S: AsRef<OsStr>, T: Send>(
        &self,
        invocation: &Invocation,
        selectors: &[S],
        scope: &ScopeArgs,
        keep: impl Fn(&Snapshot) -> bool + Sync,
        shape: impl Fn(LoadedSnapshot) -> T + Sync,
    ) -> Result<Vec<T>, Failure> {
        let read = |text: &S| read_selector(invocation, text.as_ref());
        let selectors: Vec<Selector> = selectors.iter().map(read).collect::<Result<_, _>>()?;
        let scope = scope.scope(None);
        let everything = selectors.is_empty() && scope == Scope::default();
        let of_one = |loaded: LoadedSnapshot| {
            let snapshot = &loaded.snapshot;
            let (order, healed, kept) = ((snapshot.time_ns, snapshot.id), loaded.healed.clone(), keep(snapshot));
            let summary = (kept && !everything).then(|| SnapshotSummary::from(snapshot));
            (order, healed, summary, kept.then(|| shape(loaded)))
        };
        let (mut rows, mut summaries) = (Vec::new(), Vec::new());
        let (store, keys) = (&*self.repository.store, &self.repository.keys);
        let bad = cached_snapshots::each(store, keys, &self.catalog, of_one, |(order, healed, summary, row)| {
            healed.into_iter().for_each(|healed| self.remember(healed));
            summaries.extend(summary);
            rows.extend(row.map(|row| (order, row)));
        })?;
        for snapshot in bad {
            self.remember(format!("Snapshot {} cannot be read: {}", snapshot.id.hex(), snapshot.error));
        }
        rows.sort_by_key(|(order, _)| Reverse(*order));
        if !everything {
            summaries.sort_by_key(|summary| Reverse((summary.time_ns, summary.id)));
            let chosen = selector::filter(&selectors, &summaries, &scope)
                .map_err(|error| Failure::from_selection(&error, &invocation.environment.time_zone))?;
            let ids: HashSet<SnapshotId> = chosen.iter().map(|summary| summary.id).collect();
            rows.retain(|((_, id), _)| ids.contains(id));
        }
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Ends a command that worked: with `exit`, or with exit code 13 when damage was met on the way.
    ///
    /// # Errors
    /// Exit code 13 when there are findings.
    pub(crate) fn conclude(&self, invocation: &Invocation, exit: ExitCode) -> Result<ExitCode, Failure> {
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        conclude(invocation, findings, exit)
    }
}

/// Reads a selector.
///
/// # Errors
/// Exit codes 2 and 20.
pub(crate) fn read_selector(invocation: &Invocation, text: &OsStr) -> Result<Selector, Failure> {
    Selector::parse_bytes(text.as_bytes(), &invocation.time_context())
        .map_err(|error| Failure::from_selector_text(&error))
}

/// Says which snapshot was chosen.
fn announce(invocation: &Invocation, selector: &Selector, choice: &Choice) {
    invocation.output.note("snapshot.chosen", &format!("{}: {}", selector.text, choice.describe()));
}

/// Says that a snapshot is one of those chosen for a list.
pub(crate) fn announce_listed(invocation: &Invocation, snapshot: &Snapshot) {
    let time = format_local(snapshot.time_ns, &invocation.environment.time_zone);
    let text = format!("chose {} of {time}, series {}", snapshot.id.short(), snapshot.series());
    invocation.output.note("snapshot.chosen", &text);
}

/// What writers keep to: the repository's agreement, and the wishes of the settings.
///
/// # Errors
/// Exit code 24 for a repository whose writers must know more than this one does; 2 for wrong settings.
pub(super) fn writer_parameters(invocation: &Invocation, config: &Config) -> Result<WriterParameters, Failure> {
    Ok(config.writer_parameters()?.with_parity(invocation.settings()?.parity))
}
