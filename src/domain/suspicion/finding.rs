//! What looks wrong about a source, in words.

use super::percent;
use crate::domain::units::{format_count, format_size};
use std::fmt;

/// Too little or too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Far less than before.
    Less,
    /// Far more than before.
    More,
}

/// One thing that is not as before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Less than the configuration expects (`min_size`).
    BelowMinimum {
        /// Plain bytes now.
        plain_bytes: u64,
        /// The least that is expected, bytes.
        min_bytes: u64,
    },
    /// No data at all.
    Empty {
        /// Plain bytes before.
        median_bytes: u64,
    },
    /// Far smaller or larger.
    Size {
        /// Which of them.
        side: Side,
        /// Plain bytes now.
        plain_bytes: u64,
        /// Plain bytes before.
        median_bytes: u64,
    },
    /// Far fewer or more files and directories.
    Entries {
        /// Which of them.
        side: Side,
        /// How many now.
        entries: u64,
        /// How many before.
        median_entries: u64,
    },
    /// A table lost most of its rows.
    RowsCollapsed {
        /// The table.
        table: String,
        /// Its rows now.
        rows: u64,
        /// Its rows before.
        median_rows: u64,
    },
    /// A table is gone.
    TableVanished {
        /// The table.
        table: String,
        /// Its rows before.
        median_rows: u64,
    },
    /// A stream that could be compressed cannot be any more.
    Incompressible {
        /// What compression saves now, percent.
        saved_percent: u64,
        /// What it saved before, percent.
        median_percent: u64,
    },
    /// Many changed files could be compressed and cannot be any more.
    FilesHardened {
        /// How many.
        hardened: u64,
        /// Of how many changed ones.
        changed: u64,
    },
}

impl Finding {
    /// The stable word for scripts; with `suspect.` before it the code of the source's warning.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BelowMinimum { .. } => "suspect.min_size",
            Self::Empty { .. } => "suspect.empty",
            Self::Size { side: Side::Less, .. } => "suspect.smaller",
            Self::Size { side: Side::More, .. } => "suspect.larger",
            Self::Entries { side: Side::Less, .. } => "suspect.fewer_files",
            Self::Entries { side: Side::More, .. } => "suspect.more_files",
            Self::RowsCollapsed { .. } => "suspect.rows",
            Self::TableVanished { .. } => "suspect.table",
            Self::Incompressible { .. } => "suspect.incompressible",
            Self::FilesHardened { .. } => "suspect.files_incompressible",
        }
    }

    /// The table it is about, if it is about one.
    pub fn table(&self) -> Option<&str> {
        match self {
            Self::RowsCollapsed { table, .. } | Self::TableVanished { table, .. } => Some(table),
            _ => None,
        }
    }

    /// What it judges. Two findings about the same thing may differ in their direction.
    pub(super) fn about(&self) -> String {
        match self {
            Self::BelowMinimum { .. } => "minimum".to_owned(),
            Self::Empty { .. } | Self::Size { .. } => "size".to_owned(),
            Self::Entries { .. } => "entries".to_owned(),
            Self::RowsCollapsed { table, .. } | Self::TableVanished { table, .. } => format!("table {table}"),
            Self::Incompressible { .. } | Self::FilesHardened { .. } => "compression".to_owned(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BelowMinimum { plain_bytes, min_bytes } => {
                write!(f, "{}, and min_size expects {}", format_size(*plain_bytes), format_size(*min_bytes))
            }
            Self::Empty { median_bytes } => write!(f, "no data, where there were {}", format_size(*median_bytes)),
            Self::Size { plain_bytes, median_bytes, .. } => {
                let share = percent(*plain_bytes, *median_bytes);
                write!(f, "{}, {share} % of the {} before", format_size(*plain_bytes), format_size(*median_bytes))
            }
            Self::Entries { entries, median_entries, .. } => {
                let share = percent(*entries, *median_entries);
                let (now, before) = (format_count(*entries), format_count(*median_entries));
                write!(f, "{now} files and directories, {share} % of the {before} before")
            }
            Self::RowsCollapsed { table, rows, median_rows } => {
                let share = percent(*rows, *median_rows);
                let (now, before) = (format_count(*rows), format_count(*median_rows));
                write!(f, "{now} rows in table {table}, {share} % of the {before} before")
            }
            Self::TableVanished { table, median_rows } => {
                write!(f, "no table {table}, which had {} rows", format_count(*median_rows))
            }
            Self::Incompressible { saved_percent, median_percent } => write!(
                f,
                "data that compression makes {saved_percent} % smaller, where it was {median_percent} %: perhaps \
                 encrypted"
            ),
            Self::FilesHardened { hardened, changed } => write!(
                f,
                "{} of {} changed files that cannot be compressed any more: perhaps encrypted",
                format_count(*hardened),
                format_count(*changed)
            ),
        }
    }
}
