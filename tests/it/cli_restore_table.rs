//! `restore --table` as users run it: one table out of a dump, into a database that lives on, or as a script.

use crate::support::pg::Cluster;
use crate::support::program::Place;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A shop: a serial and an identity column, a type, a foreign key, a trigger, a partitioned table, names with quotes.
const SHOP: &str = "create schema shop; create type shop.mood as enum ('glad', 'sad');
    create table customers (id int primary key, name text);
    insert into customers select i, 'c' || i from generate_series(1, 50) i;
    create function touch() returns trigger language plpgsql as 'begin return new; end';
    create table shop.orders (id serial primary key, customer int references customers, mood shop.mood, note text default 'n');
    create index orders_note on shop.orders (note);
    create trigger touched before update on shop.orders for each row execute function touch();
    comment on column shop.orders.note is 'a note';
    insert into shop.orders (customer, mood, note)
        select 1 + i % 50, 'glad', E'line\\n\\t\\\\' || i from generate_series(1, 1000) i;
    create table \"Odd.\"\"Name\" (\"A b\" int generated always as identity, x text);
    insert into \"Odd.\"\"Name\" (x) values ('one'), (null), ('');
    create table log (at date, what text) partition by range (at);
    create table log_2025 partition of log for values from ('2025-01-01') to ('2026-01-01');
    create table log_2026 partition of log for values from ('2026-01-01') to ('2027-01-01');
    create index on log (at);
    insert into log select date '2025-06-01' + i, 'w' || i from generate_series(1, 400) i;
    create view open_orders as select * from shop.orders;";

fn shop() -> (Place, Cluster) {
    let (place, cluster) = (Place::with_repository(), Cluster::start());
    cluster.sql("postgres", "create database app");
    cluster.sql("app", SHOP);
    place.backup(["--postgres", &cluster.url("app")]);
    (place, cluster)
}

/// The source with client programs of its own.
fn configured(place: &Place, cluster: &Cluster, bin: &Path) {
    let (url, bin) = (cluster.url("app"), bin.display());
    let text = format!("[[source]]\nname = 'app'\nkind = 'postgres'\nurl = \"{url}\"\npg_bin_dir = '{bin}'\n");
    place.write("holdfast.toml", text);
}

fn rows(cluster: &Cluster, database: &str, query: &str) -> Vec<String> {
    let rows = cluster.session(database).query(query, &[]).unwrap();
    rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_else(|| "NULL".to_owned())).collect()
}

#[test]
fn a_dropped_table_comes_back_into_the_living_database_with_all_that_is_its_own() {
    let (place, cluster) = shop();
    let all = "select o::text from shop.orders o order by id";
    let before = rows(&cluster, "app", all);
    let plain = cluster.plain_dump("app");
    cluster.sql("app", "drop table shop.orders cascade; insert into customers values (99, 'later')");
    let url = cluster.url("app");
    let ran = place.run(["restore", "latest", "--table", "orders", "--to", &url, "--json"]);
    let report: serde_json::Value = serde_json::from_str(ran.good().stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["proof"], "equal", "{report:#}");
    assert_eq!(
        report["tables"],
        serde_json::json!([{ "schema": "shop", "table": "orders", "rows_expected": 1000, "rows_restored": 1000 }])
    );
    assert_eq!(report["sequences"], serde_json::json!(["shop.orders_id_seq"]));
    assert_eq!(rows(&cluster, "app", all), before);
    assert_eq!(rows(&cluster, "app", "select nextval('shop.orders_id_seq')::text"), ["1001"]);
    // What came later stays, and everything is defined as it was: but for the view, which is not the table's.
    cluster.sql(
        "app",
        "delete from customers where id = 99; create view open_orders as select * from shop.orders; \
                        select setval('shop.orders_id_seq', 1000)",
    );
    assert_eq!(cluster.plain_dump("app"), plain);
    assert_eq!(cluster.databases(), ["app", "postgres"]);
}

#[test]
fn names_with_quotes_and_partitions_come_whole_and_several_at_once() {
    let (place, cluster) = shop();
    cluster.sql("postgres", "create database other");
    let url = cluster.url("other");
    let args =
        ["restore", "latest", "--table", "Odd.\"Name", "--table", "public.log", "--table", "customers", "--to", &url];
    let ran = place.run(args);
    ran.good();
    assert!(ran.stderr.contains("restored 5 tables of app"), "{ran:?}");
    for query in ["select l::text from log l order by 1", "select o::text from \"Odd.\"\"Name\" o order by 1"] {
        assert_eq!(rows(&cluster, "other", query), rows(&cluster, "app", query), "{query}");
    }
    let attached = "select inhrelid::regclass::text from pg_inherits order by 1";
    assert_eq!(rows(&cluster, "other", attached), rows(&cluster, "app", attached));
}

#[test]
fn what_is_missing_is_made_along_left_out_or_refused_by_name() {
    let (place, cluster) = shop();
    cluster.sql("postgres", "create database other");
    let url = cluster.url("other");
    let ran = place.run(["restore", "latest", "--table", "shop.orders", "--to", &url]);
    ran.good();
    for words in [
        "with sequence shop.orders_id_seq",
        "schema shop",
        "type shop.mood",
        "to_customer"
            .replace("to_customer", "orders_customer_fkey was left out: there is no table public.customers")
            .as_str(),
        "touched was left out: there is no function public.touch()",
        "(1,000 rows, equal)",
    ] {
        assert!(ran.stderr.contains(words), "{words}: {ran:?}");
    }
    assert_eq!(rows(&cluster, "other", "select count(*)::text from shop.orders"), ["1000"]);

    // A default that calls a function which is not there.
    cluster.sql(
        "app",
        "create function three() returns int language sql as 'select 3'; create table made (x int default three())",
    );
    place.backup(["--postgres", &cluster.url("app")]);
    let ran = place.run(["restore", "latest", "--table", "made", "--to", &url]);
    ran.failed(24, "lacks what the tables need: function public.three()");
    assert_eq!(rows(&cluster, "other", "select to_regclass('public.made')::text"), ["NULL"]);
}

