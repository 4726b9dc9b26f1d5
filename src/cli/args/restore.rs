//! `restore`.

use clap::{ArgGroup, Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Which kinds of source are restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RestoreType {
    /// Everything
    Full,
    /// PostgreSQL and SQLite sources
    Database,
    /// Files sources
    Codebase,
}

/// What becomes of a file that the target has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OverwriteWhen {
    /// It becomes the snapshot's
    Always,
    /// The same, but equal size and time are taken for equal contents
    IfChanged,
    /// It becomes the snapshot's if that is newer
    IfNewer,
    /// It stays
    Never,
}

/// Arguments of `restore`.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("place").multiple(false).args(["target", "to", "env"]), after_help = "\
Examples:
  holdfast restore @'2 hours ago' --target /tmp/out
  holdfast restore latest:/srv/app/config --target /tmp/out
  holdfast restore 20240708_143022 --type database --target /tmp/out
  holdfast restore latest --source app-db --to postgres://admin@127.0.0.1/app_copy
  holdfast restore latest --table public.orders --to postgres://admin@127.0.0.1/app
  holdfast restore latest --table orders --target /tmp/out       as a script for psql
  holdfast restore --from-file app_20240712.sql.gz --to postgres://admin@127.0.0.1/app_copy
  holdfast restore latest:/srv/app --target / --overwrite if-changed --delete --dry-run
  holdfast restore latest --check                 test a restore in place, touch nothing
  holdfast restore latest --db-only               over what is there, with a way back
  holdfast restore latest --env staging

With --target files go to DIR followed by their absolute path, databases to DIR/NAME.dump and DIR/NAME.sqlite3. The
directory must be new or empty and the database must not exist; otherwise nothing is touched (exit code 24). With
--overwrite the directory may hold something: files are replaced one by one, each by a rename, after a confirmation.

With --table a table comes with its rows, indexes, constraints, sequences, triggers and partitions, in one transaction, and
is compared with what was saved. It must not exist in the database; nothing that exists is changed.

Without --target and --to everything goes back to where it came from, in recorded steps: prerequisites, a safety snapshot,
the application stopped, the new made beside the old and proved, swapped, the application started and asked. Whatever
fails, the old is put back (exit code 21).")]
pub struct RestoreArgs {
    /// The snapshot, with :PATH for a part of its files; on a terminal it can be left out and chosen from a list
    #[arg(value_name = "SELECTOR")]
    pub selector: Option<OsString>,
    /// Import this file of another tool first, and restore the snapshot that it becomes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["selector", "sources", "include", "exclude"])]
    pub from_file: Option<PathBuf>,
    /// Host and sources.
    #[command(flatten)]
    pub scope: super::scope::ScopeArgs,
    /// Restore into this directory
    #[arg(long, value_name = "DIR")]
    pub target: Option<PathBuf>,
    /// Restore one database into this new database; a password in the URL is refused
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// The database of --to may exist: it is replaced, with a way back; what has no --to always is
    #[arg(long, conflicts_with = "target")]
    pub clean: bool,
    /// How a restore over what is there goes.
    #[command(flatten)]
    pub in_place: super::in_place::InPlaceArgs,
    /// Restore into a directory that holds something; says what becomes of files that are there
    #[arg(long, value_name = "WHEN", value_enum, requires = "target")]
    pub overwrite: Option<OverwriteWhen>,
    /// With --overwrite: remove what the snapshot does not have, within the restored paths
    #[arg(long, requires = "overwrite", conflicts_with_all = ["include", "exclude"])]
    pub delete: bool,
    /// Only this table of a PostgreSQL dump, into an existing database (--to) or as a script (--target); repeatable
    #[arg(
        long = "table",
        value_name = "TABLE",
        conflicts_with_all = ["include", "exclude", "env", "clean", "overwrite", "kind", "db_only", "code_only", "check"]
    )]
    pub tables: Vec<String>,
    /// What to restore
    #[arg(long = "type", value_name = "TYPE", value_enum, conflicts_with_all = ["db_only", "code_only"])]
    pub kind: Option<RestoreType>,
    /// Only databases
    #[arg(long, conflicts_with = "code_only")]
    pub db_only: bool,
    /// Only files
    #[arg(long)]
    pub code_only: bool,
    /// Only files that match, in gitignore syntax (repeatable)
    #[arg(long, value_name = "RULE", conflicts_with = "to")]
    pub include: Vec<String>,
    /// Leave out files that match, in gitignore syntax (repeatable)
    #[arg(long, value_name = "RULE", conflicts_with = "to")]
    pub exclude: Vec<String>,
}

impl RestoreArgs {
    /// The three ways to say what is restored, as one.
    pub fn restore_type(&self) -> RestoreType {
        match (self.kind, self.db_only, self.code_only) {
            (Some(kind), _, _) => kind,
            (None, true, _) => RestoreType::Database,
            (None, _, true) => RestoreType::Codebase,
            _ => RestoreType::Full,
        }
    }
}
