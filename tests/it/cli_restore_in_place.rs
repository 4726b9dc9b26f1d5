//! Restores over what is there: PostgreSQL, SQLite and files, with a way back.

use crate::support::pg::Cluster;
use crate::support::program::{Place, can_mount};
use std::path::Path;

/// A place with a repository, a configuration of three sources, and one backup of them.
pub(crate) struct Application {
    pub(crate) place: Place,
    pub(crate) cluster: Cluster,
}

impl Application {
    pub(crate) fn new(extra: &str) -> Self {
        let (place, cluster) = (Place::with_repository(), Cluster::start());
        cluster.sql("postgres", "create role app login");
        cluster.sql("postgres", "create database app owner app");
        cluster.sql(
            "app",
            "create table t (id int primary key, v text); insert into t select g, 'old' || g from generate_series(1, 50) g; \
             alter table t owner to app",
        );
        sqlite(&place.path("data.db"), "create table t (v text); insert into t values ('old')");
        place.write("srv/a.txt", "old a");
        place.write("srv/sub/b.txt", "old b");
        let folder = place.path("");
        let config = format!(
            "[[source]]\nname = \"db\"\nkind = \"postgres\"\nurl = \"host={} dbname=app user=postgres\"\n\
             [[source]]\nname = \"journal\"\nkind = \"sqlite\"\npath = \"{folder}data.db\"\n\
             [[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"{folder}srv\"]\n{extra}",
            cluster.path("").display(),
            folder = folder.display(),
        );
        let config = config.replace("FOLDER", &folder.display().to_string());
        place.write("holdfast.toml", config.replace("SOCKET", &cluster.path("").display().to_string()));
        place.run(["backup"]).good();
        Self { place, cluster }
    }

    /// Changes everything that was saved.
    pub(crate) fn change(&self) {
        self.cluster
            .sql("app", "update t set v = 'new'; insert into t values (1000, 'new'); create table added (x int)");
        sqlite(&self.place.path("data.db"), "update t set v = 'new'");
        self.place.write("srv/a.txt", "new a");
        self.place.write("srv/new.txt", "new");
        std::fs::remove_file(self.place.path("srv/sub/b.txt")).unwrap();
    }

