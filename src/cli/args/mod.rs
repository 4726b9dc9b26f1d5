//! Arguments of the command line: one file for each command, nothing but definitions and checks of single arguments.
//!
//! [`parse`] is the entry. The dispatch belongs into `cli/mod.rs`: one `match` over [`Command`] that turns the
//! arguments of a command and the settings into the options of one function of `ops`.

pub mod accept;
pub mod backup;
pub mod config;
pub mod drill;
pub mod dump;
pub mod export;
pub mod forget;
pub mod generate;
pub mod global;
pub mod guard;
pub mod history;
pub mod import;
pub mod in_place;
pub mod init;
pub mod key;
pub mod ls;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod scope;
pub mod snapshots;
pub mod stats;
pub mod template;
pub mod url;
pub mod verify;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::JsonMode;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::ffi::OsString;

/// The whole command line.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "holdfast",
    bin_name = "holdfast",
    version,
    about = "Backups of databases, code and media in one repository, with restores that are proved",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    propagate_version = false,
    max_term_width = 110,
    after_help = "\
Examples:
  holdfast init                                   a repository in the default place, or -r DIR
  holdfast backup /srv/app                        files, or every source of holdfast.toml without a path
  holdfast snapshots
  holdfast restore @'2 hours ago' --target /tmp/out
  holdfast verify

`holdfast help COMMAND` explains a command, `holdfast help exit-codes` the exit codes."
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: global::GlobalArgs,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Make a repository
    Init(init::InitArgs),
    /// Save sources in one snapshot
    #[command(visible_alias = "create")]
    Backup(Box<backup::BackupArgs>),
    /// List snapshots
    #[command(visible_alias = "list")]
    Snapshots(snapshots::SnapshotsArgs),
    /// List what is in a snapshot
    Ls(ls::LsArgs),
    /// Show sizes
    #[command(visible_alias = "size")]
    Stats(stats::StatsArgs),
    /// Put a snapshot back
    Restore(Box<restore::RestoreArgs>),
    /// Go back to the state before the last restore
    Rollback(in_place::RollbackArgs),
    /// Stop, start, restart or look at the application
    Service(in_place::ServiceArgs),
    /// Show what is under way or was cut short
    Status(in_place::StatusArgs),
    /// Write one stream or file of a snapshot to standard output
    Dump(dump::DumpArgs),
    /// Take in backups that other tools made
    Import(import::ImportArgs),
    /// Write a snapshot as plain files, with checksums and a manifest
    Export(export::ExportArgs),
    /// Prove that what is stored is whole
    #[command(visible_alias = "check")]
    Verify(verify::VerifyArgs),
    /// Hide snapshots, by policy or by name
    Forget(Box<forget::ForgetArgs>),
    /// Forget the named snapshots, after asking
    Remove(forget::RemoveArgs),
    /// Bring forgotten snapshots back
    Undelete(forget::UndeleteArgs),
    /// Say that a suspect snapshot is good
    Accept(accept::AcceptArgs),
    /// Free what no snapshot needs
    Prune(prune::PruneArgs),
    /// Forget by policy, then prune
    Cleanup(Box<forget::ForgetArgs>),
    /// Restore for proof, time it, and remove it again
    Drill(drill::DrillArgs),
    /// Run a migration, a deployment or a test with a proved way back
    Guard(Box<guard::GuardArgs>),
    /// Show what was done under the net: restores in place, guards, drills
    History(history::HistoryArgs),
    /// Manage passwords and key files
    Key(key::KeyArgs),
    /// Keep what is whole of a damaged repository, and say what is lost
    Repair(repair::RepairArgs),
    /// Show or check the settings
    Config(config::ConfigArgs),
    /// Print a completion script
    Completions(generate::CompletionsArgs),
    /// Write the manual pages
    Man(generate::ManArgs),
    /// Print the version
    Version,
    /// Explain a command or the exit codes
    Help(generate::HelpArgs),
}

