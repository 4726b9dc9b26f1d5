//! Backups that look wrong, through the program: stored, marked, never `latest`, held by retention, accepted.

use crate::support::pg::Cluster;
use crate::support::program::{Place, Ran};
use serde_json::Value;

/// A dump of so many orders; no two rows are alike.
fn dump(rows: u32) -> Vec<u8> {
    (0..rows).flat_map(|n| format!("{n}\torder of customer {}\tdelivered\n", n * 7919 % 10_007).into_bytes()).collect()
}

fn noise(seed: u8, bytes: usize) -> Vec<u8> {
    let mut out = vec![0u8; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

/// Saves a dump of standard input.
fn save(place: &Place, bytes: &[u8]) -> Ran {
    place.run_with_input(["backup", "--stdin", "--stdin-filename", "shop.sql"], bytes)
}

/// The id of a run that stored a snapshot and found it suspect, with this code.
#[track_caller]
fn suspect(ran: &Ran, code: &str) -> String {
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("looks wrong"), "{code}: {ran:?}");
    ran.stdout.trim_end().to_owned()
}

#[track_caller]
fn good(ran: &Ran) -> String {
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!ran.stderr.contains("looks wrong"), "{ran:?}");
    ran.stdout.trim_end().to_owned()
}

/// The snapshots as JSON, newest first.
fn snapshots(place: &Place) -> Vec<Value> {
    place.run(["snapshots", "--json"]).good().json()["snapshots"].as_array().unwrap().clone()
}

