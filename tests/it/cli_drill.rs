//! `drill` as users run it: real servers, real databases, faults between restore and proof, drills that die.

use crate::proof::EXOTIC;
use crate::support::pg::Cluster;
use crate::support::program::{Place, Ran, run};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A folder for scratch things that the server's user can enter.
fn scratch() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("hfdt").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn drill(place: &Place, scratch: &Path, args: &[&str]) -> Ran {
    let mut command = place.command(["drill"]);
    run(command.args(args).env("TMPDIR", scratch))
}

/// A small database with one thing of each kind that a fault is planted in.
const SMALL: &str = "create table t (id int primary key, v text default 'd'); \
    insert into t select i, 'v' || i from generate_series(1, 500) i; create index t_v on t (v); \
    create table plain (x int); insert into plain values (1), (2), (3); \
    create sequence counter; select setval('counter', 41);";

fn configured(place: &Place, cluster: &Cluster, more: &str) {
    let text = format!("[[source]]\nname = 'app'\nkind = 'postgres'\nurl = \"{}\"\n{more}", cluster.url("app"));
    // The place's own folder is the working directory.
    place.write("holdfast.toml", text);
}

#[test]
fn everything_is_restored_in_a_temporary_cluster_proved_and_removed() {
    let (place, cluster, scratch) = (Place::with_repository(), Cluster::start(), scratch());
    cluster.sql("postgres", "create database app encoding 'LATIN1' template template0");
    // Servers have time zones of their own; the temporary one has another.
    cluster.sql("postgres", "alter database app set timezone = 'America/St_Johns'");
    cluster.sql(
        "app",
        "create table times (at timestamptz) partition by range (at); create table times_all partition of times \
         for values from ('2020-01-01') to ('2030-01-01'); insert into times values ('2026-06-01 12:00')",
    );
    cluster.sql("app", &EXOTIC.replace("漢", "ß"));
    place.write("code/main.rs", "fn main() {}");
    let database = rusqlite::Connection::open(place.path("shop.db")).unwrap();
    database.execute_batch("create table a (x); insert into a values (1), (2)").unwrap();
    let code = place.path("code");
    let id = place.backup([
        "--postgres".as_ref(),
        cluster.url("app").as_ref(),
        "--sqlite".as_ref(),
        "shop.db".as_ref(),
        code.as_os_str(),
    ]);

    let ran = drill(&place, scratch.path(), &["--json"]);
    let report = ran.good().json();
    assert_eq!(report["proof"], "proved", "{report:#}");
    let sources = report["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 3);
    for source in sources {
        assert_eq!((&source["proof"], &source["snapshot_id"]), (&"equal".into(), &id.clone().into()), "{source:#}");
        assert!(source["duration_seconds"].is_number());
    }
    let app = sources.iter().find(|source| source["source"] == "app").unwrap();
    let plain = app["tables"].as_array().unwrap().iter().find(|table| table["table"] == "plain").unwrap();
    assert_eq!(
        *plain,
        serde_json::json!({ "schema": "public", "table": "plain", "rows_expected": 3003, "rows_restored": 3003 })
    );
    assert_eq!(names(scratch.path()), Vec::<String>::new(), "something was left");
    assert_eq!(cluster.databases(), ["app", "postgres"]);

    let history = place.run(["history", "drill", "--json"]).json();
    let told = &history["history"][0];
    assert!(told.to_string().contains("proved") && told.to_string().contains(&id), "{told:#}");
    cluster.sql("app", "drop subscription far");
}

/// Tables that are filled and read without `pg_restore` and `pg_dump`: of every kind of row, and with rights that come and go.
const LARGE: &str = "create role reader; create schema \"Odd.\"; \
    create table \"Odd.\".\"Large \"\"one\" (id bigint primary key, \"a,b)\" text, at timestamptz, took interval, f float8, \
        b bytea, n numeric, twice bigint generated always as (id * 2) stored); \
    insert into \"Odd.\".\"Large \"\"one\" select i, case i % 5 when 0 then null when 1 then '' when 2 then E'\\\\.' \
        else E'x\\ty\\\\\\n' || i end, timestamptz '2026-01-01' + i * interval '1 hour', i * interval '1 second', i / 3.0, \
        decode(md5(i::text), 'hex'), i / 7.0 from generate_series(1, 30000) i; \
    create function small(i int) returns boolean language plpgsql as 'begin return i < 1000000; end'; \
    revoke execute on function small(int) from public; \
    create table parent (x int); create table child (y text default 'd', check (small(x))) inherits (parent); \
    alter table parent add column z int; insert into child select i, 'c' || i, i from generate_series(1, 25000) i; \
    grant select on child to reader; create table log (at int) partition by range (at); \
    create table log_1 partition of log for values from (0) to (100000); insert into log select generate_series(1, 21000); \
    create table none (); create table few (x int); insert into few values (1); create sequence counter; \
    select setval('counter', 7); create materialized view sums as select count(*) from child;";

#[test]
fn large_tables_are_filled_and_read_apart_and_proved_as_all_others() {
    let (place, cluster, scratch) = (Place::with_repository(), Cluster::start(), scratch());
    cluster.sql("postgres", "create database app");
    cluster.sql("app", LARGE);
    let bin = place.path("bin");
    cluster.programs_with_fault(&bin, &place.path("fault.sql"));
    configured(&place, &cluster, &format!("pg_bin_dir = '{}'\n", bin.display()));
    place.backup::<&str>([]);
    place.write("fault.sql", "select 1");
    let ran = drill(&place, scratch.path(), &[]);
    assert!(ran.good().stdout.contains("equal (") && ran.stdout.contains("76,001 rows in"), "{ran:?}");
    // Each once the last part is restored, which fills the view.
    for (fault, words) in [
        ("update child set y = 'other' where x = 7", "table public.child has 25000 rows, as it must, but not all"),
        ("delete from log_1 where at = 5", "table public.log_1 has 20999 rows instead of 21000"),
        ("insert into few values (1)", "table public.few has 2 rows instead of 1"),
        (
            "update \"Odd.\".\"Large \"\"one\" set b = null where id = 9",
            "table Odd..Large \"one has 30000 rows, as it must",
        ),
        ("grant truncate on child to reader", "acl public.TABLE child is not defined as it was saved"),
    ] {
        let last = "select from pg_class where relname = 'sums' and relispopulated";
        place.write("fault.sql", format!("do $do$ begin if exists ({last}) then {fault}; end if; end $do$"));
        let ran = drill(&place, scratch.path(), &[]);
        assert_eq!((ran.code, ran.stdout.contains(words)), (19, true), "{fault}: {ran:?}");
    }
    assert_eq!(names(scratch.path()), Vec::<String>::new(), "something was left");
}

#[test]
fn every_fault_between_restore_and_proof_ends_with_19_and_its_name() {
    let (place, cluster, scratch) = (Place::with_repository(), Cluster::start(), scratch());
    cluster.sql("postgres", "create database app");
    cluster.sql("app", SMALL);
    let bin = place.path("bin");
    cluster.programs_with_fault(&bin, &place.path("fault.sql"));
    let settings = format!("pg_bin_dir = '{}'\n[drill]\npostgres = \"{}\"\n", bin.display(), cluster.url("postgres"));
    configured(&place, &cluster, &settings);
    place.backup::<&str>([]);

    place.write("fault.sql", "select 1;");
    let ran = drill(&place, scratch.path(), &[]);
    assert!(ran.good().stdout.contains("equal (") && ran.stdout.contains("503 rows in 2 tables"), "{ran:?}");
    for (fault, words) in [
        (
            "update t set v = 'other' where id = 7",
            "table public.t has 500 rows, as it must, but not all with the saved",
        ),
        ("delete from plain where x = 2", "table public.plain has 2 rows instead of 3"),
        ("insert into plain values (2)", "table public.plain has 4 rows instead of 3"),
        ("update plain set x = 3 where x = 2", "table public.plain has 3 rows, as it must, but not all"),
        ("select nextval('counter')", "sequence public.counter does not have the saved value"),
        ("drop index t_v", "index public.t_v is missing"),
        ("alter table t alter v set default 'e'", "table public.t is not defined as it was saved"),
        ("drop table plain", "table public.plain is missing, with 3 rows"),
    ] {
        place.write("fault.sql", fault);
        let ran = drill(&place, scratch.path(), &[]);
        assert!(ran.code == 19 && ran.stderr.contains(words) && ran.stdout.contains("NOT EQUAL"), "{fault}: {ran:?}");
    }
    let ran = drill(&place, scratch.path(), &["--json"]);
    assert!(ran.code == 19 && ran.json()["sources"][0]["proof"] == "different", "{ran:?}");
    assert_eq!(cluster.databases(), ["app", "postgres"], "scratch databases were left");
    let told = place.run(["history", "drill"]);
    assert!(told.stdout.contains("different") && told.stdout.contains("proved"), "{told:?}");

    // A restore that stops is a failure too, and leaves nothing.
    place.write("fault.sql", "select no_such_function();");
    drill(&place, scratch.path(), &[]).failed_with(21, "no_such_function");
    assert_eq!(cluster.databases(), ["app", "postgres"]);
}

impl Ran {
    /// The run failed with this code and these words; its results may be on standard output.
    #[track_caller]
    fn failed_with(&self, code: i32, words: &str) {
        assert!(self.code == code && self.stderr.contains(words), "{self:?}");
    }
}

#[test]
fn on_a_server_of_the_users_nothing_but_scratch_databases_comes_and_goes() {
    let (place, cluster, other, scratch) = (Place::with_repository(), Cluster::start(), Cluster::start(), scratch());
    cluster.sql("postgres", "create database app");
    cluster.sql("app", SMALL);
    cluster
        .sql("app", "create role owner_of_t; alter table t owner to owner_of_t; grant select on plain to owner_of_t");
    let on = |server: &Cluster| {
        configured(&place, &cluster, &format!("[drill]\npostgres = \"{}\"\n", server.url("postgres")))
    };
    on(&other);
    place.backup::<&str>([]);
    // What a dead drill left goes, what a living one uses stays, and what only looks like one is not ours.
    other.sql("postgres", "create database holdfast_drill_dead");
    other.sql("postgres", "create database holdfast_drill_used");
    other.sql("postgres", "create role somebody");
    other.sql("postgres", "create database holdfast_drill_foreign owner somebody");
    let mut living = other.session("template1");
    let lock = "select pg_advisory_lock(x'68666472'::int, hashtext('holdfast_drill_used'))";
    let mut living_too = other.session("postgres");
    living.batch_execute("select 1").unwrap();
    living_too.batch_execute(lock).unwrap();
    let ran = drill(&place, scratch.path(), &[]);
    let said = ran.good().stderr.as_str();
    assert!(said.contains("has no role owner_of_t"), "{ran:?}");
    assert_eq!(other.databases(), ["holdfast_drill_foreign", "holdfast_drill_used", "postgres"]);
    let roles = "select count(*) from pg_roles where rolname = 'owner_of_t'";
    assert_eq!(other.session("postgres").query_one(roles, &[]).unwrap().get::<_, i64>(0), 0, "a role was made");
    // The source's own server is no hindrance, and its database stays what it was. There the roles are.
    on(&cluster);
    let before = cluster.plain_dump("app");
    let ran = drill(&place, scratch.path(), &["latest", "--source", "app"]);
    assert!(!ran.good().stderr.contains("left out"), "{ran:?}");
    assert_eq!(
        (cluster.databases(), cluster.plain_dump("app")),
        (vec!["app".to_owned(), "postgres".to_owned()], before)
    );
}

fn begin(place: &Place, scratch: &Path) -> std::process::Child {
    let mut command = place.command(["drill"]);
    command.env("TMPDIR", scratch).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the drill's server runs, and gives its process id.
fn await_server(scratch: &Path) -> i32 {
    let began = Instant::now();
    loop {
        let folder = names(scratch).into_iter().find(|name| name.starts_with("holdfast-drill-"));
        let pid = folder.and_then(|name| std::fs::read_to_string(scratch.join(name).join("data/postmaster.pid")).ok());
        // The one that initdb starts for itself never gets so far.
        let ready = pid.filter(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"));
        if let Some(pid) = ready.and_then(|text| text.lines().next()?.parse().ok()) {
            return pid;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "no server came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn signal(child: &std::process::Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_drill_that_ends_early_leaves_nothing_or_what_the_next_removes() {
    let (place, cluster, scratch) = (Place::with_repository(), Cluster::start(), scratch());
    cluster.sql("postgres", "create database app");
    cluster.sql("app", SMALL);
    configured(&place, &cluster, "");
    place.backup::<&str>([]);
    // Asked to end, at any moment: everything is removed.
    for milliseconds in [100, 400, 1000, 1600] {
        let mut child = begin(&place, scratch.path());
        std::thread::sleep(Duration::from_millis(milliseconds));
        signal(&child, "-INT");
        let code = child.wait().unwrap().code();
        // a fast machine may have proved everything by then
        assert!(code == Some(130) || code == Some(0) && milliseconds > 400, "{milliseconds}: {code:?}");
        assert_eq!(names(scratch.path()), Vec::<String>::new(), "{milliseconds}");
    }
    let mut child = begin(&place, scratch.path());
    let pid = await_server(scratch.path());
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!lives(pid) && names(scratch.path()).is_empty(), "{:?}", names(scratch.path()));
    // Killed: its server lives on, and the next drill ends it. A folder whose drill lives stays.
    let mut child = begin(&place, scratch.path());
    let pid = await_server(scratch.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let left = names(scratch.path());
    assert!(left.len() == 1 && lives(pid), "{left:?}");
    let used = scratch.path().join("holdfast-drill-used");
    std::fs::create_dir(&used).unwrap();
    let mark = std::fs::File::create(used.join("alive")).unwrap();
    mark.lock().unwrap();
    std::fs::create_dir(scratch.path().join("holdfast-drill-unmarked")).unwrap();
    drill(&place, scratch.path(), &[]).good();
    let mut left = names(scratch.path());
    left.sort();
    assert_eq!(left, ["holdfast-drill-unmarked", "holdfast-drill-used"]);
    assert!(!lives(pid));
    // Too long.
    configured(&place, &cluster, "[drill]\nmax_duration = \"1s\"\n");
    drill(&place, scratch.path(), &[]).failed_with(1, "took longer than 1 s");
    assert_eq!(names(scratch.path()).len(), 2);
    let states = place.run(["history", "drill"]).stdout;
    for state in ["interrupted", "begun, dead", "proved", "too long"] {
        assert!(states.contains(state), "{state}: {states}");
    }
}

/// A path of 100 bytes is too long for a socket, and one that the server's user cannot enter is told.
#[test]
fn the_scratch_folder_may_be_long_and_must_be_open_to_the_server() {
    let (place, cluster, scratch) = (Place::with_repository(), Cluster::start(), scratch());
    cluster.sql("postgres", "create database app");
    cluster.sql("app", SMALL);
    configured(&place, &cluster, "");
    place.backup::<&str>([]);
    let long: PathBuf = scratch.path().join("a".repeat(60)).join("b".repeat(60));
    std::fs::create_dir_all(&long).unwrap();
    drill(&place, &long, &[]).good();
    assert_eq!(names(&long), Vec::<String>::new());
    if rustix::process::geteuid().is_root() {
        let closed = scratch.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        drill(&place, &closed, &[]).failed_with(14, "must be able to enter");
        assert_eq!(names(&closed), Vec::<String>::new());
    }
}

#[test]
fn what_cannot_be_drilled_is_told() {
    let (place, scratch) = (Place::with_repository(), scratch());
    drill(&place, scratch.path(), &[]).failed(20, "no good snapshot");
    place.write("code/main.rs", "fn main() {}");
    place.backup(["code"]);
    drill(&place, scratch.path(), &["--source", "app"]).failed(20, "has a source 'app'");
    drill(&place, scratch.path(), &["latest:/x"]).failed(2, "not a path");
    let ran = drill(&place, scratch.path(), &["--dry-run"]);
    assert!(ran.good().stdout.contains("would restore and prove files of"), "{ran:?}");
    assert!(drill(&place, scratch.path(), &["--all"]).good().stdout.contains("equal"));
    assert_eq!(names(scratch.path()), Vec::<String>::new());
}
