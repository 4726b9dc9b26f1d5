//! The application's own commands: stop, start, status, and its check after a restore.

use crate::source::process::{ChildRead, Exit, ProcessSpec, Processes};
use std::time::{Duration, Instant};

/// How often a command that says nothing is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes of its output that are kept for messages.
const OUTPUT_KEPT_MAX: usize = 4096;

/// A command of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Program and arguments.
    pub words: Vec<String>,
    /// Longest time.
    pub timeout: Duration,
}

/// The commands around a restore; those that are not configured are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Stops the application.
    pub stop: Option<Program>,
    /// Starts it.
    pub start: Option<Program>,
    /// Succeeds while it runs.
    pub status: Option<Program>,
}

impl Service {
    /// True when there is something to stop or to start.
    pub fn is_configured(&self) -> bool {
        self.stop.is_some() || self.start.is_some()
    }
}

/// A command that did not do what it is for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {outcome}", .words.join(" "))]
pub struct ProgramError {
    /// The command.
    pub words: Vec<String>,
    /// The predicate of the sentence: `exited with status 1`.
    pub outcome: String,
    /// Last lines that it wrote.
    pub output: String,
}

/// Runs a command to its end, with no input.
///
/// # Errors
/// [`ProgramError`]: it cannot be started, fails, or takes too long and is ended.
pub fn run(processes: &dyn Processes, program: &Program) -> Result<String, ProgramError> {
    let failed = |outcome: String, output: String| ProgramError { words: program.words.clone(), outcome, output };
    let Some((first, rest)) = program.words.split_first() else {
        return Err(failed("names no program".to_owned(), String::new()));
    };
    let started = Instant::now();
    let spec = ProcessSpec::new(first, rest);
    let cannot = |error: std::io::Error| failed(format!("cannot be run: {error}"), String::new());
    let mut child = processes.spawn(&spec).map_err(cannot)?;
    let (mut kept, mut buffer) = (Vec::new(), [0u8; 4096]);
    let (mut ended, mut interrupted) = (None, false);
    // A daemon that the command leaves behind may hold its output open: the end of the command itself counts.
    while ended.is_none() && !interrupted && started.elapsed() < program.timeout {
        match child.read(&mut buffer, Some(LOOK_EVERY)).map_err(cannot)? {
            ChildRead::Bytes(0) => {
                let left = program.timeout.saturating_sub(started.elapsed());
                ended = child.wait(Some(left)).map_err(cannot)?;
                break;
            }
            ChildRead::Bytes(n) => {
                kept.extend_from_slice(buffer.get(..n).unwrap_or_default());
                let excess = kept.len().saturating_sub(OUTPUT_KEPT_MAX);
                kept.drain(..excess);
            }
            ChildRead::Stalled => ended = child.wait(Some(Duration::ZERO)).map_err(cannot)?,
            ChildRead::Interrupted => interrupted = true,
        }
    }
    let timed_out = started.elapsed() >= program.timeout;
    if ended.is_none() {
        child.kill();
    }
    let text = String::from_utf8_lossy(&kept).trim().to_owned();
    let output = [text.as_str(), child.stderr_tail().as_str()].join("\n").trim().to_owned();
    match ended {
        Some(Exit::Code(0)) => Ok(output),
        Some(exit) => Err(failed(exit.to_string(), output)),
        None if timed_out => {
            let limit = crate::domain::units::format_duration(program.timeout);
            Err(failed(format!("did not end within {limit} and was ended"), output))
        }
        None => Err(failed("was ended because the run was interrupted".to_owned(), output)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::process::SystemProcesses;

    fn shell(script: &str, timeout: Duration) -> Result<String, ProgramError> {
        let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        run(&SystemProcesses::default(), &Program { words, timeout })
    }

    #[test]
    fn success_failure_and_silence_are_told_apart() {
        assert_eq!(shell("echo fine", Duration::from_secs(20)).unwrap(), "fine");
        let failed = shell("echo out; echo problem >&2; exit 3", Duration::from_secs(20)).unwrap_err();
        assert_eq!((failed.outcome.as_str(), failed.output.as_str()), ("exited with status 3", "out\nproblem"));
        let hung = shell("sleep 60", Duration::from_millis(300)).unwrap_err();
        assert!(hung.outcome.contains("did not end within"), "{hung:?}");
        // Its output is closed, it is not over.
        let hung = shell("exec >/dev/null 2>&1; sleep 60", Duration::from_millis(300)).unwrap_err();
        assert!(hung.outcome.contains("did not end within"), "{hung:?}");
        let missing = Program { words: vec!["/nonexistent/x".to_owned()], timeout: Duration::from_secs(1) };
        assert!(run(&SystemProcesses::default(), &missing).unwrap_err().outcome.contains("cannot be run"));
    }

    #[test]
    fn a_daemon_left_behind_is_not_waited_for() {
        let began = Instant::now();
        shell("sleep 5 & echo started", Duration::from_secs(20)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
}
