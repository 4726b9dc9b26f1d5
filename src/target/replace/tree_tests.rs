//! A swap of trees that is cut after any of its steps is the old tree or the new one, and goes on or back as asked.

use super::beside::Role;
use super::tree::TreeReplacement;
use super::{Error, Replace, State, quick_directory};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const ACT: &str = "0123456789abcdef0123456789abcdef";

/// What is in the place before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    File,
    Tree,
}

struct World {
    dir: tempfile::TempDir,
    before: Before,
    exchanges: bool,
}

impl World {
    fn new(before: Before, exchanges: bool) -> Self {
        let world = Self { dir: quick_directory(), before, exchanges };
        match before {
            Before::Nothing => {}
            Before::File => std::fs::write(world.place(), b"old").unwrap(),
            Before::Tree => write_tree(&world.place(), b"old"),
        }
        let replacement = world.replacement(u32::MAX);
        let part = replacement.begin().unwrap();
        write_tree(&part.join("app"), b"new");
        replacement.ready().unwrap();
        world
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("app")
    }

    /// The same replacement in another process, which dies after so many steps.
    fn replacement(&self, steps: u32) -> TreeReplacement {
        let mut replacement = TreeReplacement::new(&self.place(), ACT).unwrap();
        replacement.beside_mut().cut.set(steps);
        replacement.beside_mut().exchanges &= self.exchanges;
        replacement
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[track_caller]
    fn assert_old(&self, what: &str) {
        match self.before {
            Before::Nothing => assert!(!self.place().exists(), "{what}: {:?}", self.names()),
            Before::File => assert_eq!(std::fs::read(self.place()).unwrap(), b"old", "{what}"),
            Before::Tree => assert_tree(&self.place(), b"old", what),
        }
    }
}

fn write_tree(path: &Path, contents: &[u8]) {
    std::fs::create_dir_all(path.join("sub")).unwrap();
    std::fs::write(path.join("sub/file"), contents).unwrap();
    std::fs::write(path.join("other"), contents).unwrap();
}

#[track_caller]
fn assert_tree(path: &Path, contents: &[u8], what: &str) {
    for file in ["sub/file", "other"] {
        assert_eq!(std::fs::read(path.join(file)).ok().as_deref(), Some(contents), "{what}: {file}");
    }
}

fn worlds() -> impl Iterator<Item = World> {
    let all = [Before::Nothing, Before::File, Before::Tree];
    all.into_iter().flat_map(|before| [true, false].map(|exchanges| World::new(before, exchanges)))
}

#[test]
fn a_swap_puts_the_new_one_in_place_and_back_and_for_good() {
    for world in worlds() {
        let what = format!("{:?} {}", world.before, world.exchanges);
        let replacement = world.replacement(u32::MAX);
        assert_eq!(replacement.state().unwrap(), State::Staged);
        world.assert_old(&what);
        for _ in 0..2 {
            replacement.swap().unwrap();
            assert_eq!(replacement.state().unwrap(), State::Swapped);
            assert_tree(&world.place(), b"new", &what);
            replacement.unswap().unwrap();
            assert_eq!(replacement.state().unwrap(), State::Staged);
            world.assert_old(&what);
        }
        assert!(matches!(replacement.discard_old(), Err(Error::InUse { .. })));
        replacement.swap().unwrap();
        replacement.swap().unwrap();
        assert!(matches!(replacement.discard_new(), Err(Error::InUse { .. })));
        assert!(matches!(replacement.begin(), Err(Error::InUse { .. })));
        replacement.discard_old().unwrap();
        replacement.discard_old().unwrap();
        assert_eq!(replacement.state().unwrap(), State::Untouched);
        assert_tree(&world.place(), b"new", &what);
        assert_eq!(world.names(), ["app"], "{what}");
        assert!(matches!(replacement.swap(), Err(Error::NothingStaged { .. })));
        replacement.unswap().unwrap();
        assert_eq!(world.names(), ["app"], "{what}");
    }
}

/// Cuts the first call after each of its steps, the second after each of its steps, and then lets a third one decide.
#[test]
fn cut_anywhere_and_again_it_is_the_old_one_or_the_new_one() {
    type Step = fn(&TreeReplacement) -> Result<(), Error>;
    let (swap, unswap): (Step, Step) = (|r| r.swap(), |r| r.unswap());
    let mut cuts = 0;
    for before in [Before::Nothing, Before::File, Before::Tree] {
        for exchanges in [true, false] {
            for (from_swapped, first) in [(false, swap), (true, unswap)] {
                for first_cut in 0..12 {
                    for (second, second_cut) in
                        [swap, unswap].into_iter().flat_map(|s| (0..9).step_by(4).map(move |c| (s, c)))
                    {
                        for (last_is_swap, last) in [(true, swap), (false, unswap)] {
                            let what = format!(
                                "{before:?} {exchanges} {from_swapped} {first_cut} {second_cut} {last_is_swap}"
                            );
                            let world = World::new(before, exchanges);
                            if from_swapped {
                                world.replacement(u32::MAX).swap().unwrap();
                            }
                            let done = first(&world.replacement(first_cut)).is_ok();
                            cuts += u32::from(!done);
                            let state = world.replacement(0).state().unwrap();
                            assert!(state != State::Untouched, "{what}");
                            let _ = second(&world.replacement(second_cut));
                            last(&world.replacement(u32::MAX)).unwrap_or_else(|e| panic!("{what}: {e}"));
                            let replacement = world.replacement(u32::MAX);
                            if last_is_swap {
                                assert_eq!(replacement.state().unwrap(), State::Swapped, "{what}");
                                assert_tree(&world.place(), b"new", &what);
                                replacement.discard_old().unwrap();
                                assert_tree(&world.place(), b"new", &what);
                            } else {
                                assert_eq!(replacement.state().unwrap(), State::Staged, "{what}");
                                world.assert_old(&what);
                                replacement.discard_new().unwrap();
                                world.assert_old(&what);
                            }
                            assert!(world.names().iter().all(|name| name == "app"), "{what}: {:?}", world.names());
                        }
                    }
                }
            }
        }
    }
    assert!(cuts > 500, "{cuts}");
}

#[test]
fn what_is_not_complete_is_never_staged_and_goes_with_the_next_try() {
    let dir = quick_directory();
    let place = dir.path().join("app");
    write_tree(&place, b"old");
    let replacement = TreeReplacement::new(&place, ACT).unwrap();
    let part = replacement.begin().unwrap();
    assert_eq!(std::fs::metadata(&part).unwrap().permissions().mode() & 0o777, 0o700);
    write_tree(&part.join("app"), b"half");
    assert_eq!(replacement.state().unwrap(), State::Untouched);
    assert!(matches!(replacement.swap(), Err(Error::NothingStaged { .. })));
    let again = replacement.begin().unwrap();
    assert_eq!((&again, std::fs::read_dir(&again).unwrap().count()), (&part, 0));
    assert!(matches!(replacement.ready(), Err(Error::NothingStaged { .. })));
    write_tree(&part.join("app"), b"new");
    replacement.ready().unwrap();
    replacement.ready().unwrap();
    assert_eq!(replacement.state().unwrap(), State::Staged);
    assert!(replacement.free_bytes().unwrap() > 0);
    replacement.discard_new().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_tree(&place, b"old", "untouched");
}

#[test]
fn a_closed_root_is_swapped_too() {
    let dir = quick_directory();
    let place = dir.path().join("app");
    write_tree(&place, b"old");
    let replacement = TreeReplacement::new(&place, ACT).unwrap();
    let part = replacement.begin().unwrap();
    write_tree(&part.join("app"), b"new");
    for path in [&place, &part.join("app")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o555)).unwrap();
    }
    replacement.ready().unwrap();
    replacement.swap().unwrap();
    assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o555);
    assert_tree(&place, b"new", "swapped");
    replacement.discard_old().unwrap();
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_somebody_else_moved_is_named_and_left() {
    let world = World::new(Before::Tree, false);
    let replacement = world.replacement(u32::MAX);
    let old = replacement.beside_ref().path(Role::Old, "");
    std::fs::write(&old, b"whose?").unwrap();
    let names = world.names();
    for result in [replacement.swap(), replacement.unswap(), replacement.discard_new(), replacement.discard_old()] {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::Unexpected { found, .. } if found.contains("app.holdfast-old-01234567 is there"))
        );
    }
    assert_eq!(world.names(), names);
    world.assert_old("left");
}

