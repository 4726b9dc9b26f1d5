//! Backups that are ended from outside: by SIGKILL at any moment, which loses nothing that was complete and stores
//! almost nothing again; by SIGINT and SIGTERM, which clean up.

use crate::support::program::{Place, Ran, files_below, run};
use crate::support::tree_compare::differences;
use holdfast::domain::system::{Random, SeededRandom};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long anything here may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(240);

/// What a rerun may add beyond the twentieth: a second set of index objects, and the padding of one more pack and of
/// one more index object (Padme adds up to 12 % to a small object).
const RERUN_OVERHEAD: u64 = 128 << 10;

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0u8; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Text that compresses to about a third, without repeats that chunks would find.
fn text(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 64);
    for n in 0u64.. {
        if out.len() >= bytes {
            break;
        }
        let word = blake3::hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat()).to_hex();
        out.extend(format!("{n}\torder of a customer\t{}\tdelivered\n", word.split_at(16).0).into_bytes());
    }
    out.truncate(bytes);
    out
}

/// 45 files of noise and 15 of text, 1 MiB each, and some small ones.
fn sixty_megabytes(place: &Place) {
    for n in 0..60u64 {
        let bytes = if n % 4 == 3 { text(n, 1 << 20) } else { noise(n, 1 << 20) };
        place.write(&format!("tree/{}/{n}.bin", n % 7), bytes);
    }
    for n in 0..200u64 {
        place.write(&format!("tree/small/{n}.txt"), text(1000 + n, 700));
    }
}

