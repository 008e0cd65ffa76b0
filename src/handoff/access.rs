//! Which client addresses a listener takes: its `allow` and `deny` lists as prefix trees, built once when a configuration
//! is taken over and shared by all workers and snapshots. A decision walks the bits of one address, so its time does not
//! grow with the lists. Asked at admission; it must not know a listener.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;

/// An IPv4 address inside IPv6 (RFC 4291, 2.5.5.2) is judged as the IPv4 address that it is.
const MAPPED_BITS: u8 = 96;

#[derive(Debug, Default)]
struct Networks {
    v4: PrefixSet<Ipv4Net>,
    v6: PrefixSet<Ipv6Net>,
}

impl Networks {
    fn new(networks: &[IpNet]) -> Networks {
        let mut all = Networks::default();
        for network in networks {
            match network.trunc() {
                IpNet::V4(network) => {
                    all.v4.insert(network);
                }
                IpNet::V6(network) => match mapped(network) {
                    Some(network) => {
                        all.v4.insert(network);
                    }
                    None => {
                        all.v6.insert(network);
                    }
                },
            }
        }
        all
    }

    fn contain(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.get_lpm(&Ipv4Net::from(address)).is_some(),
            IpAddr::V6(address) => self.v6.get_lpm(&Ipv6Net::from(address)).is_some(),
        }
    }
}

fn mapped(network: Ipv6Net) -> Option<Ipv4Net> {
    let address: Ipv4Addr = network.addr().to_ipv4_mapped()?;
    let bits = network.prefix_len().checked_sub(MAPPED_BITS)?;
    Ipv4Net::new(address, bits).ok()
}

/// The lists of one listener.
#[derive(Debug)]
pub struct AccessList {
    /// `None`: everybody who is not denied.
    allow: Option<Networks>,
    deny: Networks,
}

impl AccessList {
    /// `None` if there is nothing to judge by. An empty `allow` means everybody.
    #[must_use]
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Option<AccessList> {
        if allow.is_empty() && deny.is_empty() {
            return None;
        }
        Some(AccessList {
            allow: (!allow.is_empty()).then(|| Networks::new(allow)),
            deny: Networks::new(deny),
        })
    }

