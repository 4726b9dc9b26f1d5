//! Parity through the program: the setting, backup, damage that restores do not notice, repair, prune, figures.

use crate::support::program::{Place, files_below};
use std::path::PathBuf;

/// Bytes that neither compress nor repeat.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn place(parity: &str) -> Place {
    let place = Place::new();
    place.write("holdfast.toml", format!("[repository]\nparity = \"{parity}\"\n"));
    place.run(["init"]).good();
    place
}

fn longest_pack(place: &Place) -> PathBuf {
    let packs = files_below(&place.path("repository/packs"));
    packs.into_iter().max_by_key(|p| p.metadata().unwrap().len()).unwrap()
}

fn count(place: &Place, folder: &str) -> usize {
    files_below(&place.path(&format!("repository/{folder}"))).len()
}

fn backup(place: &Place, data: &[u8]) -> String {
    let ran = place.run_with_input(["backup", "--stdin", "--stdin-filename", "app.bin"], data);
    ran.good().stdout.trim_end().to_owned()
}

#[test]
fn damage_within_the_budget_is_told_and_does_not_matter() {
    let place = place("5%");
    let data = noise(1, 1_500_000);
    let id = backup(&place, &data);
    assert_eq!(count(&place, "parity"), count(&place, "packs"));
    place.run(["verify", "--read-data"]).good();
    let stats = place.run(["stats", "--json"]).good().json();
    let kinds = stats["kinds"].as_array().unwrap();
    let bytes = |kind: &str| kinds.iter().find(|k| k["kind"] == *kind).unwrap()["stored_bytes"].as_u64().unwrap();
    let share = bytes("parity") as f64 / bytes("packs") as f64;
    assert!((0.05..0.07).contains(&share), "{share}");

    // forty thousand bytes of the contents, which have no second copy
    let pack = longest_pack(&place);
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[500_000..540_000].fill(0);
    std::fs::write(&pack, &bytes).unwrap();
    let verified = place.run(["verify", "--read-data"]);
    verified.failed_with_output(13, "repairable");
    assert!(verified.stderr.contains("holdfast repair packs"), "{verified:?}");
    assert!(verified.stdout.contains("No data of a snapshot is lost"), "{verified:?}");
    // whoever reads gets what was saved, and is told
    let dumped = place.command(["dump", &id, "app.bin"]).output().unwrap();
    assert!(dumped.stdout == data, "the bytes are right");
    assert_eq!(dumped.status.code(), Some(13), "{}", String::from_utf8_lossy(&dumped.stderr));
    assert!(String::from_utf8_lossy(&dumped.stderr).contains("its parity served"));
    let restored = place.run(["restore", &id, "--target", "out"]);
    assert_eq!(restored.code, 13, "{restored:?}");
    assert!(std::fs::read(place.path("out/app.bin")).unwrap() == data);
    assert_eq!(std::fs::read(&pack).unwrap(), bytes, "reading changes nothing");
    // without the key
    let stored = place.run_bare(["verify", "--stored-only"]);
    stored.failed_with_output(13, "repairable");

    let repaired = place.run(["repair", "packs"]);
    assert!(repaired.good().stdout.contains("its parity makes it whole"), "{repaired:?}");
    place.run(["verify", "--read-data"]).good();
    assert_eq!(run_stored_only(&place), 0);
    assert_eq!(count(&place, "parity"), count(&place, "packs"));
    let dumped = place.command(["dump", &id, "app.bin"]).output().unwrap();
    assert!(dumped.stdout == data && dumped.status.success());
}

fn run_stored_only(place: &Place) -> i32 {
    place.run_bare(["verify", "--stored-only"]).code
}

#[test]
fn prune_and_forget_leave_no_parity_behind() {
    let place = place("5%");
    let first = backup(&place, &noise(1, 900_000));
    let data = noise(2, 900_000);
    let second = backup(&place, &data);
    place.run(["forget", &first]).good();
    // parity without a pack, as a prune leaves it that dies
    let stray = place.path("repository/parity/ab/abababababababababababababababab");
    std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
    std::fs::write(&stray, "x").unwrap();
    let verified = place.run(["verify"]);
    assert!(verified.good().stderr.contains("parity of a pack that is gone"), "{verified:?}");
    place.run(["prune", "--yes", "--full"]).good();
    assert!(!stray.exists());
    assert_eq!(count(&place, "parity"), count(&place, "packs"));
    place.run(["verify", "--read-data"]).good();
    let dumped = place.command(["dump", &second, "app.bin"]).output().unwrap();
    assert!(dumped.stdout == data && dumped.status.success());
}

#[test]
fn it_is_turned_on_for_what_is_there_by_a_repair() {
    let place = Place::with_repository();
    backup(&place, &noise(1, 300_000));
    assert_eq!(count(&place, "parity"), 0);
    place.write("holdfast.toml", "[repository]\nparity = \"10%\"\n");
    let dry = place.run(["repair", "packs", "-n"]);
    assert!(dry.good().stdout.contains("have no parity and would get it"), "{dry:?}");
    assert_eq!(count(&place, "parity"), 0);
    let repaired = place.run(["repair", "packs"]);
    assert!(repaired.good().stdout.contains("Parity of "), "{repaired:?}");
    assert_eq!(count(&place, "parity"), count(&place, "packs"));
    place.run(["verify", "--read-data"]).good();
    // lost parity is damage where the pack was written with it
    backup(&place, &noise(2, 300_000));
    let lost = files_below(&place.path("repository/parity"));
    lost.iter().for_each(|parity| std::fs::remove_file(parity).unwrap());
    let verified = place.run(["verify"]);
    verified.failed_with_output(13, "writes damaged and missing parity again");
    assert!(verified.stdout.contains("is missing: it is not there, and its pack was written with it"), "{verified:?}");
    place.run(["repair", "packs"]).good();
    assert_eq!(count(&place, "parity"), lost.len());
    place.run(["verify", "--read-data"]).good();
}

#[test]
fn a_share_is_between_one_and_a_hundred_percent() {
    for bad in ["\"0%\"", "\"101%\"", "\"5\"", "\"five%\"", "\"-5%\"", "5", "true"] {
        let place = Place::new();
        place.write("holdfast.toml", format!("[repository]\nparity = {bad}\n"));
        place.run(["init"]).failed(2, "a share from \"1%\" to \"100%\"");
    }
    let place = place("7%");
    let shown = place.run(["config", "show"]);
    assert!(shown.good().stdout.contains("parity = \"7%\""), "{shown:?}");
}
