//! What is suspect, by example and by law. Each law fails when its line is taken out of `review` or `compare`.

use super::*;
use proptest::prelude::*;

fn measure(plain_bytes: u64) -> Measure<'static> {
    Measure { kind: SourceKind::Stdin, location: "", plain_bytes, entries: None, tables: BTreeMap::new(), sample: None }
}

fn good(measure: Measure<'_>) -> Past<'_> {
    Past { measure, standing: Standing::Good }
}

fn suspect(measure: Measure<'_>) -> Past<'_> {
    Past { measure, standing: Standing::Suspect }
}

fn accepted(measure: Measure<'_>) -> Past<'_> {
    Past { measure, standing: Standing::Accepted }
}

fn of_bytes(past: &[u64]) -> Vec<Past<'static>> {
    past.iter().map(|bytes| good(measure(*bytes))).collect()
}

fn codes(review: &Review) -> Vec<&'static str> {
    review.findings.iter().map(Finding::code).collect()
}

fn judged(now: u64, past: &[u64]) -> Vec<&'static str> {
    codes(&review(&measure(now), &of_bytes(past), None))
}

#[test]
fn sizes_are_compared_with_the_median_of_the_last_five() {
    let past = [100_000, 90_000, 110_000, 1, 5_000_000];
    assert_eq!(judged(50_000, &past), [""; 0]);
    assert_eq!(judged(49_999, &past), ["suspect.smaller"]);
    assert_eq!(judged(300_000, &past), [""; 0]);
    assert_eq!(judged(300_001, &past), ["suspect.larger"]);
    assert_eq!(judged(0, &past), ["suspect.empty"]);
    // The sixth does not count any more.
    assert_eq!(judged(50_000, &[100_000, 100_000, 100_000, 100_000, 100_000, 9_000_000]), [""; 0]);
    // A few lines say nothing; no data at all does.
    assert_eq!(judged(10, &[1000, 1000]), [""; 0]);
    assert_eq!(judged(0, &[10, 10]), ["suspect.empty"]);
    assert_eq!(judged(0, &[0, 0]), [""; 0]);
    assert_eq!(judged(u64::MAX, &[u64::MAX, u64::MAX]), [""; 0]);
}

#[test]
fn with_fewer_than_two_good_ones_there_is_nothing_to_compare() {
    assert_eq!(judged(0, &[]), [""; 0]);
    assert_eq!(judged(1, &[1_000_000]), [""; 0]);
    assert_eq!(judged(1, &[1_000_000, 1_000_000]), ["suspect.smaller"]);
    let mut past = of_bytes(&[1_000_000, 1_000_000]);
    past[0].standing = Standing::Suspect;
    assert_eq!(codes(&review(&measure(1), &past, None)), [""; 0], "a suspect is no measure");
    past[0].standing = Standing::Accepted;
    assert_eq!(codes(&review(&measure(1), &past[..1], None)), ["suspect.smaller"], "an accepted one is, alone");
}

#[test]
fn the_least_size_of_the_configuration_needs_no_history() {
    let found = review(&measure(9_999), &[], Some(10_000));
    assert_eq!(codes(&found), ["suspect.min_size"]);
    assert!(review(&measure(10_000), &[], Some(10_000)).findings.is_empty());
}

#[test]
fn files_count_by_bytes_and_by_number() {
    let files = |plain_bytes, entries, location| Measure {
        kind: SourceKind::Files,
        location,
        entries: Some(entries),
        ..measure(plain_bytes)
    };
    let past = [good(files(1 << 20, 100, "/srv")), good(files(1 << 20, 100, "/srv"))];
    assert_eq!(codes(&review(&files(1 << 20, 49, "/srv"), &past, None)), ["suspect.fewer_files"]);
    assert_eq!(codes(&review(&files(1 << 20, 301, "/srv"), &past, None)), ["suspect.more_files"]);
    assert_eq!(codes(&review(&files(1000, 4, "/srv"), &past, None)), ["suspect.smaller", "suspect.fewer_files"]);
    assert!(review(&files(0, 1, "/etc"), &past, None).findings.is_empty(), "files of other paths are another thing");
    assert!(review(&measure(0), &past, None).findings.is_empty(), "another kind is another thing");
}

