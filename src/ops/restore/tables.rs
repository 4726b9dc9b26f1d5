//! Single tables of a stored dump, into a database that exists or as a script, proved by their rows.
//!
//! Into a database they come in one transaction. Then they are dumped again and compared with what is stored: definitions,
//! exact numbers of rows, contents. What differs is dropped again: none of it was there before.

use super::Selection;
use super::contents::{Contents, Entry};
use super::database::{PostgresMeans, copy, data_stream, tools_for};
use super::table_plan::{self, NoTable, Plan};
use crate::domain::snapshot::{Snapshot, SourceKind, SourceRecord, StreamRecord};
use crate::domain::system::Random;
use crate::ops::cancel::Cancel;
use crate::ops::observer::{Event, Observer};
use crate::ops::proof::{self, EntryKey, Expected, Leave, PostgresMeans as ProofMeans, Proof, TableProof};
use crate::repository::reading::{CopyError, Reading};
use crate::source::postgres::client;
use crate::source::postgres::connect::Connection;
use crate::source::postgres::dump_format::CustomArchive;
use crate::target::database::TargetError;
use crate::target::listed::{self, ListedRestore, ListedTarget, Present};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What is wanted of which dump.
pub struct Wanted<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// The source.
    pub source: &'a SourceRecord,
    /// Names of tables, with or without schema.
    pub tables: &'a [String],
    /// Takes a small file.
    pub temp_dir: &'a Path,
    /// Draws the key of the proof.
    pub random: &'a dyn Random,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl std::fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wanted({:?} of {})", self.tables, self.source.name)
    }
}

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TablesReport {
    /// The snapshot.
    pub snapshot_id: String,
    /// The source.
    pub source: String,
    /// The database without password, or the script's path.
    pub target: String,
    /// Nothing was written.
    pub dry_run: bool,
    /// `equal`; empty when nothing was restored.
    pub proof: &'static str,
    /// The tables with their rows; partitions are tables of their own. Without numbers when nothing was restored, and
    /// for tables that hold no rows themselves.
    pub tables: Vec<TableProof>,
    /// Sequences that came with them, `schema.name`.
    pub sequences: Vec<String>,
    /// What else was missing and was made along: `type public.mood`.
    pub made: Vec<String>,
    /// What was left out, or must be there for the script, and why.
    pub notes: Vec<String>,
}

/// Why tables were not restored. Nothing of them is left unless [`Self::Left`] says so.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The restore as such.
    #[error(transparent)]
    Restore(#[from] super::Error),
    /// The dump cannot be read here.
    #[error("The dump of source {source_name} is none that single tables can be taken from")]
    NotReadable {
        /// The source.
        source_name: String,
    },
    /// Names that stand for no table, or for several.
    #[error("Source {source_name} of snapshot {snapshot} has no such table: {}", list(.wrong))]
    NoSuchTable {
        /// The snapshot, short.
        snapshot: String,
        /// The source.
        source_name: String,
        /// The names.
        wrong: Vec<NoTable>,
        /// All tables that there are.
        available: Vec<String>,
    },
    /// Something of that name is there already. Nothing was touched.
    #[error("{target} has {} already", names.join(", "))]
    Present {
        /// The database or file.
        target: String,
        /// The names.
        names: Vec<String>,
    },
    /// What the tables need is missing in the database. Nothing was touched.
    #[error("{target} lacks what the tables need: {}", missing.join(", "))]
    Missing {
        /// The database.
        target: String,
        /// What is missing.
        missing: Vec<String>,
    },
    /// Client programs that run elsewhere cannot be given a list of entries.
    #[error("Single tables cannot be restored by client programs that run behind a command_prefix")]
    Elsewhere,
    /// What was restored is not what was saved; it was taken back.
    #[error("The restored tables are not what was saved, and were removed from {target} again")]
    Differs {
        /// The database or file.
        target: String,
        /// What differs.
        proof: Box<Proof>,
    },
    /// As the other errors, but what was restored may still be there.
    #[error("Tables in {target} may be there and are not proved: {}", names.join(", "))]
    Left {
        /// The database.
        target: String,
        /// The tables.
        names: Vec<String>,
        /// Why it came to that.
        reason: String,
        /// Why they could not be removed.
        #[source]
        source: Box<TargetError>,
    },
    /// The proof could say nothing; what was restored was removed again.
    #[error(transparent)]
    Proof(#[from] proof::Error),
    /// The script cannot be written. Nothing of it is left.
    #[error("Cannot {operation} {}", path.display())]
    Io {
        /// The verb.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn list(wrong: &[NoTable]) -> String {
    wrong.iter().map(|no| no.name.clone()).collect::<Vec<_>>().join(", ")
}

impl From<TargetError> for TablesError {
    fn from(error: TargetError) -> Self {
        Self::Restore(super::Error::Database(error))
    }
}

/// The PostgreSQL source that is meant: the one that is named, the only one, or the only one that has such tables.
///
/// # Errors
/// As [`super::database::choose`].
pub fn choose<'s>(
    snapshot: &'s Snapshot,
    selection: &Selection,
    tables: &[String],
) -> Result<&'s SourceRecord, super::Error> {
    let has = |source: &&SourceRecord| {
        let of = |wanted: &String| {
            let named = |known: &str| known == wanted || known.rsplit_once('.').is_some_and(|(_, name)| name == wanted);
            source.tables.iter().any(|rows| named(&rows.table))
        };
        source.kind == SourceKind::Postgres && source.failure.is_none() && tables.iter().all(of)
    };
    let mut having = snapshot.sources.iter().filter(|_| selection.sources.is_empty()).filter(has);
    match (having.next(), having.next()) {
        (Some(one), None) => Ok(one),
        _ => super::database::choose(snapshot, selection, SourceKind::Postgres),
    }
}

