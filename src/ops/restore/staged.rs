//! What is to take the place of something else is made beside it, whole or not at all; `target/replace` puts it there.

use super::database::{self, DatabaseReport};
use super::{Error, PathFilter, Report, Run, files};
use crate::domain::snapshot::{Snapshot, SourceRecord};
use crate::ops::cancel::Cancel;
use crate::ops::observer::{Event, Observer};
use crate::repository::reading::Reading;
use crate::target::files::{Options as AttributeOptions, Restorer};
use crate::target::replace::sqlite::SqliteReplacement;
use crate::target::replace::tree::TreeReplacement;
use crate::target::replace::{Names, Replace};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Makes what a files source has at and below `root` (one of [`super::roots`], or any path of its tree) beside the place that the replacement is for,
/// and stages it when it is complete. When it is not, nothing is staged, and the report tells what is missing.
///
/// # Errors
/// [`Error`]; [`Error::NoSuchPath`] when the tree does not list `root`. What was made is removed then.
pub fn tree(
    reading: &Reading,
    snapshot: &Snapshot,
    source: &SourceRecord,
    root: &[u8],
    replacement: &TreeReplacement,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Report, Error> {
    let made = make_tree(reading, snapshot, source, root, replacement, observer, cancel);
    match made {
        Ok(report) if report.is_complete() => {
            replacement.ready()?;
            Ok(report)
        }
        incomplete => {
            // What cannot be removed now goes with the next try; the first error counts.
            let _ = replacement.discard_new();
            incomplete
        }
    }
}

fn make_tree(
    reading: &Reading,
    snapshot: &Snapshot,
    source: &SourceRecord,
    root: &[u8],
    replacement: &TreeReplacement,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Report, Error> {
    reading.packs.follow_index();
    let decoded_before = reading.packs.counters.decoded();
    let filter = PathFilter::new(Some(root), &[], &[]).unwrap_or_default();
    let root = super::absolute(root);
    let mut plan = files::plan(reading, source, &filter, cancel)?;
    if plan.entries == 0 && plan.fault.is_none() {
        return Err(Error::NoSuchPath { snapshot: snapshot.id.short(), path: root });
    }
    plan.root = Some(root.clone());
    let Names { place, .. } = replacement.names();
    let report = Report { snapshot_id: snapshot.id.hex(), target: place.clone(), ..Report::default() };
    let (total_bytes, total_items) = (plan.plain_bytes, plan.entries);
    let mut run = Run { reading, observer, cancel, report, total_bytes, total_items, bytes_done: 0, items_done: 0 };
    let part = replacement.begin()?;
    let mut restorer = Restorer::new(&part, AttributeOptions::for_this_user())?;
    let name = Path::new(&place).file_name().unwrap_or_default();
    restorer.move_path(&root, &[b"/", name.as_bytes()].concat());
    let (bytes, items) = (Some(total_bytes), Some(total_items));
    observer.event(&Event::PhaseStarted { phase: "restoring", total_bytes: bytes, total_items: items });
    observer.event(&Event::SourceStarted { source: &source.name, kind: source.kind });
    let restored = files::restore(&mut run, source, &plan, &filter, &mut restorer)?;
    run.finished(restored, 0);
    super::finish(&mut run, restorer)?;
    run.report.decoded_bytes = reading.packs.counters.decoded() - decoded_before;
    Ok(run.report)
}

/// Plain bytes of what is at and below a path of a files source: about what the file system of its place must have free.
///
/// # Errors
/// [`Error`]; [`Error::NoSuchPath`].
pub fn tree_bytes(
    reading: &Reading,
    snapshot: &Snapshot,
    source: &SourceRecord,
    root: &[u8],
    cancel: &Cancel,
) -> Result<u64, Error> {
    let filter = PathFilter::new(Some(root), &[], &[]).unwrap_or_default();
    let plan = files::plan(reading, source, &filter, cancel)?;
    match plan.entries {
        0 => Err(Error::NoSuchPath { snapshot: snapshot.id.short(), path: root.to_vec() }),
        // A block for each entry, as file systems count.
        entries => Ok(plan.plain_bytes.saturating_add(entries.saturating_mul(4096))),
    }
}

/// Makes the image of an SQLite source beside the place that the replacement is for, proves it and stages it.
///
/// # Errors
/// [`Error`]; nothing is staged then, and what was made is removed.
pub fn sqlite(
    reading: &Reading,
    snapshot: &Snapshot,
    source: &SourceRecord,
    replacement: &SqliteReplacement,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<DatabaseReport, Error> {
    let made = make_sqlite(reading, snapshot, source, replacement, observer, cancel);
    if made.is_err() {
        // As above.
        let _ = replacement.discard_new();
    }
    made
}

fn make_sqlite(
    reading: &Reading,
    snapshot: &Snapshot,
    source: &SourceRecord,
    replacement: &SqliteReplacement,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<DatabaseReport, Error> {
    let stream = database::data_stream(source)?;
    reading.packs.follow_index();
    let decoded_before = reading.packs.counters.decoded();
    database::begin(source, stream, observer);
    let mut staging = replacement.begin()?;
    database::copy(reading, source, stream, observer, cancel, |bytes| staging.write(bytes))?;
    let report = staging.finish(&stream.blake3, &source.tables)?;
    observer.event(&Event::SourceFinished { source: &source.name, failure: None });
    let decoded_bytes = reading.packs.counters.decoded() - decoded_before;
    let target = replacement.names().place;
    Ok(DatabaseReport { decoded_bytes, ..database::summary(snapshot, source, stream, target, report) })
}
