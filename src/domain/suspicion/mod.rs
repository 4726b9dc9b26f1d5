//! Does what was saved look wrong beside what was saved before? Pure: measures in, findings out.
//!
//! A source is compared with its last good snapshots on the same host, whatever else those hold. Nobody knows better
//! than the user what is right, so a finding never stops a backup: it is stored, marked, and does not count as good
//! until somebody accepts it. The laws, each with a test of its own:
//!
//! * with fewer than two good snapshots there is nothing to compare with, except one that was accepted;
//! * what lies within the thresholds of the newest accepted snapshot is not suspect, whatever the median says;
//! * three suspects in a row that lie within the thresholds of each other are a new normal.

mod finding;

pub use finding::{Finding, Side};

use super::snapshot::{SourceKind, SourceRecord, StreamRole};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How many good snapshots are compared with.
pub const COMPARED_MAX: usize = 5;
/// Good snapshots without which nothing is compared.
pub const COMPARED_MIN: usize = 2;
/// Less than so many percent of the median is far too little.
pub const SHRUNK_BELOW_PERCENT: u64 = 50;
/// More than so many percent of the median is far too much.
pub const GROWN_ABOVE_PERCENT: u64 = 300;
/// A median below this says nothing about a size, bytes: a few lines more or less are the half of it.
pub const JUDGED_BYTES_MIN: u64 = 1024;
/// A median below this says nothing about a number of files and directories.
pub const JUDGED_ENTRIES_MIN: u64 = 10;
/// Tables with fewer rows come and go.
pub const JUDGED_ROWS_MIN: u64 = 100;
/// Less than so many percent of the rows are a collapse.
pub const ROWS_BELOW_PERCENT: u64 = 50;
/// Samples shorter than this say nothing, bytes.
pub const SAMPLED_BYTES_MIN: u64 = 4096;
/// A sample of which compression saves at least so many percent is compressible.
pub const COMPRESSIBLE_PERCENT: u64 = 20;
/// A sample of which compression saves at most so many percent is as good as incompressible.
pub const INCOMPRESSIBLE_PERCENT: u64 = 5;
/// Changed files that must have become incompressible before their share counts.
pub const HARDENED_FILES_MIN: u64 = 10;
/// The share of changed files that must have become incompressible, percent.
pub const HARDENED_PERCENT: u64 = 50;

/// What compression would make of a source: kept beside the snapshot's record, because nothing else in it tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The source.
    pub source: String,
    /// Plain bytes of its stream that were tried.
    pub sampled_bytes: u64,
    /// Bytes of these that fast compression saves.
    pub saved_bytes: u64,
    /// Files source: changed files that were tried, since it last looked right.
    pub changed_files: u64,
    /// Files source: those of them that were compressible before and are not any more.
    pub hardened_files: u64,
}

impl Sample {
    /// The share that compression saves, in percent; None when too little was tried.
    pub fn saved_percent(&self) -> Option<u64> {
        (self.sampled_bytes >= SAMPLED_BYTES_MIN).then(|| percent(self.saved_bytes, self.sampled_bytes))
    }

    /// Adds what the run before found, if that looked wrong: files that are not touched again are still as they were
    /// left. `softened` files were found compressible in this run and may be some of those.
    pub fn carry(&mut self, before: &Self, softened: u64) {
        self.hardened_files = self.hardened_files.saturating_add(before.hardened_files.saturating_sub(softened));
        self.changed_files = self.changed_files.max(before.changed_files).max(self.hardened_files);
    }
}

/// What is compared of one source in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure<'a> {
    /// Its kind.
    pub kind: SourceKind,
    /// Where it came from.
    pub location: &'a str,
    /// Plain bytes of its data: the dump, the image, the contents of all files.
    pub plain_bytes: u64,
    /// Files, directories and others; None where there are none by nature.
    pub entries: Option<u64>,
    /// Rows by table.
    pub tables: BTreeMap<&'a str, u64>,
    /// What compression would make of it, where that is known.
    pub sample: Option<&'a Sample>,
}