/// Restores tables into a database that exists.
///
/// # Errors
/// [`TablesError`].
pub fn into_database(
    reading: &Reading,
    wanted: &Wanted<'_>,
    means: &PostgresMeans<'_>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<TablesReport, TablesError> {
    let (stream, contents, numbers) = look_up(reading, wanted, cancel)?;
    let target = means.connection.without_password();
    let tools = tools_for(means)?;
    if tools.is_elsewhere() {
        return Err(TablesError::Elsewhere);
    }
    let present = listed::present(means.connection)?;
    let plan = table_plan::plan(&contents, &numbers, Some(&present));
    let there = |name: &&(String, String)| present.relations.contains(*name);
    let names: Vec<String> = plan.tables.iter().chain(&plan.sequences).filter(there).map(full).collect();
    if !names.is_empty() {
        return Err(TablesError::Present { target, names });
    }
    if !plan.missing.is_empty() {
        return Err(TablesError::Missing { target, missing: plan.missing.into_iter().collect() });
    }
    let mut report = report(wanted, &plan, target.clone());
    let no_owner = leave_owners(&contents, &plan, &present, means.connection, &mut report.notes);
    if wanted.dry_run {
        return Ok(report);
    }
    super::database::begin(wanted.source, stream, observer);
    let privileges = report.notes.iter().any(|note| note.starts_with("privileges")) || no_owner;
    let mut expected = Expected::new(wanted.source, wanted.random, Leave { owners: no_owner, privileges });
    let to = ListedTarget::Database { connection: means.connection, no_owner, whole: true };
    let mut restore = ListedRestore::start(means.processes, &tools, wanted.temp_dir, &plan.entries, to)?;
    let copied = copy(reading, wanted.source, stream, observer, cancel, |bytes| {
        expected.feed(bytes);
        restore.write(bytes)
    });
    // From its start on the program may have committed, whatever fails here.
    let done = match copied {
        Ok(()) => restore.finish().map_err(TablesError::from),
        Err(error) => {
            drop(restore);
            Err(error.into())
        }
    };
    let proof = done.and_then(|said| {
        report.notes.extend(said);
        prove(
            &contents,
            &plan,
            expected,
            &ProofMeans { processes: means.processes, tools: &tools, connection: means.connection },
            cancel,
        )
    });
    match proof {
        Ok(proof) if proof.equal => {
            observer.event(&Event::SourceFinished { source: &wanted.source.name, failure: None });
            report.proof = "equal";
            take_rows(&mut report, &proof);
            report.notes.extend(proof.notes);
            Ok(report)
        }
        Ok(proof) => Err(take_back(means.connection, &plan, TablesError::Differs { target, proof: Box::new(proof) })),
        Err(error) => Err(take_back(means.connection, &plan, error)),
    }
}

/// Drops what was made, as far as it is there.
fn take_back(connection: &Connection, plan: &Plan, error: TablesError) -> TablesError {
    match listed::drop_made(connection, &plan.tables, &plan.made) {
        Ok(()) => error,
        Err(source) => {
            let reason = match &error {
                TablesError::Differs { proof, .. } => proof.differences.join("; "),
                other => other.to_string(),
            };
            let names = plan.tables.iter().map(full).collect();
            TablesError::Left { target: connection.without_password(), names, reason, source: Box::new(source) }
        }
    }
}

