//! A ring with its doorbell, and what tests ask of it: sessions with a peer at either end, and answers in their order.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::super::*;
use crate::ids::{Address, ReceiveEnd, SessionKey, Side, Slot, SocketId, StreamKey};
use crate::sys::Doorbell;

pub(super) const SIZE: RingSize = RingSize {
    slots_max: 256,
    submissions: 64,
    completions: 1024,
    buffers: 64,
    buffer_bytes: 4096,
    pipes_max: 8,
};

/// How long anything may take before a test fails.
pub(in crate::uring) const LONG: Duration = Duration::from_secs(20);

/// How long a turn of the bench sleeps when nothing happens.
const NAP: Patience = Patience::Nanoseconds(5_000_000);

pub(in crate::uring) struct Bench {
    pub(in crate::uring) ring: Ring,
    pub(super) doorbell: Doorbell,
    answers: VecDeque<(StreamKey, Answer)>,
    accepted: VecDeque<(SocketId, Incoming)>,
    accept_ends: VecDeque<(SocketId, AcceptEnd)>,
    /// What was told of datagrams.
    pub(in crate::uring) datagrams: VecDeque<Outcome>,
    pub(super) bells: usize,
    next_slot: u32,
}

impl Bench {
    pub(in crate::uring) fn new() -> Bench {
        Bench::sized(SIZE)
    }

    pub(super) fn sized(size: RingSize) -> Bench {
        let doorbell = Doorbell::new().unwrap();
        let features = Features::found().unwrap();
        let ring = Ring::build(size, features, doorbell.as_fd()).unwrap();
        Bench {
            ring,
            doorbell,
            answers: VecDeque::new(),
            accepted: VecDeque::new(),
            accept_ends: VecDeque::new(),
            datagrams: VecDeque::new(),
            bells: 0,
            next_slot: 0,
        }
    }

    /// One turn; its outcomes are sorted into the bench's queues.
    pub(in crate::uring) fn turn(&mut self, patience: Patience) {
        let mut outcomes = Vec::new();
        self.ring.turn(patience, &mut outcomes);
        for outcome in outcomes {
            match outcome {
                Outcome::Doorbell => self.bells += 1,
                Outcome::Accepted(id, incoming) => self.accepted.push_back((id, incoming)),
                Outcome::AcceptEnded(id, end) => self.accept_ends.push_back((id, end)),
                Outcome::Stream(stream, answer) => self.answers.push_back((stream, answer)),
                others => self.datagrams.push_back(others),
            }
        }
    }

