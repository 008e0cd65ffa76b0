//! PROXY headers between us and others: HAProxy before us and behind us, MariaDB behind us; TLS ended by OpenSSL behind a
//! route; and what a sent header must not change: half-close, resets, bulk, retries, unix clients.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use support::backends::{Backend, echo, read_line};
use support::ringway::{Setup, listener, pool};
use support::servers::{Server, make_database, mariadb_install, program, text_of};
use support::wait::{seconds, until};
use support::{net, pattern};

fn line_of(stream: impl Read) -> String {
    read_line(stream).unwrap().trim_end().to_owned()
}

fn listens(address: SocketAddr) -> bool {
    net::try_connect(address).is_ok()
}

// ---------------------------------------------------------------------------------------------------------------------
// HAProxy

fn haproxy(body: &str, address: SocketAddr) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("haproxy.cfg");
    let head = "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  \
                timeout server 30s\n";
    fs::write(&file, format!("{head}{body}\n")).unwrap();
    let mut command = Command::new(program("haproxy", "haproxy"));
    command.arg("-f").arg(&file).arg("-db");
    let server = Server::start_in(folder, &mut command, "TERM");
    until(seconds(20), "HAProxy listens", || listens(address));
    server
}

#[test]
fn haproxy_before_us_tells_who_its_clients_are() {
    let backend = Backend::echo();
    for option in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
    ] {
        let (front, address) = (net::free_address(), net::free_address());
        let lines = format!(
            "\naccept_proxy = true\naccept_proxy_from = [\"{}\"]\n\n",
            net::host()
        );
        let own = listener("main", address, "main").replace("\n\n", &lines);
        let body = own + &pool("main", "send_proxy = \"v1\"", &[("echo", backend.address)]);
        let ringway = Setup::new(body).start();
        let here = net::host();
        let _haproxy = haproxy(
            &format!("listen f\n  bind {front}\n  server r {address} {option} source {here}"),
            front,
        );
        let client = Ipv4Addr::new(127, 9, 8, 7);
        let mut stream = net::connect_with(Some(client), front, 0).unwrap();
        stream.write_all(b"hello\n").unwrap();
        let port = stream.local_addr().unwrap().port();
        let expected = format!("PROXY TCP4 {client} {} {port} {}", front.ip(), front.port());
        assert_eq!(line_of(&stream), expected, "{option}");
        assert_eq!(line_of(&stream), "hello", "{option}");
        let invalid = [("end", "preface-invalid")];
        let metrics = ringway.metrics();
        assert_eq!(metrics.sum("ringway_session_ends_total", &invalid), 0.0);
    }
}

