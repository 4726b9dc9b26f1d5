//! `repair packs` and `repair snapshots` through the program: damage is put aside, what is whole is kept, what is lost is
//! named, and the next backup stores again what its source still has.

use crate::support::program::{Place, files_below};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Bytes that neither compress nor repeat.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The packs, longest first.
fn packs(place: &Place) -> Vec<PathBuf> {
    let mut packs = files_below(&place.path("repository/packs"));
    packs.sort_by_key(|p| std::cmp::Reverse(p.metadata().unwrap().len()));
    packs
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The line of JSON that is the result.
fn result(stdout: &str) -> Value {
    let mut lines = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.find(|line| line["type"] == "result").expect("a result")
}

#[test]
fn a_lost_chunk_is_stored_again_by_the_next_backup() {
    let place = Place::with_repository();
    let data = noise(1, 700_000);
    let backup = || place.run_with_input(["backup", "--stdin", "--stdin-filename", "app.bin"], &data);
    let first = backup().good().stdout.trim_end().to_owned();
    let pack = packs(&place).remove(0);
    flip(&pack, 300_000);

    // The chunk is taken as present, and the proof finds out.
    let snapshots = files_below(&place.path("repository/snapshots"));
    assert_eq!(backup().code, 13);
    assert_eq!(files_below(&place.path("repository/snapshots")), snapshots, "nothing was committed");

    let dry = place.run(["repair", "packs", "-n"]);
    assert_eq!(dry.code, 13, "{dry:?}");
    assert!(dry.stdout.contains(&name_of(&pack)) && pack.exists(), "{dry:?}");
    assert!(files_below(&place.path("repository/quarantine")).is_empty());

    let done = place.run(["repair", "packs", "--json"]);
    assert_eq!(done.code, 13, "{done:?}");
    let report = result(&done.stdout);
    assert_eq!(report["damaged"].as_array().unwrap().len(), 1, "{report}");
    let damaged = &report["damaged"][0];
    assert_eq!((text_of(&damaged["problem"]), damaged["blobs_lost"].as_u64()), ("damaged", Some(1)), "{report}");
    assert!(damaged["blobs_copied"].as_u64() > Some(0), "{report}");
    assert_eq!(text_of(&report["lost"][0]["snapshot"]), first, "{report}");
    assert!(!pack.exists() && place.path("repository").join(text_of(&damaged["quarantined"])).exists(), "{report}");

    // Stored again, in part found by content; the new snapshot is whole, and the old one is named as it was.
    let again = backup();
    let second = again.good().stdout.trim_end().to_owned();
    let dumped = place.command(["dump", &second, "app.bin"]).output().unwrap();
    assert!(dumped.status.success() && dumped.stdout == data, "{}", String::from_utf8_lossy(&dumped.stderr));
    place.run(["forget", &first]).good();
    place.run(["repair", "packs"]).good();
    place.run(["verify", "--read-data"]).good();
}

fn restored(place: &Place, id: &str) -> Vec<u8> {
    let out = place.path(&format!("out-{id}"));
    let _ = std::fs::remove_dir_all(&out);
    place.run(["restore".as_ref(), id.as_ref(), "--target".as_ref(), out.as_os_str()]).good();
    let file = files_below(&out).into_iter().find(|f| f.ends_with("b.bin")).expect("the file");
    std::fs::read(file).unwrap()
}

#[test]
fn an_unchanged_file_whose_contents_are_lost_is_read_again() {
    let place = Place::with_repository();
    let data = noise(2, 3_000_000);
    place.write("data/a.txt", "small\n");
    place.write("data/b.bin", &data);
    let first = place.backup(["data"]);
    // Contents are in segments of 2 MiB; the second one holds a part of this file alone.
    flip(&packs(&place)[0], 2_500_000);
    assert_eq!(place.run(["repair", "packs"]).code, 13);
    // Nothing about the file changed, so without the repair's trace it would be copied from the damaged parent.
    let second = place.backup(["data"]);
    assert_eq!(restored(&place, &second), data);

    let report = place.run(["repair", "snapshots", "--json"]);
    assert_eq!(report.code, 13, "{report:?}");
    let report = result(&report.stdout);
    assert_eq!(report["repaired"].as_array().unwrap().len(), 1, "{report}");
    let repaired = &report["repaired"][0];
    assert_eq!(text_of(&repaired["original"]), first);
    let source = &repaired["sources"][0];
    assert_eq!((source["files_kept"].as_u64(), source["files_lost"].as_u64()), (Some(1), Some(1)), "{report}");
    assert!(text_of(&source["paths"][0]).ends_with("/data/b.bin"), "{report}");
    assert!(text_of(&report["lost"][0]["paths"][0]).ends_with("/data/b.bin"), "{report}");

    // The new one restores without the file and says so in its record; the original is still listed.
    let new = text_of(&repaired["repaired"]).to_owned();
    let out = place.path("out");
    place.run(["restore".as_ref(), new.as_ref(), "--target".as_ref(), out.as_os_str()]).good();
    let files: Vec<String> = files_below(&out).iter().map(|f| name_of(f)).collect();
    assert_eq!(files, ["a.txt"]);
    let listed = place.run(["snapshots", "--json"]).good().json();
    let listed: Vec<&Value> = listed["snapshots"].as_array().unwrap().iter().collect();
    assert_eq!(listed.len(), 3);
    let of = |id: &str| *listed.iter().find(|s| s["id"] == *id).unwrap();
    assert_eq!(of(&new)["tags"], serde_json::json!(["repaired"]));
    assert!(of(&first)["tags"].as_array().unwrap().is_empty());

    // Done once; and without the damaged original everything is whole.
    let again = place.run(["repair", "snapshots"]);
    assert!(again.code == 13 && again.stdout.contains("was repaired before"), "{again:?}");
    place.run(["forget", &first]).good();
    place.run(["repair", "snapshots"]).good();
    place.run(["repair", "packs"]).good();
    place.run(["verify", "--read-data"]).good();
    place.run(["prune", "--yes"]).good();
    place.run(["verify", "--read-data"]).good();
    assert_eq!(restored(&place, &second), data);
}

#[test]
fn records_heal_from_their_second_copy() {
    let place = Place::with_repository();
    place.write("data/a.txt", noise(3, 5000));
    let id = place.backup(["data"]);
    // Both copies of records are in packs of their own; damage them one after the other.
    for _ in 0..2 {
        for pack in packs(&place) {
            let verdict = |place: &Place| place.run(["verify", "--read-data"]).code;
            assert_eq!(verdict(&place), 0);
            let bytes = std::fs::read(&pack).unwrap();
            if bytes[20] == 0 && bytes.len() > 5000 {
                continue; // holds the contents, which have one copy
            }
            flip(&pack, 70);
            assert_eq!(verdict(&place), 13);
            let done = place.run(["repair", "packs"]);
            assert!(done.good().stdout.contains("1 healed from another pack, 0 lost"), "{done:?}");
            assert_eq!(verdict(&place), 0);
        }
    }
    // A pack that is gone is made again as well.
    let second = packs(&place).into_iter().find(|p| std::fs::read(p).unwrap()[20] == 1).unwrap();
    std::fs::remove_file(&second).unwrap();
    let done = place.run(["repair", "packs"]);
    assert!(done.good().stdout.contains("is missing"), "{done:?}");
    place.run(["verify", "--read-data"]).good();
    place.run(["restore", &id, "--target", "out"]).good();
}

#[test]
fn copies_of_keys_configuration_and_snapshots_are_written_again() {
    let place = Place::with_repository();
    place.write("data/a.txt", "x\n");
    let id = place.backup(["data"]);
    let repository = place.path("repository");
    let slot = files_below(&repository.join("keys")).remove(0);
    let victims = [
        repository.join("config"),
        repository.join("config.copy"),
        slot,
        repository.join(format!("snapshots/{id}/snapshot")),
    ];
    for victim in &victims {
        let before = std::fs::read(victim).unwrap();
        for round in 0..2 {
            match round {
                0 => flip(victim, before.len() / 2),
                _ => std::fs::remove_file(victim).unwrap(),
            }
            assert_eq!(place.run(["verify"]).code, 13, "{victim:?}");
            let dry = place.run(["repair", "snapshots", "-n"]);
            assert!(dry.code == 13 && dry.stdout.contains("would be written again"), "{dry:?}");
            place.run(["repair", "snapshots"]).good();
            assert_eq!(std::fs::read(victim).unwrap(), before, "{victim:?}");
            place.run(["verify"]).good();
        }
    }
    assert_eq!(files_below(&repository.join("quarantine")).len(), victims.len());
}

#[test]
fn what_cannot_be_repaired_is_refused_with_a_reason() {
    let place = Place::with_repository();
    place.write("data/a.txt", "x\n");
    place.backup(["data"]);
    place.run(["repair", "packs", "xyz"]).failed(2, "32 digits");
    place.run(["repair", "packs", &"ab".repeat(16)]).failed(2, "names no pack");
    let index = files_below(&place.path("repository/index")).remove(0);
    flip(&index, 80);
    let before = files_below(&place.path("repository"));
    for what in ["packs", "snapshots"] {
        let ran = place.run(["repair", what]);
        assert!(ran.code == 13 && ran.stderr.contains("repair index"), "{ran:?}");
    }
    assert_eq!(files_below(&place.path("repository")), before);
    place.run(["repair", "index"]).good();
    place.run(["repair", "packs"]).good();
}
