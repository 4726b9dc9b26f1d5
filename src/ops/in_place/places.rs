//! What stands in the places of a restore, and how the new is made beside it.

use super::{Context, Place, Trouble};
use crate::domain::id::ActId;
use crate::domain::snapshot::{Snapshot, SourceRecord, StreamRole};
use crate::ops::observer::Event;
use crate::ops::restore::database::{self, PostgresMeans};
use crate::ops::restore::{self, Kinds, PathFilter, Selection};
use crate::repository::error::RepoError;
use crate::repository::reading::CopyError;
use crate::target::files::Options as AttributeOptions;
use crate::target::replace::postgres::PostgresReplacement;
use crate::target::replace::sqlite::SqliteReplacement;
use crate::target::replace::tree::TreeReplacement;
use crate::target::replace::{self, Replace};
use std::path::Path;

/// Where a whole tree is restored to before the part that is wanted gets the name of the place.
const WHOLE: &str = ".holdfast-restored";

/// The replacement of one place by one act.
pub(super) enum Replacement {
    Postgres(PostgresReplacement),
    Sqlite(SqliteReplacement),
    Tree(TreeReplacement),
}

impl Replacement {
    pub(super) fn steps(&self) -> &dyn Replace {
        match self {
            Self::Postgres(replacement) => replacement,
            Self::Sqlite(replacement) => replacement,
            Self::Tree(replacement) => replacement,
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

    /// The replacement of this place by an act.
    pub(super) fn replacement(&self, act: ActId, existed: bool) -> Result<Replacement, replace::Error> {
        let act = act.hex();
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
    match (place, replacement) {
        (Place::Postgres { search, .. }, Replacement::Postgres(replacement)) => {
            replacement.create_new()?;
            let staging = replacement.staging();
            let means = PostgresMeans { processes: context.processes, search, connection: &staging };
            let (observer, cancel) = (context.observer, context.cancel);
            let report = database::fill_postgres(context.reading, snapshot, source, &means, observer, cancel)?;
            let differences = report.differences.iter().map(|d| (d.table.as_str(), d.recorded, d.restored)).collect();
            same_rows(&place.shown(), differences)?;
            Ok(replacement.finish_new()?)
        }
        (Place::Sqlite { .. }, Replacement::Sqlite(replacement)) => stage_sqlite(context, source, place, replacement),
        (Place::Tree { path, from }, Replacement::Tree(replacement)) => {
            let folder = replacement.begin()?;
            stage_tree(context, snapshot, source, path, from, &folder)?;
            Ok(replacement.ready()?)
        }
        _ => Err(Trouble::Proof { place: place.shown(), reason: "it is not of the kind of its source".to_owned() }),
    }
}

fn stage_sqlite(
    context: &Context<'_>,
    source: &SourceRecord,
    place: &Place,
    replacement: &SqliteReplacement,
) -> Result<(), Trouble> {
    enum Stop {
        Cancelled,
        Replace(replace::Error),
    }
    let missing = || RepoError::Missing { what: format!("The data of source {}", source.name) };
    let stream = source.streams.iter().find(|s| s.role == StreamRole::Data).ok_or_else(missing)?;
    let mut staging = replacement.begin()?;
    context.reading.packs.follow_index();
    let copied = context.reading.copy_stream(stream, |bytes| {
        context.cancel.check().map_err(|_| Stop::Cancelled)?;
        staging.write(bytes).map_err(Stop::Replace)
    });
    copied.map_err(|error| match error {
        CopyError::Repository(error) => Trouble::Repository(error),
        CopyError::Sink(Stop::Cancelled) => Trouble::Interrupted,
        CopyError::Sink(Stop::Replace(error)) => Trouble::Replace(error),
    })?;
    let report = staging.finish(&stream.blake3, &source.tables)?;
    for note in &report.notes {
        let (source, message) = (Some(source.name.as_str()), note.as_str());
        context.observer.event(&Event::Warning { code: "restore.note", source, subject: "", message });
    }
    let differences = report.differences.iter().map(|d| (d.table.as_str(), d.recorded, d.restored)).collect();
    same_rows(&place.shown(), differences)
}

/// Table, recorded rows, rows now.
type Difference<'a> = (&'a str, u64, Option<u64>);

fn same_rows(place: &str, differences: Vec<Difference<'_>>) -> Result<(), Trouble> {
    match differences.as_slice() {
        [] => Ok(()),
        [first, rest @ ..] => {
            let (table, recorded, restored) = first;
            let now = restored.map_or_else(|| "the table is missing".to_owned(), |n| format!("{n} were restored"));
            let more = if rest.is_empty() { String::new() } else { format!("; {} more tables differ", rest.len()) };
            let reason = format!("table {table} has {recorded} rows in the snapshot, {now}{more}");
            Err(Trouble::Proof { place: place.to_owned(), reason })
        }
    }
}

fn stage_tree(
    context: &Context<'_>,
    snapshot: &Snapshot,
    source: &SourceRecord,
    place: &Path,
    from: &str,
    folder: &Path,
) -> Result<(), Trouble> {
    let whole = folder.join(WHOLE);
    let paths = PathFilter::new(Some(from.as_bytes()), &[], &[]).unwrap_or_default();
    let options = restore::Options {
        target: whole.clone(),
        selection: Selection { sources: vec![source.name.clone()], kinds: Kinds::Files, paths },
        dry_run: false,
        attributes: AttributeOptions::for_this_user(),
    };
    let report = restore::run(context.reading, snapshot, &[], &options, context.observer, context.cancel)?;
    if !report.is_complete() {
        let lost = report.lost.first().map(|l| format!("{}: {}", l.path.as_deref().unwrap_or("the tree"), l.reason));
        let reason = match lost {
            Some(lost) => format!("{} things could not be restored, {lost}", report.lost_count),
            None => format!("{} entries could not be made as they were, see the warnings", report.left_out),
        };
        return Err(Trouble::Proof { place: place.display().to_string(), reason });
    }
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Trouble::Replace(replace::Error::Io { operation, path, source })
    };
    let name = place.file_name().unwrap_or_default();
    let made = whole.join(from.trim_start_matches('/'));
    std::fs::rename(&made, folder.join(name)).map_err(io("move", &made))?;
    std::fs::remove_dir_all(&whole).map_err(io("remove", &whole))
}
