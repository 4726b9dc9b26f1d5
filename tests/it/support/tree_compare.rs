//! Lists the differences between two directory trees: names, kinds, permission bits, owners, times to the nanosecond,
//! contents, holes, link targets, hard links, devices and extended attributes with the ACLs among them.
//!
//! Not compared: access and change times, inode numbers, and sockets, which are recorded and never restored.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Every difference as one line; empty when the trees are the same. The two directories themselves are compared too.
///
/// # Panics
/// When something cannot be read: then nothing was compared.
pub(crate) fn differences(left: &Path, right: &Path) -> Vec<String> {
    let (left_names, right_names) = (list(left), list(right));
    let mut found = Vec::new();
    for name in left_names.keys().filter(|name| !right_names.contains_key(*name)) {
        found.push(format!("{}: only on the left", name.display()));
    }
    for name in right_names.keys().filter(|name| !left_names.contains_key(*name)) {
        found.push(format!("{}: only on the right", name.display()));
    }
    for (name, a) in &left_names {
        let Some(b) = right_names.get(name) else { continue };
        compare(name, (&at(left, name), a), (&at(right, name), b), &mut found);
    }
    let (left_links, right_links) = (first_names(&left_names), first_names(&right_names));
    for (name, first) in &left_links {
        let other = right_links.get(name);
        if other != Some(first) {
            found.push(format!("{}: a name of {first:?} on the left, of {other:?} on the right", name.display()));
        }
    }
    for name in right_links.keys().filter(|name| !left_links.contains_key(*name)) {
        found.push(format!("{}: a hard link on the right only", name.display()));
    }
    found
}

/// Joins without the slash that an empty name would add to a file.
fn at(root: &Path, name: &Path) -> PathBuf {
    if name.as_os_str().is_empty() { root.to_owned() } else { root.join(name) }
}

fn list(root: &Path) -> BTreeMap<PathBuf, Metadata> {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(name) = pending.pop() {
        let path = at(root, &name);
        let metadata = path.symlink_metadata().expect("the entry exists");
        if metadata.file_type().is_socket() {
            continue;
        }
        if metadata.is_dir() {
            let entries = path.read_dir().expect("the directory is readable");
            pending.extend(entries.map(|entry| name.join(entry.expect("the directory is readable").file_name())));
        }
        found.insert(name, metadata);
    }
    found
}

/// Every name of a file with several names in the tree, with the first of them.
fn first_names(names: &BTreeMap<PathBuf, Metadata>) -> BTreeMap<PathBuf, PathBuf> {
    let mut groups: BTreeMap<(u64, u64), Vec<&PathBuf>> = BTreeMap::new();
    for (name, metadata) in names.iter().filter(|(_, metadata)| !metadata.is_dir()) {
        groups.entry((metadata.dev(), metadata.ino())).or_default().push(name);
    }
    let several = groups.values().filter(|names| names.len() > 1);
    several.flat_map(|names| names.iter().map(|name| ((*name).clone(), names[0].clone()))).collect()
}

fn compare(name: &Path, left: (&Path, &Metadata), right: (&Path, &Metadata), found: &mut Vec<String>) {
    let (a, b) = (left.1, right.1);
    let mut check = |what: &str, a: String, b: String| {
        if a != b {
            found.push(format!("{}: {what} {a} on the left, {b} on the right", name.display()));
        }
    };
    check("kind", format!("{:?}", a.file_type()), format!("{:?}", b.file_type()));
    if a.file_type() != b.file_type() {
        return;
    }
    check("mode", format!("{:o}", a.mode()), format!("{:o}", b.mode()));
    check("owner", format!("{}:{}", a.uid(), a.gid()), format!("{}:{}", b.uid(), b.gid()));
    check("mtime", format!("{}.{:09}", a.mtime(), a.mtime_nsec()), format!("{}.{:09}", b.mtime(), b.mtime_nsec()));
    check("xattrs", format!("{:?}", xattrs(left.0)), format!("{:?}", xattrs(right.0)));
    if a.is_symlink() {
        check("target", format!("{:?}", left.0.read_link()), format!("{:?}", right.0.read_link()));
    }
    if a.file_type().is_block_device() || a.file_type().is_char_device() {
        check("device", a.rdev().to_string(), b.rdev().to_string());
    }
    if a.is_file() {
        check("size", a.len().to_string(), b.len().to_string());
        // Small differences in the bookkeeping of the file system are no loss; a hole of many blocks is.
        let sparse = |m: &Metadata| m.blocks() * 512 + (64 << 10) < m.len();
        check("holes", sparse(a).to_string(), sparse(b).to_string());
        if a.len() == b.len() && !same_contents(left.0, right.0) {
            found.push(format!("{}: contents differ", name.display()));
        }
    }
}

type Xattrs = Vec<(OsString, Option<Vec<u8>>)>;

fn xattrs(path: &Path) -> Xattrs {
    let Ok(names) = xattr::list(path) else { return Vec::new() };
    let mut found: Xattrs = names.map(|name| (name.clone(), xattr::get(path, &name).expect("readable"))).collect();
    found.sort();
    found
}

fn same_contents(left: &Path, right: &Path) -> bool {
    let open = |path: &Path| std::fs::File::open(path).expect("the file is readable");
    let (mut a, mut b) = (open(left), open(right));
    let (mut first, mut second) = (vec![0u8; 1 << 16], vec![0u8; 1 << 16]);
    loop {
        let got = a.read(&mut first).expect("the file is readable");
        if got == 0 {
            return b.read(&mut second).expect("the file is readable") == 0;
        }
        if b.read_exact(&mut second[..got]).is_err() || first[..got] != second[..got] {
            return false;
        }
    }
}
