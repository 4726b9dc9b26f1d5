//! What stands in the places of a restore, and how the new is made beside it.

use super::nested::Within;
use super::{Context, Place, PlannedItem, Trouble};
use crate::domain::id::ActId;
use crate::domain::snapshot::{Snapshot, SourceRecord};
use crate::ops::observer::Event;
use crate::ops::proof::{self, Aside, Expected, Leave, Proof, TreeOptions};
use crate::ops::restore::database::{self, DatabaseReport, PostgresMeans};
use crate::ops::restore::{self, staged};
use crate::source::postgres::client::ClientSearch;
use crate::target::files::Options as AttributeOptions;
use crate::target::replace::carry::carry;
use crate::target::replace::emptied::Emptying;
use crate::target::replace::postgres::{Dumped, PostgresReplacement};
use crate::target::replace::sqlite::SqliteReplacement;
use crate::target::replace::tree::TreeReplacement;
use crate::target::replace::{self, Replace};
use std::path::Path;

/// The replacement of one place by one act.
pub(super) enum Replacement {
    Postgres(PostgresReplacement),
    Sqlite(SqliteReplacement),
    Tree(TreeReplacement),
    /// Nothing takes the place of what is there.
    Emptying(Emptying),
    /// It is a part of another one.
    Within(Within),
}

impl Replacement {
    pub(super) fn steps(&self) -> &dyn Replace {
        match self {
            Self::Postgres(replacement) => replacement,
            Self::Sqlite(replacement) => replacement,
            Self::Tree(replacement) => replacement,
            Self::Emptying(emptying) => emptying,
            Self::Within(within) => within,
        }
    }
}

impl Place {
    /// For people: a path, or a URI without password.
    pub fn shown(&self) -> String {
        match self {
            Self::Postgres { connection, .. } => connection.without_password(),
            Self::Sqlite { path } | Self::Tree { path, .. } => path.display().to_string(),
        }
    }

    /// How it is reached again, without secrets; see [`super::PlannedItem::reach`].
    pub fn reach(&self) -> String {
        match self {
            Self::Postgres { connection, .. } => connection.client_conninfo(false),
            Self::Sqlite { path } | Self::Tree { path, .. } => path.to_string_lossy().into_owned(),
        }
    }

    /// True when something stands there now.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn exists(&self) -> Result<bool, replace::Error> {
        match self {
            Self::Postgres { connection, .. } => PostgresReplacement::exists(connection),
            Self::Sqlite { path } | Self::Tree { path, .. } => match path.symlink_metadata() {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
                Err(source) => Err(replace::Error::Io { operation: "look at", path: path.clone(), source }),
            },
        }
    }

    /// Who uses a database now, for people: sessions that a swap ends. None where that cannot be told.
    pub fn users(&self) -> Vec<String> {
        match self {
            Self::Postgres { connection, .. } => PostgresReplacement::users(connection).unwrap_or_default(),
            Self::Sqlite { .. } | Self::Tree { .. } => Vec::new(),
        }
    }

    /// The replacement of this place by an act.
    pub(super) fn replacement(&self, act: ActId, planned: &PlannedItem) -> Result<Replacement, replace::Error> {
        let act = act.hex();
        if planned.within {
            return Ok(Replacement::Within(Within { place: self.shown() }));
        }
        if planned.empties {
            return Ok(Replacement::Emptying(match self {
                Self::Postgres { connection, .. } => {
                    Emptying::Postgres(PostgresReplacement::new((**connection).clone(), &act, false))
                }
                Self::Sqlite { path } => Emptying::Sqlite(SqliteReplacement::new(path, &act)?),
                Self::Tree { path, .. } => Emptying::Tree(TreeReplacement::new(path, &act)?),
            }));
        }
        let existed = planned.existed;
        Ok(match self {
            Self::Postgres { connection, .. } => {
                Replacement::Postgres(PostgresReplacement::new((**connection).clone(), &act, existed))
            }
            Self::Sqlite { path } => Replacement::Sqlite(SqliteReplacement::new(path, &act)?),
            Self::Tree { path, .. } => Replacement::Tree(TreeReplacement::new(path, &act)?),
        })
    }
}

/// Makes the new one beside the place, complete and proved.
pub(super) fn stage(
    context: &Context<'_>,
    snapshot: &Snapshot,
    source: &SourceRecord,
    place: &Place,
    replacement: &Replacement,
) -> Result<(), Trouble> {
    let (reading, observer, cancel) = (context.reading, context.observer, context.cancel);
    match (place, replacement) {
        (Place::Postgres { search, .. }, Replacement::Postgres(replacement)) => {
            stage_postgres(context, snapshot, source, place, search, replacement)
        }
        (Place::Sqlite { .. }, Replacement::Sqlite(replacement)) => {
            // Its hash and its integrity are the proof, before it gets its name.
            let report = staged::sqlite(reading, snapshot, source, replacement, observer, cancel)?;
            same_rows(context, place, &report)
        }
        (Place::Tree { path, from, left_out }, Replacement::Tree(replacement)) => {
            let report = staged::tree(reading, snapshot, source, from.as_bytes(), replacement, observer, cancel)?;
            if !report.is_complete() {
                let lost = report.lost.first();
                let lost = lost.map(|l| format!("{}: {}", l.path.as_deref().unwrap_or("the tree"), l.reason));
                let reason = match lost {
                    Some(lost) => format!("{} things could not be restored, {lost}", report.lost_count),
                    None => format!("{} entries could not be made as they were, see the warnings", report.left_out),
                };
                return Err(Trouble::Proof { place: place.shown(), reason });
            }
            prove_tree(context, source, from, place, replacement)?;
            let new = replacement.names().new;
            match left_out {
                Some(left_out) if path.is_dir() && Path::new(&new).is_dir() => {
                    carry(path, Path::new(&new), &left_out.find(path))?;
                    Ok(())
                }
                _ => Ok(()),
            }
        }
        _ => Err(Trouble::Proof { place: place.shown(), reason: "it is not of the kind of its source".to_owned() }),
    }
}

