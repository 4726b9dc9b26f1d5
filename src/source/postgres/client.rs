//! Finds PostgreSQL's client programs: `pg_dump`, `pg_dumpall`, `pg_restore`, `psql` of one version from one place.
//!
//! A client older than the server refuses to dump, so the closest version that is not older is taken. With a command
//! prefix (`docker exec -i db`) the program runs in another place: our environment does not reach it, a password would
//! have to stand in its arguments where everybody can read it, and so authentication must work there by itself (a
//! `.pgpass` or `trust` for local connections inside the container).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::source::SourceError;
use crate::source::command::cannot_start;
use crate::source::process::{Child, ChildRead, ProcessSpec, Processes};

/// A program that does not tell its version in this time is not what we look for.
const VERSION_TIMEOUT: Duration = Duration::from_secs(60);
const VERSION_BYTES_MAX: usize = 4096;

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct ClientSearch {
    /// The directory from the configuration; nothing else is looked at.
    pub bin_dir: Option<PathBuf>,
    /// Words put before the program.
    pub command_prefix: Vec<String>,
    /// Directories that may hold clients, in order of preference among equal versions.
    pub directories: Vec<PathBuf>,
}

impl ClientSearch {
    /// Looks in the usual directories of this machine, then along `path` (the value of PATH).
    pub fn standard(path: Option<&OsStr>) -> Self {
        const PARENTS: [(&str, &str); 5] = [
            ("/usr/lib/postgresql", ""),
            ("/usr", "pgsql-"),
            ("/usr/local", "pgsql"),
            ("/usr/local/opt", "postgresql"),
            ("/opt/homebrew/opt", "postgresql"),
        ];
        let mut directories = Vec::new();
        for (parent, prefix) in PARENTS {
            let Ok(entries) = std::fs::read_dir(parent) else { continue };
            let wanted = entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
            let mut found: Vec<PathBuf> = wanted.map(|entry| entry.path().join("bin")).collect();
            found.sort();
            directories.append(&mut found);
        }
        directories.extend(["/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from));
        directories.extend(path.map(std::env::split_paths).into_iter().flatten());
        Self { directories, ..Self::default() }
    }
}

/// The clients of one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTools {
    prefix: Vec<String>,
    directory: Option<PathBuf>,
    /// What `pg_dump --version` says, for example `pg_dump (PostgreSQL) 15.18`.
    pub version: String,
    /// The major version.
    pub major: u32,
}

impl ClientTools {
    /// A program of this place with its arguments.
    pub fn program(&self, name: &str, args: impl IntoIterator<Item = impl Into<OsString>>) -> ProcessSpec {
        let program = match &self.directory {
            Some(directory) => directory.join(name).into_os_string(),
            None => name.into(),
        };
        let mut words = self.prefix.iter().map(OsString::from).chain([program]);
        let first = words.next().unwrap_or_default();
        ProcessSpec::new(first, words.chain(args.into_iter().map(Into::into)))
    }