fn stored_bytes(place: &Place) -> u64 {
    files_below(&place.path("repository"))
        .iter()
        .filter_map(|file| std::fs::symlink_metadata(file).ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// Starts a backup; bytes for its standard input are written by a thread, which stops when the backup is gone.
fn start(place: &Place, args: &[&str], input: Option<Vec<u8>>) -> Child {
    let mut command = place.command(["backup"]);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    if let Some(bytes) = input {
        let mut pipe = child.stdin.take().unwrap();
        std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    }
    child
}

/// Index objects of the repository.
fn index_objects(place: &Place) -> usize {
    files_below(&place.path("repository/index")).len()
}

/// Waits until the repository holds this many bytes, with `indexed` then for the next index object, which names what is
/// stored, and kills. Gives the status; a backup that was faster ended by itself.
fn kill_at(place: &Place, mut child: Child, bytes: u64, indexed: bool) -> ExitStatus {
    let began = Instant::now();
    let mut named = None;
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "the backup never stored {bytes} bytes");
        if stored_bytes(place) >= bytes {
            let now = index_objects(place);
            if !indexed || now > *named.get_or_insert(now) {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap()
}

fn snapshots(place: &Place) -> usize {
    place.run(["snapshots", "--json"]).good().json()["snapshots"].as_array().unwrap().len()
}

/// The newest snapshot restored elsewhere is what the tree is.
fn restores_identically(place: &Place, out: &str) {
    place.run(["restore", "latest", "--target", out]).good();
    let tree = place.path("tree");
    let restored: PathBuf = place.path(out).join(tree.strip_prefix("/").unwrap());
    assert_eq!(differences(&tree, &restored), [""; 0]);
    std::fs::remove_dir_all(place.path(out)).unwrap();
}

#[test]
fn a_first_backup_killed_at_nine_tenths_stores_at_most_a_twentieth_again() {
    let input = [noise(77, 30 << 20), text(78, 30 << 20)].concat();
    for (args, input) in [(&["tree"][..], None), (&["--stdin", "--stdin-filename", "shop.sql"], Some(input))] {
        let (fresh, place) = (Place::with_repository(), Place::with_repository());
        let data = if input.is_none() {
            sixty_megabytes(&place);
            place.path("tree")
        } else {
            fresh.path("unused")
        };
        let shown = data.to_string_lossy().into_owned();
        let args: Vec<&str> = args.iter().map(|arg| if *arg == "tree" { &*shown } else { *arg }).collect();

        let uncut = start(&fresh, &args, input.clone()).wait_with_output().unwrap();
        assert!(uncut.status.success(), "{uncut:?}");
        let whole = stored_bytes(&fresh);
        assert!(whole > 30 << 20, "{whole}");

        let status = kill_at(&place, start(&place, &args, input.clone()), whole * 17 / 20, true);
        assert_eq!(status.signal(), Some(9), "the backup of {args:?} was faster than its murderer");
        assert!(stored_bytes(&place) >= whole * 17 / 20, "killed too early: {} of {whole}", stored_bytes(&place));
        assert_eq!(snapshots(&place), 0);

        let rerun = start(&place, &args, input.clone()).wait_with_output().unwrap();
        assert!(rerun.status.success(), "{rerun:?}");
        let after = stored_bytes(&place);
        let allowed = whole * 21 / 20 + RERUN_OVERHEAD;
        assert!(after <= allowed, "{args:?}: {after} bytes are stored, {whole} without the kill, {allowed} allowed");
        match input {
            None => restores_identically(&place, "out"),
            Some(input) => {
                let dumped = place.command(["dump", "latest", "shop.sql"]).output().unwrap();
                assert!(dumped.status.success() && dumped.stdout == input, "{}", dumped.status);
            }
        }
        place.run(["verify", "--read-data"]).good();
    }
}

#[test]
fn a_backup_killed_at_any_moment_loses_nothing() {
    let place = Place::with_repository();
    let random = SeededRandom::new(0x1dea);
    let mut killed = 0;
    for round in 0..5u64 {
        for n in 0..6 {
            place.write(&format!("tree/noise{}", (round + n) % 9), noise(round * 100 + n, 1 << 20));
        }
        place.write("tree/text", text(round / 2, 2 << 20));
        let before = snapshots(&place);
        let stored = stored_bytes(&place);
        let mut part = [0u8; 2];
        random.fill(&mut part);
        // From the first byte to a little beyond all new ones, where the proof and the commit are.
        let target = stored + 1 + ((u64::from(u16::from_le_bytes(part)) * (7 << 20)) >> 16);
        let status = kill_at(&place, start(&place, &["tree"], None), target, false);
        killed += usize::from(status.signal() == Some(9));

        let kept = snapshots(&place);
        assert!(kept == before || kept == before + 1, "round {round}: {before} snapshots became {kept}");
        if kept > 0 {
            place.run(["verify", "--read-data"]).good();
        }
        place.backup(["tree"]);
        place.run(["verify", "--read-data"]).good();
        restores_identically(&place, "out");
        assert_eq!(snapshots(&place), kept + 1);
    }
    assert!(killed >= 3, "only {killed} of 5 backups were killed");
}

/// Waits until a run has opened its session: earlier ones that were interrupted are elsewhere by then.
fn wait_for_session(place: &Place, child: &mut Child) {
    let began = Instant::now();
    let sessions = place.path("repository/sessions");
    while !files_below(&sessions).iter().any(|file| file.ends_with("saw")) {
        assert!(child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE, "no session was opened");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends a run with a signal and gives how it ended.
fn end_with(signal: Signal, child: Child, within: Duration) -> Ran {
    let pid = Pid::from_child(&child);
    let began = Instant::now();
    kill_process(pid, signal).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(began.elapsed() < within, "it took {:?} to end: {output:?}", began.elapsed());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A process whose command line holds the text, this one apart.
fn process_with(text: &str) -> Option<PathBuf> {
    let own = std::process::id().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).find(|path| {
        let is_process = path.file_name().is_some_and(|n| n.as_encoded_bytes().iter().all(u8::is_ascii_digit));
        let line = |path: &Path| std::fs::read(path.join("cmdline")).unwrap_or_default();
        is_process && !path.ends_with(&own) && String::from_utf8_lossy(&line(path)).contains(text)
    })
}

#[test]
fn a_signal_ends_a_backup_in_order_whatever_it_waits_for() {
    let place = Place::with_repository();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        // Files, in the middle of the work.
        for n in 0..24u64 {
            place.write(&format!("tree/{n}"), noise(n + 1000 * code as u64, 1 << 20));
        }
        let mut child = start(&place, &["tree"], None);
        wait_for_session(&place, &mut child);
        end_with(signal, child, Duration::from_secs(30)).failed(code, "Interrupted");

        // A program that says nothing; it does not stay behind.
        let script = format!("printf begun; sleep 4711 # {}", place.path("mark").display());
        let mut child = start(&place, &["--stdin-from-command", "--", "sh", "-c", &script], None);
        wait_for_session(&place, &mut child);
        end_with(signal, child, Duration::from_secs(30)).failed(code, "Interrupted");
        let mark = place.path("mark").to_string_lossy().into_owned();
        assert_eq!(process_with(&mark), None, "the program that was read still runs");

        // Standard input that nobody writes to.
        let mut command = place.command(["backup", "--stdin"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pipe = child.stdin.take().unwrap();
        wait_for_session(&place, &mut child);
        std::thread::sleep(Duration::from_millis(200));
        end_with(signal, child, Duration::from_secs(30)).failed(code, "Interrupted");
        drop(pipe);

        assert_eq!(snapshots(&place), usize::from(code == 143), "an interrupted backup left a snapshot");
        let ran = run(&mut place.command(["backup", "tree"]));
        assert!(!ran.good().stderr.contains("Closed run"), "the interrupted run closed its session itself: {ran:?}");
        place.run(["verify", "--read-data"]).good();
        restores_identically(&place, "out");
    }
}
