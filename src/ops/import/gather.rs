//! From paths to what is to be imported: which files are looked at, which belong together, and of when they are.
//!
//! Each file is an item of its own, but for those in a date-named folder, which are one item together: unless a file's
//! own name says another day, or two of them are of the same source.

use crate::domain::original::{self, Stamp, Suffix};
use crate::domain::time_spec::ns_timestamp;
use crate::source::original::Marks;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders below each other that are followed.
const DEPTH_MAX: usize = 64;

/// Where a time comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeFrom {
    /// The name of the file.
    Name,
    /// The name of a folder.
    Folder,
    /// The time of the file's last change.
    Modified,
}

impl TimeFrom {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Folder => "folder",
            Self::Modified => "modified",
        }
    }
}

/// A file that is to be looked at.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its absolute path.
    pub path: PathBuf,
    /// The name that it is known by: its own, with the date-named folders above it where the date is theirs.
    pub name: String,
    /// The source that it will be.
    pub source: String,
    /// Its size and times, links followed.
    pub bytes: u64,
    modified_ns: i64,
    own: Option<Stamp>,
}

/// What becomes one snapshot.
#[derive(Debug, Clone)]
pub struct Item {
    /// The time of the backup, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// Where the time comes from.
    pub time_from: TimeFrom,
    /// The files, each a source of its own.
    pub files: Vec<Candidate>,
}

/// A file that is not imported, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotTaken {
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Gathered {
    /// In the order of their times.
    pub items: Vec<Item>,
    /// Files that are something else.
    pub left_out: Vec<NotTaken>,
    /// Files and folders that are backups, or may hold some, and cannot be read.
    pub unreadable: Vec<NotTaken>,
}

/// A date-named folder.
#[derive(Debug, Clone)]
struct Dated {
    folder: PathBuf,
    /// How many components of the path belong to the date: 1, or 3 for `2024/07/12`.
    components: usize,
    stamp: Stamp,
}

struct Gathering<'a> {
    tz: &'a TimeZone,
    own_folders: BTreeSet<(u64, u64)>,
    seen: BTreeSet<(u64, u64)>,
    out: Gathered,
    alone: Vec<Candidate>,
    folders: BTreeMap<PathBuf, (Dated, Vec<Candidate>)>,
}

/// Looks below the paths, which are absolute. Links are followed where they are named, and not below.
pub fn gather(paths: &[PathBuf], own_folders: &[PathBuf], tz: &TimeZone) -> Gathered {
    let own = own_folders.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|m| (m.dev(), m.ino())).collect();
    let mut all = Gathering {
        tz,
        own_folders: own,
        seen: BTreeSet::new(),
        out: Gathered::default(),
        alone: Vec::new(),
        folders: BTreeMap::new(),
    };
    for path in paths {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let dated = dated_tail(path);
                all.folder(path, dated.as_ref(), 0);
            }
            Ok(metadata) if metadata.is_file() => all.file(path, &metadata, None, true),
            Ok(_) => all.unreadable(path, "is neither a file nor a folder".to_owned()),
            Err(error) => all.unreadable(path, format!("cannot be read: {error}")),
        }
    }
    all.finish()
}

fn component(path: &Path, from_end: usize) -> Option<String> {
    path.components().rev().nth(from_end).map(|c| c.as_os_str().to_string_lossy().into_owned())
}

/// The date of a folder, by its own name or as the last of three.
fn dated_tail(path: &Path) -> Option<Dated> {
    let of = |components, stamp| Dated { folder: path.to_owned(), components, stamp };
    if let Some(stamp) = original::read_folder(&component(path, 0)?) {
        return Some(of(1, stamp));
    }
    let (day, month, year) = (component(path, 0)?, component(path, 1)?, component(path, 2)?);
    original::read_folders(&year, &month, &day).map(|stamp| of(3, stamp))
}

