//! What a way back brings back, what it cannot, and what is said about both.

use crate::cli_restore_in_place::Application;
use crate::support::program::Place;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn what_the_application_wrote_until_it_was_stopped_comes_back() {
    let application =
        Application::new("[service]\nstop = [\"sh\", \"FOLDERstop\"]\nstart = [\"true\"]\ntimeout = \"10s\"\n");
    let place = &application.place;
    application.change();
    place.write("stop", format!("echo late > '{}'", place.path("srv/late.txt").display()));
    let ran = place.run(["restore", "latest", "--yes"]);
    assert!(ran.good().stderr.contains("stopped first") && !ran.stderr.contains("will be lost"), "{ran:?}");
    application.is_old();
    place.write("stop", "true");
    place.run(["rollback", "--yes"]).good();
    assert_eq!(std::fs::read_to_string(place.path("srv/late.txt")).unwrap(), "late\n");
    assert_eq!(application.state()[0], "51 new");
}

#[test]
fn without_a_service_it_is_said_what_may_be_lost_and_whose_sessions_end() {
    let application = Application::new("");
    let _busy = application.cluster.session("app");
    let ran = application.place.run(["restore", "latest", "--source", "db"]);
    assert_eq!(ran.code, 17, "{ran:?}");
    assert!(ran.stderr.contains("its sessions will be ended: postgres with"), "{ran:?}");
    assert!(ran.stderr.contains("no [service] is stopped") && ran.stderr.contains("will be lost"), "{ran:?}");
    let ran = application.place.run(["restore", "latest", "--source", "db", "--no-safety"]);
    assert!(ran.stderr.contains("NOT saved first: there will be no way back"), "{ran:?}");
}

#[test]
fn a_restore_without_a_way_back_is_not_passed_over() {
    let application = Application::new("");
    let place = &application.place;
    application.change();
    place.run(["restore", "latest", "--yes"]).good();
    let ran = place.run(["restore", "latest", "--yes", "--no-safety"]);
    assert!(ran.good().stderr.contains("was not saved"), "{ran:?}");
    let ran = place.run(["rollback", "--yes"]);
    ran.failed(20, "what was there before it was not saved");
    assert!(ran.stderr.contains("undoes the one before it"), "{ran:?}");
    application.is_old();
    // The one before it, by name, as the hint says.
    let hint = ran.stderr.lines().find_map(|line| line.split("`holdfast rollback ").nth(1)).unwrap();
    place.run(["rollback", hint.split('`').next().unwrap(), "--yes"]).good();
    application.is_new();
}

#[test]
fn what_did_not_exist_is_named_by_a_rollback() {
    let application = Application::new(
        "[env.copy]\ntargets = { db = \"host=SOCKET dbname=copy user=postgres\", code = \"FOLDERcopy\" }\n",
    );
    let place = &application.place;
    place.run(["restore", "latest", "--env", "copy", "--source", "db"]).good();
    let ran = place.run(["rollback", "--yes"]);
    ran.failed(20, "nothing was there before the last restore");
    assert!(ran.stderr.contains("rollback --remove-new` saves and removes") && ran.stderr.contains("/copy"), "{ran:?}");
    // One that was there and one that was not.
    place.write("copy/a.txt", "before");
    application.cluster.sql("postgres", "drop database copy");
    place.run(["restore", "latest", "--env", "copy", "--source", "db", "--source", "code", "--yes"]).good();
    let ran = place.run(["rollback", "--yes"]);
    assert!(ran.good().stderr.contains("did not exist before that restore and stays"), "{ran:?}");
    assert_eq!(std::fs::read_to_string(place.path("copy/a.txt")).unwrap(), "before");
    assert!(application.cluster.databases().contains(&"copy".to_owned()));
}

