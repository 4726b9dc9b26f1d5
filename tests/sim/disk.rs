//! A disk in memory that behaves as POSIX promises and no better: bytes are safe after a sync of their file, names after
//! a sync of their folder, and everything else may be lost, torn or reordered when the power goes.
//!
//! Each simulated process has a handle of its own; it can be killed (its handles fail from then on, its locks are
//! free), the power can go (all processes die and what was not synced is lost), and every call can be made to fail, to
//! fail after it was carried out, or to be forgotten. Calls of several processes are interleaved by a seed.

use crate::dice::Dice;
use holdfast::format::parity::ParityShare;
use holdfast::fsio::disk::{Disk, DiskFile};
use holdfast::fsio::folder::{Item, Kind};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::TryLockError;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A simulated process.
pub(crate) type Pid = u32;

/// Kinds of call, for schedules of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Call {
    Look,
    Read,
    Lock,
    CreateFile,
    CreateFolder,
    Append,
    Sync,
    SyncFolder,
    Rename,
    RemoveFile,
    RemoveFolder,
}

impl Call {
    /// True for calls that change something, or make it durable.
    pub(crate) fn mutates(self) -> bool {
        !matches!(self, Self::Look | Self::Read | Self::Lock)
    }
}

/// What a schedule of faults is asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub(crate) pid: Pid,
    /// Calls before this one since the schedule was set.
    pub(crate) calls: u64,
    /// Mutating calls before this one since the schedule was set.
    pub(crate) mutations: u64,
    pub(crate) call: Call,
    pub(crate) path: &'a str,
}

/// How the world ends for the process that calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// SIGKILL: what it did stays visible.
    Kill,
    /// The power goes: every process dies, and what was not synced is lost as the seed says.
    Power(u64),
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    DieBefore(Death),
    /// Half of what an append writes is written.
    DieHalfway(Death),
    DieAfter(Death),
    /// The call fails with this error number and has no effect, except that a failed sync loses what it should have
    /// made durable (as Linux does).
    Fail(i32),
    /// It is carried out, and fails all the same.
    FailAfter(i32),
    /// It is reported as done, and nothing happens.
    Pretend,
    /// Appended bytes are changed on the way.
    Garble,
}

/// How a folder is not seen as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blind {
    /// Nothing is in it.
    Empty,
    /// It is as it was when it was listed first.
    AsFirstSeen,
}

/// A folder that is not seen as it is, and what was seen first.
type Blinded = (Blind, Option<Vec<Item>>);

/// Decides what happens to each call.
pub(crate) type Faults = Box<dyn FnMut(&Moment<'_>) -> Verdict + Send>;

#[derive(Debug, Clone)]
enum Node {
    File { bytes: Arc<Vec<u8>>, durable: Arc<Vec<u8>>, poisoned: bool, names: u32 },
    Folder { names: BTreeMap<String, u64>, durable: BTreeMap<String, u64> },
}

/// A change of names that is not durable yet.
#[derive(Debug, Clone)]
enum Change {
    Add { folder: u64, name: String, node: u64 },
    Remove { folder: u64, name: String },
    Move { from: (u64, String), to: (u64, String), node: u64 },
}

impl Change {
    fn keys(&self) -> Vec<(u64, &str)> {
        match self {
            Self::Add { folder, name, .. } | Self::Remove { folder, name } => vec![(*folder, name.as_str())],
            Self::Move { from, to, .. } => vec![(from.0, from.1.as_str()), (to.0, to.1.as_str())],
        }
    }
}

/// What is on the disk: all of it, what is durable and what is not.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    nodes: HashMap<u64, Node>,
    next: u64,
    log: Vec<Change>,
}

const ROOT: u64 = 0;

impl Default for Image {
    fn default() -> Self {
        let root = Node::Folder { names: BTreeMap::new(), durable: BTreeMap::new() };
        Self { nodes: HashMap::from([(ROOT, root)]), next: 1, log: Vec::new() }
    }
}

fn errno(code: rustix::io::Errno) -> io::Error {
    io::Error::from_raw_os_error(code.raw_os_error())
}

use rustix::io::Errno;

