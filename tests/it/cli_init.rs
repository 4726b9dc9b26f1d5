//! Making a repository, its keys, and the ways to open it.

use crate::support::program::{PASSWORD, Place, files_below, run};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

#[test]
fn init_makes_a_repository_once() {
    let place = Place::new();
    let ran = place.run(["init"]);
    ran.good();
    assert_eq!(ran.stdout.trim_end().len(), 32, "{ran:?}");
    assert!(ran.stderr.contains("made repository") && ran.stderr.contains("key add --recovery-kit"), "{ran:?}");
    let before = files_below(&place.path("repository"));
    place.run(["init"]).failed(24, "already");
    // Also when another password is given, and before one is asked for.
    place.run_bare(["init"]).failed(24, "already");
    assert_eq!(files_below(&place.path("repository")), before);
    place.run(["snapshots"]).good();
}

#[test]
fn init_refuses_what_it_would_damage() {
    let place = Place::new();
    place.write("repository/mine.txt", "precious");
    let ran = place.run(["init"]);
    ran.failed(24, "Cannot create a repository");
    assert!(ran.stderr.contains("nothing was touched"), "{ran:?}");
    assert_eq!(files_below(&place.path("repository")), [place.path("repository/mine.txt")]);
    // A file where the folder should be.
    place.write("file", "x");
    let ran = place.run(["init", "-r", "file"]);
    assert!(ran.code != 0 && ran.stderr.contains("error: "), "{ran:?}");
    // Nobody to ask for a password.
    place.run_bare(["-r", "new", "init"]).failed(12, "No password");
    assert!(!place.path("new").exists());
}

/// What an init leaves that died between the two copies of the configuration: no repository, nobody begins to use it, and
/// the next init makes one in its place, with keys of its own.
#[test]
fn an_init_that_was_interrupted_is_begun_anew() {
    let place = Place::new();
    place.run_bare(["init", "--new-key-file", "lost"]).good();
    std::fs::remove_file(place.path("repository/config")).unwrap();
    place.write("data/a", "1");
    for verb in
        [&["snapshots"][..], &["backup", "data"], &["verify"], &["verify", "--stored-only"], &["repair", "snapshots"]]
    {
        let ran = place.run(verb);
        ran.failed(10, "was interrupted");
        assert!(ran.stderr.contains("run `holdfast init` again"), "{ran:?}");
    }
    place.run(["init"]).good();
    place.backup(["data"]);
    place.run(["verify", "--read-data"]).good();
    place.run_bare(["snapshots", "--key-file", "lost"]).failed(12, "key file");
    // A run that may make the repository does so.
    let other = Place::new();
    other.run(["init"]).good();
    std::fs::remove_file(other.path("repository/config")).unwrap();
    other.write("data/a", "1");
    other.backup(["--init", "data"]);
    other.run(["verify"]).good();
    // Where something is stored it is a repository that lost a copy: it opens, and init keeps away.
    std::fs::remove_file(other.path("repository/config")).unwrap();
    other.run(["init"]).failed(24, "already");
    assert_eq!(other.run(["snapshots"]).code, 13);
    other.run(["repair", "snapshots"]).good();
    other.run(["verify"]).good();
}

#[test]
fn dry_run_makes_nothing() {
    let place = Place::new();
    place.run(["init", "--dry-run"]).good();
    assert!(!place.path("repository").exists());
}

#[test]
fn wrong_and_missing_passwords_end_with_12() {
    let place = Place::with_repository();
    place.run_bare(["snapshots"]).failed(12, "No password");
    let began = Instant::now();
    let ran = run(place.bare(["snapshots"]).env("HOLDFAST_PASSWORD", "wrong-Geheim"));
    ran.failed(12, "password opens no key slot");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!ran.stderr.contains("wrong-Geheim"), "{ran:?}");
    let ran = run(place.bare(["--json", "snapshots"]).env("HOLDFAST_PASSWORD", "wrong-Geheim"));
    assert_eq!((ran.code, ran.json_error()["code"].as_i64()), (12, Some(12)));
    assert_eq!(ran.json_error()["id"], "password.wrong");
    // From a file, with a line feed at its end.
    let file = place.write("password", format!("{PASSWORD}\n"));
    place.run_bare(["snapshots".as_ref(), "--password-file".as_ref(), file.as_os_str()]).good();
    place.run_bare(["snapshots", "--password-file", "absent"]).failed(12, "absent");
    run(place.bare(["snapshots"]).env("HOLDFAST_PASSWORD_COMMAND", "cat password")).good();
    // A key file that is none.
    place.run_bare(["snapshots", "--key-file", "password"]).failed(12, "key file");
}

