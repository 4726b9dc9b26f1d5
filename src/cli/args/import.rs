//! `import`.

use clap::Args;
use std::path::PathBuf;

/// Arguments of `import`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast import /var/backups/old --dry-run      read and judge everything, store nothing
  holdfast import /var/backups/old
  holdfast import app_backup_20240712_020000.sql.gz
  holdfast import /var/backups/old --remove-imported --yes

Taken are .sql, .dump, .tar, .sqlite, .db (packed with gzip, zstd, xz or bzip2 or not), by what is in them. Each file
becomes one snapshot, each date-named folder (2024-07-12, 2024/07/12) one snapshot with a source for each file. The
source is the file's name without date, time and packing. The time is the one in the name, local if it has no zone, or
else that of the file's last change. What was imported before is not imported again. Exit code 3: some files are not
good; 13: none was.")]
pub struct ImportArgs {
    /// Files and folders
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// The class of the snapshots
    #[arg(long, value_name = "CLASS", default_value = "manual", value_parser = super::backup::class)]
    pub class: String,
    /// A tag for the snapshots (repeatable)
    #[arg(long = "tag", value_name = "TAG", value_parser = super::backup::tag)]
    pub tags: Vec<String>,
    /// The host name to record instead of this machine's
    #[arg(long, value_name = "HOST", value_parser = super::backup::plain_text)]
    pub host: Option<String>,
    /// Delete each file once its snapshot is stored and proved
    #[arg(long)]
    pub remove_imported: bool,
}
