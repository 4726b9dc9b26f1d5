//! The drill of a PostgreSQL source.
//!
//! # With whose rights
//! A dump is a program: it holds functions, and rows make some of them run. In a temporary cluster the definitions are
//! restored by the superuser, because owners, extensions and languages need one, and they run nothing. The rows, which
//! run checks and generated columns, are filled in by a user who may write tables and nothing else. What is built last
//! (indexes, materialised views) runs functions with the rights of the tables' owners: PostgreSQL sees to that. Owners
//! are superusers only where they were in the source. No role can log in, and none has a password.
//! On a server of the user's the restore has the rights of the user whom the configuration names. No role is made
//! there; where roles are missing, or the user may not give things away, everything belongs to that user.
//!
//! Everything stops at the first error.

use super::large::{self, Large};
use super::{Done, Error, Means, copy, data_stream, proving, require_space, restoring, unique};
use crate::domain::snapshot::{SourceRecord, StreamRecord, StreamRole};
use crate::ops::proof::{self, Apart, Expected, Leave, PostgresMeans};
use crate::ops::restore::contents::Contents;
use crate::repository::reading::CopyError;
use crate::source::postgres::client::{self, ClientSearch, ClientTools};
use crate::source::postgres::connect::Connection;
use crate::target::cluster::{self, Cluster, ClusterMeans};
use crate::target::listed::{ListedRestore, ListedTarget};
use crate::target::postgres::{DumpFormat, PostgresRestore, RestoreOptions, Section};
use crate::target::roles::{self, Role};
use crate::target::scratch::{self, DATABASE_PREFIX, Scratch};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The first version with a role that may write all tables and nothing else.
const WRITE_ALL_SINCE: u32 = 14;
/// Bytes of log that a temporary cluster may hold beside the data.
const LOG_BYTES: u64 = 256 << 20;

pub(super) fn drill(means: &Means<'_>, source: &SourceRecord) -> Result<Done, Error> {
    let stream = data_stream(source)?;
    let contents = read_contents(means, source, stream)?;
    match means.server {
        Some(server) => on_server(means, source, stream, &contents, server),
        None => in_cluster(means, source, stream, &contents),
    }
}

/// The table of contents of the stored dump, read before anything is made.
fn read_contents(means: &Means<'_>, source: &SourceRecord, stream: &StreamRecord) -> Result<Expected, Error> {
    let mut expected = Expected::new(source, means.random, Leave::default());
    means.reading.packs.follow_index();
    let mut end = None;
    let copied = means.reading.copy_stream(stream, |bytes| {
        if means.cancel.is_cancelled() {
            return Err(());
        }
        expected.feed(bytes);
        end = expected.facts().contents_end;
        if end.is_some() { Err(()) } else { Ok(()) }
    });
    match copied {
        Err(CopyError::Repository(error)) => Err(error.into()),
        _ if means.cancel.is_cancelled() => Err(Error::Interrupted),
        _ if end.is_none() => {
            let what = format!("The stored dump of source {}", source.name);
            let reason = "is not an archive of pg_dump that can be read here".to_owned();
            Err(Error::Proof(proof::Error::Dump { what, reason }))
        }
        _ => Ok(expected),
    }
}

/// `15` of `15.18 (Debian ...)`.
fn major(version: &str) -> u32 {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_default()
}

fn tools(means: &Means<'_>, contents: &Expected, server_major: u32) -> Result<ClientTools, Error> {
    // Programs behind a prefix run elsewhere and do not see our sockets.
    let search = ClientSearch { command_prefix: Vec::new(), ..means.search.clone() };
    // An older pg_restore cannot read what a newer pg_dump wrote.
    let wanted = server_major.max(major(contents.versions().1));
    Ok(client::find(means.processes, &search, Some(wanted))?)
}

/// The stored roles; none when they were not saved.
fn stored_roles(means: &Means<'_>, source: &SourceRecord) -> Result<Option<BTreeMap<String, Role>>, Error> {
    let Some(stream) = source.streams.iter().find(|s| s.role == StreamRole::Globals) else { return Ok(None) };
    let mut script = Vec::new();
    copy(means, stream, |bytes| {
        let room = roles::SCRIPT_MAX.saturating_sub(script.len());
        script.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        Ok(())
    })?;
    Ok(Some(roles::read_roles(&String::from_utf8_lossy(&script))))
}

