//! Ten thousand sessions in random order and with random ends, in a process of its own: what was open before is open
//! after, and no buffer is lost.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::super::*;
use super::alone::{alone, descriptors, kernel_workers};
use super::bench::{Bench, LONG, SIZE, reset};
use crate::ids::{Address, Interest, ReceiveEnd, SessionKey, Side, Slot, SocketId, StreamKey};

const CYCLES: u32 = 10_000;
const DOOR: SocketId = SocketId(0);

/// Uniform random bits (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

struct Cycle<'a> {
    bench: &'a mut Bench,
    dice: &'a mut Dice,
    client: StreamKey,
    peer: TcpStream,
}

impl Cycle<'_> {
    /// Receives what the peer sends, and sends it back, over the session's client side.
    fn echo(&mut self) {
        let bytes = vec![self.dice.below(256) as u8; 1 + self.dice.below(9000) as usize];
        self.peer.write_all(&bytes).unwrap();
        self.bench.ring.receive(self.client);
        let mut echoed = 0;
        while echoed < bytes.len() {
            match self.bench.answer(self.client) {
                Answer::Received(parcel) => self.bench.ring.send(self.client, parcel),
                Answer::Sent(count) => echoed += count as usize,
                other => panic!("{other:?}"),
            }
        }
        self.bench.ring.stop_receive(self.client);
        let answer = self.bench.answer(self.client);
        assert!(
            matches!(answer, Answer::ReceiveEnded(ReceiveEnd::Stopped)),
            "{answer:?}"
        );
        let mut found = vec![0; bytes.len()];
        self.peer.read_exact(&mut found).unwrap();
        assert!(found == bytes);
    }

    /// Connects a backend and moves bytes to it through a pipe, or leaves them there.
    fn relay(&mut self, address: &Address, listener: &TcpListener) -> Option<TcpStream> {
        let backend = door::backend(self.client.session);
        self.bench.connect(self.client.session, address).unwrap();
        let early = self.dice.below(4) == 0;
        if early {
            self.bench.ring.cancel_connect(self.client.session);
        }
        let answer = self.bench.answer(backend);
        let peer = match answer {
            Answer::Connected => listener.accept().unwrap().0,
            Answer::ConnectCancelled if early => return None,
            other => panic!("{other:?}"),
        };
        self.peer.write_all(b"through").unwrap();
        if self.dice.below(2) == 0 {
            let bench = &mut *self.bench;
            let client = self.client;
            bench.until(|bench| (bench.ring.move_bytes(client, true).drained > 0).then_some(()));
        } else {
            let parcel = self.bench.parcel(b"held");
            self.bench.ring.stash(self.client, parcel);
        }
        Some(peer)
    }

    /// Closes all that is open, with polls in flight or not.
    fn end(self) {
        let polled = self.dice.below(2) == 0;
        if polled {
            self.bench.ring.poll(self.client, Interest::HangUp);
        }
        if self.dice.below(3) == 0 {
            reset(self.peer);
        } else {
            drop(self.peer);
        }
        if polled {
            self.bench.ring.cancel_poll(self.client, Interest::HangUp);
            let answer = self.bench.answer(self.client);
            let fits = matches!(answer, Answer::PollEnded(_) | Answer::Ready(..));
            assert!(fits, "{answer:?}");
        }
        for side in Side::BOTH {
            let stream = StreamKey {
                side,
                ..self.client
            };
            self.bench.ring.drop_pipe(stream);
            self.bench.ring.close(stream, self.dice.below(2) == 0);
        }
        self.bench.ring.vacate(self.client.session);
    }
}

#[test]
fn ten_thousand_random_sessions_leave_nothing_behind() {
    alone(
        "uring::tests::churn::ten_thousand_random_sessions_leave_nothing_behind",
        || {
            let mut dice = Dice(0x5eed);
            let mut bench = Bench::sized(RingSize {
                submissions: 16,
                ..SIZE
            });
            let front = TcpListener::bind("127.0.0.1:0").unwrap();
            front.set_nonblocking(true).unwrap();
            bench.ring.open_listener(DOOR, front.as_fd()).unwrap();
            bench.ring.accept(DOOR);
            let back = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = Address::Inet(back.local_addr().unwrap());
            let front_address = front.local_addr().unwrap();
            bench.turn(Patience::None);
            // One pipe stays in stock.
            let before = descriptors();
            for cycle in 0..CYCLES {
                let peer = TcpStream::connect(front_address).unwrap();
                peer.set_read_timeout(Some(LONG)).unwrap();
                let (_, incoming) = bench.accepted();
                if dice.below(8) == 0 {
                    bench.ring.refuse(incoming);
                    continue;
                }
                let session = SessionKey {
                    slot: Slot(cycle % 3 + 100),
                    generation: cycle as u16,
                };
                bench.ring.attach(session, incoming);
                let client = StreamKey {
                    session,
                    side: Side::Client,
                };
                let mut cycle = Cycle {
                    bench: &mut bench,
                    dice: &mut dice,
                    client,
                    peer,
                };
                if cycle.dice.below(2) == 0 {
                    cycle.echo();
                }
                let backend_peer = if cycle.dice.below(2) == 0 {
                    cycle.relay(&address, &back)
                } else {
                    None
                };
                cycle.end();
                drop(backend_peer);
            }
            bench.turn(Patience::None);
            let pipes = bench.ring.pipes_open();
            assert_eq!(descriptors(), before + 2 * pipes);
            assert!(pipes <= 1, "{pipes}");
            assert_eq!(bench.ring.buffers_free(), bench.ring.buffers_total());
            assert_eq!(bench.ring.stale_answers(), 0);
            // The doorbell and the accept.
            assert_eq!(bench.ring.in_flight, 2);
            assert_eq!(kernel_workers(), 0);
        },
    );
}
