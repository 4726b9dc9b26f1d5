//! `config`.

use clap::{Args, Subcommand};

/// Arguments of `config`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast config show                            every value and where it came from; secrets are masked
  holdfast config check -c /etc/holdfast/holdfast.toml")]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What `config` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective settings with their origins
    Show,
    /// Check the configuration files
    Check,
}
