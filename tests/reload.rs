//! Two hundred reloads under load (a thousand with `RINGWAY_SOAK`), each changing something of many kinds: no client fails,
//! sessions from before the first one still carry their bytes, no flow moves or is left without an answer, memory and
//! descriptors stay flat, and what the file says is what happens.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use support::backends::{Backend, read_line};
use support::datagrams::{Echo, ask, client};
use support::load::{Load, exchange};
use support::ringway::{Ringway, Setup, listener, pool, pool_with, single};
use support::wait::{seconds, until};
use support::{alone, net, process, soak};

const ALGORITHMS: [&str; 6] = [
    "round-robin",
    "least-connections",
    "power-of-two",
    "random",
    "first",
    "source-hash",
];

/// The parts of the world that the reloads turn.
struct Parts {
    main: SocketAddr,
    extra: SocketAddr,
    range: SocketAddr,
    backends: Vec<Backend>,
    datagrams: SocketAddr,
    more_datagrams: SocketAddr,
    echos: Vec<Echo>,
}

impl Parts {
    fn new() -> Parts {
        Parts {
            main: net::free_address(),
            extra: net::free_address(),
            range: net::free_range(4),
            backends: (0..4).map(|_| Backend::echo()).collect(),
            datagrams: net::free_address(),
            more_datagrams: net::free_address(),
            echos: ["a", "b", "c"].map(Echo::named).into(),
        }
    }

    /// What the `n`-th configuration says is so.
    fn serve(&self, n: usize) {
        if n % 3 == 1 {
            round_trip(self.extra).expect("the new listener serves");
        }
        if n % 24 == 13 {
            let answer = ask(&client(self.more_datagrams), b"?").expect("the new listener serves");
            assert_eq!(answer.len(), 2);
        }
        let last = self.range.port() + (n % 4) as u16;
        round_trip((self.range.ip(), last).into()).expect("the last port of the range");
        if n % 4 < 3 {
            let beyond = (self.range.ip(), last + 1).into();
            net::try_connect(beyond).expect_err("a port that the range no longer has");
        }
    }

    /// Two of three backends in turn: a flow stays at one that is not among them. And a listener that comes and goes.
    fn datagram_config(&self, n: usize) -> String {
        let front = |name: &str, address: SocketAddr| {
            listener(name, address, "datagrams").trim_end().to_owned() + "\nprotocol = \"udp\"\n\n"
        };
        let mut text = front("datagrams", self.datagrams);
        if n % 2 == 1 {
            text += &front("more-datagrams", self.more_datagrams);
        }
        let members: Vec<_> = (0..2)
            .map(|i| {
                let index = (n / 5 + i) % self.echos.len();
                let address = self.echos[index].address.to_string();
                (["a", "b", "c"][index], address, "")
            })
            .collect();
        let lines = format!("algorithm = \"{}\"", ALGORITHMS[n % ALGORITHMS.len()]);
        let tables = format!(
            "[pool.health]\nkind = \"none\"\n[pool.udp]\nidle_timeout = \"{}s\"\n",
            60 + n % 3
        );
        text + &pool_with("datagrams", &lines, &tables, &members)
    }

