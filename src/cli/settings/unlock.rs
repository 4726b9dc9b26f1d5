//! What opens the repository: a password or a key file, from flags, variables, the configuration or a question.

use super::origin::{Origin, Valued};
use super::secret::{Secret, SecretError, SecretRef, split_words};
use super::variables::{both_set, origin};
use super::{Overrides, quoted_path};
use crate::cli::environment::Environment;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use std::path::PathBuf;

/// How often a new password may be typed wrongly.
const ATTEMPTS: usize = 3;

/// Where the secret of the repository comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnlockFrom {
    /// A password.
    Password(SecretRef),
    /// A key file.
    KeyFile(PathBuf),
}

impl UnlockFrom {
    /// As `config show` prints it.
    pub(super) fn shown(&self) -> (&'static str, String) {
        match self {
            Self::Password(secret) => ("repository.password", secret.to_string()),
            Self::KeyFile(path) => ("repository.key_file", quoted_path(path)),
        }
    }
}

/// The secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unlock {
    /// A password.
    Password(Secret),
    /// The contents of a key file.
    KeyFile {
        /// The file, for messages.
        path: PathBuf,
        /// What it holds.
        contents: Secret,
    },
}

/// Asks for secrets on the terminal.
pub trait Prompt {
    /// Asks one question and reads a line without showing it.
    ///
    /// # Errors
    /// When the terminal cannot be used.
    fn secret(&mut self, question: &str) -> std::io::Result<Secret>;
}

/// The real terminal.
#[derive(Debug, Default)]
pub struct TerminalPrompt;

impl Prompt for TerminalPrompt {
    fn secret(&mut self, question: &str) -> std::io::Result<Secret> {
        // The string's own buffer becomes the secret, so that no copy is left behind.
        rpassword::prompt_password(question).map(|text| Secret::new(text.into_bytes()))
    }
}

