//! `stats`.

use clap::Args;
use std::ffi::OsString;

/// Arguments of `stats`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast stats                                  the whole repository
  holdfast stats latest                           one snapshot: plain size, size of its own, bytes added
  holdfast size 20240708_143022")]
pub struct StatsArgs {
    /// The snapshots; the whole repository when left out
    #[arg(value_name = "SELECTOR")]
    pub selectors: Vec<OsString>,
    /// Host and sources.
    #[command(flatten)]
    pub scope: super::scope::ScopeArgs,
}
