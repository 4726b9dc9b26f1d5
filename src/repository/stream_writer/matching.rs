//! Finding what the parent has of a window: at the place where it is expected, at hinted places, or anywhere.

use super::{BULK_RUN_BYTES, HINT_SPAN_BYTES, LOST_SHARE, PARENT_AHEAD_BYTES, PARENT_BEHIND_BYTES, StreamWriter};
use crate::recipe::matcher::{Copy, ParentView};
use crate::recipe::parent_map::Anchor;
use crate::repository::error::{RepoError, Result};
use crate::repository::session::BackupSession;

impl StreamWriter {
    /// Matches one piece of the child against the part of the parent where it is expected.
    pub(super) fn encode_piece(
        &mut self,
        session: &mut BackupSession,
        child: &[u8],
        hints: &[(usize, u64)],
        place: Option<(u64, u64)>,
    ) -> Result<()> {
        let (low, high) = match place {
            Some((low, high)) => {
                self.matcher.jump(low);
                let margin = (child.len() as u64 / 2).clamp(64 << 10, 1 << 20);
                (low.saturating_sub(margin), high + margin)
            }
            None => {
                let expected = self.matcher.expected();
                let high = expected + child.len() as u64 + PARENT_AHEAD_BYTES;
                (expected.saturating_sub(PARENT_BEHIND_BYTES), high)
            }
        };
        let mut copies = Vec::new();
        self.match_against(session, child, hints, low, high, &mut copies)?;
        let covered: usize = copies.iter().map(|c| c.len).sum();
        if child.len() >= BULK_RUN_BYTES && (child.len() - covered) * LOST_SHARE > child.len() {
            self.find_again(session, child, &mut copies)?;
        }
        self.emit_window(session, child, &copies)
    }

    fn match_against(
        &mut self,
        session: &mut BackupSession,
        child: &[u8],
        hints: &[(usize, u64)],
        low: u64,
        high: u64,
        copies: &mut Vec<Copy>,
    ) -> Result<()> {
        let Some(parent) = &mut self.parent else { return Ok(()) };
        match parent.load(session, low, high) {
            Ok(()) => {}
            Err(error) if error.is_damage() => return self.go_on_blind(session, &error),
            Err(error) => return Err(error),
        }
        let view = ParentView { start: parent.window.start, bytes: &parent.window.bytes };
        self.matcher.find(child, &view, hints, copies);
        Ok(())
    }

    /// The piece matched badly: looks for its chunks in the whole parent and matches around the places found. Keeps
    /// the result only where it is better.
    fn find_again(&mut self, session: &mut BackupSession, child: &[u8], copies: &mut Vec<Copy>) -> Result<()> {
        let Some(parent) = &mut self.parent else { return Ok(()) };
        let anchors = match parent.map(session) {
            Ok(map) => map.anchors(child),
            Err(error) if error.is_damage() => return self.go_on_blind(session, &error),
            Err(error) => return Err(error),
        };
        let after = self.matcher.expected();
        let mut better: Vec<Copy> = Vec::new();
        let mut from = 0;
        let groups = group_anchors(&anchors);
        for (k, group) in groups.iter().enumerate() {
            let Some(&Anchor { at, parent: place, .. }) = group.first() else { continue };
            let to = groups.get(k + 1).and_then(|g| g.first()).map_or(child.len(), |a| a.at);
            let start = place.saturating_sub((at - from) as u64);
            let part = child.get(from..to).unwrap_or_default();
            self.matcher.jump(start);
            let hints: Vec<(usize, u64)> = group.iter().map(|a| (a.at - from, a.parent)).collect();
            let mut found = Vec::new();
            let end = group.last().map_or(place, |a| a.parent) + (64 << 10);
            let high = end.max(start + part.len() as u64);
            self.match_against(session, part, &hints, start.saturating_sub(64 << 10), high, &mut found)?;
            better.extend(found.iter().map(|c| Copy { at: c.at + from, ..*c }));
            from = to;
        }
        let sum = |c: &[Copy]| c.iter().map(|c| c.len).sum::<usize>();
        if sum(&better) > sum(copies) {
            *copies = better;
        } else {
            // a window of new bytes: the parent continues where it was left
            let stay = after.saturating_sub(child.len() as u64);
            self.matcher.jump(if sum(copies) == 0 { stay } else { after });
        }
        Ok(())
    }

    /// The parent's bytes are damaged here: from now on the stream is stored without looking at it, so that what the
    /// source still has is in the repository again.
    fn go_on_blind(&mut self, session: &BackupSession, error: &RepoError) -> Result<()> {
        session.reader.note_healed(format!("{error}; the rest of the stream is stored anew"));
        self.blind = true;
        Ok(())
    }
}

/// From, to, and the part of the parent where these child bytes are expected.
type Piece = (usize, usize, Option<(u64, u64)>);

/// Parts of a window with the part of the parent where each is expected: (from, to, place). Without hints one part
/// without a place; with hints, neighbours in the child whose places are near each other stay together.
pub(super) fn pieces(child: &[u8], hints: &[(usize, u64)]) -> Vec<Piece> {
    let mut parts: Vec<Piece> = Vec::new();
    let first = hints.first().map_or(child.len(), |h| h.0);
    if first > 0 {
        parts.push((0, first, None));
    }
    for (k, &(at, place)) in hints.iter().enumerate() {
        let to = hints.get(k + 1).map_or(child.len(), |h| h.0);
        let end = place + (to - at) as u64;
        if let Some((_, last_to, Some((low, high)))) = parts.last_mut()
            && place >= *low
            && end.saturating_sub(*low) <= HINT_SPAN_BYTES
        {
            *last_to = to;
            *high = end.max(*high);
            continue;
        }
        if to > at {
            parts.push((at, to, Some((place, end))));
        }
    }
    parts
}

/// Anchors that follow each other at about the same distance.
fn group_anchors(anchors: &[Anchor]) -> Vec<Vec<Anchor>> {
    let mut groups: Vec<Vec<Anchor>> = Vec::new();
    for anchor in anchors {
        if let Some(group) = groups.last_mut()
            && let Some(last) = group.last()
            && anchor.parent >= last.parent
            && (anchor.parent - last.parent).abs_diff((anchor.at - last.at) as u64) < 256 << 10
        {
            group.push(*anchor);
        } else {
            groups.push(vec![*anchor]);
        }
    }
    groups
}