    /// The `n`-th configuration; consecutive ones differ in several respects: listeners that come and go, ranges of ports,
    /// limits of clients, algorithm, attempts, timeouts, waiting, members, their limits, weights and tiers, checks, breakers,
    /// warm connections. Every twelfth has the same listeners, and none of the last three.
    fn config(&self, n: usize) -> String {
        let mut text = listener("main", self.main, "main");
        if n % 4 == 1 {
            text = text.trim_end().to_owned() + "\nsource_max_connections = 500\n\n";
        }
        if n % 3 == 1 {
            text += &listener("extra", self.extra, "main");
        }
        // A range of one to four ports.
        let (ip, port) = (self.range.ip(), self.range.port());
        text += &listener(
            "range",
            format!("{ip}:{port}-{}", port + (n % 4) as u16),
            "main",
        );
        let lines = format!(
            "algorithm = \"{}\"\nconnect_attempts = {}\nidle_timeout = \"{}s\"\nwait = {{ size = {}, timeout = \"20s\" }}",
            ALGORITHMS[n % ALGORITHMS.len()],
            3 + n % 3,
            300 + n,
            100 + n
        );
        // Three of the four backends, one of them with a changing limit and weight.
        let limit = format!("max_connections = {}\nweight = {}", 200 + n, 1 + n % 100);
        let members: Vec<_> = (0..3)
            .map(|i| {
                let index = (n / 5 + i) % self.backends.len();
                let own = match i {
                    0 => limit.as_str(),
                    2 if n % 6 == 3 => "tier = 1",
                    _ => "",
                };
                (
                    ["a", "b", "c", "d"][index],
                    self.backends[index].address.to_string(),
                    own,
                )
            })
            .collect();
        let mut tables = match n % 2 {
            0 => "[pool.health]\nkind = \"none\"\n".to_owned(),
            _ => "[pool.health]\nkind = \"tcp\"\n".to_owned(),
        };
        if n % 3 == 2 {
            tables += "[pool.breaker]\nconsecutive_failures = 0\nerror_percent = 0\n";
        }
        if n % 4 == 2 {
            tables += "[pool.warm]\nsize = 2\n";
        }
        text + &pool_with("main", &lines, &tables, &members) + &self.datagram_config(n)
    }
}

fn round_trip(address: SocketAddr) -> io::Result<()> {
    let stream = net::try_connect(address)?;
    exchange(&stream, &[7; 500])
}

#[test]
fn many_reloads_under_load() {
    let _alone = alone();
    for (workers, reloads) in [(1, 60), (2, 200)] {
        reload_under_load(workers, if soak() { 5 * reloads } else { reloads });
    }
}

fn reload_under_load(workers: usize, reloads: usize) {
    let parts = Parts::new();
    let mut ringway = Setup::new(parts.config(0)).workers(workers).start();
    // From before the first one, to the last: nobody comes in their place.
    let stay = Load::on(parts.main, 0, 4);
    let load = Load::on(parts.main, 4, 0).and_flows(parts.datagrams, 3);
    load.goes_on(100);
    until(seconds(10), "all four are served", || stay.served() == 4);
    let mut memory = Vec::new();
    let mut descriptors = Vec::new();
    for n in 1..=reloads {
        if n % 10 == 7 {
            ringway.rewrite(parts.config(n).replace("weight =", "wieght ="));
            assert!(!ringway.reload(), "reload {n} is invalid");
        } else {
            ringway.rewrite(parts.config(n));
            assert!(ringway.reload(), "reload {n}: {}", ringway.stderr());
            parts.serve(n);
        }
        stay.goes_on(4);
        // Every twelfth configuration has the same listeners.
        if n % 12 == 0 {
            memory.push(process::resident_kib(ringway.pid()));
            let found = process::settled_descriptors(ringway.pid());
            descriptors.push(found.all - found.sockets);
        }
    }
    load.goes_on(100);
    assert_eq!(stay.sessions(), 4);
    stay.end();
    let done = load.end();
    println!(
        "{workers} workers, {reloads} reloads, {done:?}, nobody failed; KiB {memory:?}, descriptors but sockets {descriptors:?}"
    );
    assert!(done.sessions > 10 * reloads as u64, "{done:?}");
    ringway.wait_empty();
    let metrics = ringway.metrics();
    for nothing in [
        "ringway_refused_total",
        "ringway_udp_flows_moved_total",
        "ringway_udp_drops_total",
    ] {
        assert_eq!(metrics.sum(nothing, &[]), 0.0, "{nothing}");
    }
    is_flat(&memory, &descriptors);
    ringway.rewrite(parts.config(12));
    assert!(ringway.reload());
    let one = process::descriptors(ringway.pid()).sockets;
    ringway.rewrite(parts.config(24));
    assert!(ringway.reload());
    until(seconds(5), "sockets of listeners are as before", || {
        process::descriptors(ringway.pid()).sockets <= one
    });
}

