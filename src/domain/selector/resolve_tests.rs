//! Tests of the choice: a table of situations, and properties over random repositories.

use super::*;
use crate::domain::time_spec::Context;
use proptest::prelude::*;

const HOUR_NS: i64 = 3_600_000_000_000;
/// 2026-11-20 00:00 in Berlin.
const MIDNIGHT_NS: i64 = 1_795_129_200_000_000_000;

fn context() -> Context {
    Context { now: "2026-11-20T14:30:45Z".parse().unwrap(), tz: TimeZone::get("Europe/Berlin").unwrap() }
}

fn series(host: &str, sources: &[&str]) -> Series {
    Series { host: host.to_owned(), sources: sources.iter().map(|s| (*s).to_owned()).collect() }
}

fn snapshot(id: u8, hour: i64, series: Series) -> SnapshotSummary {
    SnapshotSummary {
        id: SnapshotId([id; 16]),
        time_ns: MIDNIGHT_NS + hour * HOUR_NS,
        series,
        class: None,
        tags: Vec::new(),
        imported: false,
        suspect_sources: Vec::new(),
        failed_sources: Vec::new(),
    }
}

/// One series: hours 1 to 5; hour 3 tagged, hour 4 with failed code, hour 5 suspect, and an import of hour -100.
fn one_series() -> Vec<SnapshotSummary> {
    let main = || series("web1", &["app-db", "code"]);
    let mut all: Vec<SnapshotSummary> = (1..=5).map(|h| snapshot(h, i64::from(h), main())).collect();
    all[2].tags = vec!["v2.3".to_owned(), "guard:v2.3".to_owned()];
    all[2].class = Some("pre-deploy".to_owned());
    all[0].class = Some("pre-deploy".to_owned());
    all[3].failed_sources = vec!["code".to_owned()];
    all[4].suspect_sources = all[4].series.sources.clone();
    let mut import = snapshot(0xee, -100, main());
    import.imported = true;
    all.insert(0, import);
    all
}

fn choose(text: &str, snapshots: &[SnapshotSummary], scope: &Scope) -> Result<Choice, SelectError> {
    resolve(&Selector::parse(text, &context()).unwrap(), snapshots, scope)
}

fn chosen(text: &str, snapshots: &[SnapshotSummary], scope: &Scope) -> u8 {
    choose(text, snapshots, scope).unwrap_or_else(|e| panic!("{text}: {e}")).snapshot.id.0[0]
}

#[test]
fn in_one_series() {
    let all = one_series();
    let scope = Scope::default();
    for (text, id) in [
        ("latest", 3),
        ("latest~1", 2),
        ("latest~2", 1),
        ("@2026-11-20 02:59", 2),
        ("@2026-11-20 03:00", 3),
        ("@2026-11-20 04:30", 3), // hour 4 has a failed source
        ("@2026-11-20", 5),       // a suspect one is found by time
        ("@2026-11-19", 0xee),    // so is an imported one
        ("tag:v2.3", 3),
        ("guard:v2.3", 3),
        ("class:pre-deploy", 3),
        ("0505", 5),
        ("0404", 4),
        ("eeee", 0xee),
        ("20261120_040000", 4),
        ("20261120_050000", 5),
        ("20261115_200000", 0xee),
        ("pre-deploy-20261120_010000", 1),
    ] {
        assert_eq!(chosen(text, &all, &scope), id, "{text}");
    }
}

