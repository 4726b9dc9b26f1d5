//! holdfast: a content-addressed, deduplicating, encrypted backup repository for applications.
//!
//! Rooms, from the bottom: [`domain`] (values and decisions), [`recipe`] (streams as ranges and edits), [`fsio`]
//! (operating system), [`mod@format`] (bytes of every object), [`storage`] (named immutable objects), [`catalog`] (local
//! knowledge that may be lost), [`source`] and [`target`] (what is saved, where it is put back), [`repository`]
//! (format and storage together, in the order that keeps data safe), [`ops`] (one use case each) and [`cli`].
//! Imports go downwards only.

pub mod catalog;
pub mod cli;
pub mod domain;
pub mod format;
pub mod fsio;
pub mod ops;
pub mod recipe;
pub mod repository;
pub mod source;
pub mod storage;
pub mod target;