impl<'a> Measure<'a> {
    /// From a source's record and the sample that was stored with it.
    pub fn new(record: &'a SourceRecord, sample: Option<&'a Sample>) -> Self {
        let is_data = |role| matches!(role, StreamRole::Content | StreamRole::Data);
        let data = record.streams.iter().filter(|stream| is_data(stream.role));
        Self {
            kind: record.kind,
            location: &record.location,
            plain_bytes: data.map(|stream| stream.plain_bytes).fold(0, u64::saturating_add),
            entries: record.files.map(|f| f.files.saturating_add(f.directories).saturating_add(f.others)),
            tables: record.tables.iter().map(|table| (table.table.as_str(), table.rows)).collect(),
            sample,
        }
    }

    /// True when the two can be compared. Files of other paths are another thing under the same name; a database that
    /// moved to another server is still the same.
    pub fn is_comparable(&self, other: &Self) -> bool {
        self.kind == other.kind && (self.kind != SourceKind::Files || self.location == other.location)
    }
}

/// How an older snapshot stands for a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing looked wrong.
    Good,
    /// It looked wrong, and somebody said that it is right.
    Accepted,
    /// It looked wrong.
    Suspect,
}

/// An older snapshot of the source.
#[derive(Debug, Clone)]
pub struct Past<'a> {
    /// What it measured.
    pub measure: Measure<'a>,
    /// How it stands.
    pub standing: Standing,
}

/// What looked wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Review {
    /// What is not as before; empty: nothing.
    pub findings: Vec<Finding>,
    /// Good snapshots that were compared with.
    pub compared: usize,
    /// The third suspect in a row that is like the two before it.
    pub is_new_normal: bool,
}

/// Compares a source with its older snapshots, newest first. `min_bytes` is the least that the configuration expects.
pub fn review(now: &Measure<'_>, past: &[Past<'_>], min_bytes: Option<u64>) -> Review {
    let past: Vec<&Past<'_>> = past.iter().filter(|past| past.measure.is_comparable(now)).collect();
    let good: Vec<&Past<'_>> =
        past.iter().copied().filter(|past| past.standing != Standing::Suspect).take(COMPARED_MAX).collect();
    let accepted = good.iter().find(|past| past.standing == Standing::Accepted);
    let measures: Vec<&Measure<'_>> = good.iter().map(|past| &past.measure).collect();
    let mut findings = Vec::new();
    if let Some(min_bytes) = min_bytes.filter(|min_bytes| now.plain_bytes < *min_bytes) {
        findings.push(Finding::BelowMinimum { plain_bytes: now.plain_bytes, min_bytes });
    }
    if measures.len() >= COMPARED_MIN || accepted.is_some() {
        let mut against_median = compare(now, &measures);
        if let Some(accepted) = accepted {
            let known = compare(now, &[&accepted.measure]);
            let about: BTreeSet<String> = known.iter().map(Finding::about).collect();
            against_median.retain(|finding| about.contains(&finding.about()));
        }
        findings.extend(against_median);
    }
    let is_new_normal = !findings.is_empty()
        && match past.as_slice() {
            [one, two, ..] => {
                one.standing == Standing::Suspect
                    && two.standing == Standing::Suspect
                    && are_alike(now, &one.measure)
                    && are_alike(now, &two.measure)
                    && are_alike(&one.measure, &two.measure)
            }
            _ => false,
        };
    Review { findings, compared: measures.len(), is_new_normal }
}

/// True when the newer one lies within the thresholds of the older one. How many files hardened is no difference: that
/// is counted from the last good snapshot on.
fn are_alike(newer: &Measure<'_>, older: &Measure<'_>) -> bool {
    compare(newer, &[older]).iter().all(|finding| matches!(finding, Finding::FilesHardened { .. }))
}

