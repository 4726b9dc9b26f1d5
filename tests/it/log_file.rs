//! `--log-file`: a line for each event, with its time, in both forms, beside whatever the terminal gets.

use crate::support::program::{PASSWORD, Place};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

fn lines(place: &Place, name: &str) -> Vec<String> {
    std::fs::read_to_string(place.path(name)).unwrap().lines().map(str::to_owned).collect()
}

fn json_lines(place: &Place, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn of<'l>(lines: &'l [Value], id: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["id"] == id).collect()
}

#[test]
fn every_run_leaves_its_lines() {
    let place = Place::with_repository();
    place.write("data/file", "contents");
    let id = place.backup(["data", "--log-file", "run.log", "-q"]);
    let text = lines(&place, "run.log");
    for (line, words) in
        text.iter().zip(["run.start: holdfast", "backup.source: files: 1 file,", "backup.summary: saved", &*id])
    {
        assert!(line.contains(words) && line.contains(" info ["), "{words}: {text:?}");
        let (time, _) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{line}");
    }
    let ended = "run.end: ended with exit code 0 (success)";
    assert!(text.last().is_some_and(|line| line.contains(ended)), "{text:?}");
    let mode = std::fs::metadata(place.path("run.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Appended; a failure with its code, its causes and what to do.
    place.run(["restore", "latest", "--target", "data", "--log-file", "run.log"]).failed(24, "data");
    let more = lines(&place, "run.log");
    assert_eq!(more[..text.len()], text[..]);
    let failed = more.iter().find(|line| line.contains(" error [")).unwrap();
    assert!(failed.contains("target.not_empty: ") && failed.contains("(exit code 24)"), "{failed}");
    assert!(failed.contains("; hint: ") && more.last().unwrap().contains("exit code 24"), "{more:?}");
}

#[test]
fn json_lines_hold_what_the_summary_holds_and_no_secret() {
    let place = Place::with_repository();
    place.write("data/file", "contents");
    let config = "[[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"data\"]\n\
                  [[source]]\nname = \"shop\"\nkind = \"postgres\"\nurl = \"postgres://u@127.0.0.1:1/shop\"\n\
                  password = { env = \"SHOP_PASSWORD\" }\n";
    place.write("holdfast.toml", config);
    let mut command = place.command(["backup", "--json", "--log-file", "log", "--log-format", "json", "-q"]);
    command.env("SHOP_PASSWORD", "hunter2").env("HOLDFAST_LOG", "trace");
    let ran = crate::support::program::run(&mut command);
    assert_eq!(ran.code, 3, "{ran:?}");
    let log = json_lines(&place, "log");
    assert!(log.iter().all(|line| line["time"].as_str().is_some_and(|t| t.ends_with('Z'))), "{log:?}");
    assert_eq!(of(&log, "backup.source").len(), 2, "{log:?}");
    let failed = of(&log, "source.failed");
    assert_eq!((failed[0]["level"].as_str(), failed[0]["source"].as_str()), (Some("warn"), Some("shop")));
    assert!(of(&log, "backup.summary")[0]["message"].as_str().unwrap().starts_with("saved "), "{log:?}");
    assert_eq!(of(&log, "source.started")[0]["level"], "debug");
    let text = std::fs::read_to_string(place.path("log")).unwrap();
    assert!(!text.contains("hunter2") && !text.contains(PASSWORD), "{text}");

    let ran = place.run(["verify", "deadbeef", "--log-file", "log", "--log-format", "json"]);
    assert_eq!(ran.code, 20, "{ran:?}");
    let log = json_lines(&place, "log");
    let error = of(&log, "snapshot.not_found")[0];
    assert_eq!((error["level"].as_str(), error["code"].as_u64()), (Some("error"), Some(20)));
    assert!(error["hints"][0].as_str().is_some(), "{error}");
}

#[test]
fn the_level_filters_and_mistakes_are_told() {
    let place = Place::with_repository();
    place.write("data/file", "contents");
    let run = |level: &str, args: &[&str]| {
        crate::support::program::run(place.command(["snapshots"]).args(args).env("HOLDFAST_LOG", level))
    };
    run("error", &["--log-file", "quiet.log"]).good();
    assert_eq!(lines(&place, "quiet.log"), [""; 0]);
    let unknown = run("loud", &["--log-file", "quiet.log"]);
    unknown.failed(2, "HOLDFAST_LOG");
    assert!(unknown.stderr.contains("error, warn, info, debug and trace"), "{unknown:?}");
    // The level speaks to the terminal too, as -v does, and never makes it say less.
    let mut command = place.command(["backup", "data"]);
    let said = crate::support::program::run(command.env("HOLDFAST_LOG", "debug"));
    assert!(said.good().stderr.contains("files (files): started"), "{said:?}");
    let said = crate::support::program::run(place.command(["backup", "data"]).env("HOLDFAST_LOG", "error"));
    assert!(said.good().stderr.contains("saved "), "{said:?}");

    place.run(["snapshots", "--log-file", "absent/run.log"]).failed(1, "absent/run.log");
    place.run(["snapshots", "--log-format", "json"]).failed(2, "--log-file");
    // A log on a full disk stops nothing, and is spoken of once.
    let ran = place.run(["backup", "data", "--log-file", "/dev/full"]);
    assert_eq!(ran.good().stderr.matches("The log file cannot be written").count(), 1, "{ran:?}");
}
