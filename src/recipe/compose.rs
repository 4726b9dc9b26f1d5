//! Composition: a chain of edits becomes one flat recipe.
//!
//! Level 0 is the version that is read, the last level is a record without parent. Every level maps its stream to
//! literal spaces and to the stream of the next level. A window of level 0 is followed down the chain as a set of
//! intervals, so that only the runs it needs are looked at; then neighbouring levels are composed, the smallest first,
//! which copies each run about log2(depth) times instead of depth times, and the many runs of a full recipe below all
//! edits only once.

use super::run::{Intervals, PARENT, Run, normalize, push, skip_before};

/// Copies of the parent that lie closer than this are followed as one interval. Rows that moved lead everywhere: with
/// 32 KiB a window of 4 MiB over 83 edits looked at most of the stream, in 15 MB of runs.
const COVER_GAP_BYTES: u64 = 1 << 10;

/// A record that does not cover the bytes that another one says it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Level {level} of the recipe does not reach offset {offset}")]
pub struct Uncovered {
    /// Distance from the version being read.
    pub level: usize,
    /// The offset that is missing.
    pub offset: u64,
}

/// Maps every parent run of `upper` through `lower`. Both are sorted by `dst`; the result is too.
///
/// # Errors
/// The offset that `lower` does not cover.
pub fn compose(upper: &[Run], lower: &[Run]) -> Result<Vec<Run>, u64> {
    let mut out = Vec::with_capacity(upper.len() + lower.len().min(upper.len() * 4));
    // where the last copy ended, and where the one before a jump did: rows that moved lead away and back again
    let (mut at, mut left) = (0usize, 0usize);
    let mut places = Places::default();
    for run in upper {
        if run.space != PARENT {
            push(&mut out, run.dst, run.space, run.src, u64::from(run.len));
            continue;
        }
        let (start, end) = (run.src, run.src_end());
        if !is_near(lower, at, start) {
            let back = std::mem::replace(&mut left, at);
            at = if is_near(lower, back, start) { back } else { places.seek(lower, at, start) };
        }
        at = skip_before(lower, at, start);
        let Some(first) = lower.get(at).filter(|l| l.dst <= start) else { return Err(start) };
        let skip = start - first.dst;
        let mut reached = first.dst_end().min(end);
        push(&mut out, run.dst, first.space, first.src + skip, reached - start);
        if reached == end {
            continue;
        }
        // runs of `lower` are joined already, so those between its first and last one are taken over as they are; going
        // through them one by one costs less than a search that guesses wrong at every step
        let (mut past, mut in_order) = (at + 1, true);
        for low in lower.get(past..).unwrap_or_default() {
            if low.dst_end() > end {
                break;
            }
            in_order &= low.dst == reached;
            reached = low.dst_end();
            past += 1;
        }
        let inner = lower.get(at + 1..past).unwrap_or_default();
        if !in_order {
            return Err(hole(inner, first.dst_end()));
        }
        let shift = run.dst.wrapping_sub(start);
        out.extend(inner.iter().map(|low| Run { dst: low.dst.wrapping_add(shift), ..*low }));
        at = past;
        if reached < end {
            let Some(last) = lower.get(past).filter(|low| low.dst == reached) else { return Err(reached) };
            out.push(Run { dst: last.dst.wrapping_add(shift), len: length(end - reached), ..*last });
        }
    }
    Ok(out)
}

/// The first offset from `reached` on that `runs` do not cover.
fn hole(runs: &[Run], mut reached: u64) -> u64 {
    for run in runs {
        if run.dst != reached {
            break;
        }
        reached = run.dst_end();
    }
    reached
}

/// A part of a run is not longer than the run.
fn length(part: u64) -> u32 {
    u32::try_from(part).unwrap_or(u32::MAX)
}

/// Whether a few steps from `hint` lead to the run that holds `pos`.
fn is_near(runs: &[Run], hint: usize, pos: u64) -> bool {
    runs.get(hint).is_some_and(|r| r.dst <= pos) && runs.get(hint + 4).is_none_or(|r| r.dst > pos)
}

/// Finds runs far from the last one. A search in many runs costs a cache miss for each of its steps, so after some of
/// them the stream is cut into equal parts, and where the runs of each begin is written down.
#[derive(Default)]
struct Places {
    seeks: usize,
    /// Length of a part as a power of two.
    shift: u32,
    /// For each part, the first run that ends after its beginning.
    starts: Vec<u32>,
}

impl Places {
    /// Runs for each search before which the parts are not worth their making.
    const RUNS_PER_SEEK: usize = 32;