#[test]
fn rows_that_collapse_and_tables_that_vanish_are_named() {
    let with =
        |tables: &[(&'static str, u64)]| Measure { tables: tables.iter().copied().collect(), ..measure(1 << 20) };
    let before = with(&[("big", 1000), ("small", 99), ("steady", 500)]);
    let past = [good(before.clone()), good(before)];
    let now = review(&with(&[("big", 499), ("steady", 250), ("new", 1)]), &past, None);
    assert_eq!(codes(&now), ["suspect.rows"]);
    assert_eq!(now.findings[0].table(), Some("big"));
    assert_eq!(now.findings[0].to_string(), "499 rows in table big, 49 % of the 1,000 before");
    let gone = review(&with(&[("steady", 500)]), &past, None);
    assert_eq!(codes(&gone), ["suspect.table"]);
    assert_eq!(gone.findings[0].to_string(), "no table big, which had 1,000 rows");
}

fn sample(saved_percent: u64) -> Sample {
    Sample { sampled_bytes: 100_000, saved_bytes: saved_percent * 1000, ..Sample::default() }
}

#[test]
fn a_stream_that_cannot_be_compressed_any_more_is_suspect() {
    let (soft, hard, between) = (sample(70), sample(1), sample(12));
    let with = |sample| Measure { sample: Some(sample), ..measure(1 << 20) };
    let past = [good(with(&soft)), good(measure(1 << 20)), good(with(&soft))];
    assert_eq!(codes(&review(&with(&hard), &past, None)), ["suspect.incompressible"]);
    assert!(review(&with(&between), &past, None).findings.is_empty());
    // What never could be compressed, and what is too short to tell, says nothing.
    let media = [good(with(&between)), good(with(&between))];
    assert!(review(&with(&hard), &media, None).findings.is_empty());
    let short = Sample { sampled_bytes: 4000, saved_bytes: 0, ..Sample::default() };
    assert!(review(&with(&short), &past, None).findings.is_empty());
}

#[test]
fn many_changed_files_that_became_incompressible_are_suspect_until_they_come_back() {
    fn files(sample: Option<&Sample>) -> Measure<'_> {
        Measure { kind: SourceKind::Files, entries: Some(500), sample, ..measure(1 << 20) }
    }
    let past = [good(files(None)), good(files(None))];
    let seen = |hardened_files, changed_files| Sample { hardened_files, changed_files, ..Sample::default() };
    let judged = |sample: &Sample| codes(&review(&files(Some(sample)), &past, None));
    assert_eq!(judged(&seen(10, 20)), ["suspect.files_incompressible"]);
    assert_eq!(judged(&seen(10, 21)), [""; 0]);
    assert_eq!(judged(&seen(9, 9)), [""; 0]);
    // The next run finds nothing changed, and the files are still as they were left.
    let mut next = seen(0, 0);
    next.carry(&seen(10, 20), 0);
    assert_eq!(judged(&next), ["suspect.files_incompressible"]);
    // They come back.
    let mut next = seen(0, 10);
    next.carry(&seen(10, 20), 10);
    assert_eq!(judged(&next), [""; 0]);
}

#[test]
fn three_suspects_that_are_alike_are_a_new_normal() {
    let past = |bytes: &[u64]| -> Vec<Past<'static>> {
        let suspects = bytes.iter().map(|bytes| suspect(measure(*bytes)));
        suspects.chain(of_bytes(&[1_000_000, 1_000_000])).collect()
    };
    let is_new = |now: u64, suspects: &[u64]| review(&measure(now), &past(suspects), None).is_new_normal;
    assert!(!is_new(100_000, &[]));
    assert!(!is_new(100_000, &[100_000]));
    assert!(is_new(100_000, &[90_000, 110_000]));
    assert!(is_new(100_000, &[90_000, 110_000, 5]));
    assert!(!is_new(100_000, &[90_000, 10_000]), "the first of the three is another thing");
    assert!(!is_new(20_000, &[100_000, 100_000]), "it goes on falling");
    assert!(!is_new(900_000, &[100_000, 100_000]), "nothing looks wrong");
    // A good one between them ends the row.
    let mut broken = past(&[100_000, 100_000]);
    broken[1].standing = Standing::Good;
    assert!(!review(&measure(100_000), &broken, None).is_new_normal);
}

