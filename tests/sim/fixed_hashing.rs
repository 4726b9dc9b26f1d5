//! Hash maps of the standard library iterate in an order that a random number of the system decides. Here that number is
//! always the same, so that a seed replays what it did, call by call.
//!
//! Identifiers and keys of the simulator come from seeds anyway; nothing in this program protects anything.

/// Stands in for the C library's function of that name, which the standard library asks for its random number.
///
/// # Safety
/// `buffer` must have room for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller promises the room.
    unsafe { std::ptr::write_bytes(buffer, 0x35, length) };
    length.cast_signed()
}

#[test]
fn hash_maps_iterate_in_the_same_order_on_every_thread() {
    let order = || {
        let map: std::collections::HashSet<u32> = (0..1000).collect();
        map.into_iter().collect::<Vec<_>>()
    };
    let orders = [std::thread::spawn(order), std::thread::spawn(order)].map(|thread| thread.join().expect("no panic"));
    assert_eq!(orders[0], orders[1]);
}
