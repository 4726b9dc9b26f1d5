//! Child processes: started, read with a limit on silence, judged, and never left behind.
//!
//! Every other file asks [`Processes`] for a program, so that a test can stand in for the system. Invariants: a child
//! runs in a process group of its own, and a [`Child`] that is dropped before it was waited for is ended (SIGTERM, then
//! SIGKILL, to the whole group) and reaped. The group is signalled only while its leader has not been reaped, because
//! only then the kernel cannot have given its number to somebody else. A child in the foreground shares our group; it is
//! ended with all that descend from it.
//! No secret belongs in `args`: they are visible to every user of the machine. Secrets travel in `env`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// Bytes of a child's stderr that are kept for messages.
pub const STDERR_TAIL_BYTES_MAX: usize = 8 * 1024;
/// How long a child may take to leave after SIGTERM before it gets SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// How often a waiting read looks at the interrupt flag.
const SLICE: Duration = Duration::from_millis(200);
/// How long to wait for the rest of stderr after the child has left; a grandchild may hold it open for ever.
const STDERR_GRACE: Duration = Duration::from_millis(500);

/// What a child reads as its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StdinMode {
    /// `/dev/null`: a program that asks a question gets the end of input.
    #[default]
    Null,
    /// A pipe, taken with [`Child::take_stdin`].
    Pipe,
    /// Ours.
    Inherit,
}

/// Where a child writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputMode {
    /// Stdout is a pipe that [`Child::read`] reads, stderr is drained into a bounded tail.
    #[default]
    Captured,
    /// Where we write: its stdout is ours, its stderr too.
    Inherit,
    /// All of it goes where our stderr goes, because our stdout belongs to somebody who reads a document there.
    ToStderr,
}

/// A program to start.
#[derive(Clone, Default)]
pub struct ProcessSpec {
    /// The program: a path, or a name that is looked up on PATH.
    pub program: OsString,
    /// Its arguments. Never a secret.
    pub args: Vec<OsString>,
    /// Changes to the inherited environment; `None` removes the variable.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// Standard input.
    pub stdin: StdinMode,
    /// Working directory; ours if none.
    pub directory: Option<std::path::PathBuf>,
    /// Numbers of the user and group that it runs as, without any further group; ours if none. Needs root.
    pub user: Option<(u32, u32)>,
    /// Standard output and standard error.
    pub output: OutputMode,
    /// It stays in our process group, so that a terminal stays its own: it may read from it, and keys like Ctrl-C reach it.
    pub foreground: bool,
}

impl ProcessSpec {
    /// A program with arguments, no changes to the environment and no input.
    pub fn new(program: impl Into<OsString>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stdin: StdinMode::Null,
            directory: None,
            user: None,
            output: OutputMode::Captured,
            foreground: false,
        }
    }

    /// The program's name without its directory, for messages.
    pub fn name(&self) -> String {
        let path = std::path::Path::new(&self.program);
        path.file_name().unwrap_or(&self.program).to_string_lossy().into_owned()
    }
}

impl std::fmt::Debug for ProcessSpec {
    /// Names the variables only: their values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("ProcessSpec")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &names)
            .field("stdin", &self.stdin)
            .finish()
    }
}

/// What one read from a child gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildRead {
    /// So many bytes; 0 at the end.
    Bytes(usize),
    /// No byte came within the given time.
    Stalled,
    /// The run was interrupted while waiting.
    Interrupted,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// True for status 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Code(-1),
        }
    }
}

