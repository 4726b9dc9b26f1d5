//! `completions`, `man`, `version` and `help`: texts made from the definitions of the arguments.

use super::Cli;
use crate::cli::exit_code;
use crate::cli::failure::Failure;
use crate::cli::settings::nearest;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use std::path::PathBuf;

/// Arguments of `completions`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast completions bash > /etc/bash_completion.d/holdfast
  holdfast completions zsh > ~/.zfunc/_holdfast
  holdfast completions fish > ~/.config/fish/completions/holdfast.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  holdfast man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The directory that the pages are written to
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Arguments of `help`.
#[derive(Debug, Clone, Args)]
pub struct HelpArgs {
    /// A command, or exit-codes
    #[arg(value_name = "TOPIC")]
    pub topic: Vec<String>,
}

/// The completion script of a shell.
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "holdfast", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Every manual page: file name and contents.
///
/// # Errors
/// When a page cannot be rendered.
pub fn man_pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = Cli::command();
    root.build();
    let mut pages = Vec::new();
    render_pages(&root, "holdfast", &mut pages)?;
    Ok(pages)
}

fn render_pages(command: &Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name.to_owned()))
        .title(name.to_uppercase())
        .render(&mut page)?;
    pages.push((format!("{name}.1"), page));
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        render_pages(sub, &format!("{name}-{}", sub.get_name()), pages)?;
    }
    Ok(())
}

/// The line of `version`.
pub fn version_line() -> String {
    format!("holdfast {}", env!("CARGO_PKG_VERSION"))
}

/// The text of `help`.
///
/// # Errors
/// Exit code 2 for an unknown topic.
pub fn help(topic: &[String]) -> Result<String, Failure> {
    if topic == ["exit-codes"] || topic == ["exit", "codes"] {
        return Ok(exit_code::table_text());
    }
    let mut root = Cli::command();
    root.build();
    let mut command = &mut root;
    for word in topic {
        let names: Vec<String> =
            command.get_subcommands().flat_map(|sub| sub.get_name_and_visible_aliases()).map(str::to_owned).collect();
        let known = names.iter().map(String::as_str).chain(["exit-codes"]);
        command = match command.find_subcommand_mut(word) {
            Some(sub) => sub,
            None => {
                let failure = Failure::usage("help.unknown", format!("There is no help on '{word}'"));
                return Err(match nearest(word, known) {
                    Some(near) => failure.hint(format!("did you mean '{near}'?")),
                    None => failure.hint("run `holdfast help` for all commands"),
                });
            }
        };
    }
    Ok(command.render_long_help().to_string())
}
