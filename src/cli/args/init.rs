//! `init`.

use clap::Args;
use std::path::PathBuf;

/// Arguments of `init`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast init                                   in the default place, asking for a password
  holdfast init -r /mnt/backup --password-file /etc/holdfast/password
  holdfast init --new-key-file /root/holdfast.key --recovery-kit /media/stick/kit.txt")]
pub struct InitArgs {
    /// Write a recovery kit to FILE: a second key with the commands that restore, to be printed and kept elsewhere
    #[arg(long, value_name = "FILE", conflicts_with = "no_recovery_kit")]
    pub recovery_kit: Option<PathBuf>,
    /// Make no recovery kit and do not offer one
    #[arg(long)]
    pub no_recovery_kit: bool,
    /// Make a fresh key file at FILE and use it instead of a password
    #[arg(long, value_name = "FILE", conflicts_with_all = ["password_file", "password_command", "key_file"])]
    pub new_key_file: Option<PathBuf>,
    /// Do not encrypt: whoever reads the storage reads the data
    #[arg(long, conflicts_with_all = ["recovery_kit", "new_key_file", "password_file", "password_command", "key_file"])]
    pub insecure_no_encryption: bool,
}
