//! PostgreSQL: connections as libpq means them, checks of the server, its client programs, and dumps that are judged
//! while they stream through.
//!
//! Nothing here decides when to dump or where to store; the target side uses the same connections and programs.

pub mod client;
pub mod connect;
pub mod conninfo;
pub mod dump;
pub mod dump_format;
pub mod dump_watch;
pub mod inspect;
pub mod passfile;
pub mod plain_format;
pub mod server;
pub mod tls;
