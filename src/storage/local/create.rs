//! Making a repository's folders, and proving first that the file system can keep one.
//!
//! Invariant: a folder that holds anything but what an interrupted `init` leaves is refused untouched.

use super::{LocalStore, classify, folder_error, random_hex};
use crate::fsio::disk::{Disk, DiskFile};
use crate::fsio::folder::{Folder, Item, Kind, create_folders};
use crate::storage::{Error, ErrorKind, ObjectKind, ObjectName, RESERVE_NAME, Result};
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that the process making a repository holds locked.
const LOCK_NAME: &str = "tmp/init";

/// Keeps a second `init` out; the file goes away with it.
#[derive(Debug)]
pub(super) struct CreationLock {
    root: Arc<dyn Disk>,
    _file: Box<dyn DiskFile>,
}

impl Drop for CreationLock {
    fn drop(&mut self) {
        let _ = self.root.remove_file(LOCK_NAME);
    }
}

/// A folder that file systems make by themselves at their top, which is where a disk of backups is often used.
pub(super) fn is_of_file_system(name: &str) -> bool {
    name == "lost+found"
}

pub(super) fn create(dir: &Path) -> Result<LocalStore> {
    let wrap = |error| folder_error(dir, "create", error);
    let made = create_folders(dir).map_err(wrap)?;
    let root = Folder::open(dir).map_err(wrap);
    let result = root.and_then(|root| prepare(dir, Arc::new(root)));
    if result.is_err() {
        undo(dir, &made);
    }
    let (root, lock) = result?;
    Ok(LocalStore::over(dir, root, Some(lock)))
}

/// Makes the folders of a repository in `root`, which `dir` names for people.
pub(super) fn prepare(dir: &Path, root: Arc<dyn Disk>) -> Result<(Arc<dyn Disk>, CreationLock)> {
    let wrap = |error| folder_error(dir, "create", error);
    refuse_contents(dir, root.as_ref())?;
    root.create_folder("tmp").map_err(wrap)?;
    let lock = take_lock(dir, &root)?;
    // Again, now that no other init can be at work here.
    refuse_contents(dir, root.as_ref())?;
    probe_below(dir, root.open_folder("tmp").map_err(wrap)?.as_ref())?;
    for kind in ObjectKind::ALL.into_iter().filter(|kind| *kind != ObjectKind::Config) {
        root.create_folder(kind.folder()).map_err(wrap)?;
    }
    // What an interrupted init left: the second copy of a configuration that nobody opens (it goes first, durably, because it
    // says which key slots count), and key slots without any configuration.
    if root.remove_file(ObjectName::config(1).as_str()).map_err(wrap)? {
        root.sync_folder(".").map_err(wrap)?;
    }
    for item in root.items("keys").map_err(wrap)? {
        root.remove_file(&format!("keys/{}", item.name)).map_err(wrap)?;
    }
    root.sync_folder("keys").map_err(wrap)?;
    super::reserve::take(root.as_ref()).map_err(wrap)?;
    root.sync_folder(".").map_err(wrap)?;
    Ok((root, lock))
}

/// Refuses a folder that holds a repository or anything foreign.
fn refuse_contents(dir: &Path, root: &dyn Disk) -> Result<()> {
    let wrap = |error| folder_error(dir, "create", error);
    let refuse = |reason: String| {
        let source = Some(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        let (name, location) = ("a repository".to_owned(), dir.display().to_string());
        Err(Error { kind: ErrorKind::AlreadyExists, operation: "create", name, location, source })
    };
    for item in root.items(".").map_err(wrap)? {
        match ObjectName::found(item.name.clone()).kind() {
            // An init that died before `config` leaves its copy. All else must be empty then, as below.
            Some(ObjectKind::Config) if item.name == ObjectName::config(1).as_str() => {}
            Some(ObjectKind::Config) => return refuse("there is a repository already".to_owned()),
            Some(ObjectKind::Key | ObjectKind::Temporary) if item.kind == Kind::Folder => {}
            Some(_) if item.kind == Kind::Folder && is_empty(root, &item).map_err(wrap)? => {}
            Some(_) => return refuse(format!("the folder is not empty: it holds {}", item.name)),
            None if is_of_file_system(&item.name) || item.name == RESERVE_NAME => {}
            None => return refuse(format!("the folder is not empty: it holds {}", item.name)),
        }
    }
    Ok(())
}

fn is_empty(root: &dyn Disk, item: &Item) -> io::Result<bool> {
    Ok(root.items(&item.name)?.is_empty())
}

fn take_lock(dir: &Path, root: &Arc<dyn Disk>) -> Result<CreationLock> {
    let wrap = |error| folder_error(dir, "create", error);
    let busy = || {
        let reason = io::Error::new(io::ErrorKind::AlreadyExists, "another process is creating a repository here");
        wrap(reason)
    };
    let file = match root.create_file(LOCK_NAME) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => root.open_to_lock(LOCK_NAME).map_err(wrap)?,
        other => other.map_err(wrap)?,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(busy()),
        Err(TryLockError::Error(error)) => return Err(unsuitable(dir, "locking files", &error.to_string())),
    }
    // The holder before us may have removed the file between our open and our lock.
    if !file.has_name().map_err(wrap)? {
        return Err(busy());
    }
    Ok(CreationLock { root: Arc::clone(root), _file: file })
}

