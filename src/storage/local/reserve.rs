//! The file `reserve`: space that is there when the disk is full, so that a prune can write the little it must write
//! before it can delete.
//!
//! Invariants: it holds nothing but zero bytes, it never shrinks or grows but is made and removed whole, and nothing
//! fails because it is absent.

use crate::fsio::disk::Disk;
use crate::fsio::folder::Kind;
use crate::storage::RESERVE_NAME;
use std::io;

/// Its length.
pub(super) const RESERVE_BYTES: u64 = 8 << 20;
/// Bytes read or written at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Makes the file; false where there is no room for it. Zero bytes are really written: on a file system that compresses
/// them away the reserve is worth less, and docs/shortcomings.md says so.
pub(super) fn take(root: &dyn Disk) -> io::Result<bool> {
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

fn write_zeros(root: &dyn Disk, path: &str) -> io::Result<()> {
    let file = root.create_file(path)?;
    // Nobody else removes it while it is locked.
    let _ = file.try_lock();
    let zeros = vec![0u8; PIECE_BYTES];
    let mut left = RESERVE_BYTES;
    while left > 0 {
        let now = left.min(PIECE_BYTES as u64);
        file.append(zeros.get(..usize::try_from(now).unwrap_or(0)).unwrap_or_default())?;
        left -= now;
    }
    file.sync()
}

/// Removes the file. Returns its length; 0 when it was not there.
pub(super) fn release(root: &dyn Disk) -> io::Result<u64> {
    let bytes = root.find(RESERVE_NAME)?.map_or(0, |item| item.bytes);
    root.remove_file(RESERVE_NAME)?;
    root.sync_folder(".")?;
    Ok(bytes)
}

/// What is wrong with the file, if it is there.
pub(super) fn fault(root: &dyn Disk) -> io::Result<Option<String>> {
    match root.find(RESERVE_NAME)? {
        None => return Ok(None),
        Some(item) if item.kind != Kind::File => return Ok(Some("it is not a regular file".to_owned())),
        Some(item) if item.bytes != RESERVE_BYTES => {
            return Ok(Some(format!("it has {} bytes instead of {RESERVE_BYTES}", item.bytes)));
        }
        Some(_) => {}
    }
    let file = root.open_file(RESERVE_NAME)?;
    let mut buffer = vec![0u8; PIECE_BYTES];
    for piece in 0..RESERVE_BYTES / PIECE_BYTES as u64 {
        file.read_exact_at(&mut buffer, piece * PIECE_BYTES as u64)?;
        if buffer.iter().any(|b| *b != 0) {
            return Ok(Some("it holds bytes that are not zero".to_owned()));
        }
    }
    Ok(None)
}
