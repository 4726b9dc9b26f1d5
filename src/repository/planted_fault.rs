//! For tests: makes the encoder put one edit off by one byte, to see that such a version is never committed.

use std::cell::Cell;

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
}

/// The next copy of the parent that this thread encodes will be off by one byte.
pub(crate) fn arm() {
    ARMED.set(true);
}

/// True while the fault has not happened yet.
pub(crate) fn is_armed() -> bool {
    ARMED.get()
}

/// The source of a copy, one byte off if a fault is planted and the parent is long enough for it.
pub(crate) fn shifted(src: u64, length: u64, parent_bytes: u64) -> u64 {
    if !ARMED.get() {
        return src;
    }
    let moved = if src + length < parent_bytes { src + 1 } else { src.saturating_sub(1) };
    if moved != src {
        ARMED.set(false);
    }
    moved
}
