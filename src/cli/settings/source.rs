//! `[[source]]` tables: what is saved, by kind.

use super::document::{Place, Problem, Table};
use super::reader::{Findings, Size, TableReader, Url, Words};
use super::secret::SecretRef;
use super::suggest::nearest;
use crate::domain::snapshot::SourceKind;
use std::path::PathBuf;

/// A source of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSettings {
    /// The stable name.
    pub name: String,
    /// Fewer plain bytes than this make the snapshot suspect.
    pub min_size_bytes: Option<u64>,
    /// What it is.
    pub kind: SourceKindSettings,
    /// Where it is configured.
    pub place: Place,
}

/// What a source needs to know, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKindSettings {
    /// Files and directories.
    Files(FilesSettings),
    /// A PostgreSQL database.
    Postgres(PostgresSettings),
    /// A SQLite database: its file.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// The output of a program.
    Command {
        /// Program and arguments.
        command: Vec<String>,
        /// The name of the stored stream.
        filename: String,
    },
}

/// Files and directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesSettings {
    /// What is walked.
    pub paths: Vec<PathBuf>,
    /// Rules in gitignore syntax.
    pub exclude: Vec<String>,
    /// `.git` and directories with a CACHEDIR.TAG are left out.
    pub default_excludes: bool,
    /// Other file systems are not entered.
    pub one_file_system: bool,
}

/// A PostgreSQL database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// URI or connection string without password.
    pub url: String,
    /// The password, if libpq's own ways are not used.
    pub password: Option<SecretRef>,
    /// libpq's `sslmode`.
    pub sslmode: String,
    /// Roles and settings are saved beside the dump.
    pub globals: bool,
    /// Where the client programs are.
    pub pg_bin_dir: Option<PathBuf>,
    /// Words before the client program, for example `docker exec -i db`.
    pub command_prefix: Vec<String>,
}

impl SourceSettings {
    /// The kind alone.
    pub fn source_kind(&self) -> SourceKind {
        match self.kind {
            SourceKindSettings::Files(_) => SourceKind::Files,
            SourceKindSettings::Postgres(_) => SourceKind::Postgres,
            SourceKindSettings::Sqlite { .. } => SourceKind::Sqlite,
            SourceKindSettings::Command { .. } => SourceKind::Command,
        }
    }
}

/// The values of libpq's `sslmode`.
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
const KINDS: [&str; 4] = ["files", "postgres", "sqlite", "command"];

/// The keys that only one kind has, to explain a key that stands under the wrong kind.
const KEYS_OF_KIND: [(&str, &[&str]); 4] = [
    ("files", &["paths", "exclude", "default_excludes", "one_file_system"]),
    ("postgres", &["url", "password", "sslmode", "globals", "pg_bin_dir", "command_prefix"]),
    ("sqlite", &["path"]),
    ("command", &["command", "filename"]),
];

/// True for a name that history can hang on: it becomes part of file names.
pub(super) fn is_source_name(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    plain && !name.is_empty() && name.len() <= 128 && name != "." && name != ".."
}

/// Reads all sources; names must be unique.
pub(super) fn read_sources(root: &mut TableReader<'_, '_>) -> Vec<SourceSettings> {
    let findings = root.findings;
    let mut sources: Vec<SourceSettings> = Vec::new();
    for (index, (place, table)) in root.list("source").into_iter().enumerate() {
        let Some(source) = read_source(index, place, table, findings) else { continue };
        if let Some(known) = sources.iter().find(|known| known.name == source.name) {
            let message = format!("Two sources are called '{}': {} and {}", source.name, known.place, source.place);
            findings.problem(Problem::new(None, message).hint("history hangs on the name: give each its own"));
            continue;
        }
        sources.push(source);
    }
    sources
}

