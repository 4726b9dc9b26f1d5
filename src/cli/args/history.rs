//! `history`.

use clap::{Args, ValueEnum};

/// Kinds of act that a history tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HistoryKind {
    /// Restores over what was there
    Restore,
    /// Migrations, deployments and tests under a guard
    Guard,
    /// Restores for proof
    Drill,
}

/// Arguments of `history`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast history                                everything, newest first
  holdfast history guard
  holdfast history restore --steps                each step, with its time
  holdfast history --json

An act that is not finished and whose process is over says `dead`: its command was killed, and the last state is the
step that it had begun.")]
pub struct HistoryArgs {
    /// Only acts of this kind
    #[arg(value_name = "KIND")]
    pub kind: Option<HistoryKind>,
    /// Show every recorded step
    #[arg(long)]
    pub steps: bool,
}
