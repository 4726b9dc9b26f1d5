//! The nearest known word to a wrong one.

/// The known word that is nearest to `word`, if it is near enough to be a slip of the finger: one edit for each three
/// letters, at least two. Letters that changed places count as one edit.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(2);
    let near = known.into_iter().map(|candidate| (distance(word, candidate), candidate));
    near.filter(|(edits, candidate)| *edits <= limit && *edits < candidate.chars().count())
        .min_by_key(|(edits, candidate)| (*edits, *candidate))
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance, case and `-` against `_` ignored.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| -> Vec<char> { text.to_lowercase().replace('-', "_").chars().collect() };
    let (a, b) = (fold(a), fold(b));
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut edits = at(&last, j) + usize::from(x != y);
            edits = edits.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                edits = edits.min(at(&before, j - 1) + 1);
            }
            row.push(edits);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, edits) in [
            ("", "", 0),
            ("", "abc", 3),
            ("password", "password", 0),
            ("passwrod", "password", 1),
            ("Keep-Daily", "keep_daily", 0),
            ("excludes", "exclude", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["location", "password", "key_file"];
        assert_eq!(nearest("passwrd", known), Some("password"));
        assert_eq!(nearest("keyfile", known), Some("key_file"));
        assert_eq!(nearest("compression", known), None);
        assert_eq!(nearest("x", ["a", "b"]), None);
    }
}