#[test]
fn no_repository_ends_with_10() {
    let place = Place::new();
    for verb in [&["snapshots"][..], &["ls", "latest"], &["stats"], &["key", "list"], &["backup", "home"]] {
        let ran = place.run(verb);
        ran.failed(10, "no repository");
        assert!(ran.stderr.contains("holdfast init"), "{ran:?}");
    }
    // An existing folder without one.
    std::fs::create_dir(place.path("repository")).unwrap();
    place.run(["snapshots"]).failed(10, "no repository");
    assert!(files_below(&place.path("repository")).is_empty());
}

#[test]
fn backup_makes_the_repository_when_told() {
    let place = Place::new();
    place.write("data/a", "1");
    place.backup(["--init", "data"]);
    place.backup(["--init", "data"]);
    assert_eq!(place.run(["snapshots", "--json"]).json()["snapshots"].as_array().unwrap().len(), 2);
}

#[test]
fn key_files_and_recovery_kits_open() {
    let place = Place::new();
    let ran = place.run_bare(["init", "--new-key-file", "key", "--recovery-kit", "kit"]);
    ran.good();
    for file in ["key", "kit"] {
        let mode = std::fs::metadata(place.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
        place.run_bare(["snapshots", "--key-file", file]).good();
    }
    // The typed groups of the kit work where a password is asked for.
    let kit = std::fs::read_to_string(place.path("kit")).unwrap();
    let inner = kit.split("-----BEGIN HOLDFAST RECOVERY KEY-----").nth(1).unwrap().split("-----END").next().unwrap();
    run(place.bare(["snapshots"]).env("HOLDFAST_PASSWORD", inner.trim())).good();
    // No secret is printed.
    let group = inner.split_whitespace().nth(1).unwrap();
    assert!(!ran.stdout.contains(group) && !ran.stderr.contains(group), "{ran:?}");
    // A recovery key is no new password: typed, it would be taken for a recovery key.
    run(place.bare(["-r", "other", "init"]).env("HOLDFAST_PASSWORD", inner.trim())).failed(2, "recovery key");
    // Existing files are never written over, and nothing is made.
    place.run_bare(["-r", "other", "init", "--new-key-file", "key"]).failed(24, "key");
    assert!(!place.path("other").exists());
    place.run_bare(["snapshots", "--key-file", "key"]).good();
}

#[test]
fn without_encryption() {
    let place = Place::new();
    place.run(["init", "--insecure-no-encryption"]).failed(2, "no use of it");
    let ran = place.run_bare(["init", "--insecure-no-encryption"]);
    ran.good();
    assert!(ran.stderr.contains("not encrypted"), "{ran:?}");
    place.run_bare(["snapshots"]).good();
    // A password for it means that somebody may have replaced it.
    place.run(["snapshots"]).failed(12, "not encrypted");
    assert!(place.run_bare(["key", "list"]).good().stderr.contains("no keys"));
    place.run_bare(["key", "add"]).failed(24, "not encrypted");
}

#[test]
fn keys_come_and_go() {
    let place = Place::with_repository();
    place.write("second", "another password\n");
    let second = place.run(["key", "add", "--new-password-file", "second"]).good().stdout.trim_end().to_owned();
    place.run_bare(["snapshots", "--password-file", "second"]).good();
    place.run(["key", "add", "--new-key-file", "key"]).good();
    place.run(["key", "add", "--recovery-kit", "kit"]).good();
    place.run_bare(["snapshots", "--key-file", "kit"]).good();
    place.run_bare(["key", "add", "--new-password-file", "second"]).failed(12, "No password");
    place.run(["key", "add"]).failed(12, "No password");

    let listed = place.run_bare(["key", "list", "--json"]).json();
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 4);
    let kinds = |kind: &str| keys.iter().filter(|key| key["kind"] == kind).count();
    assert_eq!((kinds("passphrase"), kinds("key-file"), kinds("recovery")), (2, 1, 1));

    // Removing asks, and where nobody can be asked it needs --yes.
    let prefix = &second[..8];
    place.run(["key", "remove", prefix]).failed(17, "--yes");
    place.run(["key", "remove", prefix, "--dry-run"]).good();
    place.run_bare(["snapshots", "--password-file", "second"]).good();
    place.run(["key", "remove", prefix, "--yes"]).good();
    place.run_bare(["snapshots", "--password-file", "second"]).failed(12, "opens no key slot");
    place.run(["key", "remove", prefix, "--yes"]).failed(2, prefix);
    place.run(["key", "remove", "", "--yes"]).failed(2, "No key slot");

    // Changing the password ends the old one.
    place.run(["key", "passwd", "--new-password-file", "second"]).good();
    place.run(["snapshots"]).failed(12, "opens no key slot");
    place.run_bare(["snapshots", "--password-file", "second"]).good();

    // The last slot stays.
    let ids = place.run_bare(["key", "list", "--json"]).json();
    let ids: Vec<String> =
        ids["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect();
    for id in ids.iter().skip(1) {
        place.run_bare(["key", "remove", id, "--yes"]).good();
    }
    place.run_bare(["key", "remove", &ids[0], "--yes"]).failed(24, "last one");
}

#[test]
fn damage_that_a_copy_made_good_still_ends_with_13() {
    let place = Place::with_repository();
    place.write("data/a", "1");
    let id = place.backup(["data"]);
    let config = place.path("repository/config");
    let mut bytes = std::fs::read(&config).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut permissions = std::fs::metadata(&config).unwrap().permissions();
    permissions.set_mode(0o600);
    std::fs::set_permissions(&config, permissions).unwrap();
    std::fs::write(&config, &bytes).unwrap();
    let ran = place.run(["snapshots"]);
    assert_eq!(ran.code, 13, "{ran:?}");
    assert!(ran.stdout.contains(&id[..8]), "the list is printed all the same: {ran:?}");
    assert!(ran.stderr.contains("config is damaged") && ran.stderr.contains("did its work"), "{ran:?}");
    let ran = place.run(["--json", "snapshots"]);
    assert_eq!((ran.code, ran.json_error()["code"].as_i64()), (13, Some(13)));
    assert_eq!(ran.json()["snapshots"][0]["id"], id.as_str());
    // Both copies: nothing works, and nothing is repaired or removed behind the user's back.
    std::fs::remove_file(place.path("repository/config.copy")).unwrap();
    place.run(["snapshots"]).failed(13, "damaged");
    assert_eq!(std::fs::read(&config).unwrap(), bytes);
}

#[test]
fn a_newer_format_is_refused() {
    let place = Place::with_repository();
    for name in ["config", "config.copy"] {
        let path = place.path("repository").join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        // The format version in the header.
        bytes[10] = 99;
        // A whole object of the future: its checksum, the last 32 bytes, is right.
        let covered = bytes.len() - 32;
        let checksum = *blake3::hash(&bytes[..covered]).as_bytes();
        bytes[covered..].copy_from_slice(&checksum);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let ran = place.run(["snapshots"]);
    ran.failed(24, "newer holdfast");
    assert!(ran.stderr.contains("install the newest"), "{ran:?}");
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_commits_nothing() {
    let place = Place::with_repository();
    // It does not compress, so the pack is larger than the limit.
    let mut noise = vec![0u8; 4 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    place.write("data/noise", &noise);
    let program = place.command(["backup", "data"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -f 1024; exec \"$0\" backup data", env!("CARGO_BIN_EXE_holdfast")]).env_clear();
    for (name, value) in program.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    limited.current_dir(place.path(""));
    run(&mut limited).failed(16, "free space");
    assert!(place.run(["snapshots", "--json"]).json()["snapshots"].as_array().unwrap().is_empty());
    place.backup(["data"]);
}