/// Everything in which a measure is not as the median of others, which are at least one.
fn compare(now: &Measure<'_>, before: &[&Measure<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let bytes_before = median(before.iter().map(|measure| measure.plain_bytes));
    if now.plain_bytes == 0 && bytes_before > 0 {
        findings.push(Finding::Empty { median_bytes: bytes_before });
    } else if bytes_before >= JUDGED_BYTES_MIN
        && let Some(side) = side(now.plain_bytes, bytes_before)
    {
        findings.push(Finding::Size { side, plain_bytes: now.plain_bytes, median_bytes: bytes_before });
    }
    let entries_before: Vec<u64> = before.iter().filter_map(|measure| measure.entries).collect();
    if let Some(entries) = now.entries
        && !entries_before.is_empty()
    {
        let median_entries = median(entries_before.into_iter());
        if median_entries >= JUDGED_ENTRIES_MIN
            && let Some(side) = side(entries, median_entries)
        {
            findings.push(Finding::Entries { side, entries, median_entries });
        }
    }
    compare_rows(now, before, &mut findings);
    compare_samples(now, before, &mut findings);
    findings
}

fn compare_rows(now: &Measure<'_>, before: &[&Measure<'_>], findings: &mut Vec<Finding>) {
    let names: BTreeSet<&str> = before.iter().flat_map(|measure| measure.tables.keys().copied()).collect();
    for name in names {
        // A snapshot without the table has no rows of it.
        let median_rows = median(before.iter().map(|measure| measure.tables.get(name).copied().unwrap_or(0)));
        if median_rows < JUDGED_ROWS_MIN {
            continue;
        }
        let table = name.to_owned();
        match now.tables.get(name) {
            None => findings.push(Finding::TableVanished { table, median_rows }),
            Some(&rows) if is_below(rows, median_rows, ROWS_BELOW_PERCENT) => {
                findings.push(Finding::RowsCollapsed { table, rows, median_rows });
            }
            Some(_) => {}
        }
    }
}

fn compare_samples(now: &Measure<'_>, before: &[&Measure<'_>], findings: &mut Vec<Finding>) {
    let Some(sample) = now.sample else { return };
    if now.kind == SourceKind::Files {
        let (hardened, changed) = (sample.hardened_files, sample.changed_files);
        if hardened >= HARDENED_FILES_MIN && percent(hardened, changed) >= HARDENED_PERCENT {
            findings.push(Finding::FilesHardened { hardened, changed });
        }
        return;
    }
    let known: Vec<u64> = before.iter().filter_map(|measure| measure.sample?.saved_percent()).collect();
    let Some(saved_percent) = sample.saved_percent().filter(|_| !known.is_empty()) else { return };
    let median_percent = median(known.into_iter());
    if median_percent >= COMPRESSIBLE_PERCENT && saved_percent <= INCOMPRESSIBLE_PERCENT {
        findings.push(Finding::Incompressible { saved_percent, median_percent });
    }
}

/// On which side of the thresholds a number lies, if on any.
fn side(now: u64, median: u64) -> Option<Side> {
    if is_below(now, median, SHRUNK_BELOW_PERCENT) {
        Some(Side::Less)
    } else if u128::from(now) * 100 > u128::from(median) * u128::from(GROWN_ABOVE_PERCENT) {
        Some(Side::More)
    } else {
        None
    }
}

fn is_below(now: u64, median: u64, percent: u64) -> bool {
    u128::from(now) * 100 < u128::from(median) * u128::from(percent)
}

/// What share of the whole a part is, in percent, rounded down; of nothing it is 0.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    let percent = (u128::from(part) * 100).checked_div(u128::from(whole)).unwrap_or(0);
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// The middle of some numbers; of an even count the mean of the two in the middle, of none 0.
fn median(numbers: impl Iterator<Item = u64>) -> u64 {
    let mut sorted: Vec<u64> = numbers.collect();
    sorted.sort_unstable();
    let upper = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    if sorted.len() % 2 == 1 {
        return upper;
    }
    let lower = sorted.get((sorted.len() / 2).wrapping_sub(1)).copied().unwrap_or(0);
    lower.midpoint(upper)
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
