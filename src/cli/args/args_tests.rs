//! Tests of the command line as users type it.

use super::*;
use crate::cli::environment::Environment;
use crate::domain::time_spec::Context;
use clap::CommandFactory;
use jiff::tz::TimeZone;
use std::path::Path;
use std::time::Duration;

fn run(words: &[&str]) -> Result<Cli, Stop> {
    parse(std::iter::once("holdfast").chain(words.iter().copied()).map(OsString::from))
}

fn cli(line: &str) -> Cli {
    run(&line.split_whitespace().collect::<Vec<_>>()).unwrap_or_else(|stop| panic!("{line}: {stop:?}"))
}

fn failure(line: &str) -> Failure {
    match run(&line.split_whitespace().collect::<Vec<_>>()) {
        Err(Stop::Fail { failure, .. }) => *failure,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_commands_of_the_issue_are_understood() {
    for line in [
        "init",
        "init -r /mnt/b --recovery-kit kit.txt",
        "init --insecure-no-encryption",
        "backup /srv/app",
        "create",
        "backup --postgres postgres://b@h/db --sqlite /srv/app/db.sqlite3 /srv/app/media --tag v2.3",
        "backup --stdin --stdin-filename shop.sql",
        "backup --stdin-from-command -- redis-cli --rdb -",
        "backup --db-only --class hourly",
        "backup --only app-db --source code --time 2026-11-20T14:00",
        "snapshots",
        "list --class weekly --size",
        "snapshots latest tag:x --host h --source s --tag a --tag b",
        "ls",
        "ls latest:/srv",
        "stats",
        "size 20240708_143022",
        "restore @yesterday --target /tmp/out",
        "restore latest --source app-db --to postgres://h/app_copy",
        "restore latest --type database --target /tmp/out",
        "dump latest app-db --format sql",
        "dump latest:/etc/x",
        "verify",
        "check --all",
        "verify --read-data-subset 10% --max-duration 1h --report r.json --unverified-for 30d",
        "key list",
        "key add --new-key-file k",
        "key remove 91c0 --yes",
        "key passwd",
        "repair index",
        "repair packs",
        "repair packs packs/ab/abababababababababababababababab",
        "repair snapshots latest --read-data",
        "config show",
        "config check -c x.toml",
        "completions bash",
        "man /tmp/m",
        "version",
        "help exit-codes",
    ] {
        cli(line);
    }
}

#[test]
fn global_flags_stand_before_or_after_the_verb() {
    for line in [
        "-r /x -q --json -n -y --retry-lock 90s --no-progress --color never verify",
        "verify -r /x -q --json -n -y --retry-lock 90s --no-progress --color never",
        "-r /x verify --quiet --json -n -y --retry-lock 90s --no-progress --color=never",
    ] {
        let global = cli(line).global;
        assert_eq!(global.repo.as_deref(), Some("/x"), "{line}");
        assert!(global.quiet && global.json && global.dry_run && global.yes && global.no_progress, "{line}");
        assert_eq!(global.retry_lock, Duration::from_secs(90));
        assert_eq!(global.color, global::ColorWhen::Never);
    }
    assert_eq!(cli("verify").global.retry_lock, Duration::from_secs(300));
    assert_eq!(cli("key list -vv").global.verbose, 2);
    assert_eq!(cli("backup --limit-upload 10MB").global.limit_upload, Some(10_000_000));
}

#[test]
fn wrong_usage_is_exit_2_with_a_suggestion() {
    let unknown = failure("bakup /srv");
    assert_eq!(unknown.exit, ExitCode::Usage);
    assert_eq!(unknown.message, "Unrecognized subcommand 'bakup'");
    assert!(unknown.hints.iter().any(|h| h.contains("'backup'")), "{:?}", unknown.hints);
    let flag = failure("backup --dryrun");
    assert!(flag.hints.iter().any(|h| h.contains("--dry-run")), "{:?}", flag.hints);
    for line in [
        "restore latest --clean --target x",
        "restore latest --target x --env y",
        "restore latest --target x --to postgres://h/d",
        "backup --stdin --stdin-from-command -- x",
        "backup --stdin-from-command",
        "backup --stdin-filename x",
        "backup --stdin --stdin-filename a/b",
        "backup --db-only --code-only",
        "backup --db-only /srv",
        "backup --only x /srv",
        "backup --only x -- -odd",
        "backup --class a/b",
        "backup --tag a:/b",
        "verify --read-data --read-data-subset 1/2",
        "verify latest --read-data",
        "verify --max-duration 5",
        "snapshots --format {nope}",
        "snapshots --json --format {id}",
        "init --recovery-kit f --no-recovery-kit",
        "init --insecure-no-encryption --key-file f",
        "key add --new-key-file a --recovery-kit b",
        "verify -q -v",
        "verify --password-file a --key-file b",
        "verify --color sometimes",
        "key",
    ] {
        let exit = match run(&line.split_whitespace().collect::<Vec<_>>()) {
            Err(Stop::Fail { failure, .. }) => failure.exit,
            Err(Stop::Print { exit, .. }) => exit,
            Ok(cli) => panic!("{line}: {cli:?}"),
        };
        assert_eq!(exit, ExitCode::Usage, "{line}");
    }
    assert!(failure("verify --color sometimes").message.contains("auto, always, never"));
    assert!(failure("restore latest --clean --target x").hints[0].starts_with("usage: holdfast restore "));
}

#[test]
fn a_password_in_a_url_is_refused_and_never_repeated() {
    for words in [
        &["backup", "--postgres", "postgres://u:hunter2@h/db"][..],
        &["backup", "--postgres=postgres://u:hunter2@h/db"],
        &["backup", "--postgres", "host=h password=hunter2"],
        &["backup", "--postgers", "postgres://u:hunter2@h/db"],
        &["postgres://u:hunter2@h/db"],
        &["restore", "latest", "--to", "postgres://h/db?password=hunter2"],
        &["-r", "s3://key:hunter2@bucket/x", "verify"],
    ] {
        let Err(Stop::Fail { failure, .. }) = run(words) else { panic!("{words:?}") };
        assert_eq!((failure.exit, failure.id), (ExitCode::Usage, "url.password"), "{words:?}");
        assert!(!failure.text().contains("hunter2") && failure.text().contains(".pgpass"), "{}", failure.text());
    }
    // What follows -- is the user's own command.
    assert!(run(&["backup", "--stdin-from-command", "--", "fetch", "https://u:p@h/x"]).is_ok());
}

#[test]
fn backup_tells_commands_from_odd_paths() {
    let Command::Backup(args) = cli("backup --stdin-from-command -- redis-cli --rdb -").command else { panic!("verb") };
    assert_eq!(args.command, ["redis-cli", "--rdb", "-"]);
    assert!(args.paths.is_empty() && args.is_ad_hoc());
    let Command::Backup(args) = cli("backup a -- -odd --path").command else { panic!("verb") };
    assert_eq!(args.paths, [Path::new("a"), Path::new("-odd"), Path::new("--path")]);
    assert!(args.command.is_empty());
    let Command::Backup(args) = cli("backup --time 2026-11-20").command else { panic!("verb") };
    let context = Context { now: "2026-11-20T14:30:45Z".parse().unwrap(), tz: TimeZone::UTC };
    assert_eq!(args.time_ns(&context), Ok(Some(1_795_132_800_000_000_000)));
    assert!(!args.is_ad_hoc());
    let Command::Backup(args) = cli("backup --time soon").command else { panic!("verb") };
    assert_eq!(args.time_ns(&context).unwrap_err().exit, ExitCode::Usage);
}

#[test]
fn restore_types() {
    use restore::RestoreType::*;
    for (line, kind) in [
        ("restore latest --target x", Full),
        ("restore latest --target x --type codebase", Codebase),
        ("restore latest --target x --db-only", Database),
        ("restore latest --target x --code-only", Codebase),
    ] {
        let Command::Restore(args) = cli(line).command else { panic!("verb") };
        assert_eq!(args.restore_type(), kind, "{line}");
    }
}

#[test]
fn help_and_version_are_printed() {
    let printed = |words: &[&str]| match run(words) {
        Err(Stop::Print { text, exit }) => (text, exit),
        other => panic!("{words:?}: {other:?}"),
    };
    assert_eq!(printed(&[]).1, ExitCode::Usage);
    let (text, exit) = printed(&["--help"]);
    assert_eq!(exit, ExitCode::Success);
    for verb in ["init", "backup", "snapshots", "restore", "verify", "[alias: create]", "[alias: check]"] {
        assert!(text.contains(verb), "{verb}");
    }
    assert_eq!(printed(&["--version"]).0, format!("holdfast {}\n", env!("CARGO_PKG_VERSION")));
    for command in Cli::command().get_subcommands() {
        let (text, exit) = printed(&[command.get_name(), "--help"]);
        assert_eq!(exit, ExitCode::Success);
        let bare = matches!(command.get_name(), "version" | "help");
        assert!(bare || text.contains("Examples:\n  holdfast "), "{}", command.get_name());
        assert!(text.contains("Global options:"), "{}", command.get_name());
    }
}

#[test]
fn help_has_topics() {
    let help = |topic: &str| generate::help(&topic.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    assert!(help("exit-codes").unwrap().contains("snapshot not found"));
    assert!(help("").unwrap().contains("Examples:"));
    assert!(help("check").unwrap().contains("--read-data-subset"));
    assert!(help("key add").unwrap().contains("--recovery-kit"));
    assert_eq!(help("bakcup").unwrap_err().hints, ["did you mean 'backup'?"]);
}

#[test]
fn completions_and_manual_pages_are_made() {
    use clap_complete::Shell;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
        assert!(generate::completions(shell).contains("read-data-subset"), "{shell}");
    }
    let pages = generate::man_pages().unwrap();
    let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["holdfast.1", "holdfast-backup.1", "holdfast-key-add.1", "holdfast-repair-index.1"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(pages.iter().all(|(_, page)| page.len() > 100));
}

#[test]
fn json_and_colour_follow_flags_and_terminal() {
    let mut environment = Environment::empty("/");
    let options = |line: &str, environment: &Environment| {
        let cli = cli(line);
        cli.global.output_options(environment, cli.command.json_mode())
    };
    assert_eq!(options("backup --json", &environment).json, JsonMode::Lines);
    assert_eq!(options("snapshots --json", &environment).json, JsonMode::Document);
    assert_eq!(options("snapshots", &environment).json, JsonMode::Off);
    assert!(!options("verify", &environment).color);
    environment.stderr_terminal = true;
    assert!(options("verify", &environment).color);
    assert!(!options("verify --color never", &environment).color);
    let plain = environment.clone().with("NO_COLOR", "1");
    assert!(!options("verify", &plain).color && options("verify --color always", &plain).color);
    assert!(!options("verify", &environment.with("TERM", "dumb")).color);
    assert!(matches!(run(&["--json", "nonsense"]), Err(Stop::Fail { json: true, .. })));
}

#[test]
fn flags_become_overrides() {
    let overrides = cli("verify -r r -c c -P p --cache-dir d --password-command pass").global.overrides();
    assert_eq!(overrides.repository.as_deref(), Some("r"));
    assert_eq!(overrides.password_command.as_deref(), Some("pass"));
    assert_eq!(overrides.profile.as_deref(), Some("p"));
}