    /// True when a command prefix is used, which our environment does not pass.
    pub fn is_elsewhere(&self) -> bool {
        !self.prefix.is_empty()
    }
}

/// Finds the clients for a server. Without a known server version the newest client is taken.
/// # Errors
/// [`SourceError::Client`]: none found, or all are older than the server.
pub fn find(
    processes: &dyn Processes,
    search: &ClientSearch,
    server_major: Option<u32>,
) -> Result<ClientTools, SourceError> {
    let tools = if search.bin_dir.is_some() || !search.command_prefix.is_empty() {
        ask(processes, &search.command_prefix, search.bin_dir.as_deref())?
    } else {
        best(processes, search, server_major)?
    };
    match server_major {
        Some(server) if tools.major < server => Err(SourceError::Client {
            reason: format!("{} is older than the server, version {server}, and refuses to dump it", tools.version),
            hint: format!(
                "install the client programs of PostgreSQL {server} (Debian: postgresql-client-{server}) or name their \
                 directory as pg_bin_dir"
            ),
        }),
        _ => Ok(tools),
    }
}

fn best(
    processes: &dyn Processes,
    search: &ClientSearch,
    server_major: Option<u32>,
) -> Result<ClientTools, SourceError> {
    let mut chosen: Option<ClientTools> = None;
    for directory in search.directories.iter().filter(|directory| directory.join("pg_dump").is_file()) {
        let Ok(tools) = ask(processes, &[], Some(directory)) else { continue };
        let better = match (&chosen, server_major) {
            (None, _) => true,
            (Some(held), None) => tools.major > held.major,
            // Below the server's version the newest is named in the message; above it the closest is best.
            (Some(held), Some(server)) => match (tools.major >= server, held.major >= server) {
                (true, held_fits) => !held_fits || tools.major < held.major,
                (false, held_fits) => !held_fits && tools.major > held.major,
            },
        };
        if better {
            chosen = Some(tools);
        }
    }
    let version = server_major.map_or_else(String::new, |major| format!("-{major}"));
    chosen.ok_or_else(|| SourceError::Client {
        reason: "Cannot find pg_dump".into(),
        hint: format!(
            "install PostgreSQL's client programs (Debian: postgresql-client{version}) or name their directory as pg_bin_dir"
        ),
    })
}

fn ask(processes: &dyn Processes, prefix: &[String], directory: Option<&Path>) -> Result<ClientTools, SourceError> {
    let mut tools = ClientTools {
        prefix: prefix.to_vec(),
        directory: directory.map(Path::to_path_buf),
        version: String::new(),
        major: 0,
    };
    let spec = tools.program("pg_dump", ["--version"]);
    let mut child = processes.spawn(&spec).map_err(|error| cannot_start(&spec, &error))?;
    let output = read_version(child.as_mut());
    let exit = child.wait(Some(VERSION_TIMEOUT)).ok().flatten();
    let version = output.lines().next().unwrap_or_default().trim().to_owned();
    let major = version.split_once("(PostgreSQL) ").map(|(_, number)| {
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>()
    });
    match (exit, major) {
        (Some(exit), Some(Ok(major))) if exit.success() => {
            (tools.version, tools.major) = (version, major);
            Ok(tools)
        }
        _ => {
            let said = [version, child.stderr_tail()].into_iter().find(|text| !text.is_empty());
            Err(SourceError::Client {
                reason: format!(
                    "'{}' does not tell its version: {}",
                    [&spec.program]
                        .into_iter()
                        .chain(&spec.args)
                        .map(|w| w.to_string_lossy())
                        .collect::<Vec<_>>()
                        .join(" "),
                    said.unwrap_or_else(|| "it says nothing".into())
                ),
                hint: "check pg_bin_dir and command_prefix".into(),
            })
        }
    }
}

fn read_version(child: &mut dyn Child) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 512];
    while bytes.len() < VERSION_BYTES_MAX {
        match child.read(&mut buffer, Some(VERSION_TIMEOUT)) {
            Ok(ChildRead::Bytes(n)) if n > 0 => bytes.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            _ => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::process::SystemProcesses;
    use std::os::unix::fs::PermissionsExt;

    fn plant(root: &Path, name: &str, script: &str) -> PathBuf {
        let directory = root.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("pg_dump");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        directory
    }

    fn versions(root: &Path, majors: &[u32]) -> Vec<PathBuf> {
        let script = |m| format!("echo 'pg_dump (PostgreSQL) {m}.3 (Debian {m}.3-1)'");
        majors.iter().map(|major| plant(root, &major.to_string(), &script(major))).collect()
    }

    #[test]
    fn the_closest_version_that_is_not_older_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut directories = versions(dir.path(), &[13, 17, 15, 16]);
        directories.push(plant(dir.path(), "broken", "exit 1"));
        directories.push(dir.path().join("nothing"));
        let search = ClientSearch { directories, ..ClientSearch::default() };
        let processes = SystemProcesses::default();
        for (server, wanted) in [(Some(12), 13), (Some(14), 15), (Some(16), 16), (Some(17), 17), (None, 17)] {
            assert_eq!(find(&processes, &search, server).unwrap().major, wanted, "{server:?}");
        }
        let error = find(&processes, &search, Some(18)).unwrap_err();
        let SourceError::Client { reason, hint } = error else { panic!("{error}") };
        assert!(reason.contains("17.3") && reason.contains("older") && hint.contains("postgresql-client-18"));
    }

    #[test]
    fn a_named_directory_is_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let directories = versions(dir.path(), &[14, 16]);
        let search = ClientSearch { bin_dir: Some(directories[0].clone()), directories, ..ClientSearch::default() };
        let processes = SystemProcesses::default();
        assert_eq!(find(&processes, &search, Some(14)).unwrap().major, 14);
        assert!(matches!(find(&processes, &search, Some(16)), Err(SourceError::Client { .. })));
        let nowhere = ClientSearch { bin_dir: Some("/nonexistent".into()), ..ClientSearch::default() };
        assert!(matches!(find(&processes, &nowhere, None), Err(SourceError::Client { .. })));
        assert!(matches!(find(&processes, &ClientSearch::default(), None), Err(SourceError::Client { .. })));
    }

    #[test]
    fn a_prefix_stands_before_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let directory = versions(dir.path(), &[16]).remove(0);
        let prefix = vec!["/usr/bin/env".to_owned(), format!("PATH={}:/bin", directory.display())];
        let search = ClientSearch { command_prefix: prefix.clone(), ..ClientSearch::default() };
        let tools = find(&SystemProcesses::default(), &search, None).unwrap();
        let spec = tools.program("pg_restore", ["-l"]);
        assert_eq!((tools.major, tools.is_elsewhere()), (16, true));
        assert_eq!(spec.program, "/usr/bin/env");
        assert_eq!(spec.args, [prefix[1].as_str(), "pg_restore", "-l"]);
    }
}
