//! `accept`.

use clap::Args;
use std::ffi::OsString;

/// Arguments of `accept`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast accept                                 the newest suspect snapshot
  holdfast accept 4f2a91c0
  holdfast accept --source app-db                 the newest one in which app-db looked wrong

A backup that is far smaller or larger than before, lost most rows of a table, or cannot be compressed any more is
stored and marked as suspect: it is not `latest`, and nothing of its source is forgotten. Accept it if it is right.")]
pub struct AcceptArgs {
    /// Which snapshot; the newest suspect one when left out
    #[arg(value_name = "SELECTOR")]
    pub selector: Option<OsString>,
    /// Only snapshots of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// A source that is right although it looked wrong (repeatable); all that did when left out
    #[arg(long = "source", visible_alias = "only", value_name = "NAME")]
    pub sources: Vec<String>,
}
