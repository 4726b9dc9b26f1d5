//! The one integration test binary.

mod cli_init;
mod cli_listing;
mod cli_settings;
mod postgres;
mod streams;
mod support;
