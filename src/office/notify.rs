//! Talks to the service manager: one datagram each, to the socket that `$NOTIFY_SOCKET` names. Without it, or when it
//! cannot be reached, nothing happens: the service manager's word is never needed to serve, and it is waited for a moment
//! only.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use sendfd::SendWithFd;

/// A service manager that does not read must not hold up the office.
const PATIENCE: Duration = Duration::from_millis(100);

/// The kernel passes at most 253 descriptors at a time.
const DESCRIPTORS_AT_ONCE: usize = 128;

/// Whether anybody listens.
#[must_use]
pub fn is_heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

pub fn tell(states: &[NotifyState<'_>]) {
    tell_with(states, &[]);
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
    let raw: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    for some in raw.chunks(DESCRIPTORS_AT_ONCE) {
        tell_with(&states, some);
    }
}

/// Has the manager close what it keeps under `name`.
pub fn forget(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

fn tell_with(states: &[NotifyState<'_>], sockets: &[RawFd]) {
    if !is_heard() {
        return;
    }
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
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
