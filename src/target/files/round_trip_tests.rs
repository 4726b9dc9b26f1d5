//! A tree with everything in it: walked, read, written as a tree stream, decoded, restored and compared.

use super::*;
use crate::domain::entry::{Entry, EntryKind};
use crate::domain::snapshot::SourceWarning;
use crate::domain::system::FixedClock;
use crate::format::tree::{TreeReader, TreeWriter};
use crate::source::files::metadata::Owners;
use crate::source::files::read::{FileReader, is_unchanged};
use crate::source::files::rules::Rules;
use crate::source::files::walk::{Walk, WalkOptions};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use std::convert::Infallible;
use std::fs::{Permissions, create_dir, create_dir_all, hard_link, set_permissions, write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use tree_compare::differences;

#[path = "../../../tests/it/support/tree_compare.rs"]
mod tree_compare;

/// An access ACL: user::rw-, user:1234:r--, group::r--, mask::r--, other::---.
fn acl() -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(bits.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn build(base: &Path) {
    create_dir_all(base.join("d/e")).expect("directories");
    create_dir(base.join("empty")).expect("directory");
    create_dir(base.join("sticky")).expect("directory");
    for (name, mode) in [("plain", 0o644), ("script", 0o755), ("secret", 0o600), ("su", 0o6755)] {
        write(base.join(name), format!("contents of {name}\n")).expect("file");
        set_permissions(base.join(name), Permissions::from_mode(mode)).expect("mode");
    }
    write(base.join("d/zero"), b"").expect("file");
    write(base.join("large"), (0..3_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).expect("file");
    for name in [&b"\xff\xfe not UTF-8"[..], b"-rf", b"line\nbreak", b" trailing ", b"\x01", &[b'n'; 255], b".hidden"] {
        write(base.join(OsStr::from_bytes(name)), name).expect("file");
    }
    hard_link(base.join("plain"), base.join("d/another name")).expect("link");
    hard_link(base.join("plain"), base.join("d/e/third")).expect("link");
    symlink("plain", base.join("link")).expect("link");
    symlink(OsStr::from_bytes(b"/nowhere/\xff"), base.join("dangling")).expect("link");
    symlink("../d", base.join("d/to-directory")).expect("link");
    hard_link(base.join("dangling"), base.join("dangling twice")).expect("link to a link");
    let sparse = std::fs::File::create(base.join("sparse")).expect("file");
    sparse.set_len(64 << 20).expect("length");
    sparse.write_all_at(b"middle", 32 << 20).expect("write");
    std::fs::File::create(base.join("all hole")).expect("file").set_len(10 << 20).expect("length");
    rustix::fs::mkfifoat(CWD, base.join("pipe"), Mode::from_raw_mode(0o640)).expect("fifo");
    let socket = std::os::unix::net::UnixListener::bind(base.join("socket")).expect("socket");
    drop(socket);
    xattr::set(base.join("script"), "user.comment", b"\0\xff").expect("the tests need extended attributes");
    xattr::set(base.join("script"), "user.empty", b"").expect("attribute");
    xattr::set(base.join("d"), "user.on-directory", &[7; 2000]).expect("attribute");
    xattr::set(base.join("secret"), "system.posix_acl_access", &acl()).expect("the tests need ACLs");
    xattr::set(base.join("d/e"), "system.posix_acl_default", &acl()).expect("ACL");
    if is_root() {
        xattr::set(
            base.join("script"),
            "security.capability",
            &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
        .expect("capability");
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, base.join("null"), FileType::CharacterDevice, 0o666.into(), device).expect("device");
        rustix::fs::mknodat(CWD, base.join("disk"), FileType::BlockDevice, 0o660.into(), device).expect("device");
        let (uid, gid) = (Some(rustix::fs::Uid::from_raw(4321)), Some(rustix::fs::Gid::from_raw(8765)));
        for name in ["d/zero", "link", "pipe", "empty", "su"] {
            rustix::fs::chownat(CWD, base.join(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW).expect("owner");
        }
        set_permissions(base.join("su"), Permissions::from_mode(0o6755)).expect("mode");
    }
    set_permissions(base.join("sticky"), Permissions::from_mode(0o3777)).expect("mode");
    set_permissions(base.join("empty"), Permissions::from_mode(0o500)).expect("mode");
    let names = ["plain", "link", "dangling", "pipe", "d/zero", "d/e", "d", "sticky", "su", ""];
    for (n, name) in (1i64..).zip(names) {
        let time = Timespec { tv_sec: -86_400 * 365 * 3 + n * 100_000_000, tv_nsec: 987_654_321 - n };
        let times = Timestamps { last_access: time, last_modification: time };
        let path = if name.is_empty() { base.to_owned() } else { base.join(name) };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
    }
}

struct Saved {
    tree: Vec<u8>,
    content: Vec<u8>,
    warnings: Vec<SourceWarning>,
}

fn save(roots: &[PathBuf]) -> Saved {
    let owners = Owners::default();
    let options =
        WalkOptions { rules: Rules::new([], true).expect("none"), owners: owners.clone(), ..Default::default() };
    let mut walk = Walk::new(roots, options).expect("roots exist");
    let mut reader = FileReader::new(owners);
    let clock = FixedClock(std::sync::Mutex::new(jiff::Timestamp::from_second(4_000_000_000).expect("in range")));
    let mut writer = TreeWriter::new();
    let (mut tree, mut content, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for found in walk.by_ref() {
        let found = found.expect("readable");
        let mut entry = found.entry.clone();
        if matches!(entry.kind, EntryKind::File(_)) {
            let read = reader.read(&found, &clock, |piece| {
                content.extend_from_slice(piece);
                Ok::<(), Infallible>(())
            });
            let read = read.expect("readable");
            warnings.extend(read.warning);
            assert!(is_unchanged(&read.entry, read.identity, &found), "the walk would know it again");
            entry = read.entry;
        }
        writer.push(&entry).expect("in order");
        writer.drain_into(&mut tree);
    }
    warnings.extend(walk.take_warnings());
    tree.extend(writer.finish());
    Saved { tree, content, warnings }
}

fn restore(restorer: &mut Restorer, saved: &Saved) -> Vec<SourceWarning> {
    let mut reader = TreeReader::new();
    let mut content = saved.content.as_slice();
    let mut findings = Vec::new();
    for piece in saved.tree.chunks(1000) {
        reader.feed(piece);
        while let Some(entry) = reader.next_entry().expect("a good tree") {
            let EntryKind::File(file) = &entry.kind else {
                restorer.make(&entry).expect("made");
                continue;
            };
            let (mine, rest) = content.split_at(file.stream_bytes() as usize);
            content = rest;
            let mut sink = restorer.begin_file(&entry).expect("made").expect("free");
            for piece in mine.chunks(70_001) {
                sink.write(piece).expect("written");
            }
            findings.extend(sink.finish().expect("the same contents"));
        }
    }
    assert!(content.is_empty());
    reader.finish().expect("a whole tree");
    findings
}

fn below(target: &Path, path: &Path) -> PathBuf {
    target.join(path.strip_prefix("/").expect("absolute"))
}

#[test]
fn everything_comes_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let base = dir.path().canonicalize().expect("exists").join("source");
    build(&base);
    let saved = save(std::slice::from_ref(&base));
    assert_eq!(saved.warnings, []);
    assert!(saved.content.len() < 13_000_000, "holes are not stored");
    let target = dir.path().join("restored");
    let mut restorer = Restorer::new(&target, Options::for_this_user()).expect("a new target");
    let findings = restore(&mut restorer, &saved);
    let report = restorer.finish().expect("finished");
    assert_eq!(findings, []);
    let codes: Vec<&str> = report.warnings.iter().map(|w| w.code.as_str()).collect();
    assert_eq!(codes, ["file.socket_skipped"]);
    assert_eq!(differences(&base, &below(&target, &base)), Vec::<String>::new());
    // The ways to the root came back with their metadata too.
    let parent = dir.path().canonicalize().expect("exists");
    let mode = |path: &Path| path.symlink_metadata().expect("exists").permissions().mode();
    assert_eq!(mode(&below(&target, &parent)), mode(&parent));
    // The comparison can fail: one nanosecond, one bit, one byte, one name.
    let copy = below(&target, &base);
    let time = Timespec { tv_sec: 5, tv_nsec: 1 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, copy.join("link"), &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
    set_permissions(copy.join("script"), Permissions::from_mode(0o754)).expect("mode");
    let large = std::fs::File::options().write(true).open(copy.join("large")).expect("file");
    large.write_all_at(b"x", 5).expect("write");
    std::fs::remove_file(copy.join("d/e/third")).expect("removed");
    write(copy.join("d/e/third"), b"contents of plain\n").expect("file");
    let found = differences(&base, &copy).join("\n");
    for what in ["link: mtime", "script: mode", "large: contents", "d/e/third: a name of", "d/e/third: mtime"] {
        assert!(found.contains(what), "{what} is not in\n{found}");
    }
}

#[test]
fn two_trees_share_the_directories_above_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let base = dir.path().canonicalize().expect("exists").join("srv");
    for name in ["app", "media"] {
        create_dir_all(base.join(name)).expect("directories");
        write(base.join(name).join("file"), name).expect("file");
    }
    xattr::set(&base, "system.posix_acl_default", &acl()).expect("ACL");
    let first = save(&[base.join("app")]);
    let second = save(&[base.join("media")]);
    let target = dir.path().join("restored");
    let mut restorer = Restorer::new(&target, Options::for_this_user()).expect("a new target");
    assert_eq!(restore(&mut restorer, &first), []);
    restorer.next_tree().expect("goes on");
    assert_eq!(restore(&mut restorer, &second), []);
    assert_eq!(restorer.finish().expect("finished").warnings, []);
    assert_eq!(differences(&base, &below(&target, &base)), Vec::<String>::new());
}

#[test]
fn a_default_acl_of_the_target_is_not_handed_down() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let base = dir.path().canonicalize().expect("exists").join("source");
    create_dir_all(base.join("d")).expect("directories");
    write(base.join("d/file"), b"x").expect("file");
    let saved = save(std::slice::from_ref(&base));
    let target = dir.path().join("restored");
    create_dir(&target).expect("directory");
    xattr::set(&target, "system.posix_acl_default", &acl()).expect("ACL");
    let mut restorer = Restorer::new(&target, Options::for_this_user()).expect("an empty target");
    restore(&mut restorer, &saved);
    restorer.finish().expect("finished");
    assert_eq!(differences(&base, &below(&target, &base)), Vec::<String>::new());
}

#[test]
fn part_of_a_tree_is_restored_with_plain_directories_above_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let base = dir.path().canonicalize().expect("exists").join("source");
    create_dir_all(base.join("a/b")).expect("directories");
    write(base.join("a/b/file"), b"x").expect("file");
    let saved = save(std::slice::from_ref(&base));
    let mut reader = TreeReader::new();
    reader.feed(&saved.tree);
    let mut last: Option<Entry> = None;
    while let Some(entry) = reader.next_entry().expect("a good tree") {
        last = Some(entry);
    }
    let entry = last.expect("a file");
    let target = dir.path().join("restored");
    let mut restorer = Restorer::new(&target, Options::for_this_user()).expect("a new target");
    let mut sink = restorer.begin_file(&entry).expect("made").expect("free");
    sink.write(b"x").expect("written");
    assert_eq!(sink.finish().expect("finished"), []);
    restorer.finish().expect("finished");
    assert_eq!(differences(&base.join("a/b/file"), &below(&target, &base.join("a/b/file"))), Vec::<String>::new());
}
