//! Files as a source: which entries there are ([`walk`], [`rules`]), what is known about each ([`metadata`]), what
//! regular files hold ([`read`]), and one entry by itself ([`look`]). Nothing here stores anything.
//!
//! Invariant: a symbolic link is never followed below a root, and only regular files are ever opened for their data.

mod list;
pub mod look;
pub mod metadata;
mod open;
mod prefetch;
pub mod read;
mod roots;
pub mod rules;
pub mod walk;

use crate::domain::snapshot::SourceWarning;

/// A finding about one path, shown with its strange bytes escaped.
pub(crate) fn warning(code: &str, path: &[u8], message: String, incomplete: bool) -> SourceWarning {
    SourceWarning { code: code.to_owned(), subject: String::from_utf8_lossy(path).into_owned(), message, incomplete }
}
