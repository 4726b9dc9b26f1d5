//! Little memory: backup, verify, restore and prune under shrinking limits of their address space (`ulimit -v`). Each run succeeds and
//! what it says is true, or it fails and says why; nothing that was reported is lost. `HOLDFAST_MEMORY=full`: every MiB.

use crate::support::program::{Place, run};
use std::os::unix::process::ExitStatusExt;
use std::process::Output;

const MIB: u64 = 1 << 20;

/// How a run under a limit ended.
#[derive(Debug, Default)]
struct Tally {
    runs: usize,
    good: usize,
    refused: usize,
    /// The allocator ended it, and said how much was asked for.
    ended: usize,
    /// The system could not even load the program.
    not_begun: usize,
}

fn limited(place: &Place, limit: u64, args: &[&str]) -> Output {
    let program = place.command::<&str>([]);
    let mut shell = std::process::Command::new("sh");
    // No core dump of what is about to be ended.
    shell.args(["-c", "ulimit -c 0; ulimit -v \"$1\"; shift; exec \"$@\"", "sh", &(limit / 1024).to_string()]);
    shell.arg(program.get_program()).args(args).env_clear();
    for (name, value) in program.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell.current_dir(place.path("")).output().expect("sh")
}

impl Tally {
    /// True when it says that it did its work.
    fn add(&mut self, args: &[&str], limit: u64, out: &Output) -> bool {
        self.runs += 1;
        let stderr = String::from_utf8_lossy(&out.stderr);
        let context = || format!("{args:?} with {} MiB: {:?}: {stderr}", limit / MIB, out.status);
        assert!(!stderr.contains("Internal error"), "{}", context());
        match (out.status.code(), out.status.signal()) {
            (Some(0), _) => self.good += 1,
            (Some(127), _) | (_, Some(9 | 11)) if stderr.is_empty() || stderr.contains("loading shared libraries") => {
                self.not_begun += 1;
            }
            (Some(_), _) => {
                assert!(stderr.contains("error: "), "{}", context());
                self.refused += 1;
            }
            (_, Some(6)) => {
                assert!(stderr.contains("memory allocation of"), "{}", context());
                self.ended += 1;
            }
            _ => panic!("{}", context()),
        }
        out.status.success()
    }
}

/// From far too little to enough; what is enough for this build is found by trying.
fn limits(place: &Place) -> Vec<u64> {
    let enough =
        (4..64).map(|n| n * 16 * MIB).find(|limit| limited(place, *limit, &["verify", "--read-data"]).status.success());
    let enough = enough.expect("a gigabyte is enough") + 64 * MIB;
    let step = if std::env::var("HOLDFAST_MEMORY").is_ok_and(|value| value == "full") { MIB } else { enough / 14 };
    (1..=enough / step).map(|n| n * step).collect()
}

/// Bytes that do not compress, different for each number.
fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn little_memory_is_an_error_or_a_success_and_never_a_loss() {
    let place = Place::with_repository();
    let mut saved: Vec<(String, Vec<u8>)> = Vec::new();
    let mut state = noise(0, 3 << 20);
    for number in 0..3 {
        let at = number * 700_000;
        state[at..at + 1000].copy_from_slice(&noise(1 + number as u64, 1000));
        place.write("data/file", &state);
        saved.push((place.backup(["data"]), state.clone()));
    }
    let mut tally = Tally::default();
    let limits = limits(&place);
    for (number, &limit) in limits.iter().enumerate() {
        // A backup that prints its id has made a promise.
        let at = 100_000 + (number * 7001) % 2_000_000;
        state[at..at + 5000].copy_from_slice(&noise(1000 + number as u64, 5000));
        place.write("data/file", &state);
        let args = ["backup", "data"];
        let out = limited(&place, limit, &args);
        if tally.add(&args, limit, &out) {
            saved.push((String::from_utf8_lossy(&out.stdout).trim().to_owned(), state.clone()));
        }
        let args = ["verify", "--read-data"];
        tally.add(&args, limit, &limited(&place, limit, &args));
        // A restore that succeeds has restored.
        let (id, bytes) = &saved[number % saved.len()];
        let args = ["restore", id, "--target", "out"];
        if tally.add(&args, limit, &limited(&place, limit, &args)) {
            let restored = place.path("out").join(place.path("data/file").strip_prefix("/").expect("absolute"));
            assert!(std::fs::read(restored).expect("the file") == *bytes, "a restore says that it succeeded");
        }
        let _ = std::fs::remove_dir_all(place.path("out"));
        // One snapshot goes, its bytes with it; a prune in little memory takes nothing else along.
        if saved.len() > 3 {
            let (gone, _) = saved.remove(saved.len() / 2);
            place.run(["forget", &gone, "--yes"]).good();
        }
        let args = ["prune", "--yes", "--grace", "0s"];
        tally.add(&args, limit, &limited(&place, limit, &args));
    }
    place.run(["verify", "--read-data"]).good();
    for (id, bytes) in &saved {
        place.run(["restore", id, "--target", "out"]).good();
        let restored = place.path("out").join(place.path("data/file").strip_prefix("/").expect("absolute"));
        assert!(std::fs::read(restored).expect("the file") == *bytes, "snapshot {id}");
        std::fs::remove_dir_all(place.path("out")).expect("removed");
    }
    println!("{tally:?}, limits {} to {} MiB", limits[0] / MIB, limits[limits.len() - 1] / MIB);
    assert!(tally.good > 0 && tally.good < tally.runs, "the limits are all too small, or all too large: {tally:?}");
}

/// A damaged repository is never called good, whatever is missing.
#[test]
fn little_memory_never_hides_damage() {
    let place = Place::with_repository();
    place.write("data/file", noise(9, 2 << 20));
    place.backup(["data"]);
    let limits = limits(&place);
    let pack = crate::support::program::files_below(&place.path("repository/packs"));
    let pack = pack.iter().max_by_key(|path| path.metadata().map_or(0, |m| m.len())).expect("a pack");
    let mut bytes = std::fs::read(pack).expect("the pack");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(pack).expect("removed");
    std::fs::write(pack, bytes).expect("written");
    let mut seen = 0;
    for limit in limits {
        let out = limited(&place, limit, &["verify", "--read-data"]);
        assert_ne!(out.status.code(), Some(0), "{limit}: {out:?}");
        seen += usize::from(out.status.code() == Some(13));
        let out = limited(&place, limit, &["restore", "latest", "--target", "out"]);
        assert_ne!(out.status.code(), Some(0), "{limit}: {out:?}");
        let _ = std::fs::remove_dir_all(place.path("out"));
    }
    assert!(seen > 0, "no limit was enough to see it");
    let mut verify = place.command(["verify", "--read-data"]);
    assert_eq!(run(&mut verify).code, 13);
}