impl Image {
    fn names(&self, folder: u64) -> io::Result<&BTreeMap<String, u64>> {
        match self.nodes.get(&folder) {
            Some(Node::Folder { names, .. }) => Ok(names),
            Some(Node::File { .. }) => Err(errno(Errno::NOTDIR)),
            None => Err(errno(Errno::NOENT)),
        }
    }

    fn names_mut(&mut self, folder: u64) -> &mut BTreeMap<String, u64> {
        match self.nodes.get_mut(&folder) {
            Some(Node::Folder { names, .. }) => names,
            _ => panic!("no folder {folder}"),
        }
    }

    /// The node of a path below a folder.
    fn resolve(&self, base: u64, path: &str) -> io::Result<u64> {
        let parts = path.split('/').filter(|part| *part != "." && !part.is_empty());
        parts.into_iter().try_fold(base, |at, part| self.names(at)?.get(part).copied().ok_or(errno(Errno::NOENT)))
    }

    /// The folder and name that a path ends with.
    fn place<'p>(&self, base: u64, path: &'p str) -> io::Result<(u64, &'p str)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        let folder = self.resolve(base, folder)?;
        self.names(folder)?;
        Ok((folder, name))
    }

    fn add(&mut self, folder: u64, name: &str, node: Node) -> u64 {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.names_mut(folder).insert(name.to_owned(), id);
        self.log.push(Change::Add { folder, name: name.to_owned(), node: id });
        id
    }

    fn remove(&mut self, folder: u64, name: &str) {
        if let Some(id) = self.names_mut(folder).remove(name)
            && let Some(Node::File { names, .. }) = self.nodes.get_mut(&id)
        {
            *names -= 1;
        }
        self.log.push(Change::Remove { folder, name: name.to_owned() });
    }

    /// Bytes of all files that have a name.
    pub(crate) fn used_bytes(&self) -> u64 {
        let bytes = |node: &Node| match node {
            Node::File { bytes, names, .. } if *names > 0 => bytes.len() as u64,
            _ => 0,
        };
        self.nodes.values().map(bytes).sum()
    }

    /// Makes chosen changes durable, with all earlier ones about the same names.
    fn settle(&mut self, mut chosen: Vec<bool>) {
        let mut wanted: HashSet<(u64, String)> = HashSet::new();
        for (at, change) in self.log.iter().enumerate().rev() {
            let keys = change.keys();
            if chosen[at] || keys.iter().any(|key| wanted.contains(&(key.0, key.1.to_owned()))) {
                chosen[at] = true;
                wanted.extend(keys.into_iter().map(|key| (key.0, key.1.to_owned())));
            }
        }
        let log = std::mem::take(&mut self.log);
        for (change, now) in log.into_iter().zip(chosen) {
            if !now {
                self.log.push(change);
                continue;
            }
            let mut durable = |folder: u64, act: &mut dyn FnMut(&mut BTreeMap<String, u64>)| {
                if let Some(Node::Folder { durable, .. }) = self.nodes.get_mut(&folder) {
                    act(durable);
                }
            };
            match change {
                Change::Add { folder, name, node } => durable(folder, &mut |names| {
                    names.insert(name.clone(), node);
                }),
                Change::Remove { folder, name } => durable(folder, &mut |names| {
                    names.remove(&name);
                }),
                Change::Move { from, to, node } => {
                    durable(from.0, &mut |names| {
                        names.remove(&from.1);
                    });
                    durable(to.0, &mut |names| {
                        names.insert(to.1.clone(), node);
                    });
                }
            }
        }
    }

    fn sync_folder(&mut self, folder: u64) {
        let chosen = self.log.iter().map(|change| change.keys().iter().any(|key| key.0 == folder)).collect();
        self.settle(chosen);
    }

    /// The power goes. In half of all cases names are kept in the order in which they were changed, as a journal keeps
    /// them, in the others any of them, as the standard allows.
    pub(crate) fn lose_power(&mut self, dice: &mut Dice) {
        let length = self.log.len() as u64;
        let chosen = if dice.one_in(2) {
            let kept = dice.below(length + 1);
            (0..length).map(|at| at < kept).collect()
        } else {
            let odds = 1 + dice.below(4);
            (0..length).map(|_| dice.below(5) < odds).collect()
        };
        self.settle(chosen);
        self.log.clear();
        let mut ids: Vec<u64> = self.nodes.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            match self.nodes.get_mut(&id) {
                Some(Node::Folder { names, durable }) => *names = durable.clone(),
                Some(Node::File { bytes, durable, poisoned, names }) => {
                    *names = 0;
                    if !Arc::ptr_eq(bytes, durable) && bytes != durable {
                        let torn = torn(bytes, durable, dice);
                        (*bytes, *durable) = (Arc::clone(&torn), torn);
                    }
                    *poisoned = false;
                }
                None => {}
            }
        }
        let (mut kept, mut open) = (HashSet::from([ROOT]), vec![ROOT]);
        while let Some(folder) = open.pop() {
            let below: Vec<u64> = self.names(folder).map(|names| names.values().copied().collect()).unwrap_or_default();
            for id in below {
                match self.nodes.get_mut(&id) {
                    Some(Node::File { names, .. }) => *names += 1,
                    _ => open.push(id),
                }
                kept.insert(id);
            }
        }
        self.nodes.retain(|id, _| kept.contains(id));
    }

    /// Everything is written back, as it is some time after the last call.
    pub(crate) fn calm_down(&mut self) {
        let all = vec![true; self.log.len()];
        self.settle(all);
        for node in self.nodes.values_mut() {
            if let Node::File { bytes, durable, poisoned, .. } = node
                && !*poisoned
            {
                *durable = Arc::clone(bytes);
            }
        }
    }

    /// Paths of all files below a folder.
    pub(crate) fn files(&self, below: &str) -> Vec<String> {
        let Ok(start) = self.resolve(ROOT, below) else { return Vec::new() };
        let (mut found, mut open) = (Vec::new(), vec![(below.to_owned(), start)]);
        while let Some((path, folder)) = open.pop() {
            for (name, id) in self.names(folder).expect("a folder") {
                let path = if path == "." { name.clone() } else { format!("{path}/{name}") };
                match self.nodes[id] {
                    Node::Folder { .. } => open.push((path, *id)),
                    Node::File { .. } => found.push(path),
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// The bytes of a file.
    pub(crate) fn read(&self, path: &str) -> Option<Arc<Vec<u8>>> {
        match self.nodes.get(&self.resolve(ROOT, path).ok()?)? {
            Node::File { bytes, .. } => Some(Arc::clone(bytes)),
            Node::Folder { .. } => None,
        }
    }

    /// Changes the bytes of a file behind everybody's back; None removes it.
    pub(crate) fn damage(&mut self, path: &str, to: Option<Vec<u8>>) {
        let id = self.resolve(ROOT, path).expect("the file is there");
        match to {
            Some(to) => {
                if let Some(Node::File { bytes, durable, .. }) = self.nodes.get_mut(&id) {
                    *bytes = Arc::new(to);
                    *durable = Arc::clone(bytes);
                }
            }
            None => {
                let (folder, name) = self.place(ROOT, path).expect("the file is there");
                self.remove(folder, name);
                self.sync_folder(folder);
            }
        }
    }
}

/// What a crash leaves of a file that was not synced: what was durable, a part, a part with holes, or all.
fn torn(bytes: &Arc<Vec<u8>>, durable: &Arc<Vec<u8>>, dice: &mut Dice) -> Arc<Vec<u8>> {
    let length = bytes.len() as u64;
    match dice.below(4) {
        0 => Arc::clone(durable),
        1 => Arc::new(bytes[..dice.below(length + 1) as usize].to_vec()),
        2 => {
            let mut holes = bytes.to_vec();
            for block in holes.chunks_mut(512) {
                if dice.one_in(3) {
                    block.fill(0);
                }
            }
            Arc::new(holes)
        }
        _ => Arc::clone(bytes),
    }
}

#[derive(Debug)]
enum Lock {
    Alone(u64),
    Shared(BTreeSet<u64>),
}

struct State {
    image: Image,
    locks: HashMap<u64, Lock>,
    /// Open files: the process and the node.
    handles: HashMap<u64, (Pid, u64)>,
    next_handle: u64,
    next_pid: Pid,
    dead: HashSet<Pid>,
    faults: Option<Faults>,
    calls: u64,
    mutations: u64,
    limit_bytes: Option<u64>,
    /// Processes whose calls are interleaved, and whose turn it is.
    running: Vec<Pid>,
    turn: Option<Pid>,
    /// Somebody outside decides whose turn it is ([`Machine::step`]), and these stand before their next call.
    conducted: bool,
    arrived: HashSet<Pid>,
    /// Folders that a process does not see as they are, and what it saw first.
    blind: HashMap<(Pid, String), Blinded>,
    dice: Dice,
    has_died: bool,
    /// Calls and mutating calls under the last schedule.
    last: (u64, u64),
    /// The last mutating calls, for messages.
    trace: Vec<String>,
}

/// A computer: one disk and the processes that use it.
pub(crate) struct Machine {
    state: Mutex<State>,
    turned: Condvar,
    /// What its processes wish for.
    parity: Mutex<Option<ParityShare>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}

const TRACE_MAX: usize = 400;

impl Machine {
    pub(crate) fn new(image: Image, seed: u64) -> Arc<Self> {
        let state = State {
            image,
            locks: HashMap::new(),
            handles: HashMap::new(),
            next_handle: 0,
            next_pid: 1,
            dead: HashSet::new(),
            faults: None,
            calls: 0,
            mutations: 0,
            limit_bytes: None,
            running: Vec::new(),
            turn: None,
            conducted: false,
            arrived: HashSet::new(),
            blind: HashMap::new(),
            dice: Dice::new(seed),
            has_died: false,
            last: (0, 0),
            trace: Vec::new(),
        };
        Arc::new(Self { state: Mutex::new(state), turned: Condvar::new(), parity: Mutex::default() })
    }

    /// From now on its processes write parity, or none.
    pub(crate) fn wish_for_parity(&self, share: Option<ParityShare>) {
        *self.parity.lock().unwrap_or_else(PoisonError::into_inner) = share;
    }

    pub(crate) fn parity(&self) -> Option<ParityShare> {
        *self.parity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new process, with the handle of the top folder.
    pub(crate) fn process(self: &Arc<Self>) -> (Pid, Arc<dyn Disk>) {
        let mut state = self.state();
        let pid = state.next_pid;
        state.next_pid += 1;
        (pid, Arc::new(SimFolder { machine: Arc::clone(self), pid, node: ROOT }))
    }

    /// Sets the schedule of faults and starts counting anew.
    pub(crate) fn set_faults(&self, faults: Option<Faults>) {
        let mut state = self.state();
        if faults.is_some() {
            state.trace.clear();
        }
        state.last = (state.calls, state.mutations);
        (state.faults, state.calls, state.mutations) = (faults, 0, 0);
    }

    /// Bytes that files may use in all.
    pub(crate) fn set_limit(&self, bytes: Option<u64>) {
        self.state().limit_bytes = bytes;
    }

    /// Calls and mutating calls between the last two schedules.
    pub(crate) fn last_counts(&self) -> (u64, u64) {
        self.state().last
    }

    /// True when a schedule of faults has ended a process.
    pub(crate) fn has_died(&self) -> bool {
        self.state().has_died
    }

    /// The last mutating calls.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    pub(crate) fn image(&self) -> Image {
        self.state().image.clone()
    }

    pub(crate) fn change_image(&self, act: impl FnOnce(&mut Image)) {
        act(&mut self.state().image);
    }

    pub(crate) fn is_dead(&self, pid: Pid) -> bool {
        self.state().dead.contains(&pid)
    }

    /// The process ends by itself: its locks are free.
    pub(crate) fn end(&self, pid: Pid) {
        let mut state = self.state();
        state.kill(pid);
        self.turned.notify_all();
    }

    /// From now on the calls of these processes are interleaved.
    pub(crate) fn interleave(&self, pids: &[Pid]) {
        let mut state = self.state();
        state.running = pids.to_vec();
        state.pass_on();
        self.turned.notify_all();
    }

    /// From now on each of these processes waits before each call until [`Self::step`] lets it go on.
    pub(crate) fn conduct(&self, pids: &[Pid]) {
        let mut state = self.state();
        state.conducted = true;
        (state.running, state.turn) = (pids.to_vec(), None);
    }

    /// Lets a process make one call, and waits until it stands before its next one. False when it is over.
    pub(crate) fn step(&self, pid: Pid) -> bool {
        let wait = |mut state: MutexGuard<'_, State>| {
            while state.running.contains(&pid) && !state.arrived.contains(&pid) {
                state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.running.contains(&pid)
        };
        if !wait(self.state()) {
            return false;
        }
        let mut state = self.state();
        state.arrived.remove(&pid);
        state.turn = Some(pid);
        self.turned.notify_all();
        wait(state)
    }

    /// From now on a process does not see a folder as it is.
    pub(crate) fn blind(&self, pid: Pid, folder: &str, how: Blind) {
        self.state().blind.insert((pid, folder.to_owned()), (how, None));
    }

    /// What a process saw first is forgotten: it looks again.
    pub(crate) fn look_anew(&self, pid: Pid) {
        let mut state = self.state();
        state.blind.iter_mut().filter(|((of, _), _)| *of == pid).for_each(|(_, (_, seen))| *seen = None);
    }

    /// One call of a process: waits for its turn, asks what is to happen, does it.
    fn call<T>(
        &self,
        pid: Pid,
        call: Call,
        path: &str,
        act: impl FnOnce(&mut State, Part) -> io::Result<T>,
        pretended: impl FnOnce() -> Option<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        if state.conducted && state.running.contains(&pid) {
            state.arrived.insert(pid);
            self.turned.notify_all();
        }
        while state.running.contains(&pid) && state.turn != Some(pid) {
            state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.dead.contains(&pid) {
            return Err(io::Error::other("the process is dead"));
        }
        let result = state.decide(pid, call, path, act, pretended);
        state.pass_on();
        self.turned.notify_all();
        result
    }
}

/// How much of a call is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Half,
    Garbled,
    SyncFails,
}

impl State {
    fn pass_on(&mut self) {
        if self.conducted {
            self.turn = None;
            return;
        }
        let count = self.running.len() as u64;
        self.turn = (count > 0).then(|| self.running[self.dice.below(count) as usize]);
    }

    fn kill(&mut self, pid: Pid) {
        self.dead.insert(pid);
        let gone: Vec<u64> = self.handles.iter().filter(|(_, (owner, _))| *owner == pid).map(|(id, _)| *id).collect();
        for handle in gone {
            self.close(handle);
        }
        self.running.retain(|p| *p != pid);
        if self.turn == Some(pid) {
            self.pass_on();
        }
    }

    fn close(&mut self, handle: u64) {
        let Some((_, node)) = self.handles.remove(&handle) else { return };
        let free = match self.locks.get_mut(&node) {
            Some(Lock::Alone(holder)) => *holder == handle,
            Some(Lock::Shared(holders)) => holders.remove(&handle) && holders.is_empty(),
            None => false,
        };
        if free {
            self.locks.remove(&node);
        }
    }

    fn die(&mut self, pid: Pid, death: Death) -> io::Error {
        self.has_died = true;
        match death {
            Death::Kill => self.kill(pid),
            Death::Power(seed) => {
                for other in 0..self.next_pid {
                    self.kill(other);
                }
                self.image.lose_power(&mut Dice::new(seed));
            }
        }
        io::Error::other("the process was killed")
    }

    fn decide<T>(
        &mut self,
        pid: Pid,
        call: Call,
        path: &str,
        act: impl FnOnce(&mut Self, Part) -> io::Result<T>,
        pretended: impl FnOnce() -> Option<T>,
    ) -> io::Result<T> {
        let moment = Moment { pid, calls: self.calls, mutations: self.mutations, call, path };
        let verdict = self.faults.as_mut().map_or(Verdict::Go, |faults| faults(&moment));
        self.calls += 1;
        if call.mutates() {
            self.mutations += 1;
            if self.trace.len() == TRACE_MAX {
                self.trace.remove(0);
            }
            self.trace.push(format!("{} p{pid} {call:?} {path} {verdict:?}", self.mutations - 1));
        }
        match verdict {
            Verdict::Go => act(self, Part::Whole),
            Verdict::DieBefore(death) => Err(self.die(pid, death)),
            Verdict::DieHalfway(death) => {
                if call == Call::Append {
                    let _ = act(self, Part::Half);
                }
                Err(self.die(pid, death))
            }
            Verdict::DieAfter(death) => {
                let _ = act(self, Part::Whole);
                Err(self.die(pid, death))
            }
            Verdict::Fail(code) => {
                if call == Call::Sync {
                    let _ = act(self, Part::SyncFails);
                }
                Err(io::Error::from_raw_os_error(code))
            }
            Verdict::FailAfter(code) => {
                let _ = act(self, Part::Whole);
                Err(io::Error::from_raw_os_error(code))
            }
            Verdict::Pretend => match pretended() {
                Some(value) => Ok(value),
                None => act(self, Part::Whole),
            },
            Verdict::Garble => act(self, Part::Garbled),
        }
    }

    fn room(&self, wanted: usize) -> usize {
        let left = self.limit_bytes.map_or(u64::MAX, |limit| limit.saturating_sub(self.image.used_bytes()));
        usize::try_from(left).unwrap_or(usize::MAX).min(wanted)
    }
}

#[derive(Debug)]
struct SimFolder {
    machine: Arc<Machine>,
    pid: Pid,
    node: u64,
}

impl SimFolder {
    fn act<T>(&self, call: Call, path: &str, act: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        self.machine.call(self.pid, call, path, |state, _| act(state, self.node), || None)
    }

    /// As `act`, for calls that return nothing, so that they can be pretended.
    fn act_or<T>(
        &self,
        call: Call,
        path: &str,
        pretended: T,
        act: impl FnOnce(&mut State, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        self.machine.call(self.pid, call, path, |state, _| act(state, self.node), || Some(pretended))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let (handle, node) = self.act(Call::Look, path, |state, base| {
            let node = state.image.resolve(base, path)?;
            match state.image.nodes.get(&node) {
                Some(Node::File { .. }) => Ok((state.handle(self.pid, node), node)),
                _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
            }
        })?;
        Ok(self.file(handle, node, path))
    }

    fn file(&self, handle: u64, node: u64, path: &str) -> Box<dyn DiskFile> {
        let machine = Arc::clone(&self.machine);
        Box::new(SimFile { machine, pid: self.pid, handle, node, path: path.to_owned() })
    }
}

impl State {
    fn handle(&mut self, pid: Pid, node: u64) -> u64 {
        self.next_handle += 1;
        self.handles.insert(self.next_handle, (pid, node));
        self.next_handle
    }

    fn item(&self, name: &str, node: u64) -> Item {
        let (kind, bytes) = match &self.image.nodes[&node] {
            Node::File { bytes, .. } => (Kind::File, bytes.len() as u64),
            Node::Folder { .. } => (Kind::Folder, 0),
        };
        Item { name: name.to_owned(), kind, bytes }
    }
}

impl Disk for SimFolder {
    fn open_folder(&self, path: &str) -> io::Result<Arc<dyn Disk>> {
        let node = self.act(Call::Look, path, |state, base| {
            let node = state.image.resolve(base, path)?;
            state.image.names(node).map(|_| node)
        })?;
        Ok(Arc::new(Self { machine: Arc::clone(&self.machine), pid: self.pid, node }))
    }

    fn open_file(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn open_to_lock(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn create_file(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let (handle, node) = self.act(Call::CreateFile, path, |state, base| {
            let (folder, name) = state.image.place(base, path)?;
            if state.image.names(folder)?.contains_key(name) {
                return Err(errno(Errno::EXIST));
            }
            if state.room(1) == 0 {
                return Err(errno(Errno::NOSPC));
            }
            let empty = Arc::new(Vec::new());
            let file = Node::File { bytes: Arc::clone(&empty), durable: empty, poisoned: false, names: 1 };
            let node = state.image.add(folder, name, file);
            Ok((state.handle(self.pid, node), node))
        })?;
        Ok(self.file(handle, node, path))
    }

    fn create_folder(&self, path: &str) -> io::Result<bool> {
        self.act(Call::CreateFolder, path, |state, base| {
            let (folder, name) = state.image.place(base, path)?;
            match state.image.names(folder)?.get(name).map(|id| &state.image.nodes[id]) {
                Some(Node::Folder { .. }) => return Ok(false),
                Some(Node::File { .. }) => return Err(errno(Errno::EXIST)),
                None => {}
            }
            if state.room(1) == 0 {
                return Err(errno(Errno::NOSPC));
            }
            state.image.add(folder, name, Node::Folder { names: BTreeMap::new(), durable: BTreeMap::new() });
            Ok(true)
        })
    }

    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        self.act_or(Call::Rename, &format!("{from} -> {to}"), (), |state, base| {
            let image = &mut state.image;
            let (from_folder, from_name) = image.place(base, from)?;
            let (to_folder, to_name) = image.place(base, to)?;
            let node = *image.names(from_folder)?.get(from_name).ok_or(errno(Errno::NOENT))?;
            if image.names(to_folder)?.contains_key(to_name) {
                return Err(errno(Errno::EXIST));
            }
            image.names_mut(from_folder).remove(from_name);
            image.names_mut(to_folder).insert(to_name.to_owned(), node);
            let (from, to) = ((from_folder, from_name.to_owned()), (to_folder, to_name.to_owned()));
            image.log.push(Change::Move { from, to, node });
            Ok(())
        })
    }

    fn remove_file(&self, path: &str) -> io::Result<bool> {
        self.act_or(Call::RemoveFile, path, true, |state, base| {
            let image = &mut state.image;
            let Ok((folder, name)) = image.place(base, path) else { return Ok(false) };
            match image.names(folder)?.get(name).map(|id| &image.nodes[id]) {
                None => Ok(false),
                Some(Node::Folder { .. }) => Err(errno(Errno::ISDIR)),
                Some(Node::File { .. }) => {
                    image.remove(folder, name);
                    Ok(true)
                }
            }
        })
    }

    fn remove_folder(&self, path: &str) -> io::Result<bool> {
        self.act_or(Call::RemoveFolder, path, true, |state, base| {
            let image = &mut state.image;
            let Ok((folder, name)) = image.place(base, path) else { return Ok(false) };
            match image.names(folder)?.get(name).map(|id| &image.nodes[id]) {
                None => Ok(false),
                Some(Node::File { .. }) => Err(errno(Errno::NOTDIR)),
                Some(Node::Folder { names, .. }) if !names.is_empty() => Err(errno(Errno::NOTEMPTY)),
                Some(Node::Folder { .. }) => {
                    image.remove(folder, name);
                    Ok(true)
                }
            }
        })
    }

    fn find(&self, path: &str) -> io::Result<Option<Item>> {
        self.act(Call::Look, path, |state, base| match state.image.resolve(base, path) {
            Ok(node) => Ok(Some(state.item(path, node))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn items(&self, path: &str) -> io::Result<Vec<Item>> {
        self.act(Call::Look, path, |state, base| {
            let folder = state.image.resolve(base, path)?;
            // in the order of creation: names under `tmp` are random
            let mut found: Vec<(&String, u64)> = state.image.names(folder)?.iter().map(|(n, id)| (n, *id)).collect();
            found.sort_unstable_by_key(|(_, id)| *id);
            let found = found.into_iter().map(|(name, id)| state.item(name, id)).collect();
            Ok(match state.blind.get_mut(&(self.pid, path.to_owned())) {
                None => found,
                Some((Blind::Empty, _)) => Vec::new(),
                Some((Blind::AsFirstSeen, seen)) => seen.get_or_insert(found).clone(),
            })
        })
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.act_or(Call::SyncFolder, path, (), |state, base| {
            let folder = state.image.resolve(base, path)?;
            state.image.names(folder)?;
            state.image.sync_folder(folder);
            Ok(())
        })
    }
}

#[derive(Debug)]
struct SimFile {
    machine: Arc<Machine>,
    pid: Pid,
    handle: u64,
    node: u64,
    path: String,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.machine.state().close(self.handle);
    }
}

impl SimFile {
    fn look<T>(&self, call: Call, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.machine.call(self.pid, call, &self.path, |state, _| act(state), || None)
    }

    fn lock(&self, take: impl FnOnce(&mut State) -> bool) -> Result<(), TryLockError> {
        match self.look(Call::Lock, |state| Ok(take(state))) {
            Ok(true) => Ok(()),
            Ok(false) => Err(TryLockError::WouldBlock),
            Err(error) => Err(TryLockError::Error(error)),
        }
    }
}

fn bytes_of(state: &State, node: u64) -> io::Result<Arc<Vec<u8>>> {
    match state.image.nodes.get(&node) {
        Some(Node::File { bytes, .. }) => Ok(Arc::clone(bytes)),
        _ => Err(errno(Errno::STALE)),
    }
}

impl DiskFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        self.look(Call::Look, |state| Ok(bytes_of(state, self.node)?.len() as u64))
    }

    fn has_name(&self) -> io::Result<bool> {
        self.look(Call::Look, |state| {
            Ok(matches!(state.image.nodes.get(&self.node), Some(Node::File { names, .. }) if *names > 0))
        })
    }

    fn try_lock(&self) -> Result<(), TryLockError> {
        self.lock(|state| {
            let free = match state.locks.get(&self.node) {
                None => true,
                Some(Lock::Alone(holder)) => *holder == self.handle,
                Some(Lock::Shared(holders)) => holders.iter().all(|holder| *holder == self.handle),
            };
            if free {
                state.locks.insert(self.node, Lock::Alone(self.handle));
            }
            free
        })
    }

    fn try_lock_shared(&self) -> Result<(), TryLockError> {
        self.lock(|state| match state.locks.entry(self.node).or_insert_with(|| Lock::Shared(BTreeSet::new())) {
            Lock::Shared(holders) => {
                holders.insert(self.handle);
                true
            }
            Lock::Alone(holder) => *holder == self.handle,
        })
    }

    fn append(&self, new: &[u8]) -> io::Result<()> {
        let act = |state: &mut State, part: Part| {
            let wanted = if part == Part::Half { new.len() / 2 } else { new.len() };
            let room = state.room(wanted);
            let Some(Node::File { bytes, .. }) = state.image.nodes.get_mut(&self.node) else {
                return Err(errno(Errno::STALE));
            };
            let at = bytes.len();
            Arc::make_mut(bytes).extend_from_slice(&new[..room]);
            if part == Part::Garbled && room > 0 {
                Arc::make_mut(bytes)[at + room / 2] ^= 0x40;
            }
            if room < wanted { Err(errno(Errno::NOSPC)) } else { Ok(()) }
        };
        self.machine.call(self.pid, Call::Append, &self.path, act, || Some(()))
    }

    fn sync(&self) -> io::Result<()> {
        let act = |state: &mut State, part: Part| {
            if let Some(Node::File { bytes, durable, poisoned, .. }) = state.image.nodes.get_mut(&self.node) {
                // after a failed sync the system forgets what it could not write, and says so only once
                *poisoned |= part == Part::SyncFails;
                if !*poisoned {
                    *durable = Arc::clone(bytes);
                }
            }
            Ok(())
        };
        self.machine.call(self.pid, Call::Sync, &self.path, act, || Some(()))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.look(Call::Read, |state| {
            let bytes = bytes_of(state, self.node)?;
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let part = from.checked_add(buffer.len()).and_then(|to| bytes.get(from..to));
            buffer.copy_from_slice(part.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?);
            Ok(())
        })
    }

    fn read_up_to(&self, max: u64) -> io::Result<Vec<u8>> {
        self.look(Call::Read, |state| {
            let bytes = bytes_of(state, self.node)?;
            let length = bytes.len().min(usize::try_from(max).unwrap_or(usize::MAX));
            Ok(bytes[..length].to_vec())
        })
    }
}