    /// Whether a client at this address may come in: `deny` wins over `allow`.
    #[must_use]
    pub fn lets_in(&self, client: IpAddr) -> bool {
        !self.deny.contain(client)
            && self
                .allow
                .as_ref()
                .is_none_or(|allow| allow.contain(client))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn list(allow: &[&str], deny: &[&str]) -> AccessList {
        AccessList::new(&networks(allow), &networks(deny)).unwrap()
    }

    fn is_in(list: &AccessList, address: &str) -> bool {
        list.lets_in(address.parse().unwrap())
    }

    #[test]
    fn deny_wins_and_an_empty_allow_means_all() {
        assert!(AccessList::new(&[], &[]).is_none());
        let deny_only = list(&[], &["10.0.0.0/8", "2001:db8::/32"]);
        assert!(is_in(&deny_only, "192.0.2.1") && is_in(&deny_only, "::1"));
        assert!(!is_in(&deny_only, "10.255.0.1") && !is_in(&deny_only, "2001:db8::7"));
        let both = list(&["10.0.0.0/8"], &["10.1.0.0/16", "10.2.0.0/15"]);
        assert!(is_in(&both, "10.0.0.1") && is_in(&both, "10.4.0.0"));
        // More specific allows do not reach over a deny, whichever is longer.
        let nested = list(&["10.1.2.3/32", "10.0.0.0/8"], &["10.1.0.0/16"]);
        assert!(!is_in(&both, "10.1.2.3") && !is_in(&nested, "10.1.2.3"));
        assert!(!is_in(&both, "10.3.9.9") && !is_in(&both, "11.0.0.1"));
        assert!(!is_in(&both, "::1"), "another family is not allowed either");
    }

    #[test]
    fn mapped_addresses_are_the_ipv4_addresses_that_they_are() {
        let plain = list(&[], &["10.0.0.0/8"]);
        assert!(!is_in(&plain, "::ffff:10.1.1.1"));
        let written_mapped = list(&[], &["::ffff:10.0.0.0/104", "::ffff:192.0.2.1/128"]);
        assert!(!is_in(&written_mapped, "10.1.1.1") && !is_in(&written_mapped, "192.0.2.1"));
        assert!(is_in(&written_mapped, "11.1.1.1"));
        // Wider than the mapped range: it is about IPv6 then.
        assert!(is_in(&list(&[], &["::/0"]), "10.1.1.1"));
    }

    #[test]
    fn bits_behind_the_prefix_do_not_matter() {
        let careless = list(&["10.1.2.3/8"], &[]);
        assert!(is_in(&careless, "10.200.0.1"));
    }

    proptest! {
        #[test]
        fn it_decides_as_a_walk_over_the_lists_would(
            allow in prop::collection::vec((any::<u32>(), 0u8..=32), 0..20),
            deny in prop::collection::vec((any::<u32>(), 1u8..=32), 0..20),
            clients in prop::collection::vec((any::<u32>(), 0usize..40), 1..40),
        ) {
            let nets = |of: &[(u32, u8)]| -> Vec<IpNet> {
                let nets = of.iter().map(|(bits, prefix)| {
                    IpNet::new(IpAddr::from(Ipv4Addr::from(*bits)), *prefix).unwrap()
                });
                nets.collect()
            };
            let (allow, deny) = (nets(&allow), nets(&deny));
            let list = AccessList::new(&allow, &deny);
            for (bits, near) in clients {
                // Half of the clients sit in a network of a list.
                let inside = allow.iter().chain(&deny).nth(near).map(|net| match net.network() {
                    IpAddr::V4(base) => {
                        let host = u32::MAX.checked_shr(u32::from(net.prefix_len())).unwrap_or(0);
                        IpAddr::from(Ipv4Addr::from(u32::from(base) | bits & host))
                    }
                    v6 => v6,
                });
                let client = inside.unwrap_or(IpAddr::from(Ipv4Addr::from(bits)));
                let walked = !deny.iter().any(|net| net.contains(&client))
                    && (allow.is_empty() || allow.iter().any(|net| net.contains(&client)));
                prop_assert_eq!(list.as_ref().is_none_or(|list| list.lets_in(client)), walked);
            }
        }
    }

    /// The shortest of many measurements of a decision, with this many networks in each list.
    fn decision_time(count: u32, clients: &[IpAddr]) -> Duration {
        let spread = |i: u32| i.wrapping_mul(2_654_435_761);
        let v4 = |i: u32| IpNet::new(IpAddr::from(Ipv4Addr::from(spread(i))), 24).unwrap();
        let v6 = |i: u32| {
            let high = 0x2001_0db8_0000_0000_u64 | u64::from(spread(i));
            IpNet::new(IpAddr::from(Ipv6Addr::from(u128::from(high) << 64)), 64).unwrap()
        };
        let networks = |from: u32| -> Vec<IpNet> {
            (from..from + count / 2)
                .flat_map(|i| [v4(i), v6(i)])
                .collect()
        };
        let list = AccessList::new(&networks(0), &networks(1 << 20)).unwrap();
        let rounds = (0..40).map(|_| {
            let began = Instant::now();
            let hits = clients
                .iter()
                .filter(|client| list.lets_in(**client))
                .count();
            std::hint::black_box(hits);
            began.elapsed()
        });
        rounds.min().unwrap() / clients.len() as u32
    }

    /// A walk over the lists would take a thousand times longer with the long ones. A tree's depth grows by a few levels,
    /// and it fills more of the cache; that is all.
    #[test]
    fn the_time_of_a_decision_does_not_grow_with_the_lists() {
        let clients: Vec<IpAddr> = (0..4_000_u32)
            .map(|i| match i % 2 {
                0 => IpAddr::from(Ipv4Addr::from(i.wrapping_mul(2_246_822_519))),
                _ => IpAddr::from(Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(i) << 64)),
            })
            .collect();
        let mut seen = Vec::new();
        for _ in 0..5 {
            let (short, long) = (decision_time(20, &clients), decision_time(20_000, &clients));
            println!("a decision: {short:?} with 2 x 20 networks, {long:?} with 2 x 20,000");
            if long < short * 10 {
                return;
            }
            seen.push((short, long));
        }
        panic!("decisions take longer with longer lists: {seen:?}");
    }
}