    /// Index of the first run that ends after `pos`.
    fn seek(&mut self, runs: &[Run], hint: usize, pos: u64) -> usize {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return 0 };
        self.seeks += 1;
        if self.starts.is_empty() {
            if self.seeks * Self::RUNS_PER_SEEK < runs.len() {
                return seek(runs, hint, pos);
            }
            self.note(runs, first.dst, last.dst_end());
        }
        let part = usize::try_from(pos.saturating_sub(first.dst) >> self.shift).unwrap_or(usize::MAX);
        let Some(&low) = self.starts.get(part) else { return runs.len() };
        let high = self.starts.get(part + 1).map_or(runs.len(), |&next| next as usize + 1).min(runs.len());
        let low = low as usize;
        low + runs.get(low..high).map_or(0, |near| near.partition_point(|r| r.dst_end() <= pos))
    }

    fn note(&mut self, runs: &[Run], start: u64, end: u64) {
        let parts = (runs.len() as u64).max(1);
        self.shift = (end - start).div_ceil(parts).max(1).next_power_of_two().ilog2();
        self.starts.reserve_exact(usize::try_from((end - start) >> self.shift).unwrap_or(0) + 1);
        for (run, n) in runs.iter().zip(0u32..) {
            while start + ((self.starts.len() as u64) << self.shift) < run.dst_end() {
                self.starts.push(n);
            }
        }
    }
}

/// Index of the first run that ends after `pos`, looked for near `hint` first: parents are mostly copied in order, and
/// where they are not, from nearby.
fn seek(runs: &[Run], hint: usize, pos: u64) -> usize {
    let mut low = hint.min(runs.len());
    let mut step = 1;
    while runs.get(low).is_none_or(|r| r.dst > pos) && low > 0 {
        low = low.saturating_sub(step);
        step *= 2;
    }
    skip_before(runs, low, pos)
}

/// Composes all levels, the newest first, and gives their memory back on the way.
fn compose_all(levels: Vec<Vec<Run>>) -> Result<Vec<Run>, Uncovered> {
    let mut parts: Vec<(usize, Vec<Run>)> = levels.into_iter().enumerate().collect();
    while parts.len() > 1 {
        let sizes = parts.windows(2).map(|pair| pair.iter().map(|(_, runs)| runs.len()).sum::<usize>());
        let smallest = sizes.enumerate().min_by_key(|(_, size)| *size).map_or(0, |(at, _)| at);
        let (level, lower) = parts.remove(smallest + 1);
        if let Some((_, upper)) = parts.get_mut(smallest) {
            *upper = compose(upper, &lower).map_err(|offset| Uncovered { level, offset })?;
        }
    }
    Ok(parts.pop().map(|(_, runs)| runs).unwrap_or_default())
}

/// The flat recipe of `[start, end)` of the newest level.
///
/// `fetch(level, cover, runs)` appends the runs of a level inside the intervals of `cover`, cut to them and sorted by
/// `dst` (see [`super::run::clip`]). The chain ends where no run refers to a parent.
///
/// # Errors
/// Whatever `fetch` returns; [`Uncovered`] when records do not fit together.
pub fn flatten<E: From<Uncovered>>(
    start: u64,
    end: u64,
    fetch: impl FnMut(usize, &[(u64, u64)], &mut Vec<Run>) -> Result<(), E>,
) -> Result<Vec<Run>, E> {
    flatten_levels(start, end, usize::MAX, fetch)
}

