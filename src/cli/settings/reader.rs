//! Typed access to a table. Every key that is read is remembered, with its value as `config show` prints it and where it
//! came from; every key that nobody read is a problem with a suggestion. So the keys that are known, shown and
//! documented cannot drift apart.

use super::document::{Node, Place, Problem, Table, Value};
use super::origin::{Origin, Shown};
use super::secret::{Secret, SecretRef};
use super::suggest::nearest;
use crate::cli::args::url::refuse_password;
use crate::cli::environment::Environment;
use crate::domain::retention::Window;
use crate::domain::units::{format_duration_exact, format_size_exact, parse_duration, parse_size};
use crate::format::parity::ParityShare;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What was found while reading.
pub(super) struct Findings<'e> {
    pub(super) environment: &'e Environment,
    pub(super) shown: RefCell<Vec<Shown>>,
    pub(super) problems: RefCell<Vec<Problem>>,
}

impl<'e> Findings<'e> {
    pub(super) fn new(environment: &'e Environment) -> Self {
        Self { environment, shown: RefCell::default(), problems: RefCell::default() }
    }

    pub(super) fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Remembers a value; a later one of the same key takes its place.
    pub(super) fn show(&self, key: String, value: String, origin: Origin) {
        let mut shown = self.shown.borrow_mut();
        match shown.iter_mut().find(|s| s.key == key) {
            Some(known) => (known.value, known.origin) = (value, origin),
            None => shown.push(Shown { key, value, origin }),
        }
    }
}

/// A type that a key can have.
pub(super) trait Setting: Sized {
    /// Reads it.
    fn read(node: &Node, environment: &Environment) -> Result<Self, Problem>;
    /// As `config show` prints it.
    fn shown(&self) -> String;
}

fn expected(node: &Node, what: &str) -> Problem {
    Problem::new(Some(&node.place), format!("Expected {what} and found {}", node.value.kind()))
}

/// Text in the quotes of TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The folder that relative paths of a file start from.
fn base(place: &Place, environment: &Environment) -> PathBuf {
    environment.directory.join(place.file.parent().unwrap_or(Path::new("")))
}

impl Setting for String {
    fn read(node: &Node, _: &Environment) -> Result<Self, Problem> {
        match &node.value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(expected(node, "a string")),
        }
    }
    fn shown(&self) -> String {
        quoted(self)
    }
}