#[test]
fn a_planted_link_is_replaced_and_not_followed() {
    let world = World::new(Before::Nothing, true);
    let outside = quick_directory();
    std::fs::write(outside.path().join("canary"), b"precious").unwrap();
    std::os::unix::fs::symlink(outside.path(), world.place()).unwrap();
    let replacement = world.replacement(u32::MAX);
    replacement.swap().unwrap();
    assert_tree(&world.place(), b"new", "swapped");
    replacement.discard_old().unwrap();
    assert_eq!(std::fs::read(outside.path().join("canary")).unwrap(), b"precious");
    assert_eq!(world.names(), ["app"]);
}

#[test]
fn a_mount_point_is_refused_before_anything_is_made() {
    let proc = TreeReplacement::new(Path::new("/proc"), ACT).unwrap();
    assert!(matches!(proc.check_movable(), Err(Error::MountPoint { .. })));
    assert!(matches!(proc.begin(), Err(Error::MountPoint { .. })));
    let world = World::new(Before::Tree, true);
    let replacement = world.replacement(u32::MAX);
    assert!(matches!(replacement.check_apart(&[world.place().join("sub")]), Err(Error::Unsuitable { .. })));
    assert!(replacement.check_apart(&[world.dir.path().to_owned(), world.dir.path().join("apple")]).is_ok());
}