fn read_source(index: usize, place: &Place, table: &Table, findings: &Findings<'_>) -> Option<SourceSettings> {
    let number = index + 1;
    let mut reader = TableReader::new(table, &format!("source.{number}"), &format!("[[source]] {number}"), findings);
    let name: Option<String> = reader.quiet("name");
    match &name {
        None if table.get("name").is_none() => {
            findings.problem(Problem::new(Some(place), format!("{} lacks the key 'name'", reader.title())));
        }
        Some(name) if !is_source_name(name) => {
            let problem = Problem::new(reader.place("name"), format!("'{name}' cannot be the name of a source"));
            findings.problem(problem.hint("letters, digits, '.', '_' and '-' are allowed"));
        }
        Some(name) => {
            reader.rename(format!("source.{name}"), format!("[[source]] '{name}'"));
            reader.get::<String>("name");
        }
        None => {}
    }
    let kind_text: Option<String> = reader.required("kind", place);
    let min_size_bytes = reader.get::<Size>("min_size").map(|size| size.0);
    let kind = match kind_text.as_deref() {
        Some("files") => read_files(&mut reader, place),
        Some("postgres") => read_postgres(&mut reader, place),
        Some("sqlite") => reader.required("path", place).map(|path| SourceKindSettings::Sqlite { path }),
        Some("command") => read_command(&mut reader, place, name.as_deref().unwrap_or_default()),
        Some(other) => {
            let hint = match nearest(other, KINDS) {
                Some(kind) => format!("did you mean '{kind}'?"),
                None => format!("kinds are {}", KINDS.join(", ")),
            };
            let problem = Problem::new(reader.place("kind"), format!("Unknown kind '{other}' of {}", reader.title()));
            findings.problem(problem.hint(hint));
            // Without a kind nobody can say which of its keys are wrong.
            return None;
        }
        None => return None,
    };
    let kind_name = kind_text.unwrap_or_default();
    reader.finish(|key| {
        let (of, _) = KEYS_OF_KIND.iter().find(|(_, keys)| keys.contains(&key))?;
        Some(format!("'{key}' belongs to sources of kind {of}; this one is of kind {kind_name}"))
    });
    let name = name.filter(|name| is_source_name(name))?;
    Some(SourceSettings { name, min_size_bytes, kind: kind?, place: place.clone() })
}

fn read_files(reader: &mut TableReader<'_, '_>, place: &Place) -> Option<SourceKindSettings> {
    let paths: Option<Vec<PathBuf>> = reader.required("paths", place);
    let exclude = reader.or("exclude", Vec::new());
    let default_excludes = reader.or("default_excludes", true);
    let one_file_system = reader.or("one_file_system", false);
    let paths = paths?;
    if paths.is_empty() {
        reader.findings.problem(Problem::new(reader.place("paths"), format!("{} names no paths", reader.title())));
    }
    Some(SourceKindSettings::Files(FilesSettings { paths, exclude, default_excludes, one_file_system }))
}

fn read_postgres(reader: &mut TableReader<'_, '_>, place: &Place) -> Option<SourceKindSettings> {
    let url: Option<Url> = reader.required("url", place);
    let password = reader.get("password");
    let sslmode: String = reader.or("sslmode", "prefer".to_owned());
    if !SSL_MODES.contains(&sslmode.as_str()) {
        let problem = Problem::new(reader.place("sslmode"), format!("Unknown sslmode '{sslmode}'"));
        reader.findings.problem(problem.hint(format!("libpq knows {}", SSL_MODES.join(", "))));
    }
    let globals = reader.or("globals", true);
    let pg_bin_dir = reader.get("pg_bin_dir");
    let command_prefix = reader.get::<Words>("command_prefix").map(|words| words.0).unwrap_or_default();
    let url = url?.0;
    Some(SourceKindSettings::Postgres(PostgresSettings { url, password, sslmode, globals, pg_bin_dir, command_prefix }))
}

fn read_command(reader: &mut TableReader<'_, '_>, place: &Place, name: &str) -> Option<SourceKindSettings> {
    let command: Option<Words> = reader.required("command", place);
    let filename: String = reader.or("filename", name.to_owned());
    if filename.is_empty() || filename.contains(['/', '\0']) || filename == "." || filename == ".." {
        let problem = Problem::new(reader.place("filename"), format!("'{filename}' cannot be a file name"));
        reader.findings.problem(problem.hint("a name without slashes"));
    }
    Some(SourceKindSettings::Command { command: command?.0, filename })
}
