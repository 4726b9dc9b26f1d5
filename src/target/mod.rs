//! Where saved things are put back.

pub mod database;
pub mod postgres;
pub mod sqlite;
