//! Values and decisions: no I/O, no clock, no randomness of its own.

pub mod act;
pub mod entry;
pub mod id;
pub mod original;
pub mod retention;
pub mod selector;
pub mod snapshot;
pub mod suspicion;
pub mod system;
pub mod time_spec;
pub mod units;
