//! Packs that could not be read as they were written, and what their parity made of them, for the readers of a run.

use super::error::Result;
use super::parity::{self, Healing};
use crate::domain::id::PackId;
use crate::storage::ReadStore;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Whole packs kept in memory.
const KEPT: usize = 2;

/// Makes packs whole, each once. Shared by threads; others wait while one works.
#[derive(Debug, Default)]
pub(super) struct MadeWhole(Mutex<Made>);

#[derive(Debug, Default)]
struct Made {
    /// The newest last.
    packs: Vec<(PackId, Arc<Vec<u8>>)>,
    /// Packs that cannot be made whole.
    hopeless: HashSet<PackId>,
}

impl MadeWhole {
    /// A pack as it was written; `None` when its parity cannot make it again, or there is none.
    ///
    /// # Errors
    /// Storage errors that do not concern this pack alone.
    pub(super) fn get(&self, store: &dyn ReadStore, pack: PackId, stored_bytes: u64) -> Result<Option<Arc<Vec<u8>>>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, whole)) = made.packs.iter().find(|(id, _)| *id == pack) {
            return Ok(Some(Arc::clone(whole)));
        }
        if made.hopeless.contains(&pack) {
            return Ok(None);
        }
        let Healing::Healed(whole) = parity::heal(store, pack, stored_bytes)? else {
            made.hopeless.insert(pack);
            return Ok(None);
        };
        let whole = Arc::new(whole);
        if made.packs.len() >= KEPT {
            made.packs.remove(0);
        }
        made.packs.push((pack, Arc::clone(&whole)));
        Ok(Some(whole))
    }
}
