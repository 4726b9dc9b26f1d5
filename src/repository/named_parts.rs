//! Which parts of a literal space records name, and which of these only one run names.

use crate::recipe::run::{Intervals, intersect, normalize, subtract};

/// Parts noted before they are joined.
const PENDING_MAX: usize = 1 << 14;

/// What records name of one literal space.
#[derive(Debug, Default)]
pub struct NamedParts {
    /// What runs name that may have it elsewhere.
    movable: Intervals,
    /// What must stay at its address, because a record that stays names it, or more than one run.
    fixed: Intervals,
    pending: Intervals,
    pending_fixed: Intervals,
}

impl NamedParts {
    /// Notes a part that must stay at its address.
    pub fn add_fixed(&mut self, start: u64, end: u64) {
        match self.pending_fixed.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.pending_fixed.push((start, end)),
        }
        self.settle_when_many();
    }

    /// Notes a part that a run names which could name another place. It must stay all the same if any other run names it.
    pub fn add_movable(&mut self, start: u64, end: u64) {
        self.pending.push((start, end));
        self.settle_when_many();
    }

    fn settle_when_many(&mut self) {
        let waiting = self.pending.len() + self.pending_fixed.len();
        if waiting >= PENDING_MAX.max(self.movable.len() + self.fixed.len()) {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let mut fixed = std::mem::take(&mut self.pending_fixed);
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_unstable();
        let mut reached = 0;
        for &(start, end) in &pending {
            if start < reached {
                fixed.push((start, end.min(reached)));
            }
            reached = reached.max(end);
        }
        normalize(&mut pending, 0);
        fixed.extend(intersect(&self.movable, &pending));
        self.movable.extend(pending);
        normalize(&mut self.movable, 0);
        self.fixed.extend(fixed);
        normalize(&mut self.fixed, 0);
    }

    /// The parts that stay, and those that one run alone names and that may move. Both ascending and apart.
    pub fn into_fixed_and_movable(mut self) -> (Intervals, Intervals) {
        self.settle();
        let movable = subtract(&self.movable, &self.fixed);
        (self.fixed, movable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// By definition, byte by byte: what stays is named as fixed or twice, what may move is named once and not as fixed.
        #[test]
        fn a_byte_may_move_if_one_run_alone_names_it(
            parts in prop::collection::vec((any::<bool>(), 0u64..200, 1u64..40), 0..30), settled in prop::collection::vec(any::<bool>(), 30),
        ) {
            let (mut named, mut fixed, mut movable) = (NamedParts::default(), [0; 240], [0; 240]);
            for ((is_fixed, start, len), settle) in parts.into_iter().zip(settled) {
                let counts = if is_fixed { &mut fixed } else { &mut movable };
                (start..start + len).for_each(|at| counts[at as usize] += 1);
                if is_fixed { named.add_fixed(start, start + len) } else { named.add_movable(start, start + len) }
                if settle {
                    named.settle();
                }
            }
            let (stays, moves) = named.into_fixed_and_movable();
            for list in [&stays, &moves] {
                prop_assert!(list.windows(2).all(|w| w[0].1 <= w[1].0) && list.iter().all(|p| p.0 < p.1));
            }
            let holds = |list: &Intervals, at: u64| list.iter().any(|p| p.0 <= at && at < p.1);
            for at in 0..240u64 {
                let (f, m) = (fixed[at as usize], movable[at as usize]);
                prop_assert_eq!(holds(&stays, at), f > 0 || m > 1, "{}", at);
                prop_assert_eq!(holds(&moves, at), f == 0 && m == 1, "{}", at);
            }
        }
    }
}
