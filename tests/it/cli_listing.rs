//! `snapshots`, `ls` and `stats` through the program.

use crate::support::program::{Place, Ran, run};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

/// Two snapshots of files, one of a stream.
fn filled() -> (Place, [String; 3]) {
    let place = Place::with_repository();
    let script = place.write("data/bin/run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    place.write("data/text", "hello\n");
    std::os::unix::fs::symlink("text", place.path("data/link")).unwrap();
    let odd = std::ffi::OsString::from_vec(b"odd\xff\n".to_vec());
    std::fs::write(place.path("data").join(odd), "x").unwrap();
    let old = place.backup(["data", "--time", "2026-11-20T14:00", "--class", "hourly", "--tag", "v1"]);
    place.write("data/text", "hello again\n");
    let new = place.backup(["data", "--time", "2026-11-20T15:00", "--class", "daily", "--tag", "v2", "--tag", "keep"]);
    let args = ["backup", "--stdin", "--stdin-filename", "shop.sql", "--time", "2026-11-20T13:00"];
    let stream = place.run_with_input(args, b"create table t (n int);\n");
    let stream = stream.good().stdout.trim_end().to_owned();
    (place, [old, new, stream])
}

fn ids(ran: &Ran) -> Vec<String> {
    let document = ran.good().json();
    assert_eq!(document["schema"], "holdfast/1");
    assert_eq!(document["type"], "result");
    document["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn snapshots_are_listed_and_chosen() {
    let (place, [old, new, stream]) = filled();
    let list = |args: &[&str]| ids(&place.run(["snapshots", "--json"].iter().chain(args)));
    assert_eq!(list(&[]), [&*new, &old, &stream], "newest first");
    assert_eq!(list(&["latest"]), [&*new, &stream], "one of each series");
    assert_eq!(list(&["latest~1", "--source", "files"]), [&*old]);
    assert_eq!(list(&["--class", "hourly"]), [&*old]);
    assert_eq!(list(&["latest", "--class", "hourly"]), [&*old]);
    assert_eq!(list(&["--tag", "v2", "--tag", "keep"]), [&*new]);
    assert!(list(&["--tag", "v1", "--tag", "keep"]).is_empty());
    assert_eq!(list(&["--source", "shop.sql"]), [&*stream]);
    assert!(list(&["--host", "elsewhere"]).is_empty());
    assert_eq!(list(&["@2026-11-20T14:30"]), [&*old, &stream]);
    assert_eq!(list(&[&new[..6], &stream]), [&*new, &stream]);
    assert_eq!(list(&["20261120_140000"]), [&*old]);

    let table = place.run(["snapshots", "--size"]);
    let lines: Vec<&str> = table.good().stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{table:?}");
    assert!(lines[0].starts_with("ID") && lines[0].ends_with("Status"), "{table:?}");
    assert!(lines[1].starts_with(&new[..8]) && lines[1].contains("keep,v2") && lines[1].contains("daily"), "{table:?}");
    assert!(lines[1].ends_with("complete"), "{table:?}");
    assert!(table.stderr.contains("3 snapshots"), "{table:?}");

    let format = place.run(["list", "--format", "{id}\\t{time}|{timestamp}|{sources}|{size}|{tags}|{status}"]);
    let first = format!("{new}\t2026-11-20T15:00:00Z|20261120_150000|files|");
    assert!(format.good().stdout.starts_with(&first), "{format:?}");
    assert!(format.stdout.contains("|shop.sql|24||complete"), "{format:?}");
    place.run(["snapshots", "--format", "{idd}"]).failed(2, "did you mean 'id'");

    for (selector, words) in [("abcdef012345", "begins with"), ("@2020-01-01", "as old as"), ("tag:none", "matches")] {
        place.run(["snapshots", selector]).failed(20, words);
    }
    place.run(["snapshots", "yesterday"]).failed(2, "@yesterday");
}

#[test]
fn an_empty_repository_lists_nothing() {
    let place = Place::with_repository();
    let ran = place.run(["snapshots"]);
    assert_eq!((ran.good().stdout.as_str(), ran.stderr.contains("no snapshots")), ("", true));
    assert!(ids(&place.run(["ls", "--json"])).is_empty());
    place.run(["ls", "latest"]).failed(20, "no snapshot");
    assert_eq!(place.run(["stats", "--json"]).good().json()["snapshots"], 0);
}

#[test]
fn ls_shows_entries_and_streams() {
    let (place, [_, new, stream]) = filled();
    let base = place.path("data").display().to_string();
    let ran = place.run(["ls", "latest", "--source", "files"]);
    assert!(ran.good().stderr.contains(&format!("chose {}", &new[..8])), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    for name in ["", "/bin", "/bin/run.sh", "/link", "/odd\\xff\\n", "/text"] {
        assert!(lines.contains(&format!("{base}{name}").as_str()), "{name}: {ran:?}");
    }
    let below = place.run(["ls", &format!("{}:{base}/bin", &new[..8])]);
    assert_eq!(below.good().stdout, format!("{base}/bin\n{base}/bin/run.sh\n"));

    let long = place.run(["ls", "-l", &new]);
    let line = |end: &str| long.stdout.lines().find(|l| l.ends_with(end)).unwrap_or_else(|| panic!("{end}: {long:?}"));
    assert!(line("/bin/run.sh").starts_with("-rwxr-xr-x ") && line("/bin/run.sh").contains("          10 20"));
    assert!(line("/bin").starts_with("drwx") && line("/link -> text").starts_with("lrwxrwxrwx"));
    assert_eq!(place.run(["ls", &stream]).good().stdout, "shop.sql\n");
    assert!(place.run(["ls", "-l", &stream]).good().stdout.contains(" 24 2026-11-20 13:00:00 shop.sql"));
    assert_eq!(place.run(["ls", &format!("{stream}:shop.sql")]).good().stdout, "shop.sql\n");

    let entries = place.run(["ls", "--json", &new]).good().json();
    let entries = entries["entries"].as_array().unwrap();
    let find = |end: &str| entries.iter().find(|e| e["path"].as_str().unwrap().ends_with(end)).unwrap();
    assert_eq!((find("/text")["kind"].as_str(), find("/text")["size"].as_u64()), (Some("file"), Some(12)));
    assert_eq!(find("/text")["blake3"], blake3::hash(b"hello again\n").to_hex().as_str());
    assert_eq!(find("/link")["target"], "text");
    assert_eq!(find("/run.sh")["mode"], "0755");
    let odd = entries.iter().find(|e| e.get("path_base64").is_some()).unwrap();
    assert_eq!(odd["path_base64"], data_encoding::BASE64.encode(&[base.as_bytes(), b"/odd\xff\n"].concat()));

    // Two series, none named.
    let ran = place.run(["ls", "latest"]);
    ran.failed(2, "could mean any of 2 series");
    assert!(ran.stderr.contains("shop.sql") && ran.stderr.contains("--source"), "{ran:?}");
    place.run(["ls", &format!("{new}:/absent")]).failed(20, "/absent");
    let ran = place.run(["ls", "--json", &format!("{new}:/absent")]);
    assert_eq!((ran.stdout.as_str(), ran.json_error()["id"].as_str()), ("", Some("path.not_found")));
    place.run(["ls", &new, "--source", "fils"]).failed(2, "files");
    assert_eq!(ids(&place.run(["ls", "--json"])).len(), 3, "without a selector: the snapshots");
}

#[test]
fn quiet_says_nothing_but_results() {
    let (place, [_, new, _]) = filled();
    let ran = place.run(["-q", "ls", &new]);
    assert_eq!(ran.good().stderr, "", "{ran:?}");
    assert!(!ran.stdout.is_empty());
    place.run(["-q", "ls", "abcdef"]).failed(20, "abcdef");
}

#[test]
fn stats_add_up() {
    let (place, [old, new, stream]) = filled();
    let all = place.run(["stats", "--json"]).good().json();
    assert_eq!((all["snapshots"].as_u64(), all["series"].as_u64()), (Some(3), Some(2)));
    let kinds = all["kinds"].as_array().unwrap();
    let sum: u64 = kinds.iter().map(|kind| kind["stored_bytes"].as_u64().unwrap()).sum();
    assert_eq!(all["stored_bytes"].as_u64(), Some(sum));
    let on_disk: u64 = crate::support::program::files_below(&place.path("repository"))
        .iter()
        .filter(|file| !file.ends_with("reserve"))
        .map(|file| std::fs::metadata(file).unwrap().len())
        .sum();
    assert_eq!(sum, on_disk, "every byte of the repository is counted but the reserve");
    let plain = |id: &str| {
        let figures = place.run(["size", "--json", id]).good().json();
        assert_eq!(figures["snapshots"][0]["id"], id);
        let own = figures["snapshots"][0]["own_bytes"].as_u64().unwrap();
        // All bytes of the first are needed by the second, which was stored as its difference.
        assert_eq!(own > 0, id != old, "{figures}");
        figures["snapshots"][0]["plain_bytes"].as_u64().unwrap()
    };
    assert_eq!(plain(&stream), 24);
    assert_eq!(plain(&new), plain(&old) + 6);
    assert_eq!(all["plain_bytes"].as_u64(), Some(plain(&old) + plain(&new) + plain(&stream)));
    let text = place.run(["stats"]);
    assert!(text.good().stdout.contains("Snapshots  3 in 2 series"), "{text:?}");
    let text = place.run(["stats", "latest"]);
    assert!(text.good().stdout.contains("shop.sql") && text.stderr.contains("chose"), "{text:?}");
    place.run(["stats", "tag:none"]).failed(20, "tag:none");
}

#[test]
fn a_reader_that_goes_away_ends_the_list_quietly() {
    let place = Place::with_repository();
    for n in 0..4000 {
        place.write(&format!("data/a rather long name to fill the pipe with {n}"), "");
    }
    let id = place.backup(["data"]);
    for args in [&["ls", &id][..], &["ls", "--json", &id]] {
        let mut child = place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0u8; 16];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut first).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(!stderr.contains("error") && !stderr.contains("anic"), "{stderr}");
    }
    // A full disk is another matter than a reader that has seen enough.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = run(place.command(["ls", &id]).stdout(Stdio::from(full)));
    assert!(ran.code != 0 && ran.stderr.contains("standard output"), "{ran:?}");
}
