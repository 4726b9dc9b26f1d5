//! `repair`.

use clap::{Args, Subcommand};

/// Arguments of `repair`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast repair index                           when the catalog or the caches were lost or are in doubt")]
pub struct RepairArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RepairCommand,
}

/// What `repair` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum RepairCommand {
    /// Build catalog and caches anew from the repository
    Index,
}
