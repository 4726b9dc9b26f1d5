//! See the target of this name in `src/targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    holdfast_fuzz::targets::run("parity", input);
});
