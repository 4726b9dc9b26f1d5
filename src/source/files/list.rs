//! One directory: its names in order, which of them are stored, and what is known about each.
//!
//! Memory: the names of the directory, packed, and the entries of one batch. A directory of a million files costs
//! some 40 MB while it is walked, not a million entries.

use super::metadata::{Facts, Found, OwnerNames, Owners, XattrReader, link_target};
use super::open::open_without_links;
use super::roots::{Place, path_error};
use super::rules::{CACHE_TAG_FILE, CACHE_TAG_SIGNATURE, Exclusion, IGNORE_FILE, RootRules};
use super::warning;
use crate::domain::entry::Entry;
use crate::domain::snapshot::SourceWarning;
use crate::format::tree::{PATH_BYTES_MAX, name_fault};
use crate::source::SourceError;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::io::Read;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Entries that are looked at in one go.
const BATCH: usize = 1024;
/// Longest `.holdfastignore` that is obeyed, bytes.
const IGNORE_FILE_BYTES_MAX: u64 = 1 << 20;

/// What holds for the whole walk.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) one_file_system: bool,
    /// Device and inode of the directories that are never entered.
    pub(crate) own_folders: Arc<[(u64, u64)]>,
    pub(crate) owners: Owners,
}

/// A directory still to be listed.
#[derive(Debug)]
pub(crate) struct Dir {
    /// Its path; empty for `/`.
    pub(crate) path: Vec<u8>,
    /// The roots that lie in it or are it.
    pub(crate) place: Option<Arc<Place>>,
    /// How it is walked; none when only the way to other roots leads through it.
    pub(crate) scan: Option<Scan>,
}

/// How a directory below a root is walked.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    rules: RootRules,
    /// Length of the path of its root: what comes behind is what patterns see.
    root_bytes: usize,
    /// The file system of its root.
    device: u64,
    is_root: bool,
}

impl Scan {
    /// The scan that begins at a root.
    pub(crate) fn root(rules: RootRules, path: &[u8], device: u64) -> Self {
        Self { rules, root_bytes: path.len(), device, is_root: true }
    }
}

/// One entry of a directory.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) found: Found,
    /// Number of names that it has.
    pub(crate) links: u64,
    /// Set when it is a directory that is to be entered, until the threads know it.
    pub(crate) dir: Option<Dir>,
    /// Set when it is a directory that is to be entered and the threads know it.
    pub(crate) entered: bool,
}

/// What a batch gave.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) children: Vec<Child>,
    /// The rest of a large directory.
    pub(crate) rest: Option<Rest>,
    pub(crate) warnings: Vec<SourceWarning>,
    pub(crate) excluded_by_rule: u64,
    pub(crate) excluded_by_default: u64,
    pub(crate) unreadable: u64,
    /// Paths of holdfast's own folders, which were left out.
    pub(crate) own_folders: Vec<Vec<u8>>,
    /// A root is gone or closed to us: the source fails.
    pub(crate) failure: Option<SourceError>,
}

impl Listing {
    /// A measure of the memory that this takes, in entries.
    pub(crate) fn weight(&self) -> usize {
        self.children.len() + 1 + self.rest.as_ref().map_or(0, |rest| (rest.names.len() - rest.next) / 8)
    }

    fn note(&mut self, path: &[u8], error: Errno, what: &str) {
        self.unreadable += 1;
        self.warnings.push(match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => {
                warning("file.vanished", path, format!("{what} vanished while it was being saved"), true)
            }
            error => {
                let reason = std::io::Error::from(error);
                warning("file.unreadable", path, format!("{what} cannot be read: {reason}"), true)
            }
        });
    }
}

/// Names of a large directory that have not been looked at.
#[derive(Debug)]
pub(crate) struct Rest {
    handle: OwnedFd,
    dir: Dir,
    names: Names,
    next: usize,
}