#[test]
fn wrong_names_and_tables_that_exist_are_refused_before_anything_is_touched() {
    let (place, cluster) = shop();
    let url = cluster.url("app");
    for (table, words) in [
        ("ordesr", "did you mean shop.orders?"),
        ("open_orders", "open_orders is a view public.open_orders"),
        ("nothing_like_it", "its tables are "),
    ] {
        let ran = place.run(["restore", "latest", "--table", table, "--to", &url]);
        ran.failed(20, words);
    }
    let plain = cluster.plain_dump("app");
    let ran = place.run(["restore", "latest", "--table", "shop.orders", "--table", "customers", "--to", &url]);
    ran.failed(24, "has public.customers, shop.orders, shop.orders_id_seq already");
    assert_eq!(cluster.plain_dump("app"), plain);
    place.run(["restore", "latest", "--table", "customers"]).failed(2, "needs a place to go to");
    place.run(["restore", "latest", "--table", "customers", "--to", &cluster.url("absent")]).failed(14, "absent");
    let ran = place.run(["restore", "latest", "--table", "customers", "--to", "/tmp/x.sqlite3"]);
    ran.failed(2, "taken out of PostgreSQL dumps");
    let ran = place.run(["restore", "latest", "--table", "log", "--to", &url, "--clean"]);
    assert_eq!(ran.code, 2, "{ran:?}");
}

#[test]
fn rows_that_are_not_what_was_saved_are_taken_back() {
    let (place, cluster) = shop();
    cluster.sql("postgres", "create database other");
    cluster.sql("other", "create schema shop; create table keep (x int); insert into keep values (1)");
    let bin = place.path("bin");
    cluster.programs_with_fault(&bin, &place.path("fault.sql"));
    configured(&place, &cluster, &bin);
    for (fault, words) in [
        ("update shop.orders set note = 'x' where id = 7", "has 1000 rows, as it must, but not all with the saved"),
        ("delete from shop.orders where id = 7", "has 999 rows instead of 1000"),
        ("drop index shop.orders_note", "index shop.orders_note is missing"),
        ("select nextval('shop.orders_id_seq')", "sequence shop.orders_id_seq does not have the saved value"),
    ] {
        place.write("fault.sql", fault);
        let ran = place.run(["restore", "latest", "--table", "shop.orders", "--to", &cluster.url("other")]);
        ran.failed(21, words);
        let left = "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = relnamespace \
                    where nspname in ('shop', 'public') union all select typname::text from pg_type where typname = 'mood'";
        assert_eq!(rows(&cluster, "other", left), ["keep"], "{fault}");
    }
    // A program that fails: its transaction is taken back.
    place.write("bin/pg_restore", "#!/bin/sh\necho 'no such luck' >&2\nexit 3\n");
    let ran = place.run(["restore", "latest", "--table", "shop.orders", "--to", &cluster.url("other")]);
    ran.failed(21, "no such luck");
}

#[test]
fn a_script_holds_the_table_and_psql_brings_it_back() {
    let (place, cluster) = shop();
    let out = place.path("out");
    let target = out.to_str().unwrap();
    let ran = place.run(["restore", "latest", "--table", "shop.orders", "--target", target]);
    ran.good();
    assert!(ran.stderr.contains("the script needs type shop.mood"), "{ran:?}");
    let script = out.join("app.shop.orders.sql");
    assert_eq!(crate::support::program::files_below(&out), std::slice::from_ref(&script));
    cluster.sql("postgres", "create database other");
    cluster.sql(
        "other",
        "create schema shop; create type shop.mood as enum ('glad', 'sad'); create table customers \
                          (id int primary key); insert into customers select generate_series(1, 50); \
                          create function touch() returns trigger language plpgsql as 'begin return new; end'",
    );
    let psql = Command::new(cluster.bin().join("psql"))
        .args(["-q", "-v", "ON_ERROR_STOP=1", "--dbname", &cluster.url("other"), "-f"])
        .arg(&script)
        .output()
        .unwrap();
    assert!(psql.status.success(), "{psql:?}");
    let all = "select o::text from shop.orders o order by id";
    assert_eq!(rows(&cluster, "other", all), rows(&cluster, "app", all));
    // It is not written over.
    place.run(["restore", "latest", "--table", "shop.orders", "--target", target]).failed(24, "already");
    let ran = place.run(["restore", "latest", "--table", "shop.orders", "--target", target, "--dry-run"]);
    assert_eq!(ran.code, 24, "{ran:?}");
}

#[test]
fn a_script_that_was_cut_is_not_kept() {
    let (place, cluster) = shop();
    let bin = place.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in ["pg_dump", "pg_dumpall", "psql"] {
        std::os::unix::fs::symlink(cluster.bin().join(name), bin.join(name)).unwrap();
    }
    let script = format!("#!/bin/sh\n'{}/pg_restore' \"$@\" | sed 's/line.n.t..77$/line/'\n", cluster.bin().display());
    let wrapper = place.write("bin/pg_restore", script);
    std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
    let out = place.path("out");
    configured(&place, &cluster, &bin);
    let ran = place.run(["restore", "latest", "--table", "shop.orders", "--target", out.to_str().unwrap()]);
    ran.failed(21, "has 1000 rows, as it must, but not all with the saved contents");
    assert_eq!(crate::support::program::files_below(&out), Vec::<std::path::PathBuf>::new());
}
