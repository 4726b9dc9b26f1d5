//! Flags that name the series: host and sources. Shared by all commands that address snapshots.

use crate::domain::selector::Scope;
use crate::domain::snapshot::Series;
use clap::Args;

/// Host and sources.
#[derive(Debug, Clone, Default, Args)]
pub struct ScopeArgs {
    /// Only snapshots of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Only this source (repeatable)
    #[arg(long = "source", visible_alias = "only", value_name = "NAME")]
    pub sources: Vec<String>,
}

impl ScopeArgs {
    /// The scope for choosing snapshots; `implied` is the series that the configuration describes.
    pub fn scope(&self, implied: Option<Series>) -> Scope {
        Scope { host: self.host.clone(), sources: self.sources.clone(), series: None, implied }
    }
}
