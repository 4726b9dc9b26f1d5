//! Restores into directories that hold something, as users run them.

use crate::support::program::Place;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A place with a snapshot of a small tree, which has changed since.
fn changed() -> (Place, String) {
    let place = Place::with_repository();
    for name in ["one", "two", "sub/three"] {
        place.write(&format!("app/{name}"), name);
    }
    let id = place.backup([place.path("app")]);
    place.write("app/two", "changed");
    std::fs::remove_file(place.path("app/one")).unwrap();
    place.write("app/sub/new", "not in the snapshot");
    (place, id)
}

fn read(place: &Place, name: &str) -> Option<String> {
    std::fs::read_to_string(place.path(name)).ok()
}

/// Where the tree is below a target.
fn below(place: &Place, target: &str, name: &str) -> PathBuf {
    place.path(target).join(place.path(name).strip_prefix("/").unwrap())
}

#[test]
fn what_exists_is_replaced_only_when_asked_for_and_confirmed() {
    let (place, id) = changed();
    place.write("out/note", "mine");
    let ran = place.run(["restore", &id, "--target", "out"]);
    assert_eq!(ran.code, 24, "{ran:?}");
    assert!(ran.stderr.contains("--overwrite"), "{ran:?}");
    let ran = place.run(["restore", &id, "--target", "out", "--overwrite", "always"]);
    assert_eq!(ran.code, 17, "{ran:?}");
    assert_eq!(std::fs::read_dir(place.path("out")).unwrap().count(), 1);
    // Nothing that exists is touched by `never`: no question.
    let ran = place.run(["restore", &id, "--target", "out", "--overwrite", "never"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(read(&place, "out/note").unwrap(), "mine");
    let two = below(&place, "out", "app/two");
    assert_eq!(std::fs::read(&two).unwrap(), b"two");
    for (flags, code) in [(&["--delete"][..], 2), (&["--overwrite", "always", "--delete", "--include", "*.py"], 2)] {
        let mut args = vec!["restore", &id, "--target", "out"];
        args.extend(flags);
        assert_eq!(place.run(&args).code, code, "{flags:?}");
    }
    std::fs::write(&two, "newer here").unwrap();
    for (when, expected) in [("never", "newer here"), ("if-newer", "newer here"), ("if-changed", "two")] {
        let ran = place.run(["restore", &id, "--target", "out", "--overwrite", when, "--yes"]);
        assert_eq!((ran.code, std::fs::read_to_string(&two).unwrap().as_str()), (0, expected), "{when}: {ran:?}");
    }
}

#[test]
fn a_tree_is_put_back_in_its_place_with_what_goes_listed_first() {
    let (place, id) = changed();
    let app = place.path("app");
    symlink("/", app.join("sub/planted")).unwrap();
    let selector = format!("{id}:{}", app.display());
    let args = ["restore", &selector, "--target", "/", "--overwrite", "if-changed", "--delete"];
    let mut dry = args.to_vec();
    dry.push("--dry-run");
    let ran = place.run(&dry);
    assert_eq!(ran.code, 0, "{ran:?}");
    for (action, name) in [
        ("would restore", "one"),
        ("would replace", "two"),
        ("would delete", "sub/new"),
        ("would delete", "sub/planted"),
    ] {
        let line = format!("{action} {}", app.join(name).display());
        assert!(ran.stdout.contains(&line), "{line}: {ran:?}");
    }
    assert!(!ran.stdout.contains("three"), "it is unchanged: {ran:?}");
    assert_eq!((read(&place, "app/one"), read(&place, "app/two").unwrap().as_str()), (None, "changed"));
    assert_eq!(place.run(args).code, 17);
    let three = || app.join("sub/three").metadata().unwrap().ino();
    let before = three();
    std::fs::set_permissions(app.join("sub/three"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut yes = args.to_vec();
    yes.extend(["--yes", "--json"]);
    let ran = place.run(&yes);
    assert_eq!(ran.code, 0, "{ran:?}");
    let summary: serde_json::Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["deleted"], &summary["unchanged"]), (&2.into(), &1.into()), "{summary}");
    for name in ["one", "two", "sub/three"] {
        assert_eq!(read(&place, &format!("app/{name}")).unwrap(), name);
    }
    assert_eq!(before, three(), "an unchanged file stays where it is");
    assert_ne!(app.join("sub/three").metadata().unwrap().mode() & 0o777, 0o600, "and gets its metadata");
    assert_eq!(std::fs::read_dir(app.join("sub")).unwrap().count(), 1);
    assert!(Path::new("/").join("tmp").exists());
}

/// The repository in the middle of what is restored is in no snapshot, and goes with no `--delete`.
#[test]
fn holdfasts_own_folders_and_other_sources_stay() {
    let place = Place::new();
    let repository = place.path("app/backups/repository");
    std::fs::create_dir_all(repository.parent().unwrap()).unwrap();
    place.write("app/code", "code");
    place.write("app/db.sqlite3", "");
    let db = rusqlite::Connection::open(place.path("app/db.sqlite3")).unwrap();
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(db);
    let config = format!(
        "[[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"{0}\"]\nexclude = [\"*.sqlite3\"]\n\
         [[source]]\nname = \"db\"\nkind = \"sqlite\"\npath = \"{0}/db.sqlite3\"\n",
        place.path("app").display()
    );
    let config = place.write("holdfast.toml", config);
    let run = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("HOLDFAST_REPOSITORY", &repository).arg("-c").arg(&config);
        crate::support::program::run(&mut command)
    };
    assert_eq!(run(&["init"]).code, 0);
    let ran = run(&["backup"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    place.write("app/rubbish/x", "x");
    let args = ["restore", "latest", "--code-only", "--target", "/", "--overwrite", "always", "--delete", "--yes"];
    let ran = run(&args);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!place.path("app/rubbish").exists());
    assert!(place.path("app/db.sqlite3").exists() && repository.join("config").exists());
    assert_eq!(run(&["verify"]).code, 0);
}
