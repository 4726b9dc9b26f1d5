//! The operating system behind a few small doors: folders whose changes are durable, and random bytes.
//!
//! Errors here are plain `io::Error`; the room above adds the verb and the name.

pub mod census;
pub mod disk;
pub mod folder;
pub mod system;
