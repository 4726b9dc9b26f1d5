//! Which snapshot a selector chooses.
//!
//! * An id, or the beginning of exactly one, finds any snapshot; the scope does not matter.
//! * Everything else works within one series. A scope that names sources makes the series "this host and these
//!   sources": then every snapshot that holds all of them belongs to it, whatever else it holds.
//! * `latest` skips imported snapshots, those saved before a restore, and those in which a source of the series failed or looked wrong.
//! * `@TIME`, `tag:` and `class:` also find suspect and imported snapshots. They prefer snapshots without a failed
//!   source, and take one with a failed source only when nothing else matches.
//! * The exact second finds any snapshot of the scope.
//! * Several series and none named is an error that lists them: a wrong guess here restores the wrong machine.

use super::{Selector, Which};
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::{PRE_RESTORE, Series, Snapshot};
use crate::domain::time_spec::{format_local, ns_timestamp};
use jiff::tz::TimeZone;

/// What choosing needs to know of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// Its id.
    pub id: SnapshotId,
    /// Its backup time, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// Its series, failed sources included.
    pub series: Series,
    /// Its class.
    pub class: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// True when another tool made it.
    pub imported: bool,
    /// Names of the sources that looked wrong.
    pub suspect_sources: Vec<String>,
    /// Names of the sources that failed.
    pub failed_sources: Vec<String>,
}

impl From<&Snapshot> for SnapshotSummary {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            id: snapshot.id,
            time_ns: snapshot.time_ns,
            series: snapshot.series(),
            class: snapshot.class.clone(),
            tags: snapshot.tags.clone(),
            imported: snapshot.imported,
            suspect_sources: {
                let names = snapshot.sources.iter().filter(|s| snapshot.is_suspect_for(&s.name));
                names.map(|s| s.name.clone()).collect()
            },
            failed_sources: snapshot.sources.iter().filter(|s| s.failure.is_some()).map(|s| s.name.clone()).collect(),
        }
    }
}

impl SnapshotSummary {
    /// True for what never is `latest`: imports, and what was saved before a restore.
    fn is_aside(&self) -> bool {
        self.imported || self.class.as_deref() == Some(PRE_RESTORE)
    }
}

/// What the user, or the place a command runs in, says about the series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only snapshots of this host.
    pub host: Option<String>,
    /// Only snapshots that hold all these sources; they then name the series.
    pub sources: Vec<String>,
    /// Only snapshots of exactly this series.
    pub series: Option<Series>,
    /// Taken when several series remain and it is among them (the series that the configuration describes).
    pub implied: Option<Series>,
}

impl Scope {
    fn admits(&self, snapshot: &SnapshotSummary) -> bool {
        self.host.as_ref().is_none_or(|host| *host == snapshot.series.host)
            && self.sources.iter().all(|source| snapshot.series.sources.contains(source))
            && self.series.as_ref().is_none_or(|series| *series == snapshot.series)
    }

    /// The series that a snapshot counts for: its own, or its host with the named sources.
    fn series_of(&self, snapshot: &SnapshotSummary) -> Series {
        if self.sources.is_empty() {
            return snapshot.series.clone();
        }
        let mut sources = self.sources.clone();
        sources.sort();
        sources.dedup();
        Series { host: snapshot.series.host.clone(), sources }
    }

    /// True when a source counts for the series.
    fn counts(&self, name: &String) -> bool {
        self.sources.is_empty() || self.sources.contains(name)
    }

    /// True when a source of the series failed in this snapshot.
    fn failed(&self, snapshot: &SnapshotSummary) -> bool {
        snapshot.failed_sources.iter().any(|name| self.counts(name))
    }

    /// True when a source of the series looked wrong in this snapshot.
    fn is_suspect(&self, snapshot: &SnapshotSummary) -> bool {
        snapshot.suspect_sources.iter().any(|name| self.counts(name))
    }
}

/// A chosen snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The snapshot.
    pub snapshot: SnapshotSummary,
    /// The selector's path.
    pub path: Option<Vec<u8>>,
    /// Newer snapshots that matched and were passed over because they are suspect, imported or have a failed source.
    pub skipped: usize,
    tz: TimeZone,
}