/// The first tenth is warming up; after that nothing may grow.
fn is_flat(memory: &[u64], descriptors: &[usize]) {
    let (early, late) = (memory[2], memory[memory.len() - 1]);
    assert!(
        late <= early + early / 10 + 2_048,
        "KiB over the reloads: {memory:?}"
    );
    let (early, late) = (descriptors[2], descriptors[descriptors.len() - 1]);
    assert!(
        late <= early + 4,
        "descriptors but sockets over the reloads: {descriptors:?}"
    );
}

/// A refused reload changes nothing and says why where people look.
#[test]
fn a_refused_reload_changes_nothing_and_is_reported() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let mut ringway = Ringway::start(single(address, backend.address));
    ringway.rewrite(single(address, backend.address) + "surprise = 1\n");
    assert!(!ringway.reload());
    assert!(
        ringway.stderr().contains("surprise"),
        "{}",
        ringway.stderr()
    );
    let status = ringway.status().to_string();
    assert!(status.contains("surprise"), "{status}");
    assert_eq!(read_line(net::connect(address)).expect("served"), "a");

    // An address that cannot be bound refuses the whole reload, too.
    let holder = net::listen(net::free_address());
    let taken = holder.local_addr().expect("address");
    let more = listener("more", taken, "main");
    let other = Backend::named("b");
    ringway.rewrite(more + &single(address, other.address));
    assert!(!ringway.reload());
    assert!(
        ringway.stderr().contains(&taken.to_string()),
        "{}",
        ringway.stderr()
    );
    assert_eq!(read_line(net::connect(address)).expect("served"), "a");

    // What a process cannot change is refused and named.
    let text = format!(
        "[global]\nworkers = 2\npin = \"off\"\n[admin]\nbind = \"{}\"\n{}",
        ringway.admin(),
        single(address, backend.address)
    );
    ringway.write_raw(&text);
    assert!(!ringway.reload());
    assert!(ringway.stderr().contains("workers"), "{}", ringway.stderr());
}

/// Removed listeners stop accepting, their sessions live on; removed backends drain.
#[test]
fn what_is_removed_keeps_its_sessions() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let (one, two) = (net::free_address(), net::free_address());
    let both = listener("one", one, "main") + &listener("two", two, "main");
    let mut ringway = Ringway::start(both + &pool("main", "", &[("a", a.address)]));
    let mut old = net::connect(two);
    assert_eq!(read_line(&old).expect("a name"), "a");

    ringway.rewrite(listener("one", one, "main") + &pool("main", "", &[("b", b.address)]));
    assert!(ringway.reload());
    net::try_connect(two).expect_err("the removed listener does not accept");
    assert_eq!(read_line(net::connect(one)).expect("a name"), "b");
    old.write_all(b"still here\n").expect("send");
    assert_eq!(read_line(&old).expect("echo"), "still here");
    // What it carries is counted as before.
    let of_two = |name: &str| ringway.metrics().sum(name, &[("listener", "two")]);
    assert_eq!(of_two("ringway_sessions_active"), 1.0);
    until(seconds(5), "its bytes are counted", || {
        of_two("ringway_bytes_total") == f64::from(2 + 2 * 11)
    });
    drop(old);
    until(
        seconds(5),
        "the old session has ended at its backend",
        || a.active() == 0,
    );
    ringway.wait_empty();
}

/// `on_drain = "close"`: a removed backend's sessions are closed, those of others not.
#[test]
fn on_drain_close_ends_the_sessions_of_a_removed_backend() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let address = net::free_address();
    let lines = "algorithm = \"round-robin\"\non_drain = \"close\"";
    let body = |members: &[(&str, SocketAddr)]| {
        listener("main", address, "main") + &pool("main", lines, members)
    };
    let mut ringway = Ringway::start(body(&[("a", a.address), ("b", b.address)]));
    let mut sessions: Vec<_> = (0..10)
        .map(|_| {
            let stream = net::connect(address);
            let name = read_line(&stream).expect("a name");
            (stream, name)
        })
        .collect();
    ringway.rewrite(body(&[("b", b.address)]));
    assert!(ringway.reload());
    for (stream, name) in &mut sessions {
        if name == "a" {
            stream
                .set_read_timeout(Some(seconds(3)))
                .expect("a time limit");
            let ended = stream.read(&mut [0; 1]);
            assert!(
                matches!(&ended, Ok(0)) || ended.as_ref().is_err_and(net::is_reset),
                "{ended:?}"
            );
        } else {
            stream.write_all(b"on\n").expect("send");
            assert_eq!(read_line(&*stream).expect("echo"), "on");
        }
    }
    let drained = ringway
        .metrics()
        .sum("ringway_session_ends_total", &[("end", "drained")]);
    assert_eq!(drained, 5.0);
}

