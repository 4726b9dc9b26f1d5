//! What restores into databases share: their errors and the comparison of rows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::domain::snapshot::TableRows;
use crate::source::SourceError;

/// Why a database could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The target is there already; nothing was touched.
    #[error("{target} exists already")]
    Exists {
        /// The file, or the database's URI without password.
        target: String,
    },
    /// The server, or a client program, is not there or refused us; nothing was touched.
    #[error(transparent)]
    Client(#[from] SourceError),
    /// The server is older than the one that was dumped; nothing was touched.
    #[error("The server of {target} is PostgreSQL {server}, older than the dump's, {dump}")]
    OlderServer {
        /// URI without password.
        target: String,
        /// Its major version.
        server: u32,
        /// Version of the server that was dumped.
        dump: String,
    },
    /// A file could not be written.
    #[error("Cannot {operation} {}", path.display())]
    Path {
        /// The verb.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server refused a statement.
    #[error("Cannot {operation} {target}: {reason}")]
    Server {
        /// The verb.
        operation: &'static str,
        /// URI without password.
        target: String,
        /// What the server said.
        reason: String,
        /// True when nothing of the restore is left behind.
        removed: bool,
    },
    /// The program that restores ended badly.
    #[error("{program} {outcome} while it restored {target}, which was {}", if *.removed { "removed again" } else { "left as it is: remove it by hand" })]
    Failed {
        /// The program.
        program: String,
        /// `exited with status 1`.
        outcome: String,
        /// Last lines of its stderr.
        stderr: String,
        /// What was being restored: URI without password, or file.
        target: String,
        /// True when nothing of the restore is left behind.
        removed: bool,
    },
    /// The program that restores into what exists, in one transaction, ended badly: nothing was changed.
    #[error("{program} {outcome} while it restored into {target}; nothing of that is left")]
    Undone {
        /// The program.
        program: String,
        /// `exited with status 1`.
        outcome: String,
        /// Last lines of its stderr.
        stderr: String,
        /// URI without password, or file.
        target: String,
    },
    /// The restored bytes are no good database.
    #[error("{target} {reason}")]
    Content {
        /// The file.
        target: String,
        /// What is wrong.
        reason: String,
    },
}

/// A table whose rows are not those that were recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDifference {
    /// The table, as recorded.
    pub table: String,
    /// Rows in the snapshot.
    pub recorded: u64,
    /// Rows now; `None` when the table is missing.
    pub restored: Option<u64>,
}

/// What a good restore ended with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreReport {
    /// Tables whose rows were compared.
    pub tables_compared: u64,
    /// Tables that differ; empty when the proof holds.
    pub differences: Vec<RowDifference>,
    /// What the program said although it succeeded.
    pub notes: Vec<String>,
}

/// Compares recorded rows with those that are there now.
pub fn compare(recorded: &[TableRows], restored: &[TableRows]) -> RestoreReport {
    let found: BTreeMap<&str, u64> = restored.iter().map(|t| (t.table.as_str(), t.rows)).collect();
    let differences = recorded
        .iter()
        .map(|t| RowDifference {
            table: t.table.clone(),
            recorded: t.rows,
            restored: found.get(t.table.as_str()).copied(),
        })
        .filter(|difference| difference.restored != Some(difference.recorded))
        .collect();
    RestoreReport { tables_compared: recorded.len() as u64, differences, notes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_different_tables_are_listed() {
        let rows = |items: &[(&str, u64)]| -> Vec<TableRows> {
            items.iter().map(|(table, rows)| TableRows { table: (*table).to_owned(), rows: *rows }).collect()
        };
        let report = compare(&rows(&[("a", 1), ("b", 2), ("c", 3)]), &rows(&[("a", 1), ("b", 5), ("z", 0)]));
        let differences: Vec<_> =
            report.differences.iter().map(|d| (d.table.as_str(), d.recorded, d.restored)).collect();
        assert_eq!((report.tables_compared, differences), (3, vec![("b", 2, Some(5)), ("c", 3, None)]));
    }
}