impl Choice {
    /// The sentence that every command prints before it acts.
    pub fn describe(&self) -> String {
        let snapshot = &self.snapshot;
        let time = format_local(snapshot.time_ns, &self.tz);
        let mut text = format!("chose {} of {time}, series {}", snapshot.id.short(), snapshot.series);
        let mut marks = Vec::new();
        if !snapshot.suspect_sources.is_empty() {
            // Of a single source there is nothing to tell apart.
            let all = snapshot.suspect_sources.len() == snapshot.series.sources.len();
            let of = if all { String::new() } else { format!(": {}", snapshot.suspect_sources.join(", ")) };
            marks.push(format!("suspect{of}"));
        }
        if snapshot.imported {
            marks.push("imported".to_owned());
        }
        if !snapshot.failed_sources.is_empty() {
            marks.push(format!("failed there: {}", snapshot.failed_sources.join(", ")));
        }
        if snapshot.class.as_deref() == Some(PRE_RESTORE) {
            marks.push("saved before a restore".to_owned());
        }
        if self.skipped > 0 {
            marks.push(format!(
                "{} newer passed over as suspect, imported, failed or saved before a restore",
                self.skipped
            ));
        }
        if !marks.is_empty() {
            text.push_str(&format!(" ({})", marks.join("; ")));
        }
        text
    }
}

/// One series in an error that lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesNewest {
    /// The series.
    pub series: Series,
    /// Its newest snapshot that the selector matches.
    pub id: SnapshotId,
    /// The backup time of that snapshot, nanoseconds.
    pub time_ns: i64,
}

/// Why a selector chose nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// There is no snapshot at all in the repository, or none of the named host and sources.
    #[error("There is no snapshot {}to choose '{selector}' from", if *.scoped { "of the named host and sources " } else { "" })]
    NoSnapshots {
        /// The selector.
        selector: String,
        /// True when the repository has snapshots, but none of the named host and sources.
        scoped: bool,
    },
    /// No id begins like that.
    #[error("No snapshot id begins with '{0}'")]
    UnknownPrefix(String),
    /// Several ids begin like that.
    #[error("'{prefix}' is the beginning of {} snapshot ids", .ids.len())]
    AmbiguousPrefix {
        /// The digits.
        prefix: String,
        /// The ids, newest snapshot first.
        ids: Vec<SnapshotId>,
    },
    /// Snapshots exist, but none that the selector matches.
    #[error("No snapshot matches '{0}'")]
    NoMatch(String),
    /// `latest` found only snapshots that it must not take.
    #[error(
        "All {skipped} snapshots that '{selector}' could mean are suspect, imported, saved before a restore, or have a failed source"
    )]
    OnlyUnfit {
        /// The selector.
        selector: String,
        /// How many there are.
        skipped: usize,
    },
    /// `latest~N` goes back beyond the first.
    #[error("'{selector}' goes back beyond the first of {available} snapshots")]
    BeyondFirst {
        /// The selector.
        selector: String,
        /// How many snapshots `latest` counts in the series.
        available: usize,
    },
    /// The time is before the first snapshot.
    #[error("No snapshot is as old as '{selector}'; the first is {} of {first_time}", .first.short())]
    BeforeFirst {
        /// The selector.
        selector: String,
        /// The oldest snapshot.
        first: SnapshotId,
        /// Its time as people read it.
        first_time: String,
    },
    /// More than one series matches and none is named.
    #[error("'{selector}' could mean any of {} series", .series.len())]
    SeveralSeries {
        /// The selector.
        selector: String,
        /// The series, sorted.
        series: Vec<SeriesNewest>,
    },
}

impl SelectError {
    /// True for "not found or ambiguous" (exit code 20), false for a selector that needs a series (exit code 2).
    pub fn is_not_found(&self) -> bool {
        !matches!(self, Self::SeveralSeries { .. })
    }

    /// Lines that help: the series or ids to choose from.
    pub fn candidates(&self, tz: &TimeZone) -> Vec<String> {
        match self {
            Self::SeveralSeries { series, .. } => series
                .iter()
                .map(|s| format!("series {}, newest {} of {}", s.series, s.id.short(), format_local(s.time_ns, tz)))
                .collect(),
            Self::AmbiguousPrefix { ids, .. } => ids.iter().take(20).map(SnapshotId::hex).collect(),
            _ => Vec::new(),
        }
    }
}