impl Gathering<'_> {
    fn unreadable(&mut self, path: &Path, reason: String) {
        self.out.unreadable.push(NotTaken { path: path.to_owned(), reason });
    }

    fn left_out(&mut self, path: &Path, reason: &str) {
        self.out.left_out.push(NotTaken { path: path.to_owned(), reason: reason.to_owned() });
    }

    fn folder(&mut self, folder: &Path, dated: Option<&Dated>, depth: usize) {
        if depth > DEPTH_MAX {
            return self.unreadable(folder, format!("is more than {DEPTH_MAX} folders deep"));
        }
        let listed = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = match listed {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(folder, format!("cannot be read: {error}")),
        };
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let metadata = match path.symlink_metadata() {
                Ok(metadata) => metadata,
                Err(error) => {
                    self.unreadable(&path, format!("cannot be read: {error}"));
                    continue;
                }
            };
            if metadata.is_symlink() {
                self.left_out(&path, "it is a symbolic link");
            } else if metadata.is_dir() {
                if self.own_folders.contains(&(metadata.dev(), metadata.ino())) {
                    self.left_out(&path, "it is holdfast's own repository, cache or state");
                    continue;
                }
                let own = dated_tail(&path);
                self.folder(&path, own.as_ref().or(dated), depth + 1);
            } else if metadata.is_file() {
                self.file(&path, &metadata, dated, false);
            } else {
                self.left_out(&path, "it is neither a file nor a folder");
            }
        }
    }

    fn file(&mut self, path: &Path, metadata: &std::fs::Metadata, dated: Option<&Dated>, is_named: bool) {
        let file_name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let facts = original::read_name(&file_name);
        match facts.suffix {
            _ if file_name.starts_with('.') && !is_named => return self.left_out(path, "it is hidden"),
            Suffix::Other if !is_named => return self.left_out(path, "its name is not one of a backup"),
            _ => {}
        }
        // the same file through two paths; other hard links of it are other backups
        if !self.seen.insert((path_key(path), metadata.ino())) {
            return;
        }
        let modified_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        let (path, bytes) = (path.to_owned(), metadata.len());
        let own_date = facts.stamp.as_ref().map(|stamp| stamp.date);
        let mut candidate =
            Candidate { path, name: file_name, source: facts.source, bytes, modified_ns, own: facts.stamp };
        match dated {
            Some(dated) if own_date.is_none_or(|date| date == dated.stamp.date) => {
                if own_date.is_none() {
                    candidate.name = name_below(dated, &candidate.path);
                }
                let entry = self.folders.entry(dated.folder.clone());
                entry.or_insert_with(|| (dated.clone(), Vec::new())).1.push(candidate);
            }
            _ => self.alone.push(candidate),
        }
    }

    fn finish(mut self) -> Gathered {
        let mut items: Vec<Item> =
            std::mem::take(&mut self.alone).into_iter().map(|file| alone(file, self.tz)).collect();
        for (dated, mut files) in std::mem::take(&mut self.folders).into_values() {
            tell_apart(&dated, &mut files);
            let names: BTreeSet<&str> = files.iter().map(|f| f.source.as_str()).collect();
            if names.len() < files.len() {
                items.extend(files.into_iter().map(|file| one_of_folder(&dated, file, self.tz)));
            } else {
                items.push(whole_folder(&dated, files, self.tz));
            }
        }
        items.sort_by(|a, b| (a.time_ns, first_path(a)).cmp(&(b.time_ns, first_path(b))));
        keep_apart(&mut items);
        self.out.items = items;
        self.out
    }
}

