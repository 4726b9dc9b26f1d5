//! Targets that hold something: what stays, what is replaced, what goes; and what somebody planted there.

use super::hostile_tests::{CANARY, PLAIN, World, dir, entry, file, hard, hostile_entries, link, put};
use super::*;
use crate::domain::entry::{Entry, EntryKind};
use proptest::prelude::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

const EVERY: [Overwrite; 4] = [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Never];

fn existing(overwrite: Overwrite, delete_below: &[&[u8]]) -> Existing {
    let delete_below = delete_below.iter().map(|path| path.to_vec()).collect();
    Existing { overwrite, delete_below, protect: vec![b"/srv/other/root".to_vec()] }
}

fn restorer(world: &World, existing: Existing) -> Restorer {
    Restorer::into_existing(&world.target(), PLAIN, existing).expect("opens")
}

/// What a run does: asks first, then keeps or puts.
fn restore(restorer: &mut Restorer, entry: &Entry, data: &[u8]) -> Result<(), TargetError> {
    if let EntryKind::File(_) = entry.kind {
        match restorer.looker()?.expect("in a target that exists").judge(entry) {
            Verdict::Same => return restorer.keep_file(entry, true),
            Verdict::Keep => return restorer.keep_file(entry, false),
            Verdict::New | Verdict::Replace => {}
        }
    }
    put(restorer, entry, data)
}

fn read(world: &World, name: &str) -> Vec<u8> {
    std::fs::read(world.target().join(name)).expect("file")
}

/// A target with a file that is the snapshot's, one that is older, one that is newer, and one that the snapshot does not have.
fn lived_in() -> World {
    let world = World::new();
    std::fs::create_dir_all(world.target().join("srv/sub")).expect("directories");
    for (name, data, seconds) in
        [("same", "same", 1), ("older", "other", 0), ("newer", "other", 9), ("sub/extra", "extra", 1)]
    {
        let path = world.target().join("srv").join(name);
        std::fs::write(&path, data).expect("file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(seconds, 1);
        std::fs::File::options().write(true).open(&path).expect("file").set_modified(time).expect("time");
    }
    world
}

#[test]
fn each_rule_replaces_what_it_says_and_nothing_else() {
    for (overwrite, older, newer, mode) in [
        (Overwrite::Always, "older", "newer", 0o755),
        (Overwrite::IfChanged, "older", "newer", 0o755),
        (Overwrite::IfNewer, "older", "other", 0o600),
        (Overwrite::Never, "other", "other", 0o600),
    ] {
        let world = lived_in();
        let inode = |name: &str| world.target().join(name).metadata().expect("file").ino();
        let before = inode("srv/same");
        let mut restorer = restorer(&world, existing(overwrite, &[]));
        restorer.make(&dir(b"/srv")).expect("there");
        for name in ["fresh", "newer", "older", "same"] {
            let path = format!("/srv/{name}");
            restore(&mut restorer, &file(path.as_bytes(), name.as_bytes()), name.as_bytes()).expect("restored");
        }
        restorer.make(&dir(b"/srv/sub")).expect("there");
        let report = restorer.finish().expect("finished");
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
        for (name, data) in [("fresh", "fresh"), ("same", "same"), ("older", older), ("newer", newer)] {
            assert_eq!(read(&world, &format!("srv/{name}")), data.as_bytes(), "{overwrite:?} {name}");
        }
        assert_eq!(read(&world, "srv/sub/extra"), b"extra");
        let same = world.target().join("srv/same").metadata().expect("file");
        assert_eq!((inode("srv/same"), same.mode() & 0o777), (before, mode), "{overwrite:?}: metadata are repaired");
        let counted = (report.unchanged, report.kept);
        let expected = match overwrite {
            Overwrite::Always | Overwrite::IfChanged => (1, 0),
            Overwrite::IfNewer => (0, 2),
            Overwrite::Never => (0, 3),
        };
        assert_eq!(counted, expected, "{overwrite:?}");
    }
}

#[test]
fn always_reads_and_if_changed_trusts_size_and_time() {
    for (overwrite, expected) in [(Overwrite::Always, b"right"), (Overwrite::IfChanged, b"wrong")] {
        let world = World::new();
        std::fs::create_dir(world.target()).expect("directory");
        let path = world.target().join("a");
        std::fs::write(&path, b"wrong").expect("file");
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1, 1);
        std::fs::File::options().write(true).open(&path).expect("file").set_modified(time).expect("time");
        let mut restorer = restorer(&world, existing(overwrite, &[]));
        restore(&mut restorer, &file(b"/a", b"right"), b"right").expect("restored");
        restorer.finish().expect("finished");
        assert_eq!(&read(&world, "a"), expected);
    }
}