#[test]
fn not_found_is_told_apart() {
    use SelectError as E;
    let all = one_series();
    let scope = Scope::default();
    let error = |text: &str| choose(text, &all, &scope).unwrap_err();
    assert_eq!(error("abcd"), E::UnknownPrefix("abcd".to_owned()));
    assert_eq!(error("tag:none"), E::NoMatch("tag:none".to_owned()));
    assert_eq!(error("20261120_040001"), E::NoMatch("20261120_040001".to_owned()));
    assert_eq!(error("hourly-20261120_040000"), E::NoMatch("hourly-20261120_040000".to_owned()));
    assert_eq!(error("latest~3"), E::BeyondFirst { selector: "latest~3".to_owned(), available: 3 });
    let before = error("@2026-11-01");
    assert_eq!(
        before.to_string(),
        "No snapshot is as old as '@2026-11-01'; the first is eeeeeeee of 2026-11-15 20:00 (+01:00)"
    );
    assert!(before.is_not_found());
    let empty = choose("latest", &[], &scope).unwrap_err();
    assert_eq!(empty, E::NoSnapshots { selector: "latest".to_owned(), scoped: false });
    let scoped = Scope { host: Some("other".to_owned()), ..Scope::default() };
    assert_eq!(
        choose("latest", &all, &scoped).unwrap_err().to_string(),
        "There is no snapshot of the named host and sources to choose 'latest' from"
    );
    let unfit: Vec<SnapshotSummary> =
        all.iter().filter(|s| !s.suspect_sources.is_empty() || s.imported).cloned().collect();
    assert_eq!(
        choose("latest", &unfit, &scope).unwrap_err(),
        E::OnlyUnfit { selector: "latest".to_owned(), skipped: 2 }
    );
}

#[test]
fn an_ambiguous_prefix_lists_the_ids() {
    let mut all = one_series();
    all[1].id = SnapshotId([0x05; 16]);
    all[1].id.0[15] = 0xff;
    let error = choose("0505", &all, &Scope::default()).unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "'0505' is the beginning of 2 snapshot ids");
    assert_eq!(error.candidates(&context().tz), ["05".repeat(16), format!("{}ff", "05".repeat(15))]);
    assert_eq!(chosen(&"05".repeat(16), &all, &Scope::default()), 5);
}

fn two_hosts() -> Vec<SnapshotSummary> {
    let mut db2 = snapshot(0x22, 2, series("web2", &["app-db"]));
    db2.tags = vec!["v1".to_owned()];
    let mut full1 = snapshot(0x11, 1, series("web1", &["app-db", "code"]));
    full1.tags = vec!["v1".to_owned()];
    vec![full1, db2, snapshot(0x13, 3, series("web1", &["app-db"]))]
}

#[test]
fn several_series_need_a_name() {
    let all = two_hosts();
    let error = choose("latest", &all, &Scope::default()).unwrap_err();
    assert!(!error.is_not_found());
    assert_eq!(
        error.candidates(&context().tz),
        [
            "series web1: app-db, newest 13131313 of 2026-11-20 03:00 (+01:00)",
            "series web1: app-db, code, newest 11111111 of 2026-11-20 01:00 (+01:00)",
            "series web2: app-db, newest 22222222 of 2026-11-20 02:00 (+01:00)",
        ]
    );
    for text in ["@2026-11-20", "tag:v1"] {
        assert!(matches!(choose(text, &all, &Scope::default()), Err(SelectError::SeveralSeries { .. })), "{text}");
    }
    // What matches in one series only needs no name.
    assert_eq!(chosen("20261120_020000", &all, &Scope::default()), 0x22);
    assert_eq!(chosen("@2026-11-20 01:30", &all, &Scope::default()), 0x11);
    assert_eq!(chosen("2222", &all, &Scope { host: Some("web1".to_owned()), ..Scope::default() }), 0x22);
}

