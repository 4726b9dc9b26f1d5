//! Streams as ranges: runs, composition of edits, the matcher that finds edits, and sketches that find a parent.
//!
//! Pure code over bytes and numbers: no I/O, no formats. docs/format.md, "Recipes", gives the meaning of every number.

pub mod compose;
pub mod late;
pub mod matcher;
pub mod parent_map;
pub mod run;
pub mod sketch;
