//! From the paths that a user named to the places where the walk begins.
//!
//! A root that is a symbolic link, or lies behind one, is resolved: the link is stored as a link under its own name,
//! and what it leads to is stored under its real path. Storing the link alone (as tar does) would make `/srv/current`,
//! a link in many deployments, an empty backup; storing the contents under the link's name would store one thing
//! under two names as soon as the real path is a root too, and such a snapshot cannot be restored.
//!
//! Invariant: every path of the plan is free of links, `.` and `..`, and stands in it once.

use super::metadata::Facts;
use super::rules::{RootRules, Rules};
use super::warning;
use crate::domain::snapshot::SourceWarning;
use crate::source::SourceError;
use rustix::fs::{CWD, FileType, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// As many links as Linux follows in one path.
const LINKS_MAX: usize = 40;

/// A directory or file that is a root, leads to one, or is a link that was followed to one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// Set for a root: everything below it is walked by these rules.
    pub(crate) root: Option<RootRules>,
    /// The places in this directory.
    pub(crate) children: BTreeMap<Vec<u8>, Arc<Place>>,
}

/// Where the walk begins: the place of `/`, and what there is to say about the roots.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) top: Arc<Place>,
    pub(crate) warnings: Vec<SourceWarning>,
}

/// Resolves the roots, each of which must exist and be readable.
///
/// A root in one of holdfast's own folders (device and inode) fails.
pub(crate) fn plan(roots: &[PathBuf], rules: &Rules, own_folders: &[(u64, u64)]) -> Result<Plan, SourceError> {
    let mut links = Vec::new();
    let mut known_as: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    let mut warnings = Vec::new();
    for root in roots {
        let given = root.as_os_str().as_bytes();
        let before = links.len();
        let real = resolve(given, &mut links)
            .and_then(|real| check_readable(&real).map(|()| real))
            .map_err(|error| path_error("read", given, error))?;
        if is_in_own_folder(&real, own_folders) {
            return Err(SourceError::Content {
                subject: root.display().to_string(),
                reason: "lies in holdfast's own repository, cache or state, which is never saved into itself".into(),
            });
        }
        if links.len() > before {
            let shown = String::from_utf8_lossy(&real).into_owned();
            let message = format!("The path leads through a symbolic link: the link is stored, and {shown} is walked");
            warnings.push(warning("file.root_is_link", given, message, false));
        }
        let names = known_as.entry(real.clone()).or_default();
        names.push(real);
        names.push(given.to_vec());
    }
    let mut top = Place::default();
    for link in links {
        insert(&mut top, &link, None);
    }
    for (real, names) in known_as {
        let mut names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        names.dedup();
        let rules = rules.for_root(&names).map_err(|error| SourceError::Content {
            subject: format!("Exclude pattern '{}'", error.pattern),
            reason: format!("cannot be used: {}", error.reason),
        })?;
        insert(&mut top, &real, Some(rules));
    }
    Ok(Plan { top: Arc::new(top), warnings })
}

/// An error about a path, in the words of the source contract.
pub(crate) fn path_error(operation: &'static str, path: &[u8], error: Errno) -> SourceError {
    SourceError::Path { operation, path: Path::new(OsStr::from_bytes(path)).to_owned(), source: error.into() }
}

fn insert(place: &mut Place, path: &[u8], rules: Option<RootRules>) {
    let mut place = place;
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        place = Arc::make_mut(place.children.entry(name.to_vec()).or_default());
    }
    if rules.is_some() {
        place.root = rules;
    }
}

/// The real path of `given` (`/` for the top); every link on the way is added to `links` by its real path.
fn resolve(given: &[u8], links: &mut Vec<Vec<u8>>) -> Result<Vec<u8>, Errno> {
    if given.first() != Some(&b'/') {
        return Err(Errno::INVAL);
    }
    let parts = |path: &[u8]| path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut pending: VecDeque<Vec<u8>> = parts(given).into();
    let mut real: Vec<u8> = Vec::new();
    let mut followed = 0;
    let mut is_directory = true;
    while let Some(name) = pending.pop_front() {
        match name.as_slice() {
            b"" | b"." => {
                if !is_directory {
                    return Err(Errno::NOTDIR);
                }
                continue;
            }
            b".." => {
                let parent = real.iter().rposition(|b| *b == b'/').unwrap_or(0);
                real.truncate(parent);
                continue;
            }
            _ if !is_directory => return Err(Errno::NOTDIR),
            _ => {}
        }
        let candidate = [real.as_slice(), b"/", &name].concat();
        let stat = rustix::fs::statat(CWD, candidate.as_slice(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let facts = Facts::from_stat(&stat);
        if facts.file_type != FileType::Symlink {
            is_directory = facts.file_type == FileType::Directory;
            real = candidate;
            continue;
        }
        followed += 1;
        if followed > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        let target = super::metadata::link_target(CWD, &candidate)?;
        links.push(candidate);
        if target.first() == Some(&b'/') {
            real.clear();
        }
        for part in parts(&target).into_iter().rev() {
            pending.push_front(part);
        }
    }
    Ok(if real.is_empty() { b"/".to_vec() } else { real })
}

/// True when a directory on the way to a path, or what it names, is one of those.
fn is_in_own_folder(real: &[u8], own_folders: &[(u64, u64)]) -> bool {
    let ends = real.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    !own_folders.is_empty()
        && ends.chain([real.len()]).any(|end| {
            let stat = rustix::fs::statat(CWD, real.get(..end).unwrap_or(real), rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| {
                let facts = Facts::from_stat(&stat);
                own_folders.contains(&(facts.device, facts.inode))
            })
        })
}

/// A root that cannot be opened fails the source at once, before anything is stored.
fn check_readable(real: &[u8]) -> Result<(), Errno> {
    let stat = rustix::fs::statat(CWD, real, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    match Facts::from_stat(&stat).file_type {
        FileType::Directory => super::open::open_without_links(real, OFlags::RDONLY | OFlags::DIRECTORY).map(drop),
        FileType::RegularFile => super::open::open_without_links(real, OFlags::RDONLY | OFlags::NONBLOCK).map(drop),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_dots_are_resolved_as_the_kernel_does() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let base = dir.path().canonicalize().expect("exists");
        std::fs::create_dir_all(base.join("releases/42/lib")).expect("directories");
        symlink("releases/42", base.join("current")).expect("link");
        symlink(base.join("current"), base.join("live")).expect("link");
        symlink("round", base.join("round")).expect("link");
        symlink("nowhere", base.join("dangling")).expect("link");
        std::fs::write(base.join("file"), b"").expect("file");
        let path = |rest: &str| base.join(rest).into_os_string().into_encoded_bytes();
        let mut links = Vec::new();
        assert_eq!(resolve(&path("live/lib/.././/lib"), &mut links), Ok(path("releases/42/lib")));
        assert_eq!(links, [path("live"), path("current")]);
        assert_eq!(resolve(b"/..", &mut links), Ok(b"/".to_vec()));
        assert_eq!(resolve(&path("round"), &mut links), Err(Errno::LOOP));
        assert_eq!(resolve(&path("dangling"), &mut links), Err(Errno::NOENT));
        assert_eq!(resolve(&path("file/x"), &mut links), Err(Errno::NOTDIR));
        assert_eq!(resolve(&path("file/"), &mut links), Err(Errno::NOTDIR));
        assert_eq!(resolve(b"srv/app", &mut links), Err(Errno::INVAL));
    }
}
