//! args
pub mod url;
