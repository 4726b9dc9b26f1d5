//! Files that other tools left behind: what their names say about the backup in them.
//!
//! A pile of backups is named in a hundred ways; what they share is a date somewhere, a time perhaps, and suffixes that
//! say how the bytes are packed. What remains without these is the same for every file of one series.

use super::id::Digest;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Longest name of a source that is made from a file name, bytes.
const SOURCE_NAME_MAX: usize = 128;
/// Years that a date in a name may have; other numbers are no dates.
const YEARS: std::ops::RangeInclusive<i16> = 1980..=2199;
/// Suffixes that only say how bytes are packed, and what stands in their place when the bytes are unpacked.
const PACKINGS: [(&str, &str); 11] = [
    (".gz", ""),
    (".zst", ""),
    (".zstd", ""),
    (".xz", ""),
    (".bz2", ""),
    (".tgz", ".tar"),
    (".txz", ".tar"),
    (".tbz2", ".tar"),
    (".tbz", ".tar"),
    (".tzst", ".tar"),
    (".taz", ".tar"),
];
/// Suffixes of what is looked at, packing apart.
const WANTED: [&str; 10] =
    [".sql", ".dump", ".tar", ".sqlite", ".sqlite3", ".db", ".db3", ".psql", ".pgdump", ".backup"];
/// Suffixes of what cannot be read and is a backup all the same, probably.
const FOREIGN: [&str; 9] = [".zip", ".7z", ".rar", ".gpg", ".pgp", ".age", ".enc", ".asc", ".lz4"];

/// What is kept about a file that was imported. It is encoded into the snapshot's record (docs/format.md, section 15).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// The source of the snapshot that it became.
    pub source: String,
    /// Its name, with the date-named folders above it where the date is theirs.
    pub name: String,
    /// Its size, bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes, as they were packed.
    pub sha256: Digest,
    /// When it was changed last, nanoseconds since 1970 UTC.
    pub modified_ns: i64,
    /// How its bytes were packed (`gzip`, `zstd`, `xz`, `bzip2`); empty: not at all.
    pub packing: String,
}

/// A date in a name, with the time if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The day.
    pub date: Date,
    /// The time of day.
    pub time: Option<Time>,
    /// Its zone, where the name has one; otherwise it is local.
    pub offset: Option<Offset>,
}

impl Stamp {
    /// Nanoseconds since 1970 UTC; without a time the first moment of the day. None when it is out of range.
    pub fn time_ns(&self, tz: &TimeZone) -> Option<i64> {
        let civil = DateTime::from_parts(self.date, self.time.unwrap_or(Time::midnight()));
        let zone = self.offset.map_or_else(|| tz.clone(), TimeZone::fixed);
        let at = civil.to_zoned(zone).ok()?.timestamp();
        i64::try_from(at.as_nanosecond()).ok()
    }
}

/// Whether a file is looked at, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suffix {
    /// It may be a backup that can be read.
    Wanted,
    /// Probably a backup, in a form that is not read.
    Foreign,
    /// Something else.
    Other,
}

/// What a file's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameFacts {
    /// The name of the source: without date, time and packing.
    pub source: String,
    /// The date in it.
    pub stamp: Option<Stamp>,
    /// Whether the file is looked at.
    pub suffix: Suffix,
}

/// Reads a file's name.
pub fn read_name(name: &str) -> NameFacts {
    let found = find_stamp(name);
    let rest = match &found {
        Some((range, _)) => without(name, range),
        None => name.to_owned(),
    };
    let plain = unpacked(&rest);
    let lower = plain.to_ascii_lowercase();
    let has = |suffixes: &[&str]| suffixes.iter().any(|suffix| lower.ends_with(suffix));
    let packed = lower.len() != rest.len() || rest.to_ascii_lowercase() != lower;
    let suffix = if has(&FOREIGN) {
        Suffix::Foreign
    } else if packed || has(&WANTED) {
        Suffix::Wanted
    } else {
        Suffix::Other
    };
    NameFacts { source: source_name(&plain), stamp: found.map(|(_, stamp)| stamp), suffix }
}