fn visible(place: &Place) -> Vec<String> {
    snapshots(place).iter().rev().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

/// Codes of the warnings about the newest snapshot's first source.
fn codes(place: &Place) -> Vec<String> {
    let newest = snapshots(place).remove(0);
    let warnings = newest["sources"][0]["warnings"].as_array().unwrap().clone();
    warnings.iter().map(|w| w["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_dump_that_shrinks_is_stored_marked_and_not_latest() {
    let place = Place::with_repository();
    good(&save(&place, &dump(3000)));
    let second = good(&save(&place, &dump(3100)));
    let ran = save(&place, &dump(500));
    let small = suspect(&ran, "suspect.smaller");
    for words in ["median of the last 2 good snapshots", "% of the", &format!("holdfast accept {}", &small[..8])] {
        assert!(ran.stderr.contains(words), "{words}: {ran:?}");
    }
    assert_eq!(codes(&place), ["suspect.smaller", "suspect.advice"]);
    let listed = snapshots(&place);
    assert!(listed[0]["suspect"].as_str().unwrap().starts_with("shop.sql: "), "{listed:?}");
    assert_eq!((&listed[0]["accepted"], &listed[1]["suspect"]), (&Value::Bool(false), &Value::Null));
    // The last good one is what is restored, and the suspect is there for whoever wants it.
    let latest = place.run(["dump", "latest", "shop.sql"]);
    assert!(latest.stderr.contains(&second[..8]) && latest.stdout.as_bytes() == dump(3100), "{}", latest.stderr);
    assert_eq!(place.run(["dump", &small, "shop.sql"]).good().stdout.as_bytes(), dump(500));
    // The next good one is compared with good ones.
    good(&save(&place, &dump(3200)));
    suspect(&save(&place, &dump(12_000)), "suspect.larger");
    place.run(["verify", "--read-data"]).good();
    // JSON says it as well.
    let ran = place.run_with_input(["backup", "--stdin", "--stdin-filename", "shop.sql", "--json"], &dump(10));
    assert_eq!(ran.code, 3, "{ran:?}");
    let summary: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert!(summary["snapshot"]["suspect"].is_string(), "{summary}");
}

#[test]
fn an_empty_stream_that_is_allowed_is_suspect_where_there_was_data() {
    let place = Place::with_repository();
    let empty = || place.run_with_input(["backup", "--stdin", "--stdin-filename", "shop.sql", "--allow-empty"], b"");
    good(&empty());
    good(&empty());
    let other = Place::with_repository();
    good(&save(&other, &dump(30)));
    good(&save(&other, &dump(30)));
    save(&other, b"").failed(14, "empty");
    let ran = other.run_with_input(["backup", "--stdin", "--stdin-filename", "shop.sql", "--allow-empty"], b"");
    suspect(&ran, "suspect.empty");
}

#[test]
fn the_least_size_of_the_configuration_is_expected() {
    let place = Place::with_repository();
    place.write(
        "holdfast.toml",
        "[[source]]\nname = \"made\"\nkind = \"command\"\ncommand = [\"cat\", \"made\"]\nmin_size = \"10 KB\"\n\
         [[source]]\nname = \"data\"\nkind = \"files\"\npaths = [\"data\"]\n",
    );
    place.write("made", vec![b'x'; 9_999]);
    place.write("data/text", "little");
    suspect(&place.run(["backup"]), "suspect.min_size");
    assert_eq!(codes(&place), ["suspect.min_size", "suspect.advice"]);
    // The other source is none the worse for it.
    assert!(place.run(["ls", "latest", "--source", "data"]).good().stdout.contains("text"));
    place.run(["ls", "latest", "--source", "made"]).failed(20, "suspect");
    place.write("made", vec![b'x'; 10_000]);
    good(&place.run(["backup"]));
}

#[test]
fn rows_of_sqlite_that_collapse_are_named() {
    let place = Place::with_repository();
    let database = rusqlite::Connection::open(place.path("app.db")).unwrap();
    // The ballast keeps the size: only the rows tell.
    database
        .execute_batch(
            "create table ballast (x); insert into ballast values (zeroblob(900000));
             create table orders (id integer primary key, body text);
             with recursive n(i) as (values (1) union all select i + 1 from n where i < 1000)
             insert into orders select i, 'order ' || i from n;
             create table logins (id integer); insert into logins select id from orders;",
        )
        .unwrap();
    let backup = || place.run(["backup", "--sqlite", "app.db"]);
    good(&backup());
    good(&backup());
    database.execute_batch("delete from orders where id > 400").unwrap();
    let ran = backup();
    suspect(&ran, "suspect.rows");
    assert!(ran.stderr.contains("400 rows in table orders, 40 % of the 1,000 before"), "{ran:?}");
    assert_eq!(codes(&place), ["suspect.rows", "suspect.advice"]);
    database.execute_batch("drop table logins").unwrap();
    let ran = backup();
    suspect(&ran, "suspect.table");
    assert!(ran.stderr.contains("no table logins, which had 1,000 rows"), "{ran:?}");
}

#[test]
fn rows_of_postgresql_that_collapse_are_named() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create database app");
    cluster.sql(
        "app",
        "create table orders (id int, body text); insert into orders select i, 'order ' || i from generate_series(1, 5000) i;
         create table ballast (x text); insert into ballast select repeat('x', 900000);",
    );
    let place = Place::with_repository();
    let url = cluster.url("app");
    let backup = || place.run(["backup", "--postgres", &url]);
    good(&backup());
    good(&backup());
    cluster.sql("app", "delete from orders where id > 2000");
    let ran = backup();
    suspect(&ran, "suspect.rows");
    assert!(ran.stderr.contains("2,000 rows in table public.orders, 40 % of the 5,000 before"), "{ran:?}");
    cluster.sql("app", "insert into orders select i, 'again' from generate_series(1, 3000) i");
    good(&backup());
}

#[test]
fn a_stream_that_somebody_encrypted_is_suspect() {
    let place = Place::with_repository();
    good(&save(&place, &dump(8000)));
    good(&save(&place, &dump(8100)));
    let ran = save(&place, &noise(1, 250_000));
    suspect(&ran, "suspect.incompressible");
    assert!(ran.stderr.contains("perhaps encrypted"), "{ran:?}");
    assert_eq!(codes(&place), ["suspect.incompressible", "suspect.advice"]);
    // What never could be compressed is not.
    for seed in 2..6 {
        good(&place.run_with_input(["backup", "--stdin", "--stdin-filename", "film.bin"], &noise(seed, 250_000)));
    }
}

#[test]
fn files_that_somebody_encrypted_are_suspect_until_they_come_back() {
    let place = Place::with_repository();
    let text = |n: u32| dump(200 + n);
    let write = |n: u32, bytes: &[u8]| drop(place.write(&format!("data/{n:02}.txt"), bytes));
    (0..20).for_each(|n| write(n, &text(n)));
    // Pictures change, too; they were never soft.
    (0..20).for_each(|n| drop(place.write(&format!("data/{n}.jpg"), noise(n, 6000))));
    let backup = || place.run(["backup", "data"]);
    good(&backup());
    (0..20).for_each(|n| drop(place.write(&format!("data/{n}.jpg"), noise(n + 100, 6000))));
    let whole = good(&backup());
    for n in 0..20 {
        write(n, &noise(n as u8 + 50, text(n).len()));
    }
    let ran = backup();
    suspect(&ran, "suspect.files_incompressible");
    assert!(ran.stderr.contains("20 of 20 changed files"), "{ran:?}");
    // Nothing changes, and it is as wrong as before.
    suspect(&backup(), "suspect.files_incompressible");
    assert!(place.run(["ls", "latest"]).good().stderr.contains(&whole[..8]));
    (0..20).for_each(|n| write(n, &text(n)));
    good(&backup());
}

#[test]
fn three_alike_are_a_new_normal_and_accept_ends_the_matter() {
    let place = Place::with_repository();
    let mut ids: Vec<String> = (0..5).map(|n| good(&save(&place, &dump(3000 + n)))).collect();
    for n in 0..2 {
        let ran = save(&place, &dump(300 + n));
        ids.push(suspect(&ran, "suspect.smaller"));
        assert!(!ran.stderr.contains("new normal"), "{ran:?}");
    }
    // Retention holds the source back.
    let held = place.run(["forget", "--keep-last", "1"]);
    assert!(held.code == 3 && held.stderr.contains("looked wrong"), "{held:?}");
    assert_eq!(visible(&place), ids);
    let ran = save(&place, &dump(302));
    ids.push(suspect(&ran, "suspect.new_normal"));
    let advice = format!("new normal? run `holdfast accept {}`", &ids[7][..8]);
    assert!(ran.stderr.contains(&advice), "{ran:?}");
    // Now it goes on, and the last three good ones stay.
    let explained = place.run(["forget", "--keep-last", "1", "-n", "--explain"]);
    assert!(explained.good().stdout.contains("good one before a new normal"), "{explained:?}");
    place.run(["forget", "--keep-last", "1"]).good();
    assert_eq!(visible(&place), [&*ids[2], &ids[3], &ids[4], &ids[7]]);
    assert!(place.run(["ls", "latest"]).good().stderr.contains(&ids[4][..8]));

    let accepted = place.run(["accept"]);
    assert!(accepted.good().stderr.contains("is good from now on"), "{accepted:?}");
    let listed = snapshots(&place);
    assert_eq!((&listed[0]["suspect"], &listed[0]["accepted"]), (&Value::Null, &Value::Bool(true)));
    assert!(place.run(["ls", "latest"]).good().stderr.contains(&ids[7][..8]));
    good(&save(&place, &dump(310)));
    // What collapses from there is seen although the median is still the old one.
    suspect(&save(&place, &dump(20)), "suspect.smaller");
    let last = good(&save(&place, &dump(305)));
    place.run(["forget", "--keep-last", "1"]).good();
    assert_eq!(visible(&place), [last]);
    // An acceptance goes with its snapshot.
    assert_eq!(std::fs::read_dir(place.path("repository/accepted")).unwrap().count(), 1);
    place.run(["prune"]).good();
    assert_eq!(std::fs::read_dir(place.path("repository/accepted")).unwrap().count(), 0);
    place.run(["verify", "--read-data"]).good();
}

#[test]
fn retention_goes_on_beside_a_suspect() {
    let place = Place::with_repository();
    place.write(
        "holdfast.toml",
        "[[source]]\nname = \"data\"\nkind = \"files\"\npaths = [\"data\"]\n\
         [[source]]\nname = \"made\"\nkind = \"command\"\ncommand = [\"cat\", \"made\"]\n",
    );
    place.write("data/text", "x");
    place.write("made", dump(3000));
    let mut ids: Vec<String> = (0..3).map(|_| good(&place.run(["backup"]))).collect();
    let elsewhere: Vec<String> = (0..2).map(|_| good(&place.run(["backup", "--host", "web2"]))).collect();
    place.write("made", dump(300));
    ids.push(suspect(&place.run(["backup"]), "suspect.smaller"));
    let ran = place.run(["forget", "--keep-last", "1", "--explain"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stdout.contains("held: the newest backup of made is not good"), "{ran:?}");
    let left = visible(&place);
    assert!(ids.iter().all(|id| left.contains(id)), "nothing with data of the suspect source goes");
    assert!(!left.contains(&elsewhere[0]) && left.contains(&elsewhere[1]), "the other series goes on");
    // The source that is well is not passed over.
    assert!(
        place.run(["ls", "latest", "--source", "data", "--host", "web2"]).good().stderr.contains(&elsewhere[1][..8])
    );
    let args = ["backup", "--source", "data"];
    good(&place.run(args));
}

#[test]
fn accept_says_no_where_it_must() {
    let place = Place::with_repository();
    place.run(["accept"]).failed(20, "No snapshot is suspect");
    place.write(
        "holdfast.toml",
        "[[source]]\nname = \"one\"\nkind = \"command\"\ncommand = [\"cat\", \"one\"]\n\
         [[source]]\nname = \"two\"\nkind = \"command\"\ncommand = [\"cat\", \"two\"]\n",
    );
    place.write("one", dump(3000));
    place.write("two", dump(3000));
    let first = good(&place.run(["backup"]));
    good(&place.run(["backup"]));
    place.write("one", dump(300));
    place.write("two", dump(200));
    let id = suspect(&place.run(["backup"]), "suspect.smaller");
    place.run(["accept", &first]).failed(20, "is not suspect");
    place.run(["accept", "latest"]).failed(20, "is not suspect");
    place.run(["accept", "abcd1234"]).failed(20, "begins with");
    place.run(["accept", "--source", "three"]).failed(20, "No snapshot is suspect");
    place.run(["accept", &id, "--source", "one"]).failed(24, "looked wrong for two too");
    let would = place.run(["accept", "-n"]);
    assert!(would.good().stderr.contains("would accept"), "{would:?}");
    assert!(snapshots(&place)[0]["suspect"].is_string());
    let done = place.run(["accept", &id[..8], "--source", "one", "--source", "two", "--json"]);
    assert_eq!(done.good().json()["accepted"].as_str(), Some(&*id));
    assert!(place.run(["accept", &id]).good().stderr.contains("accepted already"));
    place.run(["verify"]).good();
    let stored = place.run_bare(["verify", "--stored-only"]);
    assert!(!stored.good().stderr.contains("not an object"), "{stored:?}");

    // One that is damaged counts for nothing, is reported, and is written anew.
    let object = place.path("repository/accepted").join(&id);
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&object).unwrap();
    std::fs::write(&object, &bytes).unwrap();
    let listed = place.run(["snapshots", "--json"]);
    assert!(listed.code == 13 && listed.stderr.contains(&format!("accepted/{id}")), "{listed:?}");
    assert!(listed.json()["snapshots"][0]["suspect"].is_string(), "{listed:?}");
    assert_eq!(place.run(["verify"]).code, 13);
    assert_eq!(place.run_bare(["verify", "--stored-only"]).code, 13);
    assert_eq!(place.run(["accept", &id]).code, 13, "it worked, and there was damage");
    assert!(snapshots(&place)[0]["suspect"].is_null());
    place.run(["verify"]).good();
}
