//! Configuration, arguments, texts about the program.

use crate::support::program::{Place, files_below, run};

#[test]
fn configuration_errors_point_at_line_and_column() {
    let place = Place::new();
    place.write("holdfast.toml", "[repository]\nlocation = \"repository\"\n  pasword = { env = \"X\" }\n");
    for verb in [&["config", "check"][..], &["snapshots"], &["backup"], &["init"]] {
        let ran = place.run(verb);
        ran.failed(2, "line 3, column 3 of");
        assert!(ran.stderr.contains("password"), "the right key is suggested: {ran:?}");
    }
    let ran = place.run(["--json", "config", "check"]);
    assert_eq!((ran.code, ran.json_error()["id"].as_str()), (2, Some("config.invalid")));
    // Help and the version do not need a configuration.
    place.run(["version"]).good();
    place.run(["help", "backup"]).good();
    place.run(["-c", "absent.toml", "config", "check"]).failed(2, "absent.toml");
}

#[test]
fn config_shows_values_and_origins_but_no_secret() {
    let place = Place::new();
    place.write(
        "holdfast.toml",
        "[repository]\npassword = \"geheim-literal\"\n[[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"/srv\"]\n",
    );
    let shown = place.run_bare(["config", "show"]);
    shown.good();
    assert!(shown.stdout.contains("repository.location") && shown.stdout.contains("HOLDFAST_REPOSITORY"), "{shown:?}");
    let json = place.run_bare(["config", "show", "--json"]);
    assert_eq!(json.json()["type"], "result");
    place.run_bare(["config", "check"]).good();
    assert_eq!(place.run_bare(["config", "check", "--json"]).json()["sources"][0], "code");
    place.run_bare(["init"]).good();
    for verb in
        [&["config", "show"][..], &["config", "show", "--json"], &["config", "check", "-vv"], &["snapshots", "-vv"]]
    {
        let ran = run(place.bare(verb).env("PGPASSWORD", "geheim-pg"));
        assert!(!format!("{ran:?}").contains("geheim"), "{ran:?}");
    }
    // A password set twice is not guessed about.
    let ran =
        run(place.bare(["config", "show"]).env("HOLDFAST_PASSWORD", "geheim-a").env("HOLDFAST_PASSWORD_FILE", "f"));
    ran.failed(2, "HOLDFAST_PASSWORD_FILE");
    assert!(!ran.stderr.contains("geheim"), "{ran:?}");
}

#[test]
fn passwords_in_urls_are_refused_and_not_repeated() {
    let place = Place::with_repository();
    let before = files_below(&place.path("repository"));
    let ran = place.run(["backup", "--postgres", "postgres://app:hunter2@127.0.0.1/app"]);
    ran.failed(2, "password");
    assert!(!ran.stderr.contains("hunter2") && ran.stderr.contains(".pgpass"), "{ran:?}");
    assert_eq!(files_below(&place.path("repository")), before);
}

#[test]
fn wrong_usage_ends_with_2() {
    let place = Place::new();
    place.run(["snapshotz"]).failed(2, "snapshots");
    place.run(["snapshots", "--clas", "x"]).failed(2, "--class");
    place.run(["--limit-upload", "1MB", "snapshots"]).failed(2, "reserved");
    let ran = place.run(["snapshotz", "--json"]);
    assert_eq!(ran.json_error()["code"], 2);
    let nothing = place.run(Vec::<String>::new());
    assert_eq!((nothing.code, nothing.stdout.as_str()), (2, ""), "{nothing:?}");
    assert!(nothing.stderr.contains("Usage: holdfast"), "{nothing:?}");
}

#[test]
fn texts_about_the_program() {
    let place = Place::new();
    let version = format!("holdfast {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(place.run(["version"]).good().stdout, version);
    assert_eq!(place.run(["--version"]).good().stdout, version);
    assert_eq!(place.run(["version", "--json"]).json()["version"], env!("CARGO_PKG_VERSION"));
    for verb in ["init", "backup", "create", "snapshots", "ls", "stats", "restore", "dump", "verify", "check", "key"] {
        let (long, topic) = (place.run([verb, "--help"]), place.run(["help", verb]));
        assert!(long.good().stdout.contains("Usage: holdfast"), "{long:?}");
        assert!(topic.good().stdout.contains("Examples:"), "{topic:?}");
    }
    assert!(place.run(["help", "exit-codes"]).good().stdout.contains("  20  snapshot not found"));
    place.run(["help", "snapshot"]).failed(2, "did you mean 'snapshots'");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(place.run(["completions", shell]).good().stdout.contains("holdfast"), "{shell}");
    }
    place.run(["man", "pages/man1"]).good();
    let pages = files_below(&place.path("pages"));
    assert!(pages.contains(&place.path("pages/man1/holdfast.1")), "{pages:?}");
    assert!(pages.contains(&place.path("pages/man1/holdfast-key-add.1")), "{pages:?}");
    assert!(std::fs::read_to_string(&pages[0]).unwrap().contains(".SH NAME"));
    // Nothing of this made a repository.
    assert!(!place.path("repository").exists());
}

#[test]
fn variables_files() {
    let place = Place::with_repository();
    place.write(".env", "HOLDFAST_PASSWORD=\"correct horse battery staple\"\n");
    place.run_bare(["--env-file", ".env", "snapshots"]).good();
    place.run_bare(["--env-file", "absent", "snapshots"]).failed(2, "absent");
}
