//! `prune` and `cleanup` through the program: what is kept restores, what is forgotten frees its space, whatever
//! happens on the way.

use crate::support::program::{Place, Ran, can_mount, files_below, run};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0u8; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A dump whose rows change a little every hour.
fn dump(hour: u64) -> Vec<u8> {
    let mut rows: Vec<String> =
        (0..20_000u64).map(|n| format!("{n}\t{}\tdelivered\n", blake3::hash(&n.to_le_bytes()).to_hex())).collect();
    for past in 1..=hour {
        for n in 0..150u64 {
            let at = (past * 7919 + n * 131) % rows.len() as u64;
            rows[at as usize] =
                format!("{past}\t{}\tchanged\n", blake3::hash(&(past * 1000 + n).to_le_bytes()).to_hex());
        }
    }
    rows.concat().into_bytes()
}

/// Hourly snapshots of a dump and of a tree. Returns for each id of a dump what it must give back.
fn filled(hours: u64) -> (Place, Vec<(String, Vec<u8>)>) {
    let place = Place::with_repository();
    let mut all = Vec::new();
    for hour in 0..hours {
        let time = format!("2026-11-{:02}T{:02}:00", 10 + hour / 24, hour % 24);
        let bytes = dump(hour);
        let ran = place.run_with_input(["backup", "--stdin", "--stdin-filename", "app.sql", "--time", &time], &bytes);
        all.push((ran.good().stdout.trim().to_owned(), bytes));
        place.write(&format!("tree/{}/new", hour % 5), noise(hour, 30_000));
        place.write("tree/log", &dump(hour)[..100_000]);
        place.backup(["tree", "--time", &time]);
    }
    (place, all)
}

fn stored_bytes(place: &Place) -> u64 {
    let files = files_below(&place.path("repository"));
    let counted = files.iter().filter(|f| !f.ends_with("reserve")).filter_map(|f| std::fs::metadata(f).ok());
    counted.map(|m| m.len()).sum()
}

fn objects(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_below(&place.path("repository"));
    files.into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap_or_default())).collect()
}

#[track_caller]
fn gives_back(place: &Place, id: &str, bytes: &[u8]) {
    let out = place.command(["dump", id, "app.sql"]).output().unwrap();
    assert!(out.status.success() && out.stdout == bytes, "{id}: {}", String::from_utf8_lossy(&out.stderr));
}

fn report(ran: &Ran) -> serde_json::Value {
    let line = ran.good().stdout.lines().rfind(|l| l.contains("\"result\"")).unwrap_or_else(|| panic!("{ran:?}"));
    serde_json::from_str(line).unwrap()
}

#[test]
fn frees_what_was_forgotten_and_keeps_the_rest() {
    let (place, all) = filled(12);
    let before = stored_bytes(&place);
    // nothing is forgotten: nothing goes
    let idle = report(&place.run(["prune", "--json"]));
    assert_eq!((idle["removed_bytes"].as_u64(), idle["packs_waiting"].as_u64()), (Some(0), Some(0)), "{idle}");
    place.run(["forget", "--keep-last", "3"]).good();
    let dry = report(&place.run(["prune", "--dry-run", "--json"]));
    assert!(dry["dead_bytes"].as_u64() > Some(50_000), "{dry}");
    let ran = place.run(["prune"]);
    assert!(ran.good().stdout.contains("freed") && ran.stdout.contains("6 snapshots are kept"), "{ran:?}");
    assert!(stored_bytes(&place) < before);
    for (id, bytes) in &all[9..] {
        gives_back(&place, id, bytes);
    }
    place.run(["dump", &all[0].0, "app.sql"]).failed(20, "");
    place.run(["undelete", &all[0].0]).failed(20, "");
    place.run(["verify", "--read-data"]).good();
    let restored = place.path("restored");
    place.run(["restore", "latest", "--source", "files", "--target", restored.to_str().unwrap()]).good();
    let inside = restored.join(place.path("tree").strip_prefix("/").unwrap());
    assert_eq!(std::fs::read(inside.join("1/new")).unwrap(), noise(11, 30_000));
    // dead bytes are few, and none are left by a full prune
    let left = report(&place.run(["prune", "--dry-run", "--json"]));
    assert!(left["dead_bytes"].as_u64().unwrap() * 10 <= left["stored_bytes"].as_u64().unwrap(), "{left}");
    place.run(["prune", "--full"]).good();
    let after = stored_bytes(&place);
    let again = report(&place.run(["prune", "--full", "--json"]));
    assert_eq!((again["removed_bytes"].as_u64(), stored_bytes(&place)), (Some(0), after), "{again}");
    // and the next hour builds on what is there
    let grown = place.run_with_input(["backup", "--stdin", "--stdin-filename", "app.sql"], &dump(12));
    gives_back(&place, grown.good().stdout.trim(), &dump(12));
    assert!(stored_bytes(&place) - after < 80_000);
    place.run(["verify", "--read-data"]).good();
}