/// Takes the one origin that a level gives; two at once would leave one unused in silence.
fn only_one<const N: usize>(
    given: [(Option<UnlockFrom>, &'static str); N],
) -> Result<Option<(UnlockFrom, &'static str)>, Failure> {
    let mut found: Option<(UnlockFrom, &'static str)> = None;
    for (unlock, name) in given {
        let Some(unlock) = unlock else { continue };
        if let Some((_, other)) = &found {
            return Err(both_set(other, name));
        }
        found = Some((unlock, name));
    }
    Ok(found)
}

fn command(text: &str, name: &str) -> Result<UnlockFrom, Failure> {
    let words = split_words(text).filter(|words| !words.is_empty());
    let words = words.ok_or_else(|| Failure::usage("password.command", format!("{name} is not a command line")))?;
    Ok(UnlockFrom::Password(SecretRef::Command(words)))
}

/// From flags.
pub(super) fn from_flags(
    overrides: &Overrides,
    environment: &Environment,
) -> Result<Option<Valued<UnlockFrom>>, Failure> {
    let file = overrides
        .password_file
        .as_ref()
        .map(|path| UnlockFrom::Password(SecretRef::File(environment.directory.join(path))));
    let program = overrides.password_command.as_deref().map(|text| command(text, "--password-command")).transpose()?;
    let key = overrides.key_file.as_ref().map(|path| UnlockFrom::KeyFile(environment.directory.join(path)));
    let found = only_one([(file, "--password-file"), (program, "--password-command"), (key, "--key-file")])?;
    Ok(found.map(|(value, flag)| Valued { value, origin: Origin::Flag(flag) }))
}

/// From variables.
pub(super) fn from_variables(environment: &Environment) -> Result<Option<Valued<UnlockFrom>>, Failure> {
    let literal = environment
        .raw("HOLDFAST_PASSWORD")
        .map(|_| UnlockFrom::Password(SecretRef::Variable("HOLDFAST_PASSWORD".to_owned())));
    let path = |name: &str| environment.path(name).map(|path| environment.directory.join(path));
    let file = path("HOLDFAST_PASSWORD_FILE").map(|path| UnlockFrom::Password(SecretRef::File(path)));
    let text = environment.text("HOLDFAST_PASSWORD_COMMAND");
    let program = text.map(|text| command(text, "HOLDFAST_PASSWORD_COMMAND")).transpose()?;
    let key = path("HOLDFAST_KEY_FILE").map(UnlockFrom::KeyFile);
    let found = only_one([
        (literal, "HOLDFAST_PASSWORD"),
        (file, "HOLDFAST_PASSWORD_FILE"),
        (program, "HOLDFAST_PASSWORD_COMMAND"),
        (key, "HOLDFAST_KEY_FILE"),
    ])?;
    Ok(found.map(|(value, name)| Valued { value, origin: origin(environment, name) }))
}

fn unavailable(error: &SecretError) -> Failure {
    Failure::from_error(ExitCode::WrongSecret, "password.unavailable", error)
}

/// Fetches the secret that opens an existing repository, asking for it if nothing names one. `no_input` forbids asking.
///
/// # Errors
/// Exit code 12 when it cannot be had, or when there is nobody to ask.
pub fn fetch(
    from: Option<&Valued<UnlockFrom>>,
    environment: &Environment,
    no_input: bool,
    prompt: &mut dyn Prompt,
) -> Result<Unlock, Failure> {
    match from.map(|valued| &valued.value) {
        Some(UnlockFrom::Password(secret)) => {
            secret.resolve(environment).map(Unlock::Password).map_err(|error| unavailable(&error))
        }
        Some(UnlockFrom::KeyFile(path)) => {
            // A key file is taken as it is, except for the line feed that an editor adds.
            let contents = SecretRef::File(path.clone()).resolve(environment).map_err(|error| unavailable(&error))?;
            Ok(Unlock::KeyFile { path: path.clone(), contents })
        }
        None => {
            require_terminal(environment, no_input)?;
            let password = ask(prompt, "Password of the repository: ")?;
            if password.is_empty() { Err(missing()) } else { Ok(Unlock::Password(password)) }
        }
    }
}

/// Fetches the secret for a new repository or a new key slot; a typed one is asked for twice.
///
/// # Errors
/// As [`fetch`], and when the two do not agree.
pub fn fetch_new(
    from: Option<&Valued<UnlockFrom>>,
    environment: &Environment,
    no_input: bool,
    prompt: &mut dyn Prompt,
) -> Result<Unlock, Failure> {
    if from.is_some() {
        return fetch(from, environment, no_input, prompt);
    }
    require_terminal(environment, no_input)?;
    for _ in 0..ATTEMPTS {
        let first = ask(prompt, "New password: ")?;
        if first.is_empty() {
            continue;
        }
        if ask(prompt, "The same again: ")? == first {
            return Ok(Unlock::Password(first));
        }
    }
    Err(Failure::new(ExitCode::WrongSecret, "password.mismatch", "The two passwords are empty or not the same"))
}

fn ask(prompt: &mut dyn Prompt, question: &str) -> Result<Secret, Failure> {
    prompt.secret(question).map_err(|error| {
        Failure::new(ExitCode::WrongSecret, "password.prompt", "Cannot read a password from the terminal")
            .caused_by(&error)
    })
}

/// The terminal of the process is used even when one of the two is redirected, as `ssh` and `sudo` do.
fn require_terminal(environment: &Environment, no_input: bool) -> Result<(), Failure> {
    let terminal = environment.stdin_terminal || environment.stderr_terminal;
    if terminal && !no_input { Ok(()) } else { Err(missing()) }
}

fn missing() -> Failure {
    Failure::new(ExitCode::WrongSecret, "password.missing", "No password for the repository, and no terminal to ask on").hint(
        "set 'password' or 'key_file' under [repository], HOLDFAST_PASSWORD_FILE, HOLDFAST_PASSWORD or HOLDFAST_KEY_FILE, \
         or give --password-file",
    )
}
