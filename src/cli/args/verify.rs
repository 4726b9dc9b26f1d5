//! `verify`.

use super::global::duration;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// A part of all data, for runs that share the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subset {
    /// Part `part` of `parts`, counted from 1: always the same packs.
    Part {
        /// Which.
        part: u64,
        /// Of how many.
        parts: u64,
    },
    /// So many thousandths of all packs, those that were read longest ago first.
    Permille(u32),
    /// So many bytes of packs, those that were read longest ago first.
    Bytes(u64),
}

/// Reads `n/t`, `x%` or a size.
fn subset(text: &str) -> Result<Subset, String> {
    const FORMS: &str = "write a part such as 3/7, a share such as 10% or 2.5%, or a size such as '5 GB'";
    if let Some((part, parts)) = text.split_once('/') {
        let (part, parts) = (part.trim().parse::<u64>(), parts.trim().parse::<u64>());
        return match (part, parts) {
            (Ok(part), Ok(parts)) if part >= 1 && part <= parts => Ok(Subset::Part { part, parts }),
            _ => Err(FORMS.to_owned()),
        };
    }
    if let Some(share) = text.trim().strip_suffix('%') {
        let (whole, tenth) = share.trim().split_once('.').unwrap_or((share.trim(), "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let permille = match (whole.parse::<u32>(), tenth.parse::<u32>()) {
            (Ok(whole), Ok(tenth)) if digits(whole_text(share)) && tenth < 10 => {
                whole.checked_mul(10).map(|w| w + tenth)
            }
            _ => None,
        };
        return permille.filter(|p| (1..=1000).contains(p)).map(Subset::Permille).ok_or_else(|| FORMS.to_owned());
    }
    match crate::domain::units::parse_size(text) {
        Ok(bytes) if bytes > 0 => Ok(Subset::Bytes(bytes)),
        _ => Err(FORMS.to_owned()),
    }
}

/// The digits before the point.
fn whole_text(share: &str) -> &str {
    share.trim().split('.').next().unwrap_or_default()
}

/// Arguments of `verify`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast verify                                 all structure, and the data of the newest snapshot of each source
  holdfast verify 4f2a91c0
  holdfast verify --read-data                     every byte of the repository
  holdfast verify --stored-only                   every stored byte against its checksum; needs no password
  holdfast verify --read-data --max-duration 1h --unverified-for 30d --report report.json

Nothing is ever changed. Exit code 13: damaged data was found; the report names the snapshots, sources and files hit.")]
pub struct VerifyArgs {
    /// The snapshots whose data is read
    #[arg(value_name = "SELECTOR", conflicts_with_all = ["read_data", "read_data_subset"])]
    pub selectors: Vec<OsString>,
    /// Host and sources.
    #[command(flatten)]
    pub scope: super::scope::ScopeArgs,
    /// Decode everything that a restore would write and compare it with its proof: of the named snapshots, else of the
    /// newest of each source. Named snapshots are so verified anyway
    #[arg(long, conflicts_with_all = ["read_data", "read_data_subset", "stored_only", "max_duration", "unverified_for"])]
    pub extract: bool,
    /// Read every byte of the repository
    #[arg(long, visible_alias = "all")]
    pub read_data: bool,
    /// Read a part: n/t, x% or a size
    #[arg(long, value_name = "SUBSET", value_parser = subset, conflicts_with = "read_data")]
    pub read_data_subset: Option<Subset>,
    /// Read every stored byte and compare it with its checksum; needs no password
    #[arg(long, conflicts_with_all = ["selectors", "read_data", "read_data_subset", "max_duration", "unverified_for", "host", "sources"])]
    pub stored_only: bool,
    /// Stop after this time, what was read longest ago first
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub max_duration: Option<Duration>,
    /// Only packs that were not read for this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub unverified_for: Option<Duration>,
    /// Write the report as JSON to a file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets() {
        assert_eq!(subset("3/7"), Ok(Subset::Part { part: 3, parts: 7 }));
        assert_eq!(subset("10%"), Ok(Subset::Permille(100)));
        assert_eq!(subset("2.5 %"), Ok(Subset::Permille(25)));
        assert_eq!(subset("100%"), Ok(Subset::Permille(1000)));
        assert_eq!(subset("5 GB"), Ok(Subset::Bytes(5_000_000_000)));
        for bad in ["", "0/7", "8/7", "1/0", "x/y", "0%", "101%", "-1%", "+5%", "2.55%", "%", "0", "ten"] {
            assert!(subset(bad).is_err(), "{bad}");
        }
    }
}
