//! One file for each command: arguments and settings become the options of one function of `ops`, and its report is
//! printed.

pub(crate) mod accept;
pub(crate) mod backup;
pub(crate) mod config;
pub(crate) mod drill;
pub(crate) mod dump;
pub(crate) mod export;
pub(crate) mod forget;
pub(crate) mod generate;
pub(crate) mod guard;
mod guard_cleanup;
mod guard_cover;
mod guard_errors;
mod guard_hands;
mod guard_status;
pub(crate) mod history;
pub(crate) mod import;
mod in_place;
mod in_place_errors;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod ls;
mod net;
mod places;
pub(crate) mod prune;
pub(crate) mod repair;
mod repair_data;
pub(crate) mod restore;
pub(crate) mod restore_table;
mod rollback;
pub(crate) mod secret_file;
pub(crate) mod snapshots;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod undelete;
pub(crate) mod verify;

use super::args::Command;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::invocation::Invocation;

/// Runs the command of the command line.
///
/// # Errors
/// Why it failed.
pub(crate) fn dispatch(invocation: &Invocation, command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Init(args) => init::run(invocation, args),
        Command::Backup(args) => backup::run(invocation, args),
        Command::Restore(args) => restore::run(invocation, args),
        Command::Rollback(args) => rollback::rollback(invocation, args),
        Command::Service(args) => status::service(invocation, args),
        Command::Status(_) => status::status(invocation),
        Command::Dump(args) => dump::run(invocation, args),
        Command::Snapshots(args) => snapshots::run(invocation, args),
        Command::Ls(args) => ls::run(invocation, args),
        Command::Stats(args) => stats::run(invocation, args),
        Command::Forget(args) => forget::run(invocation, args),
        Command::Remove(args) => forget::remove(invocation, args),
        Command::Undelete(args) => undelete::run(invocation, args),
        Command::Accept(args) => accept::run(invocation, args),
        Command::Prune(args) => prune::run(invocation, args),
        Command::Cleanup(args) => forget::cleanup(invocation, args),
        Command::Drill(args) => drill::run(invocation, args),
        Command::Guard(args) => guard::run(invocation, args),
        Command::History(args) => history::run(invocation, args),
        Command::Key(args) => key::run(invocation, args),
        Command::Config(args) => config::run(invocation, args),
        Command::Import(args) => import::run(invocation, args),
        Command::Export(args) => export::run(invocation, args),
        Command::Verify(args) => verify::run(invocation, args),
        Command::Repair(args) => repair::run(invocation, args),
        Command::Completions(args) => generate::completions(invocation, args),
        Command::Man(args) => generate::man(invocation, args),
        Command::Version => generate::version(invocation),
        Command::Help(args) => generate::help(invocation, args),
    }
}
