//! What of a snapshot is wanted: sources by name and kind, and paths within files sources. Decisions only.
//!
//! Paths in a snapshot are absolute, and so are rules: `/srv/app/*.log` means that place, `*.log` any.

use crate::domain::entry::EntryKind;
use crate::domain::snapshot::{SourceKind, SourceRecord};
use crate::repository::reading::PlacedEntry;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Which kinds of source are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kinds {
    /// Every kind.
    #[default]
    All,
    /// PostgreSQL and SQLite.
    Databases,
    /// Files.
    Files,
}

impl Kinds {
    fn admits(self, kind: SourceKind) -> bool {
        match self {
            Self::All => true,
            Self::Databases => kind.is_database(),
            Self::Files => kind == SourceKind::Files,
        }
    }
}

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Names of sources; empty: all.
    pub sources: Vec<String>,
    /// Kinds of source.
    pub kinds: Kinds,
    /// Paths within files sources.
    pub paths: PathFilter,
}

impl Selection {
    /// True when a source is wanted. Who names a path or rules for files means files only, unless a source is named.
    pub(super) fn wants(&self, source: &SourceRecord) -> bool {
        let named = self.sources.contains(&source.name);
        let only_files = self.paths.below.is_some() || (self.paths.include.is_some() && !named);
        (named || self.sources.is_empty())
            && self.kinds.admits(source.kind)
            && (!only_files || source.kind == SourceKind::Files)
    }
}

/// A rule that is not in gitignore syntax.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The rule '{rule}' cannot be used: {reason}")]
pub struct RuleError {
    /// The rule as it was written.
    pub rule: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Which entries of a tree are wanted.
#[derive(Debug, Clone, Default)]
pub struct PathFilter {
    /// Only this path and what is below it.
    below: Option<Vec<u8>>,
    include: Option<Gitignore>,
    exclude: Option<Gitignore>,
}

impl PathFilter {
    /// A path, and rules in gitignore syntax. No path and no rules: everything.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn new(below: Option<&[u8]>, include: &[String], exclude: &[String]) -> Result<Self, RuleError> {
        let below = below.map(absolute);
        Ok(Self { below, include: compile(include)?, exclude: compile(exclude)? })
    }

    /// The path that everything must be below, if one was named.
    pub fn below(&self) -> Option<&[u8]> {
        self.below.as_deref()
    }

    /// True when rules choose entries.
    pub(super) fn has_rules(&self) -> bool {
        self.include.is_some() || self.exclude.is_some()
    }

    /// True when nothing is left out.
    pub(super) fn is_open(&self) -> bool {
        self.below.is_none() && self.include.is_none() && self.exclude.is_none()
    }

    /// True when an entry is wanted.
    pub(super) fn wants(&self, path: &[u8], is_directory: bool) -> bool {
        if self.below.as_ref().is_some_and(|below| !is_at_or_below(path, below)) {
            return false;
        }
        let relative = Path::new(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
        let fits = |rules: &Gitignore| {
            !relative.as_os_str().is_empty() && rules.matched_path_or_any_parents(relative, is_directory).is_ignore()
        };
        self.include.as_ref().is_none_or(fits) && !self.exclude.as_ref().is_some_and(fits)
    }
}

/// A path as trees have it: with a leading slash, without one at the end.
pub fn absolute(path: &[u8]) -> Vec<u8> {
    let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
    [b"/".as_slice(), &names.join(&b'/')].concat()
}

fn compile(rules: &[String]) -> Result<Option<Gitignore>, RuleError> {
    if rules.is_empty() {
        return Ok(None);
    }
    let mut builder = GitignoreBuilder::new("/");
    for rule in rules {
        let fault = |reason: String| RuleError { rule: rule.clone(), reason };
        if rule.contains(['\n', '\0']) {
            return Err(fault("it holds a line break or a NUL character".to_owned()));
        }
        builder.add_line(None, rule).map_err(|error| fault(error.to_string()))?;
    }
    let built = builder.build().map_err(|error| RuleError { rule: rules.join(" "), reason: error.to_string() })?;
    Ok(Some(built))
}

/// True for `above` itself and everything below it.
pub(super) fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    above == b"/" || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
}

/// A first name that was left out while further names of it are wanted.
enum Kept {
    /// Its entry: the next wanted name becomes the first.
    Stored(Box<PlacedEntry>),
    /// The wanted name that became the first.
    Made(Vec<u8>),
}

/// Picks the wanted entries of a tree in tree order, with the directories on the way to them.
///
/// Memory: the directories on the way to one entry, and the first names of `needed`.
pub(super) struct Picker<'f> {
    filter: &'f PathFilter,
    needed: &'f BTreeSet<Vec<u8>>,
    /// Directories above the current entry that are made only when something below them is wanted.
    on_the_way: Vec<PlacedEntry>,
    kept: HashMap<Vec<u8>, Kept>,
}

impl<'f> Picker<'f> {
    /// `needed`: first names that are not wanted although further names of them are.
    pub(super) fn new(filter: &'f PathFilter, needed: &'f BTreeSet<Vec<u8>>) -> Self {
        Self { filter, needed, on_the_way: Vec::new(), kept: HashMap::new() }
    }

