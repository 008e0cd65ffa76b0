//! A path with a real delay: a TUN device in a network namespace of its own, whose packets a thread of the test holds for
//! 20 ms. Source and destination are swapped on the way, so that what is sent to the far address comes back to the own
//! one, and what is answered to the far address reaches who asked: connections are slow in both directions, and the
//! handshake is the kernel's own.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::backends::Backend;
use crate::support::ringway::Setup;
use crate::support::{alone, net};
use crate::{first_byte, text, wait_warm};

const DELAY: Duration = Duration::from_millis(20);
const ROUND_TRIP: Duration = Duration::from_millis(40);
const INSIDE: &str = "RINGWAY_TEST_INSIDE";
const OWN: &str = "10.77.0.1";
const FAR: &str = "10.77.0.2";

#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// The device, which lives as long as this file is open.
fn device() -> File {
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    let file = open.unwrap_or_else(|error| {
        panic!("/dev/net/tun cannot be opened ({error}): this test needs a TUN device of its own, as root")
    });
    let mut request = InterfaceRequest {
        name: [0; 16],
        // IFF_TUN | IFF_NO_PI: bare IP packets.
        flags: 0x1001,
        rest: [0; 22],
    };
    request.name[..5].copy_from_slice(b"slow0");
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    // SAFETY: the kernel reads and writes one ifreq, whose 40 bytes the local has.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    let error = std::io::Error::last_os_error();
    assert_eq!(
        answer, 0,
        "TUNSETIFF: {error}: a TUN device is not permitted here"
    );
    file
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    let done = status.is_ok_and(|status| status.success());
    assert!(done, "ip {arguments:?} (apt-get install iproute2)");
}

/// Holds every packet, then lets it come back with its addresses swapped; a checksum does not see that.
fn hold_packets(device: &File) {
    let (to_sender, packets) = channel::<(Instant, Vec<u8>)>();
    let mut out = device.try_clone().expect("the device once more");
    thread::spawn(move || send_late(&mut out, &packets));
    let mut input = device.try_clone().expect("the device once more");
    thread::spawn(move || {
        let mut piece = vec![0; 70_000];
        while let Ok(count) = input.read(&mut piece) {
            let mut packet = piece[..count].to_vec();
            if count >= 20 && packet[0] >> 4 == 4 {
                let (source, destination) = packet[12..20].split_at_mut(4);
                source.swap_with_slice(destination);
                if to_sender.send((Instant::now() + DELAY, packet)).is_err() {
                    return;
                }
            }
        }
    });
}

fn send_late(out: &mut File, packets: &Receiver<(Instant, Vec<u8>)>) {
    let mut queue = VecDeque::new();
    loop {
        match packets.recv() {
            Ok(packet) => queue.push_back(packet),
            Err(_) => return,
        }
        while let Some((due, packet)) = queue.pop_front() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A packet that finds no room is lost, as packets are.
            let _ = out.write(&packet);
            queue.extend(packets.try_iter());
        }
    }
}

/// A relay in user space would answer the handshake at once and hide what is to be seen. In a namespace, so that nobody
/// else's routes change: the test starts itself again inside.
#[test]
fn the_first_byte_comes_a_round_trip_earlier() {
    if std::env::var_os(INSIDE).is_some() {
        inside();
        return;
    }
    let _alone = alone();
    let own = std::env::current_exe().expect("this test program");
    let output = Command::new("unshare")
        .arg("--net")
        .arg(own)
        .args([
            "--exact",
            "delay::the_first_byte_comes_a_round_trip_earlier",
        ])
        .args(["--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare of util-linux");
    let told = String::from_utf8_lossy(&output.stdout);
    print!("{told}");
    assert!(
        output.status.success(),
        "in a network namespace of its own (needs root and /dev/net/tun):\n{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn inside() {
    ip(&["link", "set", "lo", "up"]);
    let device = device();
    ip(&["addr", "add", &format!("{OWN}/24"), "dev", "slow0"]);
    ip(&["link", "set", "slow0", "up"]);
    hold_packets(&device);
    let own: SocketAddr = format!("{OWN}:7001").parse().unwrap();
    let far: SocketAddr = format!("{FAR}:7001").parse().unwrap();
    let backend = Backend::serve_on(net::listen(own), crate::support::backends::echo);
    let begin = Instant::now();
    drop(net::connect(far));
    let handshake = begin.elapsed();
    assert!(handshake >= ROUND_TRIP, "a connect takes {handshake:?}");

    let measure = |warm: &str| {
        let address = net::free_address();
        let ringway = Setup::new(text(address, "", warm, far, "")).start();
        let size = u64::from(warm.contains("size = 4")) * 4;
        first_byte(address, 9, || wait_warm(&ringway, size))
    };
    // A measurement: a busy machine may spoil one, not three.
    for attempt in 1..=3 {
        let cold = measure("size = 0");
        let warm = measure("size = 4\nmax_age = \"1h\"");
        let gained = cold.saturating_sub(warm);
        println!(
            "first byte after {cold:?} without and {warm:?} with warm connections: {gained:?} earlier"
        );
        assert!(cold >= ROUND_TRIP * 2, "{cold:?}: connect, then ask");
        if gained >= ROUND_TRIP * 9 / 10 {
            assert!(backend.accepted() > 0);
            return;
        }
        assert!(
            attempt < 3,
            "at least 0.9 of a round trip of {ROUND_TRIP:?} is to be gained"
        );
    }
}
