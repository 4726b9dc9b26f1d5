//! Snapshots that were made to do harm, and targets that change under the restore: nothing outside is touched.

use super::*;
use crate::domain::entry::{Entry, EntryKind, FileContent};
use crate::domain::id::Digest;
use proptest::prelude::*;
use std::fs::{create_dir, read, read_dir, write};
use std::os::unix::fs::{MetadataExt, symlink};

pub(super) const PLAIN: Options = Options { owner: false, xattrs: true, devices: false };

pub(super) fn entry(path: &[u8], kind: EntryKind) -> Entry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (user, group, xattrs) = (None, None, Vec::new());
    Entry { path: path.to_vec(), kind, mode: 0o755, uid, gid, user, group, mtime_ns: 1_000_000_001, xattrs }
}

pub(super) fn dir(path: &[u8]) -> Entry {
    entry(path, EntryKind::Directory)
}

pub(super) fn link(path: &[u8], target: &[u8]) -> Entry {
    entry(path, EntryKind::Symlink(target.to_vec()))
}

pub(super) fn hard(path: &[u8], first: &[u8]) -> Entry {
    entry(path, EntryKind::HardLink(first.to_vec()))
}

pub(super) fn file(path: &[u8], data: &[u8]) -> Entry {
    let hash = Digest(*blake3::hash(data).as_bytes());
    entry(path, EntryKind::File(FileContent { size: data.len() as u64, hash, ..FileContent::default() }))
}

/// A directory with something precious beside the target.
pub(super) struct World {
    dir: tempfile::TempDir,
}

pub(super) const CANARY: &[u8] = b"precious";

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        create_dir(dir.path().join("outside")).expect("directory");
        write(dir.path().join("outside/canary"), CANARY).expect("file");
        Self { dir }
    }

    pub(super) fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    pub(super) fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn restorer(&self) -> Restorer {
        Restorer::new(&self.target(), PLAIN).expect("a new target")
    }

    #[track_caller]
    pub(super) fn assert_outside_is_untouched(&self) {
        let names = |path: &str| -> Vec<String> {
            let entries = read_dir(self.dir.path().join(path)).expect("directory");
            let mut names: Vec<String> =
                entries.map(|e| e.expect("entry").file_name().into_string().expect("name")).collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["outside", "target"]);
        assert_eq!(names("outside"), ["canary"]);
        let canary = self.dir.path().join("outside/canary");
        assert_eq!(read(&canary).expect("file"), CANARY);
        let metadata = canary.symlink_metadata().expect("file");
        assert_eq!((metadata.nlink(), metadata.mode() & 0o7777 & !0o022), (1, 0o644));
        assert_ne!(metadata.mtime(), 1, "the time of the entries was not set on it");
    }
}

/// Restores one entry with the given bytes.
pub(super) fn put(restorer: &mut Restorer, entry: &Entry, data: &[u8]) -> Result<(), TargetError> {
    if !matches!(entry.kind, EntryKind::File(_)) {
        return restorer.make(entry);
    }
    if let Some(mut sink) = restorer.begin_file(entry)? {
        sink.write(data)?;
        sink.finish()?;
    }
    Ok(())
}

#[test]
fn paths_that_lead_out_are_refused() {
    let paths: [&[u8]; 14] = [
        b"",
        b"x",
        b"../x",
        b"/..",
        b"/../outside/new",
        b"/a/../../outside/new",
        b"/./x",
        b"//x",
        b"/x/",
        b"/a//b",
        b"/x\0y",
        b"/a/..",
        b"outside/new",
        b"/a/./b",
    ];
    for path in paths {
        let world = World::new();
        for entry in [file(path, b""), dir(path), link(path, b"x"), hard(path, b"/x"), entry(path, EntryKind::Fifo)] {
            let mut restorer = world.restorer();
            let result = put(&mut restorer, &entry, b"");
            assert!(matches!(result, Err(TargetError::UnsafePath { .. })), "{entry:?}: {result:?}");
            restorer.finish().expect("finished");
        }
        world.assert_outside_is_untouched();
        assert_eq!(read_dir(world.target()).expect("directory").count(), 0);
    }
}

#[test]
fn nothing_is_made_through_a_symbolic_link() {
    for target in [&b"../outside"[..], b"/", b"."] {
        let world = World::new();
        let mut restorer = world.restorer();
        restorer.make(&link(b"/a", target)).expect("a link is only a link");
        for child in [file(b"/a/canary", b"bad"), dir(b"/a/d"), link(b"/a/e", b"x"), file(b"/a/f/g", b"bad")] {
            let result = put(&mut restorer, &child, b"bad");
            assert!(matches!(result, Err(TargetError::UnsafePath { .. })), "{child:?}: {result:?}");
        }
        restorer.finish().expect("finished");
        world.assert_outside_is_untouched();
    }
}

