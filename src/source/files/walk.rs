//! The walk: entries of all roots in the order of the tree, with findings and counters.
//!
//! The directories that lead to a root are entries too (`/srv` for the root `/srv/app`), so that a restore can make
//! them again; `/` is one only if it is a root itself. Two roots of which one lies in the other give every entry once.
//!
//! Invariant: paths ascend strictly in the order of [`crate::format::tree::path_order`], a directory before what it
//! holds. Memory is bounded by the listings ahead, the names of the directories that are open, and one path for each
//! file with several names of which some are still to come.

use super::list::{Buffers, Child, Context, Dir, Listing, Rest, Scan, list_rest};
use super::metadata::{Facts, Found, Owners, XattrReader};
use super::prefetch::Prefetch;
use super::roots::{path_error, plan};
use super::rules::Rules;
use crate::domain::entry::EntryKind;
use crate::domain::snapshot::{FileCounts, SourceWarning};
use crate::source::SourceError;
use rustix::fs::OFlags;
use std::collections::HashMap;
use std::path::PathBuf;

/// How to walk.
#[derive(Debug, Clone)]
pub struct WalkOptions {
    /// What is left out.
    pub rules: Rules,
    /// Stay on the file system of each root; the directories where others are mounted are kept, empty.
    pub one_file_system: bool,
    /// Device and inode of holdfast's own folders. They are left out wherever they are met, whatever the rules say: a
    /// repository that held itself would grow by all of itself each time.
    pub own_folders: Vec<(u64, u64)>,
    /// Threads that list ahead, beside the caller's own.
    pub threads: usize,
    /// Owners' names, to be shared with a [`super::read::FileReader`].
    pub owners: Owners,
}

impl Default for WalkOptions {
    fn default() -> Self {
        let own_folders = Vec::new();
        Self { rules: Rules::default(), one_file_system: false, own_folders, threads: 1, owners: Owners::default() }
    }
}

/// An iterator over all entries. After an error it ends.
#[derive(Debug)]
pub struct Walk {
    prefetch: Prefetch,
    buffers: Buffers,
    frames: Vec<Frame>,
    /// The directory that was returned last, if it is to be entered.
    enter: Option<Vec<u8>>,
    /// The entry of `/`, if that is a root.
    top: Option<Found>,
    links: HashMap<(u64, u64), FirstName>,
    counts: FileCounts,
    warnings: Vec<SourceWarning>,
    own_folders: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Frame {
    children: std::vec::IntoIter<Child>,
    rest: Option<Rest>,
}

/// Where a file with several names was seen first.
#[derive(Debug)]
struct FirstName {
    path: Box<[u8]>,
    /// Names that have not been seen.
    names_left: u64,
}

impl Walk {
    /// Begins a walk of `roots`, absolute paths. Roots that are links or lie behind links are resolved: the link is
    /// an entry, and what it leads to is walked under its real path.
    ///
    /// # Errors
    /// [`SourceError::Path`] when a root is missing, unreadable or not absolute; [`SourceError::Content`] when it is in
    /// one of holdfast's own folders.
    pub fn new(roots: &[PathBuf], options: WalkOptions) -> Result<Self, SourceError> {
        let plan = plan(roots, &options.rules, &options.own_folders)?;
        let WalkOptions { one_file_system, owners, .. } = options;
        let context = Context { one_file_system, own_folders: options.own_folders.into(), owners };
        let mut top = None;
        let mut scan = None;
        if let Some(rules) = &plan.top.root {
            let found = top_entry(&context.owners)?;
            scan = Some(Scan::root(rules.clone(), b"", found.stamp.device));
            top = Some(found);
        }
        let has_roots = scan.is_some() || !plan.top.children.is_empty();
        let prefetch = Prefetch::new(context, options.threads);
        prefetch.announce_first(Dir { path: Vec::new(), place: Some(plan.top), scan });
        Ok(Self {
            prefetch,
            buffers: Buffers::default(),
            frames: Vec::new(),
            enter: has_roots.then(Vec::new),
            top,
            links: HashMap::new(),
            counts: FileCounts::default(),
            warnings: plan.warnings,
            own_folders: Vec::new(),
        })
    }

