//! Which of the parent's bytes are stored again although they are there: those in segments that are little used.
//!
//! Every few versions the writer looks at how much of each segment the parent uses. Where a restore would decode much
//! more than it gives back, the emptiest segments are left ([`SegmentUse`]): what the parent has from them is not copied
//! but becomes literal bytes of the new version, in segments that are all used.

use crate::recipe::run::Run;
use crate::repository::error::Result;
use crate::repository::segment_use::SegmentUse;
use crate::repository::session::BackupSession;
use crate::repository::stream_reader::StreamReader;

/// At most one part in this of the stream is stored again at a time.
const AGAIN_SHARE: u64 = 8;
/// Parts of the parent closer than this are stored again with what is between them: a copy costs more than its bytes.
const GAP_BYTES: u64 = 20;

/// Raw bytes of a segment when bytes are stored again. Larger ones take less space (512 KiB: 5 %), but a reader needs one
/// of every version that stored something again at any place of the stream, and cannot keep so many.
pub(super) const AGAIN_SEGMENT_BYTES: usize = 128 << 10;

/// When and how much is stored again.
#[derive(Debug, Clone, Copy)]
pub struct AgainSettings {
    /// Versions from one look to the next.
    pub every: u32,
    /// Percent of the stream's length that a restore may decode after a look.
    pub decoded_percent_max: u64,
}

impl Default for AgainSettings {
    /// For a bound of 130 percent at any time: the hourly dumps measured come to need a quarter percent more with each
    /// version. Looks are frequent because the longer a segment waits, the less of it is left to be stored again.
    fn default() -> Self {
        Self { every: 4, decoded_percent_max: 128 }
    }
}

/// What is to be stored again.
#[derive(Debug, Default)]
pub(super) enum StoredAgain {
    /// Nothing.
    #[default]
    Nothing,
    /// To be found out before the parent is read.
    Due(AgainSettings),
    /// The segments that are left.
    Left(SegmentUse),
}

impl StoredAgain {
    /// There is something.
    pub(super) fn is_any(&self) -> bool {
        matches!(self, Self::Left(_))
    }

    /// Looks at the parent, if that is due.
    pub(super) fn prepare(&mut self, session: &BackupSession, reader: &mut StreamReader) -> Result<()> {
        let Self::Due(settings) = *self else { return Ok(()) };
        *self = Self::Nothing;
        let plain_bytes = reader.plain_bytes();
        let Some(mut used) = SegmentUse::of(&session.index, &session.reader, reader)? else { return Ok(()) };
        if used.leave(plain_bytes / 100 * settings.decoded_percent_max, plain_bytes / AGAIN_SHARE) > 0 {
            *self = Self::Left(used);
        }
        Ok(())
    }

    /// Notes the parts of a run of the parent that are to be stored again.
    pub(super) fn note(&mut self, run: &Run, parts: &mut Vec<(u64, u64)>) {
        let Self::Left(used) = self else { return };
        used.each_left(run, |from, to| match parts.last_mut() {
            Some(last) if from >= last.0 && from <= last.1 + GAP_BYTES => last.1 = last.1.max(to),
            _ => parts.push((from, to)),
        });
    }
}

/// Cuts a copy of the parent's `[src, src + len)` at the parts to be stored again, which are sorted. Hands out (offset in
/// the copy, length, whether it is stored again).
pub(super) fn cut_copy(src: u64, len: usize, parts: &[(u64, u64)], mut each: impl FnMut(usize, usize, bool)) {
    let end = src + len as u64;
    let inside = |offset: u64| usize::try_from(offset - src).unwrap_or(usize::MAX).min(len);
    let mut at = src;
    let first = parts.partition_point(|p| p.1 <= src);
    for &(from, to) in parts.get(first..).unwrap_or_default().iter().take_while(|p| p.0 < end) {
        let (from, to) = (from.max(at), to.min(end));
        if from > at {
            each(inside(at), inside(from) - inside(at), false);
        }
        each(inside(from), inside(to) - inside(from), true);
        at = to;
    }
    if at < end {
        each(inside(at), inside(end) - inside(at), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_cut_without_a_gap() {
        let cut = |src, len, parts: &[(u64, u64)]| {
            let mut all = Vec::new();
            cut_copy(src, len, parts, |at, len, again| all.push((at, len, again)));
            all
        };
        assert_eq!(cut(100, 50, &[]), [(0, 50, false)]);
        assert_eq!(cut(100, 50, &[(0, 100), (150, 160)]), [(0, 50, false)]);
        assert_eq!(
            cut(100, 50, &[(90, 110), (120, 130), (145, 170)]),
            [(0, 10, true), (10, 10, false), (20, 10, true), (30, 15, false), (45, 5, true)]
        );
        assert_eq!(cut(100, 50, &[(0, 1000)]), [(0, 50, true)]);
    }
}
