//! Guards around real databases: kept, taken back, refused, killed anywhere and gone on with.

use crate::support::pg::Cluster;
use crate::support::program::{Place, Ran, run};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A repository, a PostgreSQL and a SQLite database, and a script that changes both.
struct Guarded {
    place: Place,
    cluster: Cluster,
}

fn sqlite(path: &Path, statements: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

impl Guarded {
    fn new(extra: &str) -> Self {
        let (place, cluster) = (Place::with_repository(), Cluster::start());
        cluster.sql("postgres", "create database app");
        cluster.sql(
            "app",
            "create table t (id int primary key, v text); insert into t select g, 'old' from generate_series(1, 50) g",
        );
        std::fs::create_dir(place.path("srv")).unwrap();
        sqlite(&place.path("srv/data.db"), "create table t (v text); insert into t values ('old')");
        sqlite(&place.path("new.db"), "create table t (v text); insert into t values ('new')");
        let folder = place.path("").display().to_string();
        let config = format!(
            "[[source]]\nname = \"db\"\nkind = \"postgres\"\nurl = \"{}\"\n\
             [[source]]\nname = \"journal\"\nkind = \"sqlite\"\npath = \"{folder}srv/data.db\"\n{extra}",
            cluster.url("app"),
        );
        place.write("holdfast.toml", config.replace("FOLDER", &folder).replace("URL", &cluster.url("app")));
        let change = format!(
            "'{}' -q \"{}\" -c \"update t set v = 'new'; insert into t values (1000, 'new'); create table added (x int)\" \
             || exit 99\ncp new.db srv/data.db || exit 98\n",
            cluster.bin().join("psql").display(),
            cluster.url("app"),
        );
        place.write("change.sh", change);
        Self { place, cluster }
    }

    fn guard(&self, args: &[&str]) -> Ran {
        self.place.run([&["guard"], args].concat())
    }

    /// Runs a script under a guard, after everything was changed.
    fn run(&self, flags: &[&str], script: &str) -> Ran {
        let script = format!(". ./change.sh; {script}");
        self.guard(&[&["run"], flags, &["--", "sh", "-c", &script]].concat())
    }

    fn state(&self) -> (String, String) {
        let row = self.cluster.session("app").query_one("select count(*)::text, min(v) || max(v) from t", &[]).unwrap();
        let (count, values): (String, String) = (row.get(0), row.get(1));
        let journal = rusqlite::Connection::open(self.place.path("srv/data.db")).unwrap();
        let journal = journal.query_row("select v from t", [], |row| row.get(0)).unwrap();
        (format!("{count} {values}"), journal)
    }

    #[track_caller]
    fn is_old(&self) {
        assert_eq!(self.state(), ("50 oldold".to_owned(), "old".to_owned()));
        self.nothing_is_left();
    }

    #[track_caller]
    fn is_new(&self) {
        assert_eq!(self.state(), ("51 newnew".to_owned(), "new".to_owned()));
        self.nothing_is_left();
    }

    /// No database and no file of an act is left beside a place.
    #[track_caller]
    fn nothing_is_left(&self) {
        assert_eq!(self.cluster.databases(), ["app", "postgres"]);
        let names: Vec<String> = std::fs::read_dir(self.place.path("srv"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("holdfast"))
            .collect();
        assert!(names.is_empty(), "{names:?}");
    }

    /// Open guards, as `guard status --json` tells of them.
    fn open(&self) -> Vec<serde_json::Value> {
        self.guard(&["status", "--json"]).good().json()["guards"].as_array().unwrap().clone()
    }

    /// The newest guard of the history: its state and the states of its entries.
    fn newest(&self) -> (String, Vec<String>) {
        let history = self.guard(&["history", "--json"]).good().json();
        let newest = &history["history"][0];
        let states = newest["entries"].as_array().unwrap().iter();
        let ending = newest["entries"].as_array().unwrap().last().unwrap()["body"]["ending"].as_str();
        let states = states.map(|entry| entry["body"]["state"].as_str().unwrap().to_owned()).collect();
        (ending.unwrap_or("open").to_owned(), states)
    }

    /// Starts a guarded run and does not wait for it.
    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.place.command([&["guard"], args].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Files of acts.
    fn acts(&self) -> Vec<PathBuf> {
        crate::support::program::files_below(&self.place.path("repository/acts"))
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn success_stays_and_failure_is_taken_back_by_itself() {
    let guarded = Guarded::new("");
    let ran = guarded.run(&["v1", "-m", "first", "--validate", "exit 3"], "echo done");
    assert_eq!((ran.code, ran.stdout.as_str()), (23, "done\n"), "{ran:?}");
    assert!(ran.stderr.contains("exited with status 3") && ran.stderr.contains("restored and proved"), "{ran:?}");
    guarded.is_old();
    let ran = guarded.run(&["v1"], "exit 7");
    assert_eq!(ran.code, 23, "{ran:?}");
    assert!(ran.stderr.contains("exited with status 7"), "{ran:?}");
    guarded.is_old();
    assert_eq!(guarded.newest().0, "rolled-back");
    let began = Instant::now();
    let hung = guarded.run(&["v1", "--validate", "sleep 600", "--validate-timeout", "1s"], "true");
    assert_eq!(hung.code, 23, "{hung:?}");
    assert!(hung.stderr.contains("did not end within 1.0s") && began.elapsed() < Duration::from_secs(100), "{hung:?}");
    guarded.is_old();
    guarded.guard(&["run", "v1", "--", "/nonexistent/program"]).failed(23, "cannot be run");
    guarded.is_old();

    let ran = guarded.run(&["v1", "--validate", "grep -q journal holdfast.toml"], "cat; echo done");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "done\n"), "{ran:?}");
    guarded.is_new();
    let expected =
        ["opening", "checking", "saving", "verifying", "open", "running", "running", "validating", "finished"];
    assert_eq!(guarded.newest(), ("completed".to_owned(), expected.map(str::to_owned).to_vec()));
    assert!(guarded.open().is_empty());
    let snapshots = guarded.place.run(["snapshots", "guard:v1", "--json"]).good().json();
    assert_eq!(snapshots["snapshots"][0]["class"], "pre-migration");
    assert_eq!(snapshots["snapshots"][0]["tags"], serde_json::json!(["guard:v1"]));
    let history = guarded.place.run(["history", "guard"]);
    assert!(history.good().stdout.contains("first") && history.stdout.contains("finished"), "{history:?}");
    guarded.place.run(["verify", "--read-data"]).good();
}

#[test]
fn a_guard_by_hand_is_alone_until_it_is_closed() {
    let guarded = Guarded::new("");
    let begun = guarded.guard(&["begin", "v1", "-m", "index on orders"]);
    assert_eq!(begun.code, 0, "{begun:?}");
    assert_eq!(begun.stdout.trim_end().len(), 32, "{begun:?}");
    for args in
        [&["run", "v2", "--", "touch", "ran"][..], &["begin", "v3", "--source", "journal"], &["test", "--", "true"]]
    {
        let refused = guarded.guard(&[&["--retry-lock", "1h"], args].concat());
        for words in ["v1", "index on orders", "open", "process", "guard complete v1"] {
            refused.failed(18, words);
        }
    }
    assert!(!guarded.place.path("ran").exists());
    let status = guarded.guard(&["status"]);
    assert!(status.good().stdout.contains("index on orders") && status.stdout.contains("db, journal"), "{status:?}");
    let open = guarded.open();
    assert_eq!((open[0]["guard"].as_str(), open[0]["state"].as_str()), (Some("v1"), Some("open")));
    assert_eq!(open[0]["snapshot_id"].as_str(), Some(begun.stdout.trim_end()));

    run(Command::new("sh").arg("change.sh").current_dir(guarded.place.path(""))).good();
    guarded.guard(&["rollback", "v1"]).failed(17, "--yes");
    guarded.is_new();
    guarded.guard(&["rollback", "v1", "--yes"]).good();
    guarded.is_old();
    guarded.guard(&["complete", "v1"]).failed(18, "closed already: rolled-back");
    guarded.guard(&["rollback", "nobody", "--yes"]).failed(24, "nobody");

    // By force: asked for first, then closed; what was done stays.
    guarded.guard(&["begin", "v4", "--source", "journal"]).good();
    guarded.guard(&["begin", "v5", "--break"]).failed(17, "force");
    let forced = guarded.guard(&["begin", "v5", "--break", "--yes"]);
    assert!(forced.good().stderr.contains("v4"), "{forced:?}");
    assert!(guarded.guard(&["status", "v4"]).good().stdout.contains("broken"));
    guarded.guard(&["complete", "v5"]).good();
    assert!(guarded.open().is_empty());

    // Snapshots of closed guards go when they are old.
    guarded.guard(&["begin", "v6", "--source", "journal"]).good();
    let would = guarded.guard(&["cleanup", "0", "--dry-run", "--json"]).good().json();
    assert_eq!(would["forgotten"].as_array().unwrap().len(), 3);
    assert!(guarded.guard(&["cleanup"]).good().stderr.contains("forgot 0"));
    guarded.guard(&["cleanup", "0"]).good();
    guarded.place.run(["snapshots", "guard:v5"]).failed(20, "guard:v5");
    guarded.guard(&["rollback", "v6", "--yes"]).good();
}

#[test]
fn ctrl_c_ends_the_command_and_takes_it_back() {
    let guarded = Guarded::new("");
    let script = ". ./change.sh; echo $$ > pid; sleep 600 & wait";
    let child = guarded.start(&["run", "v1", "--", "sh", "-c", script]);
    let pid = guarded.place.path("pid");
    until("the command", || pid.exists() && std::fs::read_to_string(&pid).unwrap().ends_with('\n'));
    run(Command::new("kill").args(["-INT", &child.id().to_string()])).good();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    guarded.is_old();
    assert_eq!(guarded.newest().0, "rolled-back");
    let command = std::fs::read_to_string(pid).unwrap();
    assert!(!Path::new("/proc").join(command.trim_end()).exists(), "the command lives on");
}

#[test]
fn after_a_test_everything_is_as_before() {
    let guarded = Guarded::new("");
    for (script, code) in [(". ./change.sh", 0), (". ./change.sh; exit 1", 23)] {
        let ran = guarded.guard(&["test", "-m", "destructive", "--", "sh", "-c", script]);
        assert_eq!(ran.code, code, "{ran:?}");
        guarded.is_old();
    }
    let snapshots = guarded.place.run(["snapshots", "--json"]).good().json();
    assert_eq!(snapshots["snapshots"][0]["class"], "safety");
    let drills = guarded.place.run(["history", "drill", "--json"]).good().json();
    let states: Vec<&Value> = drills["history"].as_array().unwrap().iter().map(|drill| &drill["state"]).collect();
    assert_eq!(states, ["proved", "proved"], "{drills:#}");
}

/// Tests that destroy are not let near a database whose snapshot was not seen to come back whole.
#[test]
fn a_test_does_not_begin_before_its_snapshot_was_restored_and_compared() {
    let guarded = Guarded::new("");
    let (bin, fault) = (guarded.place.path("bin"), guarded.place.path("fault.sql"));
    guarded.cluster.programs_with_fault(&bin, &fault);
    let config = std::fs::read_to_string(guarded.place.path("holdfast.toml")).unwrap();
    let bin_dir = format!("kind = \"postgres\"\npg_bin_dir = \"{}\"", bin.display());
    guarded.place.write("holdfast.toml", config.replace("kind = \"postgres\"", &bin_dir));
    for (statements, code, words) in [
        (
            "do $$ begin update t set v = 'other' where id = 7; exception when undefined_table then null; end $$",
            19,
            "not all with the saved",
        ),
        ("select no_such_thing()", 19, "pg_restore exited with status 3"),
        ("select 1", 0, "db of"),
    ] {
        std::fs::write(&fault, statements).unwrap();
        let ran = guarded.guard(&["test", "--", "touch", "ran"]);
        assert_eq!((ran.code, ran.stderr.contains(words)), (code, true), "{ran:?}");
        assert_eq!(guarded.place.path("ran").exists(), code == 0, "{ran:?}");
        guarded.is_old();
    }
}

/// Killed with -9 while the steps of a guard are written: what is left can be told and brought to its end.
#[test]
fn a_guard_killed_anywhere_can_be_gone_on_with() {
    for entry in 0..=4u16 {
        let guarded = Guarded::new("");
        // nothing that runs may outlive the test, so the last ones are killed in a guard without a command
        let args = ["run", "v1", "--", "touch", "ran"];
        let mut child = guarded.start(if entry < 3 { &args } else { &["begin", "v1"] });
        let suffix = format!(".{entry:04}");
        // a claim has one entry, and comes after the first of the guard
        let at = |file: &PathBuf| file.to_string_lossy().ends_with(&suffix);
        until(&suffix, || guarded.acts().iter().any(at));
        kill(&mut child);
        let open = guarded.open();
        let state = open[0]["state"].as_str().unwrap().to_owned();
        assert_eq!(open[0]["owner"], "dead", "{open:?}");
        assert!(!guarded.place.path("ran").exists(), "the command was begun at {state}");
        guarded.is_old();
        if let Some(snapshot) = open[0]["snapshot_id"].as_str() {
            guarded.place.run(["forget", "--even-last", snapshot]).failed(24, "v1");
        }
        if matches!(state.as_str(), "opening" | "checking" | "saving" | "verifying") {
            guarded.guard(&["complete", "v1"]).failed(24, "before it opened");
            // the next one is not kept waiting
            guarded.run(&["v2"], "true").good();
            guarded.is_new();
        } else {
            guarded.guard(&["run", "v2", "--", "true"]).failed(18, "v1");
            guarded.guard(&["rollback", "v1", "--yes"]).good();
            guarded.is_old();
        }
        assert!(guarded.open().is_empty(), "{state}");
    }
}

#[test]
fn a_guard_killed_under_its_command_is_completed_or_rolled_back() {
    for back in [true, false] {
        let guarded = Guarded::new("");
        let script = ". ./change.sh; echo $$ > pid; exec sleep 600";
        let mut child = guarded.start(&["run", "v1", "--", "sh", "-c", script]);
        let pid = guarded.place.path("pid");
        until("the command", || pid.exists() && std::fs::read_to_string(&pid).unwrap().ends_with('\n'));
        guarded.guard(&["rollback", "v1", "--yes"]).failed(18, "goes on by itself");
        kill(&mut child);
        let open = guarded.open();
        assert_eq!((open[0]["state"].as_str(), open[0]["owner"].as_str()), (Some("running"), Some("dead")), "{open:?}");
        let status = guarded.guard(&["status"]).stdout;
        assert!(status.contains("cut short") && status.contains("guard rollback v1"), "{status}");
        // What it started lives on, and would write into what is put back.
        let command = std::fs::read_to_string(&pid).unwrap();
        guarded.guard(&["rollback", "v1", "--yes"]).failed(18, command.trim_end());
        run(Command::new("kill").args(["-9", command.trim_end()])).good();
        until("its end", || {
            let stat = std::fs::read_to_string(Path::new("/proc").join(command.trim_end()).join("stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        });
        match back {
            true => {
                guarded.guard(&["rollback", "v1", "--yes"]).good();
                guarded.is_old();
            }
            false => {
                guarded.guard(&["complete", "v1"]).good();
                guarded.is_new();
            }
        }
        assert!(guarded.open().is_empty());
        guarded.run(&["v2"], "true");
    }
}

/// Killed while it validates, and again and again while the state before is put back.
#[test]
fn a_guard_killed_while_it_rolls_back_is_rolled_back() {
    let guarded = Guarded::new("");
    let validate = ["--validate", "echo $$ > pid; touch validating; exec sleep 600", "--validate-timeout", "1h"];
    let args = [&["run", "v1"], &validate[..], &["--", "sh", "-c", ". ./change.sh"]].concat();
    let mut child = guarded.start(&args);
    until("the validation", || guarded.place.path("validating").exists());
    kill(&mut child);
    let validation = std::fs::read_to_string(guarded.place.path("pid")).unwrap();
    run(Command::new("kill").args(["-9", validation.trim_end()])).good();
    assert_eq!(guarded.open()[0]["state"], "validating");
    guarded.is_new();
    // Each time at a later file of the acts, until one gets through.
    for files in 1.. {
        let before = guarded.acts().len();
        let mut child = guarded.start(&["rollback", "v1", "--yes"]);
        let mut ended = None;
        until("a step", || {
            ended = child.try_wait().unwrap();
            ended.is_some() || guarded.acts().len() >= before + files
        });
        if let Some(status) = ended {
            assert!(status.success(), "{status:?}");
            assert!(files > 4, "it was killed at no step");
            break;
        }
        kill(&mut child);
        let open = guarded.open();
        if open.is_empty() {
            break;
        }
        assert!(matches!(open[0]["state"].as_str(), Some("validating" | "rolling-back")), "{open:?}");
        guarded.guard(&["run", "v2", "--", "true"]).failed(18, "v1");
    }
    guarded.is_old();
    assert!(guarded.guard(&["status", "v1"]).good().stdout.contains("rolled-back"));
    guarded.run(&["v2"], "true").good();
    guarded.is_new();
}

#[test]
fn a_rollback_that_fails_says_what_to_do() {
    let guarded = Guarded::new("[guard]\nsources = [\"journal\"]\n");
    let script = ". ./change.sh; mv srv away; echo in the way > srv; exit 1";
    let failed = guarded.guard(&["run", "v1", "--", "sh", "-c", script]);
    failed.failed(22, "could not be put back");
    assert!(failed.stderr.contains("guard rollback v1") && failed.stderr.contains("guard:v1"), "{failed:?}");
    assert_eq!(guarded.open()[0]["state"], "rollback-failed");
    guarded.guard(&["run", "v2", "--", "true"]).failed(18, "v1");
    guarded.guard(&["run", "v2", "--break", "--yes", "--", "true"]).failed(24, "rollback");
    std::fs::remove_file(guarded.place.path("srv")).unwrap();
    std::fs::rename(guarded.place.path("away"), guarded.place.path("srv")).unwrap();
    guarded.guard(&["rollback", "v1", "--yes"]).good();
    // Only what was covered went back.
    assert_eq!(guarded.state(), ("51 newnew".to_owned(), "old".to_owned()));
    guarded.nothing_is_left();
}

#[test]
fn what_cannot_be_saved_is_not_guarded() {
    let guarded = Guarded::new("");
    std::fs::write(guarded.place.path("srv/data.db"), vec![7u8; 8192]).unwrap();
    let refused = guarded.guard(&["run", "v1", "--", "touch", "ran"]);
    assert_eq!(refused.code, 14, "{refused:?}");
    std::fs::remove_file(guarded.place.path("srv/data.db")).unwrap();
    guarded.guard(&["run", "v1", "--", "touch", "ran"]).failed(14, "data.db");
    assert!(!guarded.place.path("ran").exists());
    assert!(guarded.open().is_empty());
    assert_eq!(guarded.newest().0, "refused");
    guarded.guard(&["run", "v1", "--source", "nobody", "--", "true"]).failed(2, "nobody");
    guarded.guard(&["run", "v1", "--source", "db"]).failed(2, "COMMAND");
    guarded.guard(&["begin", "v1:x"]).failed(2, "letters");
    let dry = guarded.guard(&["run", "v1", "--dry-run", "--", "touch", "ran"]);
    assert!(dry.good().stderr.contains("would"), "{dry:?}");
    assert!(!guarded.place.path("ran").exists());
}

#[test]
fn production_wants_its_name_and_a_fresh_snapshot() {
    let guarded = Guarded::new(
        "[guard]\nsources = [\"journal\"]\nfresh_within = \"1h\"\n\
         [env.live]\nproduction = true\ntargets = { journal = \"FOLDERsrv/data.db\" }\n",
    );
    let live = |flags: &[&str]| {
        guarded.guard(&[&["run", "v1", "--env", "live"], flags, &["--", "cp", "new.db", "srv/data.db"]].concat())
    };
    live(&[]).failed(17, "live is production");
    live(&["--yes"]).failed(18, "fresh");
    guarded.place.run(["backup", "--time", "2001-02-03"]).good();
    live(&["--yes"]).failed(18, "fresh means within 1h");
    assert_eq!(guarded.state().1, "old");
    guarded.guard(&["test", "--env", "live", "--yes", "--", "true"]).failed(18, "production");
    guarded.place.run(["backup"]).good();
    live(&["--yes"]).good();
    assert_eq!(guarded.state().1, "new");
    guarded.guard(&["run", "v2", "--env", "nowhere", "--", "true"]).failed(2, "nowhere");
}
