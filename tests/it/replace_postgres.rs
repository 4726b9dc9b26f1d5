//! A PostgreSQL database takes the place of another: every arrangement of names, forwards and back.

use crate::support::pg::Cluster;
use holdfast::source::postgres::connect::{Connection, LibpqEnvironment};
use holdfast::target::replace::postgres::{Dumped, PostgresReplacement};
use holdfast::target::replace::{Error, Replace, State};

const ACT: &str = "0123456789abcdef";
const NEW: &str = "app_restore_01234567";
const OLD: &str = "app_old_01234567";

fn place(cluster: &Cluster) -> Connection {
    Connection::resolve(&cluster.url("app"), &LibpqEnvironment::default()).unwrap()
}

/// Makes a database whose only table says what it is.
fn make(cluster: &Cluster, name: &str, word: &str) {
    cluster.sql("postgres", &format!("create database {name}"));
    cluster.sql(name, &format!("create table what as select '{word}'::text w"));
}

fn word(cluster: &Cluster, name: &str) -> String {
    cluster.session(name).query_one("select w from what", &[]).unwrap().get(0)
}

fn there(cluster: &Cluster) -> Vec<String> {
    cluster.databases().into_iter().filter(|name| name != "postgres").collect()
}

#[test]
fn forwards_and_back_from_every_arrangement() {
    let cluster = Cluster::start();
    let replacement = PostgresReplacement::new(place(&cluster), ACT, true);
    make(&cluster, "app", "old");
    assert_eq!(replacement.state().unwrap(), State::Untouched);
    assert!(matches!(replacement.swap(), Err(Error::NothingStaged { .. })));
    make(&cluster, NEW, "new");
    assert_eq!(replacement.state().unwrap(), State::Staged);
    assert!(matches!(replacement.discard_old(), Err(Error::InUse { .. })));
    // Closed to sessions, as a run leaves it that dies between that and the renames.
    cluster.sql("postgres", "alter database app allow_connections false");
    assert_eq!(replacement.state().unwrap(), State::Halfway);
    replacement.unswap().unwrap();
    assert_eq!((replacement.state().unwrap(), word(&cluster, "app")), (State::Staged, "old".to_owned()));
    let mut connected = cluster.session("app");
    for _ in 0..2 {
        replacement.swap().unwrap();
        assert_eq!((replacement.state().unwrap(), word(&cluster, "app")), (State::Swapped, "new".to_owned()));
    }
    assert!(connected.simple_query("select 1").is_err(), "its session was ended");
    assert!(matches!(replacement.discard_new(), Err(Error::InUse { .. })));
    // One rename alone, as somebody's hand might leave it.
    cluster.sql("postgres", &format!("alter database app rename to {NEW}"));
    assert_eq!(replacement.state().unwrap(), State::Halfway);
    replacement.swap().unwrap();
    assert_eq!((replacement.state().unwrap(), word(&cluster, "app")), (State::Swapped, "new".to_owned()));
    cluster.sql("postgres", &format!("alter database app rename to {NEW}"));
    for _ in 0..2 {
        replacement.unswap().unwrap();
        assert_eq!((replacement.state().unwrap(), word(&cluster, "app")), (State::Staged, "old".to_owned()));
    }
    replacement.swap().unwrap();
    for _ in 0..2 {
        replacement.unswap().unwrap();
        assert_eq!((replacement.state().unwrap(), word(&cluster, "app")), (State::Staged, "old".to_owned()));
    }
    for _ in 0..2 {
        replacement.discard_new().unwrap();
    }
    assert_eq!((replacement.state().unwrap(), there(&cluster)), (State::Untouched, vec!["app".to_owned()]));
    make(&cluster, NEW, "newer");
    replacement.swap().unwrap();
    for _ in 0..2 {
        replacement.discard_old().unwrap();
    }
    assert_eq!((word(&cluster, "app"), there(&cluster)), ("newer".to_owned(), vec!["app".to_owned()]));
    // What fits no state is named and left alone.
    make(&cluster, NEW, "a");
    make(&cluster, OLD, "b");
    assert!(matches!(replacement.state(), Err(Error::Unexpected { .. })));
    assert!(replacement.swap().is_err() && replacement.unswap().is_err());
    assert_eq!(there(&cluster).len(), 3);
}

#[test]
fn an_empty_place_is_empty_again() {
    let cluster = Cluster::start();
    assert!(!PostgresReplacement::exists(&place(&cluster)).unwrap());
    let replacement = PostgresReplacement::new(place(&cluster), ACT, false);
    replacement.create_new(&Dumped::default()).unwrap();
    cluster.sql(NEW, "create table what as select 'new'::text w");
    replacement.finish_new(&Dumped::default()).unwrap();
    for _ in 0..2 {
        assert_eq!(replacement.state().unwrap(), State::Staged);
        replacement.swap().unwrap();
        replacement.swap().unwrap();
        assert_eq!((replacement.state().unwrap(), word(&cluster, "app")), (State::Swapped, "new".to_owned()));
        replacement.unswap().unwrap();
        replacement.unswap().unwrap();
    }
    replacement.discard_new().unwrap();
    assert_eq!((replacement.state().unwrap(), there(&cluster).len()), (State::Untouched, 0));
    // Somebody else was faster.
    replacement.create_new(&Dumped::default()).unwrap();
    cluster.sql("postgres", "create database app");
    assert!(replacement.swap().is_err());
    replacement.discard_new().unwrap();
    assert_eq!(there(&cluster), ["app"]);
}

#[test]
fn a_database_that_is_not_to_be_replaced_is_named() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "create role weak login");
    cluster.sql("postgres", "create database app");
    let weak = Connection::resolve(&cluster.url_as("weak", "app"), &LibpqEnvironment::default()).unwrap();
    let found = PostgresReplacement::examine(&weak, &Default::default()).unwrap();
    assert!(found.problems.iter().any(|p| p.contains("may not create databases")), "{found:?}");
    assert!(found.problems.iter().any(|p| p.contains("does not own")), "{found:?}");
    let needs = holdfast::target::replace::postgres::Needs {
        server_version: Some("99.1 (Debian)"),
        roles: vec!["postgres".into(), "nobody".into()],
        extensions: vec!["plpgsql".into(), "imaginary".into()],
        tablespaces: vec!["pg_default".into(), "fast".into()],
    };
    let found = PostgresReplacement::examine(&place(&cluster), &needs).unwrap();
    let text = found.problems.join("\n");
    for words in ["older than the dump's", "roles that the server does not have: nobody", "imaginary", "fast"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(found.problems.len(), 4, "{text}");
}
