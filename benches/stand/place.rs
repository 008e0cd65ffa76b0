//! Where a run takes place: a fresh network namespace for each, so that no run inherits another's TIME_WAIT sockets or
//! route metrics, with loopback on cubic; and the probe that tells how far apart the two cores are at the moment.

use std::fs;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::system;

/// Load tool, backend and iperf3 run here.
pub const LOAD_CORE: usize = 0;
/// The balancer runs here.
pub const BALANCER_CORE: usize = 1;

pub const SMALL_LISTENER: u16 = 6000;
pub const BULK_LISTENER: u16 = 6001;
pub const SMALL_BACKEND: u16 = 7000;
pub const BULK_BACKEND: u16 = 7001;

const SETTINGS: &[(&str, &str)] = &[
    ("ipv4/ip_local_port_range", "10000 65000"),
    ("ipv4/tcp_tw_reuse", "1"),
    ("ipv4/tcp_max_syn_backlog", "65535"),
    ("core/somaxconn", "65535"),
];

/// Leaves the old namespace for a new one. The old one vanishes with the last process in it.
pub fn enter_fresh() -> io::Result<()> {
    system::enter_new_network()
        .map_err(|error| io::Error::other(format!("no network namespace: {error}; run as root")))?;
    for (name, value) in SETTINGS {
        fs::write(format!("/proc/sys/net/{name}"), value)
            .map_err(|error| io::Error::other(format!("net/{name} = {value}: {error}")))?;
    }
    ip("link set lo up")?;
    // The kernel's default congestion control may pace (BBR does); loopback needs none of that. By route, because the
    // setting of a namespace takes only what the whole machine allows to everybody.
    for prefix in ["127.0.0.0/8", "127.0.0.1"] {
        ip(&format!(
            "route replace local {prefix} dev lo proto kernel scope host src 127.0.0.1 table local congctl cubic"
        ))?;
    }
    Ok(())
}

fn ip(arguments: &str) -> io::Result<()> {
    let status = Command::new("ip")
        .args(arguments.split_ascii_whitespace())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("ip {arguments}: {status}")))
    }
}

/// Waits until something listens on the port; asked of the kernel, since a connection would be a session.
pub fn wait_for_listener(port: u16, patience: Duration) -> io::Result<()> {
    wait_for_socket(["tcp", "tcp6"], "0A", port, patience)
}

/// Waits until a socket for datagrams is bound to the port.
pub fn wait_for_bound(port: u16, patience: Duration) -> io::Result<()> {
    wait_for_socket(["udp", "udp6"], "07", port, patience)
}

fn wait_for_socket(
    tables: [&str; 2],
    wanted_state: &str,
    port: u16,
    patience: Duration,
) -> io::Result<()> {
    let start = Instant::now();
    let wanted = format!(":{port:04X} ");
    while start.elapsed() < patience {
        for table in tables {
            let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
            let listens = |line: &str| {
                let mut fields = line.split_ascii_whitespace().skip(1);
                let local = fields.next().unwrap_or_default();
                let state = fields.nth(1).unwrap_or_default();
                state == wanted_state && format!("{local} ").contains(&wanted)
            };
            if text.lines().any(listens) {
                return Ok(());
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    Err(io::Error::other(format!("nothing listens on port {port}")))
}

/// Nanoseconds for a word to go to the other core and back. A virtual machine's cores may move on the host, which is worth
/// 15 to 25 % in most figures: runs with a different distance must not be compared. The least of several tries, since
/// anything else that runs only adds to it.
pub fn core_distance_ns() -> f64 {
    const TRIES: u32 = 10;
    const ROUNDS: u32 = 1000;
    let word = AtomicU32::new(0);
    let mut least = f64::MAX;
    thread::scope(|scope| {
        scope.spawn(|| {
            if system::pin_self(&[BALANCER_CORE]).is_err() {
                return;
            }
            for round in 0..TRIES * ROUNDS {
                spin_until(&word, 2 * round + 1);
                word.store(2 * round + 2, Ordering::Release);
            }
        });
        let mut round = 0;
        for _ in 0..TRIES {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                word.store(2 * round + 1, Ordering::Release);
                spin_until(&word, 2 * round + 2);
                round += 1;
            }
            least = least.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
        }
    });
    least
}

fn spin_until(word: &AtomicU32, value: u32) {
    let mut start = None;
    let mut spins = 0u32;
    while word.load(Ordering::Acquire) != value {
        std::hint::spin_loop();
        spins += 1;
        // Pinning failed or the other core is taken: the figure is then void anyway, but the bench must not hang.
        if spins == 1 << 16 {
            spins = 0;
            let start = start.get_or_insert_with(Instant::now);
            if start.elapsed() > Duration::from_secs(1) {
                return;
            }
        }
    }
}
