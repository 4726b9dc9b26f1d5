//! Trees that are made beside a place, whole or not at all.

use super::tests::{World, contents, noise};
use super::*;
use crate::ops::observer::Silent;
use crate::target::replace::tree::TreeReplacement;
use crate::target::replace::{Replace, State};
use std::os::unix::fs::{MetadataExt, symlink};

const ACT: &str = "0123456789abcdef";

fn stage(world: &World, snapshot: &Snapshot, root: &Path, replacement: &TreeReplacement) -> Result<Report, Error> {
    let (reading, root) = (world.reading(), root.as_os_str().as_encoded_bytes());
    let source = snapshot.source("files").unwrap();
    staged::tree(&reading, snapshot, source, root, replacement, &Silent, &Cancel::new())
}

#[test]
fn a_tree_takes_the_place_of_another_that_has_another_name() {
    let world = World::new();
    let saved = contents(&world.source());
    let snapshot = world.backup(0, vec![world.files()]);
    let place = world.target("live");
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("newer"), b"not in the snapshot").unwrap();
    let replacement = TreeReplacement::new(&place, ACT).unwrap();
    let report = stage(&world, &snapshot, &world.source(), &replacement).unwrap();
    assert!(report.is_complete() && report.sources[0].files == 6, "{report:?}");
    assert_eq!(replacement.state().unwrap(), State::Staged);
    assert!(place.join("newer").exists());
    replacement.swap().unwrap();
    assert!(contents(&place) == saved);
    let inode = |name: &str| place.join(name).metadata().unwrap().ino();
    assert_eq!(inode("big-2"), inode("sub/link-2"));
    let times = |path: &Path| (path.metadata().unwrap().mtime(), path.metadata().unwrap().mode());
    assert_eq!(times(&place), times(&world.source()));
    replacement.discard_old().unwrap();
    assert_eq!(std::fs::read_dir(place.parent().unwrap()).unwrap().count(), 2);
}

#[test]
fn one_directory_or_one_file_is_put_back_in_its_place() {
    let world = World::new();
    let snapshot = world.backup(0, vec![world.files()]);
    std::fs::write(world.source().join("sub/small"), b"changed").unwrap();
    for (root, root_has_link) in [("sub", true), ("sub/small", false)] {
        let root = world.source().join(root);
        let replacement = TreeReplacement::new(&root, ACT).unwrap();
        assert!(stage(&world, &snapshot, &root, &replacement).unwrap().is_complete());
        replacement.swap().unwrap();
        replacement.discard_old().unwrap();
        if root_has_link {
            // Its first name is outside of what was put back: it has the contents by itself.
            assert!(std::fs::read(root.join("link-2")).unwrap() == noise(2, 3 << 20));
            std::fs::write(root.join("small"), b"changed again").unwrap();
        }
    }
    assert_eq!(std::fs::read(world.source().join("sub/small")).unwrap(), b"small");
    let nowhere = world.source().join("nowhere");
    let replacement = TreeReplacement::new(&nowhere, ACT).unwrap();
    assert!(matches!(stage(&world, &snapshot, &nowhere, &replacement), Err(Error::NoSuchPath { .. })));
}

#[test]
fn what_is_not_complete_is_not_staged_and_leaves_nothing() {
    let world = World::new();
    let snapshot = world.backup(0, vec![world.files()]);
    let (name, bytes) = world.packs().remove(0);
    let mut damaged = bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 1000].fill(0xee);
    world.put(&name, &damaged);
    let replacement = TreeReplacement::new(&world.source(), ACT).unwrap();
    let report = stage(&world, &snapshot, &world.source(), &replacement).unwrap();
    assert!(report.lost_count > 0);
    assert_eq!(replacement.state().unwrap(), State::Untouched);
    assert_eq!(std::fs::read_dir(world.target("")).unwrap().count(), 1, "the source alone");
}

#[test]
fn roots_are_told_from_the_directories_on_the_way() {
    let world = World::new();
    let current = world.target("current");
    symlink("source/sub", &current).unwrap();
    let files = |roots: Vec<PathBuf>| {
        let (exclude, default_excludes, one_file_system) = (Vec::new(), true, false);
        let from = crate::ops::backup::SourceFrom::Files { roots, exclude, default_excludes, one_file_system };
        crate::ops::backup::SourceRequest { name: "files".to_owned(), from }
    };
    let found = |time_s: i64, paths: Vec<PathBuf>| {
        let snapshot = world.backup(time_s, vec![files(paths)]);
        let found = roots(&world.reading(), snapshot.source("files").unwrap(), &Cancel::new()).unwrap();
        found.map(|all| all.into_iter().map(|path| PathBuf::from(String::from_utf8(path).unwrap())).collect::<Vec<_>>())
    };
    let (sub, big) = (world.source().join("sub"), world.source().join("big-1"));
    assert_eq!(found(0, vec![world.source(), sub.clone()]), Some(vec![world.source()]));
    assert_eq!(found(1, vec![current, big.clone()]), Some(vec![big, sub]));
    std::fs::create_dir(world.target("a, ")).unwrap();
    std::fs::write(world.target("a, /x"), b"").unwrap();
    assert_eq!(found(2, vec![world.target("a, /x")]), None, "what is not certain is not said");
}
