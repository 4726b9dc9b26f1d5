//! `dump`.

use clap::{Args, ValueEnum};
use std::ffi::OsString;

/// The form of a PostgreSQL dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DumpFormat {
    /// As stored: pg_dump's custom format, for pg_restore
    Custom,
    /// Plain SQL
    Sql,
}

/// Arguments of `dump`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast dump latest app-db > app.dump          pg_restore reads it
  holdfast dump latest app-db --format sql | less
  holdfast dump @yesterday:/etc/app.conf
  holdfast dump 4f2a91c0 shop.sql | mysql shop")]
pub struct DumpArgs {
    /// The snapshot, with :PATH for one file; on a terminal it can be left out and chosen from a list
    #[arg(value_name = "SELECTOR")]
    pub selector: Option<OsString>,
    /// The source whose stream is wanted
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
    /// Only snapshots of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Form of a PostgreSQL dump
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub format: Option<DumpFormat>,
}
