//! Configuration files as trees that know, for every key and value, in which file, line and column it stands.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {} of {}", self.line, self.column, self.file.display())
    }
}

/// A value and its place. Values may be secrets, so there is no `Debug`.
pub(super) struct Node {
    /// The value.
    pub(super) value: Value,
    /// Where it begins.
    pub(super) place: Place,
}

/// The kinds of value.
pub(super) enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Boolean(bool),
    /// An array.
    List(Vec<Node>),
    /// A table, inline or not.
    Table(Table),
    /// A kind that no key takes, by name.
    Other(&'static str),
}

impl Value {
    /// What kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// A table in the order of its file.
#[derive(Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
}

/// A key with its value.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// Something wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, if it has a place.
    pub place: Option<Place>,
    /// What, one sentence without a full stop.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Problem {
    pub(super) fn new(place: Option<&Place>, message: impl Into<String>) -> Self {
        Self { place: place.cloned(), message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{}, {place}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Reads a file's text.
pub(super) fn parse(text: &str, file: &Arc<Path>) -> Result<Table, Problem> {
    let places = Places { text, file };
    match DeTable::parse(text) {
        Ok(table) => Ok(places.table(table.get_ref())),
        Err(error) => {
            let place = error.span().map(|span| places.at(span.start));
            // The parser's own text shows the line, and with it perhaps a secret; its message alone does not.
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            Err(Problem::new(place.as_ref(), format!("The configuration is not TOML: {message}")))
        }
    }
}

struct Places<'a> {
    text: &'a str,
    file: &'a Arc<Path>,
}

impl Places<'_> {
    fn at(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place { file: Arc::clone(self.file), line, column }
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let mut entries: Vec<(usize, Entry)> = table
            .iter()
            .map(|(key, value)| {
                let node = self.node(value.get_ref(), value.span().start);
                let at = key.span().start;
                (at, Entry { key: key.get_ref().to_string(), place: self.at(at), node })
            })
            .collect();
        entries.sort_by_key(|(at, _)| *at);
        Table { entries: entries.into_iter().map(|(_, entry)| entry).collect() }
    }

    fn node(&self, value: &DeValue<'_>, offset: usize) -> Node {
        let value = match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other("a number beyond 64 bits"),
            },
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            DeValue::Float(_) => Value::Other("a fraction"),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item.get_ref(), item.span().start)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node { value, place: self.at(offset) }
    }
}

/// Adds a further file: tables grow together, arrays of tables are appended, any other key that both have is a problem.
pub(super) fn merge(into: &mut Table, other: Table, problems: &mut Vec<Problem>) {
    for entry in other.entries {
        let Some(known) = into.entries.iter_mut().find(|known| known.key == entry.key) else {
            into.entries.push(entry);
            continue;
        };
        match (&mut known.node.value, entry.node.value) {
            (Value::Table(known), Value::Table(more)) => merge(known, more, problems),
            (Value::List(known), Value::List(more)) if are_tables(known) && are_tables(&more) => known.extend(more),
            _ => {
                let message = format!("The key '{}' is set twice: {} and", entry.key, known.place);
                problems.push(Problem {
                    place: None,
                    message: format!("{message} {}", entry.place),
                    hint: Some("keep one of them".to_owned()),
                });
            }
        }
    }
}

fn are_tables(nodes: &[Node]) -> bool {
    !nodes.is_empty() && nodes.iter().all(|node| matches!(node.value, Value::Table(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Arc<Path> {
        Arc::from(Path::new(name))
    }

    #[test]
    fn places_are_lines_and_columns_of_characters() {
        let table = parse("# ü\n[repository]\n  location = \"ü\"\n[x]\ny = { a = \"ä\", z = 2 }\n", &file("f"))
            .unwrap_or_default();
        let Value::Table(repository) = &table.entries[0].node.value else { panic!("no table") };
        let location = &repository.entries[0];
        assert_eq!((location.place.line, location.place.column), (3, 3));
        assert_eq!((location.node.place.line, location.node.place.column), (3, 14));
        let Value::Table(x) = &table.entries[1].node.value else { panic!("no table") };
        let Value::Table(y) = &x.entries[0].node.value else { panic!("no table") };
        assert_eq!(y.entries[1].place.to_string(), "line 5, column 16 of f");
    }

    #[test]
    fn what_is_not_toml_says_where_and_shows_no_line() {
        let Err(problem) = parse("[repository]\npassword = \"hunter2\n", &file("f")) else { panic!("accepted") };
        let text = problem.to_string();
        assert!(text.starts_with("The configuration is not TOML: ") && text.contains("line 2, column"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let Err(problem) = parse("a = 1\na = 2\n", &file("f")) else { panic!("accepted") };
        assert!(problem.to_string().ends_with("line 2, column 1 of f"), "{problem}");
    }

    #[test]
    fn files_grow_together_and_conflicts_name_both() {
        let mut one =
            parse("[repository]\nlocation = \"a\"\n[[source]]\nname = \"x\"\n", &file("one")).unwrap_or_default();
        let two = parse("[repository]\nkey_file = \"k\"\n[[source]]\nname = \"y\"\n[prune]\n", &file("two"))
            .unwrap_or_default();
        let mut problems = Vec::new();
        merge(&mut one, two, &mut problems);
        assert!(problems.is_empty());
        assert_eq!(one.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["repository", "source", "prune"]);
        let Some(Value::List(sources)) = one.get("source").map(|e| &e.node.value) else { panic!("no list") };
        assert_eq!(sources.len(), 2);
        let three = parse("[repository]\nlocation = \"b\"\n", &file("three")).unwrap_or_default();
        merge(&mut one, three, &mut problems);
        assert_eq!(
            problems[0].message,
            "The key 'location' is set twice: line 2, column 1 of one and line 2, column 1 of three"
        );
    }
}
