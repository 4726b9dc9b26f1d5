//! What a restore over existing data takes; shared by `restore` and `rollback`.

use clap::{Args, ValueEnum};
use std::ffi::OsString;

/// How a restore over existing data goes.
#[derive(Debug, Clone, Default, Args)]
pub struct InPlaceArgs {
    /// Restore into the places of [env.NAME] of the configuration
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
    /// Do not save what is there before it is replaced
    #[arg(long)]
    pub no_safety: bool,
    /// Test everything that the restore needs, and touch nothing
    #[arg(long)]
    pub check: bool,
    /// Take over from a restore of another machine that will not come back
    #[arg(long = "break")]
    pub break_others: bool,
}

/// Arguments of `rollback`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast rollback                               undo the last restore, or go back to before the last deployment
  holdfast rollback pre-restore-20261120_140312   the state saved then
  holdfast rollback --check                       test it, touch nothing
  holdfast rollback --remove-new                  databases and files that the restore made go, too

Without a selector this takes the snapshot that the last restore made of what was there before; where there was none, the
newest of class pre-restore or pre-deploy. A restore that was cut short is taken back first.")]
pub struct RollbackArgs {
    /// The snapshot to go back to
    #[arg(value_name = "SELECTOR")]
    pub selector: Option<OsString>,
    /// Also remove what did not exist before that restore, once it is saved
    #[arg(long)]
    pub remove_new: bool,
    /// Host and sources.
    #[command(flatten)]
    pub scope: super::scope::ScopeArgs,
    /// How.
    #[command(flatten)]
    pub in_place: InPlaceArgs,
}

/// What to do with the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceAction {
    /// Stop it
    Stop,
    /// Start it
    Start,
    /// Stop it and start it again
    Restart,
    /// Ask whether it runs
    Status,
}

/// Arguments of `service`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast service status
  holdfast service restart
  holdfast service stop --env staging

The commands are those of [service], or of [env.NAME] with --env.")]
pub struct ServiceArgs {
    /// What to do
    #[arg(value_enum)]
    pub action: ServiceAction,
    /// The application of [env.NAME]
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
}

/// Arguments of `status`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast status
  holdfast status --json

Shows what is under way or was cut short, who does it, what stands in which place, and how to go on or back.")]
pub struct StatusArgs {}