/// Removes the empty folders that a failed creation made.
fn undo(dir: &Path, made: &[PathBuf]) {
    if made.last().is_none_or(|last| last != dir) {
        // The folder was there before; empty folders of ours in it are no obstacle to the next attempt.
        return;
    }
    if let Ok(root) = Folder::open(dir) {
        for kind in ObjectKind::ALL {
            let _ = root.remove_folder(kind.folder());
        }
    }
    for folder in made.iter().rev() {
        let _ = std::fs::remove_dir(folder);
    }
}

pub(super) fn probe(dir: &Path) -> Result<()> {
    let wrap = |error| folder_error(dir, "probe", error);
    probe_below(dir, &Folder::open(dir).map_err(wrap)?)
}

/// Proves it in a folder of some disk, which `dir` names for people.
fn probe_below(dir: &Path, root: &dyn Disk) -> Result<()> {
    let wrap = |error| folder_error(dir, "probe", error);
    let name = format!("probe-{}", random_hex());
    root.create_folder(&name).map_err(wrap)?;
    let result = root.open_folder(&name).map_err(wrap).and_then(|place| probe_in(dir, place.as_ref()));
    let cleared = clear(root, &name);
    result?;
    cleared.map_err(wrap)
}

fn probe_in(dir: &Path, place: &dyn Disk) -> Result<()> {
    let wrap = |error| folder_error(dir, "probe", error);
    let file = place.create_file("a").map_err(wrap)?;
    place.create_file("b").map_err(wrap)?;
    file.try_lock().map_err(|error| unsuitable(dir, "locking files", &error.to_string()))?;
    match place.open_file("a").map_err(wrap)?.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(unsuitable(dir, "locking files", &error.to_string())),
        Ok(()) => return Err(unsuitable(dir, "locking files", "a locked file was locked again")),
    }
    renames_without_replacing(dir, place, "a", "b", "c")?;
    place.create_folder("d").map_err(wrap)?;
    place.create_folder("e").map_err(wrap)?;
    place.rename_new("c", "d/start").map_err(|error| unsuitable(dir, "renaming files", &error.to_string()))?;
    // With the locked file in it: this is what commits a session.
    renames_without_replacing(dir, place, "d", "e", "f")?;
    if !matches!(place.find("f/start"), Ok(Some(item)) if item.kind == Kind::File) {
        return Err(unsuitable(dir, "renaming folders", "the renamed folder lost its file"));
    }
    file.sync().map_err(|error| unsuitable(dir, "syncing files", &error.to_string()))?;
    place.sync_folder("f").map_err(|error| unsuitable(dir, "syncing folders", &error.to_string()))
}

/// `from` must not replace `taken`, and must become `free`.
fn renames_without_replacing(dir: &Path, place: &dyn Disk, from: &str, taken: &str, free: &str) -> Result<()> {
    const ABILITY: &str = "renaming without replacing";
    match place.rename_new(from, taken) {
        Err(error) if classify(&error) == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(unsuitable(dir, ABILITY, &error.to_string())),
        Ok(()) => return Err(unsuitable(dir, ABILITY, "a name that was taken was replaced")),
    }
    place.rename_new(from, free).map_err(|error| unsuitable(dir, ABILITY, &error.to_string()))?;
    match (place.find(from), place.find(free)) {
        (Ok(None), Ok(Some(_))) => Ok(()),
        _ => Err(unsuitable(dir, ABILITY, "the renamed name is not where it should be")),
    }
}

fn clear(root: &dyn Disk, name: &str) -> io::Result<()> {
    for folder in ["d", "e", "f"] {
        root.remove_file(&format!("{name}/{folder}/start")).or_else(absent)?;
        root.remove_folder(&format!("{name}/{folder}")).or_else(absent)?;
    }
    for file in ["a", "b", "c"] {
        root.remove_file(&format!("{name}/{file}"))?;
    }
    root.remove_folder(name)?;
    Ok(())
}

fn absent(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) }
}

fn unsuitable(dir: &Path, ability: &str, reason: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::Unsupported, format!("the file system fails at {ability}: {reason}"));
    let location = dir.display().to_string();
    Error {
        kind: ErrorKind::Unsuitable,
        operation: "keep",
        name: "a repository".to_owned(),
        location,
        source: Some(source),
    }
}
