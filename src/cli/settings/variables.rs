//! Variables of the environment: ours, their `_FILE` twins, those of the old systems, and the file of `--env-file`.

use super::origin::{Origin, Valued};
use super::suggest::nearest;
use crate::cli::environment::Environment;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use std::ffi::OsString;
use std::path::Path;

/// Every variable of ours that is read somewhere.
pub const KNOWN: [&str; 21] = [
    "HOLDFAST_REPOSITORY",
    "HOLDFAST_REPOSITORY_FILE",
    "HOLDFAST_PASSWORD",
    "HOLDFAST_PASSWORD_FILE",
    "HOLDFAST_PASSWORD_COMMAND",
    "HOLDFAST_KEY_FILE",
    "HOLDFAST_CONFIG",
    "HOLDFAST_PROFILE",
    "HOLDFAST_CACHE_DIR",
    "HOLDFAST_LOG",
    "HOLDFAST_PROGRESS_FPS",
    "HOLDFAST_SCOPE",
    "HOLDFAST_ENABLED",
    "HOLDFAST_KEEP_LAST",
    "HOLDFAST_KEEP_HOURLY",
    "HOLDFAST_KEEP_DAILY",
    "HOLDFAST_KEEP_WEEKLY",
    "HOLDFAST_KEEP_MONTHLY",
    "HOLDFAST_KEEP_YEARLY",
    "HOLDFAST_KEEP_WITHIN",
    "HOLDFAST_KEEP_TAGS",
];

/// Warnings about variables that look like ours and are not read: a misspelt `HOLDFAST_PASSWORD` must not pass unseen.
pub(super) fn unknown_variables(environment: &Environment) -> Vec<String> {
    let names = environment.variables.keys().filter_map(|name| name.to_str());
    names
        .filter(|name| name.starts_with("HOLDFAST_") && !KNOWN.contains(name))
        .map(|name| match nearest(name, KNOWN) {
            Some(known) => format!("The variable {name} is not known and is ignored; did you mean {known}?"),
            None => format!("The variable {name} is not known and is ignored"),
        })
        .collect()
}

/// Adds the variables of a file. Those of the process win, as is the custom with `.env` files.
///
/// # Errors
/// A failure with exit code 2 when the file cannot be read or holds something else. It never shows a line.
pub fn add_env_file(environment: &mut Environment, path: &Path) -> Result<(), Failure> {
    let path = environment.directory.join(path);
    let unreadable = |error: std::io::Error| {
        Failure::usage("env_file.unreadable", format!("Cannot read the variables file {}", path.display()))
            .cause(error.to_string())
    };
    let contents = std::fs::read(&path).map_err(unreadable)?;
    for (count, item) in dotenvy::from_read_iter(contents.as_slice()).enumerate() {
        let Ok((name, value)) = item else {
            let message = format!("The variables file {} has a line that is not NAME=VALUE", path.display());
            let cause = format!("it is the first such line after {count} variables");
            return Err(Failure::usage("env_file.syntax", message).cause(cause).hint("quote values that hold blanks"));
        };
        let name = OsString::from(name);
        if environment.variables.get(&name).is_none_or(|known| known.is_empty()) {
            environment.variables.insert(name.clone(), value.into());
            environment.from_file.insert(name, path.clone());
        }
    }
    Ok(())
}

/// The origin of a variable's value.
pub(super) fn origin(environment: &Environment, name: &str) -> Origin {
    match environment.from_file.get(std::ffi::OsStr::new(name)) {
        Some(file) => Origin::EnvFile { variable: name.to_owned(), file: file.clone() },
        None => Origin::Variable(name.to_owned()),
    }
}

/// The first of several variables that is set: the new name, then the names of the old systems.
pub(super) fn first_of(environment: &Environment, names: &[&'static str]) -> Result<Option<Valued<String>>, Failure> {
    for name in names {
        let Some(raw) = environment.raw(name) else { continue };
        let Some(text) = raw.to_str() else {
            return Err(Failure::usage("variable.not_text", format!("The variable {name} is not valid UTF-8")));
        };
        return Ok(Some(Valued { value: text.to_owned(), origin: origin(environment, name) }));
    }
    Ok(None)
}

/// A variable or its `_FILE` twin; both at once is an error, since one of them would be ignored in silence.
pub(super) fn with_twin(
    environment: &Environment,
    name: &'static str,
    twin: &'static str,
) -> Result<Option<Valued<String>>, Failure> {
    match (first_of(environment, &[name])?, environment.path(twin)) {
        (Some(_), Some(_)) => Err(both_set(name, twin)),
        (Some(value), None) => Ok(Some(value)),
        (None, Some(path)) => {
            let path = environment.directory.join(path);
            let unreadable = |error: &dyn std::error::Error| {
                Failure::new(
                    ExitCode::Usage,
                    "variable.file",
                    format!("Cannot read {} named by {twin}", path.display()),
                )
                .cause(error.to_string())
            };
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&error))?;
            let value = text.strip_suffix('\n').unwrap_or(&text);
            let value = value.strip_suffix('\r').unwrap_or(value).to_owned();
            Ok(Some(Valued { value, origin: origin(environment, twin) }))
        }
        (None, None) => Ok(None),
    }
}

