//! The one integration test binary.

mod postgres;
mod support;
