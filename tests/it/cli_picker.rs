//! A snapshot is chosen from a list on a terminal, and only there.

use crate::support::program::Place;
use std::io::{Read, Write};
use std::process::Stdio;

/// Runs on a terminal of its own, with these lines typed. Returns what was shown, and the exit code.
pub(crate) fn on_terminal(place: &Place, args: &[&str], typed: &str) -> (String, i32) {
    let mut child = begin(place, args);
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap())
}

/// As above, but nothing is typed before a text is shown.
pub(crate) fn on_terminal_slowly(place: &Place, args: &[&str], question: &str, typed: &str) -> (String, i32) {
    let mut child = begin(place, args);
    let (mut shown, mut buffer) = (Vec::new(), [0u8; 4096]);
    let (mut stdout, mut stdin) = (child.stdout.take().unwrap(), child.stdin.take());
    loop {
        match stdout.read(&mut buffer).unwrap() {
            0 => break,
            n => shown.extend_from_slice(&buffer[..n]),
        }
        if String::from_utf8_lossy(&shown).contains(question)
            && let Some(mut stdin) = stdin.take()
        {
            stdin.write_all(typed.as_bytes()).unwrap();
            // Closing it would end the input of the terminal, which is an answer of its own.
            std::mem::forget(stdin);
        }
    }
    let code = child.wait().unwrap().code().unwrap();
    (String::from_utf8_lossy(&shown).into_owned(), code)
}

fn begin(place: &Place, args: &[&str]) -> std::process::Child {
    let program = place.command(args);
    let words: Vec<String> = std::iter::once(program.get_program())
        .chain(program.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut command = place.command(args);
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]).env_clear().current_dir(place.path(""));
    script.envs(command.env("SHELL", "/bin/sh").env("TERM", "dumb").get_envs().filter_map(|(k, v)| Some((k, v?))));
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_snapshot_is_picked_by_its_number() {
    let place = Place::with_repository();
    let mut ids = Vec::new();
    for n in 0..22 {
        place.write("app/file", format!("contents {n}"));
        let time = format!("2026-01-{:02}T10:00", n + 1);
        ids.push(place.backup([place.path("app").to_str().unwrap(), "--time", &time]));
    }
    for args in [&["restore", "--target", "out"][..], &["dump"]] {
        let ran = place.run(args);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains("latest"), "{ran:?}");
    }
    let (shown, code) = on_terminal(&place, &["restore", "--target", "out"], "q\n");
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains(&ids[21][..8]) && shown.contains(&ids[2][..8]) && !shown.contains(&ids[1][..8]), "{shown}");
    assert!(!place.path("out").exists());
    // The second newest; then one of the second page, after a number that is none.
    for (typed, n, target) in [("2\n", 20, "out-1"), ("99\n\n22\n", 0, "out-2")] {
        let (shown, code) = on_terminal(&place, &["restore", "--target", target], typed);
        assert_eq!(code, 0, "{shown}");
        let below = place.path("app/file").strip_prefix("/").unwrap().to_owned();
        let restored = std::fs::read_to_string(place.path(target).join(below)).unwrap();
        assert_eq!(restored, format!("contents {n}"), "{shown}");
    }
    let (shown, code) = on_terminal(&place, &["restore", "--target", "out", "--no-input"], "1\n");
    assert_eq!(code, 2, "{shown}");
}
