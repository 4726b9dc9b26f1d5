//! What integration tests share.

pub(crate) mod pg;
pub(crate) mod program;
pub(crate) mod tree_compare;
