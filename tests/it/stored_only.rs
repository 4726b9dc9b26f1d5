//! `verify --stored-only`: every stored byte, without any secret.

use crate::support::program::{Place, Ran, files_below};
use std::path::{Path, PathBuf};

fn filled() -> Place {
    let place = Place::with_repository();
    for round in 0..3 {
        place.write("data/file", format!("contents {round}\n").repeat(3000));
        place.backup(["data"]);
    }
    place
}

/// Files of the repository that are objects: what it keeps beside them is its own affair.
fn objects(place: &Place) -> Vec<PathBuf> {
    let top = place.path("repository");
    let is_object = |file: &PathBuf| {
        let name = file.strip_prefix(&top).unwrap();
        ["config", "config.copy", "keys", "packs", "index", "snapshots"].iter().any(|first| name.starts_with(first))
    };
    files_below(&top).into_iter().filter(is_object).collect()
}

fn verify(place: &Place) -> Ran {
    place.run_bare(["--no-input", "verify", "--stored-only"])
}

#[track_caller]
fn damaged(place: &Place, file: &Path) {
    let ran = verify(place);
    assert_eq!(ran.code, 13, "{}: {ran:?}", file.display());
    let name = file.strip_prefix(place.path("repository")).unwrap().display().to_string();
    assert!(ran.stdout.contains(&name) && ran.stderr.contains("--read-data"), "{name}: {ran:?}");
    assert!(!ran.stdout.contains("No data of a snapshot is lost") && !ran.stderr.contains("panicked"), "{ran:?}");
}

#[test]
fn every_changed_cut_or_lengthened_object_is_found_without_a_password() {
    let place = filled();
    place.run_bare(["--no-input", "verify"]).failed(12, "No password");
    let whole = verify(&place);
    assert!(whole.good().stdout.contains("No damage found; 3 snapshots"), "{whole:?}");
    assert!(objects(&place).len() > 20, "{:?}", objects(&place));
    for (n, file) in objects(&place).into_iter().enumerate() {
        let bytes = std::fs::read(&file).unwrap();
        let mut changed = bytes.clone();
        // a place of its own in each: header, body, footer
        let at = (n * 37 + [0, bytes.len() / 2, bytes.len() - 1][n % 3]) % bytes.len();
        changed[at] ^= 0x10;
        std::fs::write(&file, &changed).unwrap();
        damaged(&place, &file);
        std::fs::write(&file, &bytes[..bytes.len() - 1 - n % 50]).unwrap();
        damaged(&place, &file);
        std::fs::write(&file, [bytes.as_slice(), b"more"].concat()).unwrap();
        damaged(&place, &file);
        std::fs::write(&file, &bytes).unwrap();
    }
    verify(&place).good();
}

#[test]
fn what_must_be_there_and_what_stands_under_a_wrong_name_is_found() {
    let place = filled();
    for name in ["config", "config.copy"] {
        let file = place.path("repository").join(name);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        damaged(&place, &file);
        std::fs::write(&file, bytes).unwrap();
    }
    for file in
        objects(&place).into_iter().filter(|f| f.to_string_lossy().contains("/keys/") || f.ends_with("snapshot"))
    {
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        damaged(&place, &file);
        std::fs::write(&file, bytes).unwrap();
    }
    // Whole, and in the place of another.
    let packs = files_below(&place.path("repository/packs"));
    let (one, two) = (std::fs::read(&packs[0]).unwrap(), std::fs::read(&packs[1]).unwrap());
    std::fs::write(&packs[0], &two).unwrap();
    damaged(&place, &packs[0]);
    std::fs::write(&packs[0], &one).unwrap();
    // Whole, and of another repository.
    let other = filled();
    let stranger = files_below(&other.path("repository/packs")).remove(0);
    let name = stranger.strip_prefix(other.path("")).unwrap().to_owned();
    let planted = place.path("").join(&name);
    std::fs::create_dir_all(planted.parent().unwrap()).unwrap();
    std::fs::copy(&stranger, &planted).unwrap();
    damaged(&place, &planted);
    std::fs::remove_file(&planted).unwrap();
    verify(&place).good();
    for folder in ["packs", "index"] {
        std::fs::rename(place.path("repository").join(folder), place.path("away")).unwrap();
        std::fs::create_dir(place.path("repository").join(folder)).unwrap();
        damaged(&place, &place.path("repository").join(folder));
        std::fs::remove_dir(place.path("repository").join(folder)).unwrap();
        std::fs::rename(place.path("away"), place.path("repository").join(folder)).unwrap();
    }
    verify(&place).good();
}

#[test]
fn its_report_and_its_limits() {
    let place = filled();
    let report = place.run_bare(["verify", "--stored-only", "--json", "--report", "report.json"]);
    let json = report.good().json();
    assert_eq!((json["mode"].as_str(), json["complete"].as_bool()), (Some("stored-only"), Some(true)));
    let on_disk: u64 = objects(&place).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!(json["stored_bytes_read"].as_u64(), Some(on_disk), "every byte is read");
    assert_eq!(json["packs"], json["packs_read"]);
    assert!(place.path("report.json").is_file());
    place.run(["verify", "--stored-only", "--read-data"]).failed(2, "cannot be used with");
    place.run(["verify", "--stored-only", "latest"]).failed(2, "cannot be used with");
    let empty = Place::new();
    std::fs::create_dir(empty.path("repository")).unwrap();
    empty.run_bare(["verify", "--stored-only"]).failed(10, "no repository");
}