#[test]
fn what_is_like_the_accepted_one_is_not_suspect() {
    let past = [
        accepted(measure(100_000)),
        suspect(measure(100_000)),
        suspect(measure(100_000)),
        good(measure(1_000_000)),
        good(measure(1_000_000)),
    ];
    assert!(review(&measure(100_000), &past, None).findings.is_empty());
    assert!(review(&measure(1_000_000), &past, None).findings.is_empty(), "nor what is as it used to be");
    assert_eq!(codes(&review(&measure(20_000), &past, None)), ["suspect.smaller"]);
    assert_eq!(codes(&review(&measure(9_000_000), &past, None)), ["suspect.larger"]);
    // Another direction, but still about the size.
    let spike = [accepted(measure(10_000_000)), good(measure(1_000_000)), good(measure(1_000_000))];
    assert!(!review(&measure(1_000_000), &spike, None).findings.iter().any(|_| true));
    assert_eq!(codes(&review(&measure(4_000_000), &spike, None)), ["suspect.larger"]);
}

prop_compose! {
    fn any_past()(bytes in 0u64..2_000_000, standing in 0u8..6) -> Past<'static> {
        let standing = match standing { 0 => Standing::Accepted, 1 | 2 => Standing::Suspect, _ => Standing::Good };
        Past { measure: measure(bytes), standing }
    }
}

proptest! {
    /// The next run after an accepted one, if it is just the same, is never suspect.
    #[test]
    fn an_accepted_state_stays_accepted(mut past in proptest::collection::vec(any_past(), 0..9), bytes in 0u64..2_000_000) {
        past.insert(0, accepted(measure(bytes)));
        prop_assert!(review(&measure(bytes), &past, None).findings.is_empty());
    }

    /// What lies between all the good ones is never suspect, and suspects never matter but for a new normal.
    #[test]
    fn suspects_are_no_measure(past in proptest::collection::vec(any_past(), 0..12), now in 0u64..4_000_000) {
        let with = review(&measure(now), &past, None);
        let without: Vec<Past<'_>> = past.iter().filter(|p| p.standing != Standing::Suspect).cloned().collect();
        let without = review(&measure(now), &without, None);
        prop_assert_eq!(&with.findings, &without.findings);
        prop_assert!(!without.is_new_normal);
        let good: Vec<u64> =
            past.iter().filter(|p| p.standing != Standing::Suspect).map(|p| p.measure.plain_bytes).take(5).collect();
        let inside = good.iter().any(|b| *b <= now) && good.iter().any(|b| *b >= now);
        let steady = good.iter().max().zip(good.iter().min()).is_some_and(|(max, min)| *max < 2 * *min);
        prop_assert!(!(inside && steady) || with.findings.is_empty());
    }

    /// Every finding about a size is true.
    #[test]
    fn findings_are_true(past in proptest::collection::vec(1_024u64..2_000_000, 2..9), now in 0u64..9_000_000) {
        let mut five: Vec<u64> = past.iter().copied().take(5).collect();
        five.sort_unstable();
        let n = five.len();
        let median = if n % 2 == 1 { five[n / 2] } else { (five[n / 2 - 1] + five[n / 2]) / 2 };
        let expected: &[&str] = match now {
            0 => &["suspect.empty"],
            now if now * 2 < median => &["suspect.smaller"],
            now if now > median * 3 => &["suspect.larger"],
            _ => &[],
        };
        prop_assert_eq!(judged(now, &past), expected);
    }
}