/// A number for a path, so that naming a file twice does no harm.
fn path_key(path: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

fn first_path(item: &Item) -> Option<&PathBuf> {
    item.files.first().map(|file| &file.path)
}

/// The path from the date-named folder on.
fn name_below(dated: &Dated, path: &Path) -> String {
    let above = dated.folder.components().count().saturating_sub(dated.components);
    let parts: Vec<String> =
        path.components().skip(above).map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    parts.join("/")
}

/// Files of one name in several folders below a date-named one get their folder's name in front.
fn tell_apart(dated: &Dated, files: &mut [Candidate]) {
    let mut count: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    for file in files.iter() {
        let parent = file.path.parent().map(Path::to_owned).unwrap_or_default();
        count.entry(file.source.clone()).or_default().insert(parent);
    }
    for file in files.iter_mut().filter(|file| count.get(&file.source).is_some_and(|parents| parents.len() > 1)) {
        let below = file.path.parent().and_then(|parent| parent.strip_prefix(&dated.folder).ok());
        let folder = below.map(|b| b.to_string_lossy().replace('/', "-")).unwrap_or_default();
        if !folder.is_empty() {
            file.source = original::read_name(&format!("{folder}-{}", file.source)).source;
        }
    }
}

fn date_of(ns: i64, tz: &TimeZone) -> Date {
    ns_timestamp(ns).to_zoned(tz.clone()).date()
}

/// The time that a stamp names; where it has only a day, and the file was changed on that day, the time of the change.
fn time_of(stamp: &Stamp, modified_ns: i64, tz: &TimeZone) -> Option<i64> {
    let time_ns = stamp.time_ns(tz)?;
    let on_that_day = stamp.time.is_none() && date_of(modified_ns, tz) == stamp.date;
    Some(if on_that_day { modified_ns } else { time_ns })
}

fn alone(file: Candidate, tz: &TimeZone) -> Item {
    let named = file.own.as_ref().and_then(|stamp| time_of(stamp, file.modified_ns, tz));
    let (time_ns, time_from) = named.map_or((file.modified_ns, TimeFrom::Modified), |ns| (ns, TimeFrom::Name));
    Item { time_ns, time_from, files: vec![file] }
}

fn one_of_folder(dated: &Dated, file: Candidate, tz: &TimeZone) -> Item {
    if file.own.as_ref().is_some_and(|own| own.time.is_some() || dated.stamp.time.is_none()) {
        return alone(file, tz);
    }
    let time = time_of(&dated.stamp, file.modified_ns, tz);
    let (time_ns, time_from) = time.map_or((file.modified_ns, TimeFrom::Modified), |ns| (ns, TimeFrom::Folder));
    Item { time_ns, time_from, files: vec![file] }
}

fn whole_folder(dated: &Dated, files: Vec<Candidate>, tz: &TimeZone) -> Item {
    let own = |file: &Candidate| file.own.as_ref().filter(|own| own.time.is_some()).and_then(|own| own.time_ns(tz));
    let first_modified = files.iter().map(|f| f.modified_ns).filter(|ns| date_of(*ns, tz) == dated.stamp.date).min();
    let of_folder = dated.stamp.time_ns(tz);
    let time = match (dated.stamp.time, files.iter().filter_map(own).min(), of_folder) {
        (Some(_), _, Some(ns)) => Some((ns, TimeFrom::Folder)),
        (_, Some(ns), _) => Some((ns, TimeFrom::Name)),
        (_, None, Some(ns)) => Some((first_modified.unwrap_or(ns), TimeFrom::Folder)),
        _ => None,
    };
    let modified = files.iter().map(|f| f.modified_ns).min().unwrap_or_default();
    let (time_ns, time_from) = time.unwrap_or((modified, TimeFrom::Modified));
    Item { time_ns, time_from, files }
}

/// Of two items of the same source and time the later one is moved by a nanosecond, so that they have an order.
fn keep_apart(items: &mut [Item]) {
    let mut last: BTreeMap<Vec<String>, i64> = BTreeMap::new();
    for item in items {
        let sources = item.files.iter().map(|file| file.source.clone()).collect();
        let before = last.entry(sources).or_insert(i64::MIN);
        if item.time_ns <= *before {
            item.time_ns = before.saturating_add(1);
        }
        *before = item.time_ns;
    }
}

impl Candidate {
    /// What could not even be looked at.
    pub(super) fn unread(path: PathBuf, name: String) -> Self {
        Self { path, name, source: String::new(), bytes: 0, modified_ns: 0, own: None }
    }

    /// True while the file on disk is the one that was examined.
    pub(super) fn is_still(&self, marks: &Marks) -> bool {
        Marks::now(&self.path).is_ok_and(|now| now == *marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, name).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            // 2023-05-01 03:04:05 UTC
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_682_910_245)).unwrap();
        }
    }

    fn shown(gathered: &Gathered) -> Vec<String> {
        let item = |item: &Item| {
            let files: Vec<String> = item.files.iter().map(|f| format!("{}={}", f.name, f.source)).collect();
            format!("{} {} {}", ns_timestamp(item.time_ns), item.time_from.as_str(), files.join(","))
        };
        gathered.items.iter().map(item).collect()
    }

    #[test]
    fn piles_become_items_in_the_order_of_time() {
        let folder = tempfile::tempdir().unwrap();
        place(
            folder.path(),
            &[
                "app_backup_20240712_020000.sql.gz",
                "app_backup_20240711_020000.sql.gz",
                "old.sqlite",
                "README.md",
                ".hidden.sql",
                "2024-07-13/db.dump",
                "2024-07-13/media.tar.gz",
                "daily/2024/07/14/db/x.sql",
                "daily/2024/07/14/x.sql",
                "2024-07-15/app_20240715_0100.sql",
                "2024-07-15/app_20240715_1300.sql",
                "2024-07-16/stray_20240601.sql",
                "2023-05-01/night.sql",
                "same/a/shop-20220101.sql",
                "same/b/shop-20220101.sql.gz",
            ],
        );
        std::os::unix::fs::symlink("old.sqlite", folder.path().join("latest.sqlite")).unwrap();
        let gathered = gather(&[folder.path().to_owned()], &[], &TimeZone::UTC);
        assert_eq!(
            shown(&gathered),
            [
                "2022-01-01T00:00:00Z name shop-20220101.sql=shop.sql",
                "2022-01-01T00:00:00.000000001Z name shop-20220101.sql.gz=shop.sql",
                "2023-05-01T03:04:05Z folder 2023-05-01/night.sql=night.sql",
                "2023-05-01T03:04:05Z modified old.sqlite=old.sqlite",
                "2024-06-01T00:00:00Z name stray_20240601.sql=stray.sql",
                "2024-07-11T02:00:00Z name app_backup_20240711_020000.sql.gz=app_backup.sql",
                "2024-07-12T02:00:00Z name app_backup_20240712_020000.sql.gz=app_backup.sql",
                "2024-07-13T00:00:00Z folder 2024-07-13/db.dump=db.dump,2024-07-13/media.tar.gz=media.tar",
                "2024-07-14T00:00:00Z folder 2024/07/14/db/x.sql=db-x.sql,2024/07/14/x.sql=x.sql",
                "2024-07-15T01:00:00Z name app_20240715_0100.sql=app.sql",
                "2024-07-15T13:00:00Z name app_20240715_1300.sql=app.sql",
            ]
        );
        assert_eq!(gathered.left_out.len(), 3, "{:?}", gathered.left_out);
        assert!(gathered.unreadable.is_empty());
    }

    #[test]
    fn what_is_named_is_taken_once_and_what_is_not_there_is_said() {
        let folder = tempfile::tempdir().unwrap();
        place(folder.path(), &["2024-07-13/strange.bin", "own/x.sql"]);
        let dated = folder.path().join("2024-07-13");
        let own = folder.path().join("own");
        let named = dated.join("strange.bin");
        let paths = [named.clone(), named, folder.path().to_owned(), folder.path().join("gone")];
        let gathered = gather(&paths, &[own], &TimeZone::UTC);
        assert_eq!(shown(&gathered), ["2023-05-01T03:04:05Z modified strange.bin=strange.bin"]);
        assert_eq!((gathered.left_out.len(), gathered.unreadable.len()), (2, 1), "{gathered:?}");
    }
}
