//! The front: arguments, configuration, environment, terminal. The only room that prints and reads the environment.

pub mod args;
pub mod environment;
pub mod exit_code;
pub mod failure;
pub mod json;
pub mod output;
pub mod progress;
pub mod settings;
pub mod signals;
