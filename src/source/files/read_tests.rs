//! Tests of reading on real files.

use super::*;
use crate::domain::system::FixedClock;
use crate::source::files::rules::Rules;
use crate::source::files::walk::{Walk, WalkOptions};
use std::convert::Infallible;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

fn clock() -> FixedClock {
    FixedClock(Mutex::new(jiff::Timestamp::from_second(4_000_000_000).expect("in range")))
}

fn found_at(path: &Path) -> Found {
    let path = path.canonicalize().expect("exists");
    let options = WalkOptions { rules: Rules::new([], false).expect("none"), ..WalkOptions::default() };
    let walk = Walk::new(std::slice::from_ref(&path), options).expect("exists");
    walk.map(|e| e.expect("readable")).find(|e| e.entry.path == path.as_os_str().as_bytes()).expect("found")
}

fn read(found: &Found) -> (FileRead, Vec<u8>) {
    let mut bytes = Vec::new();
    let read = FileReader::new(Owners::default()).read(found, &clock(), |piece| {
        assert!(piece.len() <= PIECE_BYTES);
        bytes.extend_from_slice(piece);
        Ok::<(), Infallible>(())
    });
    (read.expect("readable"), bytes)
}

fn content(read: &FileRead) -> &FileContent {
    match &read.entry.kind {
        EntryKind::File(content) => content,
        other => panic!("a file was read as {other:?}"),
    }
}

#[test]
fn small_and_large_files_are_delivered_whole() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("f");
    for size in [0, 1, PIECE_BYTES + 1, 8 << 20, (8 << 20) + 1, 11_000_000] {
        let data: Vec<u8> = (0..size).map(|n| (n * 7 % 251 + 1) as u8).collect();
        std::fs::write(&path, &data).expect("file");
        let found = found_at(&path);
        let (read, bytes) = read(&found);
        assert!(bytes == data, "{size}");
        let (hash, identity) = (Digest(*blake3::hash(&data).as_bytes()), Some(found.stamp.identity()));
        let expected = FileContent { size: size as u64, hash, ..Default::default() };
        assert_eq!((content(&read), read.identity), (&expected, identity));
        assert_eq!((read.warning.clone(), read.replaced), (None, false));
        assert!(is_unchanged(&read.entry, read.identity, &found));
    }
}

#[test]
fn holes_are_left_out_and_described() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("sparse");
    let mut file = File::create(&path).expect("file");
    file.set_len(1 << 40).expect("length");
    for offset in [0, 1 << 30, (1 << 40) - 3] {
        file.seek(std::io::SeekFrom::Start(offset)).expect("seek");
        file.write_all(b"abc").expect("write");
    }
    assert!(tells_holes_truly(&file), "the tests run on a file system of the list");
    let (read, bytes) = read(&found_at(&path));
    let content = content(&read);
    assert!(content.sparse && content.size == 1 << 40 && content.extents.len() == 3, "{content:?}");
    assert_eq!(bytes.len() as u64, content.stream_bytes());
    assert_eq!(content.hash.0, *blake3::hash(&bytes).as_bytes());
    assert!(bytes.starts_with(b"abc") && bytes.ends_with(b"abc"));
    // A file that is one hole.
    let all = dir.path().join("hole");
    File::create(&all).expect("file").set_len(1 << 20).expect("length");
    let (read, bytes) = super::tests::read(&found_at(&all));
    let content = super::tests::content(&read);
    assert!(content.sparse && content.extents.is_empty() && content.size == 1 << 20 && bytes.is_empty());
}

#[test]
fn many_extents_are_joined_until_they_fit() {
    let mut found = Vec::new();
    let mut hole_min = HOLE_BYTES_MIN;
    for n in 0..4 * EXTENTS_MAX as u64 {
        push_extent(&mut found, (n * 12_288, 4096), &mut hole_min);
    }
    assert!(found.len() <= EXTENTS_MAX);
    assert!(found.windows(2).all(|w| w[0].0 + w[0].1 < w[1].0));
    assert_eq!(found.first().map(|e| e.0), Some(0));
    assert_eq!(found.last().map(|e| e.0 + e.1), Some((4 * EXTENTS_MAX as u64 - 1) * 12_288 + 4096));
}

