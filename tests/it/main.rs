//! The one integration test binary.

mod postgres;
mod streams;
mod support;
