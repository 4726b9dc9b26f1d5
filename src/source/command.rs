//! Programs and standard input as streams.
//!
//! A program's output is good only when it ended with status 0, gave at least one byte, and, where the bytes are those
//! of a known kind of dump, the dump is whole. Bytes pass through untouched.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::postgres::inspect::{Inspector, Promise};
use super::process::{Child, ChildRead, ProcessSpec, Processes};
use super::{SourceError, SourceStream, StreamProof};
use crate::domain::snapshot::SourceWarning;

/// How often a read that waits looks whether the run is to end.
const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A program that closed its stdout has this long to leave, if no other limit is set.
const EXIT_GRACE: Duration = Duration::from_secs(600);

/// The output of a program.
pub struct CommandStream {
    child: Box<dyn Child>,
    program: String,
    subject: String,
    stall: Option<Duration>,
    inspector: Inspector,
    ended: bool,
}

impl CommandStream {
    /// Starts a program. `subject` names the source in messages; `stall` ends a program that gives no byte for so long.
    /// # Errors
    /// [`SourceError::Client`] when the program cannot be started.
    pub fn start(
        processes: &dyn Processes,
        spec: &ProcessSpec,
        subject: &str,
        stall: Option<Duration>,
    ) -> Result<Self, SourceError> {
        Self::promised(processes, spec, subject, stall, Promise::Anything)
    }

    /// Like [`Self::start`], for a program whose output must be of a known kind.
    /// # Errors
    /// [`SourceError::Client`] when the program cannot be started.
    pub fn promised(
        processes: &dyn Processes,
        spec: &ProcessSpec,
        subject: &str,
        stall: Option<Duration>,
        promise: Promise,
    ) -> Result<Self, SourceError> {
        let child = processes.spawn(spec).map_err(|error| cannot_start(spec, &error))?;
        let inspector = Inspector::new(promise);
        Ok(Self { child, program: spec.name(), subject: subject.to_owned(), stall, inspector, ended: false })
    }

    fn failed(&self, outcome: String) -> SourceError {
        SourceError::Failed { program: self.program.clone(), outcome, stderr: self.child.stderr_tail() }
    }

    fn stalled(&mut self) -> SourceError {
        let seconds = self.stall.unwrap_or(EXIT_GRACE).as_secs_f32();
        let outcome = format!("gave no sign of life for {seconds} s and was ended");
        self.child.kill();
        self.failed(outcome)
    }
}

/// The error for a program that the system did not start.
pub fn cannot_start(spec: &ProcessSpec, error: &io::Error) -> SourceError {
    let program = spec.program.to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound => SourceError::Client {
            reason: format!("Cannot find the program '{program}'"),
            hint: "install it, or give its full path".into(),
        },
        io::ErrorKind::PermissionDenied => SourceError::Client {
            reason: format!("The program '{program}' may not be run: {error}"),
            hint: "check its permissions and those of its directory".into(),
        },
        _ => SourceError::Client {
            reason: format!("Cannot start the program '{program}': {error}"),
            hint: "check that it is a program of this machine".into(),
        },
    }
}

impl SourceStream for CommandStream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        match self.child.read(buffer, self.stall) {
            Ok(ChildRead::Bytes(n)) => {
                self.ended |= n == 0 && !buffer.is_empty();
                self.inspector.feed(buffer.get(..n).unwrap_or_default());
                Ok(n)
            }
            Ok(ChildRead::Stalled) => Err(self.stalled()),
            Ok(ChildRead::Interrupted) => {
                self.child.kill();
                Err(SourceError::Interrupted)
            }
            Err(error) => Err(self.failed(format!("cannot be read from: {error}"))),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<StreamProof, SourceError> {
        if !self.ended {
            return Err(unfinished(&self.subject));
        }
        match self.child.wait(Some(self.stall.unwrap_or(EXIT_GRACE))) {
            Ok(Some(exit)) if exit.success() => {}
            Ok(Some(exit)) => return Err(self.failed(exit.to_string())),
            Ok(None) => return Err(self.stalled()),
            Err(error) => return Err(self.failed(format!("cannot be waited for: {error}"))),
        }
        let stderr = self.child.stderr_tail();
        let Self { subject, program, inspector, .. } = *self;
        let may_be_empty = inspector.may_be_empty();
        match inspector.finish() {
            Ok(mut proof) => {
                if !stderr.is_empty() {
                    proof.warnings.push(SourceWarning {
                        code: "command.stderr".into(),
                        subject: program.clone(),
                        message: format!("{program} succeeded and said: {stderr}"),
                        incomplete: false,
                    });
                }
                Ok(proof)
            }
            Err(reason) if stderr.is_empty() => Err(not_good(subject, reason, may_be_empty)),
            Err(reason) => Err(not_good(subject, format!("{reason}; {program} said: {stderr}"), may_be_empty)),
        }
    }
}

/// What the inspector refused.
fn not_good(subject: String, reason: String, may_be_empty: bool) -> SourceError {
    if may_be_empty { SourceError::Empty { subject, reason } } else { SourceError::Content { subject, reason } }
}

fn unfinished(subject: &str) -> SourceError {
    SourceError::Content { subject: subject.to_owned(), reason: "was not read to its end".into() }
}

/// Standard input that does not wait on when the run is to end. A signal alone does not end a read: the system resumes
/// it, and whoever writes may never write again.
pub struct InterruptibleInput {
    input: File,
    interrupt: Arc<AtomicBool>,
}

