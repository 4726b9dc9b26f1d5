//! Format and storage together: the order of writes that never lets anything durable refer to something that is not.

pub mod chunk_table;
pub mod error;
pub mod index;
pub mod index_loader;
pub mod pack_reader;
pub mod pack_writer;
pub mod session;
pub mod snapshots;
pub mod stream_reader;
pub mod stream_writer;