#[test]
fn a_scope_names_the_series() {
    let all = two_hosts();
    let host = |host: &str| Some(host.to_owned());
    assert_eq!(chosen("latest", &all, &Scope { host: host("web2"), ..Scope::default() }), 0x22);
    assert!(choose("latest", &all, &Scope { host: host("web1"), ..Scope::default() }).is_err());
    let code = Scope { sources: vec!["code".to_owned()], ..Scope::default() };
    assert_eq!(chosen("latest", &all, &code), 0x11);
    // Named sources join the sets of one host that hold them.
    let db = Scope { host: host("web1"), sources: vec!["app-db".to_owned()], ..Scope::default() };
    assert_eq!(chosen("latest", &all, &db), 0x13);
    assert_eq!(chosen("latest~1", &all, &db), 0x11);
    let exact = Scope { series: Some(series("web1", &["app-db", "code"])), ..Scope::default() };
    assert_eq!(chosen("latest", &all, &exact), 0x11);
    let implied = Scope { implied: Some(series("web2", &["app-db"])), ..Scope::default() };
    assert_eq!(chosen("latest", &all, &implied), 0x22);
    let useless = Scope { implied: Some(series("web9", &["app-db"])), ..Scope::default() };
    assert!(matches!(choose("latest", &all, &useless), Err(SelectError::SeveralSeries { .. })));
}

#[test]
fn a_failed_source_counts_only_where_it_is_wanted() {
    let all = one_series();
    let db = Scope { sources: vec!["app-db".to_owned()], ..Scope::default() };
    assert_eq!(chosen("latest", &all, &db), 4);
    assert_eq!(chosen("@2026-11-20 04:30", &all, &db), 4);
    let only_failed = vec![all[4].clone()];
    let choice = choose("@2026-11-20", &only_failed, &Scope::default()).unwrap();
    assert!(choice.describe().ends_with("(failed there: code)"), "{}", choice.describe());
}

#[test]
fn the_choice_describes_itself() {
    let all = one_series();
    let choice = choose("latest:/srv", &all, &Scope::default()).unwrap();
    assert_eq!(choice.path.as_deref(), Some(&b"/srv"[..]));
    assert_eq!(
        choice.describe(),
        "chose 03030303 of 2026-11-20 03:00 (+01:00), series web1: app-db, code \
         (2 newer passed over as suspect, imported, failed or saved before a restore)"
    );
    let plain = choose("latest~1", &all, &Scope::default()).unwrap();
    let import = choose("eeee", &all, &Scope::default()).unwrap();
    assert_eq!(import.describe(), "chose eeeeeeee of 2026-11-15 20:00 (+01:00), series web1: app-db, code (imported)");
    assert_eq!(plain.skipped, 2);
}

#[test]
fn a_list_shows_one_for_each_series() {
    let all = two_hosts();
    let ids = |selectors: &[&str], scope: &Scope| -> Vec<u8> {
        let selectors: Vec<Selector> = selectors.iter().map(|s| Selector::parse(s, &context()).unwrap()).collect();
        filter(&selectors, &all, scope).unwrap().iter().map(|s| s.id.0[0]).collect()
    };
    let everywhere = Scope::default();
    assert_eq!(ids(&[], &everywhere), [0x13, 0x22, 0x11]);
    assert_eq!(ids(&["latest"], &everywhere), [0x13, 0x22, 0x11]);
    assert_eq!(ids(&["tag:v1"], &everywhere), [0x22, 0x11]);
    assert_eq!(ids(&["2222", "latest"], &Scope { host: Some("web2".to_owned()), ..Scope::default() }), [0x22]);
    let missing = [Selector::parse("tag:none", &context()).unwrap()];
    assert_eq!(filter(&missing, &all, &everywhere), Err(SelectError::NoMatch("tag:none".to_owned())));
}

#[test]
fn both_seconds_of_a_fold_are_found() {
    // 02:30 on 2026-10-25 happens twice in Berlin; the second one is an hour later.
    let first = 1_792_888_200_000_000_000;
    let mut early = snapshot(1, 0, series("h", &["s"]));
    early.time_ns = first;
    let mut late = snapshot(2, 0, series("h", &["s"]));
    late.time_ns = first + HOUR_NS;
    assert_eq!(chosen("20261025_023000", &[early.clone()], &Scope::default()), 1);
    assert_eq!(chosen("20261025_023000", &[early.clone(), late.clone()], &Scope::default()), 2);
    assert_eq!(chosen("@20261025_023000", &[early, late], &Scope::default()), 1);
}