/// Writes tables as a script for `psql` into `path`, which must not exist.
///
/// # Errors
/// [`TablesError`].
pub fn into_script(
    reading: &Reading,
    wanted: &Wanted<'_>,
    means: &ScriptMeans<'_>,
    path: &Path,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<TablesReport, TablesError> {
    let (stream, contents, numbers) = look_up(reading, wanted, cancel)?;
    let tools = client::find(means.processes, means.search, None).map_err(TargetError::Client)?;
    if tools.is_elsewhere() {
        return Err(TablesError::Elsewhere);
    }
    let plan = table_plan::plan(&contents, &numbers, None);
    let target = path.display().to_string();
    if path.symlink_metadata().is_ok() {
        return Err(TablesError::Present { target: "The target".to_owned(), names: vec![target] });
    }
    let mut report = report(wanted, &plan, target.clone());
    report.notes.extend(plan.missing.iter().map(|what| format!("the script needs {what}, which is not in it")));
    if wanted.dry_run {
        return Ok(report);
    }
    super::database::begin(wanted.source, stream, observer);
    let fail = |operation| move |source| TablesError::Io { operation, path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(fail("make the folder of"))?;
    let file = tempfile::Builder::new().prefix(".holdfast-restore-").tempfile_in(folder).map_err(fail("create"))?;
    let sink = file.reopen().map_err(fail("write"))?;
    let mut expected = Expected::new(wanted.source, wanted.random, Leave::default());
    let sink = ListedTarget::Script(Box::new(sink));
    let mut restore = ListedRestore::start(means.processes, &tools, wanted.temp_dir, &plan.entries, sink)?;
    copy(reading, wanted.source, stream, observer, cancel, |bytes| {
        expected.feed(bytes);
        restore.write(bytes)
    })?;
    report.notes.extend(restore.finish()?);
    // What is on the disk is proved, not what was meant to be there.
    file.as_file().sync_all().map_err(fail("sync"))?;
    let chosen: BTreeSet<i64> = plan.entries.iter().copied().collect();
    let with_rows = |entry: &&Entry| entry.kind == "TABLE DATA" && entry.with_data && chosen.contains(&entry.number);
    let copies: BTreeMap<Vec<u8>, EntryKey> = contents
        .entries
        .iter()
        .filter(with_rows)
        .map(|entry| (entry.copy.trim_end().as_bytes().to_vec(), key_of(entry)))
        .collect();
    let reader = std::io::BufReader::with_capacity(256 << 10, file.reopen().map_err(fail("read"))?);
    let proof = proof::script(expected, reader, path, &copies, cancel)?;
    if !proof.equal {
        return Err(TablesError::Differs { target, proof: Box::new(proof) });
    }
    if let Err(error) = file.persist_noclobber(path) {
        return Err(match error.error.kind() {
            ErrorKind::AlreadyExists => TablesError::Present { target: "The target".to_owned(), names: vec![target] },
            _ => fail("name")(error.error),
        });
    }
    observer.event(&Event::SourceFinished { source: &wanted.source.name, failure: None });
    report.proof = "equal";
    take_rows(&mut report, &proof);
    Ok(report)
}

/// What a script is made with.
pub struct ScriptMeans<'a> {
    /// Starts programs.
    pub processes: &'a dyn crate::source::process::Processes,
    /// Where the client programs are.
    pub search: &'a client::ClientSearch,
}

impl std::fmt::Debug for ScriptMeans<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScriptMeans")
    }
}

/// The dump's stream, what it says it contains, and the numbers of the wanted tables there.
fn look_up<'w>(
    reading: &Reading,
    wanted: &Wanted<'w>,
    cancel: &Cancel,
) -> Result<(&'w StreamRecord, Contents, BTreeSet<i64>), TablesError> {
    let stream = data_stream(wanted.source)?;
    let contents = read_contents(reading, wanted, stream, cancel)?;
    let numbers = resolve(wanted, &contents)?;
    Ok((stream, contents, numbers))
}