impl Setting for bool {
    fn read(node: &Node, _: &Environment) -> Result<Self, Problem> {
        match &node.value {
            Value::Boolean(flag) => Ok(*flag),
            _ => Err(expected(node, "true or false")),
        }
    }
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    fn read(node: &Node, _: &Environment) -> Result<Self, Problem> {
        match &node.value {
            Value::Integer(number) => u32::try_from(*number)
                .map_err(|_| Problem::new(Some(&node.place), format!("The number {number} is out of range"))),
            _ => Err(expected(node, "a whole number")),
        }
    }
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Setting for Vec<String> {
    fn read(node: &Node, environment: &Environment) -> Result<Self, Problem> {
        match &node.value {
            Value::List(items) => items.iter().map(|item| String::read(item, environment)).collect(),
            Value::Text(_) => Err(expected(node, "a list of strings").hint("put it in [ ]")),
            _ => Err(expected(node, "a list of strings")),
        }
    }
    fn shown(&self) -> String {
        format!("[{}]", self.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
    }
}

/// A program and its arguments, at least the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words(pub(super) Vec<String>);

impl Setting for Words {
    fn read(node: &Node, environment: &Environment) -> Result<Self, Problem> {
        match &node.value {
            Value::Text(text) => {
                let words = super::secret::split_words(text).unwrap_or_default();
                Err(expected(node, "a list with a program and its arguments")
                    .hint(format!("write {}, or [\"sh\", \"-c\", ...] for a shell", words.shown())))
            }
            _ => match Vec::<String>::read(node, environment)? {
                words if words.first().is_none_or(String::is_empty) => {
                    Err(Problem::new(Some(&node.place), "The command names no program"))
                }
                words => Ok(Self(words)),
            },
        }
    }
    fn shown(&self) -> String {
        self.0.shown()
    }
}

/// Bytes, written as `"10 KB"` or as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl Setting for Size {
    fn read(node: &Node, _: &Environment) -> Result<Self, Problem> {
        match &node.value {
            Value::Text(text) => {
                parse_size(text).map(Self).map_err(|error| Problem::new(Some(&node.place), error.to_string()))
            }
            Value::Integer(number) => u64::try_from(*number)
                .map(Self)
                .map_err(|_| Problem::new(Some(&node.place), format!("The size {number} is negative"))),
            _ => Err(expected(node, "a size such as \"10 KB\"")),
        }
    }
    fn shown(&self) -> String {
        quoted(&format_size_exact(self.0))
    }
}

impl Setting for ParityShare {
    fn read(node: &Node, _: &Environment) -> Result<Self, Problem> {
        let expected = || expected(node, "a share from \"1%\" to \"100%\"");
        match &node.value {
            Value::Text(text) => {
                let percent = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
                percent.and_then(Self::new).ok_or_else(expected)
            }
            _ => Err(expected()),
        }
    }
    fn shown(&self) -> String {
        quoted(&format!("{}%", self.percent()))
    }
}

impl Setting for Duration {
    fn read(node: &Node, _: &Environment) -> Result<Self, Problem> {
        match &node.value {
            Value::Text(text) => {
                parse_duration(text).map_err(|error| Problem::new(Some(&node.place), error.to_string()))
            }
            _ => Err(expected(node, "a duration such as \"90s\" or \"30d\"")),
        }
    }
    fn shown(&self) -> String {
        quoted(&format_duration_exact(*self))
    }
}

impl Setting for Window {
    fn read(node: &Node, _: &Environment) -> Result<Self, Problem> {
        match &node.value {
            Value::Text(text) => Self::parse(text).map_err(|error| Problem::new(Some(&node.place), error.to_string())),
            _ => Err(expected(node, "a duration such as \"7d\" or \"26h\"")),
        }
    }
    fn shown(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for PathBuf {
    fn read(node: &Node, environment: &Environment) -> Result<Self, Problem> {
        let text = String::read(node, environment)?;
        if text.is_empty() {
            return Err(Problem::new(Some(&node.place), "The path is empty"));
        }
        Ok(environment.expand_path(&text, &base(&node.place, environment)))
    }
    fn shown(&self) -> String {
        quoted(&self.display().to_string())
    }
}

impl Setting for Vec<PathBuf> {
    fn read(node: &Node, environment: &Environment) -> Result<Self, Problem> {
        match &node.value {
            Value::List(items) => items.iter().map(|item| PathBuf::read(item, environment)).collect(),
            Value::Text(_) => Err(expected(node, "a list of paths").hint("put it in [ ]")),
            _ => Err(expected(node, "a list of paths")),
        }
    }
    fn shown(&self) -> String {
        format!("[{}]", self.iter().map(Setting::shown).collect::<Vec<_>>().join(", "))
    }
}

/// A database URI without a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url(pub(super) String);

impl Setting for Url {
    fn read(node: &Node, environment: &Environment) -> Result<Self, Problem> {
        let text = String::read(node, environment)?;
        match refuse_password(&text) {
            Ok(()) => Ok(Self(text)),
            Err(error) => Err(Problem::new(Some(&node.place), error.to_string())
                .hint("write it under the key 'password', or use ~/.pgpass or PGPASSWORD")),
        }
    }
    fn shown(&self) -> String {
        quoted(&self.0)
    }
}

impl Setting for SecretRef {
    fn read(node: &Node, environment: &Environment) -> Result<Self, Problem> {
        const FORMS: &str = "write a string or one of { file = \"...\" } { command = [...] } { env = \"...\" } { credential = \"...\" }";
        let table = match &node.value {
            Value::Text(text) if text.is_empty() => {
                return Err(Problem::new(Some(&node.place), "The secret is empty").hint(FORMS));
            }
            Value::Text(text) => return Ok(Self::Literal(Secret::new(text.clone().into_bytes()))),
            Value::Table(table) => table,
            _ => return Err(expected(node, "a secret").hint(FORMS)),
        };
        let [entry] = table.entries.as_slice() else {
            return Err(Problem::new(Some(&node.place), "A secret has exactly one origin").hint(FORMS));
        };
        match entry.key.as_str() {
            "file" => PathBuf::read(&entry.node, environment).map(Self::File),
            "command" => Words::read(&entry.node, environment).map(|words| Self::Command(words.0)),
            "env" => String::read(&entry.node, environment).map(Self::Variable),
            "credential" => {
                let name = String::read(&entry.node, environment)?;
                if name.is_empty() || name.contains('/') {
                    return Err(Problem::new(Some(&entry.node.place), "A credential is a name without slashes"));
                }
                Ok(Self::Credential(name))
            }
            other => Err(Problem::new(Some(&entry.place), format!("Unknown origin '{other}' of a secret")).hint(FORMS)),
        }
    }
    fn shown(&self) -> String {
        self.to_string()
    }
}

/// Reads one table.
pub(super) struct TableReader<'a, 'e> {
    table: &'a Table,
    /// The dotted path that `config show` prints before the key.
    path: String,
    /// How messages call the table: `[repository]`.
    title: String,
    known: Vec<&'static str>,
    pub(super) findings: &'a Findings<'e>,
}

impl<'a, 'e> TableReader<'a, 'e> {
    pub(super) fn new(table: &'a Table, path: &str, title: &str, findings: &'a Findings<'e>) -> Self {
        Self { table, path: path.to_owned(), title: title.to_owned(), known: Vec::new(), findings }
    }

    /// Names the table anew, once its own name is known.
    pub(super) fn rename(&mut self, path: String, title: String) {
        (self.path, self.title) = (path, title);
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The place of a key, or None when it is not set.
    pub(super) fn place(&self, key: &str) -> Option<&'a Place> {
        self.table.get(key).map(|entry| &entry.place)
    }

    /// Reads a key without showing it.
    pub(super) fn quiet<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.known.push(key);
        let entry = self.table.get(key)?;
        match T::read(&entry.node, self.findings.environment) {
            Ok(value) => Some(value),
            Err(mut problem) => {
                problem.message = format!("{}: {}", self.key_path(key), problem.message);
                self.findings.problem(problem);
                None
            }
        }
    }

    /// Reads a key that may be left out.
    pub(super) fn get<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let value: T = self.quiet(key)?;
        let place = self.place(key)?.clone();
        self.findings.show(self.key_path(key), value.shown(), Origin::Config(place));
        Some(value)
    }

