//! Flags that every command takes, before or after the verb.

use crate::cli::environment::Environment;
use crate::cli::output::{JsonMode, OutputOptions};
use crate::cli::settings::Overrides;
use crate::domain::units::{ParseUnitError, parse_duration, parse_size};
use clap::{ArgAction, Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// When colour is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Plain lines
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// A duration as clap reads it.
pub(super) fn duration(text: &str) -> Result<Duration, ParseUnitError> {
    parse_duration(text)
}

/// A size as clap reads it.
pub(super) fn size(text: &str) -> Result<u64, ParseUnitError> {
    parse_size(text)
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Directory of the repository [variable: HOLDFAST_REPOSITORY]
    #[arg(short = 'r', long = "repo", alias = "repository", value_name = "DIR", global = true)]
    pub repo: Option<String>,
    /// Configuration file [variable: HOLDFAST_CONFIG]
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Profile of the configuration (reserved for a later version)
    #[arg(short = 'P', long, value_name = "NAME", global = true)]
    pub profile: Option<String>,
    /// Read variables from a file of NAME=VALUE lines; those already set win
    #[arg(long, value_name = "FILE", global = true)]
    pub env_file: Option<PathBuf>,
    /// File that holds the repository's password [variable: HOLDFAST_PASSWORD_FILE]
    #[arg(long, value_name = "FILE", global = true, conflicts_with_all = ["password_command", "key_file"])]
    pub password_file: Option<PathBuf>,
    /// Program that prints the repository's password [variable: HOLDFAST_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND", global = true, conflicts_with = "key_file")]
    pub password_command: Option<String>,
    /// Key file that opens the repository [variable: HOLDFAST_KEY_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub key_file: Option<PathBuf>,
    /// Say nothing on standard error but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice: every item
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress (SIGUSR1 still prints a line)
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// When to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, global = true, hide_possible_values = true)]
    pub color: ColorWhen,
    /// Show what would be done, change nothing
    #[arg(short = 'n', long, global = true)]
    pub dry_run: bool,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Never ask; fail where a question would be asked
    #[arg(long, global = true)]
    pub no_input: bool,
    /// How long a backup waits for another run of the same source before it gives up; 0: not at all
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m", global = true)]
    pub retry_lock: Duration,
    /// Append a line for each event to a file; HOLDFAST_LOG sets the level (error, warn, info, debug, trace)
    #[arg(long, value_name = "FILE", global = true)]
    pub log_file: Option<PathBuf>,
    /// Form of its lines: text or json
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, global = true, requires = "log_file")]
    pub log_format: LogFormat,
    /// Most bytes per second written to the storage
    #[arg(long, value_name = "SIZE", value_parser = size, global = true)]
    pub limit_upload: Option<u64>,
    /// Most bytes per second read from the storage
    #[arg(long, value_name = "SIZE", value_parser = size, global = true)]
    pub limit_download: Option<u64>,
    /// Where caches are kept [variable: HOLDFAST_CACHE_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    pub cache_dir: Option<PathBuf>,
}

impl GlobalArgs {
    /// The flags that are settings.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            repository: self.repo.clone(),
            config: self.config.clone(),
            profile: self.profile.clone(),
            cache_dir: self.cache_dir.clone(),
            password_file: self.password_file.clone(),
            password_command: self.password_command.clone(),
            key_file: self.key_file.clone(),
        }
    }

    /// How to print. `json` is the mode of the command, used when JSON is asked for.
    pub fn output_options(&self, environment: &Environment, json: JsonMode) -> OutputOptions {
        let plain = environment.raw("NO_COLOR").is_some() || environment.text("TERM") == Some("dumb");
        let color = match self.color {
            ColorWhen::Auto => environment.stderr_terminal && !plain,
            ColorWhen::Always => true,
            ColorWhen::Never => false,
        };
        OutputOptions {
            json: if self.json { json } else { JsonMode::Off },
            quiet: self.quiet,
            verbosity: self.verbose,
            color,
            stdout_terminal: environment.stdout_terminal,
            stderr_terminal: environment.stderr_terminal,
            columns: environment.terminal_columns,
        }
    }
}
