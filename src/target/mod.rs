//! Where what was saved is put back.

pub mod database;
pub mod files;
pub mod postgres;
pub mod replace;
pub mod sqlite;
