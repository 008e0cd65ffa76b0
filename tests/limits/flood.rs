//! A flood of clients that are refused, from a thousand addresses behind a veth pair, in networks that the test makes and
//! that go with it. Who was let in before must not feel it more than the same flood against a program that does nothing
//! but reset: two cores are shared with the flood itself.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::support::backends::Backend;
use super::support::ringway::{Setup, listener, pool};
use super::support::wait::{seconds, until};
use super::support::{namespace, net, process};
use super::{is_cut, refused};

const SOURCES: usize = 1000;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const PER_SECOND: usize = 6_000;
/// Per round: refused by a plain program, and by ringway.
const PLAIN: usize = 10_000;
const REFUSED: usize = 25_000;
const ROUNDS: usize = 4;
const TRIES: usize = 3;
const GROWTH_KIB: u64 = 8 * 1024;

fn flooder(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 98, (number / 200) as u8, 1 + (number % 200) as u8)
}

/// The helper at the other end of the veth pair.
struct Flooder {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Flooder {
    fn start() -> Flooder {
        let mut child = namespace::helper("flood::flood_helper");
        let orders = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut flooder = Flooder {
            child,
            orders,
            answers,
        };
        flooder.answer("ready");
        flooder
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("tell the helper");
    }

    /// What it says after this word; the test harness's own lines are passed over.
    fn answer(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.answers.read_line(&mut line).expect("hear the helper");
            assert!(read > 0, "the helper ended");
            if let Some(rest) = line.trim().strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }

    fn flood(&mut self, address: SocketAddr, count: usize) {
        self.order(&format!("flood {address} {count}"));
        let cut = self.answer("cut");
        assert_eq!(cut, count.to_string(), "all of them were reset");
    }
}

impl Drop for Flooder {
    fn drop(&mut self) {
        let _ = writeln!(self.orders, "end");
        process::end(&mut self.child, "TERM");
    }
}

/// Not a test: what a flooder runs in its own network.
#[test]
#[ignore = "run by the test of the flood"]
fn flood_helper() {
    if !namespace::is_helper("flood::flood_helper") {
        return;
    }
    println!("ready");
    let mut held = Vec::new();
    for line in io::stdin().lines() {
        let line = line.expect("an order");
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["network"] => {
                namespace::ip("link set lo up");
                namespace::ip("link set outside up");
                namespace::ip(&format!("addr add {GATEWAY}/24 dev outside"));
                let lines =
                    (0..SOURCES).map(|i| format!("addr add {}/32 dev outside\n", flooder(i)));
                namespace::ip_batch(&lines.collect::<String>());
                println!("up");
            }
            ["hold", address] => {
                let address = address.parse().unwrap();
                let sources = (0..SOURCES).map(flooder);
                held.extend(sources.map(|it| net::connect_with(Some(it), address, 0).unwrap()));
                println!("held {}", held.len());
            }
            ["flood", address, count] => {
                let count = count.parse().unwrap();
                println!("cut {}", flood(address.parse().unwrap(), count));
            }
            _ => break,
        }
    }
}

/// Two threads, each at half of the pace; counts who was reset.
fn flood(address: SocketAddr, count: usize) -> usize {
    let half = |first: usize| {
        let began = Instant::now();
        let mut cut = 0;
        for i in (first..count).step_by(2) {
            let due = Duration::from_secs_f64(i as f64 / PER_SECOND as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            cut += usize::from(is_turned_away(flooder(i % SOURCES), address));
        }
        cut
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        half(0) + other.join().unwrap()
    })
}

fn is_turned_away(source: Ipv4Addr, address: SocketAddr) -> bool {
    let read =
        net::connect_with(Some(source), address, 0).and_then(|mut stream| stream.read(&mut [0; 1]));
    read.is_err_and(|error| is_cut(&error))
}

/// Accepts and resets at once, nothing else.
fn resetter() -> SocketAddr {
    let listener = net::listen(SocketAddr::from((SERVER, 7_000)));
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            net::reset(stream);
        }
    });
    address
}

/// The round trips of one client that was let in, one each two milliseconds, as long as `work` lasts.
fn round_trips_during(stream: &mut TcpStream, work: impl FnOnce()) -> Vec<Duration> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut taken = Vec::new();
            let mut piece = [7; 64];
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                stream.write_all(&piece).expect("send");
                stream.read_exact(&mut piece).expect("the echo");
                taken.push(began.elapsed());
                std::thread::sleep(Duration::from_millis(2));
            }
            taken
        });
        work();
        over.store(true, Ordering::Relaxed);
        client.join().unwrap()
    })
}

fn p99(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples[samples.len() * 99 / 100]
}

#[test]
fn a_flood_of_refused_clients_leaves_the_others_alone() {
    if !namespace::inside("flood::a_flood_of_refused_clients_leaves_the_others_alone") {
        return;
    }
    let mut flooder = Flooder::start();
    let pid = flooder.child.id();
    namespace::ip(&format!(
        "link add inside type veth peer name outside netns {pid}"
    ));
    namespace::ip(&format!("addr add {SERVER}/24 dev inside"));
    namespace::ip("link set inside up");
    // Behind a gateway, so that a thousand addresses are one neighbour.
    namespace::ip(&format!("route add 10.98.0.0/16 via {GATEWAY}"));
    flooder.order("network");
    flooder.answer("up");

    let (echo, held) = (Backend::echo(), Backend::hold());
    let served = SocketAddr::from((SERVER, 5_000));
    let flooded = SocketAddr::from((SERVER, 6_000));
    let body = listener("front", served, "front")
        + &listener("main", flooded, "main")
            .replace("pool =", "source_max_connections = 1\npool =")
        + &pool("front", "", &[("echo", echo.address)])
        + &pool("main", "", &[("held", held.address)]);
    let ringway = Setup::new(body).start();
    // Each source has the one session that it may have.
    flooder.order(&format!("hold {flooded}"));
    assert_eq!(flooder.answer("held"), SOURCES.to_string());
    until(seconds(20), "all of them have a backend", || {
        held.active() == SOURCES as u64
    });
    assert_eq!(ringway.metric("ringway_sources_active"), SOURCES as f64);

    let plain = resetter();
    let mut client = net::connect(served);
    // The first of everything is dear: tables that grow, code that was never run.
    flooder.flood(flooded, 2_000);
    let resident = process::resident_kib(ringway.pid());
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let (mut quiet, mut loud) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            quiet.extend(round_trips_during(&mut client, || {
                flooder.flood(plain, PLAIN);
            }));
            loud.extend(round_trips_during(&mut client, || {
                flooder.flood(flooded, REFUSED);
            }));
        }
        let (without, with) = (p99(&mut quiet), p99(&mut loud));
        println!("p99 {without:?} beside a plain resetter, {with:?} beside ringway's refusals");
        seen.push((without, with));
        if with <= without * 2 {
            break;
        }
    }
    assert!(
        seen.last()
            .is_some_and(|(without, with)| *with <= *without * 2),
        "{seen:?}"
    );
    let refusals = refused(&ringway, "source-limit");
    assert_eq!(refusals, (2_000 + seen.len() * ROUNDS * REFUSED) as f64);
    assert!(refusals >= 100_000.0);
    let grown = process::resident_kib(ringway.pid()).saturating_sub(resident);
    assert!(
        grown <= GROWTH_KIB,
        "{grown} KiB more than before the flood"
    );
    assert_eq!(ringway.metric("ringway_sources_active"), SOURCES as f64);
    assert_eq!(held.active(), SOURCES as u64);
}