fn in_cluster(
    means: &Means<'_>,
    source: &SourceRecord,
    stream: &StreamRecord,
    contents: &Expected,
) -> Result<Done, Error> {
    let (mut notes, facts) = (Vec::new(), contents.facts());
    let data = source.live_bytes.unwrap_or_default().max(stream.plain_bytes);
    require_space(means.temp_dir, source, data.saturating_add(data / 4).saturating_add(data.min(LOG_BYTES)))?;
    cluster::remove_leftovers(means.temp_dir);
    restoring(means, stream.plain_bytes);
    let began = Instant::now();
    let dumped = major(contents.versions().0);
    let directories: Vec<_> = means.search.bin_dir.iter().chain(&means.search.directories).cloned().collect();
    let programs = cluster::find_server(means.processes, &directories, dumped)?;
    let tools = tools(means, contents, programs.major)?;
    let unique = unique(means.random);
    let publishes = facts.kinds.contains("PUBLICATION");
    let (processes, temp_dir) = (means.processes, means.temp_dir);
    let cluster =
        Cluster::start(&ClusterMeans { processes, programs: &programs, temp_dir, unique: &unique, publishes })?;
    let server = cluster.connection();
    let stored = stored_roles(means, source)?;
    let leave = Leave { owners: false, privileges: stored.is_none() };
    let roles = stored.unwrap_or_else(|| {
        notes.push("Roles were not saved with this source: owners were made up, privileges were left out".to_owned());
        facts.owners.iter().map(|owner| (owner.clone(), Role { superuser: true, ..Role::default() })).collect()
    });
    notes.extend(scratch::make_roles(server, &roles, &facts.owners)?);
    for (number, name) in facts.tablespaces.iter().filter(|name| !name.starts_with("pg_")).enumerate() {
        let folder = cluster.make_folder(&format!("tablespace-{number}"))?;
        let (name, folder) = (name.replace('"', "\"\""), folder.to_string_lossy().replace('\'', "''"));
        let statement = format!("create tablespace \"{name}\" location '{folder}'");
        scratch::execute(server, "make a tablespace in", &statement)?;
    }
    let name = format!("{DATABASE_PREFIX}{unique}");
    let (scratch, making) = Scratch::create(server, &name, &contents.aside().database_definition, false)?;
    notes.extend(making.notes);
    let target = scratch.connection();
    let options = RestoreOptions { no_privileges: leave.privileges, ..RestoreOptions::default() };
    let filling = Filling { means, tools: &tools, stream, contents_end: facts.contents_end.unwrap_or_default() };
    // Large objects come with their rows from PostgreSQL 17 on, and only their owner or a superuser makes them.
    let loads_apart = programs.major >= WRITE_ALL_SINCE && !facts.kinds.contains("BLOB METADATA");
    let mut expected = Expected::new(source, means.random, leave);
    let mut apart = Vec::new();
    filling.part(target, options, Section::Before, &mut notes)?;
    if loads_apart {
        let loader = cluster.connection_as(cluster::LOADER).with_database(&name);
        let make = format!("create role {0} login; grant pg_write_all_data, pg_read_all_data to {0}", cluster::LOADER);
        scratch::execute(target, "make a role in", &make)?;
        let close = scratch::open_functions(target, cluster::LOADER)?;
        let contents = large::read_contents(means, stream)?;
        let large = Large::choose(&contents, &source.tables);
        if large.is_empty() {
            let data = RestoreOptions { section: Some(Section::Data), ..options };
            filling.rows(&loader, data, &mut expected, &mut notes)?;
        } else {
            filling.rows_apart(target, &loader, &large, &contents, &mut expected, &mut notes)?;
            apart = large.apart();
        }
        scratch::execute(target, "close functions in", &close)?;
    } else {
        filling.rows(target, RestoreOptions { section: Some(Section::Data), ..options }, &mut expected, &mut notes)?;
    }
    filling.part(target, options, Section::After, &mut notes)?;
    let restore_time = began.elapsed();
    let place = format!("a temporary cluster of PostgreSQL {}", programs.major);
    let restored = Restored { place, restore_time, bytes: stream.plain_bytes };
    prove(means, &tools, target, expected, &apart, notes, restored)
}

fn on_server(
    means: &Means<'_>,
    source: &SourceRecord,
    stream: &StreamRecord,
    contents: &Expected,
    server: &Connection,
) -> Result<Done, Error> {
    let facts = scratch::server_facts(server)?;
    let dumped = major(contents.versions().0);
    if facts.major < dumped {
        let target = server.without_password();
        return Err(Error::OlderServer { target, server: facts.major, dump: dumped });
    }
    let tools = tools(means, contents, facts.major)?;
    scratch::drop_leftovers(server)?;
    let mut notes = Vec::new();
    let stored = stored_roles(means, source)?;
    let mut needed = stored.iter().flat_map(BTreeMap::keys).chain(&contents.facts().owners);
    let first_missing = needed.find(|name| !facts.roles.contains(*name) && !name.starts_with("pg_"));
    let all = facts.superuser && first_missing.is_none();
    let leave = Leave { owners: !all, privileges: !all || stored.is_none() };
    match first_missing {
        Some(role) => notes.push(format!(
            "Owners and privileges were left out: the scratch server has no role {role}, and none is made there"
        )),
        None if !all => notes.push(
            "Owners and privileges were left out: the user on the scratch server may not give things away".to_owned(),
        ),
        None if leave.privileges => notes.push("Privileges were left out: roles were not saved".to_owned()),
        None => {}
    }
    restoring(means, stream.plain_bytes);
    let began = Instant::now();
    let name = format!("{DATABASE_PREFIX}{}", unique(means.random));
    let (scratch, making) = Scratch::create(server, &name, &contents.aside().database_definition, true)?;
    notes.extend(making.notes);
    let target = scratch.connection();
    let ours = scratch::identity(target)?;
    if let Some(live) = (means.live)(source)
        && scratch::identity(&live).is_ok_and(|theirs| theirs == ours)
    {
        return Err(Error::OwnDatabase { target: target.without_password() });
    }
    let options =
        RestoreOptions { no_owner: leave.owners, no_privileges: leave.privileges, ..RestoreOptions::default() };
    let mut expected = Expected::new(source, means.random, leave);
    let filling =
        Filling { means, tools: &tools, stream, contents_end: contents.facts().contents_end.unwrap_or_default() };
    filling.rows(target, options, &mut expected, &mut notes)?;
    let restore_time = began.elapsed();
    let place = target.without_password();
    let restored = Restored { place, restore_time, bytes: stream.plain_bytes };
    prove(means, &tools, target, expected, &[], notes, restored)
}

