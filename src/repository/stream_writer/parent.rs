//! The parent of the version being written: a window of its bytes, and a map of all of it when the place is lost.

use super::WINDOW_BYTES;
use super::stored_again::StoredAgain;
use crate::recipe::parent_map::ParentMap;
use crate::repository::error::Result;
use crate::repository::session::BackupSession;
use crate::repository::stream_reader::StreamReader;

/// A part of the parent stream in memory.
#[derive(Debug, Default)]
pub(super) struct ParentWindow {
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
    /// What of these bytes is to be stored again, sorted.
    pub(super) again: Vec<(u64, u64)>,
}

/// The parent of the version being written.
pub(super) struct Parent {
    pub(super) reader: StreamReader,
    pub(super) window: ParentWindow,
    pub(super) map: Option<ParentMap>,
    pub(super) again: StoredAgain,
}

impl Parent {
    /// Brings `[low, high)` of the parent stream into the window.
    pub(super) fn load(&mut self, session: &BackupSession, low: u64, high: u64) -> Result<()> {
        self.again.prepare(session, &mut self.reader)?;
        let high = high.min(self.reader.plain_bytes());
        let low = low.min(high);
        let end = self.window.start + self.window.bytes.len() as u64;
        if low >= self.window.start && low <= end {
            let drop = usize::try_from(low - self.window.start).unwrap_or(0);
            // moving the bytes down costs a copy: only when it frees much
            if drop > WINDOW_BYTES / 2 || high > end {
                self.window.bytes.drain(..drop);
                self.window.start = low;
                self.window.again.retain(|part| part.1 > low);
            }
        } else {
            self.window.bytes.clear();
            self.window.again.clear();
            self.window.start = low;
        }
        let from = self.window.start + self.window.bytes.len() as u64;
        if high > from {
            self.window.bytes.reserve_exact(usize::try_from(high - from).unwrap_or(0));
            let Self { reader, window, again, .. } = self;
            let mut note = |run| again.note(&run, &mut window.again);
            reader.read_runs(&session.index, &session.reader, from, high, &mut window.bytes, &mut note)?;
        }
        Ok(())
    }

    /// Gives back the memory of the parent's bytes, once only its recipe is still asked for.
    pub(super) fn let_go(&mut self) {
        self.window = ParentWindow::default();
        self.map = None;
        self.reader.let_go();
    }

    /// The map of the whole parent, made on first use.
    pub(super) fn map(&mut self, session: &BackupSession) -> Result<&ParentMap> {
        if self.map.is_none() {
            let mut map = ParentMap::default();
            let (mut at, total) = (0, self.reader.plain_bytes());
            let mut buffer = Vec::new();
            while at < total {
                let to = (at + WINDOW_BYTES as u64).min(total);
                buffer.clear();
                self.reader.read(&session.index, &session.reader, at, to, &mut buffer)?;
                map.feed(&buffer);
                at = to;
            }
            map.seal();
            self.map = Some(map);
        }
        Ok(self.map.get_or_insert_default())
    }
}