#[test]
fn a_database_that_is_gone_comes_back_with_what_belonged_to_it() {
    let application = Application::new("");
    let (place, cluster) = (&application.place, &application.cluster);
    cluster.sql("postgres", "create role reader; create role \"odd; \"\"one\"\"\"");
    for statement in [
        "alter database app set search_path to app, \"$user\", public",
        "alter database app set work_mem to '7MB'",
        "alter role reader in database app set work_mem to '8MB'",
        "alter database app connection limit 17",
        "revoke temporary on database app from public",
        "grant connect on database app to reader, \"odd; \"\"one\"\"\" with grant option",
        "comment on database app is 'it''s; here'",
        "alter database app set default_transaction_read_only to on",
    ] {
        cluster.sql("postgres", statement);
    }
    let facts = "select jsonb_build_object('owner', pg_get_userbyid(datdba), 'limit', datconnlimit, 'acl', \
        (select array_agg(a::text order by a::text) from unnest(datacl) a), 'comment', \
        shobj_description(d.oid, 'pg_database'), 'collate', datcollate, 'settings', (select \
        jsonb_agg(jsonb_build_array(setrole::regrole::text, (select array_agg(c order by c) from unnest(setconfig) c)) \
        order by setrole) from pg_db_role_setting where setdatabase = d.oid))::text \
        from pg_database d where datname = 'app'";
    let facts = || -> String { cluster.session("postgres").query_one(facts, &[]).unwrap().get(0) };
    let before = facts();
    assert!(before.contains("reader") && before.contains("odd") && before.contains("7MB"), "{before}");
    place.run(["backup"]).good();
    cluster.sql("postgres", "drop database app");
    let ran = place.run(["restore", "latest", "--source", "db"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(facts(), before);
    assert_eq!(application.state()[0], "50 old1");
    // What it cannot be given is said, and the rest is.
    cluster.sql("postgres", "drop database app");
    cluster.sql("postgres", "drop role \"odd; \"\"one\"\"\"");
    let ran = place.run(["restore", "latest", "--source", "db"]);
    assert!(ran.good().stderr.contains("lacks what the dump says of it: GRANT"), "{ran:?}");
    assert!(facts().contains("reader") && facts().contains("7MB"), "{}", facts());
}

#[test]
fn a_role_that_is_only_granted_something_is_missed_beforehand() {
    let application = Application::new("");
    let (place, cluster) = (&application.place, &application.cluster);
    cluster.sql("postgres", "create role reader");
    cluster.sql("app", "grant select on t to reader");
    place.run(["backup"]).good();
    cluster.sql("app", "revoke all on t from reader");
    cluster.sql("postgres", "drop role reader");
    let ran = place.run(["restore", "latest", "--source", "db", "--check"]);
    ran.failed_with_output(24, "roles that the server does not have: reader");
}

#[test]
fn a_sqlite_database_that_is_gone_is_for_those_who_use_its_folder() {
    let place = Place::with_repository();
    place.write("srv/x", "");
    std::fs::set_permissions(place.path("srv"), PermissionsExt::from_mode(0o755)).unwrap();
    let file = place.path("srv/data.db");
    rusqlite::Connection::open(&file).unwrap().execute_batch("create table t (v text)").unwrap();
    place.write(
        "holdfast.toml",
        format!("[[source]]\nname = \"journal\"\nkind = \"sqlite\"\npath = \"{}\"\n", file.display()),
    );
    place.run(["backup"]).good();
    let mode = || std::fs::metadata(&file).unwrap().mode() & 0o777;
    for (folder, expected) in [(0o755, 0o644), (0o700, 0o600), (0o777, 0o664)] {
        std::fs::remove_file(&file).unwrap();
        std::fs::set_permissions(place.path("srv"), PermissionsExt::from_mode(folder)).unwrap();
        place.run(["restore", "latest"]).good();
        assert_eq!(mode(), expected, "{folder:o}");
    }
    // One that is there keeps its own.
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    place.run(["restore", "latest", "--yes"]).good();
    assert_eq!(mode(), 0o640);
}

/// Waits until something is so.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Programs of PostgreSQL that hang when they dump.
const HANGING: &str = "#!/bin/sh\ncase \"$*\" in *--version*) exec 'BINpg_dump' --version;; esac\n\
    touch 'FOLDERdumping'\nexec sleep 60\n";

#[test]
fn an_interruption_while_it_is_saved_touches_nothing_and_blames_nobody() {
    let application =
        Application::new("[service]\nstop = [\"touch\", \"FOLDERstopped\"]\nstart = [\"rm\", \"FOLDERstopped\"]\n");
    let (place, cluster) = (&application.place, &application.cluster);
    application.change();
    let folder = place.path("").display().to_string();
    for entry in std::fs::read_dir(cluster.bin()).unwrap() {
        let path = entry.unwrap().path();
        let _ = std::os::unix::fs::symlink(&path, place.write("bin/x", "").with_file_name(path.file_name().unwrap()));
    }
    std::fs::remove_file(place.path("bin/pg_dump")).unwrap();
    let real = format!("{}/", cluster.bin().display());
    let script = place.write("bin/pg_dump", HANGING.replace("BIN", &real).replace("FOLDER", &folder));
    std::fs::set_permissions(script, PermissionsExt::from_mode(0o755)).unwrap();
    let config = std::fs::read_to_string(place.path("holdfast.toml")).unwrap();
    let with_bin = format!("kind = \"postgres\"\npg_bin_dir = \"{folder}bin\"\n");
    place.write("holdfast.toml", config.replace("kind = \"postgres\"\n", &with_bin));
    for args in [&["restore", "latest", "--yes"][..], &["guard", "run", "v1", "--", "true"]] {
        let mut command = place.command(args);
        // As a terminal does it: everybody gets the signal.
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        until("the dump", || place.path("dumping").exists());
        let group = format!("-{}", child.id());
        assert!(std::process::Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{args:?}: {said}");
        assert!(!said.contains("no-safety") && !said.contains("pg_dump"), "{args:?}: {said}");
        std::fs::remove_file(place.path("dumping")).unwrap();
        application.is_new();
        assert!(!place.path("stopped").exists(), "{said}");
        assert_eq!(place.run(["status"]).good().stdout, "", "{said}");
    }
}

#[test]
fn an_interruption_at_a_question_is_an_answer() {
    let place = Place::with_repository();
    place.write("srv/a.txt", "a");
    place.write(
        "holdfast.toml",
        format!("[[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"{}\"]\n", place.path("srv").display()),
    );
    place.run(["backup"]).good();
    // The terminal turns this byte into a signal for everybody.
    let began = Instant::now();
    let (shown, code) =
        crate::cli_picker::on_terminal_slowly(&place, &["restore", "latest"], "Replace what is there", "\x03");
    assert!(shown.contains("Replace what is there?"), "{shown}");
    assert_eq!(code, 130, "{shown}");
    assert!(began.elapsed() < Duration::from_secs(60), "{shown}");
}

#[test]
fn a_refusal_names_the_guard_as_people_know_it() {
    let application = Application::new("");
    let place = &application.place;
    place.run(["guard", "begin", "release-7"]).good();
    let ran = place.run(["restore", "latest", "--yes"]);
    ran.failed(18, "A guard is open");
    assert!(ran.stderr.contains("guard release-7 (act "), "{ran:?}");
    place.run(["guard", "complete", "release-7"]).good();
    place.run(["guard", "complete", "release-7"]).failed(18, "closed already: completed");
}

#[test]
fn a_failure_that_touched_nothing_has_the_code_of_its_cause() {
    let application = Application::new("");
    let place = &application.place;
    let nobody = application.cluster.url_as("nobody", "copy");
    place.run(["restore", "latest", "--source", "db", "--to", &nobody]).failed(14, "nobody");
    place.run(["restore", "latest", "--source", "journal", "--to", "nowhere/x.db"]).failed(24, "nowhere");
    application.cluster.sql("postgres", "create role poor login");
    let poor = application.cluster.url_as("poor", "copy");
    place.run(["restore", "latest", "--source", "db", "--to", &poor]).failed(24, "permission denied");
    place.write("plain", "");
    place.run(["restore", "latest", "--target", "plain/out"]).failed(24, "plain/out");
    application.nothing_is_left();
}

/// Places that are empty before a restore: a database, a SQLite file and a tree.
const COPY: &str = "[env.copy]\ntargets = { db = \"host=SOCKET dbname=copy user=postgres\", journal = \"FOLDERcopy.db\", \
    code = \"FOLDERcopy\" }\n";

/// True when the copies are there, false when they are gone; never some of them, and nothing beside them.
#[track_caller]
fn copies_are_there(application: &Application) -> bool {
    let databases = application.cluster.databases();
    let there = databases.contains(&"copy".to_owned());
    assert_eq!(databases.len(), if there { 3 } else { 2 }, "{databases:?}");
    let place = &application.place;
    assert_eq!((place.path("copy.db").exists(), place.path("copy").exists()), (there, there));
    let names = std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let beside: Vec<_> = names.filter(|name| name.to_string_lossy().contains("holdfast-")).collect();
    assert!(beside.is_empty(), "{beside:?}");
    if there {
        let rows: i64 = application.cluster.session("copy").query_one("select count(*) from t", &[]).unwrap().get(0);
        assert_eq!(rows, 50);
        assert_eq!(std::fs::read_to_string(place.path("copy/a.txt")).unwrap(), "old a");
        let journal = rusqlite::Connection::open(place.path("copy.db")).unwrap();
        assert_eq!(journal.query_row("select v from t", [], |row| row.get::<_, String>(0)).unwrap(), "old");
    }
    there
}

#[test]
fn what_did_not_exist_is_removed_when_asked_and_comes_back() {
    let application = Application::new(COPY);
    let place = &application.place;
    place.run(["restore", "latest", "--env", "copy"]).good();
    assert!(copies_are_there(&application));
    let ran = place.run(["rollback", "--remove-new", "--check"]);
    assert!(ran.good().stdout.contains("will be removed") && copies_are_there(&application), "{ran:?}");
    place.run(["rollback", "--remove-new"]).failed(17, "confirmation");
    let _busy = application.cluster.session("copy");
    let ran = place.run(["rollback", "--remove-new", "--yes", "--json"]);
    let removed = ran.good().stdout.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["type"] == "summary").then(|| line["removed"].as_array().unwrap().len())
    });
    assert_eq!(removed, Some(3), "{ran:?}");
    assert!(!copies_are_there(&application));
    // It was saved, so that this can be undone like any other restore.
    place.run(["rollback", "--yes"]).good();
    assert!(copies_are_there(&application));
    place.run(["rollback", "--yes", "--remove-new"]).good();
    assert!(!copies_are_there(&application));
    // Some were there before, one was not, and one that was not is gone by other hands.
    place.run(["restore", "latest", "--env", "copy", "--source", "code"]).good();
    place.write("copy/a.txt", "before");
    place.run(["restore", "latest", "--env", "copy", "--yes"]).good();
    std::fs::remove_file(place.path("copy.db")).unwrap();
    let ran = place.run(["rollback", "--remove-new", "--yes"]);
    assert!(ran.good().stderr.contains("and does not now") && ran.stderr.contains("removed "), "{ran:?}");
    assert_eq!(std::fs::read_to_string(place.path("copy/a.txt")).unwrap(), "before");
    assert_eq!(application.cluster.databases(), ["app", "postgres"]);
    assert_eq!(place.run(["status"]).good().stdout, "");
}

