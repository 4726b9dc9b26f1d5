//! The restores, migrations and monthly tests of the five systems that holdfast replaces, walked as their users walked
//! them: one test for each of their scripts, or for a few that belong together. docs/old-commands.md says which is where.

use crate::cli_picker::on_terminal_slowly;
use crate::cli_restore_in_place::Application;
use crate::support::program::{Place, Ran};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Snapshots that a list prints, newest first.
fn listed(place: &Place, args: &[&str]) -> Vec<Value> {
    let ran = place.run([&["list", "--json"], args].concat());
    ran.good().json()["snapshots"].as_array().unwrap().clone()
}

/// A program of the system, which must succeed; its output.
fn system(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A script of the team, which works in the folder that it lies in.
fn script(place: &Place, name: &str, text: &str) -> String {
    let path = place.write(name, format!("#!/bin/sh\nset -e\ncd '{}'\n{text}\n", place.path("").display()));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// The words for `psql` in the application's database.
fn psql(application: &Application, statements: &str) -> String {
    let program = application.cluster.bin().join("psql");
    let url = application.cluster.url("app");
    format!("'{}' -q -v ON_ERROR_STOP=1 \"{url}\" -c \"{statements}\"", program.display())
}

fn dump(application: &Application, format: &str) -> Vec<u8> {
    let mut command = Command::new(application.cluster.bin().join("pg_dump"));
    system(command.args(["--format", format, "-d"]).arg(application.cluster.url("app")))
}

fn gzip(path: &Path) {
    system(Command::new("gzip").arg("-f").arg(path));
}

/// Rows of the application's table, and the first of their values.
fn rows(application: &Application, database: &str) -> String {
    let query = "select count(*) || ' ' || (select v from t order by id limit 1) from t";
    application.cluster.session(database).query_one(query, &[]).unwrap().get(0)
}

/// Changes everything that was saved, whatever it was changed to before.
fn change(application: &Application) {
    application.place.write("srv/sub/b.txt", "");
    application.cluster.sql("app", "drop table if exists added; delete from t where id = 1000");
    application.change();
}

// Budget Famille

/// `organize_backups.sh`: scattered files are verified, put in order, kept 90 days, and listed in an inventory.
#[test]
fn budget_famille_organizes_its_old_backups() {
    let application = Application::new("");
    let place = &application.place;
    place.write("old/desktop/app_backup_20240710_020000.sql", dump(&application, "plain"));
    gzip(&place.path("old/desktop/app_backup_20240710_020000.sql"));
    change(&application);
    place.write("old/app_backup_20240711_020000.sql", dump(&application, "plain"));
    place.write("old/server/app_20240712_020000.dump", dump(&application, "custom"));
    std::fs::create_dir_all(place.path("old/phone")).unwrap();
    std::fs::copy(place.path("data.db"), place.path("old/phone/journal_2024-07-13.sqlite")).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(place.path("old/site_20240714.tar.gz")).arg("-C").arg(place.path("")).arg("srv");
    system(&mut tar);
    // One that was cut off while it was copied.
    let whole = std::fs::read(place.path("old/desktop/app_backup_20240710_020000.sql.gz")).unwrap();
    place.write("old/desktop/app_backup_20240709_020000.sql.gz", &whole[..whole.len() / 2]);

    let inventory = place.run(["import", "old", "--dry-run"]);
    assert!(inventory.code == 3 && inventory.stdout.contains("journal_2024-07-13.sqlite"), "{inventory:?}");
    assert_eq!(listed(place, &["--class", "manual"]).len(), 0, "a dry run stores nothing");
    let ran = place.run(["import", "old"]);
    assert!(ran.code == 3 && ran.stderr.contains("20240709_020000.sql.gz"), "{ran:?}");
    let imported = listed(place, &["--class", "manual"]);
    let days: Vec<&str> = imported.iter().map(|snapshot| &snapshot["time"].as_str().unwrap()[..10]).collect();
    assert_eq!(days, ["2024-07-14", "2024-07-13", "2024-07-12", "2024-07-11", "2024-07-10"]);
    assert_eq!(std::fs::read(place.path("old/desktop/app_backup_20240710_020000.sql.gz")).unwrap(), whole);
    let again = place.run(["import", "old"]);
    assert!(again.stdout.contains("0 files") || again.stderr.contains("0 files"), "{again:?}");
    assert_eq!(listed(place, &["--class", "manual"]).len(), 5, "nothing is imported twice");
    // Each of them goes back to where it can be used.
    let one = |day: &str| imported.iter().find(|s| s["time"].as_str().unwrap().starts_with(day)).unwrap();
    let id = |day: &str| one(day)["id"].as_str().unwrap().to_owned();
    for (day, expected) in [("2024-07-10", "50 old1"), ("2024-07-11", "51 new"), ("2024-07-12", "51 new")] {
        let database = format!("copy_{}", day.replace('-', ""));
        place.run(["restore", &id(day), "--to", &application.cluster.url(&database)]).good();
        assert_eq!(rows(&application, &database), expected, "{day}");
    }
    place.run(["restore", &id("2024-07-13"), "--to", "journal-copy.db"]).good();
    place.run(["restore", &id("2024-07-14"), "--target", "out"]).good();
    let listing = system(Command::new("sh").arg("-c").arg("tar -tf out/*.tar").current_dir(place.path("")));
    assert!(String::from_utf8_lossy(&listing).contains("srv/a.txt"));
    // They are kept for 90 days from the newest of them.
    let explained = place.run(["forget", "--dry-run", "--explain", "--class", "manual"]);
    assert!(explained.good().stdout.contains("keep"), "{explained:?}");
}

/// `backup_rotation.sh daily|weekly|manual|cleanup`.
#[test]
fn budget_famille_rotates() {
    let application = Application::new("");
    let place = &application.place;
    for day in 1..=12 {
        let time = format!("2024-07-{day:02}T02:00");
        place.run(["backup", "--db-only", "--class", "daily", "--time", &time]).good();
    }
    place.run(["backup", "--class", "weekly", "--time", "2024-07-07T03:00"]).good();
    place.run(["backup", "--class", "manual", "--time", "2024-05-01T12:00"]).good();
    let would = place.run(["cleanup", "--preset", "bf", "--dry-run", "--explain"]);
    assert!(would.good().stdout.contains("forget"), "{would:?}");
    assert_eq!(listed(place, &["--class", "daily"]).len(), 12);
    place.run(["forget", "--preset", "bf", "--prune"]).good();
    assert_eq!(listed(place, &["--class", "daily"]).len(), 7);
    assert_eq!(listed(place, &["--class", "weekly"]).len(), 1);
    place.run(["verify", "--all"]).good();
}

/// `pre_migration_backup.sh create ID TEXT`, then `complete ID` or `rollback ID`; `status`, `cleanup DAYS`.
#[test]
fn budget_famille_migrates_by_hand() {
    let application = Application::new("");
    let place = &application.place;
    // BACKUP_PATH=$(... create ...): the address and nothing else.
    let address =
        place.run(["guard", "begin", "20241101_categories", "-m", "categories get colours"]).good().stdout.clone();
    let address = address.trim_end();
    assert!(address.len() == 32 && address.bytes().all(|b| b.is_ascii_hexdigit()), "{address}");
    place.run(["verify", address]).good();
    assert_eq!(listed(place, &[address])[0]["class"], "pre-migration");
    let status = place.run(["guard", "status"]).good().stdout.clone();
    assert!(status.contains("20241101_categories") && status.contains("categories get colours"), "{status}");
    // Two migrations at once are prevented.
    place.run(["guard", "begin", "20241102_other"]).failed(18, "20241101_categories");
    change(&application);
    place.run(["guard", "complete", "20241101_categories"]).good();
    assert_eq!(application.state()[..2], ["51 new".to_owned(), "new".to_owned()]);
    assert!(!place.run(["guard", "status"]).good().stdout.contains("20241101"));

    place.run(["guard", "begin", "20241103_currencies", "-m", "goes wrong"]).good();
    application.cluster.sql("app", "drop table t");
    place.run(["guard", "rollback", "20241103_currencies"]).failed(17, "confirmation");
    place.run(["guard", "rollback", "20241103_currencies", "--yes"]).good();
    assert_eq!(application.state()[0], "51 new");
    application.nothing_is_left();
    let history = place.run(["guard", "history"]).good().stdout.clone();
    assert!(history.contains("20241101_categories") && history.contains("rolled-back"), "{history}");
    place.run(["guard", "cleanup", "30"]).good();
    assert_eq!(listed(place, &["--class", "pre-migration"]).len(), 2, "younger than 30 days");
    place.run(["guard", "cleanup", "0"]).good();
    assert_eq!(listed(place, &["--class", "pre-migration"]).len(), 0);
}

/// `restore_database.sh`, with a choice; `from-file FILE`, `list`, `validate FILE`, `history`.
#[test]
fn budget_famille_restores_what_it_chooses() {
    let application = Application::new("");
    let place = &application.place;
    change(&application);
    place.run(["backup", "--class", "daily"]).good();
    application.cluster.sql("app", "delete from t");
    // The older of the two, by its number; then the warning is answered.
    let (shown, code) = on_terminal_slowly(place, &["restore", "--db-only"], "1", "2\ny\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("Replace what is in these 2 places?"), "{shown}");
    assert_eq!(application.state()[..2], ["50 old1".to_owned(), "old".to_owned()]);
    assert_eq!(listed(place, &["--class", "pre-restore"]).len(), 1, "what was there was saved first");
    assert_eq!(listed(place, &["--class", "daily"]).len(), 1);

    change(&application);
    let file = place.write("elsewhere/app_20240101_000000.sql", dump(&application, "plain"));
    gzip(&file);
    application.cluster.sql("app", "truncate t");
    let file = format!("{}.gz", file.display());
    let (url, before) = (application.cluster.url("app"), listed(place, &[]).len());
    place.run(["restore", "--from-file", &file, "--to", &url, "--clean"]).failed(17, "confirmation");
    place.run(["restore", "--from-file", &file, "--to", &url, "--clean", "--yes"]).good();
    assert_eq!(rows(&application, "app"), "51 new");
    assert_eq!(listed(place, &[]).len(), before + 2, "the file and what was there before");
    // A file that is not whole is refused before anything is touched.
    let whole = std::fs::read(&file).unwrap();
    let cut = place.write("elsewhere/app_20240102_000000.sql.gz", &whole[..whole.len() - 20]).display().to_string();
    place.run(["import", &cut, "--dry-run"]).failed_with_output(13, "app_20240102");
    let ran = place.run(["restore", "--from-file", &cut, "--to", &url, "--clean", "--yes"]);
    assert_eq!(ran.code, 13, "{ran:?}");
    assert_eq!(rows(&application, "app"), "51 new");
    place.run(["verify", "latest"]).good();
    let history = place.run(["history", "restore"]).good().stdout.clone();
    assert_eq!(history.matches("restored").count(), 2, "{history}");
}

// Journal

/// `backup_system.py backup|list|verify|stats|remove|cleanup` and `backup_restore.py list|test TS|restore TS --type`.
#[test]
fn journal_tests_and_restores_by_timestamp() {
    let application = Application::with_service();
    let place = &application.place;
    // What with_service() changed is the state of the evening before.
    let times = ["2024-07-08T14:30:22", "2024-07-09T14:30:22"];
    let first = listed(place, &[])[0]["id"].as_str().unwrap().to_owned();
    place.run(["backup", "--time", times[1], "--class", "daily"]).good();
    place.run(["restore", &first, "--yes"]).good();
    place.run(["backup", "--time", times[0], "--class", "manual"]).good();
    change(&application);
    let list = place.run(["list"]).good().stdout.clone();
    assert!(list.contains("2024-07-08") && list.contains("2024-07-09"), "{list}");
    // Parseable: another script takes the first field of the first line.
    let newest = place.run(["list", "--format", "{id}|{time}", "--class", "daily"]).good().stdout.clone();
    let id = newest.lines().next().unwrap().split('|').next().unwrap();
    place.run(["verify", id]).good();
    place.run(["verify", "--all", "--report", "report.json"]).good();
    assert!(std::fs::read_to_string(place.path("report.json")).unwrap().contains("findings"));
    place.run(["stats"]).good();
    let size = place.run(["size", "20240708_143022"]).good().stdout.clone();
    assert!(size.contains("B"), "{size}");

    application.service_log();
    for kind in ["full", "database", "codebase"] {
        let ran = place.run(["restore", "20240708_143022", "--check", "--type", kind]);
        assert!(ran.good().stdout.contains("ok  ") && !ran.stdout.contains("FAIL"), "{ran:?}");
    }
    assert_eq!(application.service_log(), "", "a test touches nothing");
    application.is_new();
    place.run(["restore", "20240708_143022", "--type", "database"]).failed(17, "confirmation");
    place.run(["restore", "20240708_143022", "--type", "database", "--yes"]).good();
    assert_eq!(application.service_log(), "stop start check");
    assert_eq!(application.state(), ["50 old1", "old", "a.txt=new a new.txt=new"]);
    place.run(["restore", "20240708_143022", "--type", "codebase", "--yes"]).good();
    application.is_old();
    // A check of the application's that fails takes everything back by itself.
    change(&application);
    place.write("fail-check", "");
    place.run(["restore", "20240708_143022", "--yes"]).failed(21, "check says no");
    std::fs::remove_file(place.path("fail-check")).unwrap();
    application.is_new();
    // The same into staging, which is an application of its own.
    application.service_log();
    let ran = place.run(["restore", "20240708_143022", "--env", "staging"]);
    assert!(ran.good().stderr.contains("journal has no place in [env.staging] and is left out"), "{ran:?}");
    place.run(["restore", "latest", "--env", "staging", "--source", "journal"]).failed(2, "not known where");
    assert_eq!(application.service_log(), "stop-staging start-staging");
    assert_eq!(rows(&application, "staging"), "50 old1");
    application.cluster.sql("postgres", "drop database staging");
    application.is_new();
    // And production by its name alone.
    place.run(["restore", "20240708_143022", "--env", "live", "--source", "db"]).failed(17, "live");

    place.run(["remove", "20240709_143022"]).failed(17, "confirmation");
    place.run(["remove", "20240709_143022", "--yes"]).good();
    assert_eq!(listed(place, &["--class", "daily"]).len(), 0);
    place.run(["cleanup", "--dry-run"]).good();
}

/// `backup.sh pre-deploy|rollback|restart|start|stop|status|size|help`.
#[test]
fn journal_deploys_and_takes_a_deployment_back() {
    let application = Application::with_service();
    let place = &application.place;
    let restored = listed(place, &[])[0]["id"].as_str().unwrap().to_owned();
    place.run(["restore", &restored, "--yes"]).good();
    application.service_log();
    // By hand: a backup, the deployment, and after an hour somebody sees that it was wrong.
    place.run(["backup", "--class", "pre-deploy", "--tag", "v2.4"]).good();
    change(&application);
    let ran = place.run(["rollback", "class:pre-deploy", "--check"]);
    assert!(ran.good().stdout.contains("ok  "), "{ran:?}");
    place.run(["rollback", "class:pre-deploy", "--yes"]).good();
    application.is_old();
    change(&application);
    let at = listed(place, &["--class", "pre-deploy"])[0]["time"].as_str().unwrap().to_owned();
    let at: String = at.chars().filter(|c| c.is_ascii_digit()).take(14).collect();
    place.run(["rollback", &format!("{}_{}", &at[..8], &at[8..]), "--yes"]).good();
    application.is_old();
    // By the guard, with code and data: a deployment that fails is taken back by itself.
    let deploy = format!("{}\nprintf 'new a' > srv/a.txt\nexit 3", psql(&application, "update t set v = 'new'"));
    let deploy = script(place, "deploy.sh", &deploy);
    let sources = ["--source", "db", "--source", "code"];
    let ran = place.run([&["guard", "run", "v2.5"][..], &sources, &["--", &deploy, "--fast"]].concat());
    assert_eq!(ran.code, 23, "{ran:?}");
    application.is_old();

    application.service_log();
    place.run(["service", "stop"]).good();
    place.run(["service", "start"]).good();
    place.run(["service", "restart"]).good();
    place.run(["service", "status"]).good();
    assert_eq!(application.service_log(), "stop start stop start status");
    let ran = place.run(["service", "restart", "--json"]);
    assert_eq!(ran.good().json()["action"], "restart");
    place.run(["service", "restart", "--env", "live"]).failed(2, "No command 'stop'");
    assert_eq!(place.run(["status"]).good().stdout, "");
    assert!(place.run(["help"]).good().stdout.contains("rollback"));
}

// LedgerFlow

/// `safe_migrate.sh`: backup, verified before the migration may run, and production is protected.
#[test]
fn ledgerflow_migrates_safely() {
    let application = Application::new(
        "[guard]\nfresh_within = \"1s\"\n[env.prod]\nproduction = true\ntargets = { db = \"host=SOCKET dbname=app user=postgres\" }\n",
    );
    let place = &application.place;
    place.run(["backup", "--db-only", "--class", "hourly"]).good();
    let hourly = listed(place, &["--class", "hourly"]);
    assert_eq!(hourly[0]["sources"].as_array().unwrap().len(), 2, "databases alone");
    let good = script(
        place,
        "migrate.sh",
        &psql(&application, "alter table t add column amount numeric; update t set amount = id"),
    );
    let bad = script(place, "bad.sh", &psql(&application, "alter table t drop column v; select 1 / 0"));
    let ran = place.run(["guard", "run", "001_amounts", "-m", "amounts", "--", &good]);
    assert!(ran.good().stderr.contains("001_amounts"), "{ran:?}");
    assert_eq!(rows(&application, "app"), "50 old1");
    let amounts = "select sum(amount)::text from t";
    let sum = || -> String { application.cluster.session("app").query_one(amounts, &[]).unwrap().get(0) };
    assert_eq!(sum(), "1275");
    let ran = place.run(["guard", "run", "002_bad", "--", &bad]);
    assert!(ran.code == 23 && ran.stderr.contains("restored and proved"), "{ran:?}");
    assert_eq!((sum(), rows(&application, "app")), ("1275".to_owned(), "50 old1".to_owned()));
    application.nothing_is_left();
    // A backup that cannot be made keeps the migration from running.
    application.cluster.sql("app", "create role nobody login");
    let config = std::fs::read_to_string(place.path("holdfast.toml")).unwrap();
    place.write("holdfast.toml", config.replacen("dbname=app user=postgres", "dbname=app user=nobody", 1));
    let ran = place.run(["guard", "run", "003", "--source", "db", "--", "touch", "ran"]);
    assert!(ran.code == 14 && !place.path("ran").exists(), "{ran:?}");
    place.write("holdfast.toml", config);
    // Production needs its name or --yes, and a fresh verified backup of its own.
    let on_prod = ["guard", "run", "004", "--env", "prod", "--source", "db"];
    place.run([&on_prod[..], &["--", "touch", "ran"]].concat()).failed(17, "prod");
    place.run([&on_prod[..], &["--yes", "--", "touch", "ran"]].concat()).failed(18, "fresh");
    assert!(!place.path("ran").exists());
    place.run([&on_prod[..], &["--yes", "--i-know", "--", "touch", "ran"]].concat()).good();
    assert!(place.path("ran").exists());
}

/// `safe_db_test.sh`: a backup whose restore is proved, the destructive test, and everything as before.
#[test]
fn ledgerflow_tests_against_its_database() {
    let application = Application::new("");
    let place = &application.place;
    let tests = script(place, "test.sh", &psql(&application, "drop table t; create table t (x int)"));
    let ran = place.run(["guard", "test", "--", &tests]);
    assert_eq!(ran.code, 0, "{ran:?}");
    application.is_old();
    let drills = place.run(["history", "drill", "--json"]).good().json();
    assert_eq!(drills["history"][0]["state"], "proved", "{drills}");
    assert_eq!(listed(place, &["--class", "safety"]).len(), 1);
    // `backup_guard.sh`: is what there is good?
    place.run(["verify"]).good();
}

/// `restore_db_clean.sh [-e ENV] [-u USER] [-d DATABASE]`: the database dropped and made anew, with what was saved.
#[test]
fn ledgerflow_restores_clean() {
    let application = Application::new("[env.test]\ntargets = { db = \"host=SOCKET dbname=app_test user=app\" }\n");
    let (place, cluster) = (&application.place, &application.cluster);
    cluster.sql("postgres", "alter role app createdb");
    change(&application);
    // Objects that no dump knows must be gone afterwards, and sessions must not be in the way.
    cluster.sql("app", "create view leftover as select 1; create schema other; create table other.x ()");
    let _busy = cluster.session("app");
    place.run(["restore", "latest", "--db-only", "--clean"]).failed(17, "confirmation");
    let ran = place.run(["restore", "latest", "--db-only", "--clean", "--yes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(application.state()[..2], ["50 old1".to_owned(), "old".to_owned()]);
    let left = "select count(*) from pg_class where relname in ('leftover', 'x', 'added')";
    assert_eq!(cluster.session("app").query_one(left, &[]).unwrap().get::<_, i64>(0), 0);
    // -d and -u: another database, as another user.
    let other = cluster.url_as("app", "app_dev");
    for (leftover, yes) in [(false, &[][..]), (true, &["--yes"])] {
        if leftover {
            cluster.sql("app_dev", "create table leftover (); alter table leftover owner to app; delete from t");
        }
        let args = ["restore", "latest", "--source", "db", "--to", &other, "--clean"];
        place.run([&args[..], yes].concat()).good();
        assert_eq!(rows(&application, "app_dev"), "50 old1");
    }
    // -e: an environment, where --clean says what is done anyway.
    for _ in 0..2 {
        place.run(["restore", "latest", "--source", "db", "--env", "test", "--clean", "--yes"]).good();
        assert_eq!(rows(&application, "app_test"), "50 old1");
    }
    place.run(["restore", "latest", "--target", "out", "--clean"]).failed(2, "--clean");
}

// Elegant Tex

/// `backup.sh` with a time of its own, `restore-test.sh` every month, `cleanup.sh`, and the emergency restore by streams.
#[test]
fn elegant_tex_tests_its_restores_monthly() {
    let application = Application::new("");
    let (place, cluster) = (&application.place, &application.cluster);
    // A user who may only read suffices for backups.
    cluster.sql("postgres", "create role reader login; grant pg_read_all_data to reader");
    let config = std::fs::read_to_string(place.path("holdfast.toml")).unwrap();
    place.write("holdfast.toml", config.replace("user=postgres", "user=reader"));
    for month in ["05", "06", "07"] {
        let time = format!("2024-{month}-01T04:00:00Z");
        place.run(["backup", "--class", "monthly", "--time", &time]).good();
        change(&application);
    }
    let month = listed(place, &["--class", "monthly"]);
    let ran = place.run(["drill", month[2]["id"].as_str().unwrap(), "--json"]);
    let report = ran.good().json();
    let tables = report["sources"].as_array().unwrap().iter().find(|s| s["source"] == "db").unwrap();
    let expected = serde_json::json!({ "schema": "public", "table": "t", "rows_expected": 50, "rows_restored": 50 });
    assert_eq!((&tables["proof"], &tables["tables"][0]), (&"equal".into(), &expected), "{report:#}");
    assert!(tables["duration_seconds"].as_f64().unwrap() > 0.0, "the recovery time is measured");
    place.run(["drill", "--all"]).good();
    let told = place.run(["history", "drill", "--json"]).good().json();
    assert_eq!(told["history"].as_array().unwrap().len(), 2, "{told:#}");
    assert_eq!(cluster.databases(), ["app", "postgres"], "nothing of a drill stays");
    // The emergency: assess, validate, download, drop and recreate, restore with PostgreSQL's own tools.
    let oldest = month[2]["id"].as_str().unwrap();
    place.run(["verify", oldest]).good();
    let mut command = place.command(["dump", oldest, "db"]);
    std::fs::write(place.path("app.dump"), system(&mut command)).unwrap();
    cluster.sql("postgres", "drop database app with (force)");
    cluster.sql("postgres", "create database app");
    let mut restore = Command::new(cluster.bin().join("pg_restore"));
    system(restore.arg("-d").arg(cluster.url("app")).arg(place.path("app.dump")));
    assert_eq!(rows(&application, "app"), "50 old1");
    place.run(["forget", "--preset", "et", "--prune"]).good();
    assert_eq!(listed(place, &["--class", "monthly"]).len(), 3, "12 months are kept");
}

// AWS Deployment System

/// `backup-system.sh create|verify|list|cleanup DAYS`, `verify-backup.sh`, `restore-backup.sh` into a test directory and in
/// place, with the pre-restore backup by its name.
#[test]
fn the_deployment_system_restores_its_scripts() {
    let application = Application::new("");
    let place = &application.place;
    let id = place.run(["create", "--code-only"]).good().stdout.trim_end().to_owned();
    place.run(["create", "--only", "code", "--time", "2024-01-01T02:00"]).good();
    place.run(["verify", "--extract"]).good();
    place.run(["verify", "--extract", &id]).good();
    place.run(["check", &id]).good();
    assert!(place.run(["list", "--size"]).good().stdout.contains(&id[..8]));
    let would = place.run(["cleanup", "--older-than", "30d", "--dry-run"]);
    assert_eq!(would.good().stdout.matches("forget").count(), would.stdout.matches("2024-01-01").count(), "{would:?}");
    place.run(["cleanup", "--older-than", "30d"]).good();
    assert!(listed(place, &[]).iter().all(|snapshot| !snapshot["time"].as_str().unwrap().starts_with("2024")));

    place.run(["restore", &id, "--target", "test-restore"]).good();
    let restored = place.path("test-restore").join(place.path("srv/a.txt").strip_prefix("/").unwrap());
    assert_eq!(std::fs::read_to_string(restored).unwrap(), "old a");
    change(&application);
    place.run(["restore", &id, "--code-only", "--yes"]).good();
    assert_eq!(application.state(), ["51 new", "new", "a.txt=old a b.txt=old b"]);
    // The name that it gave to what was there.
    let before = &listed(place, &["--class", "pre-restore"])[0];
    let at: String = before["time"].as_str().unwrap().chars().filter(char::is_ascii_digit).take(14).collect();
    let name = format!("pre-restore-{}_{}", &at[..8], &at[8..]);
    place.run(["restore", &name, "--check"]).good();
    place.run(["restore", &name, "--yes"]).good();
    application.is_new();
    // Damage is found before anything is touched.
    let packs = crate::support::program::files_below(&place.path("repository/packs"));
    for pack in packs {
        let mut bytes = std::fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..].fill(0);
        std::fs::write(&pack, bytes).unwrap();
    }
    place.run(["verify", "--extract"]).failed_with_output(13, "damage");
    let ran = place.run(["restore", &id, "--code-only", "--yes"]);
    assert_eq!(ran.code, 13, "{ran:?}");
    application.is_new();
}

/// `pre-deployment.sh`, the deploy script with its arguments, `post-deployment.sh` with the validation that restores.
#[test]
fn the_deployment_system_validates_a_deployment() {
    let application = Application::new("[guard]\nsources = [\"db\", \"code\"]\n");
    let place = &application.place;
    let update = psql(&application, "update t set v = 'new'");
    let deploy = script(place, "deploy.sh", &format!("{update}\nprintf \"$1\" > srv/version.txt"));
    let validate = script(place, "validate.sh", "test \"$(cat srv/version.txt)\" = 2.0");
    let run = |version: &str| -> Ran {
        let name = format!("v{version}");
        place.run(["guard", "run", &name, "--validate", &validate, "--", &deploy, version])
    };
    let ran = run("1.9");
    assert!(ran.code == 23 && ran.stderr.contains("validat"), "{ran:?}");
    application.is_old();
    run("2.0").good();
    assert_eq!(std::fs::read_to_string(place.path("srv/version.txt")).unwrap(), "2.0");
    assert_eq!(rows(&application, "app"), "50 new");
    // Later it turns out to have been wrong: the state before, into the places or beside them.
    let before = application.cluster.url("before");
    place.run(["restore", "guard:v2.0", "--source", "db", "--to", &before]).good();
    assert_eq!(rows(&application, "before"), "50 old1");
    application.cluster.sql("postgres", "drop database before");
    place.run(["restore", "guard:v2.0", "--yes"]).good();
    assert_eq!(application.state()[0], "50 old1");
    application.is_old();
}
