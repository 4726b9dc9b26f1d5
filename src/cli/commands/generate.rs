//! `completions`, `man`, `version` and `help`.

use crate::cli::args::generate::{self, CompletionsArgs, HelpArgs, ManArgs};
use crate::cli::errors::file_failure;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use serde_json::json;

/// Prints a completion script.
pub(crate) fn completions(invocation: &Invocation, args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let script = generate::completions(args.shell);
    match invocation.global.json {
        true => invocation.output.json(Kind::Result, &json!({ "shell": args.shell.to_string(), "script": script })),
        false => invocation.output.text(&script),
    }
    Ok(ExitCode::Success)
}

/// Writes the manual pages.
pub(crate) fn man(invocation: &Invocation, args: &ManArgs) -> Result<ExitCode, Failure> {
    let pages = generate::man_pages().map_err(|error| Failure::from_error(ExitCode::Failed, "man.render", &error))?;
    let folder = invocation.environment.directory.join(&args.directory);
    let mut files = Vec::new();
    if !invocation.global.dry_run {
        std::fs::create_dir_all(&folder).map_err(|error| file_failure("create", &folder, &error))?;
    }
    for (name, contents) in pages {
        let path = folder.join(name);
        if !invocation.global.dry_run {
            std::fs::write(&path, contents).map_err(|error| file_failure("write", &path, &error))?;
        }
        files.push(path);
    }
    if invocation.global.json {
        invocation.output.json(Kind::Result, &json!({ "files": files }));
    } else {
        let verb = if invocation.global.dry_run { "would write" } else { "wrote" };
        invocation.output.note("man.written", &format!("{verb} {} pages to {}", files.len(), folder.display()));
    }
    Ok(ExitCode::Success)
}

/// Prints the version.
pub(crate) fn version(invocation: &Invocation) -> Result<ExitCode, Failure> {
    match invocation.global.json {
        true => invocation.output.json(Kind::Result, &json!({ "version": env!("CARGO_PKG_VERSION") })),
        false => invocation.output.line(&generate::version_line()),
    }
    Ok(ExitCode::Success)
}

/// Explains a command or the exit codes.
pub(crate) fn help(invocation: &Invocation, args: &HelpArgs) -> Result<ExitCode, Failure> {
    let text = generate::help(&args.topic)?;
    match invocation.global.json {
        true => invocation.output.json(Kind::Result, &json!({ "help": text })),
        false => invocation.output.text(&text),
    }
    Ok(ExitCode::Success)
}
