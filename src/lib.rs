//! holdfast: a content-addressed, deduplicating, encrypted backup repository for applications.
//!
//! Rooms, from the bottom: [`domain`] (values and decisions), [`fsio`] (operating system), [`format`] (bytes of every
//! object), [`recipe`] (streams as ranges and edits), [`storage`] (named immutable objects), [`source`] and [`target`]
//! (what is saved, where it is put back), [`repository`] (format and storage together, in the order that keeps data
//! safe), [`ops`] (one use case each) and [`cli`]. Imports go downwards only.

pub mod domain;
pub mod format;
pub mod source;
pub mod target;
