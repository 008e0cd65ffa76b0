//! One connect of the keeper of warm connections: a socket with the options that sessions' sockets towards backends have.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::SockAddr;

use crate::ids::Address;
use crate::prober::ring;
use crate::prober::visit::is_own_echo;
use crate::sys::stream;

use super::keeper::Dial;

/// A cancelled connect answers at once; should the kernel not do so, the socket is left to the runtime after this.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

/// A connected socket, or none if the backend could not be reached in time.
pub async fn open(dial: &Dial) -> Option<OwnedFd> {
    let order = &dial.order;
    let address = order.address.as_ref()?;
    let family = address.inet().map(|address| address.is_ipv4());
    let fitting = order
        .sources
        .iter()
        .filter(|ip| Some(ip.is_ipv4()) == family);
    let sources = fitting.clone().count().max(1);
    let source = fitting.copied().nth(dial.turn as usize % sources);
    let target = match address {
        Address::Inet(address) => SockAddr::from(*address),
        Address::Unix(path) => SockAddr::unix(path).ok()?,
    };
    let socket = stream::outbound(address, source).ok()?;
    if address.inet().is_some() {
        // A kernel that refuses one of these options still carries the session.
        let _ = stream::set_nodelay(socket.as_fd());
        if order.user_timeout_ms > 0 {
            let _ = stream::set_user_timeout(socket.as_fd(), order.user_timeout_ms);
        }
    }
    let descriptor = socket.as_raw_fd();
    let mut answer = ring::connect(socket, target);
    let timeout = Duration::from_nanos(order.connect_timeout_ns);
    match tokio::time::timeout(timeout, &mut answer).await {
        Ok((Ok(()), socket)) => (!is_own_echo(&socket, address)).then_some(socket),
        Ok((Err(_), _socket)) => None,
        Err(_elapsed) => {
            let cancelled = async {
                let _ = ring::cancel(descriptor).await;
                let _ = answer.await;
            };
            let _ = tokio::time::timeout(CANCEL_WITHIN, cancelled).await;
            None
        }
    }
}