#[test]
fn haproxy_behind_us_knows_who_our_clients_are() {
    for version in ["v1", "v2"] {
        let (address, behind) = (net::free_address(), net::free_address());
        let answer =
            "http-request return status 200 content-type text/plain lf-string \"%ci:%cp %fi:%fp\"";
        let _haproxy = haproxy(
            &format!("frontend f\n  mode http\n  bind {behind} accept-proxy\n  {answer}"),
            behind,
        );
        let lines = format!("send_proxy = \"{version}\"");
        let body = listener("main", address, "main") + &pool("main", &lines, &[("h", behind)]);
        let _ringway = Setup::new(body).start();
        let client = Ipv4Addr::new(127, 9, 8, 7);
        let mut stream = net::connect_with(Some(client), address, 0).unwrap();
        let port = stream.local_addr().unwrap().port();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let expected = format!("{client}:{port} {address}");
        assert!(page.ends_with(&expected), "{version}: {page}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// MariaDB

struct MariaDb {
    address: SocketAddr,
    _server: Server,
}

fn mariadb() -> MariaDb {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let user = Command::new("id").arg("-un").output().unwrap();
    let user = String::from_utf8(user.stdout).unwrap().trim().to_owned();
    make_database(
        mariadb_install()
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--user={user}"))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"]),
    );
    let address = net::free_address();
    let mut command = Command::new(program("mariadbd", "mariadb-server"));
    command
        .arg("--no-defaults")
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--user={user}"))
        .arg(format!("--socket={}", folder.path().join("s").display()))
        .arg(format!("--bind-address={}", address.ip()))
        .arg(format!("--port={}", address.port()))
        .args(["--skip-name-resolve", "--proxy-protocol-networks=*"])
        .args(["--innodb-buffer-pool-size=16M", "--skip-log-bin"]);
    let socket = folder.path().join("s");
    let server = Server::start_in(folder, &mut command, "TERM");
    until(seconds(60), "MariaDB answers", || {
        let mut ask = Command::new(program("mariadb", "mariadb-client"));
        ask.arg("--no-defaults")
            .arg("-uroot")
            .arg(format!("-S{}", socket.display()));
        let grant = "create or replace user c@'%'; grant all on *.* to c@'%'";
        ask.args(["-e", grant])
            .output()
            .is_ok_and(|answer| answer.status.success())
    });
    MariaDb {
        address,
        _server: server,
    }
}

#[test]
fn mariadb_behind_us_knows_who_our_clients_are() {
    let server = mariadb();
    for version in ["off", "v1", "v2"] {
        let address = net::free_address();
        let lines = format!("send_proxy = \"{version}\"\nsource = [\"127.0.0.9\"]");
        let body =
            listener("main", address, "main") + &pool("main", &lines, &[("m", server.address)]);
        let _ringway = Setup::new(body).start();
        let mut ask = Command::new(program("mariadb", "mariadb-client"));
        let question = "select host from information_schema.processlist where id = connection_id()";
        ask.arg("--no-defaults")
            .args(["-uc", "-N", "-B", "--protocol=tcp", "--skip-ssl"]);
        ask.arg(format!("-h{}", address.ip()))
            .arg(format!("-P{}", address.port()));
        let host = text_of(ask.args(["-e", question]));
        let ours = host.starts_with("127.0.0.9:");
        assert_eq!(ours, version == "off", "{version}: {host}");
        assert!(host.starts_with("127."), "{version}: {host}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// TLS, ended behind us

fn openssl() -> Command {
    Command::new(program("openssl", "openssl"))
}

/// OpenSSL's server with a certificate in this name.
fn tls_server(name: &str) -> (SocketAddr, Server) {
    let folder = tempfile::tempdir().unwrap();
    let (key, certificate) = (folder.path().join("key"), folder.path().join("crt"));
    let mut make = openssl();
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    make.args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")]);
    make.arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null());
    text_of(&mut make);
    let address = net::free_address();
    let mut command = openssl();
    command.args(["s_server", "-quiet", "-accept", &address.to_string()]);
    command.arg("-key").arg(&key).arg("-cert").arg(&certificate);
    let server = Server::start_in(folder, &mut command, "TERM");
    until(seconds(20), "OpenSSL's server listens", || listens(address));
    (address, server)
}

#[test]
fn a_tls_session_is_ended_by_the_server_that_was_asked_for() {
    let (one, _one) = tls_server("one");
    let (two, _two) = tls_server("two");
    let address = net::free_address();
    let routes = "\nroute = [{ sni = \"*.two.test\", pool = \"two\" }]\n\n";
    let body = listener("main", address, "one").replace("\n\n", routes)
        + &pool("one", "", &[("one", one)])
        + &pool("two", "", &[("two", two)]);
    let _ringway = Setup::new(body).start();
    for (name, extra, server) in [
        ("db.two.test", "-tls1_3", "two"),
        ("db.two.test", "-tls1_2", "two"),
        ("DB.Two.test", "-split_send_frag=512", "two"),
        ("db.one.test", "-tls1_3", "one"),
    ] {
        let mut client = openssl();
        client.args([
            "s_client",
            "-connect",
            &address.to_string(),
            "-servername",
            name,
        ]);
        client.args(extra.split('=')).stderr(Stdio::null());
        let answer = client.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&answer.stdout);
        let subject = text
            .lines()
            .find(|line| line.starts_with("subject="))
            .unwrap_or("nobody");
        assert!(subject.ends_with(server), "{name} {extra}: {subject}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What a sent header must not change

/// A server that takes a header off and hands the rest to `serve`.
fn announced(serve: impl Fn(&TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Backend {
    Backend::serve(move |stream| {
        let line = read_line(stream)?;
        assert!(line.starts_with("PROXY TCP4 "), "{line:?}");
        serve(stream)
    })
}

const V1: &str = "send_proxy = \"v1\"";

#[test]
fn bulk_and_half_close_follow_the_header() {
    const BYTES: u64 = 24 << 20;
    let backend = announced(|mut stream| {
        let received = pattern::receive(stream, 5, BYTES);
        let answer = if received.is_ok() { "whole" } else { "spoilt" };
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        writeln!(stream, "{answer} {}", rest.len())
    });
    let address = net::free_address();
    let body = listener("main", address, "main") + &pool("main", V1, &[("b", backend.address)]);
    let ringway = Setup::new(body).start();
    let stream = net::connect(address);
    pattern::send(&stream, 5, BYTES, 300_000).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(line_of(&stream), "whole 0");
    let carried = ringway
        .metrics()
        .sum("ringway_bytes_total", &[("direction", "in")]);
    assert_eq!(carried, BYTES as f64, "the header is not the client's");
    let spliced = ringway.metric("ringway_spliced_bytes_total");
    assert!(spliced > 0.0, "a stream of that size is spliced");
}

#[test]
fn a_reset_passes_in_both_directions() {
    let backend = announced(|mut stream| {
        let mut byte = [0];
        match stream.read(&mut byte)? {
            0 => Ok(()),
            _ if byte == *b"r" => {
                net::will_reset(stream);
                Ok(())
            }
            _ => {
                stream.write_all(b"!")?;
                stream.read(&mut byte).map(|_| ())
            }
        }
    });
    let address = net::free_address();
    let body = listener("main", address, "main") + &pool("main", V1, &[("b", backend.address)]);
    let _ringway = Setup::new(body).start();
    let mut stream = net::connect(address);
    stream.write_all(b"r").unwrap();
    let error = stream.read(&mut [0; 1]).expect_err("a reset");
    assert!(net::is_reset(&error), "{error}");
    let mut stream = net::connect(address);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    let failed = backend.failed();
    net::reset(stream);
    until(seconds(10), "the server sees the client's reset", || {
        backend.failed() > failed
    });
}

#[test]
fn each_attempt_begins_with_the_header() {
    let backend = announced(echo);
    let refused = net::free_address();
    let address = net::free_address();
    let lines = format!("{V1}\nalgorithm = \"first\"\nbreaker = {{ max_ejected_percent = 0 }}");
    let backends = [("dead", refused), ("alive", backend.address)];
    let body = listener("main", address, "main") + &pool("main", &lines, &backends);
    let ringway = Setup::new(body).start();
    for _ in 0..10 {
        let mut stream = net::connect(address);
        stream.write_all(b"hello\n").unwrap();
        assert_eq!(line_of(&stream), "hello");
    }
    assert_eq!(ringway.metric("ringway_retries_total"), 10.0);
}

#[test]
fn a_client_on_a_unix_socket_is_nobody() {
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    for (version, expected) in [
        ("v1", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec()),
    ] {
        let path = folder.path().join(version);
        let lines = format!("send_proxy = \"{version}\"");
        let bind = format!("unix:{}", path.display());
        let body =
            listener("main", bind, "main") + &pool("main", &lines, &[("b", backend.address)]);
        let _ringway = Setup::new(body).start();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(net::PATIENCE)).unwrap();
        stream.write_all(b"hello\n").unwrap();
        let mut header = vec![0; expected.len()];
        stream.read_exact(&mut header).unwrap();
        assert_eq!(header, expected);
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert_eq!(line, "hello\n");
    }
}

/// First bytes are looked at on unix sockets as well, where no watermark helps.
#[test]
fn a_header_comes_through_a_unix_socket_byte_by_byte() {
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let bind = format!("unix:{}", path.display());
    let own = listener("main", bind, "main").replace("\n\n", "\naccept_proxy = true\n\n");
    let body = own + &pool("main", V1, &[("b", backend.address)]);
    let ringway = Setup::new(body).start();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(net::PATIENCE)).unwrap();
    let line = "PROXY TCP4 192.0.2.1 198.51.100.9 56324 443\r\n";
    for byte in format!("{line}hello\n").bytes() {
        stream.write_all(&[byte]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let mut reader = BufReader::new(&stream);
    for expected in [line, "hello\n"] {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    }
    // Half a header is no reason to spin.
    let mut half = UnixStream::connect(&path).unwrap();
    half.write_all(b"PROXY TCP4").unwrap();
    let before = ringway.metric("ringway_worker_turns_total");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let turns = ringway.metric("ringway_worker_turns_total") - before;
    assert!(turns < 500.0, "{turns} turns in half a second");
}
