//! `config show`: every value with its origin, secrets masked.

use super::Settings;
use serde_json::{Value, json};

/// Lines of TOML with the origin as a comment.
pub fn show_text(settings: &Settings) -> String {
    let mut text = String::new();
    if settings.files.is_empty() {
        text.push_str("# no configuration file\n");
    }
    for file in &settings.files {
        text.push_str(&format!("# file {}\n", file.display()));
    }
    let assignments: Vec<String> = settings.shown.iter().map(|s| format!("{} = {}", s.key, s.value)).collect();
    // A long value must not push all the comments to the right.
    let width = assignments.iter().map(|a| a.chars().count()).filter(|n| *n <= 60).max().unwrap_or_default();
    for (assignment, shown) in assignments.iter().zip(&settings.shown) {
        text.push_str(&format!("{assignment:width$}  # {}\n", shown.origin));
    }
    text
}

/// The body of the JSON document.
pub fn show_json(settings: &Settings) -> Value {
    let values: Vec<Value> = settings
        .shown
        .iter()
        .map(|s| json!({ "key": s.key, "value": s.value, "origin": s.origin.kind(), "where": s.origin.to_string() }))
        .collect();
    json!({ "files": settings.files, "settings": values })
}