#[test]
fn a_small_file_that_changed_once_is_read_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("f");
    std::fs::write(&path, b"old").expect("file");
    let found = found_at(&path);
    // The clock is asked before every pass and before nothing else: it changes the file after the first look at it.
    struct Meddler<'a>(&'a Path, Mutex<u32>, u32);
    impl Clock for Meddler<'_> {
        fn now(&self) -> jiff::Timestamp {
            let mut calls = self.1.lock().expect("not poisoned");
            *calls += 1;
            if *calls <= self.2 {
                std::fs::write(self.0, "n".repeat(*calls as usize * 5)).expect("file");
            }
            jiff::Timestamp::from_second(4_000_000_000).expect("in range")
        }
    }
    let mut bytes = Vec::new();
    let mut reader = FileReader::new(Owners::default());
    let once = Meddler(&path, Mutex::new(0), 1);
    let read = reader.read(&found, &once, |piece| {
        bytes.extend_from_slice(piece);
        Ok::<(), Infallible>(())
    });
    let read = read.expect("readable");
    assert_eq!((bytes.as_slice(), read.warning.clone()), (b"nnnnn".as_slice(), None));
    assert!(!content(&read).torn && read.entry.mtime_ns != found.entry.mtime_ns);
    let always = Meddler(&path, Mutex::new(1), u32::MAX);
    let read = reader.read(&found, &always, |_| Ok::<(), Infallible>(())).expect("readable");
    let warning = read.warning.clone().expect("a finding");
    assert_eq!((warning.code.as_str(), warning.incomplete), ("file.changed", false));
    assert!(content(&read).torn && !is_unchanged(&read.entry, read.identity, &found_at(&path)));
    assert_eq!(*always.1.lock().expect("not poisoned"), 1 + 1 + REREADS_MAX);
}

#[test]
fn a_large_file_that_shrinks_or_grows_counts_what_was_delivered() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("f");
    let size = 20u64 << 20;
    for new_size in [3 << 20, 40 << 20] {
        std::fs::write(&path, vec![7u8; size as usize]).expect("file");
        let found = found_at(&path);
        let mut delivered = 0;
        let mut hasher = blake3::Hasher::new();
        let read = FileReader::new(Owners::default()).read(&found, &clock(), |piece| {
            if delivered == 0 {
                let file = File::options().write(true).open(&path).expect("file");
                file.set_len(new_size).expect("length");
            }
            delivered += piece.len() as u64;
            hasher.update(piece);
            Ok::<(), Infallible>(())
        });
        let read = read.expect("readable");
        assert_eq!(content(&read).size, delivered);
        assert_eq!(delivered, new_size.min(size));
        assert!(content(&read).torn && read.warning.is_some());
        assert_eq!(content(&read).hash.0, *hasher.finalize().as_bytes());
    }
}

#[test]
fn no_torn_file_is_without_its_flag() {
    // A writer goes over the file from front to back again and again, each time with the next byte value. Whenever it
    // stands still the file is a run of one value and then a run of the value before; any other bytes are a mixture.
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("f");
    std::fs::write(&path, vec![0u8; 200_000]).expect("file");
    let found = found_at(&path);
    let stop = AtomicBool::new(false);
    // Whether a change is recent shows only against the clock that stamps it.
    struct RealClock;
    impl Clock for RealClock {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::now()
        }
    }
    let mut reader = FileReader::new(Owners::default());
    let (mut flagged, mut lied) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).expect("file");
            let mut value = 0u8;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_add(1);
                for part in 0..4 {
                    file.write_all_at(&[value; 50_000], part * 50_000).expect("write");
                }
            }
        });
        // 500 readings, and more until the writer was in the way at least once
        for n in 0..50_000 {
            if n >= 500 && flagged > 0 {
                break;
            }
            let mut bytes = Vec::new();
            let read = reader.read(&found, &RealClock, |piece| {
                bytes.extend_from_slice(piece);
                Ok::<(), Infallible>(())
            });
            let Ok(read) = read else { continue };
            let newest = bytes.first().copied().unwrap_or(0);
            let tail = bytes.iter().skip_while(|b| **b == newest);
            let state_of_the_file = tail.copied().all(|b| b == newest.wrapping_sub(1));
            flagged += u32::from(content(&read).torn);
            lied += u32::from(!state_of_the_file && !content(&read).torn);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(lied, 0, "mixtures without a flag");
    assert!(flagged > 0, "the writer was never in the way, so nothing was shown");
}

