//! Where what was saved is put back.

pub mod cluster;
pub mod database;
pub mod files;
pub mod listed;
pub mod postgres;
pub mod replace;
pub mod roles;
pub mod scratch;
pub mod script;
pub mod sqlite;
