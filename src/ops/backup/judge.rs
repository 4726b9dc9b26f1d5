//! Compares a saved source with its older snapshots and writes down what looks wrong. What is judged how is the business
//! of [`crate::domain::suspicion`].

use super::Saving;
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::{NEW_NORMAL, PRE_RESTORE, SourceRecord, SourceWarning};
use crate::domain::suspicion::{Finding, Measure, Past, Review, Sample, Standing, review};
use crate::format::samples;
use crate::repository::snapshots::LoadedSnapshot;

/// Older snapshots that are looked at, at most.
const PAST_MAX: usize = 256;
/// Tables that are named one by one.
const TABLES_MAX: usize = 20;

/// What was tried while a source was read.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// The sample, of this run alone.
    pub(super) sample: Sample,
    /// Files that can be compressed now.
    pub(super) softened: u64,
}

/// How a snapshot stands for a source that it holds.
fn standing(loaded: &LoadedSnapshot, record: &SourceRecord) -> Standing {
    let looked_wrong = record.warnings.iter().any(|warning| warning.code.starts_with("suspect."));
    if loaded.snapshot.is_suspect_for(&record.name) {
        Standing::Suspect
    } else if loaded.accepted && looked_wrong {
        Standing::Accepted
    } else {
        Standing::Good
    }
}

/// Snapshots of the same host in which the source did not fail, newest first; other tools' are no measure, and neither is
/// what was saved before a restore.
fn older<'a>(saving: &Saving<'a>) -> Vec<(&'a LoadedSnapshot, &'a SourceRecord)> {
    let here = |loaded: &&LoadedSnapshot| {
        let snapshot = &loaded.snapshot;
        snapshot.system.host == saving.host && !snapshot.imported && snapshot.class.as_deref() != Some(PRE_RESTORE)
    };
    let whole = |loaded: &'a LoadedSnapshot| {
        let record = loaded.snapshot.source(saving.name).filter(|record| record.failure.is_none())?;
        Some((loaded, record))
    };
    saving.means.snapshots.iter().filter(here).filter_map(whole).take(PAST_MAX).collect()
}

/// True when the newest older snapshot of the source looked wrong: then what came back counts.
pub(super) fn is_newest_suspect(saving: &Saving<'_>) -> bool {
    older(saving).first().is_some_and(|(loaded, record)| standing(loaded, record) == Standing::Suspect)
}

/// What became of judging.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Why the source looks wrong, if it does.
    pub(super) suspect: Option<String>,
    /// What to keep for the next runs.
    pub(super) sample: Option<Sample>,
}

/// Judges a source that was saved; what looks wrong becomes warnings of its record.
pub(super) fn judge(saving: &Saving<'_>, id: SnapshotId, record: &mut SourceRecord, tried: Tried) -> Judged {
    let older = older(saving);
    let samples: Vec<Option<Sample>> = older
        .iter()
        .map(|(loaded, _)| {
            samples::of(&loaded.snapshot.extensions).into_iter().find(|sample| sample.source == saving.name)
        })
        .collect();
    let mut sample = Sample { source: saving.name.to_owned(), ..tried.sample };
    if let (true, Some(Some(before))) = (is_newest_suspect(saving), samples.first()) {
        sample.carry(before, tried.softened);
    }
    let past: Vec<Past<'_>> = older
        .iter()
        .zip(&samples)
        .map(|((loaded, record), sample)| Past {
            measure: Measure::new(record, sample.as_ref()),
            standing: standing(loaded, record),
        })
        .collect();
    let min_bytes = saving.min_sizes.get(saving.name).copied();
    let review = review(&Measure::new(record, Some(&sample)), &past, min_bytes);
    let says_something = sample != Sample { source: sample.source.clone(), ..Sample::default() };
    let suspect = tell(saving, id, record, &review);
    Judged { suspect, sample: says_something.then_some(sample) }
}

/// Turns findings into warnings of the record; gives them as one text.
fn tell(saving: &Saving<'_>, id: SnapshotId, record: &mut SourceRecord, review: &Review) -> Option<String> {
    if review.findings.is_empty() {
        return None;
    }
    let name = saving.name;
    let tables = review.findings.iter().filter(|finding| finding.table().is_some()).count();
    let (mut texts, mut tables_named) = (Vec::new(), 0);
    for finding in &review.findings {
        tables_named += usize::from(finding.table().is_some());
        if finding.table().is_some() && tables_named > TABLES_MAX {
            continue;
        }
        let against = match finding {
            Finding::BelowMinimum { .. } | Finding::FilesHardened { .. } => String::new(),
            _ if review.compared == 1 => " (compared with the snapshot that was accepted)".to_owned(),
            _ => format!(" (median of the last {} good snapshots)", review.compared),
        };
        warn(saving, record, finding.code(), finding.table(), format!("It looks wrong: {finding}{against}"));
        texts.push(finding.to_string());
    }
    if tables > TABLES_MAX {
        let more = format!("{} more tables that lost rows or are gone", tables - TABLES_MAX);
        warn(saving, record, "suspect.rows", None, format!("It looks wrong: {more}"));
        texts.push(more);
    }
    let short = id.short();
    let (code, advice) = match review.is_new_normal {
        true => (NEW_NORMAL, format!("The last three are like each other: new normal? run `holdfast accept {short}`")),
        false => (
            "suspect.advice",
            format!(
                "Look at the source and at snapshot {short}; if it is right as it is, run `holdfast accept {short}`"
            ),
        ),
    };
    warn(saving, record, code, None, advice);
    Some(format!("{name}: {}", texts.join("; ")))
}

fn warn(saving: &Saving<'_>, record: &mut SourceRecord, code: &str, table: Option<&str>, message: String) {
    let subject = table.unwrap_or_default().to_owned();
    saving.warn(record, SourceWarning { code: code.to_owned(), subject, message, incomplete: false });
}