/// The date of a folder's name.
pub fn read_folder(name: &str) -> Option<Stamp> {
    find_stamp(name).map(|(_, stamp)| stamp)
}

/// The date of three folders in a row, `2024/07/12`.
pub fn read_folders(year: &str, month: &str, day: &str) -> Option<Stamp> {
    let digits = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if year.len() != 4 || !digits(year, 4) || !digits(month, 2) || !digits(day, 2) {
        return None;
    }
    let year = year.parse().ok().filter(|year| YEARS.contains(year))?;
    let date = Date::new(year, month.parse().ok()?, day.parse().ok()?).ok()?;
    Some(Stamp { date, time: None, offset: None })
}

/// A name without a span of it; of the separators around, one remains where something stands on both sides.
fn without(name: &str, range: &Range<usize>) -> String {
    let is_separator = |c: char| "-_. ".contains(c);
    let (before, after) = (name.get(..range.start).unwrap_or(""), name.get(range.end..).unwrap_or(""));
    let stem = before.trim_end_matches(is_separator);
    if after.starts_with('.') || after.is_empty() {
        return format!("{stem}{after}");
    }
    let after = after.trim_start_matches(is_separator);
    let joint = before.get(stem.len()..).and_then(|s| s.chars().next()).map(String::from).unwrap_or_default();
    match (stem.is_empty(), joint.is_empty()) {
        (true, _) => after.to_owned(),
        (false, true) => format!("{stem}_{after}"),
        (false, false) => format!("{stem}{joint}{after}"),
    }
}

/// A name without the suffix of its packing.
fn unpacked(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    for (suffix, instead) in PACKINGS {
        if lower.ends_with(suffix)
            && let Some(stem) = name.get(..name.len() - suffix.len())
        {
            return format!("{stem}{instead}");
        }
    }
    name.to_owned()
}

/// A name that history can hang on.
fn source_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let stem_is_empty = name.starts_with('.') || name.is_empty();
    let full = if stem_is_empty { format!("backup{name}") } else { name.to_owned() };
    full.chars().map(plain).take(SOURCE_NAME_MAX).collect()
}

/// Reads digits at a place of a text.
fn number(text: &[u8], at: usize, digits: usize) -> Option<i16> {
    let part = text.get(at..at.checked_add(digits)?)?;
    if !part.iter().all(u8::is_ascii_digit) {
        return None;
    }
    part.iter().try_fold(0i16, |all, digit| all.checked_mul(10)?.checked_add(i16::from(digit - b'0')))
}

fn small(text: &[u8], at: usize) -> Option<i8> {
    number(text, at, 2).and_then(|n| i8::try_from(n).ok())
}

fn is_digit(text: &[u8], at: usize) -> bool {
    text.get(at).is_some_and(u8::is_ascii_digit)
}

/// The first date in a text, with the time behind it.
fn find_stamp(name: &str) -> Option<(Range<usize>, Stamp)> {
    let text = name.as_bytes();
    (0..text.len()).filter(|at| *at == 0 || !is_digit(text, at - 1)).find_map(|at| stamp_at(text, at))
}

fn stamp_at(text: &[u8], start: usize) -> Option<(Range<usize>, Stamp)> {
    let year = number(text, start, 4).filter(|year| YEARS.contains(year))?;
    let at = start + 4;
    let separator = text.get(at).copied().filter(|c| b"-_.".contains(c));
    let (month, day, end) = match separator {
        Some(c) if text.get(at + 3) == Some(&c) => (small(text, at + 1)?, small(text, at + 4)?, at + 6),
        Some(_) => return None,
        None => (small(text, at)?, small(text, at + 2)?, at + 4),
    };
    let date = Date::new(year, month, day).ok()?;
    // `20240708143022` without anything between; otherwise more digits mean that it is another kind of number
    let glued = separator.is_none() && is_digit(text, end);
    let time = if glued { time_at(text, end) } else { time_after_separator(text, end) };
    match time {
        Some((end, time, offset)) => Some((start..end, Stamp { date, time: Some(time), offset })),
        None if is_digit(text, end) => None,
        None => Some((start..end, Stamp { date, time: None, offset: None })),
    }
}

