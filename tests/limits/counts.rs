//! How many: per listener, per source, by list; exact at any number of workers, and over reloads.

use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};

use super::support::backends::Backend;
use super::support::ringway::{Setup, pool};
use super::support::wait::{Dice, seconds, until};
use super::support::{alone, namespace, net};
use super::{is_alive, knock, limited, refused, source};

/// A storm of clients from a few sources that come and go: never more than the limit of a source, nor of the listener;
/// and what was promised is to be had.
#[test]
fn counts_per_source_and_listener_are_exact_under_a_storm() {
    const SOURCES: u16 = 12;
    const PER_SOURCE: u32 = 3;
    const ALL: u32 = 20;
    let _alone = alone();
    for workers in [1, 2] {
        let backend = Backend::named("a");
        let address = net::free_address();
        let lines = format!("max_connections = {ALL}\nsource_max_connections = {PER_SOURCE}");
        let body = limited(address, &lines) + &pool("main", "", &[("a", backend.address)]);
        let ringway = Setup::new(body).workers(workers).start();
        let held: Vec<AtomicU32> = (0..SOURCES).map(|_| AtomicU32::new(0)).collect();
        let all = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (held, all) = (&held, &all);
                scope.spawn(move || {
                    let mut dice = Dice(thread);
                    let mut mine: Vec<(usize, TcpStream)> = Vec::new();
                    for _ in 0..150 {
                        if mine.len() > 3 || dice.chance(30) && !mine.is_empty() {
                            let at = dice.below(mine.len() as u64) as usize;
                            let (from, stream) = mine.swap_remove(at);
                            // Counted before the close, so that nobody can be let in for it too early.
                            held[from].fetch_sub(1, Ordering::SeqCst);
                            all.fetch_sub(1, Ordering::SeqCst);
                            net::reset(stream);
                            continue;
                        }
                        let from = dice.below(u64::from(SOURCES)) as usize;
                        if let Some(stream) = knock(source(from as u16), address) {
                            let of_source = held[from].fetch_add(1, Ordering::SeqCst) + 1;
                            let of_all = all.fetch_add(1, Ordering::SeqCst) + 1;
                            assert!(of_source <= PER_SOURCE, "{of_source} of source {from}");
                            assert!(of_all <= ALL, "{of_all} in all");
                            mine.push((from, stream));
                        }
                    }
                    for (from, stream) in mine {
                        held[from].fetch_sub(1, Ordering::SeqCst);
                        all.fetch_sub(1, Ordering::SeqCst);
                        net::reset(stream);
                    }
                });
            }
        });
        ringway.wait_empty();
        assert!(refused(&ringway, "source-limit") > 0.0);
        assert_eq!(ringway.metric("ringway_sources_active"), 0.0);
        // No count was lost on the way: all of it can be had again.
        let full: Vec<_> = (0..PER_SOURCE)
            .map(|_| knock(source(1), address).expect("a place of this source"))
            .collect();
        assert!(knock(source(1), address).is_none());
        let others: Vec<_> = (PER_SOURCE..ALL)
            .map(|i| knock(source(100 + i as u16), address).expect("a place of the listener"))
            .collect();
        let before = refused(&ringway, "listener-limit");
        assert!(knock(source(200), address).is_none());
        assert_eq!(refused(&ringway, "listener-limit"), before + 1.0);
        assert!(full.iter().chain(&others).all(is_alive));
    }
}

/// A limit per source that comes with a reload counts who is there already, one that falls cuts nobody, and each counts
/// from that moment on.
#[test]
fn a_reload_changes_limits_at_once_and_counts_who_is_there() {
    let _alone = alone();
    let backend = Backend::named("a");
    let address = net::free_address();
    let body = |lines: &str| limited(address, lines) + &pool("main", "", &[("a", backend.address)]);
    let mut ringway = Setup::new(body("")).workers(2).start();
    let mut reload = |lines: &str| {
        ringway.rewrite(body(lines));
        assert!(ringway.reload());
    };
    let mut held: Vec<TcpStream> = (0..4)
        .map(|_| knock(source(1), address).expect("no limit yet"))
        .collect();
    reload("source_max_connections = 4");
    assert!(knock(source(1), address).is_none(), "four are there");
    assert!(knock(source(2), address).is_some());
    reload("source_max_connections = 2");
    assert!(held.iter().all(is_alive), "nobody is cut");
    assert!(knock(source(1), address).is_none());
    // Down to one: then one more fits.
    held.drain(1..).for_each(net::reset);
    let mut second = None;
    until(seconds(10), "a place below the limit", || {
        second = knock(source(1), address);
        second.is_some()
    });
    assert!(knock(source(1), address).is_none());
    reload("source_connection_rate = \"1/s burst 1\"");
    let third = knock(source(1), address).expect("the count is no limit any more");
    assert!(knock(source(1), address).is_none());
    reload("connection_rate = \"1/s burst 1000\"\nsource_connection_rate = \"1000/s\"");
    let fourth = knock(source(1), address).expect("at once, whatever the old rate was owed");
    reload(&format!("deny = [\"{}\"]", source(1)));
    assert!(knock(source(1), address).is_none());
    let fifth = knock(source(2), address).expect("another address");
    let kept = [second.unwrap(), third, fourth, fifth];
    assert!(held.iter().chain(&kept).all(is_alive));
    // Sessions that were counted under limits that are gone leave nothing behind.
    drop(held);
    drop(kept);
    ringway.wait_empty();
    until(seconds(10), "no source is kept", || {
        ringway.metric("ringway_sources_active") == 0.0
    });
}

