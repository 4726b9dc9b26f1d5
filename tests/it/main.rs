//! The one integration test binary.

mod cli_init;
mod cli_listing;
mod cli_settings;
mod postgres;
mod restore;
mod damage;
mod postgres;
mod small_repository;
mod streams;
mod support;
