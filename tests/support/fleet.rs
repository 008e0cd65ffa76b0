//! Three pools, 200 backends, each a server of its own: what operators of a large instance look at.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::backends::Backend;
use super::ringway::{Ringway, Setup, listener, pool_with};
use super::wait::{seconds, until};
use super::{http, net};

/// Name, algorithm, backends.
pub const POOLS: [(&str, &str, usize); 3] = [
    ("pg", "least-connections", 8),
    ("cache", "random", 52),
    ("web", "round-robin", 140),
];
pub const BACKENDS: usize = 200;

pub struct Fleet {
    pub ringway: Ringway,
    pub socket: PathBuf,
    servers: HashMap<String, Backend>,
    fronts: HashMap<&'static str, SocketAddr>,
    _checked: Backend,
}

/// Answers each line, a number, with so many bytes.
fn serve(stream: &TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    let piece = [b'.'; 16 * 1024];
    while lines.read_line(&mut line)? > 0 {
        let mut left: usize = line.trim().parse().unwrap_or(0);
        while left > 0 {
            let count = left.min(piece.len());
            (&*stream).write_all(&piece[..count])?;
            left -= count;
        }
        line.clear();
    }
    Ok(())
}

/// Asks for so many bytes and reads them.
pub fn ask(stream: &TcpStream, count: usize) -> io::Result<()> {
    let (mut reader, mut writer) = (stream, stream);
    writeln!(writer, "{count}")?;
    reader.read_exact(&mut vec![0; count])
}

impl Fleet {
    pub fn start() -> Fleet {
        Fleet::of(POOLS)
    }

    pub fn of(pools: [(&'static str, &str, usize); 3]) -> Fleet {
        // The first pool is checked at a port that always answers, so that only its breakers see what is dead.
        let checked = Backend::hold();
        let (mut servers, mut fronts) = (HashMap::new(), HashMap::new());
        let mut body = String::new();
        for (pool, algorithm, count) in pools {
            let name = |n: usize| match count {
                ..100 => format!("{pool}-{n:02}"),
                _ => format!("{pool}-{n:03}"),
            };
            let names: Vec<String> = (1..=count).map(name).collect();
            let members: Vec<(&str, String, &str)> = (0..count)
                .map(|n| {
                    let server = Backend::serve(serve);
                    let address = server.address.to_string();
                    servers.insert(format!("{pool}/{}", names[n]), server);
                    let own = match (pool, n % 20) {
                        ("pg", _) => "max_connections = 40",
                        (_, 7) => "weight = 200",
                        _ => "",
                    };
                    (names[n].as_str(), address, own)
                })
                .collect();
            let port = match pool {
                "pg" => format!(
                    "port = {}\n[pool.breaker]\nopen = \"3s\"\n",
                    checked.address.port()
                ),
                _ => String::new(),
            };
            let health = format!(
                "[pool.health]\nkind = \"tcp\"\ninterval = \"1s\"\nfast_interval = \"100ms\"\nfall = 2\n{port}"
            );
            let front = net::free_address();
            fronts.insert(pool, front);
            let lines = format!("algorithm = \"{algorithm}\"");
            body += &listener(pool, front, pool);
            body += &pool_with(pool, &lines, &health, &members);
        }
        let setup = Setup::new(body).workers(2);
        let ringway = setup.with_socket().start();
        let fleet = Fleet {
            socket: ringway.socket(),
            ringway,
            servers,
            fronts,
            _checked: checked,
        };
        until(seconds(20), "each backend was checked once", || {
            let status = fleet.ringway.status();
            let pools = status["pools"].as_array().unwrap().iter();
            let mut backends = pools.flat_map(|pool| pool["backends"].as_array().unwrap());
            backends.all(|backend| backend["health"] != "unknown")
        });
        fleet
    }

    pub fn front(&self, pool: &str) -> SocketAddr {
        self.fronts[pool]
    }

    /// Sessions that stay, each with a backend.
    pub fn hold(&self, pool: &str, count: usize) -> Vec<TcpStream> {
        let one = |_| {
            let stream = net::connect(self.front(pool));
            ask(&stream, 100).expect("it is served");
            stream
        };
        (0..count).map(one).collect()
    }

    pub fn kill(&mut self, name: &str) {
        self.servers.get_mut(name).expect("a backend").kill();
    }

    pub fn revive(&mut self, name: &str) {
        let address = self.servers[name].address;
        let server = Backend::serve_on(net::listen(address), serve);
        self.servers.insert(name.to_owned(), server);
    }

    /// The operator's word about `POOL/BACKEND`.
    pub fn say(&self, name: &str, admin: &str) {
        let (pool, backend) = name.split_once('/').expect("POOL/BACKEND");
        let path = format!("/v1/pools/{pool}/backends/{backend}");
        let body = format!("{{\"admin\": \"{admin}\"}}");
        let (code, answer) = http::over_socket(&self.socket, "PUT", &path, &body).unwrap();
        assert_eq!(code, 200, "{answer}");
    }

    pub fn wait_health(&self, name: &str, health: &str) {
        let (_, backend) = name.split_once('/').expect("POOL/BACKEND");
        self.ringway.wait_state(backend, health, seconds(20));
    }

    /// Kills one of the first pool, and sends clients until its breaker is open.
    pub fn eject(&mut self, name: &str) {
        self.kill(name);
        let (pool, backend) = name.split_once('/').expect("POOL/BACKEND");
        let labels = [("backend", backend), ("state", "ejected")];
        for _ in 0..400 {
            drop(self.hold(pool, 1));
            if self.ringway.metrics().sum("ringway_backend_state", &labels) == 1.0 {
                return;
            }
        }
        panic!("{name} is not ejected");
    }
}

/// Clients that come one after the other, and go.
pub struct Steady {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Steady {
    /// One each `pause`, that asks for `count` bytes.
    pub fn start(front: SocketAddr, pause: Duration, count: usize) -> Steady {
        let (stop, served) = (Arc::default(), Arc::default());
        let (ours, counter) = (Arc::clone(&stop), Arc::clone(&served));
        let thread = std::thread::spawn(move || {
            let stop: Arc<AtomicBool> = ours;
            let served: Arc<AtomicU64> = counter;
            while !stop.load(Ordering::SeqCst) {
                let stream = net::connect(front);
                ask(&stream, count).expect("it is served");
                served.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(pause);
            }
        });
        Steady {
            stop,
            served,
            thread: Some(thread),
        }
    }

    pub fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(!matches!(ended, Some(Err(_))), "a client was not served");
        }
    }
}
