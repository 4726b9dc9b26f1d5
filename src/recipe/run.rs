//! Runs: the pieces a stream is made of.

/// In [`Run::space`]: the bytes come from the parent stream.
pub const PARENT: u32 = u32::MAX;

/// Longest run, bytes. Longer ones are cut, so that lengths fit 32 bits.
pub const RUN_BYTES_MAX: u32 = 1 << 30;

/// `len` bytes of a stream at `dst`, found at `src` of a literal space, or of the parent stream ([`PARENT`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Offset in the stream being described.
    pub dst: u64,
    /// Offset in the space.
    pub src: u64,
    /// Length, 1 to [`RUN_BYTES_MAX`].
    pub len: u32,
    /// Which space; the numbering belongs to whoever holds the runs.
    pub space: u32,
}

impl Run {
    /// First offset after the run in its stream.
    pub fn dst_end(&self) -> u64 {
        self.dst + u64::from(self.len)
    }

    /// First offset after the run in its space.
    pub fn src_end(&self) -> u64 {
        self.src + u64::from(self.len)
    }
}

/// Appends a piece of any length, joining it to the last run where both continue.
pub fn push(runs: &mut Vec<Run>, dst: u64, space: u32, src: u64, len: u64) {
    let (mut dst, mut src, mut left) = (dst, src, len);
    if let Some(last) = runs.last_mut()
        && last.space == space
        && last.dst_end() == dst
        && last.src_end() == src
    {
        let take = left.min(u64::from(RUN_BYTES_MAX - last.len));
        last.len += u32_of(take);
        dst += take;
        src += take;
        left -= take;
    }
    while left > 0 {
        let take = left.min(u64::from(RUN_BYTES_MAX));
        runs.push(Run { dst, src, len: u32_of(take), space });
        dst += take;
        src += take;
        left -= take;
    }
}