/// Chooses the one snapshot that a selector means.
///
/// # Errors
/// [`SelectError`] when it means none, or when more than one series could be meant.
pub fn resolve(selector: &Selector, snapshots: &[SnapshotSummary], scope: &Scope) -> Result<Choice, SelectError> {
    if let Which::Prefix(prefix) = &selector.which {
        return Ok(choice(selector, by_prefix(prefix, snapshots)?, 0));
    }
    let mut groups = by_series(selector, snapshots, scope)?;
    if matches!(selector.which, Which::Latest(_)) && groups.iter().any(|(_, group)| group.iter().any(|s| !s.is_aside()))
    {
        // Imports, and what was saved before a restore, never compete for `latest`. A series whose snapshots are all suspect or failed does compete: else
        // its trouble would silently turn `latest` into the snapshot of another machine.
        groups.retain(|(_, group)| group.iter().any(|s| !s.is_aside()));
    }
    if groups.len() > 1
        && let Some(implied) = &scope.implied
        && groups.iter().any(|(series, _)| series == implied)
    {
        groups.retain(|(series, _)| series == implied);
    }
    match groups.as_slice() {
        [] => Err(SelectError::NoMatch(selector.text.clone())),
        [(_, group)] => {
            within_series(selector, group, scope).map(|(snapshot, skipped)| choice(selector, snapshot, skipped))
        }
        many => {
            let newest = |(series, group): &Group<'_>| {
                let chosen = within_series(selector, group, scope).map(|(snapshot, _)| snapshot).ok();
                let shown = chosen.or_else(|| group.first().copied())?;
                Some(SeriesNewest { series: series.clone(), id: shown.id, time_ns: shown.time_ns })
            };
            let series = many.iter().filter_map(newest).collect();
            Err(SelectError::SeveralSeries { selector: selector.text.clone(), series })
        }
    }
}

fn choice(selector: &Selector, snapshot: &SnapshotSummary, skipped: usize) -> Choice {
    Choice { snapshot: snapshot.clone(), path: selector.path.clone(), skipped, tz: selector.tz.clone() }
}

/// Chooses for a list: one snapshot for each series that a selector matches, without repeats, newest first. No selector
/// at all means every snapshot of the scope.
///
/// # Errors
/// [`SelectError`] for a selector that matches nothing.
pub fn filter(
    selectors: &[Selector],
    snapshots: &[SnapshotSummary],
    scope: &Scope,
) -> Result<Vec<SnapshotSummary>, SelectError> {
    let mut chosen: Vec<SnapshotSummary> = Vec::new();
    if selectors.is_empty() {
        chosen.extend(snapshots.iter().filter(|s| scope.admits(s)).cloned());
    }
    for selector in selectors {
        for snapshot in one_for_each_series(selector, snapshots, scope)? {
            if !chosen.iter().any(|s| s.id == snapshot.id) {
                chosen.push(snapshot.clone());
            }
        }
    }
    chosen.sort_by_key(newest_first);
    Ok(chosen)
}

/// Equal times are ordered by id, so that every run chooses the same.
fn newest_first(snapshot: &SnapshotSummary) -> (std::cmp::Reverse<i64>, SnapshotId) {
    (std::cmp::Reverse(snapshot.time_ns), snapshot.id)
}

fn one_for_each_series<'a>(
    selector: &Selector,
    snapshots: &'a [SnapshotSummary],
    scope: &Scope,
) -> Result<Vec<&'a SnapshotSummary>, SelectError> {
    if let Which::Prefix(prefix) = &selector.which {
        return Ok(vec![by_prefix(prefix, snapshots)?]);
    }
    let mut chosen = Vec::new();
    let mut last_error = SelectError::NoMatch(selector.text.clone());
    for (_, group) in by_series(selector, snapshots, scope)? {
        match within_series(selector, &group, scope) {
            Ok((snapshot, _)) => chosen.push(snapshot),
            Err(error) => last_error = error,
        }
    }
    if chosen.is_empty() { Err(last_error) } else { Ok(chosen) }
}

type Group<'a> = (Series, Vec<&'a SnapshotSummary>);

