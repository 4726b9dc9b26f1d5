//! `export`.

use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Arguments of `export`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast export latest --target /mnt/usb
  holdfast export class:daily --layout 'daily/%Y/%m/%d' --target /srv/backups
  holdfast export 4f2a91c0 --source app-db --layout '{host}/{class}/%Y-%m-%d_{id}' --target /srv/backups

The folder of the layout is made below DIR; it must not exist (exit code 24). It holds plain files, SHA256SUMS and
manifest.json, and nothing in it needs holdfast: `sha256sum -c SHA256SUMS` checks it, `pg_restore`, `psql`, `sqlite3`
and `tar` restore from it. It is not encrypted.")]
pub struct ExportArgs {
    /// The snapshot, with :PATH for a part of its files
    #[arg(value_name = "SELECTOR")]
    pub selector: OsString,
    /// Host and sources.
    #[command(flatten)]
    pub scope: super::scope::ScopeArgs,
    /// Export below this directory
    #[arg(long, value_name = "DIR")]
    pub target: PathBuf,
    /// Name of the new folder: fields of strftime for the snapshot's time, {id}, {host}, {class}
    #[arg(long, value_name = "LAYOUT", default_value = "%Y-%m-%d_%H%M%S")]
    pub layout: String,
    /// Only databases
    #[arg(long, conflicts_with = "code_only")]
    pub db_only: bool,
    /// Only files
    #[arg(long)]
    pub code_only: bool,
}
