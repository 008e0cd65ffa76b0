//! Session records into systemd's journal as fast as sessions come: each is an entry or counted as lost, and a worker pays
//! next to nothing for it. `RINGWAY_SOAK=1` measures longer, and then holds the figures to their bounds.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::container::Container;
use super::support::backends::{Backend, read_line};
use super::support::datagrams::{Echo, ask, client};
use super::support::metrics::Metrics;
use super::support::ringway::{listener, pool_with, single};
use super::support::servers::is_root;
use super::support::wait::{seconds, until};
use super::support::{alone, http, net, process, soak};
use super::unit_with;

/// Of a worker's time, for one record.
const BOUND: Duration = Duration::from_micros(2);
/// Rounds whose entries are counted in the journal: beyond some 30,000 the one in the container was seen to forget the oldest.
const COUNTED: usize = 2;
/// Flows that come in a second, in bursts of so many.
const FLOWS: u32 = 20_000;
const BURST: u32 = 200;

/// A service in a container that is driven with its records in the journal, and without records.
struct Measured {
    container: Container,
    admin: SocketAddr,
    /// The configurations with records and without.
    texts: [String; 2],
    records_each: u64,
}

/// What so many sessions with records were written as.
struct Records {
    sessions: u64,
    entries: f64,
    /// Of the worker, in seconds for each session with records and each without.
    costs: [f64; 2],
    /// Of the sessions with records.
    per_second: f64,
}

impl Measured {
    fn boot(body: &str, lines: &str, records_each: u64) -> Measured {
        assert!(is_root(), "a container needs root: run the tests as root");
        let admin = net::free_address();
        let texts = ["stderr", "off"].map(|log| {
            format!(
                "[global]\nworkers = 1\npin = \"off\"\naccess_log = \"{log}\"\n{lines}\n[admin]\nbind = \"{admin}\"\n\n{body}"
            )
        });
        let unit = unit_with("/ringway run -c /etc/ringway/config.toml");
        let container = Container::boot(&unit, &texts[0]);
        until(seconds(30), "the service serves", || {
            http::get(admin, "/readyz").is_ok_and(|(code, _)| code == 200)
        });
        Measured {
            container,
            admin,
            texts,
            records_each,
        }
    }

    fn metrics(&self) -> Metrics {
        let (_, text) = http::get(self.admin, "/metrics").expect("metrics");
        Metrics::parse(&text)
    }

    fn written(&self) -> f64 {
        self.metrics().sum("ringway_access_log_lines_total", &[])
    }

    fn lost(&self) -> f64 {
        let lost = "ringway_access_log_lines_lost_total";
        self.metrics().sum(lost, &[])
    }

    /// Entries of sessions that have come since the last call.
    fn new_entries(&self) -> f64 {
        let count = "journalctl -u ringway -o cat --cursor-file=/run/seen RINGWAY_LISTENER=main | grep -c ' end='; true";
        let said = self.container.inside(&["sh", "-c", count]).stdout;
        let said = String::from_utf8_lossy(&said);
        said.trim().parse().expect("a number")
    }

    /// How many sessions this load brought, in what time, and the worker's time for each, in seconds.
    fn cost(&self, load: &dyn Fn() -> u64) -> (u64, Duration, f64) {
        let pid = self.container.process("ringway");
        let before = process::cpu_time_of(pid, "worker");
        let began = Instant::now();
        let sessions = load();
        let took = began.elapsed();
        until(seconds(20), "the last session ended", || {
            let (metrics, main) = (self.metrics(), [("listener", "main")]);
            let kinds = ["ringway_sessions_active", "ringway_udp_flows_active"];
            kinds.iter().all(|name| metrics.sum(name, &main) == 0.0)
        });
        let spent = process::cpu_time_of(pid, "worker") - before;
        (sessions, took, spent.as_secs_f64() / sessions as f64)
    }

    /// Drives the load in turn with records and without, and sees that each record is in the journal or counted as lost.
    fn drive(&self, load: &dyn Fn() -> u64) -> Records {
        let mut costs = [Vec::new(), Vec::new()];
        let (mut logged, mut entries, mut took) = (0, 0.0, Duration::ZERO);
        let rounds = if soak() { 20 } else { COUNTED };
        for round in 0..rounds {
            for (place, text) in self.texts.iter().enumerate() {
                self.container.configure(text);
                self.container.systemctl(&["reload", "ringway"]);
                let (sessions, span, cost) = self.cost(load);
                costs[place].push(cost);
                if place > 0 {
                    continue;
                }
                took += span;
                logged += sessions;
                let records = (logged * self.records_each) as f64;
                until(seconds(60), "each is written and in the journal", || {
                    let written = self.written();
                    if round < COUNTED {
                        entries += self.new_entries();
                    }
                    let counted = round >= COUNTED || entries == written;
                    counted && written + self.lost() >= records
                });
            }
        }
        assert_eq!(
            self.written() + self.lost(),
            (logged * self.records_each) as f64
        );
        Records {
            sessions: logged,
            entries,
            costs: costs.map(|mut costs| {
                costs.sort_by(f64::total_cmp);
                costs[costs.len() / 2]
            }),
            per_second: (logged * self.records_each) as f64 / took.as_secs_f64(),
        }
    }

