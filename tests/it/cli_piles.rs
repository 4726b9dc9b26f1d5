//! Import and export that are killed, or that meet a full disk: nothing twice, nothing lost, no original removed unproved.

use crate::support::program::{Place, can_mount, files_below, run};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Scripts of a week, by file name; whole by the last line of each.
fn pile(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for day in 1..=6 {
        let rows: String = (0..6000).map(|n| format!("INSERT INTO t VALUES ({n}, '{}');\n", n * day * 7919)).collect();
        let text = format!("CREATE TABLE t (a int, b text);\n{rows}-- day {day}\nCOMMIT;\n");
        let name = format!("app_2024070{day}.sql");
        place.write(&format!("pile/{name}"), &text);
        files.insert(name, text.into_bytes());
    }
    files
}

/// The imported files: name and contents, from the repository alone.
fn imported(place: &Place) -> Vec<(String, Vec<u8>)> {
    let snapshots = place.run(["snapshots", "--json"]).good().json()["snapshots"].as_array().unwrap().clone();
    let mut found = Vec::new();
    for snapshot in snapshots {
        let (id, time) = (snapshot["id"].as_str().unwrap(), snapshot["time"].as_str().unwrap());
        let output = place.command(["dump", id, "app.sql"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        found.push((format!("app_{}.sql", time[..10].replace('-', "")), output.stdout));
    }
    found.sort();
    found
}

/// No original is gone that the repository does not hold, and none is held twice.
fn nothing_is_lost(place: &Place, files: &BTreeMap<String, Vec<u8>>) -> usize {
    let held = imported(place);
    for (name, bytes) in files {
        let times = held.iter().filter(|(held, _)| held == name).count();
        assert!(times <= 1, "{name} was imported {times} times");
        let original = std::fs::read(place.path(&format!("pile/{name}"))).ok();
        assert!(original.as_ref().is_none_or(|original| original == bytes), "{name} was changed");
        assert!(original.is_some() || times == 1, "{name} was removed and is not in the repository");
        assert!(held.iter().all(|(other, found)| other != name || found == bytes), "{name} is something else");
    }
    held.len()
}

/// Kills the command after a while; false when it had come to a good end before.
fn is_killed(mut command: Command, after: Duration) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    if let Some(status) = child.try_wait().unwrap() {
        assert!(status.success(), "{status:?}");
        return false;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

#[test]
fn an_import_killed_again_and_again_takes_each_file_once_and_removes_none_unproved() {
    let place = Place::with_repository();
    let files = pile(&place);
    let (mut kills, mut later) = (0u32, Duration::from_millis(30));
    loop {
        if !is_killed(place.command(["import", "pile", "--remove-imported", "--yes"]), later) {
            break;
        }
        kills += 1;
        // Each time a little later, so that it dies in every part of its work and gets to an end at last.
        later += Duration::from_millis(if kills.is_multiple_of(4) { 900 } else { 61 });
        if kills.is_multiple_of(3) {
            nothing_is_lost(&place, &files);
        }
        assert!(kills < 60, "it never comes to an end");
    }
    assert!(kills > 0, "it was never killed");
    assert_eq!(nothing_is_lost(&place, &files), files.len());
    assert_eq!(files_below(&place.path("pile")).len(), 0, "all are imported and proved, so all are removed");
    place.run(["verify", "--read-data"]).good();
}

#[test]
fn an_export_that_is_killed_leaves_nothing_under_its_name() {
    let place = Place::with_repository();
    for n in 0..40 {
        place.write(&format!("data/{n}.bin"), vec![n as u8; 300_000]);
    }
    let id = place.backup(["data"]);
    let out = place.path("plain");
    let mut later = Duration::from_millis(20);
    let mut kills = 0;
    loop {
        if !is_killed(place.command(["export", &id, "--layout", "%Y", "--target", "plain"]), later) {
            break;
        }
        kills += 1;
        later += Duration::from_millis(150);
        let named = std::fs::read_dir(&out).map_or(0, |entries| {
            entries
                .filter(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".holdfast-"))
                .count()
        });
        // Killed after its rename, all of it is there.
        if named > 0 {
            break;
        }
    }
    assert!(kills > 0, "it was never killed");
    let entry = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
    let folder = entry.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.')).last().unwrap();
    run(Command::new("sha256sum").args(["--strict", "--quiet", "-c", "SHA256SUMS"]).current_dir(&folder)).good();
    place.run(["export", &id, "--layout", "%Y", "--target", "plain"]).failed(24, "");
}

#[test]
fn a_full_disk_stops_import_and_export_and_costs_nothing() {
    if !can_mount() {
        eprintln!("skipped: this user may not mount a file system");
        return;
    }
    let place = Place::new();
    let files = pile(&place);
    let program = env!("CARGO_BIN_EXE_holdfast");
    // A repository that has room for some of the files alone; then an export that has room for a part.
    let script = format!(
        "set -e; mkdir -p disk out; mount -t tmpfs -o size=14m tmpfs disk; mount -t tmpfs -o size=200k tmpfs out
         export HOLDFAST_REPOSITORY=$PWD/disk/repository; {program} -q init >/dev/null; set +e
         dd if=/dev/zero of=disk/filler bs=4k 2>/dev/null; truncate -s -300k disk/filler
         {program} -q import pile --remove-imported --yes >/dev/null; echo import $?; ls pile | wc -l
         for id in $({program} snapshots --json | grep -o '\"id\":\"[0-9a-f]*' | cut -d: -f2 | tr -d '\"'); do
           {program} -q dump $id app.sql > d || echo unreadable; sha256sum < d >> held; done
         for f in pile/*; do sha256sum < $f; done | cat - held 2>/dev/null | sort -u | wc -l
         rm disk/filler; {program} -q import pile --remove-imported --yes >/dev/null; echo again $?; ls pile | wc -l
         {program} snapshots --json | grep -o '\"id\"' | wc -l
         {program} -q export $id --layout x --target out >/dev/null; echo export $?; ls -A out
         {program} -q verify --read-data >/dev/null; echo verify $?"
    );
    let command = place.command(["version"]);
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", &script]).env_clear().current_dir(place.path(""));
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.output().unwrap();
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 8, "{text}\n{said}");
    let left: usize = lines[1].parse().unwrap();
    // It ends with the full disk's code, or, when some were taken before, with that of a part.
    assert!(lines[0] == "import 16" || lines[0] == "import 3", "{text}\n{said}");
    assert!(left > 0, "the disk was not full: {text}");
    assert_eq!(lines[2], files.len().to_string(), "each is in the pile or in the repository: {text}\n{said}");
    assert_eq!(lines[3..6], ["again 0", "0", "6"], "{text}\n{said}");
    assert_eq!(lines[6..], ["export 16", "verify 0"], "{text}\n{said}");
}