type FoundTime = (usize, Time, Option<Offset>);

fn time_after_separator(text: &[u8], at: usize) -> Option<FoundTime> {
    let rest = text.get(at..)?;
    let skipped = if rest.starts_with(b"_at_") || rest.starts_with(b"-at-") || rest.starts_with(b" at ") {
        4
    } else if rest.first().is_some_and(|c| b"_-Tt. ".contains(c)) {
        1
    } else {
        return None;
    };
    time_at(text, at + skipped)
}

/// `1430`, `143022`, `14-30`, `14-30-22`, `14:30:22.5`, `14h30`, `14.30.22`, then perhaps `Z` or `+02:00`.
fn time_at(text: &[u8], at: usize) -> Option<FoundTime> {
    let hour = small(text, at)?;
    let separator = text.get(at + 2).copied().filter(|c| b"-_:.h".contains(c));
    let step = usize::from(separator.is_some());
    let minute = small(text, at + 2 + step)?;
    let mut end = at + 4 + step;
    // after `14h30` seconds would follow an m
    let next = separator.map(|c| if c == b'h' { b'm' } else { c });
    let seconds = match next {
        Some(c) if text.get(end) == Some(&c) => small(text, end + 1).filter(|_| !is_digit(text, end + 3)),
        Some(_) => None,
        None => small(text, end),
    };
    let mut second = 0;
    if let Some(found) = seconds {
        second = found;
        end += 2 + step;
    } else if separator == Some(b'.') {
        // a version number looks like this
        return None;
    }
    let time = Time::new(hour, minute, second, 0).ok()?;
    if is_digit(text, end) {
        return None;
    }
    if seconds.is_some() && matches!(text.get(end), Some(b'.' | b',')) && is_digit(text, end + 1) {
        // parts of a second, and what is not one, as in `.7z`
        let digits = text.iter().skip(end + 1).take_while(|c| c.is_ascii_digit()).count();
        if !text.get(end + 1 + digits).is_some_and(u8::is_ascii_alphabetic) || text.get(end + 1 + digits) == Some(&b'Z')
        {
            end += 1 + digits;
        }
    }
    let (end, offset) = zone_at(text, end);
    Some((end, time, offset))
}

