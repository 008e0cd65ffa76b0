//! Tells systemd how the process is: one datagram each, to the socket that `$NOTIFY_SOCKET` names. Without it, or when it
//! cannot be reached, nothing happens: the service manager's word is never needed to serve.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends lines like `READY=1` or `STATUS=…`.
pub fn tell(lines: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let name = name.to_string_lossy();
    let address = match name.strip_prefix('@') {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&*name),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(lines.as_bytes(), &address));
    if let Err(error) = sent {
        log::debug!("systemd cannot be told: {error}");
    }
}
