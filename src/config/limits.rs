//! Reads who may come to a listener, and how fast: `allow`, `deny`, and the limits of rates and sources. Bits of a network
//! behind its prefix are taken as written and do not count. Called by `listener`.

use ipnet::IpNet;

use super::desk::Desk;
use super::measure::{limit, rate};
use super::place::network;
use super::plan::LimitsPlan;
use super::section::Section;

pub(super) fn read_limits(desk: &mut Desk<'_>, table: &mut Section) -> LimitsPlan {
    LimitsPlan {
        rate: table.read(desk, "connection_rate", rate).flatten(),
        source_connections: table.read(desk, "source_max_connections", limit).flatten(),
        source_rate: table.read(desk, "source_connection_rate", rate).flatten(),
        allow: read_networks(desk, table, "allow"),
        deny: read_networks(desk, table, "deny"),
    }
}

fn read_networks(desk: &mut Desk<'_>, table: &mut Section, key: &'static str) -> Vec<IpNet> {
    let found = table.read_list(desk, key, false, "networks", network);
    let found = found.unwrap_or_default();
    found.into_iter().map(|network| network.value).collect()
}
