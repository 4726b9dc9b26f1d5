//! The simulator: the program's own operations on a disk that loses, tears and refuses, in processes that die anywhere.
//! TESTING.md says how to run it and what it found.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice)]
#![allow(unsafe_code)] // in `fixed_hashing` alone

mod crash;
mod dice;
mod disk;
mod fixed_hashing;
mod repo;
mod schedules;
mod seeds;
#[path = "../it/support/tree_compare.rs"]
mod tree_compare;