impl Command {
    /// The verb, as the log names it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Init(_) => "init",
            Self::Backup(_) => "backup",
            Self::Snapshots(_) => "snapshots",
            Self::Ls(_) => "ls",
            Self::Stats(_) => "stats",
            Self::Restore(_) => "restore",
            Self::Rollback(_) => "rollback",
            Self::Service(_) => "service",
            Self::Status(_) => "status",
            Self::Dump(_) => "dump",
            Self::Import(_) => "import",
            Self::Export(_) => "export",
            Self::Verify(_) => "verify",
            Self::Forget(_) => "forget",
            Self::Remove(_) => "remove",
            Self::Undelete(_) => "undelete",
            Self::Accept(_) => "accept",
            Self::Prune(_) => "prune",
            Self::Cleanup(_) => "cleanup",
            Self::Drill(_) => "drill",
            Self::Guard(_) => "guard",
            Self::History(_) => "history",
            Self::Key(_) => "key",
            Self::Repair(_) => "repair",
            Self::Config(_) => "config",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
            Self::Version => "version",
            Self::Help(_) => "help",
        }
    }

    /// How this command prints JSON.
    pub fn json_mode(&self) -> JsonMode {
        match self {
            // The standard output of `dump` holds the dump alone.
            Self::Init(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Rollback(_)
            | Self::Verify(_)
            | Self::Repair(_)
            | Self::Import(_)
            | Self::Export(_)
            | Self::Prune(_) => JsonMode::Lines,
            _ => JsonMode::Document,
        }
    }
}

/// Why there is nothing to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// A text was asked for: print it and end with this code.
    Print {
        /// Help or version.
        text: String,
        /// Success, or 2 when help is shown because nothing was said.
        exit: ExitCode,
    },
    /// The command line is wrong.
    Fail {
        /// Why.
        failure: Box<Failure>,
        /// JSON was asked for.
        json: bool,
    },
}

/// Reads the command line, the program's own name first.
///
/// # Errors
/// [`Stop`] when it asks for help or is wrong.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let ours: Vec<&OsString> = arguments.iter().take_while(|a| *a != "--").collect();
    let json = ours.iter().any(|a| *a == "--json");
    let fail = |failure: Failure| Stop::Fail { failure: Box::new(failure), json };
    // Before anything else, because clap's own messages repeat arguments.
    if ours.iter().filter_map(|a| a.to_str()).any(|a| a.contains("://") && url::refuse_password(strip_flag(a)).is_err())
    {
        return Err(fail(password_in_url()));
    }
    let mut cli = Cli::try_parse_from(arguments).map_err(|error| stop(&error, json))?;
    cli.check().map_err(fail)?;
    Ok(cli)
}

/// `--to=URL` without its flag.
fn strip_flag(argument: &str) -> &str {
    match argument.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") && !flag.contains(':') => value,
        _ => argument,
    }
}

fn password_in_url() -> Failure {
    Failure::usage("url.password", "A URL with a password was given, and arguments are visible to everyone on the machine")
        .hint("leave the password out and use ~/.pgpass, PGPASSWORD, or the key 'password' of the source in the configuration")
}

impl Cli {
    /// Checks what clap cannot: combinations, and passwords in connection strings.
    fn check(&mut self) -> Result<(), Failure> {
        let urls: Vec<&str> = match &self.command {
            Command::Backup(backup) => backup.postgres.iter().map(String::as_str).collect(),
            Command::Restore(restore) => restore.to.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        };
        if urls.iter().any(|url| url::refuse_password(url).is_err()) {
            return Err(password_in_url());
        }
        match &mut self.command {
            Command::Backup(backup) => backup.settle(),
            _ => Ok(()),
        }
    }
}

/// Turns clap's report into ours: the first paragraph is the message, tips and usage are hints.
fn stop(error: &clap::Error, json: bool) -> Stop {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return Stop::Print { text, exit: ExitCode::Success },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => return Stop::Print { text, exit: ExitCode::Usage },
        _ => {}
    }
    let mut paragraphs = text.split("\n\n");
    let first = paragraphs.next().unwrap_or_default().trim_start_matches("error: ");
    let message = first.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let mut chars = message.chars();
    let message = chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or(message);
    let mut failure = Failure::usage("usage", message);
    for line in paragraphs.flat_map(str::lines).map(str::trim) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            failure = failure.hint(tip);
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            failure = failure.hint(format!("usage: {usage}"));
        } else if line.starts_with('[') {
            // Possible values and the like.
            failure = failure.hint(line.trim_matches(['[', ']']));
        }
    }
    Stop::Fail { failure: Box::new(failure.hint("run with --help for more")), json }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