/// `Z`, `UTC`, `+0200`, `+02:00` or `-05:00`; four digits after a dash may be anything, so they are no zone.
fn zone_at(text: &[u8], at: usize) -> (usize, Option<Offset>) {
    let rest = text.get(at..).unwrap_or_default();
    let ends = |after: usize| !rest.get(after).is_some_and(u8::is_ascii_alphanumeric);
    if rest.first() == Some(&b'Z') && ends(1) {
        return (at + 1, Some(Offset::UTC));
    }
    if rest.starts_with(b"UTC") && ends(3) {
        return (at + 3, Some(Offset::UTC));
    }
    let colon = rest.get(3) == Some(&b':');
    let sign = match rest.first() {
        Some(b'+') => 1,
        Some(b'-') if colon => -1,
        _ => return (at, None),
    };
    let length = 5 + usize::from(colon);
    let (hours, minutes) = (small(rest, 1), small(rest, 3 + usize::from(colon)));
    match (hours, minutes) {
        (Some(hours @ 0..=15), Some(minutes @ 0..=59)) if ends(length) => {
            let seconds = sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60);
            match Offset::from_seconds(seconds) {
                Ok(offset) => (at + length, Some(offset)),
                Err(_) => (at, None),
            }
        }
        _ => (at, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str) -> (String, String, Suffix) {
        let facts = read_name(name);
        let zone = TimeZone::fixed(Offset::from_seconds(7200).unwrap());
        let time = facts.stamp.as_ref().map(|stamp| {
            let ns = stamp.time_ns(&zone).unwrap();
            jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap().to_string()
        });
        (facts.source, time.unwrap_or_default(), facts.suffix)
    }

    #[test]
    fn names_of_old_systems_give_source_and_time() {
        for (name, source, time) in [
            ("app_backup_20240712_020000.sql.gz", "app_backup.sql", "2024-07-12T00:00:00Z"),
            ("20240708_143022.dump", "backup.dump", "2024-07-08T12:30:22Z"),
            ("shop-2024-07-08.tar.gz", "shop.tar", "2024-07-07T22:00:00Z"),
            ("shop-20240708-1430.tgz", "shop.tar", "2024-07-08T12:30:00Z"),
            ("db.sql-20240708.gz", "db.sql", "2024-07-07T22:00:00Z"),
            ("db.sql.gz.20240708", "db.sql", "2024-07-07T22:00:00Z"),
            ("20240708143022_full.sqlite", "full.sqlite", "2024-07-08T12:30:22Z"),
            ("app_2024-07-08_14-30-22_full.db", "app_full.db", "2024-07-08T12:30:22Z"),
            ("app_2024_07_08_14_30.sql", "app.sql", "2024-07-08T12:30:00Z"),
            ("app-2024-07-08T14:30:22Z.sql.zst", "app.sql", "2024-07-08T14:30:22Z"),
            ("app-2024-07-08T14:30:22.123Z.sql.zst", "app.sql", "2024-07-08T14:30:22Z"),
            ("app-2024-07-08T143022+0530.sql.xz", "app.sql", "2024-07-08T09:00:22Z"),
            ("app-2024-07-08T14:30:22-05:00.sql.bz2", "app.sql", "2024-07-08T19:30:22Z"),
            ("app 2024-07-08 at 14.sql", "app_at_14.sql", "2024-07-07T22:00:00Z"),
            ("app_2024-07-08_at_14h30.sql", "app.sql", "2024-07-08T12:30:00Z"),
            ("gitlab_2024_07_08_16.11.1_backup.tar", "gitlab_16.11.1_backup.tar", "2024-07-07T22:00:00Z"),
            ("app.sql", "app.sql", ""),
            ("v20249999.sql", "v20249999.sql", ""),
            ("build-202407081.sql", "build-202407081.sql", ""),
            ("größe 1.db", "gr__e_1.db", ""),
        ] {
            let (found_source, found_time, suffix) = facts(name);
            assert_eq!((&*found_source, &*found_time), (source, time), "{name}");
            assert_eq!(suffix, Suffix::Wanted, "{name}");
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        for (name, suffix) in [
            ("README.md", Suffix::Other),
            ("SHA256SUMS", Suffix::Other),
            ("app_20240712.sql.gpg", Suffix::Foreign),
            ("app_20240712.zip", Suffix::Foreign),
            ("DB.SQL.GZ", Suffix::Wanted),
            ("notes.gz", Suffix::Wanted),
        ] {
            assert_eq!(read_name(name).suffix, suffix, "{name}");
        }
    }

    #[test]
    fn folders_with_dates() {
        assert_eq!(read_folder("2024-07-12").unwrap().date, Date::new(2024, 7, 12).unwrap());
        let with_time = read_folder("backup_20240712_0215").unwrap();
        assert_eq!(with_time.time, Some(Time::new(2, 15, 0, 0).unwrap()));
        assert_eq!(read_folder("daily"), None);
        assert!(read_folders("2024", "07", "12").is_some() && read_folders("2024", "7", "2").is_some());
        for bad in [("24", "07", "12"), ("2024", "13", "12"), ("2024", "02", "30"), ("2024", "x", "1")] {
            assert_eq!(read_folders(bad.0, bad.1, bad.2), None);
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic() {
        let random: &dyn crate::domain::system::Random = &crate::domain::system::SeededRandom::new(7);
        let alphabet: Vec<char> = "0129-_.:TZ+ahé m/".chars().collect();
        for _ in 0..20_000 {
            let bytes = random.bytes::<24>();
            let text: String = bytes.iter().map(|b| alphabet[usize::from(*b) % alphabet.len()]).collect();
            let facts = read_name(&text);
            assert!(!facts.source.is_empty());
            let dated = format!("x_20240708_143022{text}");
            let _ = read_name(&dated);
        }
    }
}