/// `value` is bounded by [`RUN_BYTES_MAX`] at every call.
fn u32_of(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Half-open intervals `[start, end)`, sorted and apart.
pub type Intervals = Vec<(u64, u64)>;

/// Sorts intervals and joins those that touch or lie within `gap` bytes of each other.
pub fn normalize(intervals: &mut Intervals, gap: u64) {
    if !intervals.is_sorted() {
        intervals.sort_unstable();
    }
    intervals.dedup_by(|next, kept| {
        if next.0 <= kept.1.saturating_add(gap) {
            kept.1 = kept.1.max(next.1);
            true
        } else {
            false
        }
    });
}

/// What two lists of intervals have in common. Both are sorted and apart.
pub fn intersect(left: &[(u64, u64)], right: &[(u64, u64)]) -> Intervals {
    let (mut out, mut rest) = (Intervals::new(), right);
    for &(start, end) in left {
        rest = rest.get(rest.partition_point(|r| r.1 <= start)..).unwrap_or_default();
        out.extend(rest.iter().take_while(|r| r.0 < end).map(|r| (r.0.max(start), r.1.min(end))));
    }
    out
}

/// What is left of `from` without `gone`. Both are sorted and apart.
pub fn subtract(from: &[(u64, u64)], gone: &[(u64, u64)]) -> Intervals {
    let (mut out, mut rest) = (Intervals::new(), gone);
    for &(start, end) in from {
        let mut at = start;
        rest = rest.get(rest.partition_point(|r| r.1 <= start)..).unwrap_or_default();
        for &(low, high) in rest.iter().take_while(|r| r.0 < end) {
            if low > at {
                out.push((at, low));
            }
            at = at.max(high);
        }
        if at < end {
            out.push((at, end));
        }
    }
    out
}

/// The parts of `runs` (sorted by `dst`) that lie inside `cover` (sorted, apart), cut to fit.
pub fn clip(runs: &[Run], cover: &[(u64, u64)], out: &mut Vec<Run>) {
    let mut at = 0;
    for &(start, end) in cover {
        at = skip_before(runs, at, start);
        let Some(first) = runs.get(at).filter(|r| r.dst < end) else { continue };
        let (from, to) = (first.dst.max(start), first.dst_end().min(end));
        push(out, from, first.space, first.src + (from - first.dst), to - from);
        if first.dst_end() > end {
            continue;
        }
        // the rest is joined already
        let after = skip_before(runs, at + 1, end);
        out.extend_from_slice(runs.get(at + 1..after).unwrap_or_default());
        at = after;
        if let Some(last) = runs.get(at).filter(|r| r.dst < end) {
            out.push(Run { len: u32_of(end - last.dst), ..*last });
        }
    }
}

/// Index of the first run from `at` on that ends after `pos`: a few steps one by one, as most searches are for the next
/// runs, then doubling ones.
#[inline]
pub(super) fn skip_before(runs: &[Run], at: usize, pos: u64) -> usize {
    for (steps, run) in runs.get(at..).unwrap_or_default().iter().enumerate() {
        if run.dst_end() > pos {
            return at + steps;
        }
        if steps == 3 {
            return leap_before(runs, at + 4, pos);
        }
    }
    runs.len()
}

/// The same with doubling steps and a binary search in the last of them.
fn leap_before(runs: &[Run], at: usize, pos: u64) -> usize {
    let (mut low, mut high, mut step) = (at, runs.len(), 4);
    while let Some(run) = runs.get(low + step) {
        if run.dst_end() > pos {
            high = low + step;
            break;
        }
        low += step + 1;
        step *= 2;
    }
    let low = low.min(high);
    low + runs.get(low..high).map_or(0, |part| part.partition_point(|r| r.dst_end() <= pos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_joins_and_cuts() {
        let mut runs = Vec::new();
        push(&mut runs, 0, 1, 100, 10);
        push(&mut runs, 10, 1, 110, 5);
        push(&mut runs, 15, 2, 0, 5);
        push(&mut runs, 20, 2, 6, 5);
        assert_eq!(runs.len(), 3);
        assert_eq!(runs[0], Run { dst: 0, src: 100, len: 15, space: 1 });
        let mut long = Vec::new();
        push(&mut long, 0, PARENT, 7, 5 << 30);
        assert_eq!(long.len(), 5);
        assert_eq!(long.iter().map(|r| u64::from(r.len)).sum::<u64>(), 5 << 30);
        assert_eq!(long[4].src, 7 + (4 << 30));
    }

    #[test]
    fn clip_cuts_runs_to_the_cover() {
        let mut runs = Vec::new();
        push(&mut runs, 0, 1, 0, 10);
        push(&mut runs, 10, 2, 50, 10);
        push(&mut runs, 20, 1, 90, 10);
        let mut out = Vec::new();
        clip(&runs, &[(2, 4), (8, 12), (29, 40)], &mut out);
        assert_eq!(
            out,
            vec![
                Run { dst: 2, src: 2, len: 2, space: 1 },
                Run { dst: 8, src: 8, len: 2, space: 1 },
                Run { dst: 10, src: 50, len: 2, space: 2 },
                Run { dst: 29, src: 99, len: 1, space: 1 },
            ]
        );
    }

    #[test]
    fn skipping_finds_what_counting_finds() {
        let mut runs = Vec::new();
        (0..100u64).for_each(|n| runs.push(Run { dst: n * 10, src: n * 30, len: 10, space: 1 }));
        for at in 0..=100usize {
            for pos in 0..1010 {
                let slow = (at..100).find(|n| runs[*n].dst_end() > pos).unwrap_or(100);
                assert_eq!(skip_before(&runs, at, pos), slow, "from {at} to {pos}");
            }
        }
    }

    #[test]
    fn normalize_joins_near_intervals() {
        let mut v = vec![(10, 20), (0, 5), (7, 9), (30, 31)];
        normalize(&mut v, 1);
        assert_eq!(v, vec![(0, 5), (7, 20), (30, 31)]);
    }
}
