//! Tests of the walk on real directories.

use super::*;
use crate::domain::entry::Entry;
use crate::format::tree::path_order;
use std::fs::{create_dir, create_dir_all, hard_link, write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

struct Tree {
    base: PathBuf,
    _dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        Self { base: dir.path().canonicalize().expect("exists"), _dir: dir }
    }

    fn file(&self, path: &str) -> &Self {
        let path = self.base.join(path);
        create_dir_all(path.parent().expect("has a parent")).expect("directories");
        write(path, path_bytes(Path::new("x"))).expect("file");
        self
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        let path = if path.is_empty() { self.base.clone() } else { self.base.join(path) };
        path.into_os_string().into_vec()
    }
}

fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn options(patterns: &[&str]) -> WalkOptions {
    let rules = Rules::new(patterns.iter().map(|p| (*p).to_owned()), true).expect("patterns");
    WalkOptions { rules, ..WalkOptions::default() }
}

struct Walked {
    entries: Vec<Entry>,
    warnings: Vec<SourceWarning>,
    counts: FileCounts,
}

fn walk(roots: &[PathBuf], options: WalkOptions) -> Walked {
    let mut results = Vec::new();
    for threads in [0, 1, 4] {
        let mut walk = Walk::new(roots, WalkOptions { threads, ..options.clone() }).expect("roots exist");
        let entries: Vec<Entry> = walk.by_ref().map(|found| found.expect("no root vanishes").entry).collect();
        for pair in entries.windows(2) {
            assert!(path_order(&pair[0].path, &pair[1].path).is_lt(), "{:?}", pair);
        }
        results.push(Walked { entries, warnings: walk.take_warnings(), counts: walk.counts() });
    }
    let first = results.remove(0);
    // The directory of temporary files changes all the time.
    let parent = roots.first().and_then(|root| root.parent()).map(path_bytes).unwrap_or_default();
    let own = |walked: &Walked| -> Vec<Entry> {
        walked.entries.iter().filter(|e| !parent.starts_with(&e.path)).cloned().collect()
    };
    for other in results {
        assert!(own(&other) == own(&first), "the number of threads changes nothing");
        assert_eq!((other.counts, &other.warnings), (first.counts, &first.warnings));
    }
    first
}

/// Paths below the base; what lies above it is checked here.
fn names(tree: &Tree, walked: &Walked) -> Vec<String> {
    let base = tree.bytes("");
    let mut names = Vec::new();
    for entry in &walked.entries {
        match entry.path.strip_prefix(base.as_slice()) {
            Some(rest) => names.push(String::from_utf8_lossy(rest).into_owned()),
            None => assert!(base.starts_with(&entry.path) && entry.kind == EntryKind::Directory, "{entry:?}"),
        }
    }
    names
}

#[test]
fn entries_come_in_tree_order_with_the_ways_to_the_roots() {
    let tree = Tree::new();
    tree.file("app/b/x")
        .file("app/b.c")
        .file("app/a")
        .file("app/.env")
        .file("app/.gitignore")
        .file("other/y")
        .file("z");
    write(tree.base.join("app/.gitignore"), "*\n").expect("file");
    create_dir(tree.base.join("app/empty")).expect("directory");
    let walked = walk(&[tree.base.join("app"), tree.base.join("z")], options(&[]));
    let expected =
        ["", "/app", "/app/.env", "/app/.gitignore", "/app/a", "/app/b", "/app/b/x", "/app/b.c", "/app/empty", "/z"];
    assert_eq!(names(&tree, &walked), expected);
    assert_eq!(walked.entries.first().map(|e| e.path.len() > 1), Some(true), "the top is not an entry");
    assert_eq!((walked.counts.files, walked.counts.others), (6, 0));
    assert!(walked.warnings.is_empty());
}

#[test]
fn rules_and_defaults_leave_out_and_are_counted_apart() {
    let tree = Tree::new();
    for path in ["a.log", "keep/b.log", "tmp/x", "tmp/y", ".git/HEAD", "sub/.git", "cache/CACHEDIR.TAG", "cache/data"] {
        tree.file(path);
    }
    tree.file("false/CACHEDIR.TAG").file("false/data").file("media/.holdfastignore").file("media/x").file("media/y");
    write(tree.base.join("cache/CACHEDIR.TAG"), b"Signature: 8a477f597d28d172789f06886806bc55\n# more").expect("tag");
    write(tree.base.join("media/.holdfastignore"), "*\n!y\n!.holdfastignore\n").expect("rules");
    let absolute = format!("{}/tmp/", tree.base.display());
    let walked = walk(std::slice::from_ref(&tree.base), options(&["*.log", &absolute, "!/keep/b.log"]));
    let expected = [
        "",
        "/cache",
        "/cache/CACHEDIR.TAG",
        "/false",
        "/false/CACHEDIR.TAG",
        "/false/data",
        "/keep",
        "/keep/b.log",
        "/media",
        "/media/.holdfastignore",
        "/media/y",
        "/sub",
    ];
    assert_eq!(names(&tree, &walked), expected);
    assert_eq!((walked.counts.excluded_by_rule, walked.counts.excluded_by_default), (3, 3));
    let off = WalkOptions { rules: Rules::new([], false).expect("none"), ..WalkOptions::default() };
    let all = walk(std::slice::from_ref(&tree.base), off);
    assert!(
        names(&tree, &all).contains(&"/.git/HEAD".to_owned()) && names(&tree, &all).contains(&"/cache/data".into())
    );
    // A root that was named is saved, whatever its name or its tag say.
    let named = walk(&[tree.base.join(".git"), tree.base.join("cache")], options(&["HEAD/", ".git"]));
    let named = names(&tree, &named);
    assert_eq!(named, ["", "/.git", "/.git/HEAD", "/cache", "/cache/CACHEDIR.TAG", "/cache/data"]);
}