    pub(crate) fn state(&self) -> [String; 3] {
        let row = self.cluster.session("app").query_one("select string_agg(v, ',' order by id) from t", &[]).unwrap();
        let rows: String = row.get(0);
        let database = format!("{} {}", rows.split(',').count(), rows.split(',').next().unwrap());
        let journal = sqlite_text(&self.place.path("data.db"), "select v from t");
        let mut files: Vec<String> = crate::support::program::files_below(&self.place.path("srv"))
            .iter()
            .map(|path| {
                format!("{}={}", path.file_name().unwrap().to_string_lossy(), std::fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        [database, journal, files.join(" ")]
    }

    pub(crate) fn is_old(&self) {
        assert_eq!(self.state(), ["50 old1", "old", "a.txt=old a b.txt=old b"]);
        self.nothing_is_left();
    }

    pub(crate) fn is_new(&self) {
        assert_eq!(self.state(), ["51 new", "new", "a.txt=new a new.txt=new"]);
        self.nothing_is_left();
    }

    /// No database and no file of an act is left beside a place.
    pub(crate) fn nothing_is_left(&self) {
        assert_eq!(self.cluster.databases(), ["app", "postgres"]);
        let names: Vec<String> = std::fs::read_dir(self.place.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("holdfast-"))
            .collect();
        assert!(names.is_empty(), "{names:?}");
    }
}

fn sqlite(path: &Path, statements: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

fn sqlite_text(path: &Path, query: &str) -> String {
    rusqlite::Connection::open(path).unwrap().query_row(query, [], |row| row.get(0)).unwrap()
}

/// Writes down each call; `fail-WORD` and `hang-WORD` in the folder make it fail or hang.
const SERVICE: &str = r#"
[service]
stop = ["FOLDERservice", "stop"]
start = ["FOLDERservice", "start"]
status = ["FOLDERservice", "status"]
timeout = "3s"
[restore]
post_restore_check = ["FOLDERservice", "check"]
check_timeout = "3s"
[env.staging]
targets = { db = "host=SOCKET dbname=staging user=postgres", code = "FOLDERstaging" }
service = { stop = ["FOLDERservice", "stop-staging"], start = ["FOLDERservice", "start-staging"] }
[env.live]
production = true
targets = { db = "host=SOCKET dbname=app user=postgres" }
"#;
const SCRIPT: &str = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho \"$1\" >> service.log\n\
    test -e \"down-$1\" && { rm \"down-$1\"; sh ./stop-server; }\ntest -e \"hang-$1\" && sleep 60\n\
    test -e \"fail-$1\" && { echo \"$1 says no\" >&2; exit 3; }\n\
    test -e \"fail-once-$1\" && { rm \"fail-once-$1\"; exit 4; }\nexit 0\n";

impl Application {
    pub(crate) fn with_service() -> Self {
        let application = Self::new(SERVICE);
        let script = application.place.write("service", SCRIPT);
        std::fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        application.change();
        application
    }

    /// What the application was told since the last call.
    pub(crate) fn service_log(&self) -> String {
        let path = self.place.path("service.log");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Ending and state of the newest restore, as the history has it.
    fn history(&self) -> String {
        let ran = self.place.run(["history", "restore", "--json"]);
        ran.good().json()["history"].to_string()
    }
}

#[test]
fn everything_goes_back_and_rollback_undoes_it() {
    let application = Application::new("");
    application.change();
    let place = &application.place;
    // Nobody can be asked.
    place.run(["restore", "latest"]).failed(17, "confirmation");
    application.is_new();
    let ran = place.run(["restore", "latest", "--yes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("restored") && ran.stderr.contains("rollback"), "{ran:?}");
    application.is_old();
    // What was saved before a restore is not what `latest` means.
    place.run(["restore", "latest", "--yes"]).good();
    application.is_old();
    place.run(["rollback", "--yes"]).good();
    let ran = place.run(["rollback", "class:pre-restore", "--check"]);
    assert!(ran.good().stdout.contains("ok "), "{ran:?}");
    let snapshots = place.run(["snapshots", "--json"]).good().json();
    let saved = |s: &&serde_json::Value| s["class"] == "pre-restore";
    let mut saved: Vec<_> = snapshots["snapshots"].as_array().unwrap().iter().filter(saved).collect();
    saved.sort_by_key(|s| s["time"].as_str().unwrap().to_owned());
    place.run(["rollback", saved[0]["id"].as_str().unwrap(), "--yes"]).good();
    application.is_new();
    let status = place.run(["status"]);
    assert_eq!((status.code, status.stdout.as_str()), (0, ""), "{status:?}");
}

#[test]
fn the_application_is_stopped_started_and_asked() {
    let application = Application::with_service();
    let place = &application.place;
    place.run(["restore", "latest", "--yes"]).good();
    application.is_old();
    assert_eq!(application.service_log(), "stop start check");
    place.run(["service", "status"]).good();
    assert_eq!(application.service_log(), "status");
    place.write("fail-status", "");
    place.run(["service", "status"]).failed(1, "status");
    place.run(["service", "stop", "--env", "live"]).failed(2, "No command");
}

#[test]
fn whatever_the_application_does_wrong_puts_the_old_back() {
    let application = Application::with_service();
    let place = &application.place;
    for (flag, words, log) in [
        ("fail-check", "check says no", "stop start check stop start"),
        ("hang-check", "did not end within 3", "stop start check stop start"),
        ("fail-once-start", "exited with status 4", "stop start stop start"),
        ("fail-stop", "stop says no", "stop start"),
        ("hang-stop", "did not end within 3", "stop start"),
    ] {
        let flag = place.write(flag, "");
        application.service_log();
        let ran = place.run(["restore", "latest", "--yes"]);
        ran.failed(21, words);
        application.is_new();
        assert_eq!(application.service_log(), log, "{ran:?}");
        assert!(application.history().contains("rolled-back"), "{}", application.history());
        let _ = std::fs::remove_file(flag);
    }
    // The data is back, the application does not come up: that is for somebody to look at.
    let flag = place.write("fail-start", "");
    let ran = place.run(["restore", "latest", "--yes"]);
    ran.failed(21, "start says no");
    assert!(ran.stderr.contains("the application does not run"), "{ran:?}");
    application.is_new();
    let status = place.run(["status"]).good().stdout.clone();
    assert!(status.contains("rollback-failed") && status.contains("what was there before is in its place"), "{status}");
    std::fs::remove_file(flag).unwrap();
    let ran = place.run(["rollback"]);
    assert!(ran.good().stderr.contains("is in its place again"), "{ran:?}");
    assert_eq!(place.run(["status"]).good().stdout, "");
}

#[test]
fn a_test_touches_nothing_and_names_what_is_wrong() {
    let application = Application::with_service();
    let place = &application.place;
    let ran = place.run(["restore", "latest", "--check"]);
    assert!(ran.good().stdout.lines().all(|line| line.starts_with("ok ")), "{ran:?}");
    application.cluster.sql("app", "reassign owned by app to postgres");
    application.cluster.sql("postgres", "alter database app owner to postgres");
    application.cluster.sql("postgres", "drop role app");
    let ran = place.run(["restore", "latest", "--check"]);
    assert_eq!(ran.code, 24, "{ran:?}");
    assert!(ran.stdout.contains("FAIL") && ran.stdout.contains("roles that the server does not have: app"), "{ran:?}");
    place.run(["restore", "latest", "--yes"]).failed(24, "roles that the server does not have: app");
    application.is_new();
    assert_eq!(application.service_log(), "");
}

#[test]
fn another_environment_has_its_own_places_and_application() {
    let application = Application::with_service();
    let place = &application.place;
    application.cluster.sql("postgres", "create database staging");
    application.cluster.sql("staging", "create table t (id int, v text); insert into t values (1, 'staging')");
    place.write("staging/a.txt", "staging a");
    place.run(["restore", "latest", "--env", "stagin"]).failed(2, "did you mean 'staging'?");
    place.run(["restore", "latest", "--env", "staging", "--source", "journal"]).failed(2, "journal");
    let ran = place.run(["restore", "latest", "--env", "staging", "--yes"]);
    assert!(ran.good().stderr.contains("journal has no place in [env.staging] and is left out"), "{ran:?}");
    let text = |database: &str| -> String {
        application.cluster.session(database).query_one("select v from t where id = 1", &[]).unwrap().get(0)
    };
    assert_eq!((text("staging"), text("app")), ("old1".to_owned(), "new".to_owned()));
    assert_eq!(std::fs::read_to_string(place.path("staging/a.txt")).unwrap(), "old a");
    assert_eq!(std::fs::read_to_string(place.path("srv/a.txt")).unwrap(), "new a");
    assert_eq!(application.service_log(), "stop-staging start-staging");
    // What was there is saved under a name of its own.
    let snapshots = place.run(["snapshots", "--json", "--source", "db.staging"]).good().json();
    assert_eq!(snapshots["snapshots"].as_array().unwrap().len(), 1);
    place.run(["rollback", "--yes"]).good();
    assert_eq!(text("staging"), "staging");
    assert_eq!(std::fs::read_to_string(place.path("staging/a.txt")).unwrap(), "staging a");
    // Production is named.
    place.run(["restore", "latest", "--env", "live", "--source", "db"]).failed(17, "production");
    assert_eq!(text("app"), "new");
    place.run(["restore", "latest", "--env", "live", "--source", "db", "--yes"]).good();
    assert_eq!(text("app"), "old1");
}

#[test]
fn a_database_keeps_what_belongs_to_it_and_loses_its_sessions() {
    let application = Application::with_service();
    let (place, cluster) = (&application.place, &application.cluster);
    cluster.sql(
        "postgres",
        "create role reader; grant connect on database app to reader; comment on database app is 'it''s'",
    );
    for statement in [
        "alter database app set search_path to app, \"$user\", public",
        "alter database app set work_mem to '7MB'",
        "alter role reader in database app set work_mem to '8MB'",
        "alter database app connection limit 17",
        "revoke temporary on database app from public",
        "alter database app set default_transaction_read_only to on",
    ] {
        cluster.sql("postgres", statement);
    }
    let facts = "select jsonb_build_object('owner', pg_get_userbyid(datdba), 'limit', datconnlimit, 'acl', datacl::text, \
        'comment', shobj_description(d.oid, 'pg_database'), 'collate', datcollate, 'settings', (select \
        jsonb_agg(jsonb_build_array(setrole::regrole::text, setconfig) order by setrole) from pg_db_role_setting where \
        setdatabase = d.oid))::text from pg_database d where datname = 'app'";
    let facts = || -> String { cluster.session("postgres").query_one(facts, &[]).unwrap().get(0) };
    let before = facts();
    let mut busy = cluster.session("app");
    busy.simple_query("select 1").unwrap();
    let ran = place.run(["restore", "latest", "--source", "db", "--yes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(facts(), before);
    assert!(busy.simple_query("select 1").is_err());
    assert_eq!(application.state()[0], "50 old1");
    // A database that is gone is made again, and nobody is asked.
    cluster.sql("postgres", "drop database app");
    place.run(["restore", "latest", "--source", "db"]).good();
    assert_eq!(application.state()[0], "50 old1");
    // Another database is replaced when that is said.
    cluster.sql("postgres", "create database other");
    let other = cluster.url("other");
    place.run(["restore", "latest", "--source", "db", "--to", &other]).failed(24, "exists");
    place.run(["restore", "latest", "--source", "db", "--to", &other, "--clean"]).failed(17, "confirmation");
    place.run(["restore", "latest", "--source", "db", "--to", &other, "--clean", "--yes"]).good();
    let rows: i64 = cluster.session("other").query_one("select count(*) from t", &[]).unwrap().get(0);
    assert_eq!(rows, 50);
}

#[test]
fn two_restores_of_one_place_do_not_meet() {
    let application = Application::with_service();
    let place = &application.place;
    let config = std::fs::read_to_string(place.path("holdfast.toml")).unwrap();
    place.write("holdfast.toml", config.replace("timeout = \"3s\"", "timeout = \"10m\""));
    place.write("hang-stop", "");
    let mut first = place.command(["restore", "latest", "--yes"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    while !place.path("service.log").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let status = place.run(["status"]).good().stdout.clone();
    assert!(status.contains("under way") && status.contains("service-stop"), "{status}");
    place.run(["restore", "latest", "--yes"]).failed(11, "Another run works on");
    first.kill().unwrap();
    first.wait().unwrap();
    std::fs::remove_file(place.path("hang-stop")).unwrap();
    place.run(["rollback"]).good();
    application.is_new();
}

#[test]
fn a_server_that_goes_down_on_the_way_costs_nothing() {
    let application = Application::with_service();
    let (place, cluster) = (&application.place, &application.cluster);
    place.write("stop-server", cluster.stop_command());
    // Before the restore: nothing has left its place, and the application runs again.
    place.write("down-stop", "");
    place.run(["restore", "latest", "--yes"]).failed(14, "is in its place");
    assert_eq!(application.service_log(), "stop start");
    assert_eq!(place.run(["status"]).good().stdout, "");
    place.run(["restore", "latest", "--check"]).failed_with_output(14, "cannot be reached");
    cluster.start_again();
    application.is_new();
    // After the swap, and the check fails: it is taken back as soon as that can be done.
    place.write("down-check", "");
    let flag = place.write("fail-check", "");
    let ran = place.run(["restore", "latest", "--yes"]);
    ran.failed(22, "what was there before could not be put back");
    assert!(ran.stderr.contains("holdfast rollback"), "{ran:?}");
    cluster.start_again();
    place.run(["rollback"]).good();
    application.is_new();
    std::fs::remove_file(flag).unwrap();
    // After the swap, and the check is content: the new stays, the old goes as soon as that can be done.
    place.write("down-check", "");
    let ran = place.run(["restore", "latest", "--yes"]);
    assert!(ran.good().stderr.contains("Not removed"), "{ran:?}");
    cluster.start_again();
    assert_eq!(cluster.databases().len(), 3);
    let status = place.run(["status"]).good().stdout.clone();
    assert!(status.contains("settle"), "{status}");
    place.run(["restore", "latest", "--yes"]).good();
    application.is_old();
    assert_eq!(place.run(["status"]).good().stdout, "");
}

#[test]
fn an_interruption_takes_back() {
    let application = Application::with_service();
    let place = &application.place;
    let config = std::fs::read_to_string(place.path("holdfast.toml")).unwrap();
    place.write("holdfast.toml", config.replace("check_timeout = \"3s\"", "check_timeout = \"10m\""));
    place.write("hang-check", "");
    let mut child = place.command(["restore", "latest", "--yes"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    while !std::fs::read_to_string(place.path("service.log")).is_ok_and(|text| text.contains("check")) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    application.is_new();
    assert_eq!(application.service_log(), "stop start check stop start");
    assert_eq!(place.run(["status"]).good().stdout, "");
}

#[test]
fn a_full_disk_leaves_the_old_in_its_place() {
    if !can_mount() {
        eprintln!("skipped: this user may not mount a file system");
        return;
    }
    let place = Place::with_repository();
    let folder = place.path("").display().to_string();
    let config = format!(
        "[[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"{folder}disk/srv\"]\n\
         [[source]]\nname = \"journal\"\nkind = \"sqlite\"\npath = \"{folder}disk/data.db\"\n\
         [service]\nstop = [\"sh\", \"{folder}fill\"]\nstart = [\"rm\", \"-f\", \"{folder}disk/filler\"]\n"
    );
    place.write("holdfast.toml", config);
    place.write("fill", format!("dd if=/dev/zero of={folder}disk/filler bs=64k; true"));
    sqlite(&place.path("data.db"), "create table t (v text); insert into t values ('old')");
    let program = env!("CARGO_BIN_EXE_holdfast");
    let script = format!(
        "set -e; mkdir disk; mount -t tmpfs -o size=16m tmpfs disk; mkdir disk/srv; cp data.db disk/data.db
         head -c 3000000 /dev/urandom > disk/srv/big; echo old > disk/srv/a; {program} -q backup > /dev/null
         echo new > disk/srv/a; set +e
         {program} restore latest --yes; echo full $?; cat disk/srv/a; ls -a disk | grep holdfast-; ls disk
         head -c 12000000 /dev/zero > disk/zeros; {program} restore latest --yes; echo early $?; rm disk/zeros
         {program} -q restore latest --yes --no-safety --check; echo check $?
         printf true > fill; {program} restore latest --yes; echo good $?; cat disk/srv/a"
    );
    let mut command = place.command(["version"]);
    let mut shell = std::process::Command::new("unshare");
    shell.args(["--mount", "sh", "-c", &script]).env_clear().current_dir(place.path(""));
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.output().unwrap();
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("ok ")).collect();
    assert_eq!(lines, ["full 16", "new", "data.db", "srv", "early 16", "check 0", "good 0", "old"], "{text}\n{said}");
    let _ = &mut command;
}

/// Runs a restore and kills it so long after so many entries of its act are written.
fn kill_after(application: &Application, entries: usize, delay_ms: usize) {
    let place = &application.place;
    let acts = place.path("repository/acts");
    let written = || std::fs::read_dir(&acts).map_or(0, std::iter::Iterator::count);
    let wanted = written() + entries;
    let mut child = place
        .command(["restore", "latest", "--yes"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while written() < wanted && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_micros(300));
    }
    std::thread::sleep(std::time::Duration::from_millis(delay_ms as u64));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Kills a run at every step. Afterwards either the old or the new is whole in every place at once, by the next run alone.
fn killed_everywhere(application: &Application, round: usize, forward: impl Fn(usize) -> bool) {
    let place = &application.place;
    for entries in 1..=8 {
        if application.state()[0] == "50 old1" {
            application.change();
        }
        // At its beginning first, then later and later within it.
        kill_after(application, entries, round * (entries * 7 % 23));
        let status = place.run(["status"]).good().stdout.clone();
        if forward(entries) {
            // What was cut short is finished first, then it is restored once more.
            let ran = place.run(["restore", "latest", "--yes"]);
            assert_eq!(ran.code, 0, "{entries} {status}: {ran:?}");
            application.is_old();
        } else {
            let ran = place.run(["rollback", "--yes"]);
            let state = application.state();
            match state[0].as_str() {
                "50 old1" => application.is_old(),
                "51 new" => application.is_new(),
                _ => panic!("{entries} {status}: {state:?} {ran:?}"),
            }
        }
        assert_eq!(place.run(["status"]).good().stdout, "", "{entries} {status}");
    }
}

#[test]
fn a_run_killed_at_any_step_is_brought_to_an_end() {
    let application = Application::with_service();
    killed_everywhere(&application, 0, |entries| entries % 2 == 0);
}

/// The other half, for a long evening: `cargo nextest run --run-ignored only killed_at_any_step_both_ways`, with the number
/// of rounds of 16 kills in `HOLDFAST_KILL_ROUNDS`.
#[test]
#[ignore = "takes minutes"]
fn a_run_killed_at_any_step_both_ways() {
    let application = Application::with_service();
    let rounds = std::env::var("HOLDFAST_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    for round in 0..rounds {
        killed_everywhere(&application, round, |entries| entries % 2 == 1);
        killed_everywhere(&application, round, |entries| entries % 2 == 0);
    }
}

#[test]
fn what_no_backup_holds_stays() {
    let application = Application::new("exclude = [\"*.log\"]\n");
    let place = &application.place;
    for (path, text) in [("srv/.git/HEAD", "ref"), ("srv/sub/x.log", "log")] {
        place.write(path, text);
    }
    application.change();
    place.run(["restore", "latest", "--code-only", "--yes"]).good();
    let text = |path: &str| std::fs::read_to_string(place.path(path)).unwrap();
    assert_eq!(
        (text("srv/a.txt"), text("srv/.git/HEAD"), text("srv/sub/x.log")),
        ("old a".into(), "ref".into(), "log".into())
    );
    assert!(!place.path("srv/new.txt").exists());
    application.nothing_is_left();
    // One path alone.
    place.write("srv/a.txt", "new a");
    place.write("srv/sub/b.txt", "new b");
    let path = place.path("srv/sub/b.txt");
    place.run(["restore", &format!("latest:{}", path.display()), "--yes"]).good();
    assert_eq!((text("srv/a.txt"), text("srv/sub/b.txt")), ("new a".into(), "old b".into()));
    // A repository does not move away with a tree that holds it.
    place.write(
        "holdfast.toml",
        format!("[[source]]\nname = \"all\"\nkind = \"files\"\npaths = [\"{}\"]\n", place.path("").display()),
    );
    place.run(["backup"]).good();
    place.run(["restore", "latest", "--source", "all", "--yes"]).failed(24, "lies in it");
    application.nothing_is_left();
}
