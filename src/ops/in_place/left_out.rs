//! Which entries of a tree in its place no backup holds, because the rules of the source leave them out.

use crate::source::files::rules::{CACHE_TAG_FILE, CACHE_TAG_SIGNATURE, IGNORE_FILE, RootRules, Rules};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Largest file of rules that is read, bytes.
const IGNORE_BYTES_MAX: u64 = 1 << 20;

/// The rules by which a source leaves entries out, and where they hold.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// The rules.
    pub rules: Rules,
    /// The directory that they are relative to: where the source's path is now.
    pub root: PathBuf,
    /// The path of the source, which rules may begin with.
    pub known_as: PathBuf,
}

impl LeftOut {
    /// The topmost entries at and below `place` that are left out, relative to `place`. What cannot be read, or has rules
    /// that cannot be used, counts as not left out.
    pub(super) fn find(&self, place: &Path) -> Vec<PathBuf> {
        let known = [self.root.as_os_str().as_bytes(), self.known_as.as_os_str().as_bytes()];
        let Ok(rules) = self.rules.for_root(&known) else { return Vec::new() };
        let Ok(below) = place.strip_prefix(&self.root) else { return Vec::new() };
        let mut found = Vec::new();
        // Rules of the directories on the way to the place hold there, too.
        let (mut rules, mut here) = (with_file(rules, &self.root, Path::new("")), PathBuf::new());
        for name in below {
            here.push(name);
            rules = with_file(rules, &self.root.join(&here), &here);
        }
        look(&rules, &self.root, below, below, &mut found);
        found
    }
}

/// The rules within a directory.
fn with_file(rules: RootRules, directory: &Path, relative: &Path) -> RootRules {
    let path = directory.join(std::ffi::OsStr::from_bytes(IGNORE_FILE));
    let mut contents = Vec::new();
    match File::open(path).and_then(|file| file.take(IGNORE_BYTES_MAX).read_to_end(&mut contents)) {
        Ok(_) => rules.with_ignore_file(relative.as_os_str().as_bytes(), &contents).0,
        Err(_) => rules,
    }
}

fn look(rules: &RootRules, root: &Path, relative: &Path, place: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(root.join(relative)) else { return };
    for entry in entries.flatten() {
        let path = relative.join(entry.file_name());
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let whole = root.join(&path);
        let left_out = rules.exclusion(path.as_os_str().as_bytes(), is_directory).is_some()
            || (is_directory && rules.default_excludes() && is_cache(&whole));
        if left_out {
            found.extend(path.strip_prefix(place).ok().map(Path::to_owned));
        } else if is_directory {
            let inner = with_file(rules.clone(), &whole, &path);
            look(&inner, root, &path, place, found);
        }
    }
}

fn is_cache(directory: &Path) -> bool {
    let mut head = vec![0; CACHE_TAG_SIGNATURE.len()];
    let tag = directory.join(std::ffi::OsStr::from_bytes(CACHE_TAG_FILE));
    File::open(tag).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == CACHE_TAG_SIGNATURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_entries_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("app");
        for path in [".git/HEAD", "a.log", "sub/b.log", "sub/keep.txt", "sub/tmp/x", "cache/CACHEDIR.TAG", "own/c.bak"]
        {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, CACHE_TAG_SIGNATURE).unwrap();
        }
        std::fs::write(root.join("own/.holdfastignore"), "*.bak\n").unwrap();
        let rules = Rules::new(["*.log".to_owned(), "/srv/app/sub/tmp/".to_owned()], true).unwrap();
        let left_out = LeftOut { rules, root: root.clone(), known_as: "/srv/app".into() };
        let find = |place: &Path| {
            let mut found = left_out.find(place);
            found.sort();
            found
        };
        let names = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(find(&root), names(&[".git", "a.log", "cache", "own/c.bak", "sub/b.log", "sub/tmp"]));
        assert_eq!(find(&root.join("sub")), names(&["b.log", "tmp"]));
        assert_eq!(find(&folder.path().join("elsewhere")), names(&[]));
    }
}
