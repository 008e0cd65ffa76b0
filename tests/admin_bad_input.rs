//! What the admin server does with what it should not get: heads that are no HTTP, too long or never finished, bodies over
//! the limit, a thousand idle connections. Everybody gets a sentence in JSON, and clients of the balancer notice nothing.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::Value;
use support::backends::Backend;
use support::events::EventStream;
use support::ringway::{Ringway, Setup, single};
use support::undisturbed::undisturbed;
use support::wait::{seconds, until};
use support::{alone, http, net, process};

struct Scene {
    ringway: Ringway,
    address: SocketAddr,
    socket: PathBuf,
    _server: Backend,
}

fn start() -> Scene {
    let server = Backend::echo();
    let address = net::free_address();
    let setup = Setup::new(single(address, server.address)).workers(2);
    let ringway = setup.with_socket().start();
    Scene {
        socket: ringway.socket(),
        ringway,
        address,
        _server: server,
    }
}

impl Scene {
    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.ringway.admin()).unwrap();
        stream.set_read_timeout(Some(seconds(30))).unwrap();
        stream
    }

    /// Status and sentence of what comes back for these bytes.
    #[track_caller]
    fn answer(&self, bytes: &[u8]) -> (u16, String) {
        let mut stream = self.tcp();
        stream.write_all(bytes).unwrap();
        read_answer(stream)
    }
}

#[track_caller]
fn read_answer(mut stream: impl Read) -> (u16, String) {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    // It may be cut after the answer, where more was sent than is read.
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        all.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&all);
        if let Ok((code, body)) = http::split(&text)
            && let Ok(value) = serde_json::from_str::<Value>(&body)
        {
            return (code, value["error"].as_str().unwrap_or_default().to_owned());
        }
    }
    panic!("no JSON in {:?}", String::from_utf8_lossy(&all));
}

#[test]
fn heads_that_are_no_http_get_a_sentence() {
    let _alone = alone();
    let scene = start();
    undisturbed(scene.address, || (0..20).for_each(|_| wrong_heads(&scene)));
}

fn wrong_heads(scene: &Scene) {
    for head in [
        &b"NONSENSE\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nhost: \x00\r\n\r\n",
    ] {
        let (code, sentence) = scene.answer(head);
        assert_eq!(code, 400, "{head:?}: {sentence}");
        assert!(sentence.contains("not HTTP/1.1"), "{sentence}");
    }
    let long_header = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(40_000));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    for head in [long_header, many_headers] {
        let (code, sentence) = scene.answer(head.as_bytes());
        assert_eq!(code, 431, "{sentence}");
        assert!(sentence.contains("the head is too long"), "{sentence}");
    }
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "p".repeat(12_000));
    let (code, sentence) = scene.answer(long_path.as_bytes());
    assert_eq!(code, 404);
    assert!(
        sentence.len() < 200,
        "a long name is cut: {} bytes",
        sentence.len()
    );
}

#[test]
fn bodies_have_a_limit_and_a_deadline() {
    let _alone = alone();
    let scene = start();
    undisturbed(scene.address, || wrong_bodies(&scene));
}

fn wrong_bodies(scene: &Scene) {
    let put = |length: usize, body: &[u8]| {
        let mut stream = UnixStream::connect(&scene.socket).unwrap();
        stream.set_read_timeout(Some(seconds(30))).unwrap();
        let head = format!(
            "PUT /v1/pools/main/backends/only HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // It may be refused before all is there.
        let _ = stream.write_all(body);
        stream
    };
    let large = vec![b' '; 300_000];
    let (code, sentence) = read_answer(put(large.len(), &large));
    assert_eq!(code, 413);
    assert!(sentence.contains("at most 65536 bytes"), "{sentence}");
    let (code, _) = read_answer(put(10_000_000_000, b"{"));
    assert_eq!(code, 413);
    let deep = "[".repeat(60_000);
    let (code, sentence) = read_answer(put(deep.len(), deep.as_bytes()));
    assert_eq!(code, 400);
    assert!(sentence.contains("not JSON"), "{sentence}");
    let (code, _) = read_answer(put(4, b"\xff\xfe\x00\x00"));
    assert_eq!(code, 400);
    // Never finished: the body's and the head's deadline, at the same time.
    let began = Instant::now();
    let slow = put(100, b"{\"weight\":");
    let mut head = scene.tcp();
    head.write_all(b"GET /v1/status HTTP/1.1\r\nhos").unwrap();
    let (code, sentence) = read_answer(slow);
    assert_eq!(
        (code, sentence.contains("within 10 s")),
        (408, true),
        "{sentence}"
    );
    let (code, sentence) = read_answer(head);
    assert_eq!(
        (code, sentence.contains("within 10 s")),
        (408, true),
        "{sentence}"
    );
    assert!(began.elapsed() < seconds(20), "{:?}", began.elapsed());
    let (code, backend) =
        http::over_socket(&scene.socket, "GET", "/v1/pools/main/backends/only", "").unwrap();
    assert_eq!((code, &backend["weight"]), (200, &Value::from(100)));
}

#[test]
fn a_thousand_idle_connections_lock_nobody_out() {
    let _alone = alone();
    let scene = start();
    let mut events = EventStream::open(scene.ringway.admin(), None);
    let before = process::settled_descriptors(scene.ringway.pid()).all;
    let held = undisturbed(scene.address, || beside_idle_ones(&scene));
    // The clients at work have some, too.
    assert!(
        held <= before + 2 * 64 + 16,
        "{held} descriptors, {before} before"
    );
    // Who listens to events is not idle, however little happens.
    assert!(scene.ringway.reload());
    events.find(seconds(5), "the reload", |event| event.kind == "reload");
    scene.ringway.wait_empty();
}

/// Descriptors of the process while a thousand stand at each door, and others ask for a second and more.
fn beside_idle_ones(scene: &Scene) -> usize {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Who is put out comes again, for as long as it takes.
        for door in 0..2 {
            let stop = &stop;
            scope.spawn(move || {
                let mut held: Vec<Box<dyn Read>> = Vec::new();
                for _ in 0..1000 {
                    match door {
                        0 => held.extend(
                            TcpStream::connect(scene.ringway.admin())
                                .ok()
                                .map(|it| Box::new(it) as _),
                        ),
                        _ => held.extend(
                            UnixStream::connect(&scene.socket)
                                .ok()
                                .map(|it| Box::new(it) as _),
                        ),
                    }
                }
                until(seconds(60), "the test is done", || {
                    stop.load(Ordering::SeqCst)
                });
            });
        }
        let began = Instant::now();
        let mut asked = 0;
        while asked < 20 || began.elapsed() < seconds(1) {
            asked_on_both_doors(scene);
            asked += 1;
        }
        let held = process::descriptors(scene.ringway.pid()).all;
        stop.store(true, Ordering::SeqCst);
        held
    })
}

fn asked_on_both_doors(scene: &Scene) {
    let began = Instant::now();
    let (code, _) = scene.ringway.get("/v1/status").expect("an answer over TCP");
    assert_eq!(code, 200);
    let (code, _) =
        http::over_socket(&scene.socket, "GET", "/healthz", "").expect("and over the socket");
    assert_eq!(code, 200);
    assert!(began.elapsed() < seconds(3), "{:?}", began.elapsed());
}