fn stage_postgres(
    context: &Context<'_>,
    snapshot: &Snapshot,
    source: &SourceRecord,
    place: &Place,
    search: &ClientSearch,
    replacement: &PostgresReplacement,
) -> Result<(), Trouble> {
    let aside = match place.exists() {
        Ok(true) => Aside::default(),
        _ => super::checks::contents(context, source)?.aside().clone(),
    };
    let dumped = Dumped {
        definition: aside.database_definition,
        owner: aside.database_owner,
        tablespace: aside.database_tablespace,
        statements: aside.database_statements,
    };
    let mut notes = replacement.create_new(&dumped)?;
    let staging = replacement.staging();
    let means = PostgresMeans { processes: context.processes, search, connection: &staging };
    let mut expected = Expected::new(source, context.recorder.random, Leave::default());
    let mut watch = |bytes: &[u8]| expected.feed(bytes);
    let (observer, cancel) = (context.observer, context.cancel);
    let report = database::fill_postgres(context.reading, snapshot, source, &means, &mut watch, observer, cancel)?;
    same_rows(context, place, &report)?;
    if database::is_script(source) {
        unproved(
            context,
            source,
            &match report.tables_compared {
                0 => "The script that was imported had no rows to count, so nothing of it was compared".to_owned(),
                n => format!(
                    "Of the script that was imported the rows of {n} tables were counted and compared, not their contents"
                ),
            },
        );
    } else {
        prove_postgres(context, source, place, &means, expected)?;
    }
    notes.extend(replacement.finish_new(&dumped)?);
    for message in &notes {
        let source = Some(source.name.as_str());
        observer.event(&Event::Warning { code: "restore.database_properties", source, subject: "", message });
    }
    Ok(())
}

/// Compares the staged database with its dump.
fn prove_postgres(
    context: &Context<'_>,
    source: &SourceRecord,
    place: &Place,
    means: &PostgresMeans<'_>,
    expected: Expected,
) -> Result<(), Trouble> {
    let (observer, cancel) = (context.observer, context.cancel);
    observer.event(&Event::PhaseStarted { phase: "proving", total_bytes: None, total_items: None });
    let tools = database::tools_for(means)?;
    let means = proof::PostgresMeans { processes: context.processes, tools: &tools, connection: means.connection };
    match proof::postgres(expected, &means, cancel) {
        Ok(proof) => equal(place, &proof),
        // A dump of a format that this version cannot read: its rows were counted, which is all that can be said.
        Err(proof::Error::Dump { what, reason }) => {
            let message = format!("{what} {reason}, so only the rows of the restored database were compared");
            unproved(context, source, &message);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn unproved(context: &Context<'_>, source: &SourceRecord, message: &str) {
    let source = Some(source.name.as_str());
    context.observer.event(&Event::Warning { code: "restore.unproved", source, subject: "", message });
}

/// Compares the staged tree with the snapshot, name by name.
fn prove_tree(
    context: &Context<'_>,
    source: &SourceRecord,
    from: &str,
    place: &Place,
    replacement: &TreeReplacement,
) -> Result<(), Trouble> {
    let attributes = AttributeOptions::for_this_user();
    let options =
        TreeOptions { owner: attributes.owner, xattrs: attributes.xattrs, devices: attributes.devices, extras: true };
    let (from, staged) = (restore::absolute(from.as_bytes()), replacement.names().new);
    let put = |path: &[u8]| match path.strip_prefix(from.as_slice()) {
        Some(rest) if rest.is_empty() || rest.first() == Some(&b'/') => Some([staged.as_bytes(), rest].concat()),
        _ => None,
    };
    equal(place, &proof::tree(context.reading, source, &put, options, context.cancel)?)
}

fn equal(place: &Place, proof: &Proof) -> Result<(), Trouble> {
    if proof.equal {
        return Ok(());
    }
    let first = proof.differences.first().map_or("it differs", String::as_str);
    let more = proof.difference_count.saturating_sub(1);
    let more = if more == 0 { String::new() } else { format!(", and {more} more differences") };
    Err(Trouble::Proof { place: place.shown(), reason: format!("{first}{more}") })
}

fn same_rows(context: &Context<'_>, place: &Place, report: &DatabaseReport) -> Result<(), Trouble> {
    for note in &report.notes {
        let (source, message) = (Some(report.source.as_str()), note.as_str());
        context.observer.event(&Event::Warning { code: "restore.note", source, subject: "", message });
    }
    match report.differences.as_slice() {
        [] => Ok(()),
        [first, rest @ ..] => {
            let now =
                first.restored.map_or_else(|| "the table is missing".to_owned(), |n| format!("{n} were restored"));
            let more = if rest.is_empty() { String::new() } else { format!("; {} more tables differ", rest.len()) };
            let reason = format!("table {} has {} rows in the snapshot, {now}{more}", first.table, first.recorded);
            Err(Trouble::Proof { place: place.shown(), reason })
        }
    }
}