#[test]
fn grace_keeps_what_may_still_be_undeleted() {
    let (place, all) = filled(4);
    place.run(["forget", &all[1].0]).good();
    place.run(["prune", "--grace", "7d"]).good();
    place.run(["undelete", &all[1].0]).good();
    gives_back(&place, &all[1].0, &all[1].1);
    place.run(["forget", "--prune", "--grace", "7d", &all[1].0]).good();
    place.run(["undelete", &all[1].0]).good();
    place.run(["remove", "--yes", &all[1].0]).good();
    place.run(["prune"]).good();
    place.run(["undelete", &all[1].0]).failed(20, "");
    for (id, bytes) in [&all[0], &all[2], &all[3]] {
        gives_back(&place, id, bytes);
    }
    place.run(["forget", "--full", &all[0].0]).failed(2, "--prune");
}

#[test]
fn cleanup_is_forgetting_and_pruning() {
    let (place, all) = filled(6);
    let ran = place.run(["cleanup", "--keep-last", "2"]);
    assert!(ran.good().stdout.contains("freed"), "{ran:?}");
    // what cannot come back is not offered
    assert_eq!(place.run(["undelete", "--json"]).good().json()["forgotten"].as_array().map(Vec::len), Some(0));
    place.run(["undelete", &all[0].0]).failed(20, "");
    gives_back(&place, &all[5].0, &all[5].1);
    place.run(["verify", "--read-data"]).good();
}

#[test]
fn a_running_backup_is_waited_for() {
    let (place, all) = filled(4);
    place.write("go", "");
    let mut slow = place.command(["backup", "--stdin-from-command", "--stdin-filename", "slow", "--"]);
    slow.args(["sh", "-c", "echo begun; while [ -e go ]; do sleep 0.05; done; echo done"]);
    let mut slow = slow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while std::fs::read_dir(place.path("repository/sessions")).unwrap().count() == 0 {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    place.run(["forget", &all[0].0, &all[1].0]).good();
    let ran = place.run(["prune"]);
    assert!(ran.good().stderr.contains("is over, which may still need them"), "{ran:?}");
    place.run(["verify", "--read-data"]).good();
    // others may begin and end beside the condemned packs
    let other = place.run_with_input(["backup", "--stdin", "--stdin-filename", "app.sql"], &dump(4));
    gives_back(&place, other.good().stdout.trim(), &dump(4));
    std::fs::remove_file(place.path("go")).unwrap();
    assert!(slow.wait().unwrap().success());
    let freed = report(&place.run(["prune", "--json"]));
    assert!(freed["removed_bytes"].as_u64() > Some(0) && freed["packs_waiting"] == 0, "{freed}");
    assert_eq!(std::fs::read_dir(place.path("repository/condemned")).unwrap().count(), 0);
    for (id, bytes) in &all[2..] {
        gives_back(&place, id, bytes);
    }
    place.run(["verify", "--read-data"]).good();
}

#[test]
fn what_cannot_be_read_stops_it() {
    let (place, all) = filled(3);
    place.run(["forget", &all[0].0]).good();
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[80] ^= 4;
        std::fs::write(path, bytes).unwrap();
    };
    let snapshot = format!("snapshots/{}", all[1].0);
    let index = files_below(&place.path("repository/index")).remove(0);
    let cases: Vec<(Vec<PathBuf>, String)> = vec![
        (
            ["snapshot", "snapshot.copy"].map(|part| place.path(&format!("repository/{snapshot}/{part}"))).to_vec(),
            snapshot.clone(),
        ),
        (vec![place.path(&format!("repository/forgotten/{}", all[0].0))], format!("forgotten/{}", all[0].0)),
        (vec![index.clone()], format!("index/{}", index.file_name().unwrap().to_str().unwrap())),
    ];
    for (paths, words) in cases {
        paths.iter().for_each(|p| flip(p));
        // what the local catalog remembers would serve
        let _ = std::fs::remove_dir_all(place.path("home"));
        let before = objects(&place);
        place.run(["prune"]).failed(13, &words);
        assert_eq!(objects(&place), before, "{words}");
        paths.iter().for_each(|p| flip(p));
    }
    place.run(["prune"]).good();
    gives_back(&place, &all[1].0, &all[1].1);
}

