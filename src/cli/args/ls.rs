//! `ls`.

use clap::Args;
use std::ffi::OsString;

/// Arguments of `ls`. Without a selector it lists snapshots, as `snapshots` does.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast ls                                     the snapshots
  holdfast ls latest
  holdfast ls -l latest:/srv/app
  holdfast ls @yesterday --source code")]
pub struct LsArgs {
    /// The snapshot, with :PATH to begin at a path; left out: the list of snapshots
    #[arg(value_name = "SELECTOR")]
    pub selector: Option<OsString>,
    /// Host and sources.
    #[command(flatten)]
    pub scope: super::scope::ScopeArgs,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    pub long: bool,
}
