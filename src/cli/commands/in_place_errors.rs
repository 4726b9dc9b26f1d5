//! What each error of a restore in place means for people.

use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::ops::in_place::{self, Concern, Error, Step};

/// The hint where what is there cannot be saved.
const NO_SAFETY: &str = "--no-safety restores without saving what is there";

pub(super) fn trouble_failure(exit: ExitCode, trouble: &in_place::Trouble) -> Failure {
    let exit = if trouble.is_interruption() { ExitCode::Interrupted } else { exit };
    Failure::from_error(exit, "restore.failed", trouble)
}

/// What each error of a restore in place means for people.
pub(super) fn failure_of(error: Error) -> Failure {
    let message = error.to_string();
    match error {
        Error::Repository(error) => Failure::from(error),
        Error::Busy { holder, alive, .. } => {
            let failure = Failure::new(ExitCode::Locked, "restore.busy", message).cause(holder);
            match alive {
                true => failure.hint("wait for its end; nothing was touched"),
                false => failure.hint("run `holdfast rollback` on that machine; --break takes over if it is gone"),
            }
        }
        Error::Guarded { holder, .. } => Failure::new(ExitCode::GuardClosed, "restore.guarded", message)
            .cause(holder)
            .hint("complete it or roll it back with `holdfast guard`; nothing was touched"),
        Error::Unready { failed } => {
            let exit = match failed.iter().map(|check| check.concern).max() {
                Some(Concern::Damage) => ExitCode::Damaged,
                Some(Concern::Reach) => ExitCode::NoSource,
                Some(Concern::Space) => ExitCode::NoSpace,
                _ => ExitCode::Refused,
            };
            let failure = Failure::new(exit, "restore.unready", message);
            let failure =
                failed.iter().fold(failure, |f, check| f.cause(format!("{}: {}", check.subject, check.finding)));
            let roles = failed.iter().any(|check| check.finding.contains("roles that the server does not have"));
            let failure = match roles {
                true => failure.hint(
                    "make the roles first: `holdfast restore SELECTOR --target DIR` writes them to DIR/NAME.globals.sql, for psql",
                ),
                false => failure,
            };
            failure.hint("nothing was touched; `--check` tests everything again")
        }
        Error::Untouched { source, .. } => untouched(message, *source),
        Error::RolledBack { step, source, act, left, stopped } => {
            let mut failure = with_causes(Failure::new(ExitCode::RolledBack, "restore.rolled_back", message), &source);
            if matches!(*source, in_place::Trouble::Safety(_)) {
                failure = failure.hint(NO_SAFETY);
            }
            if source.is_interruption() {
                failure.exit = ExitCode::Interrupted;
            } else if step < Step::Swap
                && let Some(exit) = exit_of(*source)
            {
                // Nothing had left its place: the cause says more.
                failure.exit = exit;
            }
            let failure = match stopped {
                Some(reason) => failure
                    .cause(format!("the application does not run: {reason}"))
                    .hint("start it, or run `holdfast rollback`, which tries again; the data is as it was before"),
                None => failure,
            };
            let beside =
                |failure: Failure, left: String| failure.cause(format!("left beside, for the next run: {left}"));
            let failure = left.into_iter().fold(failure, beside);
            failure.hint(format!("`holdfast history restore` keeps the story (act {})", act.short()))
        }
        Error::NotRolledBack { source, back, places, safety, act, .. } => {
            let failure = Failure::new(ExitCode::NotRolledBack, "restore.not_rolled_back", message);
            let failure = with_causes(failure, &source);
            let failure = back.into_iter().fold(failure, Failure::cause);
            let failure = places.into_iter().fold(failure, Failure::cause);
            let failure = failure.hint(format!(
                "remove the cause and run `holdfast rollback`, which tries again (act {}); nothing has to be done by hand",
                act.short()
            ));
            match safety {
                Some(safety) => failure.hint(format!("what was there before is saved as snapshot {safety}")),
                None => failure,
            }
        }
        Error::TakenOver { .. } => {
            Failure::new(ExitCode::Locked, "restore.taken_over", message).hint("`holdfast status` shows how far it is")
        }
    }
}

fn untouched(message: String, trouble: in_place::Trouble) -> Failure {
    use crate::ops::in_place::Trouble;
    let hint = "nothing was touched";
    match trouble {
        Trouble::Safety(error) => save_failure(error).hint(hint).hint(NO_SAFETY),
        Trouble::Repository(error) => Failure::from(error).hint(hint),
        other => {
            let mut failure = with_causes(Failure::new(ExitCode::Refused, "restore.untouched", message), &other);
            if other.is_interruption() {
                failure.exit = ExitCode::Interrupted;
            } else if let Some(exit) = exit_of(other) {
                failure.exit = exit;
            }
            failure.hint(hint)
        }
    }
}

/// The exit code of a cause that has one of its own.
fn exit_of(trouble: in_place::Trouble) -> Option<ExitCode> {
    use crate::ops::in_place::Trouble;
    let exit = match trouble {
        Trouble::Repository(error) => Failure::from(error).exit,
        Trouble::Restore(error) => super::restore::failure_of(error, std::path::Path::new("")).exit,
        Trouble::Replace(error) => Failure::from(error).exit,
        Trouble::Safety(error) => save_failure(error).exit,
        Trouble::Proof { .. } | Trouble::Unproved(_) | Trouble::Program { .. } | Trouble::Unreachable { .. } => {
            return None;
        }
        Trouble::Interrupted => ExitCode::Interrupted,
    };
    Some(exit).filter(|exit| !matches!(exit, ExitCode::RolledBack | ExitCode::NotRolledBack | ExitCode::Failed))
}

/// What is there now could not be saved.
pub(super) fn save_failure(error: in_place::SaveError) -> Failure {
    use crate::ops::in_place::SaveError;
    match error {
        SaveError::Backup(error) => super::backup::failure_of(error).cause("What is there now could not be saved"),
        SaveError::Incomplete { source_name, source } => {
            Failure::from(source).cause(format!("What is there now could not be saved: {source_name} failed"))
        }
    }
}

fn with_causes(failure: Failure, trouble: &in_place::Trouble) -> Failure {
    use crate::ops::in_place::Trouble;
    let mut failure = failure.caused_by(trouble);
    if let Trouble::Program { source, .. } = trouble {
        failure = source.output.lines().fold(failure, Failure::cause);
    }
    if let Trouble::Restore(crate::ops::restore::Error::Database(crate::target::database::TargetError::Failed {
        stderr,
        ..
    })) = trouble
    {
        failure = stderr.lines().filter(|line| !line.trim().is_empty()).fold(failure, Failure::cause);
    }
    failure
}