    /// Reads a key that has a default.
    pub(super) fn or<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.get(key).unwrap_or_else(|| {
            self.findings.show(self.key_path(key), default.shown(), Origin::Default);
            default
        })
    }

    /// Reads a key that must be there; its absence is a problem at `place`.
    pub(super) fn required<T: Setting>(&mut self, key: &'static str, place: &Place) -> Option<T> {
        if self.table.get(key).is_none() {
            self.known.push(key);
            self.findings.problem(Problem::new(Some(place), format!("{} lacks the key '{key}'", self.title)));
            return None;
        }
        self.get(key)
    }

    /// A table below this one.
    pub(super) fn table(&mut self, key: &'static str) -> Option<TableReader<'a, 'e>> {
        self.known.push(key);
        let entry = self.table.get(key)?;
        let path = self.key_path(key);
        match &entry.node.value {
            Value::Table(table) => Some(Self::new(table, &path, &format!("[{path}]"), self.findings)),
            _ => {
                let mut problem = expected(&entry.node, "a table");
                problem.message = format!("{path}: {}", problem.message);
                self.findings.problem(problem);
                None
            }
        }
    }

    /// Tables below this one whose keys are names that the user chose.
    pub(super) fn named_tables(&mut self, key: &'static str) -> Vec<(String, TableReader<'a, 'e>)> {
        let Some(parent) = self.table(key) else { return Vec::new() };
        let mut tables = Vec::new();
        for entry in &parent.table.entries {
            let path = parent.key_path(&entry.key);
            match &entry.node.value {
                Value::Table(table) => {
                    let reader = Self::new(table, &path, &format!("[{path}]"), self.findings);
                    tables.push((entry.key.clone(), reader));
                }
                _ => {
                    let example = format!("[{path}] begins a table");
                    self.findings.problem(expected(&entry.node, &format!("a table under '{path}'")).hint(example));
                }
            }
        }
        tables
    }

    /// A table of strings whose keys are names that the user chose.
    pub(super) fn named_urls(&mut self, key: &'static str) -> Vec<(String, String)> {
        let Some(parent) = self.table(key) else { return Vec::new() };
        let mut values = Vec::new();
        for entry in &parent.table.entries {
            match Url::read(&entry.node, self.findings.environment) {
                Ok(url) => {
                    let origin = Origin::Config(entry.place.clone());
                    self.findings.show(parent.key_path(&entry.key), url.shown(), origin);
                    values.push((entry.key.clone(), url.0));
                }
                Err(problem) => self.findings.problem(problem),
            }
        }
        values
    }

    /// An array of tables.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<(&'a Place, &'a Table)> {
        self.known.push(key);
        let Some(entry) = self.table.get(key) else { return Vec::new() };
        let wrong = |node: &Node| {
            self.findings
                .problem(expected(node, &format!("[[{key}]] tables")).hint(format!("begin each with [[{key}]]")));
        };
        let Value::List(items) = &entry.node.value else {
            wrong(&entry.node);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            match &item.value {
                Value::Table(table) => tables.push((&item.place, table)),
                _ => wrong(item),
            }
        }
        tables
    }

    /// Reports the keys that nobody read. `elsewhere` explains keys that are right in another place.
    pub(super) fn finish(self, elsewhere: impl Fn(&str) -> Option<String>) {
        for entry in &self.table.entries {
            if self.known.contains(&entry.key.as_str()) {
                continue;
            }
            let problem = Problem::new(Some(&entry.place), format!("Unknown key '{}' in {}", entry.key, self.title));
            let hint = elsewhere(&entry.key)
                .or_else(|| nearest(&entry.key, self.known.iter().copied()).map(|key| format!("did you mean '{key}'?")))
                .unwrap_or_else(|| format!("known keys are {}", self.known.join(", ")));
            self.findings.problem(problem.hint(hint));
        }
    }
}
