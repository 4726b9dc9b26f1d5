//! The bodies of the fuzz targets; `fuzz_targets` gives each of them to libFuzzer.

pub mod targets;
