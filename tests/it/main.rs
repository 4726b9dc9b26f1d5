//! The one integration test binary.

mod arch;
mod bad_input;
mod cli_forget;
mod cli_init;
mod cli_listing;
mod cli_prune;
mod cli_repair;
mod cli_settings;
mod cli_suspect;
mod cli_two_runs;
mod damage;
mod damage_repair;
mod fuzz_corpus;
mod golden;
mod killed;
mod log_file;
mod own_folders;
mod postgres;
mod proof;
mod prune;
mod restore;
mod small_repository;
mod stored_only;
mod streams;
mod support;
mod writer_parameters;
