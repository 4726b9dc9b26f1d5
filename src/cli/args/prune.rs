//! `prune`, and what `forget --prune` and `cleanup` share with it.

use crate::domain::units::{ParseUnitError, parse_duration, parse_size};
use clap::Args;
use std::time::Duration;

fn size(text: &str) -> Result<u64, ParseUnitError> {
    parse_size(text)
}

fn duration(text: &str) -> Result<Duration, ParseUnitError> {
    parse_duration(text)
}

/// How far a prune goes.
#[derive(Debug, Clone, Default, Args)]
pub struct PruneLimits {
    /// Rewrite everything that holds dead bytes, and merge small packs
    #[arg(long)]
    pub full: bool,
    /// Keep what was forgotten within DURATION, so that it can still be undeleted (by hand 0, scheduled as configured)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub grace: Option<Duration>,
    /// Rewrite packs of at most SIZE in all
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_repack_size: Option<u64>,
    /// Compress what is older than DURATION harder, once; worth it for what stays for months
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub recompress_older: Option<Duration>,
}

/// Arguments of `prune`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast prune --dry-run                        what could be freed
  holdfast prune                                  free it
  holdfast prune --full                           to the last byte; rewrites more
  holdfast prune --max-repack-size '10 GB'        not more work than that

Backups and restores may run meanwhile. What a running backup might still need is condemned now and deleted by the
next prune. After a prune forgotten snapshots cannot be undeleted any more.")]
pub struct PruneArgs {
    /// Limits.
    #[command(flatten)]
    pub limits: PruneLimits,
}
