//! Formats of other people's protocols, as pure codecs: bytes in, words out, and back. What is read here comes from
//! clients and servers that may lie, so every reader takes a beginning for a beginning, is bounded, and total: no input
//! panics. Each has a fuzz target in `fuzz/`.
//!
//! They know no socket, clock or configuration; whoever calls them holds the bytes. The worker reads prefaces with them
//! and announces clients to backends; checks speak to servers with them.

pub mod client_hello;
mod crc32c;
pub mod dns;
pub mod expect;
pub mod http;
pub mod mysql_login;
pub mod mysql_server;
pub mod postgres;
pub mod postgres_login;
pub mod postgres_server;
pub mod proxy;
pub mod redis;
pub mod scram;
