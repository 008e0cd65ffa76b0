//! Addresses and sockets. This process has a loopback address of its own (from its pid), so that neither a test beside
//! it nor an outgoing connection can take a port between our choosing it and its use.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Mutex, Once};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// No read or write of a test waits longer than this.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Below what the kernel gives to outgoing connections, above what daemons of the machine are likely to hold.
const FIRST_PORT: u16 = 10_000;
const LAST_PORT: u16 = 31_999;

static NEXT_PORT: Mutex<u16> = Mutex::new(FIRST_PORT);

/// This process's own loopback address.
pub fn host() -> Ipv4Addr {
    let pid = std::process::id();
    let [_, high, middle, low] = pid.to_be_bytes();
    Ipv4Addr::new(127, 64 + high % 64, middle, low)
}

/// An address on [`host`] with a port that is given to nobody else in this process.
pub fn free_address() -> SocketAddr {
    free_range(1)
}

/// The first address of `ports` consecutive free ones on [`host`].
///
/// They are counted, not probed: a socket that was opened to find a port lives on in every child that another thread is
/// just starting, and then the port is "in use" for whoever was promised it.
pub fn free_range(ports: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(host()), next_ports(ports))
}

/// On `::1`, which we share with other processes: the count starts at a place of our own.
pub fn free_address_v6() -> SocketAddr {
    let own = (std::process::id() * 37 % 20_000) as u16;
    let port = FIRST_PORT + (own + next_ports(1) - FIRST_PORT) % (LAST_PORT - FIRST_PORT);
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)
}

fn next_ports(ports: u16) -> u16 {
    let mut next = NEXT_PORT
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let first = *next;
    assert!(
        first + ports <= LAST_PORT,
        "all ports of this process are given away"
    );
    *next = first + ports;
    first
}

/// A listener with a long queue: a storm of clients must not be turned away by the test's own backend.
pub fn listen(address: SocketAddr) -> TcpListener {
    listen_with(address, 0).unwrap_or_else(|error| panic!("listen on {address}: {error}"))
}

/// The same with a receive buffer for what it accepts; 0 is the kernel's default.
pub fn listen_with(address: SocketAddr, receive_bytes: usize) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if receive_bytes > 0 {
        socket.set_recv_buffer_size(receive_bytes)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Connects from a port that the kernel would not give, from an address that nobody else uses.
pub fn from_port(port: u16, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let own = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 6), port));
    socket.bind(&own.into()).expect("the port is free");
    socket.connect(&address.into()).expect("connected");
    let stream = TcpStream::from(socket);
    prepare(&stream).expect("timeouts");
    stream
}

pub fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
}

pub fn try_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    prepare(&stream)?;
    Ok(stream)
}

/// Connects from a chosen local address, optionally with a small receive buffer (0: the kernel's default).
pub fn connect_with(
    source: Option<Ipv4Addr>,
    address: SocketAddr,
    receive_bytes: usize,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SockAddr::from(SocketAddr::new(IpAddr::V4(source), 0)))?;
    }
    if receive_bytes > 0 {
        socket.set_recv_buffer_size(receive_bytes)?;
    }
    socket.connect_timeout(&SockAddr::from(address), PATIENCE)?;
    let stream = socket.into();
    prepare(&stream)?;
    Ok(stream)
}

pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// From now on closing the last descriptor of this socket sends RST and no FIN.
pub fn will_reset(stream: &TcpStream) {
    SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .expect("SO_LINGER");
}

/// Closes with RST.
pub fn reset(stream: TcpStream) {
    will_reset(&stream);
    drop(stream);
}

/// A client that is refused with RST; it may be told while it still connects.
#[track_caller]
pub fn expect_turned_away(address: SocketAddr) {
    let read = try_connect(address).and_then(|mut stream| {
        loop {
            match stream.read(&mut [0; 1]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    });
    let error = read.expect_err("turned away, not served or ended cleanly");
    assert!(is_reset(&error), "{error} instead of a reset");
}

pub fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}

/// Raises this process's soft limit of descriptors (children inherit it) to `wanted`, once; the hard limit must allow
/// it.
pub fn raise_descriptor_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limits = std::fs::read_to_string("/proc/self/limits").expect("limits of this process");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .expect("a limit of open files");
        let mut numbers = line.split_whitespace().skip(3);
        let soft = numbers.next().unwrap_or("0");
        let hard: u64 = numbers
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or(u64::MAX);
        let wanted = hard.min(100_000);
        assert!(
            wanted >= 20_000,
            "these tests need 20,000 descriptors; the hard limit is {hard} (ulimit -Hn)"
        );
        if soft.parse().unwrap_or(u64::MAX) < wanted {
            let done = Command::new("prlimit")
                .arg(format!("--pid={}", std::process::id()))
                .arg(format!("--nofile={wanted}:"))
                .status();
            assert!(done.is_ok_and(|status| status.success()), "prlimit");
        }
    });
}