/// Thousands of networks in each list; who may come is decided as they say, and counted by reason.
#[test]
fn long_lists_of_networks_decide_who_comes() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let quoted = |networks: Vec<String>| {
        let quoted: Vec<_> = networks.iter().map(|it| format!("\"{it}\"")).collect();
        quoted.join(", ")
    };
    let filler = |first: u8| -> Vec<String> {
        let networks = (0..4_000_u16).map(|i| format!("{first}.{}.{}.0/24", i >> 8, i & 255));
        networks.collect()
    };
    let mut allow = filler(10);
    allow.push("127.5.0.0/16".into());
    allow.push("2001:db8::/32".into());
    let mut deny = filler(11);
    deny.push("127.5.7.0/24".into());
    deny.push("127.5.0.9".into());
    let lines = format!("allow = [{}]\ndeny = [{}]", quoted(allow), quoted(deny));
    let log = "workers = 2\npin = \"off\"\naccess_log = \"./access.log\"\n";
    let body = limited(address, &lines) + &pool("main", "", &[("a", backend.address)]);
    let ringway = Setup::new(body).global(log).start();
    assert!(knock(source(1), address).is_some());
    assert!(knock([127, 5, 8, 1].into(), address).is_some());
    for stranger in [[127, 5, 7, 3], [127, 5, 0, 9], [127, 6, 0, 1]] {
        assert!(knock(stranger.into(), address).is_none(), "{stranger:?}");
    }
    assert_eq!(refused(&ringway, "denied"), 3.0);
    assert_eq!(backend.accepted(), 2);
    // One line for each second and reason, however many they were.
    until(seconds(10), "the refusals are in the log", || {
        let log = std::fs::read_to_string(ringway.folder().join("access.log"));
        let log = log.unwrap_or_default();
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains("refused=denied"))
            .collect();
        let counts = lines
            .iter()
            .filter_map(|line| line.rsplit_once("count=")?.1.parse::<u32>().ok());
        assert!(lines.len() <= 3);
        counts.sum::<u32>() == 3
    });
}

/// A source is an IPv4 address or an IPv6 network of 64 bits.
#[test]
fn an_ipv6_source_is_its_64_bit_network() {
    if !namespace::inside("counts::an_ipv6_source_is_its_64_bit_network") {
        return;
    }
    let addresses = ["fd00:0:0:1::1", "fd00:0:0:1:9::2", "fd00:0:0:2::1"];
    for address in addresses {
        namespace::ip(&format!("-6 addr add {address}/128 dev lo nodad"));
    }
    let backend = Backend::named("a");
    let address: std::net::SocketAddr = "[::1]:5000".parse().unwrap();
    let lines = "source_max_connections = 1";
    let body = limited(address, lines) + &pool("main", "", &[("a", backend.address)]);
    let ringway = Setup::new(body).start();
    let knock_from = |from: &str| {
        let ip: std::net::Ipv6Addr = from.parse().unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let local = std::net::SocketAddr::from((ip, 0));
        socket.bind(&local.into()).unwrap();
        socket.connect(&address.into()).ok()?;
        let stream = TcpStream::from(socket);
        net::prepare(&stream).unwrap();
        super::read_line(&stream).ok().map(|_| stream)
    };
    let first = knock_from(addresses[0]).expect("the first of its network");
    assert!(knock_from(addresses[1]).is_none(), "the same network");
    let third = knock_from(addresses[2]).expect("another network");
    assert_eq!(refused(&ringway, "source-limit"), 1.0);
    assert!(is_alive(&first) && is_alive(&third));
}
