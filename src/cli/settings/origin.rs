//! Where a value came from, in the order of precedence: flag, variable, configuration, default.

use super::document::Place;
use std::fmt;
use std::path::PathBuf;

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line.
    Flag(&'static str),
    /// A variable of the environment.
    Variable(String),
    /// A variable of the file given by `--env-file`.
    EnvFile {
        /// The variable.
        variable: String,
        /// The file.
        file: PathBuf,
    },
    /// A configuration file.
    Config(Place),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::EnvFile { variable, file } => write!(f, "variable {variable} in {}", file.display()),
            Self::Config(place) => write!(f, "{}:{}", place.file.display(), place.line),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Origin {
    /// The word that JSON uses.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Flag(_) => "flag",
            Self::Variable(_) | Self::EnvFile { .. } => "env",
            Self::Config(_) => "config",
            Self::Default => "default",
        }
    }
}

/// A value with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valued<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

/// One line of `config show`; secrets are already masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The dotted key.
    pub key: String,
    /// The value as TOML.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}
