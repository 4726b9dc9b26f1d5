//! Exit codes: one enum and one table, from which the help, the documentation and the tests are made.

/// How a run ended, as scripts see it. Numbers never change their meaning; an unknown number must be taken as a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Success = 0,
    /// Failed, nothing more specific.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// Done, but incomplete.
    Incomplete = 3,
    /// Health check: warning.
    HealthWarning = 4,
    /// Health check: error.
    HealthError = 5,
    /// No repository there.
    NoRepository = 10,
    /// Somebody else holds what is needed.
    Locked = 11,
    /// Wrong password or key, or none at all.
    WrongSecret = 12,
    /// Damaged data was found.
    Damaged = 13,
    /// No source could be read.
    NoSource = 14,
    /// The storage cannot be reached or refuses.
    StorageUnavailable = 15,
    /// No space left.
    NoSpace = 16,
    /// A confirmation is needed and there is no terminal.
    NeedsConfirmation = 17,
    /// The guard is closed.
    GuardClosed = 18,
    /// A drill restored, but the proof does not match.
    DrillFailed = 19,
    /// Snapshot not found or prefix ambiguous.
    SnapshotNotFound = 20,
    /// Restore failed, target rolled back.
    RolledBack = 21,
    /// Restore failed, target not rolled back.
    NotRolledBack = 22,
    /// A guarded command failed; the state before is restored.
    GuardedCommandFailed = 23,
    /// Refused, nothing touched.
    Refused = 24,
    /// Ended by SIGINT, cleaned up.
    Interrupted = 130,
    /// Ended by SIGTERM, cleaned up.
    Terminated = 143,
}

/// Every code with its meaning, ascending.
pub const TABLE: [(ExitCode, &str); 23] = [
    (ExitCode::Success, "success"),
    (ExitCode::Failed, "failed, nothing more specific"),
    (ExitCode::Usage, "usage or configuration error"),
    (
        ExitCode::Incomplete,
        "done, but incomplete: some source data unreadable or suspect, some files not imported, some snapshots not removed",
    ),
    (ExitCode::HealthWarning, "health warning"),
    (ExitCode::HealthError, "health error, or no backups at all"),
    (ExitCode::NoRepository, "no repository"),
    (ExitCode::Locked, "locked, or another run saves the same source"),
    (ExitCode::WrongSecret, "wrong password or key"),
    (ExitCode::Damaged, "integrity error: damaged data found (by any command, also where a second copy served)"),
    (
        ExitCode::NoSource,
        "no source could be read (database down, client missing or too old, dump or command failed, empty stdin)",
    ),
    (ExitCode::StorageUnavailable, "storage unreachable or refused"),
    (ExitCode::NoSpace, "no space"),
    (ExitCode::NeedsConfirmation, "confirmation needed but no terminal"),
    (ExitCode::GuardClosed, "guard closed, or held by someone else; or production without a fresh verified snapshot"),
    (ExitCode::DrillFailed, "drill failed: restored, but proof does not match"),
    (ExitCode::SnapshotNotFound, "snapshot not found or prefix ambiguous"),
    (ExitCode::RolledBack, "restore failed, target rolled back: what was there before is in its place"),
    (ExitCode::NotRolledBack, "restore failed, target NOT rolled back"),
    (
        ExitCode::GuardedCommandFailed,
        "guarded command or its validation failed; the state before is restored and proved",
    ),
    (
        ExitCode::Refused,
        "refused, nothing touched: target not empty or existing, repository already initialised or of another version, \
         snapshot pinned or the last good one",
    ),
    (ExitCode::Interrupted, "interrupted (SIGINT), cleaned up"),
    (ExitCode::Terminated, "terminated (SIGTERM), cleaned up"),
];

impl ExitCode {
    /// The number given to the system.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Its line of the table.
    pub fn meaning(self) -> &'static str {
        TABLE.iter().find(|(code, _)| *code == self).map_or("", |(_, meaning)| meaning)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

/// The table as text, for `holdfast help exit-codes`.
pub fn table_text() -> String {
    let mut text = String::from("Exit codes\n\n");
    for (code, meaning) in TABLE {
        text.push_str(&format!("  {:>3}  {meaning}\n", code.code()));
    }
    text.push_str("\nScripts must take any other number as a failure.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers and first words of the conventions, written down a second time on purpose.
    const PROMISED: [(u8, &str); 23] = [
        (0, "success"),
        (1, "failed, nothing more"),
        (2, "usage or configuration"),
        (3, "done, but incomplete"),
        (4, "health warning"),
        (5, "health error"),
        (10, "no repository"),
        (11, "locked"),
        (12, "wrong password or key"),
        (13, "integrity error"),
        (14, "no source could be read"),
        (15, "storage unreachable"),
        (16, "no space"),
        (17, "confirmation needed"),
        (18, "guard closed"),
        (19, "drill failed"),
        (20, "snapshot not found"),
        (21, "restore failed, target rolled back"),
        (22, "restore failed, target NOT"),
        (23, "guarded command"),
        (24, "refused, nothing touched"),
        (130, "interrupted"),
        (143, "terminated"),
    ];

    #[test]
    fn the_table_is_what_was_promised() {
        assert_eq!(TABLE.len(), PROMISED.len());
        for ((code, meaning), (number, words)) in TABLE.iter().zip(PROMISED) {
            assert_eq!(code.code(), number);
            assert!(meaning.starts_with(words), "{number}: {meaning}");
            assert_eq!(code.meaning(), *meaning);
        }
        assert!(table_text().contains("\n   20  snapshot not found or prefix ambiguous\n"));
    }

    #[test]
    fn the_readme_says_the_same() {
        let readme = include_str!("../../README.md");
        for (code, meaning) in TABLE {
            assert!(readme.contains(&format!("\n| {} | {meaning} |\n", code.code())), "{}", code.code());
        }
    }
}
