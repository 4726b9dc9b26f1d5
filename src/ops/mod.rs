//! Use cases, one for each verb. They never print, read the environment or the clock.

pub mod accept;
pub mod backup;
pub mod cancel;
pub mod drill;
pub mod dump;
pub mod export;
pub mod forget;
pub mod git_info;
pub mod guard;
pub mod import;
pub mod in_place;
pub mod ls;
pub mod observer;
pub mod patience;
#[cfg(test)]
mod planted_fault_tests;
pub mod proof;
pub mod prune;
pub mod repair;
pub mod repair_index;
pub mod restore;
pub mod stats;
pub mod system_info;
pub mod undelete;
#[cfg(test)]
mod undelete_tests;
pub mod verify;