#[test]
fn only_what_the_snapshot_does_not_have_goes_and_only_within_the_roots() {
    let world = lived_in();
    let target = world.target();
    symlink("../outside", target.join("srv/out")).expect("link");
    std::fs::create_dir_all(target.join("srv/deep/er")).expect("directories");
    symlink(world.outside(), target.join("srv/deep/er/out")).expect("link");
    std::fs::create_dir_all(target.join("srv/other/root")).expect("directories");
    std::fs::create_dir_all(target.join("srv/taken/full")).expect("directories");
    std::fs::write(target.join("beside"), b"not within the root").expect("file");
    let mut restorer = restorer(&world, existing(Overwrite::Always, &[b"/srv"]));
    restorer.make(&dir(b"/srv")).expect("there");
    restore(&mut restorer, &file(b"/srv/same", b"same"), b"same").expect("restored");
    restore(&mut restorer, &file(b"/srv/taken", b"new"), b"new").expect("restored");
    restorer.settle().expect("settled");
    let deleted: Vec<String> =
        restorer.take_deleted().into_iter().map(|path| String::from_utf8(path).expect("text")).collect();
    let expected = ["/srv/taken", "/srv/deep", "/srv/newer", "/srv/older", "/srv/out", "/srv/sub"];
    assert_eq!(deleted, expected);
    restorer.finish().expect("finished");
    let mut left: Vec<_> =
        std::fs::read_dir(target.join("srv")).expect("directory").map(|e| e.expect("entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["other", "same", "taken"]);
    assert_eq!(read(&world, "beside"), b"not within the root");
    world.assert_outside_is_untouched();
}

#[test]
fn nothing_goes_once_the_rest_of_the_tree_is_unknown() {
    let world = lived_in();
    let mut restorer = restorer(&world, existing(Overwrite::Always, &[b"/srv"]));
    restorer.make(&dir(b"/srv")).expect("there");
    restore(&mut restorer, &file(b"/srv/same", b"same"), b"same").expect("restored");
    restorer.delete_no_more();
    restorer.finish().expect("finished");
    assert_eq!(read(&world, "srv/sub/extra"), b"extra");
}

#[test]
fn links_planted_at_any_depth_are_replaced_and_never_followed() {
    for overwrite in EVERY {
        let world = World::new();
        std::fs::create_dir_all(world.target().join("a/b")).expect("directories");
        for (name, to) in
            [("top", "../outside"), ("a/middle", "../../outside"), ("a/b/canary", "../../../outside/canary")]
        {
            symlink(to, world.target().join(name)).expect("link");
        }
        std::fs::hard_link(world.outside().join("canary"), world.target().join("a/b/second-name")).expect("link");
        let mut restorer = restorer(&world, existing(overwrite, &[b"/"]));
        for path in ["/a", "/a/b"] {
            restorer.make(&dir(path.as_bytes())).expect("there");
        }
        restore(&mut restorer, &file(b"/a/b/canary", b"bad"), b"bad").expect("restored");
        restore(&mut restorer, &file(b"/a/b/second-name", CANARY), CANARY).expect("restored");
        for path in ["/a/middle", "/a/middle/canary", "/top", "/top/canary", "/top/new"] {
            let made = if path.ends_with("middle") || path.ends_with("top") {
                restorer.make(&dir(path.as_bytes()))
            } else {
                restore(&mut restorer, &file(path.as_bytes(), b"bad"), b"bad")
            };
            made.expect("made or left out");
        }
        restorer.finish().expect("finished");
        let replaced = matches!(overwrite, Overwrite::Always | Overwrite::IfChanged);
        assert_eq!(world.target().join("top").is_symlink(), !replaced, "{overwrite:?}");
        // Under a link that stays nothing was made, not even what the link leads to has changed.
        assert_eq!(world.target().join("a/middle").is_symlink(), !replaced, "{overwrite:?}");
        // The second name in the target may stay, or be a file of its own; what it led to is as it was.
        let names = world.outside().join("canary").metadata().expect("file").nlink();
        assert!(names == 1 || !replaced, "{overwrite:?}: {names}");
        let _ = std::fs::remove_file(world.target().join("a/b/second-name"));
        world.assert_outside_is_untouched();
    }
}

#[test]
fn what_is_in_the_way_is_told_and_kept() {
    let world = World::new();
    std::fs::create_dir_all(world.target().join("full/of")).expect("directories");
    std::fs::create_dir_all(world.target().join("hollow")).expect("directories");
    let mut restorer = restorer(&world, existing(Overwrite::Always, &[]));
    restore(&mut restorer, &file(b"/full", b"x"), b"x").expect("a finding");
    restore(&mut restorer, &file(b"/hollow", b"x"), b"x").expect("made");
    restorer.make(&link(b"/link", b"x")).expect("made");
    let report = restorer.finish().expect("finished");
    let codes: Vec<&str> = report.warnings.iter().map(|w| w.code.as_str()).collect();
    assert_eq!(codes, ["file.in_the_way"]);
    assert!(world.target().join("full/of").is_dir());
    assert_eq!(read(&world, "hollow"), b"x");
}

#[test]
fn links_of_files_are_made_again_and_nothing_is_written_through_them() {
    let world = World::new();
    std::fs::create_dir(world.target()).expect("directory");
    let path = |name: &str| world.target().join(name);
    std::fs::write(path("a"), b"old").expect("file");
    for name in ["b", "not-in-the-snapshot"] {
        std::fs::hard_link(path("a"), path(name)).expect("link");
    }
    for _ in 0..2 {
        let mut restorer = restorer(&world, existing(Overwrite::Always, &[]));
        restore(&mut restorer, &file(b"/a", b"new"), b"new").expect("restored");
        restorer.make(&hard(b"/b", b"/a")).expect("linked");
        restorer.make(&link(b"/c", b"a")).expect("made");
        restorer.make(&entry(b"/d", EntryKind::Fifo)).expect("made");
        assert!(restorer.finish().expect("finished").warnings.is_empty());
        let inode = |name: &str| path(name).symlink_metadata().expect("file").ino();
        assert_eq!(inode("a"), inode("b"));
        assert_eq!((read(&world, "a"), read(&world, "not-in-the-snapshot")), (b"new".to_vec(), b"old".to_vec()));
    }
    assert_eq!(std::fs::read_dir(world.target()).expect("directory").count(), 5, "no name is left over");
}

#[test]
fn a_file_that_does_not_arrive_leaves_the_old_one() {
    let world = lived_in();
    let mut restorer = restorer(&world, existing(Overwrite::Always, &[]));
    restorer.make(&dir(b"/srv")).expect("there");
    let result = put(&mut restorer, &file(b"/srv/older", b"contents"), b"CONTENTS");
    assert!(matches!(result, Err(TargetError::Content { .. })));
    drop(restorer.begin_file(&file(b"/srv/same", b"contents")).expect("begun"));
    restorer.finish().expect("finished");
    assert_eq!((read(&world, "srv/older"), read(&world, "srv/same")), (b"other".to_vec(), b"same".to_vec()));
    assert_eq!(std::fs::read_dir(world.target().join("srv")).expect("directory").count(), 4);
}

/// Something planted in a target, at a path of few names.
#[derive(Debug, Clone)]
enum Planted {
    Link(String, &'static str),
    Directory(String),
    File(String),
    HardLink(String),
}

fn planted() -> impl Strategy<Value = Planted> {
    let path = proptest::collection::vec(prop::sample::select(vec!["a", "b", "A", "outside", "canary"]), 1..4);
    let path = path.prop_map(|names| names.join("/"));
    let to = prop::sample::select(vec!["../outside", "../../outside", "..", ".", "/", "../outside/canary"]);
    prop_oneof![
        4 => (path.clone(), to).prop_map(|(path, to)| Planted::Link(path, to)),
        2 => path.clone().prop_map(Planted::Directory),
        1 => path.clone().prop_map(Planted::File),
        1 => path.prop_map(Planted::HardLink),
    ]
}

fn plant(world: &World, planted: &[Planted]) {
    std::fs::create_dir(world.target()).expect("directory");
    for thing in planted {
        let (Planted::Link(path, _) | Planted::Directory(path) | Planted::File(path) | Planted::HardLink(path)) = thing;
        let at = world.target().join(path);
        // Name by name, so that planting itself never goes through a link that was planted before.
        let mut above = world.target();
        let mut names: Vec<&str> = path.split('/').collect();
        names.pop();
        for name in names {
            above.push(name);
            let _ = std::fs::create_dir(&above);
            if !above.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
                break;
            }
        }
        if !at.parent().is_some_and(|parent| parent == above && above.symlink_metadata().is_ok_and(|m| m.is_dir())) {
            continue;
        }
        let _ = match thing {
            Planted::Link(_, to) => symlink(to, &at),
            Planted::Directory(_) => std::fs::create_dir(&at),
            Planted::File(_) if at.symlink_metadata().is_err() => std::fs::write(&at, b"bad"),
            Planted::File(_) => Ok(()),
            Planted::HardLink(_) => std::fs::hard_link(world.outside().join("canary"), &at),
        };
    }
}

/// Removes the second names that were planted, so that the number of names is as it was.
fn remove_planted_names(directory: &std::path::Path) {
    for item in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = item.path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() {
            let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700));
            remove_planted_names(&path);
        } else if metadata.nlink() > 1 {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// What is in the target, and how it is to be treated.
#[derive(Debug, Clone)]
pub(super) struct Situation {
    planted: Vec<Planted>,
    overwrite: Overwrite,
    delete: bool,
}

pub(super) fn situations() -> impl Strategy<Value = Situation> {
    let planted = proptest::collection::vec(planted(), 0..8);
    (planted, prop::sample::select(EVERY.to_vec()), any::<bool>()).prop_map(|(planted, overwrite, delete)| Situation {
        planted,
        overwrite,
        delete,
    })
}

/// One snapshot that was made to do harm, restored into a target in which somebody planted things.
pub(super) fn restore_existing(mut entries: Vec<Entry>, situation: &Situation) {
    entries.sort_by(|a, b| crate::format::tree::path_order(&a.path, &b.path));
    let world = World::new();
    plant(&world, &situation.planted);
    let below: &[&[u8]] = if situation.delete { &[b"/"] } else { &[] };
    let mut restorer = restorer(&world, existing(situation.overwrite, below));
    for entry in &entries {
        let _ = restore(&mut restorer, entry, b"bad");
    }
    let _ = restorer.settle();
    remove_planted_names(&world.target());
    world.assert_outside_is_untouched();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn random_hostile_trees_in_planted_targets_change_nothing_outside(
        entries in proptest::collection::vec(hostile_entries(), 1..14),
        situation in situations(),
    ) {
        restore_existing(entries, &situation);
    }
}
