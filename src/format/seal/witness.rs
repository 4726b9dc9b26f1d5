//! For tests: every key that has sealed something in this process, and what. The nonce is always zero, so a key that meets a second
//! text, or the same text with other additional data, ends whichever test made it do so.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Key of AES-256-GCM → digest of additional data and text.
static MET: Mutex<Option<HashMap<[u8; 32], blake3::Hash>>> = Mutex::new(None);

/// A key seals a text.
pub(crate) fn met(key: &[u8; 32], additional: &[u8], text: &[u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(additional.len() as u64).to_le_bytes()).update(additional).update(text);
    let what = hasher.finalize();
    let before = MET.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().insert(*key, what);
    assert!(before.is_none_or(|before| before == what), "one (key, nonce) has sealed two texts");
}

/// Keys that have sealed something so far.
pub(crate) fn keys() -> usize {
    MET.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, HashMap::len)
}
