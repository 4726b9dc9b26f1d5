//! What a restore in place needs of the configuration and of this machine.

use super::backup;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::opening::{Listing, ReadingRepository};
use crate::cli::settings::{ServiceSettings, SourceKindSettings};
use crate::domain::act::{Census, Owner};
use crate::domain::snapshot::{PRE_RESTORE, Snapshot, SourceKind};
use crate::fsio::census::SystemCensus;
use crate::ops::backup::{BackupRequest, SourceFrom, SourceRequest};
use crate::ops::in_place::{Context, Item, Place, PlannedItem, Program, SaveError, Service, Surroundings};
use crate::ops::system_info::system_info;
use crate::repository::acts::Recorder;
use crate::source::postgres::client::ClientSearch;
use crate::source::postgres::connect::Connection;
use crate::source::process::SystemProcesses;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An open repository with what restores in place need beside it.
pub(super) struct Net<'i> {
    invocation: &'i Invocation,
    repository: &'i ReadingRepository,
    saving: backup::Saving,
    census: SystemCensus,
    steady: SystemProcesses,
}

impl<'i> Net<'i> {
    /// Gathers what is needed.
    ///
    /// # Errors
    /// As for opening a repository for writing.
    pub(super) fn new(invocation: &'i Invocation, repository: &'i ReadingRepository) -> Result<Self, Failure> {
        let saving = backup::Saving::prepare(invocation, &repository.repository)?;
        Ok(Self { invocation, repository, saving, census: SystemCensus, steady: SystemProcesses::new(None) })
    }

