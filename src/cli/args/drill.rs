//! `drill`.

use clap::Args;
use std::ffi::OsString;

/// Arguments of `drill`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast drill                                  the newest good snapshot of each source of this host
  holdfast drill latest~3 --source app-db
  holdfast drill --all --json                     every source of every host
  holdfast history drill                          the drills of the last 90 days

PostgreSQL sources are restored into a temporary server that is started for it, or into a new database holdfast_drill_*
on the server of [drill] postgres; SQLite and files into a temporary folder below TMPDIR. Everything is compared with
what was saved and removed again. A source that is not equal ends the drill with exit code 19.")]
pub struct DrillArgs {
    /// The snapshot; left out: the newest good one of each source
    #[arg(value_name = "SELECTOR")]
    pub selector: Option<OsString>,
    /// Host and sources.
    #[command(flatten)]
    pub scope: super::scope::ScopeArgs,
    /// Every source of every series, of other hosts too
    #[arg(long, conflicts_with_all = ["selector", "host"])]
    pub all: bool,
}
