//! What is said to people: names of what is wrong, what is under way, what cannot be.

use crate::cli_restore_in_place::Application;
use crate::support::program::Place;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn tree(extra: &str) -> Place {
    let place = Place::with_repository();
    place.write("srv/a.txt", "a");
    let folder = place.path("").display().to_string();
    let config = format!("[[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"{folder}srv\"]\n{extra}");
    place.write("holdfast.toml", config.replace("FOLDER", &folder));
    place
}

#[test]
fn a_test_of_a_restore_misses_programs_that_are_not_there() {
    let place = tree(
        "[service]\nstop = [\"no-such-program\", \"stop\"]\nstart = [\"true\"]\n\
         [restore]\npost_restore_check = [\"FOLDERno-such-check\"]\n",
    );
    place.run(["backup"]).good();
    let ran = place.run(["restore", "latest", "--check"]);
    ran.failed_with_output(24, "no program called 'no-such-program'");
    assert!(ran.stderr.contains("no-such-check: cannot be executed"), "{ran:?}");
    assert!(ran.stdout.contains("ok   true: will be run"), "{ran:?}");
}

#[test]
fn what_a_selection_lacks_is_named() {
    let place = tree("");
    place.run(["backup"]).good();
    for args in
        [&["ls", "latest", "--source", "nope"][..], &["restore", "latest", "--source", "nope", "--target", "out"]]
    {
        place.run(args).failed(20, "no snapshot has a source 'nope'");
    }
    place.run(["ls", "latest", "--host", "elsewhere"]).failed(20, "no snapshot is of a host 'elsewhere'");
    place.run(["restore", "latest:/nope", "--yes"]).failed(20, "/nope");
    place.run(["restore", "latest", "--target", "out", "--clean"]).failed(2, "--clean");
    assert!(!place.path("out").exists());
    let ran = place.run(["restore", "latest", "--target", "out"]);
    assert!(ran.good().stderr.contains("code: 1 file, "), "{ran:?}");
}

#[test]
fn targets_that_cannot_be_are_found_in_the_configuration() {
    let database = "[[source]]\nname = \"db\"\nkind = \"postgres\"\nurl = \"postgres://a@127.0.0.1/app\"\n\
                    [[source]]\nname = \"journal\"\nkind = \"sqlite\"\npath = \"FOLDERx.db\"\n\
                    [[source]]\nname = \"two\"\nkind = \"files\"\npaths = [\"/etc\", \"/opt\"]\n";
    let of = |target: &str| tree(&format!("{database}[env.test]\ntargets = {{ {target} }}\n")).run(["config", "check"]);
    of("db = \"postgres://a@127.0.0.1/other\", journal = \"FOLDERy.db\", code = \"/srv/other\"").good();
    for (target, words) in [
        ("db = \"/var/lib/other\"", "'db' in [env.test] is a PostgreSQL database, and its target is a path"),
        ("journal = \"postgres://a@127.0.0.1/other\"", "'journal' in [env.test] is a SQLite database"),
        ("code = \"postgres://a@127.0.0.1/other\"", "'code' in [env.test] is files"),
        ("two = \"/srv/two\"", "'two' in [env.test] has several paths"),
    ] {
        of(target).failed(2, words);
    }
}

#[test]
fn a_list_of_snapshots_marks_what_failed() {
    let place = tree("[[source]]\nname = \"journal\"\nkind = \"sqlite\"\npath = \"FOLDERmissing.db\"\n");
    assert_eq!(place.run(["backup"]).code, 3);
    let (shown, code) =
        crate::cli_picker::on_terminal_slowly(&place, &["restore", "--target", "out"], "Which one?", "q\n");
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("failed: journal"), "{shown}");
}

#[test]
fn drills_of_everything_leave_out_what_was_saved_of_environments() {
    let application = Application::new(
        "[env.copy]\ntargets = { db = \"host=SOCKET dbname=copy user=postgres\", code = \"FOLDERcopy\" }\n",
    );
    let place = &application.place;
    place.write("copy/a.txt", "before");
    place.run(["restore", "latest", "--env", "copy", "--source", "code", "--yes"]).good();
    place.run(["guard", "begin", "v1", "--env", "copy", "--source", "code"]).good();
    place.run(["guard", "complete", "v1"]).good();
    let ran = place.run(["drill", "--all", "--dry-run"]);
    let sources: Vec<&str> = ran
        .good()
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("would restore and prove ")?.split(' ').next())
        .collect();
    assert_eq!(sources, ["code", "db", "journal"], "{ran:?}");
    place.run(["drill", "--all", "--dry-run", "--source", "code.copy"]).good();
}

#[test]
fn status_tells_of_guards_and_a_rollback_is_not_announced_before_it_is_refused() {
    let application = Application::new("");
    let place = &application.place;
    let idle = place.run(["status"]);
    assert!(idle.good().stderr.contains("nothing is under way"), "{idle:?}");
    let args = ["guard", "run", "v1", "--source", "journal", "--", "sh", "-c", "touch running; sleep 120"];
    let mut child = place.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !place.path("running").exists() {
        assert!(began.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = place.run(["status"]);
    assert!(status.good().stdout.contains("guard v1: running"), "{status:?}");
    assert!(!status.stderr.contains("nothing is under way"), "{status:?}");
    let json = place.run(["status", "--json"]).good().json();
    assert_eq!((json["guards"][0]["guard"].as_str(), json["status"].as_array().unwrap().len()), (Some("v1"), 0));
    let ran = place.run(["guard", "rollback", "v1", "--yes"]);
    ran.failed(18, "cannot be taken over");
    assert!(!ran.stderr.contains("goes back to before it"), "{ran:?}");
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    child.wait().unwrap();
}

#[test]
fn a_database_that_exists_can_be_replaced_and_that_is_said() {
    let application = Application::new("");
    application.cluster.sql("postgres", "create database other");
    let other = application.cluster.url("other");
    application.place.run(["restore", "latest", "--source", "db", "--to", &other]).failed(24, "--clean replaces it");
}

#[test]
fn what_a_prune_removed_cannot_be_undeleted_and_is_not_listed() {
    let place = tree("");
    place.run(["backup"]).good();
    let first = place.run(["snapshots", "--json"]).good().json()["snapshots"][0]["id"].as_str().unwrap().to_owned();
    place.write("srv/a.txt", "b");
    place.run(["backup"]).good();
    let ran = place.run(["forget", "--keep-within", "1d", "--dry-run", "--explain"]);
    assert!(format!("{}{}", ran.good().stdout, ran.stderr).contains("within 1d before the newest"), "{ran:?}");
    place.run(["forget", &first]).good();
    assert!(place.run(["undelete"]).good().stdout.contains(&first[..8]));
    place.run(["prune", "--grace", "0"]).good();
    let listed = place.run(["undelete"]);
    assert_eq!(listed.good().stdout, "", "{listed:?}");
    assert!(place.run(["undelete", "--json"]).good().json()["forgotten"].as_array().unwrap().is_empty());
}
