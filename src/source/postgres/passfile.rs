//! libpq's files: `.pgpass` and the connection service file.
//!
//! A password file that others may read is not used, and that is said.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::connect::ConnectError;
use super::conninfo::{self, Pairs};

/// Larger files are no password or service files.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What a lookup in a password file gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassfileAnswer {
    /// The password of the first line that matches.
    Found(String),
    /// No file, or no line that matches.
    None,
    /// The file was not used, and why.
    Refused(String),
}

/// Looks up a password by libpq's rules: the first line whose fields equal the values or are `*`.
pub fn lookup(path: &Path, host: &str, port: &str, database: &str, user: &str) -> PassfileAnswer {
    let Ok(metadata) = std::fs::metadata(path) else { return PassfileAnswer::None };
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return PassfileAnswer::Refused(format!("Password file {} is not a plain file", path.display()));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return PassfileAnswer::Refused(format!(
            "Password file {} was not used because others may read it (chmod 0600 it)",
            path.display()
        ));
    }
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return PassfileAnswer::Refused(format!("Cannot read password file {}: {error}", path.display())),
    };
    let text = String::from_utf8_lossy(&bytes);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut rest = Some(line);
        let matches = [host, port, database, user].into_iter().all(|wanted| {
            let Some((field, tail)) = rest.and_then(next_field) else { return false };
            rest = tail;
            field == wanted || field == "*"
        });
        if let Some(password) = rest.filter(|_| matches) {
            return PassfileAnswer::Found(unescape(password));
        }
    }
    PassfileAnswer::None
}

/// A field up to an unescaped colon, and what follows the colon. A bare `*` stays one; an escaped one does not match.
fn next_field(text: &str) -> Option<(String, Option<&str>)> {
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => {
                let (field, tail) = text.split_at_checked(index)?;
                return Some((unescape(field), tail.get(1..)));
            }
            _ => {}
        }
    }
    Some((unescape(text), None))
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

/// Reads one section of the first of these service files that has it.
/// # Errors
/// [`ConnectError::Service`] when no file has the section or a line of it is wrong.
pub fn service(name: &str, files: &[PathBuf]) -> Result<Pairs, ConnectError> {
    let fail = |reason: String| ConnectError::Service { service: name.to_owned(), reason };
    for path in files {
        let text = match std::fs::metadata(path) {
            Ok(metadata) if metadata.len() <= FILE_BYTES_MAX => std::fs::read_to_string(path),
            Ok(_) => return Err(fail(format!("{} is too large for a service file", path.display()))),
            Err(_) => continue,
        };
        let text = text.map_err(|error| fail(format!("{} cannot be read: {error}", path.display())))?;
        let mut found = None;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(section) = line.strip_prefix('[') {
                if found.is_some() {
                    break;
                }
                found = (section.strip_suffix(']') == Some(name)).then(Pairs::new);
            } else if let Some(pairs) = found.as_mut() {
                let (key, value) = line
                    .split_once('=')
                    .ok_or_else(|| fail(format!("{} has a line without an equals sign", path.display())))?;
                // The first setting of a keyword wins, as in libpq.
                if !pairs.contains_key(key.trim()) {
                    conninfo::insert(pairs, key.trim(), value.trim().to_owned())?;
                }
            }
        }
        if let Some(pairs) = found {
            return Ok(pairs);
        }
    }
    let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    Err(fail(format!("it is defined in none of {}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passfile(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn the_first_matching_line_wins() {
        let (_dir, path) = passfile("# c\nh:5432:app:u:wrong-user\nh:*:app:me:se\\:c\\\\ret\n*:*:*:*:any\n", 0o600);
        let found = |text: &str| PassfileAnswer::Found(text.to_owned());
        assert_eq!(lookup(&path, "h", "5432", "app", "me"), found("se:c\\ret"));
        assert_eq!(lookup(&path, "h", "5432", "app", "u"), found("wrong-user"));
        assert_eq!(lookup(&path, "x", "1", "y", "z"), found("any"));
        let (_dir, path) = passfile("h:5432:app:u:p\nshort:line\n", 0o600);
        assert_eq!(lookup(&path, "other", "5432", "app", "u"), PassfileAnswer::None);
        assert_eq!(lookup(Path::new("/nonexistent/x"), "h", "1", "d", "u"), PassfileAnswer::None);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        for mode in [0o640, 0o604, 0o666] {
            let (_dir, path) = passfile("*:*:*:*:p\n", mode);
            assert!(matches!(lookup(&path, "h", "1", "d", "u"), PassfileAnswer::Refused(_)), "{mode:o}");
        }
    }

    #[test]
    fn services_are_read_by_name() {
        let (_dir, path) = passfile("[a]\nhost=ha\n\n[b]\n# c\nhost=hb\nport = 6\n[c]\nnonsense\n", 0o644);
        let files = [PathBuf::from("/nonexistent"), path];
        let b = service("b", &files).unwrap();
        assert_eq!((b["host"].as_str(), b["port"].as_str(), b.len()), ("hb", "6", 2));
        assert!(service("c", &files).is_err());
        let error = service("zz", &files).unwrap_err();
        assert!(error.to_string().contains("zz"), "{error}");
    }
}
