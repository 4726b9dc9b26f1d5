//! Signals: SIGINT and SIGTERM ask for an orderly end, SIGUSR1 for a line of progress.
//!
//! The first SIGINT or SIGTERM only sets the [`Cancel`] token, so that a run cleans up; a second one ends the process
//! at once with the same exit code. SIGXFSZ does nothing, so that writing beyond a limit gives an error. A crash is safe
//! anyway, so impatience costs nothing but left-over temporary objects.

use super::exit_code::ExitCode;
use crate::ops::cancel::Cancel;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Connects the signals.
///
/// # Errors
/// When the system refuses the handlers.
pub fn install(cancel: &Cancel, wants_line: &Arc<AtomicBool>) -> std::io::Result<()> {
    for (signal, exit) in [(SIGINT, ExitCode::Interrupted), (SIGTERM, ExitCode::Terminated)] {
        // In this order: the shutdown sees the flag only as an earlier signal left it.
        flag::register_conditional_shutdown(signal, i32::from(exit.code()), cancel.flag())?;
        flag::register_usize(signal, cancel.signal_slot(), usize::try_from(signal).unwrap_or_default())?;
        flag::register(signal, cancel.flag())?;
    }
    flag::register(SIGUSR1, Arc::clone(wants_line))?;
    // A limit on the size of files must give an error, not end the process. A handler, unlike ignoring the signal, is
    // not inherited by the programs that a run starts.
    flag::register(SIGXFSZ, Arc::default())?;
    Ok(())
}

/// The exit code of a run that was cancelled.
pub fn exit_code(cancel: &Cancel) -> ExitCode {
    let terminated = usize::try_from(SIGTERM).ok();
    if cancel.signal().is_some() && cancel.signal() == terminated {
        ExitCode::Terminated
    } else {
        ExitCode::Interrupted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn signals_set_the_token() {
        // Signals belong to the whole test process, so one test tries all of them.
        let (cancel, line) = (Cancel::new(), Arc::new(AtomicBool::new(false)));
        install(&cancel, &line).unwrap();
        assert_eq!(exit_code(&cancel), ExitCode::Interrupted);
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        assert!(line.load(Ordering::SeqCst) && !cancel.is_cancelled());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(cancel.is_cancelled());
        assert_eq!(exit_code(&cancel), ExitCode::Terminated);
    }
}
