//! `guard`.

use super::global::duration;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::time::Duration;

/// Arguments of `guard`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast guard run v2.3.1 -- ./deploy.sh --migrate
  holdfast guard run v2.3.1 --validate 'curl -fsS http://127.0.0.1:8000/health' -- ./deploy.sh
  holdfast guard begin 20261121_add_index -m 'index on orders'    then migrate by hand, then one of
  holdfast guard complete 20261121_add_index
  holdfast guard rollback 20261121_add_index
  holdfast guard test -- ./run-tests --destructive
  holdfast guard status

Before the command the covered databases are saved and what was saved is verified; when the command or its validation
fails, exactly they are put back (exit code 23; 22 when that failed). One guard at a time has a source: a second one is
refused at once (exit code 18).")]
pub struct GuardArgs {
    /// What to do
    #[command(subcommand)]
    pub action: GuardAction,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum GuardAction {
    /// Save and verify, run a command, validate it, and put the state before back if it fails
    Run(RunArgs),
    /// Save and verify before something that you do by hand
    Begin(BeginArgs),
    /// Close a guard: what was done under it stays
    Complete(CloseArgs),
    /// Put the state before a guard back
    Rollback(CloseArgs),
    /// Show open guards, or one by its name
    Status(StatusArgs),
    /// Show all guards, newest first
    History(HistoryArgs),
    /// Forget snapshots of closed guards that are old
    Cleanup(CleanupArgs),
    /// Run destructive tests, once a drill has shown that the state before can be put back; afterwards it is
    Test(TestArgs),
}

/// What a guard covers, and what may stand in its way.
#[derive(Debug, Clone, Default, Args)]
pub struct CoverArgs {
    /// Only this configured source (repeatable); when left out those of section guard, else every database
    #[arg(long = "source", visible_alias = "only", value_name = "NAME")]
    pub sources: Vec<String>,
    /// Guard the places of [env.NAME] of the configuration
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
    /// Begin on production without a fresh verified snapshot
    #[arg(long)]
    pub i_know: bool,
    /// Close guards that are in the way first
    #[arg(long = "break")]
    pub break_others: bool,
}

/// The validation of what a command did.
#[derive(Debug, Clone, Default, Args)]
pub struct ValidateArgs {
    /// A shell command that must succeed after the command did
    #[arg(long, value_name = "COMMAND")]
    pub validate: Option<String>,
    /// Longest time for it; 10m, or check_timeout of section restore, when left out
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "validate")]
    pub validate_timeout: Option<Duration>,
}

/// Arguments of `guard run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Name of the guard: a version, a migration
    #[arg(value_name = "ID", value_parser = name)]
    pub name: String,
    /// What is done, for people
    #[arg(short = 'm', long, value_name = "TEXT", default_value = "")]
    pub message: String,
    /// What it covers.
    #[command(flatten)]
    pub cover: CoverArgs,
    /// Its validation.
    #[command(flatten)]
    pub validate: ValidateArgs,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Arguments of `guard begin`.
#[derive(Debug, Clone, Args)]
pub struct BeginArgs {
    /// Name of the guard: a version, a migration
    #[arg(value_name = "ID", value_parser = name)]
    pub name: String,
    /// What will be done, for people
    #[arg(short = 'm', long, value_name = "TEXT", default_value = "")]
    pub message: String,
    /// What it covers.
    #[command(flatten)]
    pub cover: CoverArgs,
}

/// Arguments of `guard complete` and `guard rollback`.
#[derive(Debug, Clone, Args)]
pub struct CloseArgs {
    /// Name of the guard, or the beginning of its act's id
    #[arg(value_name = "ID")]
    pub name: String,
    /// Also when it was opened on another machine and nobody can tell from here whether its command runs
    #[arg(long = "break")]
    pub break_others: bool,
}

/// Arguments of `guard status`.
#[derive(Debug, Clone, Default, Args)]
pub struct StatusArgs {
    /// A guard, open or closed
    #[arg(value_name = "ID")]
    pub name: Option<String>,
}

/// Arguments of `guard history`.
#[derive(Debug, Clone, Default, Args)]
pub struct HistoryArgs {
    /// Show every recorded step
    #[arg(long)]
    pub steps: bool,
}

/// Arguments of `guard cleanup`.
#[derive(Debug, Clone, Default, Args)]
pub struct CleanupArgs {
    /// Forget what is older than this [default: keep_within of [retention.pre-migration], 30]
    #[arg(value_name = "DAYS")]
    pub days: Option<u32>,
}

/// Arguments of `guard test`.
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
    /// Name of the guard [default: test-TIME]
    #[arg(long, value_name = "ID", value_parser = name)]
    pub name: Option<String>,
    /// What is tested, for people
    #[arg(short = 'm', long, value_name = "TEXT", default_value = "")]
    pub message: String,
    /// What it covers.
    #[command(flatten)]
    pub cover: CoverArgs,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// A name that a tag and a selector can hold.
fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    match !text.is_empty() && text.len() <= 100 && text.bytes().all(plain) && !text.starts_with('-') {
        true => Ok(text.to_owned()),
        false => Err("1 to 100 letters, digits, '.', '_', '+' and '-' are allowed".to_owned()),
    }
}