fn read_contents(
    reading: &Reading,
    wanted: &Wanted<'_>,
    stream: &StreamRecord,
    cancel: &Cancel,
) -> Result<Contents, TablesError> {
    let mut archive = CustomArchive::watched(Contents::default());
    reading.packs.follow_index();
    let copied = reading.copy_stream(stream, |bytes| {
        archive.feed(bytes);
        if cancel.is_cancelled() || archive.watch().complete { Err(()) } else { Ok(()) }
    });
    if let Err(CopyError::Repository(error)) = copied {
        return Err(super::Error::Repository(error).into());
    }
    if cancel.is_cancelled() {
        return Err(super::Error::Interrupted.into());
    }
    let contents = archive.into_partial_watch();
    if !contents.complete || contents.overflow {
        return Err(TablesError::NotReadable { source_name: wanted.source.name.clone() });
    }
    Ok(contents)
}

fn resolve(wanted: &Wanted<'_>, contents: &Contents) -> Result<BTreeSet<i64>, TablesError> {
    table_plan::resolve(contents, wanted.tables).map_err(|wrong| TablesError::NoSuchTable {
        snapshot: wanted.snapshot.id.short(),
        source_name: wanted.source.name.clone(),
        wrong,
        available: table_plan::table_names(contents),
    })
}

fn report(wanted: &Wanted<'_>, plan: &Plan, target: String) -> TablesReport {
    let unknown = |(schema, table): &(String, String)| TableProof {
        schema: schema.clone(),
        table: table.clone(),
        rows_expected: None,
        rows_restored: None,
    };
    TablesReport {
        snapshot_id: wanted.snapshot.id.hex(),
        source: wanted.source.name.clone(),
        target,
        dry_run: wanted.dry_run,
        proof: "",
        tables: plan.tables.iter().map(unknown).collect(),
        sequences: plan.sequences.iter().map(full).collect(),
        made: plan.made.iter().filter(|(kind, _, _)| kind != "SEQUENCE").map(made).collect(),
        notes: plan.notes.clone(),
    }
}

fn take_rows(report: &mut TablesReport, proof: &Proof) {
    for table in &mut report.tables {
        let found = proof.tables.iter().find(|rows| rows.schema == table.schema && rows.table == table.table);
        if let Some(found) = found {
            table.clone_from(found);
        }
    }
}

fn full((schema, name): &(String, String)) -> String {
    format!("{schema}.{name}")
}

fn made((kind, schema, name): &listed::Made) -> String {
    let kind = kind.to_lowercase();
    if schema.is_empty() || schema == "-" { format!("{kind} {name}") } else { format!("{kind} {schema}.{name}") }
}

/// True when owners cannot be what they were; says so.
fn leave_owners(
    contents: &Contents,
    plan: &Plan,
    present: &Present,
    connection: &Connection,
    notes: &mut Vec<String>,
) -> bool {
    let chosen: BTreeSet<i64> = plan.entries.iter().copied().collect();
    let of_chosen = contents.entries.iter().filter(|entry| chosen.contains(&entry.number));
    let owners: BTreeSet<&str> =
        of_chosen.map(|entry| entry.owner.as_str()).filter(|owner| !owner.is_empty()).collect();
    let user = connection.user();
    let reason = match owners.iter().find(|owner| !present.roles.contains(**owner)) {
        Some(owner) => format!("there is no role {owner}"),
        None if !present.superuser && owners.iter().any(|owner| *owner != user) => {
            format!("{user} may not give things away")
        }
        None => return false,
    };
    notes.push(format!("everything belongs to {user}: {reason}"));
    true
}

fn key_of(entry: &Entry) -> EntryKey {
    EntryKey { kind: entry.kind.clone(), schema: entry.schema.clone(), name: entry.name.clone() }
}

fn prove(
    contents: &Contents,
    plan: &Plan,
    expected: Expected,
    means: &ProofMeans<'_>,
    cancel: &Cancel,
) -> Result<Proof, TablesError> {
    let chosen: BTreeSet<i64> = plan.entries.iter().copied().collect();
    // A dump of tables does not hold what was made along, but for sequences.
    let shown = |kind: &str| {
        !matches!(
            kind,
            "SCHEMA" | "TYPE" | "SHELL TYPE" | "DOMAIN" | "COLLATION" | "ACL" | "COMMENT" | "SECURITY LABEL"
        )
    };
    let of_chosen = contents.entries.iter().filter(|entry| chosen.contains(&entry.number) && shown(&entry.kind));
    let keys: BTreeSet<EntryKey> = of_chosen.map(key_of).collect();
    let names: Vec<(String, String)> = plan.tables.iter().chain(&plan.sequences).cloned().collect();
    Ok(proof::tables(expected, means, &names, &keys, cancel)?)
}
