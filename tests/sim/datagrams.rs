//! These simulated worlds have no listeners for datagrams: those have worlds of their own, in `flows`. So this kernel
//! carries none, and nobody may ask it to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use ringway::ids::{ConnectFailure, FlowKey, Outlet, SocketId};
use ringway::uring::{Datagram, Datagrams, Envelope, Heading};

use super::kernel::FakeKernel;

const NONE: &str = "no world of the simulation has a listener for datagrams";

impl Datagrams for FakeKernel {
    fn open_datagrams(&mut self, _: SocketId, _: BorrowedFd<'_>) -> io::Result<()> {
        panic!("{NONE}");
    }

    fn close_datagrams(&mut self, _: SocketId) {
        panic!("{NONE}");
    }

    fn resume_datagrams(&mut self, _: SocketId) {
        panic!("{NONE}");
    }

    fn open_flow(
        &mut self,
        _: FlowKey,
        _: SocketAddr,
        _: Option<IpAddr>,
    ) -> Result<Outlet, ConnectFailure> {
        panic!("{NONE}");
    }

    fn has_flow(&self, _: FlowKey) -> bool {
        panic!("{NONE}");
    }

    fn close_flow(&mut self, _: FlowKey) {
        panic!("{NONE}");
    }

    fn flow_sockets_over(&self) -> u32 {
        panic!("{NONE}");
    }

    fn let_go_at_once(&mut self) {
        panic!("{NONE}");
    }

    fn trim_flow_sockets(&mut self) -> bool {
        panic!("{NONE}");
    }

    fn to_backend(&mut self, _: FlowKey, _: Heading<'_>, _: Datagram) {
        panic!("{NONE}");
    }

    fn to_client(&mut self, _: FlowKey, _: Envelope, _: Datagram) {
        panic!("{NONE}");
    }

    fn discard(&mut self, _: Datagram) {
        panic!("{NONE}");
    }

    fn is_behind(&self) -> bool {
        false
    }
}