#[test]
fn replaced_vanished_and_swapped_files() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let base = dir.path().canonicalize().expect("exists");
    let path = base.join("f");
    std::fs::write(&path, b"old").expect("file");
    let found = found_at(&path);
    std::fs::write(base.join("new"), b"newer").expect("file");
    std::fs::rename(base.join("new"), &path).expect("renamed");
    let (replaced, bytes) = read(&found);
    assert_eq!((replaced.replaced, bytes.as_slice()), (true, b"newer".as_slice()));
    assert_eq!(replaced.identity, Some(found_at(&path).stamp.identity()));
    assert!(!is_unchanged(&replaced.entry, replaced.identity, &found), "it is not the file that the walk saw");

    let skipped = |found: &Found| match FileReader::new(Owners::default()).read(found, &clock(), |_| Err(())) {
        Err(ReadError::Skipped(warning)) => warning,
        other => panic!("nothing may be sent: {other:?}"),
    };
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(skipped(&found).code, "file.vanished");
    std::os::unix::fs::symlink("/etc/passwd", &path).expect("link");
    assert_eq!(skipped(&found).code, "file.vanished");
    std::fs::remove_file(&path).expect("removed");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).expect("fifo");
    assert!(skipped(&found).incomplete);
    // A receiver's error is not a file's error.
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, b"x").expect("file");
    let result = FileReader::new(Owners::default()).read(&found, &clock(), |_| Err("full"));
    assert!(matches!(result, Err(ReadError::Receiver("full"))));
}

#[test]
fn unchanged_needs_everything_equal_and_an_old_change() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("f");
    std::fs::write(&path, b"x").expect("file");
    let now = found_at(&path);
    let (FileRead { entry: parent, identity, .. }, _) = read(&now);
    assert!(is_unchanged(&parent, identity, &now));
    assert!(!is_unchanged(&parent, None, &now), "without an identity nothing can be told");
    let with = |change: &dyn Fn(&mut Found)| {
        let mut different = now.clone();
        change(&mut different);
        different
    };
    for different in [
        with(&|found| found.entry.mtime_ns += 1),
        with(&|found| found.stamp.ctime_ns += 1),
        with(&|found| found.stamp.inode += 1),
        with(&|found| found.stamp.device += 1),
        with(&|found| found.entry.kind = EntryKind::File(FileContent { size: 2, ..Default::default() })),
        with(&|found| found.entry.kind = EntryKind::Fifo),
    ] {
        assert!(!is_unchanged(&parent, identity, &different), "{different:?}");
    }
    let EntryKind::File(content) = &parent.kind else { panic!("a file") };
    let torn = Entry { kind: EntryKind::File(FileContent { torn: true, ..content.clone() }), ..parent.clone() };
    assert!(!is_unchanged(&torn, identity, &now));
}

#[test]
fn a_file_read_within_two_seconds_of_its_change_is_read_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("f");
    std::fs::write(&path, b"x").expect("file");
    let now = found_at(&path);
    for (after_ns, unchanged) in [(CLOCK_STEP_NS - 1, false), (CLOCK_STEP_NS, true)] {
        let time = jiff::Timestamp::from_nanosecond((now.stamp.ctime_ns + after_ns).into()).expect("in range");
        let clock = FixedClock(Mutex::new(time));
        let read = FileReader::new(Owners::default()).read(&now, &clock, |_| Ok::<(), Infallible>(()));
        let read = read.expect("readable");
        assert!(!content(&read).torn);
        let known = is_unchanged(&read.entry, read.identity, &now);
        assert_eq!((read.identity.is_some(), known), (unchanged, unchanged));
    }
}
