//! `key`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Arguments of `key`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast key list
  holdfast key add --new-key-file /root/holdfast.key
  holdfast key add --recovery-kit /media/stick/kit.txt
  holdfast key passwd
  holdfast key remove 91c07be2 --yes")]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What `key` does.
#[derive(Debug, Clone, Subcommand)]
pub enum KeyCommand {
    /// List the key slots
    List,
    /// Add a password, a key file or a recovery kit
    Add(NewKeyArgs),
    /// Remove a key slot; the last one stays
    Remove {
        /// Id of the slot, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Replace the key that opened the repository
    Passwd(NewKeyArgs),
}

/// Where a new key comes from; a new password is asked for when nothing is given.
#[derive(Debug, Clone, Default, Args)]
pub struct NewKeyArgs {
    /// File that holds the new password
    #[arg(long, value_name = "FILE", group = "new_key")]
    pub new_password_file: Option<PathBuf>,
    /// Make a fresh key file at FILE
    #[arg(long, value_name = "FILE", group = "new_key")]
    pub new_key_file: Option<PathBuf>,
    /// Make a recovery kit at FILE
    #[arg(long, value_name = "FILE", group = "new_key")]
    pub recovery_kit: Option<PathBuf>,
}
