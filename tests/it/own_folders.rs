//! A repository is never saved into itself, nor are caches and state, wherever they lie and whatever they are called.

use crate::support::program::{Place, files_below};
use std::path::Path;

/// Paths of a snapshot.
fn listed(place: &Place, id: &str) -> Vec<String> {
    place.run(["ls", id]).good().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_repository_inside_a_saved_root_is_left_out() {
    let place = Place::with_repository();
    place.write("file", "contents");
    place.write("home/notes", "mine");
    // a folder of the same name is not it
    place.write("home/repository/file", "not a repository");
    let top = place.path("");
    let shown = |name: &str| place.path(name).display().to_string();
    let mut sizes = Vec::new();
    for round in 0..3 {
        let ran = place.run(["backup", "--no-default-excludes", &*top.to_string_lossy()]);
        assert_eq!(ran.good().stderr.matches("is left out: it is holdfast's own").count(), 3, "{ran:?}");
        assert!(ran.stderr.contains("3 left out by default") && !ran.stderr.contains("warning"), "{ran:?}");
        let paths = listed(&place, ran.stdout.trim_end());
        for name in ["file", "home/notes", "home/repository/file", "home/cache", "home/state"] {
            assert!(paths.contains(&shown(name)), "{name}: {paths:?}");
        }
        for name in ["repository", "home/cache/holdfast", "home/state/holdfast"] {
            assert!(
                place.path(name).is_dir() && !paths.iter().any(|p| Path::new(p).starts_with(shown(name))),
                "{name}"
            );
        }
        sizes.push(files_below(&place.path("repository")).iter().map(|f| f.metadata().unwrap().len()).sum::<u64>());
        assert!(round == 0 || sizes[round] - sizes[round - 1] < 64 << 10, "it grows by itself: {sizes:?}");
    }
    let json = place.run(["backup", "--json", &*top.to_string_lossy()]);
    let summary: serde_json::Value = serde_json::from_str(json.good().stdout.lines().last().unwrap()).unwrap();
    assert_eq!((summary["type"].as_str(), summary["excluded_by_default"].as_u64()), (Some("summary"), Some(3)));
}

#[test]
fn by_another_name_it_is_the_same_folder() {
    let place = Place::with_repository();
    place.write("data/file", "contents");
    std::fs::rename(place.path("repository"), place.path("data/elsewhere")).unwrap();
    std::os::unix::fs::symlink("data/elsewhere", place.path("repository-link")).unwrap();
    std::os::unix::fs::symlink("data", place.path("data-link")).unwrap();
    let repository = place.path("data-link/elsewhere");
    let ran = place.run(["-r", &*repository.to_string_lossy(), "backup", "data"]);
    assert!(ran.good().stderr.contains("data/elsewhere is left out"), "{ran:?}");
    // as a root, or inside of it, it is refused
    for root in ["data/elsewhere", "data/elsewhere/packs", "repository-link", "repository-link/config"] {
        let ran = place.run(["-r", &*repository.to_string_lossy(), "backup", root]);
        ran.failed(14, "never saved into itself");
    }
}

#[test]
fn what_lies_beside_a_chosen_cache_is_saved() {
    let place = Place::with_repository();
    place.write("shared/precious", "contents");
    let shared = place.path("shared");
    let ran = place.run(["--cache-dir", &*shared.to_string_lossy(), "backup", "shared"]);
    let paths = listed(&place, ran.good().stdout.trim_end());
    assert!(paths.contains(&place.path("shared/precious").display().to_string()), "{paths:?}");
    assert!(std::fs::read_dir(&shared).unwrap().count() == 2 && paths.len() < 12, "{paths:?}");
    assert_eq!(ran.stderr.matches("is left out").count(), 1, "{ran:?}");
}
