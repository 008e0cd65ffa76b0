//! The half of the door that these worlds have no use for: nobody listens for streams, so nobody may ask for one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use ringway::ids::{ConnectFailure, Fault, Interest, Moved, SessionKey, SocketId, StreamKey};
use ringway::uring::{Incoming, Kernel, Outcome, Parcel, Patience, Route};

use super::kernel::FlowKernel;

const NONE: &str = "there are no streams in these worlds";

impl Kernel for FlowKernel {
    fn turn(&mut self, patience: Patience, outcomes: &mut Vec<Outcome>) {
        self.take_turn(patience, outcomes);
    }

    fn overflowed(&mut self) -> bool {
        false
    }

    fn buffers_free(&self) -> usize {
        0
    }

    fn buffers_held(&self) -> usize {
        0
    }

    fn pipes_open(&self) -> usize {
        0
    }

    fn stale_answers(&self) -> u64 {
        0
    }

    fn open_listener(&mut self, _: SocketId, _: BorrowedFd<'_>) -> io::Result<()> {
        panic!("{NONE}");
    }

    fn accept(&mut self, _: SocketId) {
        panic!("{NONE}");
    }

    fn stop_accept(&mut self, _: SocketId) {
        panic!("{NONE}");
    }

    fn accept_now(&mut self, _: SocketId) -> Option<Incoming> {
        panic!("{NONE}");
    }

    fn close_listener(&mut self, _: SocketId) {
        panic!("{NONE}");
    }

    fn peer_address(&self, _: &Incoming) -> Option<SocketAddr> {
        panic!("{NONE}");
    }

    fn refuse(&mut self, _: Incoming) {
        panic!("{NONE}");
    }

    fn attach(&mut self, _: SessionKey, _: Incoming) {
        panic!("{NONE}");
    }

    fn connect(&mut self, _: SessionKey, _: Route<'_>) -> Result<(), ConnectFailure> {
        panic!("{NONE}");
    }

    fn cancel_connect(&mut self, _: SessionKey) {
        panic!("{NONE}");
    }

    fn adopt(&mut self, _: SessionKey, _: OwnedFd) -> bool {
        panic!("{NONE}");
    }

    fn receive(&mut self, _: StreamKey) {
        panic!("{NONE}");
    }

    fn stop_receive(&mut self, _: StreamKey) {
        panic!("{NONE}");
    }

    fn send(&mut self, _: StreamKey, _: Parcel) {
        panic!("{NONE}");
    }

    fn send_now(&mut self, _: StreamKey, _: &Parcel) -> u32 {
        panic!("{NONE}");
    }

    fn bytes(&self, _: &Parcel) -> &[u8] {
        panic!("{NONE}");
    }

    fn poll(&mut self, _: StreamKey, _: Interest) {
        panic!("{NONE}");
    }

    fn cancel_poll(&mut self, _: StreamKey, _: Interest) {
        panic!("{NONE}");
    }

    fn close(&mut self, _: StreamKey, _: bool) {
        panic!("{NONE}");
    }

    fn peek(&mut self, _: StreamKey, _: u32) -> Result<&[u8], Fault> {
        panic!("{NONE}");
    }

    fn skip(&mut self, _: StreamKey, _: u32) {
        panic!("{NONE}");
    }

    fn has_ended(&self, _: StreamKey) -> bool {
        panic!("{NONE}");
    }

    fn send_first(&mut self, _: StreamKey, _: &[u8]) -> bool {
        panic!("{NONE}");
    }

    fn local_address(&self, _: StreamKey) -> Option<SocketAddr> {
        panic!("{NONE}");
    }

    fn release(&mut self, _: Parcel) {
        panic!("{NONE}");
    }

    fn stash(&mut self, _: StreamKey, _: Parcel) -> (u32, Option<Parcel>) {
        panic!("{NONE}");
    }

    fn move_bytes(&mut self, _: StreamKey, _: bool) -> Moved {
        panic!("{NONE}");
    }

    fn drop_pipe(&mut self, _: StreamKey) {
        panic!("{NONE}");
    }

    fn finish(&mut self, _: StreamKey) {
        panic!("{NONE}");
    }

    fn is_delivered(&self, _: StreamKey) -> bool {
        panic!("{NONE}");
    }

    fn set_watermark(&mut self, _: StreamKey, _: u32) {
        panic!("{NONE}");
    }

    fn set_keepalive(&mut self, _: StreamKey, _: u32, _: u32, _: u32) {
        panic!("{NONE}");
    }

    fn tcp_info(&self, _: StreamKey) -> (u32, u32) {
        panic!("{NONE}");
    }

    fn peer_of(&self, _: StreamKey) -> Option<SocketAddr> {
        panic!("{NONE}");
    }

    fn vacate(&mut self, _: SessionKey) {
        panic!("{NONE}");
    }
}
