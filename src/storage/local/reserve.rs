//! The file `reserve`: space that is there when the disk is full, so that a prune can write the little it must write
//! before it can delete.
//!
//! Invariants: it holds nothing but zero bytes, it never shrinks or grows but is made and removed whole, and nothing
//! fails because it is absent.

use crate::fsio::folder::{Folder, Kind};
use crate::storage::RESERVE_NAME;
use std::io::{self, Read, Write};

/// Its length.
pub(super) const RESERVE_BYTES: u64 = 8 << 20;
/// Bytes read or written at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Makes the file; false where there is no room for it. Zero bytes are really written: on a file system that compresses
/// them away the reserve is worth less, and docs/shortcomings.md says so.
pub(super) fn take(root: &Folder) -> io::Result<bool> {
    if root.find(RESERVE_NAME)?.is_some() {
        return Ok(true);
    }
    let temporary = format!("tmp/{}.reserve", super::random_hex());
    let result = write_zeros(root, &temporary).and_then(|()| root.rename_new(&temporary, RESERVE_NAME));
    match result {
        Ok(()) => Ok(true),
        Err(error) => {
            let _ = root.remove_file(&temporary);
            match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(true),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Ok(false),
                _ => Err(error),
            }
        }
    }
}

fn write_zeros(root: &Folder, path: &str) -> io::Result<()> {
    let mut file = root.create_file(path)?;
    // Nobody else removes it while it is locked.
    let _ = file.try_lock();
    let zeros = vec![0u8; PIECE_BYTES];
    let mut left = RESERVE_BYTES;
    while left > 0 {
        let now = left.min(PIECE_BYTES as u64);
        file.write_all(zeros.get(..usize::try_from(now).unwrap_or(0)).unwrap_or_default())?;
        left -= now;
    }
    file.sync_all()
}

/// Removes the file. Returns its length; 0 when it was not there.
pub(super) fn release(root: &Folder) -> io::Result<u64> {
    let bytes = root.find(RESERVE_NAME)?.map_or(0, |item| item.bytes);
    root.remove_file(RESERVE_NAME)?;
    root.sync_folder(".")?;
    Ok(bytes)
}

/// What is wrong with the file, if it is there.
pub(super) fn fault(root: &Folder) -> io::Result<Option<String>> {
    match root.find(RESERVE_NAME)? {
        None => return Ok(None),
        Some(item) if item.kind != Kind::File => return Ok(Some("it is not a regular file".to_owned())),
        Some(item) if item.bytes != RESERVE_BYTES => {
            return Ok(Some(format!("it has {} bytes instead of {RESERVE_BYTES}", item.bytes)));
        }
        Some(_) => {}
    }
    let mut file = root.open_file(RESERVE_NAME)?;
    let mut buffer = vec![0u8; PIECE_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        let Some(now) = buffer.get(..read).filter(|now| !now.is_empty()) else { return Ok(None) };
        if now.iter().any(|b| *b != 0) {
            return Ok(Some("it holds bytes that are not zero".to_owned()));
        }
    }
}
