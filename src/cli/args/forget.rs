//! `forget`, `remove` and `undelete`.

use super::scope::ScopeArgs;
use crate::cli::failure::Failure;
use crate::domain::retention::{Policy, Preset, Window};
use crate::domain::units::ParseUnitError;
use clap::{Args, ValueEnum};
use std::ffi::OsString;

fn window(text: &str) -> Result<Window, ParseUnitError> {
    Window::parse(text)
}

/// Numbers of a system that holdfast replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PresetName {
    /// Budget Famille
    Bf,
    /// Journal
    Jn,
    /// LedgerFlow
    Lf,
    /// Elegant Tex
    Et,
    /// AWS Deployment System
    Ad,
}

impl From<PresetName> for Preset {
    fn from(name: PresetName) -> Self {
        match name {
            PresetName::Bf => Self::Bf,
            PresetName::Jn => Self::Jn,
            PresetName::Lf => Self::Lf,
            PresetName::Et => Self::Et,
            PresetName::Ad => Self::Ad,
        }
    }
}

/// `--keep-*`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What to keep, in place of the configured policy")]
pub struct KeepArgs {
    /// The newest N of each series
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub keep_last: Option<u32>,
    /// The newest of each of N hours
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub keep_hourly: Option<u32>,
    /// The newest of each of N days
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub keep_daily: Option<u32>,
    /// The newest of each of N weeks
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub keep_weekly: Option<u32>,
    /// The newest of each of N months
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub keep_monthly: Option<u32>,
    /// The newest of each of N years
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub keep_yearly: Option<u32>,
    /// Everything within DURATION before the newest of the series (7d, 26h)
    #[arg(long, value_name = "DURATION", value_parser = window, allow_hyphen_values = true)]
    pub keep_within: Option<Window>,
    /// Everything with this tag (repeatable), beside what the configuration pins
    #[arg(long = "keep-tag", value_name = "TAG")]
    pub keep_tags: Vec<String>,
}

impl KeepArgs {
    /// The policy that they make; None without any of them.
    ///
    /// # Errors
    /// Exit code 2 when it would keep nothing.
    pub fn policy(&self) -> Result<Option<Policy>, Failure> {
        let policy = Policy {
            keep_last: self.keep_last,
            keep_hourly: self.keep_hourly,
            keep_daily: self.keep_daily,
            keep_weekly: self.keep_weekly,
            keep_monthly: self.keep_monthly,
            keep_yearly: self.keep_yearly,
            keep_within: self.keep_within,
            keep_tags: self.keep_tags.clone(),
        };
        if policy == Policy::default() {
            return Ok(None);
        }
        if policy.is_empty() {
            let failure = Failure::usage("retention.keeps_nothing", "The --keep-* flags would keep nothing");
            return Err(failure.hint("give one of them a number above 0; nothing was touched"));
        }
        Ok(Some(policy))
    }
}

/// Explicit leave to do what is refused otherwise.
#[derive(Debug, Clone, Default, Args)]
pub struct LeaveArgs {
    /// Forget a named snapshot although a tag pins it
    #[arg(long)]
    pub even_pinned: bool,
    /// Forget a named snapshot although nothing good of a source is left then
    #[arg(long)]
    pub even_last: bool,
}

/// Arguments of `forget`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast forget --dry-run --explain             what the policy of the configuration would do, and why
  holdfast forget                                 do it
  holdfast forget --keep-daily 7 --keep-weekly 4  another policy, for each series, whatever the class
  holdfast forget --older-than 30d --class manual
  holdfast forget --preset jn -n
  holdfast forget 4f2a91c0                        this one

A forgotten snapshot is hidden, not deleted: `holdfast undelete ID` brings it back. Nothing is forgotten of a series
after a failed or suspicious backup, and never its newest good snapshot.")]
pub struct ForgetArgs {
    /// Which snapshots; without one the policy decides
    #[arg(value_name = "SELECTOR", conflicts_with_all = ["KeepArgs", "older_than", "preset", "explain", "class", "trust_times"])]
    pub selectors: Vec<OsString>,
    /// Host and sources.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Only snapshots of this class
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Print every snapshot with the reasons why it stays or goes
    #[arg(long)]
    pub explain: bool,
    /// Everything older than DURATION, counted from the newest snapshot of its series
    #[arg(long, value_name = "DURATION", value_parser = window,
          conflicts_with_all = ["KeepArgs", "preset"], allow_hyphen_values = true)]
    pub older_than: Option<Window>,
    /// By the numbers of a system that holdfast replaces
    #[arg(long, value_name = "NAME", value_enum, conflicts_with = "KeepArgs")]
    pub preset: Option<PresetName>,
    /// Go on although years lie between snapshots of a series
    #[arg(long)]
    pub trust_times: bool,
    /// What to keep.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Leave.
    #[command(flatten)]
    pub leave: LeaveArgs,
    /// Prune afterwards: what was forgotten cannot be undeleted then
    #[arg(long)]
    pub prune: bool,
    /// Limits of the prune.
    #[command(flatten)]
    pub limits: super::prune::PruneLimits,
}

/// Arguments of `remove`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast remove 4f2a91c0
  holdfast remove 20240708_143022 --yes")]
pub struct RemoveArgs {
    /// Which snapshots
    #[arg(value_name = "SELECTOR", required = true)]
    pub selectors: Vec<OsString>,
    /// Host and sources.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Leave.
    #[command(flatten)]
    pub leave: LeaveArgs,
}

/// Arguments of `undelete`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  holdfast undelete                               what can be brought back
  holdfast undelete 4f2a91c0")]
pub struct UndeleteArgs {
    /// Ids of forgotten snapshots, or at least 4 digits of each; none: list them
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
}