/// Buffers that one thread uses again and again.
#[derive(Debug)]
pub(crate) struct Buffers {
    directory: Vec<MaybeUninit<u8>>,
    xattrs: XattrReader,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { directory: vec![MaybeUninit::uninit(); 64 << 10], xattrs: XattrReader::default() }
    }
}

/// Names in one piece of memory.
#[derive(Debug, Default)]
struct Names {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    offset: usize,
    length: u16,
    kind: FileType,
}

impl Names {
    fn len(&self) -> usize {
        self.spans.len()
    }

    fn push(&mut self, name: &[u8], kind: FileType) {
        if let Ok(length) = u16::try_from(name.len()) {
            self.spans.push(Span { offset: self.bytes.len(), length, kind });
            self.bytes.extend_from_slice(name);
        }
    }

    fn name(bytes: &[u8], span: Span) -> &[u8] {
        bytes.get(span.offset..span.offset + usize::from(span.length)).unwrap_or_default()
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.spans.sort_unstable_by(|a, b| Self::name(bytes, *a).cmp(Self::name(bytes, *b)));
        // A directory that changes while it is read may give a name twice.
        self.spans.dedup_by(|a, b| Self::name(bytes, *a) == Self::name(bytes, *b));
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.spans.binary_search_by(|span| Self::name(&self.bytes, *span).cmp(name)).is_ok()
    }

    fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        let bytes = &self.bytes;
        self.spans.retain(|span| keep(Self::name(bytes, *span)));
    }
}

/// Lists a directory, or the first batch of a large one.
pub(crate) fn list(context: &Context, buffers: &mut Buffers, mut dir: Dir) -> Listing {
    let mut listing = Listing::default();
    let shown = if dir.path.is_empty() { b"/".as_slice() } else { &dir.path };
    let access = if dir.scan.is_some() { OFlags::RDONLY } else { OFlags::PATH };
    let handle = match open_without_links(shown, access | OFlags::DIRECTORY) {
        Ok(handle) => handle,
        Err(error) => {
            let leads_on = dir.place.as_ref().is_some_and(|place| !place.children.is_empty());
            if dir.scan.as_ref().is_none_or(|scan| scan.is_root) || leads_on {
                listing.failure = Some(path_error("read", shown, error));
            } else {
                listing.note(shown, error, "The directory");
            }
            return listing;
        }
    };
    let mut names = Names::default();
    if dir.scan.is_some()
        && let Err(error) = read_names(&handle, buffers, &mut names)
    {
        listing.note(shown, error, "The directory");
    }
    // A root's name is looked for even where the directory did not show it, so that its absence is noticed.
    for name in dir.place.iter().flat_map(|place| place.children.keys()) {
        names.push(name, FileType::Unknown);
    }
    names.sort();
    obey_files(&handle, &mut dir, &mut names, &mut listing);
    let rest = Rest { handle, dir, names, next: 0 };
    batch(context, buffers, rest, listing)
}

/// Goes on with a large directory.
pub(crate) fn list_rest(context: &Context, buffers: &mut Buffers, rest: Rest) -> Listing {
    batch(context, buffers, rest, Listing::default())
}

fn read_names(handle: &OwnedFd, buffers: &mut Buffers, names: &mut Names) -> Result<(), Errno> {
    let mut entries = RawDir::new(handle, &mut buffers.directory);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name, entry.file_type());
        }
    }
    Ok(())
}

