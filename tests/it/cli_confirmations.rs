//! What a person must say before something dangerous is done, on a terminal and without one; and dangerous things that
//! other machines, other kinds of source and files of other tools take part in.

use crate::cli_picker::on_terminal;
use crate::support::pg::Cluster;
use crate::support::program::{Place, run};
use std::path::Path;
use std::process::{Command, Stdio};

fn sqlite(path: &Path, statements: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

fn text_in(path: &Path) -> String {
    rusqlite::Connection::open(path).unwrap().query_row("select v from t", [], |row| row.get(0)).unwrap()
}

/// A SQLite database and a tree, saved as old and then changed; production is where they are.
fn changed() -> Place {
    let place = Place::with_repository();
    sqlite(&place.path("data.db"), "create table t (v text); insert into t values ('old')");
    place.write("srv/a.txt", "old");
    let folder = place.path("").display().to_string();
    place.write(
        "holdfast.toml",
        format!(
            "[[source]]\nname = \"journal\"\nkind = \"sqlite\"\npath = \"{folder}data.db\"\n\
             [[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"{folder}srv\"]\n[guard]\nsources = [\"journal\"]\n\
             [env.live]\nproduction = true\ntargets = {{ journal = \"{folder}data.db\", code = \"{folder}srv\" }}\n"
        ),
    );
    place.run(["backup"]).good();
    sqlite(&place.path("data.db"), "update t set v = 'new'");
    place.write("srv/a.txt", "new");
    place
}

fn state(place: &Place) -> (String, String) {
    (text_in(&place.path("data.db")), std::fs::read_to_string(place.path("srv/a.txt")).unwrap())
}

fn both(text: &str) -> (String, String) {
    (text.to_owned(), text.to_owned())
}

#[test]
fn production_is_restored_by_who_types_its_name() {
    let place = changed();
    let restore = ["restore", "latest", "--env", "live"];
    place.run(restore).failed(17, "--yes");
    for typed in ["y\n", "yes\n", "Live\n", "staging\n", "\n", ""] {
        let (shown, code) = on_terminal(&place, &restore, typed);
        assert!(code == 1 && shown.contains("Type its name"), "{typed:?}: {code} {shown}");
        assert_eq!(state(&place), both("new"), "{typed:?}: {shown}");
    }
    assert_eq!(place.run(["history", "restore", "--json"]).good().json()["history"].as_array().unwrap().len(), 0);
    let (shown, code) = on_terminal(&place, &restore, "live\n");
    assert_eq!((code, state(&place)), (0, both("old")), "{shown}");
    // The way back is a restore of production, too.
    let (shown, code) = on_terminal(&place, &["rollback", "--env", "live"], "yes\n");
    assert_eq!((code, state(&place)), (1, both("old")), "{shown}");
    let (shown, code) = on_terminal(&place, &["rollback", "--env", "live"], "live\n");
    assert_eq!((code, state(&place)), (0, both("new")), "{shown}");
}

#[test]
fn production_is_guarded_by_who_types_its_name() {
    let place = changed();
    let guard = ["guard", "run", "v1", "--env", "live", "--", "touch", "ran"];
    for typed in ["yes\n", "Live\n", ""] {
        let (shown, code) = on_terminal(&place, &guard, typed);
        assert!(code == 1 && !place.path("ran").exists(), "{typed:?}: {code} {shown}");
    }
    let (shown, code) = on_terminal(&place, &guard, "live\n");
    assert!(code == 0 && place.path("ran").exists(), "{code} {shown}");
}

#[test]
fn what_goes_over_existing_data_is_confirmed_on_a_terminal() {
    let place = changed();
    let restore = ["restore", "latest", "--source", "journal"];
    place.run(restore).failed(17, "--yes");
    for (typed, code, journal) in [("n\n", 1, "new"), ("\n", 1, "new"), ("y\n", 0, "old")] {
        let (shown, ended) = on_terminal(&place, &restore, typed);
        assert_eq!((ended, text_in(&place.path("data.db")).as_str()), (code, journal), "{typed:?}: {shown}");
        assert!(shown.contains("replaces what is there"), "{shown}");
    }
}

#[test]
fn the_type_chooses_databases_or_files() {
    let place = changed();
    for (kind, after) in [("database", ("old", "new")), ("codebase", ("new", "old")), ("full", ("old", "old"))] {
        sqlite(&place.path("data.db"), "update t set v = 'new'");
        place.write("srv/a.txt", "new");
        place.run(["restore", "latest", "--type", kind, "--yes"]).good();
        let (journal, code) = state(&place);
        assert_eq!((journal.as_str(), code.as_str()), after, "{kind}");
    }
    place.run(["restore", "latest", "--type", "database", "--db-only", "--yes"]).failed(2, "--type");
    place.run(["restore", "latest", "--type", "everything", "--yes"]).failed(2, "everything");
}

/// The program on a machine of another name.
fn elsewhere(place: &Place, args: &[&str]) -> Command {
    let program = place.command(args);
    let words: Vec<String> = std::iter::once(program.get_program())
        .chain(program.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut command = Command::new("unshare");
    command.args(["--uts", "sh", "-c", &format!("hostname elsewhere; exec {}", words.join(" "))]);
    command.env_clear().current_dir(place.path(""));
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn what_another_machine_began_is_taken_over_by_force_alone() {
    if !Command::new("unshare").args(["--uts", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user may not take another host name");
        return;
    }
    let place = changed();
    let config = std::fs::read_to_string(place.path("holdfast.toml")).unwrap();
    place.write("holdfast.toml", format!("{config}[service]\nstop = [\"sh\", \"-c\", \"touch stopped; exec sleep 600\"]\nstart = [\"true\"]\ntimeout = \"10m\"\n"));
    let quiet = |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut child = quiet(elsewhere(&place, &["restore", "latest", "--yes"]));
    while !place.path("stopped").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it stopped the application");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let status = place.run(["status"]).good().stdout.clone();
    assert!(status.contains("elsewhere"), "{status}");
    // Whether it lives cannot be told from here.
    place.write("holdfast.toml", &config);
    let ran = place.run(["restore", "latest", "--yes"]);
    assert!(ran.code == 11 && ran.stderr.contains("--break"), "{ran:?}");
    assert_eq!(state(&place), both("new"));
    place.run(["restore", "latest", "--yes", "--break"]).good();
    assert_eq!(state(&place), both("old"));
    assert_eq!(place.run(["status"]).good().stdout, "");
}

#[test]
fn a_file_of_another_tool_takes_the_place_of_a_database_with_a_way_back() {
    let (place, cluster) = (Place::with_repository(), Cluster::start());
    cluster.sql("postgres", "create database app");
    cluster.sql("app", "create table t (v text); insert into t values ('old')");
    for (format, name) in [("plain", "app_20240712.sql"), ("custom", "app_20240712.dump")] {
        let mut dump = Command::new(cluster.bin().join("pg_dump"));
        let dump =
            run(dump.args(["--format", format, "--file"]).arg(place.path(name)).arg("-d").arg(cluster.url("app")));
        dump.good();
    }
    let value = || -> String { cluster.session("app").query_one("select max(v) from t", &[]).unwrap().get(0) };
    let url = cluster.url("app");
    for name in ["app_20240712.sql", "app_20240712.dump"] {
        cluster.sql("app", "update t set v = 'new'");
        let ran = place.run(["restore", "--from-file", name, "--to", &url, "--clean"]);
        assert!(ran.code == 17 && value() == "new", "{name}: {ran:?}");
        place.run(["restore", "--from-file", name, "--to", &url, "--clean", "--yes"]).good();
        assert_eq!(value(), "old", "{name}");
        assert_eq!(cluster.databases(), ["app", "postgres"], "{name}");
        place.run(["rollback", "--yes"]).good();
        assert_eq!(value(), "new", "{name}");
    }
    // Damaged: nothing is touched.
    let whole = std::fs::read(place.path("app_20240712.dump")).unwrap();
    place.write("cut_20240712.dump", &whole[..whole.len() - 10]);
    let ran = place.run(["restore", "--from-file", "cut_20240712.dump", "--to", &url, "--clean", "--yes"]);
    assert_eq!((ran.code, value().as_str()), (13, "new"), "{ran:?}");
}
