//! Bytes of every object: encoders and decoders, no I/O.

pub mod tree;
