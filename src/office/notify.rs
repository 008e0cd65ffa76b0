//! Talks to the service manager: one datagram each, to the socket that `$NOTIFY_SOCKET` names. Without it, or when it
//! cannot be reached, nothing happens: the service manager's word is never needed to serve, and it is waited for a moment
//! only.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use parking_lot::Mutex;
use sd_notify::NotifyState;
use sendfd::SendWithFd;

/// A service manager that does not read must not hold up the office.
const PATIENCE: Duration = Duration::from_millis(100);

/// The kernel passes at most 253 descriptors at a time.
const DESCRIPTORS_AT_ONCE: usize = 128;

/// The service manager listens to one process of a service.
#[derive(Debug)]
enum Voice {
    Heard,
    /// Another one is heard still: what is said is kept for later.
    Waiting(Vec<(String, Vec<OwnedFd>)>),
    /// Another one is heard now.
    Silent,
}

static VOICE: Mutex<Voice> = Mutex::new(Voice::Heard);

/// From now on nothing is said until [`speak`].
pub fn hold_back() {
    *VOICE.lock() = Voice::Waiting(Vec::new());
}

/// Says what was held back, and is heard from now on.
pub fn speak() {
    let before = std::mem::replace(&mut *VOICE.lock(), Voice::Heard);
    if let Voice::Waiting(said) = before {
        for (lines, sockets) in said {
            let raw: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
            deliver(&lines, &raw);
        }
    }
}

/// Another process speaks now; this one says nothing more.
pub fn be_silent() {
    *VOICE.lock() = Voice::Silent;
}

/// Whether anybody listens.
#[must_use]
pub fn is_heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

pub fn tell(states: &[NotifyState<'_>]) {
    tell_with(states, Vec::new());
}

/// A reload begins; what ends it is `Ready`.
pub fn tell_reloading() {
    // Of the clock that systemd compares with its own.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::debug!("no monotonic time: {error}"),
    }
}

/// Has the manager keep these sockets under `name` beyond our own end. It knows sockets that it has already.
pub fn keep(name: &str, sockets: &[BorrowedFd<'_>]) {
    let states = [
        NotifyState::FdStore,
        NotifyState::FdName(name),
        // Else it would drop a socket as soon as that has an error to tell.
        NotifyState::Custom("FDPOLL=0"),
    ];
    for some in sockets.chunks(DESCRIPTORS_AT_ONCE) {
        let copies = some.iter().map(BorrowedFd::try_clone_to_owned);
        match copies.collect::<io::Result<_>>() {
            Ok(copies) => tell_with(&states, copies),
            Err(error) => log::warn!("{name} is not kept by the service manager: {error}"),
        }
    }
}

/// Has the manager close what it keeps under `name`.
pub fn forget(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

fn tell_with(states: &[NotifyState<'_>], sockets: Vec<OwnedFd>) {
    if !is_heard() {
        return;
    }
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    match &mut *VOICE.lock() {
        Voice::Heard => {}
        Voice::Silent => return,
        Voice::Waiting(said) => {
            said.push((lines, sockets));
            return;
        }
    }
    let raw: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    deliver(&lines, &raw);
}

fn deliver(lines: &str, sockets: &[RawFd]) {
    if let Err(error) = send(lines.as_bytes(), sockets) {
        log::warn!("the service manager cannot be told: {error}");
    }
}

fn send(lines: &[u8], sockets: &[RawFd]) -> io::Result<()> {
    let name = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let name = name.to_string_lossy();
    let address = match name.strip_prefix('@') {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&*name),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect_addr(&address?)?;
    if sockets.is_empty() {
        socket.send(lines)?;
    } else {
        socket.send_with_fd(lines, sockets)?;
    }
    Ok(())
}