/// Killed with -9 after each of its entries: everything is there or everything is gone, and the next run brings it to its end.
#[test]
fn a_removal_killed_anywhere_is_brought_to_an_end() {
    let application = Application::new(COPY);
    let place = &application.place;
    let acts = place.path("repository/acts");
    let written = || std::fs::read_dir(&acts).map_or(0, std::iter::Iterator::count);
    let (mut gone, mut there) = (0, 0);
    place.run(["restore", "latest", "--env", "copy"]).good();
    for entries in 1..=7usize {
        let wanted = written() + entries;
        let mut command = place.command(["rollback", "--remove-new", "--yes"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("an entry", || written() >= wanted || child.try_wait().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        let status = place.run(["status"]).good().stdout.clone();
        // What they are asked for does not matter: what was cut short comes first.
        match entries % 2 {
            0 => place.run(["rollback", "--source", "none"]),
            _ => place.run(["restore", "latest", "--source", "code", "--yes"]),
        };
        assert_eq!(place.run(["status"]).good().stdout, "", "{entries}: {status}");
        if copies_are_there(&application) {
            there += 1;
            std::fs::remove_file(place.path("copy.db")).unwrap();
            std::fs::remove_dir_all(place.path("copy")).unwrap();
            application.cluster.sql("postgres", "drop database copy");
        } else {
            gone += 1;
        }
        // The restore that is undone next is the one that makes them again.
        place.run(["restore", "latest", "--env", "copy"]).good();
    }
    assert!(gone > 0 && there > 0, "{gone} {there}");
}
