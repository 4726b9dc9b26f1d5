//! The one integration test binary.

mod damage;
mod golden;
mod postgres;
mod small_repository;
mod streams;
mod support;
