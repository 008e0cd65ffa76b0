//! A path with a real delay: a TUN device in a network namespace of the test's own, whose packets a thread of the test
//! holds for a while. Source and destination are swapped on the way, so that what is sent to the far address comes back to
//! the own one, and what is answered to the far address reaches who asked: connections are slow in both directions, and the
//! handshake is the kernel's own. A relay in user space would answer it at once.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::namespace;

/// This side of the path, and where the other end seems to be.
pub const OWN: &str = "10.77.0.1";
pub const FAR: &str = "10.77.0.2";

/// A path from [`OWN`] to [`FAR`] and back, as long as this lives. Only inside a namespace.
pub struct Path {
    _device: File,
    one_way_us: Arc<AtomicU64>,
}

impl Path {
    pub fn with_delay(one_way: Duration) -> Path {
        let device = device();
        namespace::ip(&format!("addr add {OWN}/24 dev slow0"));
        namespace::ip("link set slow0 up");
        let path = Path {
            one_way_us: Arc::default(),
            _device: device.try_clone().expect("the device once more"),
        };
        path.set_delay(one_way);
        hold_packets(&device, &path.one_way_us);
        path
    }

    /// From now on, for each packet that comes.
    pub fn set_delay(&self, one_way: Duration) {
        let us = u64::try_from(one_way.as_micros()).expect("a short time");
        self.one_way_us.store(us, Ordering::SeqCst);
    }
}

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

/// Holds every packet, then lets it come back with its addresses swapped; a checksum does not see that.
fn hold_packets(device: &File, one_way_us: &Arc<AtomicU64>) {
    let one_way_us = Arc::clone(one_way_us);
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
                let delay = Duration::from_micros(one_way_us.load(Ordering::SeqCst));
                if to_sender.send((Instant::now() + delay, packet)).is_err() {
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