#[test]
fn hard_links_lead_to_the_inside_only() {
    let world = World::new();
    let canary = world.dir.path().join("outside/canary").into_os_string().into_encoded_bytes();
    let mut restorer = world.restorer();
    restorer.make(&link(b"/a", b"../outside")).expect("link");
    restorer.make(&link(b"/b", b"../outside/canary")).expect("link");
    restorer.make(&dir(b"/c")).expect("directory");
    // What the path names outside is looked for inside, and is not there.
    restorer.make(&hard(b"/d", &canary)).expect("a finding");
    restorer.make(&hard(b"/e", b"/a/canary")).expect("a finding");
    restorer.make(&hard(b"/f", b"/missing")).expect("a finding");
    restorer.make(&hard(b"/g", b"/c")).expect("a finding");
    restorer.make(&hard(b"/h", b"/b")).expect("a second name of the link itself");
    for first in [&b"/../outside/canary"[..], b"/", b"", b"outside", b"/x/../../outside/canary"] {
        let mut other = Restorer::new(&world.target().join("c"), PLAIN).expect("empty");
        assert!(matches!(other.make(&hard(b"/i", first)), Err(TargetError::UnsafePath { .. })), "{first:?}");
    }
    let report = restorer.finish().expect("finished");
    let codes: Vec<&str> = report.warnings.iter().map(|w| w.code.as_str()).collect();
    assert_eq!(codes, ["file.link_missing"; 4]);
    assert!(report.warnings.iter().all(|w| w.incomplete));
    assert!(world.target().join("h").is_symlink());
    world.assert_outside_is_untouched();
}

#[test]
fn one_path_is_made_once() {
    let world = World::new();
    let mut restorer = world.restorer();
    put(&mut restorer, &file(b"/a", b"first"), b"first").expect("made");
    for again in [file(b"/a", b"other"), dir(b"/a"), link(b"/a", b"x"), file(b"/A", b"upper case sorts before")] {
        let result = put(&mut restorer, &again, b"other");
        assert!(matches!(result, Err(TargetError::UnsafePath { .. })), "{result:?}");
    }
    assert!(matches!(put(&mut restorer, &file(b"/a/b", b""), b""), Err(TargetError::UnsafePath { .. })));
    restorer.finish().expect("finished");
    assert_eq!(read(world.target().join("a")).expect("file"), b"first");
}

#[test]
fn a_name_that_is_taken_is_a_finding_and_never_overwritten() {
    // What a file system without upper and lower case does: the name is there already.
    let world = World::new();
    let mut restorer = world.restorer();
    restorer.make(&dir(b"/a")).expect("made");
    for name in ["b", "c", "d", "e"] {
        write(world.target().join("a").join(name), CANARY).expect("planted");
    }
    put(&mut restorer, &file(b"/a/b", b"new"), b"new").expect("a finding");
    restorer.make(&dir(b"/a/c")).expect("a finding");
    put(&mut restorer, &file(b"/a/c/inner", b"new"), b"new").expect("left out with its directory");
    restorer.make(&link(b"/a/d", b"x")).expect("a finding");
    restorer.make(&hard(b"/a/e", b"/a/d")).expect("a finding");
    put(&mut restorer, &file(b"/a/f", b"new"), b"new").expect("made");
    let report = restorer.finish().expect("finished");
    assert_eq!(report.warnings.iter().filter(|w| w.code == "file.name_taken" && w.incomplete).count(), 4);
    for name in ["b", "c", "d", "e"] {
        assert_eq!(read(world.target().join("a").join(name)).expect("file"), CANARY);
    }
    assert_eq!(read(world.target().join("a/f")).expect("file"), b"new");
}

#[test]
fn a_directory_swapped_for_a_link_during_the_restore_leads_nowhere() {
    let world = World::new();
    let mut restorer = world.restorer();
    restorer.make(&dir(b"/a")).expect("made");
    restorer.make(&dir(b"/a/b")).expect("made");
    std::fs::rename(world.target().join("a/b"), world.target().join("moved")).expect("moved");
    symlink(world.dir.path().join("outside"), world.target().join("a/b")).expect("link");
    put(&mut restorer, &file(b"/a/b/canary", b"bad"), b"bad").expect("made in the directory that is open");
    restorer.make(&dir(b"/a/c")).expect("made");
    std::fs::rename(world.target().join("a"), world.target().join("gone")).expect("moved");
    symlink(world.dir.path().join("outside"), world.target().join("a")).expect("link");
    assert!(put(&mut restorer, &file(b"/a/d", b"bad"), b"bad").is_err());
    drop(restorer);
    world.assert_outside_is_untouched();
    assert_eq!(read(world.target().join("moved/canary")).expect("file"), b"bad");
}