    /// Takes the next entry of the tree and adds what is to be made now.
    pub(super) fn pick(&mut self, mut placed: PlacedEntry, picked: &mut Vec<PlacedEntry>) {
        if self.filter.is_open() {
            picked.push(placed);
            return;
        }
        let is_directory = placed.entry.kind == EntryKind::Directory;
        while self.on_the_way.last().is_some_and(|way| !is_at_or_below(&placed.entry.path, &way.entry.path)) {
            self.on_the_way.pop();
        }
        if !self.filter.wants(&placed.entry.path, is_directory) {
            if is_directory {
                self.on_the_way.push(placed);
            } else if self.needed.contains(&placed.entry.path) {
                self.kept.insert(placed.entry.path.clone(), Kept::Stored(Box::new(placed)));
            }
            return;
        }
        picked.append(&mut self.on_the_way);
        if let EntryKind::HardLink(first) = &placed.entry.kind
            && let Some(kept) = self.kept.get_mut(first)
        {
            let made = Kept::Made(placed.entry.path.clone());
            match std::mem::replace(kept, made) {
                Kept::Stored(stored) => {
                    placed.content_offset = stored.content_offset;
                    placed.entry.kind = stored.entry.kind;
                }
                Kept::Made(path) => {
                    placed.entry.kind = EntryKind::HardLink(path.clone());
                    *kept = Kept::Made(path);
                }
            }
        }
        picked.push(placed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::entry::{Entry, FileContent};

    fn entry(path: &str, kind: EntryKind) -> PlacedEntry {
        let entry = Entry {
            path: path.as_bytes().to_vec(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime_ns: 0,
            xattrs: Vec::new(),
        };
        PlacedEntry { entry, content_offset: 7 }
    }

    fn file() -> EntryKind {
        EntryKind::File(FileContent { size: 3, ..FileContent::default() })
    }

    fn tree() -> Vec<PlacedEntry> {
        vec![
            entry("/", EntryKind::Directory),
            entry("/srv", EntryKind::Directory),
            entry("/srv/a", EntryKind::Directory),
            entry("/srv/a/x.py", file()),
            entry("/srv/a/y.log", file()),
            entry("/srv/b", EntryKind::Directory),
            entry("/srv/b/1.py", EntryKind::HardLink(b"/srv/a/y.log".to_vec())),
            entry("/srv/b/2.py", EntryKind::HardLink(b"/srv/a/y.log".to_vec())),
            entry("/srv/bb", file()),
        ]
    }

    fn picked(filter: &PathFilter, needed: &[&str]) -> Vec<(String, EntryKind)> {
        let needed = needed.iter().map(|path| path.as_bytes().to_vec()).collect();
        let mut picker = Picker::new(filter, &needed);
        let mut all = Vec::new();
        for placed in tree() {
            picker.pick(placed, &mut all);
        }
        all.into_iter().map(|p| (String::from_utf8(p.entry.path).unwrap(), p.entry.kind)).collect()
    }

    fn paths(filter: &PathFilter) -> Vec<String> {
        picked(filter, &[]).into_iter().map(|(path, _)| path).collect()
    }

    fn rules(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_path_means_itself_and_what_is_below_it() {
        let filter = |path: &str| PathFilter::new(Some(path.as_bytes()), &[], &[]).unwrap();
        for path in ["/srv/b", "srv/b/", "//srv/b"] {
            assert_eq!(paths(&filter(path)), ["/", "/srv", "/srv/b", "/srv/b/1.py", "/srv/b/2.py"], "{path}");
        }
        assert_eq!(paths(&filter("/")).len(), tree().len());
        assert_eq!(paths(&PathFilter::default()).len(), tree().len());
        assert_eq!(paths(&filter("/nowhere")), [""; 0]);
    }

    #[test]
    fn rules_choose_entries_and_the_directories_on_the_way() {
        let filter = PathFilter::new(None, &rules(&["*.log"]), &[]).unwrap();
        assert_eq!(paths(&filter), ["/", "/srv", "/srv/a", "/srv/a/y.log"]);
        let filter = PathFilter::new(None, &[], &rules(&["/srv/a/", "2.py"])).unwrap();
        assert_eq!(paths(&filter), ["/", "/srv", "/srv/b", "/srv/b/1.py", "/srv/bb"]);
        let filter = PathFilter::new(Some(b"/srv"), &rules(&["/srv/a"]), &rules(&["*.py"])).unwrap();
        assert_eq!(paths(&filter), ["/", "/srv", "/srv/a", "/srv/a/y.log"]);
        let fault = PathFilter::new(None, &rules(&["a\nb"]), &[]).unwrap_err();
        assert_eq!(fault.rule, "a\nb");
    }

    #[test]
    fn a_link_whose_first_name_is_left_out_gets_the_contents() {
        let filter = PathFilter::new(None, &rules(&["/srv/b"]), &[]).unwrap();
        let all = picked(&filter, &["/srv/a/y.log"]);
        assert_eq!(all[3], ("/srv/b/1.py".to_owned(), file()));
        assert_eq!(all[4], ("/srv/b/2.py".to_owned(), EntryKind::HardLink(b"/srv/b/1.py".to_vec())));
    }
}
