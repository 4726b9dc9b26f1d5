//! The front: arguments, configuration, environment, terminal. The only room that prints and reads the environment.
//!
//! [`main`] is the program: it reads the command line, gathers the surroundings, runs one command and turns its result
//! into an exit code.

pub mod args;
pub(crate) mod commands;
pub mod environment;
pub(crate) mod errors;
pub mod exit_code;
pub mod failure;
pub(crate) mod invocation;
pub mod json;
pub mod log;
pub(crate) mod opening;
pub mod output;
pub(crate) mod picker;
pub mod progress;
pub mod settings;
pub mod signals;

use args::{Cli, Stop};
use environment::Environment;
use exit_code::ExitCode;
use failure::Failure;
use invocation::Invocation;
use output::{JsonMode, Output, OutputOptions};
use std::io::Write;

/// Runs the program: the whole of `main`.
pub fn main() -> std::process::ExitCode {
    end_on_panic();
    // It fails only when one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let code = match args::parse(std::env::args_os()) {
        Ok(cli) => start(cli),
        Err(Stop::Print { text, exit }) => {
            let output = Output::system(OutputOptions::default());
            if exit == ExitCode::Success {
                output.text(&text)
            } else {
                eprint!("{text}")
            }
            exit
        }
        Err(Stop::Fail { failure, json }) => fail_early(&failure, json),
    };
    code.into()
}

/// A failure before anything is known about the terminal.
fn fail_early(failure: &Failure, json: bool) -> ExitCode {
    let json = if json { JsonMode::Lines } else { JsonMode::Off };
    Output::system(OutputOptions { json, ..OutputOptions::default() }).failure(failure);
    failure.exit
}

/// Gathers the surroundings and runs the command.
fn start(cli: Cli) -> ExitCode {
    let gathered = Environment::from_system().map_err(|error| {
        Failure::from_error(ExitCode::Failed, "environment", &error).hint("change into a directory that exists")
    });
    let ready = gathered.and_then(|mut environment| {
        if let Some(file) = &cli.global.env_file {
            settings::add_env_file(&mut environment, file)?;
        }
        Invocation::new(cli.global.clone(), environment, cli.command.json_mode())
    });
    let invocation = match ready {
        Ok(invocation) => invocation,
        Err(failure) => return fail_early(&failure, cli.global.json),
    };
    invocation.log_start(cli.command.verb());
    let result = commands::dispatch(&invocation, &cli.command);
    invocation.finish(result)
}

/// A panic anywhere ends the whole program: a thread that is gone must not let the others commit. Nothing durable ever
/// refers to something that is not, so ending at any moment is safe.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        // The pool of threads is made when it is needed first, by a library that can only panic.
        if info.to_string().contains("ThreadPoolBuildError") {
            let _ = writeln!(
                std::io::stderr(),
                "error: No thread can be started: memory or the number of processes is limited\nhint: free some memory or \
                 raise the limits (`ulimit -a`) and try again"
            );
            std::process::exit(i32::from(ExitCode::Failed.code()));
        }
        // Bare writes, because the panic may come from printing itself.
        let _ = writeln!(
            std::io::stderr(),
            "error: Internal error in holdfast {}: {info}\nhint: nothing that was complete before is lost; please \
             report this with the lines above",
            env!("CARGO_PKG_VERSION")
        );
        std::process::exit(i32::from(ExitCode::Failed.code()));
    }));
}