/// Fills a scratch database from the stored dump.
struct Filling<'a> {
    means: &'a Means<'a>,
    tools: &'a ClientTools,
    stream: &'a StreamRecord,
    contents_end: u64,
}

impl Filling<'_> {
    /// Restores everything, or the rows, from the whole dump, which the proof hears too.
    fn rows(
        &self,
        target: &Connection,
        options: RestoreOptions,
        expected: &mut Expected,
        notes: &mut Vec<String>,
    ) -> Result<(), Error> {
        let mut restore = self.begin(target, options)?;
        copy(self.means, self.stream, |bytes| {
            expected.feed(bytes);
            restore.write(bytes)
        })?;
        notes.extend(restore.finish(&[])?.notes);
        Ok(())
    }

    /// Restores the rows of large tables by ourselves and everything else by `pg_restore`, side by side, as `loader`.
    fn rows_apart(
        &self,
        target: &Connection,
        loader: &Connection,
        large: &Large,
        contents: &Contents,
        expected: &mut Expected,
        notes: &mut Vec<String>,
    ) -> Result<(), Error> {
        let (means, others) = (self.means, large.others(contents));
        let to = ListedTarget::Database { connection: loader, no_owner: false, whole: false };
        let (grant, revoke) = large.grants(cluster::LOADER);
        scratch::execute(target, "let tables be filled in", &grant)?;
        let mut restore = ListedRestore::start(means.processes, self.tools, means.temp_dir, &others, to)?;
        let mut filling = large.filling(loader);
        copy(means, self.stream, |bytes| {
            expected.feed(bytes);
            filling.feed(bytes)?;
            restore.write(bytes)
        })?;
        notes.extend(restore.finish()?);
        Ok(scratch::execute(target, "take back what filling needed in", &revoke)?)
    }

    /// Restores a part that needs the table of contents alone.
    fn part(
        &self,
        target: &Connection,
        options: RestoreOptions,
        section: Section,
        notes: &mut Vec<String>,
    ) -> Result<(), Error> {
        let mut restore = self.begin(target, RestoreOptions { section: Some(section), ..options })?;
        let mut left = usize::try_from(self.contents_end).unwrap_or(usize::MAX);
        let mut failed = None;
        let copied = self.means.reading.copy_stream(self.stream, |bytes| {
            let piece = bytes.get(..bytes.len().min(left)).unwrap_or_default();
            left -= piece.len();
            if let Err(error) = restore.write(piece) {
                failed = Some(error);
            }
            if left == 0 || failed.is_some() || self.means.cancel.is_cancelled() { Err(()) } else { Ok(()) }
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        match copied {
            Err(CopyError::Repository(error)) => return Err(error.into()),
            _ => self.means.cancel.check()?,
        }
        notes.extend(restore.finish(&[])?.notes);
        Ok(())
    }

    fn begin(&self, target: &Connection, options: RestoreOptions) -> Result<PostgresRestore, Error> {
        let format = DumpFormat::Archive;
        Ok(PostgresRestore::fill(self.means.processes, self.tools, target, format, options)?)
    }
}

/// What the restore gave, before its proof.
struct Restored {
    place: String,
    restore_time: Duration,
    bytes: u64,
}

fn prove(
    means: &Means<'_>,
    tools: &ClientTools,
    target: &Connection,
    expected: Expected,
    apart: &[Apart],
    mut notes: Vec<String>,
    restored: Restored,
) -> Result<Done, Error> {
    proving(means);
    let began = Instant::now();
    let means_of_proof = PostgresMeans { processes: means.processes, tools, connection: target };
    let mut proof = proof::postgres_apart(expected, &means_of_proof, apart, means.cancel)?;
    notes.append(&mut proof.notes);
    proof.notes = notes;
    let Restored { place, restore_time, bytes: bytes_restored } = restored;
    Ok(Done { place, restore_time, proof_time: began.elapsed(), bytes_restored, proof })
}