impl std::fmt::Display for Exit {
    /// `exited with status 1`, `was killed by signal 9`: the predicate of a sentence.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// Starts programs.
pub trait Processes: Send + Sync {
    /// Starts one program. Its stdout is a pipe to us, its stderr is drained into a bounded tail.
    /// # Errors
    /// What the system says: not found, not executable, out of processes.
    fn spawn(&self, spec: &ProcessSpec) -> io::Result<Box<dyn Child>>;
}

/// A running program. Dropping it ends it.
pub trait Child: Send {
    /// Reads stdout; waits at most `stall` for the next byte.
    /// # Errors
    /// What the system says.
    fn read(&mut self, buffer: &mut [u8], stall: Option<Duration>) -> io::Result<ChildRead>;
    /// The writing end of stdin, once, if the spec asked for a pipe. Dropping it is the end of input.
    fn take_stdin(&mut self) -> Option<Box<dyn Write + Send>>;
    /// Its process id, where it has one on this machine.
    fn id(&self) -> Option<u32> {
        None
    }
    /// The last lines of stderr so far.
    fn stderr_tail(&self) -> String;
    /// Waits for the end; `None` when `timeout` passed first. Repeatable.
    /// # Errors
    /// What the system says.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Option<Exit>>;
    /// Ends the whole process group and reaps the child.
    fn kill(&mut self);
}

/// The processes of this machine.
#[derive(Debug, Clone, Default)]
pub struct SystemProcesses {
    interrupt: Option<Arc<AtomicBool>>,
}

impl SystemProcesses {
    /// Processes whose reads and waits end early when `interrupt` turns true.
    pub fn new(interrupt: Option<Arc<AtomicBool>>) -> Self {
        Self { interrupt }
    }
}

impl Processes for SystemProcesses {
    fn spawn(&self, spec: &ProcessSpec) -> io::Result<Box<dyn Child>> {
        let mut command = Command::new(&spec.program);
        command.args(&spec.args);
        if !spec.foreground {
            command.process_group(0);
        }
        command.stdin(match spec.stdin {
            StdinMode::Null => Stdio::null(),
            StdinMode::Pipe => Stdio::piped(),
            StdinMode::Inherit => Stdio::inherit(),
        });
        match spec.output {
            OutputMode::Captured => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
            OutputMode::Inherit => command.stdout(Stdio::inherit()).stderr(Stdio::inherit()),
            OutputMode::ToStderr => {
                let ours = io::stderr().as_fd().try_clone_to_owned()?;
                command.stdout(Stdio::from(ours)).stderr(Stdio::inherit())
            }
        };
        for (name, value) in &spec.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = &spec.directory {
            command.current_dir(directory);
        }
        if let Some((user, group)) = spec.user {
            // This drops the groups of root, too.
            command.uid(user).gid(group);
        }
        let mut child = command.spawn()?;
        let tail = Arc::new(Tail::default());
        if let Some(stderr) = child.stderr.take() {
            let shared = Arc::clone(&tail);
            // A thread, because a child that fills its stderr pipe while we wait for its stdout would stand still.
            std::thread::Builder::new().name("stderr".into()).spawn(move || shared.drain(stderr))?;
        } else {
            tail.close();
        }
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (interrupt, in_foreground) = (self.interrupt.clone(), spec.foreground);
        Ok(Box::new(SystemChild { child, stdin, stdout, tail, interrupt, in_foreground, exit: None }))
    }
}

#[derive(Default)]
struct TailState {
    bytes: VecDeque<u8>,
    cut: bool,
    closed: bool,
}

/// The end of a stderr, shared between the thread that drains it and the handle that quotes it.
#[derive(Default)]
struct Tail {
    state: Mutex<TailState>,
    closed: Condvar,
}

impl Tail {
    fn lock(&self) -> MutexGuard<'_, TailState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self, mut stderr: ChildStderr) {
        let mut buffer = [0u8; 4096];
        loop {
            match stderr.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    let mut state = self.lock();
                    state.bytes.extend(buffer.iter().take(n));
                    let excess = state.bytes.len().saturating_sub(STDERR_TAIL_BYTES_MAX);
                    state.cut |= excess > 0;
                    state.bytes.drain(..excess);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.close();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.closed.notify_all();
    }

    fn wait_closed(&self, limit: Duration) {
        let guard = self.lock();
        drop(self.closed.wait_timeout_while(guard, limit, |state| !state.closed));
    }

    fn text(&self) -> String {
        let state = self.lock();
        let bytes: Vec<u8> = state.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        if state.cut { format!("... {text}") } else { text.to_owned() }
    }
}

struct SystemChild {
    child: std::process::Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    tail: Arc<Tail>,
    interrupt: Option<Arc<AtomicBool>>,
    in_foreground: bool,
    exit: Option<Exit>,
}

/// A process and the tick at which it started, which tells it from a later one of the same id.
type Incarnation = (i32, String);

/// Id, parent and start of every process that can be seen.
fn all_processes() -> Vec<(Incarnation, i32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|id| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // the name may hold spaces and parentheses
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(((id, (*fields.get(19)?).to_owned()), fields.get(1)?.parse().ok()?))
    })
    .collect()
}