/// Like [`flatten`], but stops after `levels_max` levels: copies of what lies below stay copies, and the stream that
/// they copy from is the parent of the last level.
///
/// # Errors
/// As [`flatten`].
pub fn flatten_levels<E: From<Uncovered>>(
    start: u64,
    end: u64,
    levels_max: usize,
    mut fetch: impl FnMut(usize, &[(u64, u64)], &mut Vec<Run>) -> Result<(), E>,
) -> Result<Vec<Run>, E> {
    let mut levels: Vec<Vec<Run>> = Vec::new();
    let mut cover: Intervals = vec![(start, end)];
    while !cover.is_empty() && levels.len() < levels_max {
        let mut runs = Vec::new();
        fetch(levels.len(), &cover, &mut runs)?;
        cover = runs.iter().filter(|r| r.space == PARENT).map(|r| (r.src, r.src_end())).collect();
        normalize(&mut cover, COVER_GAP_BYTES);
        levels.push(runs);
    }
    let mut flat = compose_all(levels)?;
    flat.shrink_to_fit();
    let mut reached = start;
    for run in &flat {
        if run.dst != reached {
            break;
        }
        reached = run.dst_end();
    }
    if reached != end {
        return Err(Uncovered { level: 0, offset: reached }.into());
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::run::clip;
    use proptest::prelude::*;

    /// A stream as explicit (space, offset) pairs, one for each byte: the slow truth.
    type Bytes = Vec<(u32, u64)>;

    fn runs_of(bytes: &Bytes) -> Vec<Run> {
        let mut runs = Vec::new();
        for (i, &(space, src)) in bytes.iter().enumerate() {
            push(&mut runs, i as u64, space, src, 1);
        }
        runs
    }

    fn expand(runs: &[Run]) -> Bytes {
        runs.iter().flat_map(|r| (0..u64::from(r.len)).map(move |k| (r.space, r.src + k))).collect()
    }

    /// Random edit scripts: each level is a list of (is_literal, position, length) choices over its parent.
    fn chain() -> impl Strategy<Value = Vec<Vec<(bool, u16, u8)>>> {
        prop::collection::vec(prop::collection::vec((any::<bool>(), any::<u16>(), 1u8..40), 1..30), 1..12)
    }

    proptest! {
        #[test]
        fn flatten_equals_the_slow_truth(script in chain(), a in any::<u16>(), b in any::<u16>()) {
            // levels[0] is the oldest here; the truth is kept beside it
            let mut truth: Bytes = Vec::new();
            let mut levels: Vec<Vec<Run>> = Vec::new();
            for (n, ops) in script.iter().enumerate() {
                let (mut this, mut real, mut lit) = (Bytes::new(), Bytes::new(), 0u64);
                for &(literal, pos, len) in ops {
                    for k in 0..u64::from(len) {
                        if literal || truth.is_empty() {
                            this.push((n as u32, lit));
                            real.push((n as u32, lit));
                            lit += 1;
                        } else {
                            let p = (u64::from(pos) + k) % truth.len() as u64;
                            this.push((PARENT, p));
                            real.push(truth[p as usize]);
                        }
                    }
                }
                levels.push(runs_of(&this));
                truth = real;
            }
            levels.reverse();
            let n = truth.len() as u64;
            let (lo, hi) = (u64::from(a) % n, u64::from(b) % n + 1);
            let (lo, hi) = (lo.min(hi - 1), hi.max(lo + 1));
            let all = &levels;
            let from = |first: usize| {
                move |level: usize, cover: &[(u64, u64)], runs: &mut Vec<Run>| {
                    clip(&all[first + level], cover, runs);
                    Ok(())
                }
            };
            let flat: Vec<Run> = flatten::<Uncovered>(lo, hi, from(0)).unwrap();
            // in two steps over any level between it is the same recipe
            for cut in 1..levels.len() {
                let upper = flatten_levels::<Uncovered>(lo, hi, cut, from(0)).unwrap();
                let whole = levels.get(cut).map_or(0, |l| l.last().map_or(0, Run::dst_end));
                let lower = flatten::<Uncovered>(0, whole, from(cut)).unwrap();
                prop_assert_eq!(expand(&compose(&upper, &lower).unwrap()), expand(&flat));
            }
            prop_assert_eq!(expand(&flat), truth[lo as usize..hi as usize].to_vec());
            prop_assert!(flat.iter().all(|r| r.space != PARENT));
        }
    }

    #[test]
    fn places_are_found_in_any_order() {
        // runs of very different lengths, with holes
        let (mut runs, mut at) = (Vec::new(), 1000u64);
        for n in 0..500u64 {
            let len = if n % 97 == 0 { 100_000 } else { 1 + n % 7 };
            at += n % 3;
            runs.push(Run { dst: at, src: n << 20, len: u32::try_from(len).unwrap(), space: 1 });
            at += len;
        }
        let mut places = Places::default();
        for n in 0..20_000u64 {
            let pos = 1000 + n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (at - 1000);
            assert_eq!(places.seek(&runs, 0, pos), runs.partition_point(|r| r.dst_end() <= pos), "{pos}");
        }
        assert!(!places.starts.is_empty());
        assert_eq!(places.seek(&runs, 0, at), runs.len());
        assert_eq!(places.seek(&runs, 0, u64::MAX), runs.len());
    }

    #[test]
    fn a_hole_in_a_record_is_an_error_not_wrong_bytes() {
        let mut upper = Vec::new();
        push(&mut upper, 0, PARENT, 5, 10);
        let mut lower = Vec::new();
        push(&mut lower, 0, 1, 0, 8);
        push(&mut lower, 9, 1, 9, 20);
        assert_eq!(compose(&upper, &lower), Err(8));
        let all = [upper, lower];
        let result = flatten::<Uncovered>(0, 10, |level, cover, runs| {
            clip(&all[level], cover, runs);
            Ok(())
        });
        assert_eq!(result, Err(Uncovered { level: 1, offset: 8 }));
    }
}