    /// Turns until `look` finds what it looks for.
    pub(in crate::uring) fn until<T>(
        &mut self,
        mut look: impl FnMut(&mut Bench) -> Option<T>,
    ) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(
                start.elapsed() < LONG,
                "it never came; answers that nobody asked for: {:?}",
                self.answers
            );
            self.turn(NAP);
        }
    }

    /// The next answer of a stream.
    pub(super) fn answer(&mut self, stream: StreamKey) -> Answer {
        self.until(|bench| bench.answer_now(stream))
    }

    /// The next answer of a stream, if it has come.
    pub(super) fn answer_now(&mut self, stream: StreamKey) -> Option<Answer> {
        let place = self.answers.iter().position(|(of, _)| *of == stream)?;
        self.answers.remove(place).map(|(_, answer)| answer)
    }

    /// Turns a few times and asserts that the stream has nothing to say.
    pub(super) fn expect_silence(&mut self, stream: StreamKey) {
        for _ in 0..5 {
            self.turn(NAP);
        }
        let told = self.answer_now(stream);
        assert!(told.is_none(), "{told:?}");
    }

    pub(super) fn accepted(&mut self) -> (SocketId, Incoming) {
        self.until(|bench| bench.accepted.pop_front())
    }

    pub(super) fn accepted_now(&mut self) -> Option<(SocketId, Incoming)> {
        self.accepted.pop_front()
    }

    pub(super) fn accept_ended_now(&mut self) -> Option<(SocketId, AcceptEnd)> {
        self.accept_ends.pop_front()
    }

    pub(super) fn accept_end(&mut self) -> (SocketId, AcceptEnd) {
        self.until(|bench| bench.accept_ends.pop_front())
    }

    /// Bytes received from a stream until its receive ends, and how it ended. Buffers are given back.
    pub(super) fn receive_all(&mut self, stream: StreamKey) -> (Vec<u8>, ReceiveEnd) {
        let mut bytes = Vec::new();
        loop {
            match self.answer(stream) {
                Answer::Received(parcel) => bytes.extend(self.read_and_release(parcel)),
                Answer::ReceiveEnded(end) => return (bytes, end),
                other => panic!("{other:?} while receiving"),
            }
        }
    }

    /// The same to the end of the stream, armed again whenever it stops before.
    pub(super) fn receive_to_end(&mut self, stream: StreamKey) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let (more, end) = self.receive_all(stream);
            bytes.extend(more);
            match end {
                ReceiveEnd::Fin => return bytes,
                ReceiveEnd::Stopped | ReceiveEnd::NoBuffer => self.ring.receive(stream),
                ReceiveEnd::Broken(fault) => panic!("{fault:?}"),
            }
        }
    }

    pub(super) fn read_and_release(&mut self, parcel: Parcel) -> Vec<u8> {
        let bytes = self.ring.buffers.bytes(&parcel).to_vec();
        self.ring.release(parcel);
        bytes
    }

    /// A parcel with these bytes in it, as if received.
    pub(super) fn parcel(&mut self, bytes: &[u8]) -> Parcel {
        let (stream, mut peer) = self.client();
        peer.write_all(bytes).unwrap();
        drop(peer);
        // All at once, so that it is one parcel.
        self.until(|bench| {
            let socket = bench.ring.streams.socket(stream).unwrap();
            let there = crate::sys::stream::readable_bytes(socket).unwrap();
            (there == bytes.len()).then_some(())
        });
        self.ring.receive(stream);
        let Answer::Received(parcel) = self.answer(stream) else {
            panic!("no parcel")
        };
        assert_eq!(parcel.bytes() as usize, bytes.len(), "more than a buffer");
        let answer = self.answer(stream);
        assert!(matches!(answer, Answer::ReceiveEnded(_)), "{answer:?}");
        self.ring.close(stream, false);
        self.ring.vacate(stream.session);
        self.turn(Patience::None);
        self.next_slot -= 1;
        parcel
    }

    pub(super) fn session_key(&mut self) -> SessionKey {
        self.next_slot += 1;
        SessionKey {
            slot: Slot(self.next_slot - 1),
            generation: 7,
        }
    }

    /// A session whose client side is connected to the peer returned.
    pub(super) fn client(&mut self) -> (StreamKey, TcpStream) {
        let (ours, peer) = pair();
        (self.attach(ours), peer)
    }

    pub(super) fn attach(&mut self, socket: impl Into<OwnedFd>) -> StreamKey {
        let socket = socket.into();
        SockRef::from(&socket).set_nonblocking(true).unwrap();
        let session = self.session_key();
        self.ring.attach(session, Incoming::from(socket));
        StreamKey {
            session,
            side: Side::Client,
        }
    }

    /// A session with both sides connected: client stream and its peer, backend stream and its peer.
    pub(super) fn relay(&mut self) -> (StreamKey, TcpStream, StreamKey, TcpStream) {
        let (client, client_peer) = self.client();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Inet(listener.local_addr().unwrap());
        self.connect(client.session, &address).unwrap();
        let backend = door::backend(client.session);
        let answer = self.answer(backend);
        assert!(matches!(answer, Answer::Connected), "{answer:?}");
        let (backend_peer, _) = listener.accept().unwrap();
        backend_peer.set_read_timeout(Some(LONG)).unwrap();
        (client, client_peer, backend, backend_peer)
    }

    pub(super) fn connect(
        &mut self,
        session: SessionKey,
        address: &Address,
    ) -> Result<(), crate::ids::ConnectFailure> {
        let route = Route {
            address,
            source: None,
            user_timeout_ms: 0,
        };
        self.ring.connect(session, route)
    }

    /// Sends `bytes` in parcels of a buffer each until the socket takes no more. Returns what was sent, and the parcel's
    /// rest.
    pub(super) fn fill(&mut self, stream: StreamKey) -> (Vec<u8>, Parcel) {
        let mut sent = Vec::new();
        for number in 0..100_000u32 {
            let bytes = pattern(number, SIZE.buffer_bytes as usize);
            let parcel = self.parcel(&bytes);
            self.ring.send(stream, parcel);
            self.turn(Patience::None);
            match self.answer_now(stream) {
                Some(Answer::Sent(count)) => sent.extend(&bytes[..count as usize]),
                Some(Answer::SentShort(count, rest)) => {
                    sent.extend(&bytes[..count as usize]);
                    assert_eq!(self.ring.buffers.bytes(&rest), &bytes[count as usize..]);
                    return (sent, rest);
                }
                other => panic!("{other:?} to a send"),
            }
        }
        panic!("it takes everything");
    }
}

pub(super) fn pattern(number: u32, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|place| (number as usize * 31 + place * 7 % 251) as u8)
        .collect()
}

/// A connection's two ends.
pub(super) fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(LONG)).unwrap();
    peer.set_write_timeout(Some(LONG)).unwrap();
    (ours, peer)
}

/// The same with a small send buffer on our end and a small window on the peer's.
pub(super) fn narrow_pair() -> (TcpStream, TcpStream) {
    let (ours, peer) = pair();
    SockRef::from(&ours).set_send_buffer_size(8_192).unwrap();
    SockRef::from(&peer).set_recv_buffer_size(4_096).unwrap();
    (ours, peer)
}

/// Closes a socket by reset.
pub(super) fn reset(socket: TcpStream) {
    SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(socket);
}

pub(super) fn read_exactly(peer: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut found = vec![0; bytes];
    peer.read_exact(&mut found).unwrap();
    found
}

/// A listener whose queue is full, so that further connects stay pending; keep the streams.
pub(super) fn full_listener() -> (TcpListener, SocketAddr, Vec<socket2::Socket>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    SockRef::from(&listener).listen(0).unwrap();
    let mut clients = Vec::new();
    let start = Instant::now();
    // The first few fit. A handshake that did not end within a while will not.
    while start.elapsed() < LONG {
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let client = client.unwrap();
        let connected = client.connect_timeout(&address.into(), Duration::from_millis(150));
        clients.push(client);
        if connected.is_err() {
            return (listener, address, clients);
        }
    }
    panic!("a listener with a queue of none takes everybody");
}
