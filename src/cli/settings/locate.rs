//! Which configuration files are read: the first found of `-c`, `HOLDFAST_CONFIG`, `./holdfast.toml`,
//! `$XDG_CONFIG_HOME/holdfast/holdfast.toml`, `/etc/holdfast/holdfast.toml`; then `conf.d/*.toml` beside it by name.

use super::document::Problem;
use crate::cli::environment::Environment;
use std::path::{Path, PathBuf};

/// The files to read, the main one first; empty when there is none.
pub(super) fn find(flag: Option<&Path>, environment: &Environment) -> Result<Vec<PathBuf>, Problem> {
    let named = flag
        .map(|path| (path.to_owned(), "-c"))
        .or_else(|| Some((environment.path("HOLDFAST_CONFIG")?, "HOLDFAST_CONFIG")));
    let main = match named {
        Some((path, origin)) => {
            let path = environment.directory.join(path);
            if !path.is_file() {
                let message = format!("The configuration file {} named by {origin} does not exist", path.display());
                return Err(Problem::new(None, message));
            }
            Some(path)
        }
        None => candidates(environment).into_iter().find(|path| path.is_file()),
    };
    let Some(main) = main else { return Ok(Vec::new()) };
    let mut files = vec![main.clone()];
    files.extend(parts_beside(&main)?);
    Ok(files)
}

/// Where a configuration is looked for when none is named, in order.
pub fn candidates(environment: &Environment) -> Vec<PathBuf> {
    let mut paths = vec![environment.directory.join("holdfast.toml")];
    paths.extend(environment.xdg("XDG_CONFIG_HOME", ".config").map(|config| config.join("holdfast/holdfast.toml")));
    paths.push(environment.system_config.join("holdfast.toml"));
    paths
}

fn parts_beside(main: &Path) -> Result<Vec<PathBuf>, Problem> {
    let folder = main.with_file_name("conf.d");
    let unreadable = |error: std::io::Error| Problem::new(None, format!("Cannot list {}: {error}", folder.display()));
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut parts = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") && path.is_file() {
            parts.push(path);
        }
    }
    parts.sort();
    Ok(parts)
}
