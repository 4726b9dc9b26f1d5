//! `stats`: sizes of the repository, or of snapshots.

use crate::cli::args::stats::StatsArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening;
use crate::cli::output::Column;
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::Snapshot;
use crate::domain::units::{format_count, format_size};
use crate::ops::stats::{self, RepositoryStats, SnapshotStats, StatsError};
use serde_json::json;

/// Shows sizes.
pub(crate) fn run(invocation: &Invocation, args: &StatsArgs) -> Result<ExitCode, Failure> {
    let opened = opening::open_for_reading(invocation)?;
    let scoped = args.scope.host.is_some() || !args.scope.sources.is_empty();
    if args.selectors.is_empty() && !scoped {
        let all: Vec<Snapshot> = opened.snapshots()?.into_iter().map(|loaded| loaded.snapshot).collect();
        let figures = stats::repository(&opened.reading, &all, &invocation.cancel).map_err(failure)?;
        match invocation.global.json {
            true => invocation.output.json(Kind::Result, &repository_json(&figures)),
            false => print_repository(invocation, &figures),
        }
    } else {
        let chosen = opened.filter(invocation, &args.selectors, &args.scope, |_| true)?;
        let ids: Vec<SnapshotId> = chosen.iter().map(|loaded| loaded.snapshot.id).collect();
        for loaded in chosen.iter().filter(|_| !args.selectors.is_empty()) {
            opening::announce_listed(invocation, &loaded.snapshot);
        }
        let all: Vec<Snapshot> = opened.snapshots()?.into_iter().map(|loaded| loaded.snapshot).collect();
        let figures = stats::snapshots(&opened.reading, &all, &ids, invocation.observer(), &invocation.cancel);
        let figures = figures.map_err(failure)?;
        match invocation.global.json {
            true => invocation.output.json(Kind::Result, &json!({ "snapshots": figures })),
            false => print_snapshots(invocation, &figures),
        }
    }
    opened.conclude(invocation, ExitCode::Success)
}

fn failure(error: StatsError) -> Failure {
    match error {
        StatsError::Repository(error) => error.into(),
        StatsError::Interrupted => Failure::interrupted(ExitCode::Interrupted),
    }
}

/// `12.3`: how many times the second number goes into the first; nothing without one.
fn ratio(many: u64, few: u64) -> Option<String> {
    let tenths = (u128::from(many) * 10 + u128::from(few) / 2).checked_div(u128::from(few))?;
    Some(format!("{}.{}", tenths / 10, tenths % 10))
}

fn repository_json(figures: &RepositoryStats) -> serde_json::Value {
    let number = |many, few| ratio(many, few).and_then(|text| text.parse::<f64>().ok());
    let mut value = json!(figures);
    value["deduplication_ratio"] = json!(number(figures.plain_bytes, figures.unique_bytes));
    value["compression_ratio"] = json!(number(figures.unique_bytes, figures.stored_bytes));
    value["total_ratio"] = json!(number(figures.plain_bytes, figures.stored_bytes));
    value
}

fn print_repository(invocation: &Invocation, figures: &RepositoryStats) {
    let times = |many, few| ratio(many, few).map(|text| format!("  ({text} x)")).unwrap_or_default();
    let lines = [
        ("Snapshots", format!("{} in {} series", format_count(figures.snapshots), format_count(figures.series))),
        ("Plain", format!("{} in all snapshots together", format_size(figures.plain_bytes))),
        (
            "Unique",
            format!(
                "{} after deduplication{}",
                format_size(figures.unique_bytes),
                times(figures.plain_bytes, figures.unique_bytes)
            ),
        ),
        (
            "Stored",
            format!(
                "{} with compression, index and second copies{}",
                format_size(figures.stored_bytes),
                times(figures.plain_bytes, figures.stored_bytes)
            ),
        ),
        (
            "Packs",
            format!("{}, of them {} second copies", format_count(figures.packs), format_count(figures.second_copies)),
        ),
        ("Chunks", format_count(figures.chunks)),
    ];
    for (heading, text) in lines {
        invocation.output.line(&format!("{heading:10} {text}"));
    }
    invocation.output.line("");
    let rows: Vec<Vec<String>> = figures
        .kinds
        .iter()
        .map(|kind| vec![kind.kind.to_owned(), format_count(kind.objects), format_size(kind.stored_bytes)])
        .collect();
    invocation.output.table(&[Column::text("Kind"), Column::number("Objects"), Column::number("Stored")], &rows);
}

fn print_snapshots(invocation: &Invocation, figures: &[SnapshotStats]) {
    let columns = [
        Column::text("Snapshot"),
        Column::text("Source"),
        Column::number("Plain"),
        Column::number("Own"),
        Column::number("Added"),
    ];
    let mut rows = Vec::new();
    for snapshot in figures {
        rows.push(vec![
            snapshot.id.short(),
            "all".to_owned(),
            format_size(snapshot.plain_bytes),
            format_size(snapshot.own_bytes),
            format_size(snapshot.data_added),
        ]);
        for source in &snapshot.sources {
            let plain = if source.failed { "failed".to_owned() } else { format_size(source.plain_bytes) };
            rows.push(vec![String::new(), source.name.clone(), plain, String::new(), format_size(source.data_added)]);
        }
    }
    invocation.output.table(&columns, &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_have_one_digit() {
        assert_eq!(ratio(10, 0), None);
        assert_eq!(ratio(10, 4).as_deref(), Some("2.5"));
        assert_eq!(ratio(0, 4).as_deref(), Some("0.0"));
        assert_eq!(ratio(2, 3).as_deref(), Some("0.7"));
    }
}
