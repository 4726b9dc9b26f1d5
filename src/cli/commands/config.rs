//! `config show` and `config check`.

use crate::cli::args::config::{ConfigArgs, ConfigCommand};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::settings::{show_json, show_text};
use serde_json::json;

/// Shows or checks the settings.
pub(crate) fn run(invocation: &Invocation, args: &ConfigArgs) -> Result<ExitCode, Failure> {
    let settings = invocation.settings()?;
    let output = &invocation.output;
    match (args.command, invocation.global.json) {
        (ConfigCommand::Show, true) => output.json(Kind::Result, &show_json(settings)),
        (ConfigCommand::Show, false) => output.text(&show_text(settings)),
        (ConfigCommand::Check, true) => {
            let sources: Vec<&str> = settings.sources.iter().map(|source| source.name.as_str()).collect();
            output.json(Kind::Result, &json!({ "files": settings.files, "valid": true, "sources": sources }));
        }
        (ConfigCommand::Check, false) => {
            for file in &settings.files {
                output.line(&format!("{}: valid", file.display()));
            }
            match settings.files.is_empty() {
                true => output.note("config.none", "there is no configuration file; variables and flags are valid"),
                false => output.note("config.valid", &format!("{} sources are configured", settings.sources.len())),
            }
        }
    }
    Ok(ExitCode::Success)
}
