//! Secrets and where they come from. A secret is wiped from memory when it is dropped, and no formatting shows it.

use crate::cli::environment::Environment;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// More than any password or key file holds; a wrong path must not fill memory.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Bytes that nobody may see.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over the bytes as they are.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Takes over bytes from a file or a program: one line feed at the end, with or without a carriage return, is not
    /// part of the secret.
    pub fn trimmed(mut bytes: Vec<u8>) -> Self {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Self::new(bytes)
    }

    /// The bytes. Named so that a reader notices every place that looks.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, where a tool wants text.
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// True when there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Where a secret comes from. Shown without the arguments of a command, which may be secret themselves.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// Written down in place.
    Literal(Secret),
    /// The contents of a file.
    File(PathBuf),
    /// What a program prints; run without a shell.
    Command(Vec<String>),
    /// A variable.
    Variable(String),
    /// A credential that systemd hands over in `CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// Why a secret cannot be had. None of these show what was read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A file cannot be read.
    #[error("Cannot read the secret in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program cannot be started.
    #[error("Cannot run '{program}' for a secret")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program ended badly.
    #[error("'{program}' was run for a secret and ended with {status}")]
    Failed {
        /// The program.
        program: String,
        /// Its status.
        status: std::process::ExitStatus,
    },
    /// A variable is not set.
    #[error("The variable {0} should hold a secret and is not set")]
    Unset(String),
    /// No systemd credentials.
    #[error("The credential '{0}' is not there: CREDENTIALS_DIRECTORY is not set")]
    NoCredentials(String),
    /// Nothing in it.
    #[error("The secret from {0} is empty")]
    Empty(String),
    /// Too much in it.
    #[error("The secret from {0} is longer than 64 KiB")]
    TooLong(String),
}

impl SecretRef {
    /// Fetches the secret.
    ///
    /// # Errors
    /// [`SecretError`] when it cannot be had or is empty.
    pub fn resolve(&self, environment: &Environment) -> Result<Secret, SecretError> {
        let secret = match self {
            Self::Literal(secret) => secret.clone(),
            Self::File(path) => Secret::trimmed(read_bounded(path)?),
            Self::Command(words) => run_for_secret(words, environment)?,
            Self::Variable(name) => {
                let value = environment.raw(name).ok_or_else(|| SecretError::Unset(name.clone()))?;
                Secret::trimmed(std::os::unix::ffi::OsStrExt::as_bytes(value).to_vec())
            }
            Self::Credential(name) => {
                let folder = environment.path("CREDENTIALS_DIRECTORY");
                let folder = folder.ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                Secret::trimmed(read_bounded(&folder.join(name))?)
            }
        };
        if secret.is_empty() { Err(SecretError::Empty(self.to_string())) } else { Ok(secret) }
    }
}

/// Where it comes from, as the configuration writes it; never the secret. Of a command only the program is shown.
impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("(hidden)"),
            Self::File(path) => write!(f, "{{ file = {:?} }}", path.display().to_string()),
            Self::Command(words) => {
                let more = if words.len() > 1 { ", ..." } else { "" };
                write!(f, "{{ command = [{:?}{more}] }}", words.first().map_or("", String::as_str))
            }
            Self::Variable(name) => write!(f, "{{ env = {name:?} }}"),
            Self::Credential(name) => write!(f, "{{ credential = {name:?} }}"),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a whole small file.
fn read_bounded(path: &Path) -> Result<Vec<u8>, SecretError> {
    let wrong = |source| SecretError::File { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(wrong)?;
    // Reserved at once, so that growing leaves no copies of the secret behind in freed memory.
    let mut bytes = Vec::with_capacity(usize::try_from(SECRET_BYTES_MAX).unwrap_or_default() + 1);
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(SecretError::TooLong(path.display().to_string()));
    }
    Ok(bytes)
}

