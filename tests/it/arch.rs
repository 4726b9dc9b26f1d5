//! The layers of ARCHITECTURE.md: who may name whom, and which doors have one key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Rooms and what each may name. Tests inside a room may name anything.
const MAY_NAME: [(&str, &[&str]); 11] = [
    ("domain", &[]),
    ("recipe", &["domain"]),
    ("fsio", &["domain"]),
    ("format", &["domain", "recipe"]),
    ("storage", &["domain", "fsio"]),
    ("source", &["domain", "fsio", "format"]),
    ("target", &["domain", "fsio", "format", "source"]),
    ("catalog", &["domain", "fsio"]),
    ("repository", &["domain", "recipe", "fsio", "format", "storage", "catalog"]),
    ("ops", &["domain", "recipe", "fsio", "format", "storage", "source", "target", "catalog", "repository"]),
    ("cli", &["domain", "recipe", "fsio", "format", "storage", "source", "target", "catalog", "repository", "ops"]),
];

/// Words that only the named files or rooms may use.
const ONE_DOOR: [(&str, &[&str]); 6] = [
    ("bincode::", &["src/format/codec.rs"]),
    ("clap::", &["src/cli/"]),
    ("println!", &["src/cli/"]),
    ("std::env::var", &["src/cli/environment.rs"]),
    ("SystemTime::now", &["src/cli/environment.rs"]),
    ("Timestamp::now", &["src/cli/environment.rs"]),
];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut items: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("folder").map(|e| e.expect("entry").path()).collect();
    items.sort();
    for item in items {
        if item.is_dir() {
            rust_files(&item, found);
        } else if item.extension().is_some_and(|e| e == "rs") {
            found.push(item);
        }
    }
}

/// The code of a file without comments and without its test module.
fn code(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    before_tests.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// Rooms that a file names: `crate::room` and groups `crate::{room, room::x}`.
fn rooms_named(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let word = |s: &str| s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut item) = (0, String::new());
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        rooms.insert(word(&item));
                        item.clear();
                        continue;
                    }
                    _ => {}
                }
                item.push(c);
            }
            rooms.insert(word(&item));
        } else {
            rooms.insert(word(rest));
        }
    }
    rooms
}

fn violations(files: &[(String, String)]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = MAY_NAME.into_iter().collect();
    let mut found = Vec::new();
    for (path, text) in files {
        let code = code(text);
        let room = path.trim_start_matches("src/").split('/').next().unwrap_or("");
        if let Some(may) = allowed.get(room) {
            for named in rooms_named(&code) {
                if named != room && allowed.contains_key(named.as_str()) && !may.contains(&named.as_str()) {
                    found.push(format!("{path} ({room}) names {named}"));
                }
            }
        }
        for (word, doors) in ONE_DOOR {
            if code.contains(word) && !doors.iter().any(|door| path.starts_with(door)) {
                found.push(format!("{path} uses {word}"));
            }
        }
    }
    found
}

fn sources() -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&top.join("src"), &mut files);
    files
        .into_iter()
        .map(|file| {
            let name = file.strip_prefix(top).expect("below").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&file).expect("source"))
        })
        .filter(|(name, _)| !name.ends_with("tests.rs"))
        .collect()
}

#[test]
fn rooms_name_only_rooms_below() {
    let files = sources();
    assert!(files.len() > 80, "the sources were found");
    assert_eq!(violations(&files), Vec::<String>::new());
}

#[test]
fn planted_violations_are_found() {
    let planted = [
        ("src/domain/x.rs", "use crate::storage::ReadStore;"),
        ("src/format/x.rs", "use crate::{domain::id, repository::{error, index}};"),
        ("src/ops/x.rs", "fn f() { println!(\"{}\", 1) }"),
        ("src/storage/x.rs", "let t = std::time::SystemTime::now();"),
    ];
    for (path, text) in planted {
        assert_eq!(violations(&[(path.to_owned(), text.to_owned())]).len(), 1, "{text}");
    }
    let harmless = "// use crate::cli;\nuse crate::domain::id;\n#[cfg(test)]\nmod tests { use crate::cli; }";
    assert!(violations(&[("src/format/x.rs".to_owned(), harmless.to_owned())]).is_empty());
}

#[test]
fn every_test_file_is_part_of_the_binary() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = std::fs::read_to_string(folder.join("main.rs")).expect("main.rs");
    for entry in std::fs::read_dir(&folder).expect("folder") {
        let name = entry.expect("entry").file_name().to_string_lossy().into_owned();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || main.contains(&format!("mod {module};")), "{name} is not in main.rs");
    }
}