/// The snapshots of the scope that the selector matches, newest first, by series; never empty.
fn by_series<'a>(
    selector: &Selector,
    snapshots: &'a [SnapshotSummary],
    scope: &Scope,
) -> Result<Vec<Group<'a>>, SelectError> {
    let mut admitted: Vec<&SnapshotSummary> = snapshots.iter().filter(|s| scope.admits(s)).collect();
    admitted.sort_by_key(|s| newest_first(s));
    let Some(first) = admitted.last().copied() else {
        return Err(SelectError::NoSnapshots { selector: selector.text.clone(), scoped: !snapshots.is_empty() });
    };
    admitted.retain(|s| matches(selector, s));
    if admitted.is_empty() {
        return Err(match selector.which {
            Which::AtOrBefore(_) => SelectError::BeforeFirst {
                selector: selector.text.clone(),
                first: first.id,
                first_time: format_local(first.time_ns, &selector.tz),
            },
            _ => SelectError::NoMatch(selector.text.clone()),
        });
    }
    let mut groups = std::collections::BTreeMap::<Series, Vec<&SnapshotSummary>>::new();
    for snapshot in admitted {
        groups.entry(scope.series_of(snapshot)).or_default().push(snapshot);
    }
    Ok(groups.into_iter().collect())
}

fn by_prefix<'a>(prefix: &str, snapshots: &'a [SnapshotSummary]) -> Result<&'a SnapshotSummary, SelectError> {
    let mut found: Vec<&SnapshotSummary> = snapshots.iter().filter(|s| s.id.hex().starts_with(prefix)).collect();
    found.sort_by_key(|s| newest_first(s));
    match found.as_slice() {
        [] => Err(SelectError::UnknownPrefix(prefix.to_owned())),
        [one] => Ok(one),
        many => {
            Err(SelectError::AmbiguousPrefix { prefix: prefix.to_owned(), ids: many.iter().map(|s| s.id).collect() })
        }
    }
}

fn matches(selector: &Selector, snapshot: &SnapshotSummary) -> bool {
    match &selector.which {
        Which::Prefix(prefix) => snapshot.id.hex().starts_with(prefix),
        Which::Latest(_) => true,
        Which::AtOrBefore(moment) => snapshot.time_ns <= moment.end_ns(),
        Which::Tag(tag) => snapshot.tags.contains(tag),
        Which::Class(class) => snapshot.class.as_ref() == Some(class),
        Which::Second { class, civil } => {
            let local = ns_timestamp(snapshot.time_ns).to_zoned(selector.tz.clone()).datetime();
            // Compared field by field in local time, so that both seconds of a fold are found.
            let same = local.date() == civil.date()
                && (local.hour(), local.minute(), local.second()) == (civil.hour(), civil.minute(), civil.second());
            same && (class.is_none() || snapshot.class == *class)
        }
    }
}

/// The choice among the matching snapshots of one series, which come newest first and are at least one.
fn within_series<'a>(
    selector: &Selector,
    group: &[&'a SnapshotSummary],
    scope: &Scope,
) -> Result<(&'a SnapshotSummary, usize), SelectError> {
    let no_match = || SelectError::NoMatch(selector.text.clone());
    match selector.which {
        Which::Latest(back) => {
            let fit = |s: &SnapshotSummary| !scope.is_suspect(s) && !s.is_aside() && !scope.failed(s);
            let fits: Vec<(usize, &SnapshotSummary)> =
                group.iter().copied().enumerate().filter(|(_, snapshot)| fit(snapshot)).collect();
            if fits.is_empty() {
                return Err(SelectError::OnlyUnfit { selector: selector.text.clone(), skipped: group.len() });
            }
            let index = usize::try_from(back).unwrap_or(usize::MAX);
            match fits.get(index) {
                Some((position, snapshot)) => Ok((snapshot, position - index)),
                None => Err(SelectError::BeyondFirst { selector: selector.text.clone(), available: fits.len() }),
            }
        }
        Which::Second { .. } | Which::Prefix(_) => group.first().map(|s| (*s, 0)).ok_or_else(no_match),
        Which::AtOrBefore(_) | Which::Tag(_) | Which::Class(_) => {
            let whole = group.iter().position(|s| !scope.failed(s));
            let index = whole.unwrap_or(0);
            group.get(index).map(|s| (*s, index)).ok_or_else(no_match)
        }
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
