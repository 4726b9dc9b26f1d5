//! Which paths of a files source were named when it was saved: its roots.
//!
//! A tree also lists the directories on the way to a root, which were not saved with what is in them. Only within a root does
//! the absence of a name mean that there was nothing.

use super::Error;
use crate::domain::entry::EntryKind;
use crate::domain::snapshot::SourceRecord;
use crate::ops::cancel::Cancel;
use crate::repository::reading::Reading;
use std::collections::BTreeMap;

/// As many links as Linux follows in one path.
const LINKS_MAX: usize = 40;

/// The real paths of a source's roots as its tree has them, ascending, none within another. A root that was named
/// through a symbolic link is found where the link led. None when they cannot all be told, or the source has no tree: nothing must be
/// concluded from what the tree does not list then.
///
/// # Errors
/// [`Error::Repository`] when the tree cannot be read.
pub fn roots(reading: &Reading, source: &SourceRecord, cancel: &Cancel) -> Result<Option<Vec<Vec<u8>>>, Error> {
    let mut wanted: Vec<Vec<u8>> = named(&source.location);
    let mut links = BTreeMap::new();
    for _ in 0..LINKS_MAX {
        // What is there of the paths and of the directories on the way to them.
        let mut found = Vec::new();
        let mut links_found = false;
        for placed in reading.tree(source)? {
            cancel.check()?;
            let entry = placed?.entry;
            let is_link = matches!(entry.kind, EntryKind::Symlink(_));
            if let EntryKind::Symlink(target) = &entry.kind
                && wanted.iter().any(|path| super::selection::is_at_or_below(path, &entry.path))
                && !links.contains_key(&entry.path)
            {
                links.insert(entry.path.clone(), target.clone());
                links_found = true;
            }
            if !is_link && wanted.contains(&entry.path) {
                found.push(entry.path);
            }
        }
        if !links_found {
            return Ok(
                (!wanted.is_empty() && wanted.iter().all(|path| found.contains(path))).then(|| outermost(wanted))
            );
        }
        let Some(resolved) = wanted.iter().map(|path| resolve(path, &links)).collect() else { return Ok(None) };
        wanted = resolved;
    }
    Ok(None)
}

/// The paths of a record, which are joined by a comma and a space. A path that holds these is not told apart, and will
/// not be found in the tree.
pub(super) fn named(location: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<String> = Vec::new();
    for part in location.split(", ") {
        match paths.last_mut() {
            Some(last) if !part.starts_with('/') => {
                last.push_str(", ");
                last.push_str(part);
            }
            _ => paths.push(part.to_owned()),
        }
    }
    paths.into_iter().filter_map(|path| resolve(path.as_bytes(), &BTreeMap::new())).collect()
}

/// A path without `.`, `..` and the links that are known.
fn resolve(path: &[u8], links: &BTreeMap<Vec<u8>, Vec<u8>>) -> Option<Vec<u8>> {
    let parts = |path: &[u8]| path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
    if path.first() != Some(&b'/') {
        return None;
    }
    let mut pending = parts(path);
    let mut real: Vec<u8> = Vec::new();
    let mut followed = 0;
    while let Some(name) = pending.pop() {
        match name.as_slice() {
            b"" | b"." => {}
            b".." => real.truncate(real.iter().rposition(|b| *b == b'/').unwrap_or(0)),
            name => {
                let candidate = [real.as_slice(), b"/", name].concat();
                let Some(target) = links.get(&candidate) else {
                    real = candidate;
                    continue;
                };
                followed += 1;
                if followed > LINKS_MAX {
                    return None;
                }
                if target.first() == Some(&b'/') {
                    real.clear();
                }
                pending.extend(parts(target));
            }
        }
    }
    Some(if real.is_empty() { b"/".to_vec() } else { real })
}

fn outermost(mut paths: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    paths.sort();
    paths.dedup();
    let all = paths.clone();
    paths.retain(|path| !all.iter().any(|above| above != path && super::selection::is_at_or_below(path, above)));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart_and_links_are_followed() {
        let text = |paths: Vec<Vec<u8>>| paths.into_iter().map(|p| String::from_utf8(p).unwrap()).collect::<Vec<_>>();
        assert_eq!(text(named("/srv/app, /etc/x, y/z, /")), ["/srv/app", "/etc/x, y/z", "/"]);
        assert!(named("relative").is_empty());
        let links = [("/srv/current", "releases/42"), ("/srv/releases", "/data/r")];
        let links = links.iter().map(|(a, b)| (a.as_bytes().to_vec(), b.as_bytes().to_vec())).collect();
        assert_eq!(resolve(b"/srv/./current/app/../lib", &links).unwrap(), b"/data/r/42/lib");
        let round = [(b"/a".to_vec(), b"/a".to_vec())].into_iter().collect();
        assert_eq!(resolve(b"/a/b", &round), None);
        let nested = ["/a/b", "/a", "/ab", "/a"].map(|p| p.as_bytes().to_vec()).to_vec();
        assert_eq!(text(outermost(nested)), ["/a", "/ab"]);
    }
}