/// The processes that descend from one.
fn descendants(of: i32) -> Vec<Incarnation> {
    let all = all_processes();
    let mut found: Vec<Incarnation> = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for (process, above) in &all {
            if *above == parent && !found.contains(process) {
                parents.push(process.0);
                found.push(process.clone());
            }
        }
    }
    found
}

/// Signals those of the processes that still are the ones that were seen.
fn signal_all(processes: &[Incarnation], signal: Signal) {
    let all = all_processes();
    for process in processes.iter().filter(|process| all.iter().any(|(other, _)| other == *process)) {
        if let Some(pid) = Pid::from_raw(process.0) {
            // It fails only when the process is already gone, which is what we want.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl SystemChild {
    fn interrupted(&self) -> bool {
        self.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// True when the child has ended, without reaping it.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        match self.pid() {
            Some(pid) => !matches!(rustix::process::waitid(WaitId::Pid(pid), options), Ok(None)),
            None => true,
        }
    }

    fn await_end(&self, timeout: Option<Duration>, obey_interrupt: bool) -> bool {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if self.has_ended() {
                return true;
            }
            let left = timeout.map(|limit| limit.saturating_sub(start.elapsed()));
            if left == Some(Duration::ZERO) || (obey_interrupt && self.interrupted()) {
                return false;
            }
            std::thread::sleep(left.map_or(pause, |left| pause.min(left)));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It fails only when the group is already gone, which is what we want.
            let _ = match self.in_foreground {
                true => rustix::process::kill_process(pid, signal),
                false => rustix::process::kill_process_group(pid, signal),
            };
        }
    }
}

