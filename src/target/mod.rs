//! Where what was saved is put back.

pub mod files;
