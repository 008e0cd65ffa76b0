//! `ringway demo`: shows on one screen what the program does, with nothing but itself: three backends of its own, a
//! balancer on loopback ports, clients, and a backend that dies and comes back every few seconds.
//!
//! What it prints is read from the balancer's own `/v1/status`, as any user could.

mod backends;
mod clients;
mod datagrams;
mod table;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Ending, start_log};
use crate::ids::Address;
use crate::office::{self, Failure, Order, Ready, Setup};

use backends::Stage;
use clients::Clients;
use table::{Scene, Screen};

/// When the first backend dies, how long it stays dead, and how long after its return the next one dies.
const FIRST_DEATH: Duration = Duration::from_secs(2);
const DEAD: Duration = Duration::from_millis(2_500);
const ALIVE: Duration = Duration::from_millis(2_500);
const START_WITHIN: Duration = Duration::from_secs(10);
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn demo(seconds: Option<u64>, with_load: bool) -> Result<(), Ending> {
    start_log("error");
    let stage = Stage::set().map_err(|error| broken(&format!("no backends: {error}")))?;
    let balancer = Balancer::start(&stage)?;
    let clients = match with_load {
        true => Some(
            Clients::start(balancer.address, balancer.datagrams)
                .map_err(|error| broken(&error.to_string()))?,
        ),
        false => None,
    };
    let show = Show {
        stage,
        balancer,
        clients,
        started: Instant::now(),
    };
    show.run(seconds.map(Duration::from_secs))
}

fn broken(sentence: &str) -> Ending {
    Ending {
        status: 1,
        sentence: sentence.to_owned(),
    }
}

/// The office of this process, on a thread of its own.
struct Balancer {
    thread: JoinHandle<Result<(), Failure>>,
    orders: tokio::sync::mpsc::UnboundedSender<Order>,
    address: SocketAddr,
    datagrams: SocketAddr,
    admin: SocketAddr,
}

impl Balancer {
    fn start(stage: &Stage) -> Result<Balancer, Ending> {
        let plan = crate::config::parse(&configuration(stage), "demo", &|_| None)?;
        let (tell_ready, ready) = mpsc::channel();
        let (orders, inbox) = tokio::sync::mpsc::unbounded_channel();
        let setup = Setup {
            plan,
            file: None,
            handed: Vec::new(),
            on_ready: Some(tell_ready),
            orders: Some(inbox),
            keeper: None,
            predecessor: None,
        };
        let thread = std::thread::Builder::new()
            .name("office".to_owned())
            .spawn(move || office::run(setup))
            .map_err(|error| broken(&format!("no thread: {error}")))?;
        let Ok(ready) = ready.recv_timeout(START_WITHIN) else {
            // It ended before it was ready, and says why; or it hangs.
            return match thread.is_finished().then(|| thread.join()) {
                Some(Ok(Err(failure))) => Err(failure.into()),
                _ => Err(broken("the balancer did not start within 10 s")),
            };
        };
        match addresses(&ready) {
            Some((address, datagrams, admin)) => Ok(Balancer {
                thread,
                orders,
                address,
                datagrams,
                admin,
            }),
            None => Err(broken("the balancer has no address")),
        }
    }

    /// Drains and ends.
    fn leave(self) -> Result<(), Ending> {
        let _ = self.orders.send(Order::Leave);
        let deadline = Instant::now() + LEAVE_WITHIN;
        while !self.thread.is_finished() {
            if Instant::now() > deadline {
                return Err(broken("the balancer did not end within 10 s"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        match self.thread.join() {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(broken("the balancer failed")),
        }
    }
}

/// Of both listeners, and the admin's.
fn addresses(ready: &Ready) -> Option<(SocketAddr, SocketAddr, SocketAddr)> {
    let of_listener = |place: usize| {
        let (_, addresses) = ready.listeners.get(place)?;
        addresses.first().and_then(Address::inet)
    };
    Some((of_listener(0)?, of_listener(1)?, ready.admin?))
}

/// Checks are faster than by default, so that a death is seen before the eye moves on.
fn configuration(stage: &Stage) -> String {
    let mut text = String::from(
        r#"
[global]
shutdown_grace = "1s"
# Backends and clients share this process, and their threads are there already.
sandbox = "off"
[admin]
bind = "127.0.0.1:0"
[[listener]]
name = "demo"
bind = "127.0.0.1:0"
pool = "echo"
[[listener]]
name = "datagrams"
bind = "127.0.0.1:0"
protocol = "udp"
pool = "datagrams"
[[pool]]
name = "echo"
algorithm = "least-connections"
[pool.health]
kind = "tcp"
interval = "500ms"
fast_interval = "100ms"
timeout = "500ms"
"#,
    );
    let backends: String = stage
        .addresses()
        .map(|(name, address)| {
            format!("[[pool.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n")
        })
        .collect();
    text.push_str(&backends);
    text.push_str(
        r#"
[[pool]]
name = "datagrams"
algorithm = "least-connections"
[pool.health]
kind = "udp"
send = "alive?"
expect = "alive?"
interval = "500ms"
fast_interval = "100ms"
timeout = "500ms"
"#,
    );
    text + &backends
}

struct Show {
    stage: Stage,
    balancer: Balancer,
    clients: Option<Clients>,
    started: Instant,
}

impl Show {
    fn run(mut self, length: Option<Duration>) -> Result<(), Ending> {
        let mut screen = Screen::new(std::io::stdout().is_terminal());
        screen.introduce(
            self.balancer.address,
            self.balancer.datagrams,
            self.balancer.admin,
            self.clients.is_some(),
        );
        let mut next_act = FIRST_DEATH;
        let mut acts = 0;
        loop {
            let elapsed = self.started.elapsed();
            let over = length.is_some_and(|length| elapsed >= length);
            if over || screen.is_alone() || self.balancer.thread.is_finished() {
                break;
            }
            if elapsed >= next_act && self.clients.is_some() {
                next_act = elapsed + self.play(acts, &mut screen);
                acts += 1;
            }
            screen.show(&Scene {
                elapsed,
                status: table::status(self.balancer.admin),
                tally: self.clients.as_ref().map(Clients::tally),
            });
            std::thread::sleep(Duration::from_millis(100));
        }
        self.finish(&mut screen)
    }

    /// Kills the next backend, or brings the dead one back; says how long until the act after.
    fn play(&mut self, acts: usize, screen: &mut Screen) -> Duration {
        let place = acts / 2 % self.stage.len();
        if acts.is_multiple_of(2) {
            self.stage.kill(place);
            screen.say(&format!("killed {}", self.stage.name(place)));
            DEAD
        } else {
            match self.stage.revive(place) {
                Ok(()) => screen.say(&format!("revived {}", self.stage.name(place))),
                Err(error) => screen.say(&format!("{}: {error}", self.stage.name(place))),
            }
            ALIVE
        }
    }

    fn finish(self, screen: &mut Screen) -> Result<(), Ending> {
        let tally = self.clients.map(Clients::stop);
        self.balancer.leave()?;
        drop(self.stage);
        screen.close(self.started.elapsed(), tally);
        match tally {
            Some(tally) if tally.failures > 0 => Err(broken(&format!(
                "{} of {} requests failed",
                tally.failures, tally.requests
            ))),
            _ => Ok(()),
        }
    }
}