fn run_for_secret(words: &[String], environment: &Environment) -> Result<Secret, SecretError> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(SecretError::Empty("an empty command".to_owned()));
    };
    let wrong = |source| SecretError::Start { program: program.clone(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&environment.variables)
        .current_dir(&environment.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A password manager may want to say or ask something.
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(wrong)?;
    let mut bytes = Vec::with_capacity(usize::try_from(SECRET_BYTES_MAX).unwrap_or_default() + 1);
    let read = match child.stdout.take() {
        Some(stdout) => stdout.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map(|_| ()),
        None => Ok(()),
    };
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        let _ = child.kill();
        let _ = child.wait();
        return Err(SecretError::TooLong(format!("'{program}'")));
    }
    let status = child.wait().map_err(wrong)?;
    read.map_err(wrong)?;
    if !status.success() {
        return Err(SecretError::Failed { program: program.clone(), status });
    }
    Ok(Secret::trimmed(bytes))
}

/// Splits a command line as a shell would for plain words and quotes, without expanding anything. None when a quote is
/// left open.
pub fn split_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let current = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        end if end == c => break,
                        '\\' if c == '"' => current.push(chars.next()?),
                        other => current.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::trimmed(b"hunter2\r\n".to_vec());
        assert_eq!(secret.expose(), b"hunter2");
        let literal = SecretRef::Literal(secret.clone());
        let command = SecretRef::Command(vec!["pass".to_owned(), "hunter2".to_owned()]);
        for text in [
            format!("{secret}"),
            format!("{secret:?}"),
            format!("{literal}"),
            format!("{literal:?}"),
            format!("{command}"),
        ] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn only_one_line_feed_is_trimmed() {
        for (raw, kept) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a "), ("a\r", "a\r")]
        {
            assert_eq!(Secret::trimmed(raw.as_bytes().to_vec()).expose(), kept.as_bytes(), "{raw:?}");
        }
    }

    #[test]
    fn every_origin_gives_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p"), "geheim\n").unwrap();
        let environment = Environment::empty(folder.path())
            .with("PW", "geheim\n")
            .with("PATH", std::env::var_os("PATH").unwrap())
            .with("CREDENTIALS_DIRECTORY", folder.path());
        let command = ["printf", "%s\\n", "geheim"].map(str::to_owned).to_vec();
        for origin in [
            SecretRef::Literal(Secret::new(b"geheim".to_vec())),
            SecretRef::File(folder.path().join("p")),
            SecretRef::Command(command),
            SecretRef::Variable("PW".to_owned()),
            SecretRef::Credential("p".to_owned()),
        ] {
            assert_eq!(origin.resolve(&environment).unwrap().expose(), b"geheim", "{origin}");
        }
    }

    #[test]
    fn what_cannot_be_had_says_which() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment::empty(folder.path()).with("PATH", std::env::var_os("PATH").unwrap());
        std::fs::write(folder.path().join("empty"), "\n").unwrap();
        std::fs::write(folder.path().join("big"), vec![b'x'; 70_000]).unwrap();
        let words = |words: &[&str]| SecretRef::Command(words.iter().map(|w| (*w).to_owned()).collect());
        for (origin, expected) in [
            (SecretRef::File(folder.path().join("none")), "Cannot read the secret in "),
            (SecretRef::File(folder.path().join("empty")), "The secret from { file ="),
            (SecretRef::File(folder.path().join("big")), "The secret from "),
            (words(&["/no/such/program"]), "Cannot run '/no/such/program'"),
            (words(&["false"]), "'false' was run for a secret and ended with exit status: 1"),
            (words(&["true"]), "The secret from { command = [\"true\"] } is empty"),
            (SecretRef::Variable("NOPE".to_owned()), "The variable NOPE should hold a secret and is not set"),
            (SecretRef::Credential("c".to_owned()), "The credential 'c' is not there"),
        ] {
            let error = origin.resolve(&environment).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn words_are_split_like_a_shell_does() {
        let split = |text: &str| split_words(text).map(|w| w.join("|"));
        assert_eq!(split("pass show  backup").as_deref(), Some("pass|show|backup"));
        assert_eq!(split(r#"a 'b c' "d \" e" f\ g ''"#).as_deref(), Some("a|b c|d \" e|f g|"));
        assert_eq!(split("a 'b"), None);
        assert_eq!(split("").as_deref(), Some(""));
    }
}