#[test]
fn killed_at_any_moment_it_loses_nothing() {
    let (place, all) = filled(10);
    place.run(["forget", "--keep-last", "2", "--source", "app.sql"]).good();
    place.run(["forget", &all[8].0]).good();
    let patience = Duration::from_secs(120);
    let whole = {
        let began = Instant::now();
        place.run(["prune", "--dry-run"]).good();
        began.elapsed()
    };
    for n in 0..9u32 {
        let mut child = place.command(["prune", "--full"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * n / 5);
        let _ = child.kill();
        child.wait().unwrap();
        gives_back(&place, &all[9].0, &all[9].1);
        place.run(["verify", "--read-data"]).good();
        if n % 3 == 1 {
            // a new state makes work for the next one
            let ran =
                place.run_with_input(["backup", "--stdin", "--stdin-filename", "app.sql"], &dump(11 + u64::from(n)));
            place.run(["forget", "--even-last", ran.good().stdout.trim()]).good();
        }
        assert!(patience > whole);
    }
    place.run(["prune", "--full"]).good();
    assert_eq!(std::fs::read_dir(place.path("repository/condemned")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(place.path("repository/sessions")).unwrap().count(), 0);
    let after = stored_bytes(&place);
    let again = report(&place.run(["prune", "--full", "--json"]));
    assert_eq!((again["removed_bytes"].as_u64(), stored_bytes(&place)), (Some(0), after), "{again}");
    gives_back(&place, &all[9].0, &all[9].1);
    place.run(["verify", "--read-data"]).good();
}

/// Not a byte is free: backups fail, prune works from the reserve. Then the disk is read-only: prune says so.
#[test]
fn a_full_disk_is_freed_and_a_read_only_one_refused() {
    if !can_mount() {
        return;
    }
    let place = Place::with_repository();
    place.write("one", noise(1, 9 << 20));
    let mut script = String::from(
        "mkdir disk && mount -t tmpfs -o size=48m tmpfs disk && cp -a repository disk/r || exit 99
         H=\"$0 -r disk/r -q\"
         $H backup one; echo one $?
         $H forget --even-last latest; echo forget $?\n",
    );
    for hour in 0..12u64 {
        place.write(&format!("app.{hour}"), dump(hour));
        script += &format!("$H backup --stdin --stdin-filename app.sql < app.{hour} > id.{hour}; echo hour $?\n");
    }
    script += "$H forget --keep-last 1 --source app.sql; echo forget $?
         dd if=/dev/zero of=disk/fill bs=4096 status=none 2>/dev/null; sync
         df --output=avail disk | tail -1 | tr -d ' ' | sed 's/^/avail /'
         $H backup one; echo full $?
         $0 -r disk/r prune --full; echo prune $?
         ls disk/r/reserve; ls disk/r/condemned | wc -l | sed 's/^/condemned /'
         $H dump $(cat id.11) app.sql | cmp - app.11; echo same $?
         $H verify --read-data; echo verify $?
         df --output=avail disk | tail -1 | tr -d ' ' | sed 's/^/after /'
         rm -f disk/fill; mount -o remount,ro disk
         $0 -r disk/r prune; echo ro $?
         $0 -r disk/r prune --dry-run; echo look $?";
    let program = place.command([""]);
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", &script]).arg(program.get_program()).env_clear().current_dir(place.path(""));
    shell.stdin(Stdio::null()).envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = run(&mut shell);
    for line in [
        "one 0",
        "avail 0",
        "full 16",
        "prune 0",
        "condemned 0",
        "same 0",
        "verify 0",
        "disk/r/reserve",
        "ro 15",
        "look 0",
    ] {
        assert!(ran.stdout.lines().any(|l| l == line), "{line}: {ran:?}");
    }
    let after = ran.stdout.lines().find_map(|l| l.strip_prefix("after ")).and_then(|n| n.parse::<u64>().ok());
    assert!(after > Some(8 << 10), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
}

/// What is old is compressed harder once, what is young is left alone.
#[test]
fn old_packs_are_compressed_harder_once() {
    let place = Place::with_repository();
    // words that a patient compressor finds more of
    let text = |seed: u64| -> Vec<u8> {
        let hash = |n: u64| u64::from_le_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes().first_chunk().unwrap());
        let word = |n: u64| blake3::hash(&(seed + n).to_be_bytes()).to_hex()[..3 + n as usize % 7].to_owned();
        let words: Vec<String> = (0..3000).map(word).collect();
        let line = |n: u64| {
            let chosen = (0..8).map(|k| (hash(seed + n) >> (k * 7)) as usize % if k % 3 == 0 { 40 } else { 3000 });
            format!("{n}: {}\n", chosen.map(|at| words[at].as_str()).collect::<Vec<_>>().join(" "))
        };
        (0..40_000).map(line).collect::<String>().into_bytes()
    };
    let inputs = [("old", "2 months ago", text(1)), ("young", "2 days ago", text(2))];
    let mut ids = Vec::new();
    for (name, time, bytes) in &inputs {
        let ran = place.run_with_input(["backup", "--stdin", "--stdin-filename", name, "--time", time], bytes);
        ids.push(ran.good().stdout.trim().to_owned());
    }
    let stored = || -> u64 {
        files_below(&place.path("repository/packs")).iter().map(|file| file.metadata().unwrap().len()).sum()
    };
    let prune = |older: &str, more: &[&str]| {
        let words = ["prune", "--json", "--recompress-older", older].into_iter().chain(more.iter().copied());
        let ran = place.run(words);
        serde_json::from_str::<serde_json::Value>(ran.good().stdout.lines().last().unwrap()).unwrap()
    };
    let before = stored();
    assert_eq!(prune("90d", &[])["packs_recompressed"], 0, "nothing is that old");
    assert_eq!(stored(), before);
    let would = prune("30d", &["--dry-run"])["packs_recompressed"].as_u64().unwrap();
    assert_eq!(stored(), before);
    let done = prune("30d", &[]);
    assert_eq!(done["packs_recompressed"].as_u64(), Some(would));
    assert!(would > 0 && stored() < before, "{done}");
    let after_old = stored();
    assert_eq!(prune("30d", &[])["packs_recompressed"], 0, "once is enough");
    // another machine knows nothing of that, and finds the same out by itself
    std::fs::remove_dir_all(place.path("home/state")).unwrap();
    assert_eq!(prune("30d", &[])["packs_recompressed"], 0);
    assert_eq!(stored(), after_old);
    // the young one was not among them
    assert!(prune("1d", &[])["packs_recompressed"].as_u64() > Some(0));
    assert!(stored() < after_old);
    for ((name, _, bytes), id) in inputs.iter().zip(&ids) {
        let found = place.command(["dump", id, name]).output().unwrap();
        assert!(found.stdout == *bytes, "{name}: {}", String::from_utf8_lossy(&found.stderr));
    }
    place.run(["verify", "--read-data"]).good();
    place.run(["forget", "--keep-last", "1", "--recompress-older", "30d"]).failed(2, "--prune");
}