    /// Findings since the last call. To be asked for now and then: they wait in memory.
    pub fn take_warnings(&mut self) -> Vec<SourceWarning> {
        std::mem::take(&mut self.warnings)
    }

    /// Paths of holdfast's own folders that were left out since the last call.
    pub fn take_own_folders(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.own_folders)
    }

    /// Counters so far: recorded, excluded and unreadable. What was new, changed or unmodified the caller knows.
    pub fn counts(&self) -> FileCounts {
        self.counts
    }

    /// To be called, before the next entry is taken, when a file's contents were not stored under its path, or
    /// another file had taken its place: a later name of the same file is then an entry with contents, not a link to
    /// something that is not there.
    pub fn forget_first_name(&mut self, found: &Found) {
        let key = (found.stamp.device, found.stamp.inode);
        if self.links.get(&key).is_some_and(|first| *first.path == *found.entry.path) {
            self.links.remove(&key);
        }
    }

    fn open(&mut self, mut listing: Listing) -> Result<(), SourceError> {
        self.counts.excluded_by_rule += listing.excluded_by_rule;
        self.counts.excluded_by_default += listing.excluded_by_default;
        self.counts.unreadable += listing.unreadable;
        self.warnings.append(&mut listing.warnings);
        self.own_folders.append(&mut listing.own_folders);
        if let Some(failure) = listing.failure {
            return Err(failure);
        }
        self.frames.push(Frame { children: listing.children.into_iter(), rest: listing.rest });
        Ok(())
    }

    fn deliver(&mut self, child: Child) -> Found {
        let Child { found: Found { mut entry, stamp }, links, entered, .. } = child;
        self.tally(&entry.kind);
        if entered {
            self.enter = Some(entry.path.clone());
        }
        if links > 1 && entry.kind != EntryKind::Directory {
            let key = (stamp.device, stamp.inode);
            if let Some(first) = self.links.get_mut(&key) {
                entry.kind = EntryKind::HardLink(first.path.to_vec());
                first.names_left = first.names_left.saturating_sub(1);
                if first.names_left == 0 {
                    self.links.remove(&key);
                }
            } else {
                let path = entry.path.clone().into_boxed_slice();
                self.links.insert(key, FirstName { path, names_left: links - 1 });
            }
        }
        Found { entry, stamp }
    }

    fn tally(&mut self, kind: &EntryKind) {
        match kind {
            EntryKind::File(_) => self.counts.files += 1,
            EntryKind::Directory => self.counts.directories += 1,
            _ => self.counts.others += 1,
        }
    }

    fn advance(&mut self) -> Result<Option<Found>, SourceError> {
        if let Some(top) = self.top.take() {
            self.tally(&top.entry.kind);
            return Ok(Some(top));
        }
        loop {
            if let Some(path) = self.enter.take() {
                let listing = self.prefetch.take(&path, &mut self.buffers);
                self.open(listing)?;
            }
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            if let Some(child) = frame.children.next() {
                return Ok(Some(self.deliver(child)));
            }
            let rest = frame.rest.take();
            self.frames.pop();
            if let Some(rest) = rest {
                let mut listing = list_rest(self.prefetch.context(), &mut self.buffers, rest);
                self.prefetch.announce(&mut listing);
                self.open(listing)?;
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Found, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance();
        if result.is_err() {
            self.frames.clear();
            self.enter = None;
        }
        result.transpose()
    }
}

fn top_entry(owners: &Owners) -> Result<Found, SourceError> {
    let fault = |error| path_error("read", b"/", error);
    let handle = super::open::open_without_links(b"/", OFlags::RDONLY | OFlags::DIRECTORY).map_err(fault)?;
    let facts = Facts::from_stat(&rustix::fs::fstat(&handle).map_err(fault)?);
    let names = owners.names(facts.uid, facts.gid);
    let mut entry = facts.entry(b"/".to_vec(), None, names).ok_or_else(|| fault(rustix::io::Errno::NOTDIR))?;
    entry.xattrs = XattrReader::default().read_fd(rustix::fd::AsFd::as_fd(&handle)).map_err(fault)?;
    Ok(Found { entry, stamp: facts.stamp() })
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