/// The error for two variables that say the same thing.
pub(super) fn both_set(one: &str, other: &str) -> Failure {
    Failure::usage("variable.both", format!("Both {one} and {other} are set")).hint("unset one of them")
}

/// Reads a switch: `true`, `1`, `yes`, `on` and their opposites.
pub(super) fn parse_switch(valued: &Valued<String>) -> Result<bool, Failure> {
    match valued.value.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        other => {
            let message = format!("'{other}' is neither true nor false ({})", valued.origin);
            Err(Failure::usage("variable.switch", message).hint("write true or false"))
        }
    }
}

/// Reads a list: names with blanks or commas between them, also as a bash array `("a" "b")`.
pub(super) fn parse_list(text: &str) -> Vec<String> {
    let inner = text.trim();
    let inner = inner.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(inner);
    let words = inner.split(|c: char| c == ',' || c.is_whitespace());
    words.map(|word| word.trim_matches(['"', '\''])).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variables_file_fills_gaps_and_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let text = "# comment\nHOLDFAST_SCOPE=a\nexport DB_NAME=\"my app\"\nHOLDFAST_LOG=debug\n";
        std::fs::write(folder.path().join(".env"), text).unwrap();
        let mut environment = Environment::empty(folder.path()).with("HOLDFAST_LOG", "info").with("HOLDFAST_SCOPE", "");
        add_env_file(&mut environment, Path::new(".env")).unwrap();
        assert_eq!(environment.text("HOLDFAST_SCOPE"), Some("a"));
        assert_eq!(environment.text("DB_NAME"), Some("my app"));
        assert_eq!(environment.text("HOLDFAST_LOG"), Some("info"));
        let file = folder.path().join(".env").display().to_string();
        assert_eq!(origin(&environment, "DB_NAME").to_string(), format!("variable DB_NAME in {file}"));
        assert_eq!(origin(&environment, "HOLDFAST_LOG").to_string(), "variable HOLDFAST_LOG");
    }

    #[test]
    fn a_bad_variables_file_shows_no_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".env"), "A=1\nHOLDFAST_PASSWORD='hunter2\n").unwrap();
        let mut environment = Environment::empty(folder.path());
        let failure = add_env_file(&mut environment, Path::new(".env")).unwrap_err();
        assert_eq!(failure.exit, ExitCode::Usage);
        assert!(
            !failure.text().contains("hunter2") && failure.text().contains("after 1 variables"),
            "{}",
            failure.text()
        );
        assert!(add_env_file(&mut environment, Path::new("none")).is_err());
    }

    #[test]
    fn twins_switches_and_lists() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("r"), "/repo\n").unwrap();
        let environment = Environment::empty(folder.path()).with("X_FILE", "r");
        assert_eq!(with_twin(&environment, "X", "X_FILE").unwrap().unwrap().value, "/repo");
        assert!(with_twin(&environment.clone().with("X", "y"), "X", "X_FILE").is_err());
        assert!(with_twin(&environment.with("X_FILE", "none"), "X", "X_FILE").is_err());
        let switch = |text: &str| parse_switch(&Valued { value: text.to_owned(), origin: Origin::Default });
        assert_eq!((switch("True"), switch(" off ")), (Ok(true), Ok(false)));
        assert!(switch("maybe").is_err());
        assert_eq!(parse_list("(\"scripts/\" \"lib/\")"), ["scripts/", "lib/"]);
        assert_eq!(parse_list("a, b c"), ["a", "b", "c"]);
        assert!(parse_list("()").is_empty());
    }

    #[test]
    fn misspelt_variables_are_told() {
        let environment =
            Environment::empty("/").with("HOLDFAST_PASWORD", "x").with("HOLDFAST_LOG", "x").with("PASWORD", "x");
        let warnings = unknown_variables(&environment);
        assert_eq!(
            warnings,
            ["The variable HOLDFAST_PASWORD is not known and is ignored; did you mean HOLDFAST_PASSWORD?"]
        );
    }
}