#[test]
fn a_root_within_a_root_gives_everything_once_and_is_never_left_out() {
    let tree = Tree::new();
    tree.file("a/x").file("a/tmp/keep/y.log").file("a/tmp/drop").file("a/b/z.log");
    let roots = [tree.base.join("a"), tree.base.join("a/tmp/keep"), tree.base.join("a"), tree.base.join("a/./b")];
    let walked = walk(&roots, options(&["/tmp/"]));
    assert_eq!(
        names(&tree, &walked),
        ["", "/a", "/a/b", "/a/b/z.log", "/a/tmp", "/a/tmp/keep", "/a/tmp/keep/y.log", "/a/x"]
    );
}

#[test]
fn a_root_that_is_a_link_is_stored_as_a_link_and_resolved() {
    let tree = Tree::new();
    tree.file("releases/42/app.py").file("releases/42/tmp/x");
    symlink("releases/42", tree.base.join("current")).expect("link");
    symlink("releases", tree.base.join("releases/42/back")).expect("link");
    let pattern = format!("{}/current/tmp/", tree.base.display());
    let walked = walk(&[tree.base.join("current"), tree.base.join("releases")], options(&[&pattern]));
    let expected = ["", "/current", "/releases", "/releases/42", "/releases/42/app.py", "/releases/42/back"];
    assert_eq!(names(&tree, &walked), expected);
    assert_eq!(walked.entries[walked.entries.len() - 5].kind, EntryKind::Symlink(b"releases/42".to_vec()));
    assert_eq!(walked.warnings.len(), 1);
    assert_eq!((walked.warnings[0].code.as_str(), walked.warnings[0].incomplete), ("file.root_is_link", false));
}

#[test]
fn later_names_of_a_file_are_links_to_the_first() {
    let tree = Tree::new();
    tree.file("a/one").file("b/other").file("out");
    hard_link(tree.base.join("a/one"), tree.base.join("b/two")).expect("link");
    hard_link(tree.base.join("a/one"), tree.base.join("c")).expect("link");
    hard_link(tree.base.join("out"), tree.base.join("b/first")).expect("link");
    let links = |walked: &[Entry]| -> Vec<(Vec<u8>, Vec<u8>)> {
        let link = |e: &Entry| match &e.kind {
            EntryKind::HardLink(first) => Some((e.path.clone(), first.clone())),
            _ => None,
        };
        walked.iter().filter_map(link).collect()
    };
    let walked = walk(std::slice::from_ref(&tree.base), options(&[]));
    let pair = |a: &str, b: &str| (tree.bytes(a), tree.bytes(b));
    assert_eq!(links(&walked.entries), [pair("b/two", "a/one"), pair("c", "a/one"), pair("out", "b/first")]);
    assert_eq!(walked.counts.files, 6);
    // When the first name could not be stored, the second takes its place.
    let mut again = Walk::new(std::slice::from_ref(&tree.base), options(&[])).expect("exists");
    let mut entries = Vec::new();
    while let Some(found) = again.next() {
        let found = found.expect("readable");
        if found.entry.path == tree.bytes("a/one") {
            again.forget_first_name(&found);
        }
        entries.push(found.entry);
    }
    assert_eq!(links(&entries), [pair("c", "b/two"), pair("out", "b/first")]);
}

#[test]
fn missing_and_relative_roots_fail_the_source() {
    let tree = Tree::new();
    tree.file("f");
    symlink("nowhere", tree.base.join("dangling")).expect("link");
    let bad = [tree.base.join("missing"), tree.base.join("f/x"), tree.base.join("dangling"), "relative".into()];
    for root in bad {
        let error = Walk::new(&[tree.base.clone(), root.clone()], options(&[])).expect_err("no such root");
        assert!(matches!(&error, SourceError::Path { path, .. } if *path == root), "{error:?}");
    }
}

