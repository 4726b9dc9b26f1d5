//! Threads that list directories ahead of the one who walks them.
//!
//! Memory: threads rest while the listings that wait hold more than [`WAITING_MAX`] entries. The walker never waits
//! for a directory that nobody has begun: it lists that one itself, so no number of threads can block it.

use super::list::{Buffers, Context, Dir, Listing, list};
use crate::source::SourceError;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Entries that may wait, in listings of directories ahead.
const WAITING_MAX: usize = 16 << 10;

/// Names a directory and sorts in the order of the tree: its path, with slashes as NUL.
pub(crate) type Key = Vec<u8>;

/// The key of a directory by its path.
pub(crate) fn key(path: &[u8]) -> Key {
    path.iter().map(|b| if *b == b'/' { 0 } else { *b }).collect()
}

/// The directories ahead and the threads that list them.
#[derive(Debug)]
pub(crate) struct Prefetch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    context: Context,
    state: Mutex<State>,
    /// A directory is to be listed, or room was made.
    work: Condvar,
    /// A listing is ready.
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<Key, Dir>,
    ready: HashMap<Key, Listing>,
    waiting: usize,
    idle: usize,
    walker_waits: bool,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists one directory after the other, always the one that the walker reaches first.
    fn serve(&self) {
        let mut buffers = Buffers::default();
        let mut state = self.lock();
        loop {
            if state.stop {
                return;
            }
            let next = if state.waiting < WAITING_MAX { state.pending.pop_first() } else { None };
            let Some((key, dir)) = next else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            drop(state);
            let mut promise = Promise { shared: self, key: Some(key) };
            let listing = list(&self.context, &mut buffers, dir);
            state = promise.keep(listing);
        }
    }

    fn announce(&self, state: &mut State, listing: &mut Listing) {
        let mut found = 0;
        for child in &mut listing.children {
            if let Some(dir) = child.dir.take() {
                state.pending.insert(key(&child.found.entry.path), dir);
                found += 1;
            }
        }
        if found > 0 && state.idle > 0 {
            self.work.notify_all();
        }
    }
}

/// A listing that the walker may be waiting for. If the thread dies, it gets an error and not an endless wait.
struct Promise<'a> {
    shared: &'a Shared,
    key: Option<Key>,
}

impl<'a> Promise<'a> {
    fn keep(&mut self, mut listing: Listing) -> MutexGuard<'a, State> {
        let weight = listing.weight();
        let mut state = self.shared.lock();
        mark_entered(&mut listing);
        if let Some(key) = self.key.take() {
            self.shared.announce(&mut state, &mut listing);
            state.waiting += weight;
            state.ready.insert(key, listing);
            if state.walker_waits {
                self.shared.ready.notify_one();
            }
        }
        state
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        if self.key.is_some() {
            let failure = Some(SourceError::Interrupted);
            drop(self.keep(Listing { failure, ..Listing::default() }));
        }
    }
}

/// Directories to enter are remembered by the walker as a mark on their entry, since the directory itself moves on.
fn mark_entered(listing: &mut Listing) {
    for child in &mut listing.children {
        child.entered = child.dir.is_some();
    }
}

impl Prefetch {
    /// Starts the threads; none is a valid number.
    pub(crate) fn new(context: Context, threads: usize) -> Self {
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { context, state, work: Condvar::new(), ready: Condvar::new() });
        let spawn = |n| {
            let shared = Arc::clone(&shared);
            // A thread that the system refuses is one less, and not an error.
            std::thread::Builder::new().name(format!("walk-{n}")).spawn(move || shared.serve()).ok()
        };
        let threads = (0..threads).filter_map(spawn).collect();
        Self { shared, threads }
    }

    /// What holds for the whole walk.
    pub(crate) fn context(&self) -> &Context {
        &self.shared.context
    }

    /// Makes the directories of a listing known to the threads.
    pub(crate) fn announce(&self, listing: &mut Listing) {
        mark_entered(listing);
        self.shared.announce(&mut self.shared.lock(), listing);
    }

    /// Makes the first directory known.
    pub(crate) fn announce_first(&self, dir: Dir) {
        self.shared.lock().pending.insert(key(&dir.path), dir);
    }

    /// The listing of a directory that was announced before.
    pub(crate) fn take(&self, path: &[u8], buffers: &mut Buffers) -> Listing {
        let key = key(path);
        let mut state = self.shared.lock();
        loop {
            if let Some(listing) = state.ready.remove(&key) {
                let full = state.waiting >= WAITING_MAX;
                state.waiting = state.waiting.saturating_sub(listing.weight());
                if full && state.idle > 0 {
                    self.shared.work.notify_all();
                }
                return listing;
            }
            if let Some(dir) = state.pending.remove(&key) {
                drop(state);
                let mut listing = list(&self.shared.context, buffers, dir);
                self.announce(&mut listing);
                return listing;
            }
            state.walker_waits = true;
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.walker_waits = false;
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that died has left an error in place of its listing.
            let _ = thread.join();
        }
    }
}
