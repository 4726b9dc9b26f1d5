//! `snapshots`.

use super::template::Template;
use clap::Args;
use std::ffi::OsString;

/// Arguments of `snapshots`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast snapshots                              newest first
  holdfast snapshots latest                       the newest of every series
  holdfast snapshots --class weekly --size
  holdfast snapshots --source app-db --format '{id}|{time}|{class}' | head -1 | cut -d'|' -f1

A selector is an id or at least 4 digits of it, latest, latest~2, @TIME (@yesterday, @'3h ago', @2026-11-20T14:00),
tag:NAME, class:NAME or 20240708_143022. A selector that matches several series lists one for each.")]
pub struct SnapshotsArgs {
    /// Which snapshots; all when left out
    #[arg(value_name = "SELECTOR")]
    pub selectors: Vec<OsString>,
    /// Host and sources.
    #[command(flatten)]
    pub scope: super::scope::ScopeArgs,
    /// Only snapshots of this class
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Only snapshots with this tag (repeatable: with all of them)
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Show plain size and added bytes
    #[arg(long)]
    pub size: bool,
    /// Print each snapshot by a template: {id} {short_id} {time} {timestamp} {host} {user} {class} {tags} {sources}
    /// {series} {size} {added} {status}; \t and \n are a tab and a line feed
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::parse, conflicts_with = "json")]
    pub format: Option<Template>,
}