/// New limits hold at once, for those who come.
#[test]
fn a_changed_limit_holds_at_once() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let body = |limit: u32| {
        format!(
            "[[listener]]\nname = \"main\"\nbind = \"{address}\"\npool = \"main\"\nmax_connections = {limit}\n\n"
        ) + &pool("main", "", &[("a", backend.address)])
    };
    let mut ringway = Ringway::start(body(5));
    let open = || {
        let stream = net::try_connect(address)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a time limit");
        read_line(&stream).map(|_| stream)
    };
    let mut kept: Vec<_> = (0..5).map(|_| open().expect("within the limit")).collect();
    open().expect_err("over the limit");
    ringway.rewrite(body(8));
    assert!(ringway.reload());
    kept.extend((0..3).map(|_| open().expect("within the new limit")));
    open().expect_err("over the new limit");
    ringway.rewrite(body(2));
    assert!(ringway.reload());
    open().expect_err("over the lowered limit");
    for stream in &mut kept {
        stream.write_all(b"x\n").expect("send");
        assert_eq!(read_line(&*stream).expect("a kept session lives"), "x");
    }
}

/// What waits in the queues of removed addresses is let in as room comes, as far as a worker may keep it; the rest is told at
/// once that it will not be.
#[test]
fn a_removed_queue_beyond_what_may_wait_is_refused_and_counted() {
    const MAY_WAIT: usize = 4_096;
    let _alone = alone();
    net::raise_descriptor_limit();
    let backend = Backend::named("a");
    let (stays, one, two) = (
        net::free_address(),
        net::free_address(),
        net::free_address(),
    );
    let main = listener("main", stays, "main");
    let all = format!("bind = [\"{stays}\", \"{one}\", \"{two}\"]");
    let body = main.replace(&format!("bind = \"{stays}\""), &all);
    let members = pool("main", "", &[("a", backend.address)]);
    let setup = Setup::new(body + &members).global("max_sessions = 4\nworkers = 1");
    let mut ringway = setup.start();
    let holders: Vec<_> = (0..4).map(|_| net::connect(stays)).collect();
    for holder in &holders {
        assert_eq!(read_line(holder).expect("has room"), "a");
    }
    let waiting: Vec<_> = (0..3_000)
        .flat_map(|_| [net::connect(one), net::connect(two)])
        .collect();
    ringway.rewrite(main + &members);
    assert!(ringway.reload());

    let refused = || {
        let counted = [("reason", "resources")];
        ringway.metrics().sum("ringway_refused_total", &counted)
    };
    let beyond = (waiting.len() - MAY_WAIT) as f64;
    until(seconds(10), "those beyond are refused", || {
        refused() >= beyond
    });
    assert_eq!(refused(), beyond);
    // The news of a reset is told once.
    let mut gone = vec![false; waiting.len()];
    until(seconds(10), "they see it", || {
        for (client, gone) in waiting.iter().zip(&mut gone).filter(|(_, gone)| !**gone) {
            client.set_nonblocking(true).expect("nonblocking");
            match client.peek(&mut [0]) {
                Ok(bytes) => panic!("{bytes} bytes although there is no room"),
                Err(error) => *gone = net::is_reset(&error),
            }
        }
        gone.iter().filter(|gone| **gone).count() as f64 >= beyond
    });

    drop(holders);
    let served = |client: &std::net::TcpStream| client.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
    until(
        seconds(10),
        "the first of those who wait are served",
        || waiting.iter().filter(|it| served(it)).count() == 4,
    );
    drop(waiting);
    ringway.wait_empty();
    assert_eq!(read_line(net::connect(stays)).expect("served as ever"), "a");
}
