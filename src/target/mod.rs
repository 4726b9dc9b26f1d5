//! Where saved things are put back.

pub mod database;
pub mod files;
pub mod postgres;
pub mod sqlite;
//! Where what was saved is put back.

