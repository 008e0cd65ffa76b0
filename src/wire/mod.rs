//! Formats of protocols: pure codecs between bytes and meaning. They know no socket, clock or configuration, take whatever
//! comes, and never panic; whoever calls them holds the bytes. Sessions and checks are their callers.

pub mod dns;
pub mod expect;
pub mod http;
pub mod redis;