impl Child for SystemChild {
    fn read(&mut self, buffer: &mut [u8], stall: Option<Duration>) -> io::Result<ChildRead> {
        let start = Instant::now();
        loop {
            if self.interrupted() {
                return Ok(ChildRead::Interrupted);
            }
            let Some(stdout) = self.stdout.as_mut() else { return Ok(ChildRead::Bytes(0)) };
            if self.interrupt.is_some() || stall.is_some() {
                let left = stall.map_or(SLICE, |limit| limit.saturating_sub(start.elapsed()).min(SLICE));
                let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
                let mut fds = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
                match rustix::event::poll(&mut fds, Some(&timeout)) {
                    Ok(0) if stall.is_some_and(|limit| start.elapsed() >= limit) => return Ok(ChildRead::Stalled),
                    Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                    Ok(_) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            match stdout.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(ChildRead::Bytes),
            }
        }
    }

    fn take_stdin(&mut self) -> Option<Box<dyn Write + Send>> {
        self.stdin.take().map(|stdin| Box::new(stdin) as Box<dyn Write + Send>)
    }

    fn id(&self) -> Option<u32> {
        Some(self.child.id())
    }

    fn stderr_tail(&self) -> String {
        self.tail.text()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Option<Exit>> {
        if let Some(exit) = self.exit {
            return Ok(Some(exit));
        }
        if !self.await_end(timeout, true) {
            return Ok(None);
        }
        let exit = Exit::from(self.child.wait()?);
        self.exit = Some(exit);
        self.tail.wait_closed(STDERR_GRACE);
        Ok(Some(exit))
    }

    fn kill(&mut self) {
        if self.exit.is_some() {
            return;
        }
        self.stdin = None;
        self.stdout = None;
        let below = match self.pid() {
            Some(pid) if self.in_foreground => descendants(pid.as_raw_nonzero().get()),
            _ => Vec::new(),
        };
        self.signal_group(Signal::TERM);
        signal_all(&below, Signal::TERM);
        self.await_end(Some(TERM_GRACE), false);
        signal_all(&below, Signal::KILL);
        // Also when the leader is gone: others of its group may have ignored SIGTERM. The leader is not reaped yet, so
        // the number of the group is still ours.
        self.signal_group(Signal::KILL);
        self.exit = self.child.wait().ok().map(Exit::from);
        self.tail.wait_closed(STDERR_GRACE);
    }
}

impl Drop for SystemChild {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Box<dyn Child> {
        SystemProcesses::default().spawn(&ProcessSpec::new("/bin/sh", ["-c", script])).unwrap()
    }

    fn read_all(child: &mut dyn Child) -> Vec<u8> {
        let (mut out, mut buffer) = (Vec::new(), [0u8; 1000]);
        loop {
            match child.read(&mut buffer, Some(Duration::from_secs(30))).unwrap() {
                ChildRead::Bytes(0) => return out,
                ChildRead::Bytes(n) => out.extend_from_slice(&buffer[..n]),
                other => panic!("{other:?}"),
            }
        }
    }

    fn process_exists(pid: &str) -> bool {
        // A zombie that waits for its new parent counts as gone.
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn output_status_and_stderr_arrive() {
        let mut child = shell("echo out; echo problem >&2; exit 3");
        assert_eq!(read_all(child.as_mut()), b"out\n");
        assert_eq!(child.wait(None).unwrap(), Some(Exit::Code(3)));
        assert_eq!(child.stderr_tail(), "problem");
    }

    #[test]
    fn a_flood_on_stderr_does_not_block_and_is_bounded() {
        let mut child = shell(
            "i=0; while [ $i -lt 3000 ]; do echo 'a line of some length, again and again' >&2; i=$((i+1)); done; echo last >&2; echo done",
        );
        assert_eq!(read_all(child.as_mut()), b"done\n");
        assert_eq!(child.wait(None).unwrap(), Some(Exit::Code(0)));
        let tail = child.stderr_tail();
        assert!(tail.ends_with("last") && tail.len() <= STDERR_TAIL_BYTES_MAX + 4, "{}", tail.len());
    }

    #[test]
    fn silence_is_noticed_and_the_whole_group_is_ended() {
        // The shell ignores SIGTERM, and so do its children: only SIGKILL to the group ends them.
        let mut child = shell("trap '' TERM; sleep 600 & echo $$ $!; wait");
        let mut buffer = [0u8; 100];
        let ChildRead::Bytes(n) = child.read(&mut buffer, Some(Duration::from_secs(30))).unwrap() else { panic!() };
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let pids: Vec<&str> = text.split_whitespace().collect();
        assert!(pids.len() == 2 && pids.iter().all(|pid| process_exists(pid)), "{text}");
        assert_eq!(child.read(&mut buffer, Some(Duration::from_millis(50))).unwrap(), ChildRead::Stalled);
        drop(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while pids.iter().any(|pid| process_exists(pid)) {
            assert!(Instant::now() < deadline, "a process of the group lives on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_child_in_the_foreground_is_ended_with_its_descendants() {
        let mut spec = ProcessSpec::new("/bin/sh", ["-c", "trap '' TERM; sh -c 'sleep 600; true' & echo $$ $!; wait"]);
        spec.foreground = true;
        let mut child = SystemProcesses::default().spawn(&spec).unwrap();
        let mut buffer = [0u8; 100];
        let ChildRead::Bytes(n) = child.read(&mut buffer, Some(Duration::from_secs(30))).unwrap() else { panic!() };
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let leader: i32 = text.split_whitespace().next().unwrap().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while descendants(leader).len() < 2 {
            assert!(Instant::now() < deadline, "the grandchild does not start");
            std::thread::yield_now();
        }
        let below = descendants(leader);
        child.kill();
        // by the signal, or by itself once what it waited for was gone
        assert!(child.wait(None).unwrap().is_some());
        while below.iter().any(|(pid, _)| process_exists(&pid.to_string())) {
            assert!(Instant::now() < deadline, "a descendant lives on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_interrupt_ends_a_wait() {
        let flag = Arc::new(AtomicBool::new(true));
        let mut child =
            SystemProcesses::new(Some(flag)).spawn(&ProcessSpec::new("/bin/sh", ["-c", "sleep 600"])).unwrap();
        assert_eq!(child.read(&mut [0u8; 10], None).unwrap(), ChildRead::Interrupted);
        assert_eq!(child.wait(None).unwrap(), None);
    }

    #[test]
    fn stdin_is_a_pipe_and_signals_are_told() {
        let mut spec = ProcessSpec::new("/bin/sh", ["-c", "cat; kill -9 $$"]);
        spec.stdin = StdinMode::Pipe;
        let mut child = SystemProcesses::default().spawn(&spec).unwrap();
        child.take_stdin().unwrap().write_all(b"hello").unwrap();
        assert_eq!(read_all(child.as_mut()), b"hello");
        let exit = child.wait(None).unwrap().unwrap();
        assert_eq!((exit, exit.to_string().as_str()), (Exit::Signal(9), "was killed by signal 9"));
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let mut spec = ProcessSpec::new("pg_dump", ["app"]);
        spec.env.push(("PGPASSWORD".into(), Some("hunter2".into())));
        assert!(!format!("{spec:?}").contains("hunter2"));
    }
}
