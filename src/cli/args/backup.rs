//! `backup`.

use crate::cli::failure::Failure;
use crate::domain::time_spec::{Context, parse_time, timestamp_ns};
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Arguments of `backup`. Without sources on the command line, the configured ones are saved in one snapshot.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast backup                                 every source of the configuration: one snapshot
  holdfast backup --db-only --class hourly
  holdfast backup /srv/app /etc/app --exclude '*.log'
  holdfast backup --postgres postgres://backup@127.0.0.1/app --sqlite /srv/app/db.sqlite3 /srv/app/media --tag v2.3
  mysqldump shop | holdfast backup --stdin --stdin-filename shop.sql
  holdfast backup --stdin-from-command -- redis-cli --rdb -

Standard output is the id of the snapshot and nothing else. Exit code 3: some source data could not be read.")]
pub struct BackupArgs {
    /// Files and directories to save; together they are one source called 'files'
    #[arg(value_name = "PATH", conflicts_with_all = ["sources", "db_only", "code_only"])]
    pub paths: Vec<PathBuf>,
    /// A PostgreSQL database to save (repeatable); a password in the URL is refused
    #[arg(long, value_name = "URL", conflicts_with_all = ["sources", "db_only", "code_only"])]
    pub postgres: Vec<String>,
    /// A SQLite database to save (repeatable)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sources", "db_only", "code_only"])]
    pub sqlite: Vec<PathBuf>,
    /// Save standard input
    #[arg(long, conflicts_with_all = ["sources", "db_only", "code_only", "stdin_from_command"])]
    pub stdin: bool,
    /// Save what a command prints; it must succeed
    #[arg(long, requires = "command", conflicts_with_all = ["sources", "db_only", "code_only"])]
    pub stdin_from_command: bool,
    /// File name and source name of standard input or of the command's output [default: stdin]
    #[arg(long, value_name = "NAME", value_parser = file_name)]
    pub stdin_filename: Option<String>,
    /// The command and its arguments, after --
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// Only this configured source (repeatable)
    #[arg(long = "source", visible_alias = "only", value_name = "NAME")]
    pub sources: Vec<String>,
    /// Only the configured databases
    #[arg(long, conflicts_with_all = ["code_only", "sources"])]
    pub db_only: bool,
    /// Only the configured files
    #[arg(long, conflicts_with = "sources")]
    pub code_only: bool,
    /// A tag for the snapshot (repeatable)
    #[arg(long = "tag", value_name = "TAG", value_parser = tag)]
    pub tags: Vec<String>,
    /// The class of the snapshot: hourly, daily, weekly, monthly, manual, pre-migration, pre-deploy or your own
    #[arg(long, value_name = "CLASS", value_parser = class)]
    pub class: Option<String>,
    /// The backup time to record instead of now, for example 2026-11-20T14:00
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// The host name to record instead of this machine's
    #[arg(long, value_name = "HOST", value_parser = plain_text)]
    pub host: Option<String>,
    /// Leave out what matches, in gitignore syntax (repeatable)
    #[arg(long, value_name = "RULE")]
    pub exclude: Vec<String>,
    /// Save .git and directories marked by CACHEDIR.TAG too
    #[arg(long)]
    pub no_default_excludes: bool,
    /// Do not enter other file systems
    #[arg(long)]
    pub one_file_system: bool,
    /// Accept a source that gives no data
    #[arg(long)]
    pub allow_empty: bool,
    /// Make the repository if there is none
    #[arg(long)]
    pub init: bool,
}

impl BackupArgs {
    /// True when the command line names sources of its own.
    pub fn is_ad_hoc(&self) -> bool {
        let named = !(self.paths.is_empty() && self.postgres.is_empty() && self.sqlite.is_empty());
        named || self.stdin || self.stdin_from_command
    }

    /// The backup time to record, nanoseconds since 1970 UTC; None: now. A date means its first moment.
    ///
    /// # Errors
    /// Exit code 2 for a text that is no time.
    pub fn time_ns(&self, context: &Context) -> Result<Option<i64>, Failure> {
        let Some(text) = &self.time else { return Ok(None) };
        match parse_time(text, context) {
            Ok(moment) => Ok(Some(timestamp_ns(moment.start))),
            Err(error) => Err(Failure::usage("time.unreadable", error.to_string())),
        }
    }

    /// Words after `--` are a command only with `--stdin-from-command`; else they are paths that begin with a dash.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        if !self.stdin_from_command {
            self.paths.extend(self.command.drain(..).map(PathBuf::from));
        }
        if self.is_ad_hoc() && (!self.sources.is_empty() || self.db_only || self.code_only) {
            return Err(Failure::usage(
                "backup.conflict",
                "Sources of the command line and of the configuration cannot be mixed",
            )
            .hint("leave out --source, --db-only and --code-only"));
        }
        if self.stdin_filename.is_some() && !self.stdin && !self.stdin_from_command {
            return Err(Failure::usage("backup.conflict", "--stdin-filename needs --stdin or --stdin-from-command"));
        }
        Ok(())
    }
}

fn file_name(text: &str) -> Result<String, String> {
    let bad =
        text.is_empty() || text == "." || text == ".." || text.contains('/') || text.chars().any(char::is_control);
    if bad { Err("a file name without slashes is needed".to_owned()) } else { Ok(text.to_owned()) }
}

pub(super) fn plain_text(text: &str) -> Result<String, String> {
    let bad = text.trim().is_empty() || text.len() > 255 || text.chars().any(char::is_control);
    if bad { Err("1 to 255 printable characters are needed".to_owned()) } else { Ok(text.to_owned()) }
}

pub(super) fn tag(text: &str) -> Result<String, String> {
    let text = plain_text(text)?;
    // `tag:x:/path` must stay readable.
    if text.contains(":/") || text.contains(',') {
        Err("a tag holds neither ',' nor ':/'".to_owned())
    } else {
        Ok(text)
    }
}

pub(super) fn class(text: &str) -> Result<String, String> {
    let good =
        !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if good { Ok(text.to_owned()) } else { Err("letters, digits, '.', '_' and '-' are allowed".to_owned()) }
}