/// Obeys `.holdfastignore` and CACHEDIR.TAG of a directory that is being scanned.
fn obey_files(handle: &OwnedFd, dir: &mut Dir, names: &mut Names, listing: &mut Listing) {
    let Some(scan) = &mut dir.scan else { return };
    if names.contains(IGNORE_FILE) {
        let path = [dir.path.as_slice(), b"/", IGNORE_FILE].concat();
        match read_small(handle, IGNORE_FILE, IGNORE_FILE_BYTES_MAX + 1) {
            Ok(Some(contents)) if contents.len() as u64 <= IGNORE_FILE_BYTES_MAX => {
                let relative = below(&dir.path, scan.root_bytes);
                let (rules, errors) = scan.rules.with_ignore_file(relative, &contents);
                scan.rules = rules;
                for error in errors {
                    listing.warnings.push(warning("file.ignore_rule", &path, error.to_string(), false));
                }
            }
            // Not a regular file: no rules.
            Ok(None) => {}
            Ok(Some(_)) => {
                let message = "The rules are not obeyed: the file is larger than 1 MiB".to_owned();
                listing.warnings.push(warning("file.ignore_rule", &path, message, false));
            }
            Err(error) => {
                let message = format!("The rules are not obeyed, because they cannot be read: {error}");
                listing.warnings.push(warning("file.ignore_rule", &path, message, false));
            }
        }
    }
    // A root was named by hand and is saved even if it is marked as a cache.
    if scan.rules.default_excludes() && !scan.is_root && names.contains(CACHE_TAG_FILE) && is_tagged(handle) {
        let before = names.len();
        let places = dir.place.as_ref().map(|place| &place.children);
        names.retain(|name| name == CACHE_TAG_FILE || places.is_some_and(|places| places.contains_key(name)));
        listing.excluded_by_default += (before - names.len()) as u64;
    }
}

fn is_tagged(handle: &OwnedFd) -> bool {
    let head = read_small(handle, CACHE_TAG_FILE, CACHE_TAG_SIGNATURE.len() as u64);
    head.is_ok_and(|head| head.as_deref() == Some(CACHE_TAG_SIGNATURE))
}

/// The first bytes of a regular file; none for anything else.
fn read_small(handle: &OwnedFd, name: &[u8], limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    // Without waiting: it may be a pipe that nobody writes to.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(handle, name, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NXIO) => return Ok(None),
        other => other?,
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut contents = Vec::new();
    std::fs::File::from(file).take(limit).read_to_end(&mut contents)?;
    Ok(Some(contents))
}

/// The part of a path below its root, without a slash in front.
fn below(path: &[u8], root_bytes: usize) -> &[u8] {
    let rest = path.get(root_bytes..).unwrap_or_default();
    rest.strip_prefix(b"/").unwrap_or(rest)
}

fn batch(context: &Context, buffers: &mut Buffers, mut rest: Rest, mut listing: Listing) -> Listing {
    let mut look = Look {
        context,
        xattrs: &mut buffers.xattrs,
        handle: rest.handle.as_fd(),
        dir: &rest.dir,
        listing: &mut listing,
        no_xattrs_on: None,
        last_owners: None,
    };
    while rest.next < rest.names.len() && look.listing.children.len() < BATCH && look.listing.failure.is_none() {
        if let Some(span) = rest.names.spans.get(rest.next) {
            look.at(Names::name(&rest.names.bytes, *span), span.kind);
        }
        rest.next += 1;
    }
    if rest.next < rest.names.len() && listing.failure.is_none() {
        listing.rest = Some(rest);
    }
    listing
}

/// Looks at the names of one directory.
struct Look<'a> {
    context: &'a Context,
    xattrs: &'a mut XattrReader,
    handle: BorrowedFd<'a>,
    dir: &'a Dir,
    listing: &'a mut Listing,
    /// A file system that has no extended attributes.
    no_xattrs_on: Option<u64>,
    /// The owners of the entry before, who are mostly those of the next: saves a lock that threads would meet at.
    last_owners: Option<((u32, u32), OwnerNames)>,
}

