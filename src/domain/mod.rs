//! Values and decisions: no I/O, no clock, no randomness of its own.

pub mod entry;
pub mod id;
pub mod snapshot;
pub mod system;
