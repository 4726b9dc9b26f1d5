//! What each error of a guard means for people.

use super::guard_hands::exit_of;
use super::guard_status::{advice, lines_of};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::ops::guard::{Error, Holder, NotBack, Unfit, UnfitKind};

fn with_holder(invocation: &Invocation, failure: Failure, holder: &Holder) -> Failure {
    let failure = lines_of(invocation, holder).into_iter().fold(failure, |f, line| f.cause(line.trim_start()));
    failure.hint(advice(holder))
}

/// What each error of a guard means for people.
pub(super) fn failure_of(invocation: &Invocation, error: Error) -> Failure {
    let message = error.to_string();
    let of = |exit, id| Failure::new(exit, id, message.clone());
    match error {
        Error::Repository(error) => Failure::from(error),
        Error::Held { holder, .. } => with_holder(invocation, of(ExitCode::GuardClosed, "guard.held"), &holder)
            .hint("--break closes it by force; nothing was touched"),
        Error::UnreadableClaim { .. } => of(ExitCode::GuardClosed, "guard.claim_damaged")
            .hint("`holdfast guard status` shows what is open; if nothing is, give --break; nothing was touched"),
        Error::Unfit { source: Unfit { kind: UnfitKind::Interrupted, .. } } | Error::Interrupted => {
            Failure::interrupted(ExitCode::Interrupted)
        }
        Error::Unfit { source: Unfit { kind, message, causes } } => {
            let failure = causes.into_iter().fold(Failure::new(exit_of(kind), "guard.unfit", message), Failure::cause);
            let failure = failure.hint("the guard did not open, and nothing was touched");
            match kind {
                UnfitKind::Closed => failure.hint("run `holdfast backup` first, or give --i-know"),
                _ => failure,
            }
        }
        Error::RolledBack { failed, snapshot, .. } => {
            let exit = if failed.is_interruption() { ExitCode::Interrupted } else { ExitCode::GuardedCommandFailed };
            of(exit, "guard.rolled_back").hint(format!("the state before is snapshot {}", snapshot.short()))
        }
        Error::NotRolledBack { name, snapshot, back, .. } => {
            let NotBack { message: why, details } = *back;
            let failure = of(ExitCode::NotRolledBack, "guard.not_rolled_back").cause(why);
            let failure = details.into_iter().fold(failure, Failure::cause);
            failure
                .hint(format!("the state before is snapshot {} (guard:{name}); it is whole", snapshot.hex()))
                .hint(format!("when the cause is gone, `holdfast guard rollback {name}` tries again"))
                .hint(format!("by hand: `holdfast restore {} --to URL` into a new database", snapshot.short()))
        }
        Error::NotClosed { name, source } => Failure::from(source)
            .cause(message)
            .hint(format!("what was done stays; `holdfast guard complete {name}` closes the guard")),
        Error::TakenOver { name } => of(ExitCode::GuardClosed, "guard.taken_over")
            .hint(format!("`holdfast guard history` shows what became of {name}")),
        Error::NotOpen { ended, .. } => {
            let failure = match ended {
                Some(ended) => of(ExitCode::GuardClosed, "guard.not_open")
                    .cause(format!("the newest of that name is closed already: {}", ended.as_str())),
                None => of(ExitCode::Refused, "guard.not_open"),
            };
            failure.hint("`holdfast guard status` shows what is open")
        }
        Error::Busy { holder } => with_holder(invocation, of(ExitCode::GuardClosed, "guard.busy"), &holder),
        Error::CommandRuns { process, .. } => of(ExitCode::GuardClosed, "guard.command_runs")
            .hint(format!("end process {process} first; nothing was touched")),
        Error::WrongState { name, rolling_back, .. } => of(ExitCode::Refused, "guard.state").hint(match rolling_back {
            true => format!("`holdfast guard rollback {name}` brings it to its end"),
            false => format!("`holdfast guard rollback {name}` closes it; nothing is put back"),
        }),
    }
}
