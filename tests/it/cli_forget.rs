//! `forget`, `remove` and `undelete` through the program.

use crate::support::program::{Place, Ran, files_below};
use serde_json::Value;

/// Hourly snapshots of one folder, oldest first: two on the 18th, two on the 19th, three on the 20th of November 2026.
const TIMES: [&str; 7] = [
    "2026-11-18T10:00",
    "2026-11-18T11:00",
    "2026-11-19T10:00",
    "2026-11-19T11:00",
    "2026-11-20T10:00",
    "2026-11-20T11:00",
    "2026-11-20T12:00",
];

fn filled() -> (Place, Vec<String>) {
    let place = Place::with_repository();
    let ids = TIMES.iter().map(|time| {
        place.write("data/text", format!("written at {time}\n"));
        place.backup(["data", "--time", time])
    });
    let ids = ids.collect();
    (place, ids)
}

/// Ids that `snapshots` lists, oldest first.
fn visible(place: &Place) -> Vec<String> {
    let document = place.run(["snapshots", "--json"]).good().json();
    let mut ids: Vec<String> =
        document["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    ids.reverse();
    ids
}

fn entries(ran: &Ran) -> Vec<Value> {
    let series = ran.json()["series"].as_array().unwrap().clone();
    series.iter().flat_map(|series| series["snapshots"].as_array().unwrap().clone()).collect()
}

#[test]
fn a_policy_forgets_and_says_why() {
    let (place, ids) = filled();
    let before = files_below(&place.path("repository"));
    let dry = place.run(["forget", "--keep-daily", "2", "--dry-run", "--explain"]);
    let lines: Vec<&str> = dry.good().stdout.lines().collect();
    assert_eq!(lines.len(), 8, "{dry:?}");
    assert!(lines[0].ends_with("files: keep 2, forget 5"), "{dry:?}");
    let newest = format!("  keep    {}  2026-11-20 12:00 (+00:00)  -  daily 1 of 2: 2026-11-20; ", &ids[6][..8]);
    assert!(lines[1].starts_with(&newest) && lines[1].contains("newest of its series"), "{dry:?}");
    let taken = format!(
        "  forget  {}  2026-11-20 11:00 (+00:00)  -  daily 2026-11-20 is kept as {}",
        &ids[5][..8],
        &ids[6][..8]
    );
    assert_eq!(lines[2], taken);
    assert!(lines[4].contains("daily 2 of 2: 2026-11-19"), "{dry:?}");
    assert!(lines[7].ends_with("2 newer daily kept"), "{dry:?}");
    assert!(dry.stderr.contains("would forget 5 snapshots; nothing was changed"), "{dry:?}");
    assert_eq!(files_below(&place.path("repository")), before, "a dry run writes nothing");

    let json = place.run(["forget", "--keep-daily", "2", "-n", "--json"]);
    let entries = entries(json.good());
    assert_eq!(entries.len(), 7);
    assert_eq!(entries[0]["reasons"][0]["slot"], "2026-11-20");
    assert_eq!(entries[1]["reasons"][0]["by"].as_str(), Some(&*ids[6]));
    assert_eq!((json.json()["kept"].as_u64(), json.json()["removed"].as_u64()), (Some(2), Some(5)));

    let done = place.run(["forget", "--keep-daily", "2"]);
    assert_eq!(done.good().stdout.lines().count(), 5, "{done:?}");
    assert!(done.stderr.contains("forgot 5 snapshots"), "{done:?}");
    let left = [&*ids[3], &ids[6]];
    assert_eq!(visible(&place), left);
    assert!(place.run(["forget", "--keep-daily", "2"]).good().stdout.is_empty(), "done once, nothing is left to do");
    // Every command obeys, and all stored bytes are still there and whole.
    place.run(["ls", &ids[0]]).failed(20, "begins with");
    place.run(["restore", &ids[5], "--target", "out"]).failed(20, "begins with");
    assert_eq!(place.run(["stats", "--json"]).good().json()["snapshots"], 2);
    place.run(["verify", "--read-data"]).good();
    assert!(place.run(["ls", "latest~1"]).good().stderr.contains(&ids[3][..8]));
}

#[test]
fn without_a_configuration_the_built_in_numbers_hold() {
    let (place, ids) = filled();
    assert!(place.run(["forget"]).good().stderr.contains("keep 7, forget 0"), "all within seven days");
    assert_eq!(visible(&place), ids);
    place.write("holdfast.toml", "[retention.default]\nkeep_last = 3\n");
    place.run(["forget"]).good();
    assert_eq!(visible(&place), ids[4..]);
    let mut command = place.command(["forget"]);
    crate::support::program::run(command.env("HOLDFAST_KEEP_LAST", "1")).good();
    assert_eq!(visible(&place), ids[6..]);
}

#[test]
fn ages_presets_classes_and_sources() {
    let (place, mut ids) = filled();
    ids.push(place.backup(["data", "--time", "2026-11-20T13:00", "--class", "manual"]));
    let left = |args: &[&str]| -> usize {
        let ran = place.run(["forget", "-n", "--json"].iter().chain(args));
        entries(ran.good()).iter().filter(|e| e["keep"] == true).count()
    };
    assert_eq!(left(&["--older-than", "24h"]), 4, "counted from the newest snapshot");
    assert_eq!(left(&["--older-than", "1d"]), 4);
    assert_eq!(left(&["--older-than", "0"]), 1);
    assert_eq!(left(&["--preset", "ad"]), 4, "one a day, and the one made by hand");
    assert_eq!(left(&["--keep-last", "1"]), 1);
    assert_eq!(left(&["--keep-last", "2", "--keep-daily", "3", "--keep-within", "1h", "--keep-tag", "x"]), 4);
    assert_eq!(left(&["--keep-last", "1", "--class", "manual"]), 8);
    assert_eq!(left(&["--keep-last", "1", "--source", "other"]), 8);
    assert_eq!(left(&["--keep-last", "1", "--host", "other"]), 8);
}

#[test]
fn what_is_forgotten_can_be_brought_back() {
    let (place, ids) = filled();
    assert!(place.run(["undelete"]).good().stderr.contains("no snapshot is forgotten"));
    let ran = place.run(["forget", &ids[1], &ids[1][..8], "@2026-11-19T10:30"]);
    assert!(ran.good().stderr.contains("forgot 2 snapshots"), "{ran:?}");
    assert_eq!(visible(&place).len(), 5);
    let listed = place.run(["undelete", "--json"]).good().json();
    let forgotten: Vec<&str> =
        listed["forgotten"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap()).collect();
    assert_eq!(forgotten, [&*ids[2], &ids[1]], "forgotten last comes first");
    assert_eq!(listed["forgotten"][0]["reason"], "named");
    assert!(place.run(["undelete"]).good().stdout.contains(&ids[2][..8]));

    place.run(["undelete", "-n", &ids[2]]).good();
    assert_eq!(visible(&place).len(), 5);
    let back = place.run(["undelete", &ids[2][..8]]);
    assert!(back.good().stderr.contains("is back"), "{back:?}");
    assert_eq!(visible(&place).len(), 6);
    place.run(["restore", &ids[2], "--target", "out"]).good();
    place.run(["verify", "--read-data"]).good();
    place.run(["undelete", &ids[2]]).failed(20, "No forgotten snapshot");
    place.run(["undelete", "abc"]).failed(20, "too short");
    // The same snapshot can be forgotten again.
    place.run(["forget", &ids[2]]).good();
    assert_eq!(visible(&place).len(), 5);
}

#[test]
fn remove_asks_and_the_last_good_one_stays() {
    let (place, ids) = filled();
    place.run(["remove", &ids[0]]).failed(17, "confirmation");
    assert_eq!(visible(&place).len(), 7);
    place.run(["remove", &ids[0], "--yes"]).good();
    assert_eq!(visible(&place), ids[1..]);
    place.run(["remove", "nonsense", "--yes"]).failed(20, "nonsense");
    let mut all = vec!["forget"];
    all.extend(ids[1..].iter().map(String::as_str));
    place.run(&all).failed(24, "nothing good of source");
    assert_eq!(visible(&place), ids[1..], "refused as a whole");
    all.push("--even-last");
    place.run(&all).good();
    assert!(visible(&place).is_empty());
    assert_eq!(place.run(["snapshots"]).good().stdout, "");
    // A backup after that starts anew, and what was forgotten is still there to come back.
    place.backup(["data"]);
    place.run(["undelete", &ids[6]]).good();
    assert_eq!(visible(&place).len(), 2);
}

#[test]
fn tags_pin() {
    let place = Place::with_repository();
    place.write("holdfast.toml", "[retention.default]\nkeep_last = 1\nkeep_tags = [\"release\"]\n");
    place.write("data/text", "x");
    let pinned = place.backup(["data", "--time", "2026-11-18T10:00", "--tag", "release"]);
    let other = place.backup(["data", "--time", "2026-11-19T10:00"]);
    let newest = place.backup(["data", "--time", "2026-11-20T10:00"]);
    let dry = place.run(["forget", "-n", "--explain"]);
    assert!(dry.good().stdout.contains("pinned by tag release"), "{dry:?}");
    place.run(["forget"]).good();
    assert_eq!(visible(&place), [&*pinned, &newest]);
    place.run(["undelete", &other]).good();
    place.run(["forget", "--keep-last", "1"]).good();
    assert_eq!(visible(&place), [&*pinned, &newest], "other numbers do not break a pin");
    place.run(["forget", "--older-than", "1h"]).good();
    assert_eq!(visible(&place), [&*pinned, &newest]);
    place.run(["forget", &pinned]).failed(24, "pinned by its tag release");
    place.run(["remove", &pinned, "--yes"]).failed(24, "--even-pinned");
    place.run(["forget", &pinned, "--even-pinned"]).good();
    assert_eq!(visible(&place), [&*newest]);
}

#[test]
fn a_failed_newest_backup_holds_its_source_and_no_other() {
    let place = Place::with_repository();
    place.write(
        "holdfast.toml",
        "[[source]]\nname = \"good\"\nkind = \"files\"\npaths = [\"data\"]\n\
         [[source]]\nname = \"made\"\nkind = \"command\"\ncommand = [\"cat\", \"made\"]\n",
    );
    place.write("data/text", "x");
    place.write("made", "made");
    let mut ids: Vec<String> =
        ["2026-11-18T10:00", "2026-11-19T10:00"].iter().map(|time| place.backup(["--time", time])).collect();
    std::fs::remove_file(place.path("made")).unwrap();
    for time in ["2026-11-19T11:00", "2026-11-19T12:00", "2026-11-20T10:00"] {
        let ran = place.run(["backup", "--time", time]);
        assert_eq!(ran.code, 3, "{ran:?}");
        ids.push(ran.stdout.trim_end().to_owned());
    }
    let ran = place.run(["forget", "--keep-last", "1", "--explain"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("it failed in the newest snapshot"), "{ran:?}");
    assert!(ran.stdout.contains("held: the newest backup of made is not good"), "{ran:?}");
    assert_eq!(visible(&place), [&*ids[0], &ids[1], &ids[4]]);
    // Once it is well again, retention goes on.
    place.write("made", "made");
    let well = place.backup(["--time", "2026-11-20T11:00"]);
    place.run(["forget", "--keep-last", "1"]).good();
    assert_eq!(visible(&place), [well]);
}

#[test]
fn bad_input_is_refused_and_nothing_is_lost() {
    let (place, ids) = filled();
    for (args, code, words) in [
        (&["--keep-last", "-1"][..], 2, "-1"),
        (&["--keep-last", "many"], 2, "many"),
        (&["--keep-last", "0"], 2, "would keep nothing"),
        (&["--keep-within", "-7d"], 2, "is not a duration"),
        (&["--older-than", "week"], 2, "is not a duration"),
        (&["--older-than", "7d", "--keep-last", "1"], 2, "cannot be used with"),
        (&["--preset", "xx"], 2, "xx"),
        (&["--preset", "bf", "--keep-last", "1"], 2, "cannot be used with"),
        (&["latest", "--keep-last", "1"], 2, "cannot be used with"),
        (&["latest:data", "--even-last"], 2, "only whole snapshots"),
        (&["abcd1234"], 20, "begins with"),
        (&["--keep-tag", "none"], 24, "keeps nothing"),
    ] {
        place.run(["forget"].iter().chain(args)).failed(code, words);
    }
    place.write("holdfast.toml", "[retention.default]\nkeep_daily = -3\n");
    place.run(["forget"]).failed(2, "-3");
    std::fs::remove_file(place.path("holdfast.toml")).unwrap();
    assert_eq!(visible(&place), ids);
}

#[test]
fn a_snapshot_of_the_future_stops_its_series() {
    let (place, mut ids) = filled();
    ids.push(place.backup(["data", "--time", "2099-01-01"]));
    place.run(["forget", "--keep-last", "1"]).failed(24, "a clock is or was wrong");
    let ran = place.run(["forget", "--keep-last", "1", "--json"]);
    assert_eq!(ran.json_error()["id"], "retention.refused");
    assert_eq!(ran.json()["series"][0]["refusal"]["snapshot"].as_str(), Some(&*ids[7]));
    assert_eq!(visible(&place), ids);
    place.run(["forget", &ids[7]]).good();
    place.run(["forget", "--keep-last", "1"]).good();
    assert_eq!(visible(&place), ids[6..7]);
}

#[test]
fn a_damaged_tombstone_hides_nothing_and_is_reported() {
    let (place, ids) = filled();
    place.run(["forget", &ids[0], &ids[1]]).good();
    let tombstone = place.path("repository/forgotten").join(&ids[0]);
    let mut bytes = std::fs::read(&tombstone).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&tombstone).unwrap();
    std::fs::write(&tombstone, &bytes).unwrap();
    let listed = place.run(["snapshots", "--json"]);
    assert_eq!(listed.code, 13, "{listed:?}");
    assert!(listed.stderr.contains(&format!("forgotten/{}", ids[0])), "{listed:?}");
    assert_eq!(listed.json()["snapshots"].as_array().unwrap().len(), 6, "visible again");
    let verify = place.run(["verify"]);
    assert_eq!(verify.code, 13, "{verify:?}");
    // It is in the way of forgetting it again, until it is undeleted.
    let again = place.run(["forget", &ids[0]]);
    assert!(again.stderr.contains("damaged tombstone"), "{again:?}");
    assert_ne!(again.code, 0);
    place.run(["undelete", &ids[0]]);
    assert!(!tombstone.exists());
    place.run(["verify"]).good();
    assert_eq!(visible(&place).len(), 6);
}