#[test]
fn trouble_in_one_series_never_turns_latest_into_another() {
    let mut all = two_hosts();
    all.remove(2);
    all[0].suspect_sources = all[0].series.sources.clone();
    assert!(matches!(choose("latest", &all, &Scope::default()), Err(SelectError::SeveralSeries { .. })));
    let implied = Scope { implied: Some(all[0].series.clone()), ..Scope::default() };
    assert!(matches!(choose("latest", &all, &implied), Err(SelectError::OnlyUnfit { .. })));
    all[0].imported = true;
    assert_eq!(chosen("latest", &all, &Scope::default()), 0x22);
}

fn any_repository() -> impl Strategy<Value = Vec<SnapshotSummary>> {
    let one = (0i64..200, 0u8..2, any::<bool>(), 0u8..8).prop_map(|(hour, host, tagged, flags)| {
        let mut one = snapshot(0, hour, series(&format!("h{host}"), &["a", "b"]));
        one.tags = if tagged { vec!["t".to_owned()] } else { Vec::new() };
        one.suspect_sources = if flags == 1 { one.series.sources.clone() } else { Vec::new() };
        one.imported = flags == 2;
        one.failed_sources = if flags == 3 { vec!["a".to_owned()] } else { Vec::new() };
        one
    });
    prop::collection::vec(one, 0..30).prop_map(|mut all| {
        for (index, one) in all.iter_mut().enumerate() {
            one.id = SnapshotId(*blake3::hash(&(index as u64).to_le_bytes()).as_bytes().first_chunk().unwrap());
        }
        all
    })
}

proptest! {
    #[test]
    fn latest_is_the_greatest_fit_time(all in any_repository(), back in 0usize..4) {
        let scope = Scope { host: Some("h0".to_owned()), ..Scope::default() };
        let mut fit: Vec<&SnapshotSummary> = all
            .iter()
            .filter(|s| s.series.host == "h0" && s.suspect_sources.is_empty() && !s.imported && s.failed_sources.is_empty())
            .collect();
        fit.sort_by_key(|s| (std::cmp::Reverse(s.time_ns), s.id));
        match (choose(&format!("latest~{back}"), &all, &scope), fit.get(back)) {
            (Ok(choice), Some(expected)) => {
                prop_assert_eq!(choice.snapshot.id, expected.id);
                let newer = all.iter().filter(|s| s.series.host == "h0")
                    .filter(|s| (std::cmp::Reverse(s.time_ns), s.id) < (std::cmp::Reverse(expected.time_ns), expected.id));
                prop_assert_eq!(choice.skipped, newer.count() - back);
            }
            (Err(error), None) => prop_assert!(error.is_not_found()),
            (got, wanted) => prop_assert!(false, "{got:?} {wanted:?}"),
        }
    }

    #[test]
    fn at_or_before_never_looks_ahead(all in any_repository(), hour in 0i64..200) {
        let scope = Scope { host: Some("h1".to_owned()), ..Scope::default() };
        let seconds = (MIDNIGHT_NS + hour * HOUR_NS) / 1_000_000_000;
        if let Ok(choice) = choose(&format!("@unix:{seconds}"), &all, &scope) {
            prop_assert!(choice.snapshot.time_ns <= MIDNIGHT_NS + hour * HOUR_NS);
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(all in any_repository(), seed: u64) {
        let mut shuffled = all.clone();
        shuffled.sort_by_key(|s| *blake3::keyed_hash(&[3; 32], &[&s.id.0[..], &seed.to_le_bytes()].concat()).as_bytes());
        for text in ["latest", "latest~1", "@2026-11-22", "tag:t"] {
            prop_assert_eq!(choose(text, &all, &Scope::default()), choose(text, &shuffled, &Scope::default()));
        }
    }

    #[test]
    fn every_full_id_finds_itself(all in any_repository()) {
        for one in &all {
            prop_assert_eq!(choose(&one.id.hex(), &all, &Scope::default()).unwrap().snapshot.id, one.id);
        }
    }
}
