//! `repair`.

use crate::domain::id::PackId;
use clap::{Args, Subcommand};
use std::ffi::OsString;

/// Arguments of `repair`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast repair index                           when index objects, the catalog or the caches were lost
  holdfast repair packs                           after `verify` found damage: keep what is whole, heal, put aside
  holdfast repair snapshots                       write what is whole of damaged snapshots into new ones

In this order. Nothing is ever deleted: damaged objects move to quarantine/ in the repository.
With `parity` in the configuration, `repair packs` also writes the parity of packs that have none.
Exit code 13: something is lost; the report names snapshots, sources, tables and files.")]
pub struct RepairArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RepairCommand,
}

/// What `repair` does.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum RepairCommand {
    /// Build index, catalog and caches anew from the packs
    Index,
    /// Keep what is whole of damaged packs and put them aside
    Packs(PacksArgs),
    /// Heal second copies, and save again what is whole of damaged snapshots
    Snapshots(SnapshotsArgs),
}

/// Arguments of `repair packs`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PacksArgs {
    /// Only these packs, as `verify` names them; otherwise all packs are read
    #[arg(value_name = "PACK", value_parser = pack)]
    pub packs: Vec<PackId>,
}

/// Arguments of `repair snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SnapshotsArgs {
    /// Only these snapshots
    #[arg(value_name = "SELECTOR")]
    pub selectors: Vec<OsString>,
    /// Read every byte of the packs first
    #[arg(long)]
    pub read_data: bool,
}

/// Reads an id, or a name `packs/ab/ID`.
fn pack(text: &str) -> Result<PackId, String> {
    let id = text.rsplit('/').next().unwrap_or(text);
    PackId::parse(id).map_err(|_| "write the 32 digits of a pack's id, or its name packs/ab/ID".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_ids_or_names() {
        let id = PackId([0xab; 16]);
        assert_eq!(pack(&id.hex()), Ok(id));
        assert_eq!(pack(&format!("packs/ab/{}", id.hex())), Ok(id));
        for bad in ["", "ab", "packs/", "../../etc/passwd"] {
            assert!(pack(bad).is_err(), "{bad}");
        }
    }
}
