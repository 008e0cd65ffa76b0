//! The kinds of checks, a file each: what is said to a server, and what its answer means. A kind speaks through the lines
//! of its [`Visit`] and returns a [`Finding`]; it may fail in no other way. Reading answers is the work of `wire`.
//!
//! Deadlines are the lines' business. A kind must never wait for anything else, and never try a server more often than
//! once (twice where a line kept from the last check turned out to be at its end).

mod dns;
mod http;
mod mysql;
mod postgres;
mod redis;
mod send_expect;
mod tcp;
mod udp;

use super::report::Finding;
use super::target::Check;
use super::visit::Visit;

pub use dns::Dns;
pub use http::Http;
pub use mysql::Mysql;
pub use postgres::Postgres;
pub use redis::Redis;
pub use send_expect::{SendExpect, Step};
pub use udp::Udp;

/// One kind of check, with its parameters.
trait Kind {
    /// Makes one check within the deadline of the visit's lines.
    async fn check(&self, visit: &mut Visit) -> Finding;
}

/// Makes the check that was asked for.
pub async fn check(check: &Check, visit: &mut Visit) -> Finding {
    match check {
        Check::Tcp => tcp::Tcp.check(visit).await,
        Check::SendExpect(dialogue) => dialogue.check(visit).await,
        Check::Http(http) => http.check(visit).await,
        Check::Dns(dns) => dns.check(visit).await,
        Check::Postgres(postgres) => postgres.check(visit).await,
        Check::Mysql(mysql) => mysql.check(visit).await,
        Check::Redis(redis) => redis.check(visit).await,
        Check::Udp(udp) => udp.check(visit).await,
    }
}
