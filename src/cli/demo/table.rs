//! What the demo prints: a table drawn over itself on a terminal, a line a second elsewhere.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::clients::Tally;
use crate::cli::out;

const DRAW: Duration = Duration::from_millis(300);
const LINE: Duration = Duration::from_secs(1);
const NEWS_KEPT: usize = 6;
/// Where a pool's backends stand in the status.
const STREAMS: &str = "/pools/0/backends";
const DATAGRAMS: &str = "/pools/1/backends";

/// One moment of the show.
pub(super) struct Scene {
    pub elapsed: Duration,
    pub status: Option<Value>,
    pub tally: Option<Tally>,
}

pub(super) struct Screen {
    is_terminal: bool,
    drawn_at: Option<Instant>,
    drawn_lines: usize,
    elapsed: Duration,
    news: VecDeque<String>,
    health: Vec<(String, String)>,
    /// When the demo last changed something, to say how long the balancer took to see it.
    acted_at: Option<Instant>,
    rate: Rate,
    /// Nobody reads any more.
    alone: bool,
}

/// Requests a second since the last draw.
#[derive(Default)]
struct Rate {
    at: Duration,
    requests: u64,
    per_second: f64,
}

/// The balancer's own report; `None` while it cannot be had.
pub(super) fn status(admin: SocketAddr) -> Option<Value> {
    let patience = Duration::from_millis(500);
    let mut stream = TcpStream::connect_timeout(&admin, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    let request = format!("GET /v1/status HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

impl Screen {
    pub(super) fn new(is_terminal: bool) -> Screen {
        Screen {
            is_terminal,
            drawn_at: None,
            drawn_lines: 0,
            elapsed: Duration::ZERO,
            news: VecDeque::new(),
            health: Vec::new(),
            acted_at: None,
            rate: Rate::default(),
            alone: false,
        }
    }

    pub(super) fn introduce(
        &mut self,
        listener: SocketAddr,
        datagrams: SocketAddr,
        admin: SocketAddr,
        with_load: bool,
    ) {
        self.put(&format!(
            "ringway demo: clients -> {listener} (TCP), {datagrams} (UDP) -> 3 backends; dashboard http://{admin}/\n"
        ));
        if !with_load {
            self.put(&format!(
                "no load: speak to it yourself, a line at a time, at {listener}, or by datagrams at {datagrams}\n"
            ));
        }
    }

    /// Whether the reader went away.
    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    fn put(&mut self, text: &str) {
        self.alone |= !out::say(text);
    }

    /// Something happened.
    pub(super) fn say(&mut self, what: &str) {
        self.acted_at = Some(Instant::now());
        self.note(what);
    }

    fn note(&mut self, what: &str) {
        let line = format!("{:6.1} s  {what}", self.elapsed.as_secs_f64());
        if self.is_terminal {
            self.news.push_back(line);
            if self.news.len() > NEWS_KEPT {
                self.news.pop_front();
            }
        } else {
            self.put(&format!("{line}\n"));
        }
    }

    pub(super) fn show(&mut self, scene: &Scene) {
        self.elapsed = scene.elapsed;
        self.notice_health(scene);
        let pause = if self.is_terminal { DRAW } else { LINE };
        if self.drawn_at.is_some_and(|moment| moment.elapsed() < pause) {
            return;
        }
        self.drawn_at = Some(Instant::now());
        if let Some(tally) = scene.tally {
            self.rate.update(scene.elapsed, tally.requests);
        }
        match self.is_terminal {
            true => self.draw(scene),
            false => self.line(scene),
        }
    }

    /// Says when the balancer's view of a backend changed, and how long after the deed.
    fn notice_health(&mut self, scene: &Scene) {
        let health: Vec<(String, String)> = backends(scene, STREAMS)
            .iter()
            .map(|backend| (word(backend, "name"), word(backend, "health")))
            .collect();
        if health.is_empty() {
            return;
        }
        let before = std::mem::replace(&mut self.health, health.clone());
        for ((name, was), (_, is)) in before.iter().zip(&health) {
            if was != is {
                let after = self.acted_at.map_or(String::new(), |moment| {
                    format!(" ({:.1} s later)", moment.elapsed().as_secs_f64())
                });
                self.note(&format!("ringway sees {name} {is}{after}"));
            }
        }
    }

    fn draw(&mut self, scene: &Scene) {
        let mut text = String::new();
        let mut row = |line: String| {
            text.push_str(&line);
            text.push_str("\x1b[K\n");
        };
        row(self.headline(scene));
        row(String::new());
        for (pool, what) in [(STREAMS, "sessions"), (DATAGRAMS, "flows")] {
            row(format!(
                "{:<10}{:<12}{:>10}{:>12}{:>12}{:>14}{:>14}",
                "backend", "health", what, "total", "connects", "failed", "bytes out"
            ));
            backends(scene, pool)
                .iter()
                .for_each(|it| row(table_row(it)));
            row(String::new());
        }
        self.news.iter().for_each(|line| row(line.clone()));
        let up = match self.drawn_lines {
            0 => String::new(),
            lines => format!("\x1b[{lines}A"),
        };
        self.drawn_lines = text.matches('\n').count();
        self.put(&format!("{up}{text}\x1b[J"));
    }

    fn line(&mut self, scene: &Scene) {
        let backends: Vec<String> = backends(scene, STREAMS)
            .iter()
            .map(|b| {
                format!(
                    "{}={}/{}",
                    word(b, "name"),
                    word(b, "health"),
                    b["sessions"]
                )
            })
            .collect();
        self.put(&format!(
            "{}  {}\n",
            self.headline(scene),
            backends.join(" ")
        ));
    }

    fn headline(&self, scene: &Scene) -> String {
        let seconds = scene.elapsed.as_secs_f64();
        match scene.tally {
            Some(tally) => format!(
                "{seconds:6.1} s  requests {} ({:.0}/s)  failures {}  connections {} ({} cut by a death and opened again)  \
                 datagrams {} ({} asked again)",
                tally.requests,
                self.rate.per_second,
                tally.failures,
                tally.connections,
                tally.cut,
                tally.datagrams,
                tally.asked_again
            ),
            None => format!("{seconds:6.1} s"),
        }
    }

    pub(super) fn close(&mut self, elapsed: Duration, tally: Option<Tally>) {
        let seconds = elapsed.as_secs_f64();
        match tally {
            Some(tally) => self.put(&format!(
                "summary: {seconds:.1} s, requests = {}, failures = {}, connections = {}, cut and opened again = {}, \
                 datagrams = {}, asked again = {}\n",
                tally.requests,
                tally.failures,
                tally.connections,
                tally.cut,
                tally.datagrams,
                tally.asked_again
            )),
            None => self.put(&format!("summary: {seconds:.1} s\n")),
        }
    }
}

impl Rate {
    fn update(&mut self, at: Duration, requests: u64) {
        let seconds = (at - self.at).as_secs_f64();
        if seconds > 0.0 {
            self.per_second = (requests - self.requests) as f64 / seconds;
        }
        self.at = at;
        self.requests = requests;
    }
}

/// One backend's line of a pool's table.
fn table_row(backend: &Value) -> String {
    let failed = backend["connect_failures"].as_object();
    let failed: u64 = failed.map_or(0, |f| f.values().filter_map(Value::as_u64).sum());
    let health = word(backend, "health");
    let color = match health.as_str() {
        "up" => "\x1b[32m",
        "down" => "\x1b[31m",
        _ => "\x1b[33m",
    };
    format!(
        "{:<10}{color}{:<12}\x1b[0m{:>10}{:>12}{:>12}{:>14}{:>14}",
        word(backend, "name"),
        health,
        number(backend, "sessions"),
        number(backend, "sessions_total"),
        number(backend, "connect_attempts"),
        failed,
        number(backend, "bytes_out")
    )
}

fn backends<'a>(scene: &'a Scene, pool: &str) -> &'a [Value] {
    let status = scene.status.as_ref();
    let list = status.and_then(|status| status.pointer(pool));
    list.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(backend: &Value, key: &str) -> u64 {
    backend[key].as_u64().unwrap_or(0)
}

fn word(backend: &Value, key: &str) -> String {
    backend[key].as_str().unwrap_or("?").to_owned()
}