impl Look<'_> {
    fn at(&mut self, name: &[u8], kind: FileType) {
        let place = self.dir.place.as_ref().and_then(|place| place.children.get(name));
        let mut path = Vec::with_capacity(self.dir.path.len() + 1 + name.len());
        path.extend_from_slice(&self.dir.path);
        path.push(b'/');
        path.extend_from_slice(name);
        if path.len() > PATH_BYTES_MAX || name_fault(name).is_some() {
            return self.listing.note(&path, Errno::NAMETOOLONG, "The entry");
        }
        let mut excluded = None;
        if kind != FileType::Unknown {
            excluded = self.exclusion(&path, kind == FileType::Directory);
            if excluded.is_some() && place.is_none() {
                return self.count(excluded);
            }
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let facts = match rustix::fs::statat(self.handle, name, flags) {
            Ok(stat) => Facts::from_stat(&stat),
            Err(error) if place.is_some() => {
                self.listing.failure = Some(path_error("read", &path, error));
                return;
            }
            Err(error) => return self.listing.note(&path, error, "The entry"),
        };
        let is_directory = facts.file_type == FileType::Directory;
        if is_directory && self.context.own_folders.contains(&(facts.device, facts.inode)) {
            // No root lies in one: that was refused before the walk began.
            self.listing.excluded_by_default += 1;
            return self.listing.own_folders.push(path);
        }
        if kind == FileType::Unknown {
            excluded = self.exclusion(&path, is_directory);
            if excluded.is_some() && place.is_none() {
                return self.count(excluded);
            }
        }
        let link = match facts.file_type {
            FileType::Symlink => match link_target(self.handle, name) {
                Ok(target) => Some(target),
                Err(error) => return self.listing.note(&path, error, "The symbolic link"),
            },
            _ => None,
        };
        let owners = self.owners(facts.uid, facts.gid);
        let dir = is_directory.then(|| self.descent(&path, place, excluded.is_some(), facts.device)).flatten();
        let Some(mut entry) = facts.entry(path, link, owners) else { return };
        self.read_xattrs(&mut entry, facts.device, name);
        let found = Found { entry, stamp: facts.stamp() };
        self.listing.children.push(Child { found, links: facts.links, dir, entered: false });
    }

    fn owners(&mut self, uid: u32, gid: u32) -> OwnerNames {
        match &self.last_owners {
            Some((ids, names)) if *ids == (uid, gid) => names.clone(),
            _ => {
                let names = self.context.owners.names(uid, gid);
                self.last_owners = Some(((uid, gid), names.clone()));
                names
            }
        }
    }

    fn exclusion(&self, path: &[u8], is_directory: bool) -> Option<Exclusion> {
        let scan = self.dir.scan.as_ref()?;
        scan.rules.exclusion(below(path, scan.root_bytes), is_directory)
    }

    fn count(&mut self, excluded: Option<Exclusion>) {
        match excluded {
            Some(Exclusion::Rule) => self.listing.excluded_by_rule += 1,
            Some(Exclusion::Default) => self.listing.excluded_by_default += 1,
            None => {}
        }
    }

    /// How the walk goes on below a directory, if it does.
    fn descent(&self, path: &[u8], place: Option<&Arc<Place>>, excluded: bool, device: u64) -> Option<Dir> {
        let rules = place.and_then(|place| place.root.clone());
        let scan = match (rules, &self.dir.scan) {
            (Some(rules), _) => Some(Scan::root(rules, path, device)),
            (None, Some(scan)) if !excluded && (!self.context.one_file_system || device == scan.device) => {
                Some(Scan { is_root: false, ..scan.clone() })
            }
            _ => None,
        };
        let leads_on = place.is_some_and(|place| !place.children.is_empty());
        (scan.is_some() || leads_on).then(|| Dir { path: path.to_vec(), place: place.cloned(), scan })
    }

    fn read_xattrs(&mut self, entry: &mut Entry, device: u64, name: &[u8]) {
        if self.no_xattrs_on == Some(device) {
            return;
        }
        match self.xattrs.read_at(self.handle, name, &entry.path) {
            Ok(xattrs) => entry.xattrs = xattrs,
            Err(Errno::OPNOTSUPP) => self.no_xattrs_on = Some(device),
            // Gone since stat; opening it will say so.
            Err(Errno::NOENT) => {}
            Err(error) => {
                let message = format!("The extended attributes cannot be read: {}", std::io::Error::from(error));
                self.listing.warnings.push(warning("file.xattrs", &entry.path, message, true));
            }
        }
    }
}