    /// The means of `ops::in_place`.
    pub(super) fn context(&'i self) -> Context<'i> {
        let (invocation, repository) = (self.invocation, self.repository);
        Context {
            recorder: self.recorder(),
            census: &self.census,
            reading: &repository.reading,
            processes: &invocation.processes,
            steady: &self.steady,
            observer: invocation.observer(),
            cancel: &invocation.cancel,
            surroundings: self,
        }
    }

    /// Writes acts.
    fn recorder(&'i self) -> Recorder<'i> {
        recorder(self.invocation, self.repository)
    }
}

/// Writes acts as this process.
pub(super) fn recorder<'i>(invocation: &'i Invocation, repository: &'i Listing) -> Recorder<'i> {
    let (environment, process) = (&invocation.environment, std::process::id());
    Recorder {
        store: repository.repository.store.as_ref(),
        keys: &repository.repository.keys,
        clock: &invocation.clock,
        random: &invocation.random,
        owner: Owner {
            host: environment.host.clone(),
            user: environment.user.clone(),
            process,
            mark: SystemCensus.mark(process),
        },
    }
}

/// The commands of a service table.
pub(super) fn service_of(settings: Option<&ServiceSettings>) -> Service {
    let Some(settings) = settings else { return Service::default() };
    let program = |words: &Option<Vec<String>>| words.clone().map(|words| Program { words, timeout: settings.timeout });
    Service { stop: program(&settings.stop), start: program(&settings.start), status: program(&settings.status) }
}

/// A database server, and where its client programs are. The configuration of the source helps where it means the same
/// server: its password, and the words that run a program beside the server.
///
/// # Errors
/// Exit codes 2 and 14.
pub(super) fn server(invocation: &Invocation, source: &str, to: &str) -> Result<(Connection, ClientSearch), Failure> {
    let mut connection = Connection::resolve(to, &invocation.libpq()?)?;
    let settings = invocation.settings()?;
    let configured = settings.sources.iter().find(|s| s.name == source);
    let Some(SourceKindSettings::Postgres(configured)) = configured.map(|s| &s.kind) else {
        return Ok((connection, backup::client_search(invocation, None, Vec::new())));
    };
    let known = Connection::resolve(&configured.url, &invocation.libpq()?)?;
    let same_server = known.hosts() == connection.hosts();
    if same_server
        && known.user() == connection.user()
        && let Some(password) = backup::password_of(invocation, configured, &known)?
    {
        connection = connection.with_password(&password);
    }
    let prefix = if same_server { configured.command_prefix.clone() } else { Vec::new() };
    Ok((connection, backup::client_search(invocation, configured.pg_bin_dir.clone(), prefix)))
}

/// Where the client programs of a source are, for work that does not reach its server.
///
/// # Errors
/// Exit code 2 when the configuration cannot be read.
pub(super) fn local_search(invocation: &Invocation, source: &str) -> Result<ClientSearch, Failure> {
    let configured = invocation.settings()?.sources.iter().find(|configured| configured.name == source);
    let bin_dir = match configured.map(|source| &source.kind) {
        Some(SourceKindSettings::Postgres(postgres)) => postgres.pg_bin_dir.clone(),
        _ => None,
    };
    Ok(backup::client_search(invocation, bin_dir, Vec::new()))
}

impl Surroundings for Net<'_> {
    fn place(&self, planned: &PlannedItem) -> Result<Place, String> {
        match planned.kind {
            SourceKind::Postgres => {
                let found = server(self.invocation, &planned.source, &planned.reach);
                let (connection, search) = found.map_err(|failure| failure.message)?;
                Ok(Place::Postgres { connection: Box::new(connection), search })
            }
            SourceKind::Sqlite => Ok(Place::Sqlite { path: PathBuf::from(&planned.reach) }),
            _ => {
                let from = planned.from.clone().unwrap_or_else(|| planned.reach.clone());
                Ok(Place::Tree { path: PathBuf::from(&planned.reach), from, left_out: None })
            }
        }
    }

    fn service(&self, environment: Option<&str>) -> Service {
        let Ok(settings) = self.invocation.settings() else { return Service::default() };
        match environment {
            None => service_of(settings.sections.service.as_ref()),
            Some(name) => {
                service_of(settings.sections.environments.get(name).and_then(|target| target.service.as_ref()))
            }
        }
    }

    fn check(&self) -> Option<Program> {
        let settings = &self.invocation.settings().ok()?.sections.restore;
        let words = settings.post_restore_check.clone()?;
        Some(Program { words, timeout: settings.check_timeout })
    }

    fn finds(&self, program: &str) -> bool {
        use rustix::fs::{Access, access};
        let environment = &self.invocation.environment;
        let runs = |path: PathBuf| path.is_file() && access(&path, Access::EXEC_OK).is_ok();
        match program.contains('/') {
            true => runs(environment.directory.join(program)),
            false => environment
                .raw("PATH")
                .is_some_and(|path| std::env::split_paths(path).any(|folder| runs(folder.join(program)))),
        }
    }

    fn own_folders(&self) -> Vec<PathBuf> {
        let settings = self.invocation.settings().map(|settings| vec![settings.repository.value.clone()]);
        settings.unwrap_or_default()
    }

    fn save(&self, items: &[Item]) -> Result<Snapshot, SaveError> {
        self.save_as(items, PRE_RESTORE, Vec::new())
    }
}

impl Net<'_> {
    /// Saves what is in the places of these items, each under its safety name; complete or not at all.
    ///
    /// # Errors
    /// [`SaveError`].
    pub(super) fn save_as(&self, items: &[Item], class: &str, tags: Vec<String>) -> Result<Snapshot, SaveError> {
        let environment = &self.invocation.environment;
        let request = BackupRequest {
            time_ns: None,
            time_zone: environment.time_zone.iana_name().unwrap_or("UTC").to_owned(),
            class: Some(class.to_owned()),
            tags,
            scope: Vec::new(),
            git: None,
            project_root: None,
            system: system_info(&environment.host, &environment.user, environment.os_release.as_deref()),
            allow_empty: true,
            min_sizes: BTreeMap::new(),
            sources: safety_sources(self.invocation, items),
        };
        let report = self.saving.save(self.invocation, &self.repository.repository, request)?;
        match report.failures.into_iter().next() {
            // A snapshot that lacks a part is no way back.
            Some((source, error)) => Err(SaveError::Incomplete { source_name: source, source: error }),
            None => Ok(report.snapshot),
        }
    }
}

/// What stands in the places, as sources. Of trees everything is saved, because everything is replaced.
fn safety_sources(invocation: &Invocation, items: &[Item]) -> Vec<SourceRequest> {
    let mut sources: Vec<SourceRequest> = Vec::new();
    for item in items {
        let from = match &item.place {
            Place::Postgres { connection, search } => {
                SourceFrom::Postgres { connection: connection.clone(), search: search.clone(), globals: true }
            }
            Place::Sqlite { path } => backup::sqlite(invocation, path.clone()),
            Place::Tree { path, .. } => {
                let same = sources.iter_mut().find(|source| source.name == item.safety_source);
                if let Some(SourceRequest { from: SourceFrom::Files { roots, .. }, .. }) = same {
                    roots.push(path.clone());
                    continue;
                }
                SourceFrom::Files {
                    roots: vec![path.clone()],
                    exclude: Vec::new(),
                    default_excludes: false,
                    one_file_system: false,
                }
            }
        };
        sources.push(SourceRequest { name: item.safety_source.clone(), from });
    }
    sources
}