    /// While the journal stands still nobody waits for it, and each record is written or counted as lost.
    fn stall_the_journal(&self, load: &dyn Fn() -> u64) {
        self.container.configure(&self.texts[0]);
        self.container.systemctl(&["reload", "ringway"]);
        let before = self.written() + self.lost();
        let journal = self.container.process("systemd-journal");
        process::signal(journal, "STOP");
        until(seconds(5), "the journal stands still", || {
            process::states(journal).iter().all(|state| *state == 'T')
        });
        let mut sessions = 0;
        for _ in 0..3 {
            let (more, took, _) = self.cost(load);
            assert!(
                took < seconds(3),
                "sessions waited for the journal: {took:?}"
            );
            sessions += more;
        }
        process::signal(journal, "CONT");
        assert!(sessions > 300, "{sessions} sessions in three rounds");
        let records = before + (sessions * self.records_each) as f64;
        until(seconds(20), "each record is written or lost", || {
            self.written() + self.lost() >= records
        });
        assert_eq!(self.written() + self.lost(), records);
        println!(
            "beside a stalled journal: {sessions} sessions, {} records lost in all",
            self.lost()
        );
    }

    fn tell(&self, records: &Records) {
        let [with, without] = records.costs;
        let each = (with - without) / self.records_each as f64;
        println!(
            "{} records, {:.0} a second, {} of the first found in the journal, {} lost; a session costs a worker {:.1} us with its records, \
             {:.1} us without: {:.2} us a record",
            records.sessions * self.records_each,
            records.per_second,
            records.entries,
            self.lost(),
            with * 1e6,
            without * 1e6,
            each * 1e6
        );
        if soak() {
            assert!(each <= BOUND.as_secs_f64(), "{:.2} us", each * 1e6);
        }
    }
}

/// Clients that come and go for a while; how many there were.
fn crowd(address: SocketAddr) -> u64 {
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let stream = net::connect(address);
                    assert_eq!(read_line(&stream).expect("served"), "a");
                    net::reset(stream);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        thread::sleep(Duration::from_millis(700));
        stop.store(true, Ordering::SeqCst);
    });
    served.into_inner()
}

/// A start, a connection and an end of each.
#[test]
fn records_are_in_the_journal_or_counted_and_cost_a_worker_little() {
    let _alone = alone();
    let backend = Backend::named("a");
    let address = net::free_address();
    let body = single(address, backend.address);
    let measured = Measured::boot(&body, "log_interval = \"1h\"", 3);
    let records = measured.drive(&|| crowd(address));
    measured.tell(&records);
    measured.stall_the_journal(&|| crowd(address));
}

/// Sources that ask at a steady rate, each question a flow of its own as its only answer ends it; and how many were
/// answered. Beside them somebody in one long flow, whose slowest answers tell what the load does to others.
struct Askers {
    sockets: Vec<UdpSocket>,
    beside: UdpSocket,
    waits: std::cell::RefCell<Vec<Duration>>,
}

impl Askers {
    fn before(flows: SocketAddr, beside: SocketAddr) -> Askers {
        Askers {
            sockets: (0..BURST).map(|_| client(flows)).collect(),
            beside: client(beside),
            waits: std::cell::RefCell::default(),
        }
    }

    fn ask(&self) -> u64 {
        // Half a second: the journal has no room for much more.
        let bursts = FLOWS / BURST / 2;
        let pause = seconds(1) * BURST / FLOWS;
        let began = Instant::now();
        for burst in 0..bursts {
            for socket in &self.sockets {
                socket.send(b"?").expect("sent");
            }
            let asked = Instant::now();
            assert_eq!(ask(&self.beside, b"beside").expect("served"), b"beside");
            self.waits.borrow_mut().push(asked.elapsed());
            for socket in &self.sockets {
                assert_eq!(socket.recv(&mut [0; 8]).expect("an answer"), 1);
            }
            thread::sleep((pause * (burst + 1)).saturating_sub(began.elapsed()));
        }
        u64::from(bursts * BURST)
    }

    fn slowest_of_a_hundred(&self) -> Duration {
        let mut waits = self.waits.take();
        waits.sort();
        waits[waits.len() * 99 / 100]
    }
}

#[test]
fn twenty_thousand_records_a_second_cost_a_worker_little() {
    let _alone = alone();
    let echo = Echo::plain();
    let [flows, beside] = [(); 2].map(|()| net::free_address());
    let front = |name, address| {
        listener(name, address, name).trim_end().to_owned() + "\nprotocol = \"udp\"\n\n"
    };
    let pool = |name, lines: &str| {
        let tables = format!("[pool.udp]\n{lines}\n[pool.health]\nkind = \"none\"\n");
        pool_with(name, "", &tables, &[("a", echo.address.to_string(), "")])
    };
    let body = front("main", flows)
        + &front("beside", beside)
        + &pool("main", "responses = 1")
        + &pool("beside", "idle_timeout = \"1h\"");
    let measured = Measured::boot(&body, "", 1);
    let askers = Askers::before(flows, beside);
    let records = measured.drive(&|| askers.ask());
    println!(
        "beside it 1 of 100 answers took {:?} or longer",
        askers.slowest_of_a_hundred()
    );
    measured.tell(&records);
}
