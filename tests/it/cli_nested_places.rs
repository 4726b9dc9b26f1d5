//! Places that lie in one another: a database in the folder of its application, a tree in a tree.

use crate::support::program::{Place, files_below};
use std::path::Path;

fn sqlite(path: &Path, statements: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

/// An application whose database and uploads lie in its own folder. `rules` are what backups of the code leave out.
fn application(rules: &str) -> Place {
    let place = Place::with_repository();
    place.write("srv/main.py", "old");
    place.write("srv/var/notes.txt", "old");
    place.write("srv/uploads/a.jpg", "old");
    sqlite(
        &place.path("srv/var/app.db"),
        "pragma journal_mode = wal; create table t (v text); insert into t values ('old')",
    );
    let folder = place.path("").display().to_string();
    let config = format!(
        "[[source]]\nname = \"journal\"\nkind = \"sqlite\"\npath = \"{folder}srv/var/app.db\"\n\
         [[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"{folder}srv\"]\n{rules}\
         [[source]]\nname = \"uploads\"\nkind = \"files\"\npaths = [\"{folder}srv/uploads\"]\n\
         [restore]\npost_restore_check = [\"test\", \"!\", \"-e\", \"{folder}refuse\"]\n"
    );
    place.write("holdfast.toml", config);
    place.run(["backup"]).good();
    change(&place);
    place
}

fn change(place: &Place) {
    place.write("srv/main.py", "new");
    place.write("srv/var/notes.txt", "new");
    place.write("srv/uploads/b.jpg", "new");
    sqlite(&place.path("srv/var/app.db"), "update t set v = 'new'");
}

/// What stands in the places, and that nothing stands beside them.
fn state(place: &Place) -> String {
    let database = rusqlite::Connection::open(place.path("srv/var/app.db")).unwrap();
    let journal: String = database.query_row("select v from t", [], |row| row.get(0)).unwrap();
    drop(database);
    let files = files_below(&place.path("srv"));
    let told = files.iter().map(|path| path.strip_prefix(place.path("srv")).unwrap().display().to_string());
    let told: Vec<String> = told.filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm")).collect();
    let beside = std::fs::read_dir(place.path("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let beside: Vec<String> = beside.filter(|name| name.contains("holdfast-")).collect();
    assert!(beside.is_empty(), "{beside:?}");
    let main = std::fs::read_to_string(place.path("srv/main.py")).unwrap();
    format!("{main} {journal} {}", told.join(" "))
}

const OLD: &str = "old old main.py uploads/a.jpg var/app.db var/notes.txt";
const NEW: &str = "new new main.py uploads/a.jpg uploads/b.jpg var/app.db var/notes.txt";

#[test]
fn what_lies_in_a_tree_goes_with_it_and_is_what_its_own_source_saved() {
    // With rules, only the sources of their own have it; without, the code has a copy of its files, too.
    for rules in ["", "exclude = [\"*.db\", \"*.db-*\", \"/uploads/\"]\n"] {
        let place = application(rules);
        assert_eq!(state(&place), NEW);
        let check = place.run(["restore", "latest", "--check"]);
        assert!(check.good().stdout.contains("app.db"), "{check:?}");
        place.run(["restore", "latest", "--yes"]).good();
        assert_eq!(state(&place), OLD, "{rules}");
        place.run(["rollback", "--yes"]).good();
        assert_eq!(state(&place), NEW, "{rules}");
        // The application's no takes all of it back.
        place.write("refuse", "");
        place.run(["restore", "latest", "--yes"]).failed(21, "check");
        assert_eq!(state(&place), NEW, "{rules}");
        std::fs::remove_file(place.path("refuse")).unwrap();
        // One of them alone is put into its place.
        place.run(["restore", "latest", "--source", "journal", "--source", "uploads", "--yes"]).good();
        assert_eq!(state(&place), "new old main.py uploads/a.jpg var/app.db var/notes.txt");
        // Everything is gone.
        std::fs::remove_dir_all(place.path("srv")).unwrap();
        place.run(["restore", "latest", "--yes"]).good();
        assert_eq!(state(&place), OLD, "{rules}");
        assert_eq!(place.run(["status"]).good().stdout, "");
    }
}

#[test]
fn a_copy_that_takes_the_place_of_another_source_is_said() {
    let place = application("");
    let ran = place.run(["restore", "latest", "--source", "code", "--source", "uploads"]);
    ran.failed(17, "confirmation");
    assert!(ran.stderr.contains("app.db of source journal lies in it"), "{ran:?}");
    assert!(!ran.stderr.contains("of source uploads lies in it"), "{ran:?}");
    let ran = place.run(["restore", "latest"]);
    assert!(ran.code == 17 && !ran.stderr.contains("lies in it"), "{ran:?}");
}

#[test]
fn a_restore_of_nested_places_that_is_killed_is_brought_to_an_end() {
    let place = application("exclude = [\"*.db\", \"*.db-*\"]\n");
    let acts = place.path("repository/acts");
    let written = || std::fs::read_dir(&acts).map_or(0, std::iter::Iterator::count);
    for entries in 2..=6usize {
        change(&place);
        let wanted = written() + entries;
        let mut command = place.command(["restore", "latest", "--yes"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        while written() < wanted && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_micros(300));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let status = place.run(["status"]).good().stdout.clone();
        place.run(["rollback", "--yes", "--source", "none"]);
        assert_eq!(place.run(["status"]).good().stdout, "", "{entries}: {status}");
        assert!([OLD, NEW].contains(&state(&place).as_str()), "{entries}: {} {status}", state(&place));
    }
}