#[test]
fn devices_sockets_and_lent_rights_are_not_made() {
    let world = World::new();
    let mut restorer = world.restorer();
    restorer.make(&entry(b"/disk", EntryKind::BlockDevice { major: 8, minor: 0 })).expect("a finding");
    restorer.make(&entry(b"/mem", EntryKind::CharDevice { major: 1, minor: 1 })).expect("a finding");
    restorer.make(&entry(b"/socket", EntryKind::Socket)).expect("a finding");
    // A setuid file of somebody else would run with the rights of whoever restored it.
    let other = Entry { mode: 0o6755, uid: 12_345, ..file(b"/su", b"x") };
    let mut sink = restorer.begin_file(&other).expect("made").expect("free");
    sink.write(b"x").expect("written");
    let findings = sink.finish().expect("finished");
    let codes: Vec<&str> = findings.iter().map(|w| w.code.as_str()).collect();
    assert_eq!(codes, ["file.setid_dropped"]);
    let report = restorer.finish().expect("finished");
    let codes: Vec<&str> = report.warnings.iter().map(|w| w.code.as_str()).collect();
    assert_eq!(codes, ["file.device_skipped", "file.device_skipped", "file.socket_skipped"]);
    assert_eq!(world.target().join("su").symlink_metadata().expect("file").mode() & 0o7777, 0o755);
    assert_eq!(read_dir(world.target()).expect("directory").count(), 1);
}

#[test]
fn a_target_that_holds_anything_is_left_alone() {
    let world = World::new();
    let outside = world.dir.path().join("outside");
    assert!(matches!(Restorer::new(&outside, PLAIN), Err(TargetError::TargetNotEmpty { path }) if path == outside));
    assert!(matches!(Restorer::new(&outside.join("canary"), PLAIN), Err(TargetError::Io { .. })));
    let deep = world.target().join("new/with/parents");
    Restorer::new(&deep, PLAIN).expect("created").finish().expect("finished");
    assert!(deep.is_dir());
    world.assert_outside_is_untouched();
}

#[test]
fn contents_that_are_not_those_of_the_snapshot_leave_no_file() {
    let world = World::new();
    let mut restorer = world.restorer();
    let (short, wrong): (&[u8], &[u8]) = (b"conten", b"CONTENTS");
    for (path, data) in [(b"/a", short), (b"/b", wrong), (b"/c", b"contents!")] {
        let result = put(&mut restorer, &file(path, b"contents"), data);
        assert!(matches!(result, Err(TargetError::Content { .. })), "{result:?}");
    }
    drop(restorer.begin_file(&file(b"/d", b"contents")).expect("made"));
    restorer.finish().expect("finished");
    assert_eq!(read_dir(world.target()).expect("directory").count(), 0);
}

#[test]
fn a_full_disk_is_told_apart() {
    let full = TargetError::from_io("write", b"/x", std::io::Error::from(rustix::io::Errno::NOSPC));
    assert!(matches!(full, TargetError::NoSpace { .. }));
    let quota = TargetError::from_io("write", b"/x", std::io::Error::from(rustix::io::Errno::DQUOT));
    assert!(matches!(quota, TargetError::NoSpace { .. }));
    assert_eq!(full.to_string(), "No space is left for /x");
}

/// Paths made of pieces that hurt.
fn paths() -> impl Strategy<Value = Vec<u8>> {
    let plain: &[&[u8]] = &[b"a", b"b", b"A", b"outside", b"canary"];
    let bad: &[&[u8]] = &[b"..", b".", b"", b"\0", b"\xff", b"-rf"];
    let piece = prop_oneof![6 => prop::sample::select(plain), 1 => prop::sample::select(bad)];
    (prop::bool::weighted(0.95), proptest::collection::vec(piece, 0..5)).prop_map(|(absolute, pieces)| {
        let path = pieces.join(&b'/');
        if absolute { [b"/".as_slice(), &path].concat() } else { path }
    })
}

pub(super) fn hostile_entries() -> impl Strategy<Value = Entry> {
    let targets: &[&[u8]] = &[b"../outside", b"..", b"/", b"a", b"../outside/canary"];
    let target = prop::sample::select(targets);
    let kind = prop_oneof![
        Just(EntryKind::Directory),
        Just(EntryKind::Directory),
        Just(file(b"/", b"bad").kind),
        target.prop_map(|t| EntryKind::Symlink(t.to_vec())),
        paths().prop_map(EntryKind::HardLink),
        Just(EntryKind::Fifo),
        Just(EntryKind::CharDevice { major: 1, minor: 3 }),
    ];
    (paths(), kind, 0u32..0o10000).prop_map(|(path, kind, mode)| Entry { mode, ..entry(&path, kind) })
}

/// One snapshot that was made to do harm, restored into a new target.
pub(super) fn restore_new(mut entries: Vec<Entry>, sorted: bool) {
    if sorted {
        entries.sort_by(|a, b| crate::format::tree::path_order(&a.path, &b.path));
    }
    let world = World::new();
    let mut restorer = world.restorer();
    for entry in &entries {
        // Refused or made: what matters is what happened outside.
        let _ = put(&mut restorer, entry, b"bad");
    }
    let _ = restorer.settle();
    world.assert_outside_is_untouched();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn random_hostile_trees_change_nothing_outside(
        entries in proptest::collection::vec(hostile_entries(), 1..14),
        sorted in prop::bool::weighted(0.8),
    ) {
        restore_new(entries, sorted);
    }
}