#[test]
fn a_root_that_vanishes_under_the_walk_fails_the_source_and_another_directory_is_a_finding() {
    let tree = Tree::new();
    tree.file("a/x").file("b/y").file("c/z");
    let roots = [tree.base.join("a"), tree.base.join("b")];
    let mut walk = Walk::new(&roots, WalkOptions { threads: 0, ..options(&[]) }).expect("exist");
    let to_a = walk.by_ref().find(|e| e.as_ref().is_ok_and(|e| e.entry.path == tree.bytes("a")));
    assert!(to_a.is_some());
    std::fs::remove_dir_all(tree.base.join("a")).expect("removed");
    assert!(matches!(walk.next(), Some(Err(SourceError::Path { .. }))));
    assert!(walk.next().is_none());

    let whole = WalkOptions { threads: 0, ..options(&[]) };
    let mut walk = Walk::new(std::slice::from_ref(&tree.base), whole).expect("exists");
    assert!(walk.by_ref().any(|e| e.is_ok_and(|e| e.entry.path == tree.bytes("b"))));
    std::fs::remove_dir_all(tree.base.join("b")).expect("removed");
    let rest: Vec<Entry> = walk.by_ref().map(|e| e.expect("goes on").entry).collect();
    assert_eq!(rest.len(), 2, "c and c/z");
    let warnings = walk.take_warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!((warnings[0].code.as_str(), warnings[0].incomplete), ("file.vanished", true));
}

#[test]
fn a_directory_swapped_for_a_link_is_not_followed() {
    let tree = Tree::new();
    tree.file("root/d/x").file("secret/key");
    let options = WalkOptions { threads: 0, ..options(&[]) };
    let mut walk = Walk::new(&[tree.base.join("root")], options).expect("exists");
    assert!(walk.by_ref().any(|e| e.is_ok_and(|e| e.entry.path == tree.bytes("root/d"))));
    std::fs::rename(tree.base.join("root/d"), tree.base.join("moved")).expect("moved");
    symlink(tree.base.join("secret"), tree.base.join("root/d")).expect("link");
    assert_eq!(walk.by_ref().count(), 0);
    assert_eq!(walk.take_warnings().len(), 1);
}

#[test]
fn a_large_directory_comes_in_batches_and_in_order() {
    let tree = Tree::new();
    for n in 0..3000 {
        if n % 100 == 0 {
            tree.file(&format!("big/{n:05}/inner"));
        } else {
            tree.file(&format!("big/{n:05}"));
        }
    }
    let walked = walk(&[tree.base.join("big")], options(&[]));
    assert_eq!(walked.counts.files, 3000);
    assert!(names(&tree, &walked).contains(&"/big/02900/inner".to_owned()));
}

#[test]
fn special_files_and_odd_names_are_recorded_and_not_opened() {
    let tree = Tree::new();
    tree.file("-rf").file("line\nbreak").file(&"n".repeat(255));
    write(tree.base.join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), b"").expect("file");
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.base.join("pipe"), 0o600.into()).expect("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.base.join(".holdfastignore"), 0o600.into()).expect("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.base.join("CACHEDIR.TAG"), 0o600.into()).expect("fifo");
    let _listener = std::os::unix::net::UnixListener::bind(tree.base.join("sock")).expect("socket");
    let walked = walk(std::slice::from_ref(&tree.base), options(&[]));
    let kinds = |kind: &EntryKind| walked.entries.iter().filter(|e| e.kind == *kind).count();
    assert_eq!((kinds(&EntryKind::Fifo), kinds(&EntryKind::Socket)), (3, 1));
    assert_eq!((walked.counts.files, walked.counts.others), (4, 4));
    assert!(walked.entries.iter().any(|e| e.path == [tree.bytes(""), b"/\xff\xfe".to_vec()].concat()));
}

#[test]
fn an_unreadable_directory_is_a_finding() {
    // Root reads everything; the test means something for other users only, and says so.
    if rustix::process::geteuid().is_root() {
        let tree = Tree::new();
        tree.file("d/x");
        std::fs::set_permissions(tree.base.join("d"), std::fs::Permissions::from_mode(0o000)).expect("mode");
        assert_eq!(walk(std::slice::from_ref(&tree.base), options(&[])).counts.files, 1);
        return;
    }
    let tree = Tree::new();
    tree.file("d/x").file("e");
    std::fs::set_permissions(tree.base.join("d"), std::fs::Permissions::from_mode(0o000)).expect("mode");
    let walked = walk(std::slice::from_ref(&tree.base), options(&[]));
    assert_eq!((walked.counts.files, walked.counts.unreadable), (1, 1));
    assert_eq!((walked.warnings[0].code.as_str(), walked.warnings[0].incomplete), ("file.unreadable", true));
}

#[test]
fn one_file_system_keeps_the_mount_point_and_leaves_its_contents() {
    // `/proc` is another file system wherever the tests run; only the first entries are taken.
    let mut walk = Walk::new(
        &["/".into()],
        WalkOptions {
            one_file_system: true,
            rules: Rules::new(["/*".into(), "!/proc".into()], true).expect("ok"),
            ..options(&[])
        },
    )
    .expect("exists");
    let entries: Vec<Vec<u8>> = walk.by_ref().map(|e| e.expect("readable").entry.path).collect();
    assert_eq!(entries, [b"/".to_vec(), b"/proc".to_vec()]);
}