impl InterruptibleInput {
    /// This process's standard input, without a buffer. Reads give [`io::ErrorKind::Interrupted`] once `interrupt` is
    /// true.
    /// # Errors
    /// What the system says.
    pub fn standard(interrupt: Arc<AtomicBool>) -> io::Result<Self> {
        Ok(Self { input: File::from(io::stdin().as_fd().try_clone_to_owned()?), interrupt })
    }
}

impl Read for InterruptibleInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.interrupt.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let mut fds = [PollFd::from_borrowed_fd(self.input.as_fd(), PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&SLICE)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.input.read(buffer),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Standard input, or any reader that stands for it.
pub struct StdinStream {
    reader: Box<dyn Read + Send>,
    interrupt: Option<Arc<AtomicBool>>,
    inspector: Inspector,
    ended: bool,
}

impl StdinStream {
    /// A stream over a reader. Once `interrupt` is true, an interrupted read ends the stream.
    pub fn new(reader: Box<dyn Read + Send>, interrupt: Option<Arc<AtomicBool>>) -> Self {
        Self { reader, interrupt, inspector: Inspector::new(Promise::Anything), ended: false }
    }
}

/// How messages call standard input.
const STDIN: &str = "Standard input";

impl SourceStream for StdinStream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            match self.reader.read(buffer) {
                Ok(n) => {
                    self.ended |= n == 0 && !buffer.is_empty();
                    self.inspector.feed(buffer.get(..n).unwrap_or_default());
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    if self.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::SeqCst)) {
                        return Err(SourceError::Interrupted);
                    }
                }
                Err(error) => {
                    return Err(SourceError::Content {
                        subject: STDIN.into(),
                        reason: format!("cannot be read: {error}"),
                    });
                }
            }
        }
    }

    fn finish(self: Box<Self>) -> Result<StreamProof, SourceError> {
        if !self.ended {
            return Err(unfinished(STDIN));
        }
        let may_be_empty = self.inspector.may_be_empty();
        self.inspector.finish().map_err(|reason| not_good(STDIN.into(), reason, may_be_empty))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::process::SystemProcesses;

    fn drain(mut stream: Box<dyn SourceStream>) -> Result<(Vec<u8>, StreamProof), SourceError> {
        let (mut out, mut buffer) = (Vec::new(), [0u8; 4096]);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok((out, stream.finish()?)),
                n => out.extend_from_slice(&buffer[..n]),
            }
        }
    }

    fn shell(script: &str, stall: Option<Duration>) -> Result<(Vec<u8>, StreamProof), SourceError> {
        let spec = ProcessSpec::new("/bin/sh", ["-c", script]);
        drain(Box::new(CommandStream::start(&SystemProcesses::default(), &spec, "redis", stall)?))
    }

    #[test]
    fn good_output_is_exactly_what_the_program_wrote() {
        let (bytes, proof) = shell("printf 'a\\000b'", None).unwrap();
        assert_eq!((bytes.as_slice(), proof), (&b"a\0b"[..], StreamProof::default()));
        let (_, proof) = shell("echo x; echo careful >&2", None).unwrap();
        assert!(proof.warnings[0].code == "command.stderr" && proof.warnings[0].message.contains("careful"));
    }

    #[test]
    fn every_bad_end_is_an_error_with_its_reason() {
        for (script, stall, wanted) in [
            ("echo data; echo broken >&2; exit 3", None, "sh exited with status 3"),
            ("echo data; kill -9 $$", None, "sh was killed by signal 9"),
            ("exit 0", None, "redis gave no bytes"),
            ("echo only stderr >&2", None, "redis gave no bytes; sh said: only stderr"),
            ("echo data; sleep 600", Some(Duration::from_millis(300)), "sh gave no sign of life"),
            ("echo data; exec >&-; sleep 600", Some(Duration::from_millis(300)), "sh gave no sign of life"),
            ("printf -- '--\\n-- PostgreSQL database dump\\n--\\n'", None, "redis is a truncated dump of pg_dump"),
        ] {
            let error = shell(script, stall).unwrap_err();
            assert!(error.to_string().starts_with(wanted), "{script}: {error}");
            if let SourceError::Failed { stderr, .. } = &error {
                assert_eq!(stderr.contains("broken"), script.contains("broken"));
            }
        }
    }

    #[test]
    fn a_missing_program_has_a_hint() {
        for program in ["holdfast-no-such-program", "/nonexistent/program", "/etc/passwd"] {
            let spec = ProcessSpec::new(program, ["x"]);
            let error = CommandStream::start(&SystemProcesses::default(), &spec, "x", None).err().unwrap();
            assert!(
                matches!(&error, SourceError::Client { reason, hint } if reason.contains(program) && !hint.is_empty())
            );
        }
    }

    #[test]
    fn stdin_is_stored_as_it_comes_and_empty_is_an_error() {
        let (bytes, _) = drain(Box::new(StdinStream::new(Box::new(&b"hello"[..]), None))).unwrap();
        assert_eq!(bytes, b"hello");
        let error = drain(Box::new(StdinStream::new(Box::new(io::empty()), None))).unwrap_err();
        assert_eq!(error.to_string(), "Standard input gave no bytes");
        let (_, proof) = drain(Box::new(StdinStream::new(Box::new(&[0x1f, 0x8b, 8, 0, 0][..]), None))).unwrap();
        assert_eq!(proof.warnings[0].code, "stream.compressed");
        assert!(Box::new(StdinStream::new(Box::new(&b"hello"[..]), None)).finish().is_err(), "not read to its end");
    }
}
