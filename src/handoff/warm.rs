//! Warm connections on their way from the prober, which opens and watches them, to the workers, which hand them to
//! sessions. One place per connection, each a queue of one: whoever pops it owns the descriptor and closes it, so
//! nobody waits and no late answer can meet a socket that has changed hands. A worker must never open one here.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam::queue::ArrayQueue;

use crate::ids::Nanos;
use crate::sys::{IdleSet, stream};

use super::counters::Tally;

/// Warm connections that a backend can have at most, all workers together: they cost the server a process or a place
/// each, and more than a few only help where connects come in bursts.
pub const WARM_MAX: usize = 16;

/// What a protocol allows an idle connection to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmProfile {
    Generic,
    Postgres,
    Mysql,
    Redis,
}

impl WarmProfile {
    /// Whether the server speaks first: its greeting then waits in the kernel's buffer, untouched, for the client.
    #[must_use]
    pub fn speaks_first(self) -> bool {
        self == WarmProfile::Mysql
    }

    /// Whether its clients begin with a packet that may be sent twice.
    #[must_use]
    pub fn has_postgres_start(self) -> bool {
        self == WarmProfile::Postgres
    }

    /// Whether closing an unused connection by reset is kinder than by end of stream. MySQL counts a client that leaves
    /// after the greeting as an error of its host; PostgreSQL writes a line about a reset and none about an end.
    #[must_use]
    pub fn leaves_by_reset(self) -> bool {
        self == WarmProfile::Mysql
    }
}

/// What became of a session's wish for a warm connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handout {
    /// The session got one.
    Hit,
    /// There was none.
    Miss,
    /// There was one, found dead, unusable or too old at the last moment; the session connected by itself.
    Stale,
    /// Of the hits: it ended or broke before the backend's first byte, and nobody but us noticed: the session connected
    /// by itself and sent again what it had sent.
    Replayed,
    /// Of the hits: it ended or broke before the backend's first byte, and the session with it.
    Died,
}

impl Handout {
    pub const COUNT: usize = 5;
    pub const ALL: [Handout; Handout::COUNT] = [
        Handout::Hit,
        Handout::Miss,
        Handout::Stale,
        Handout::Replayed,
        Handout::Died,
    ];

    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Handout::Hit => "hit",
            Handout::Miss => "miss",
            Handout::Stale => "stale",
            Handout::Replayed => "replayed",
            Handout::Died => "died",
        }
    }
}

/// Why the prober let one go that no session had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    Expired,
    /// The server closed it.
    Closed,
    /// The server said something that no client asked for.
    Spoke,
    /// The backend went down, drains, or is not wanted any more.
    Flushed,
}

impl Discard {
    pub const COUNT: usize = 4;
    pub const ALL: [Discard; Discard::COUNT] = [
        Discard::Expired,
        Discard::Closed,
        Discard::Spoke,
        Discard::Flushed,
    ];

    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Discard::Expired => "expired",
            Discard::Closed => "closed",
            Discard::Spoke => "spoke",
            Discard::Flushed => "flushed",
        }
    }
}

/// What a look at an idle connection finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Fine,
    Closed,
    /// Bytes that must not reach a client.
    Spoke,
}

/// One open connection that no session has yet. Dropped, it is closed the way its profile asks for.
#[derive(Debug)]
pub struct WarmSocket {
    socket: Option<OwnedFd>,
    profile: WarmProfile,
    /// Whose place it is, as the prober counts.
    pub token: u64,
    pub expires: Nanos,
    /// It holds a unit of the backend's capacity, which whoever takes it inherits.
    pub reserved: bool,
    /// Where the prober watches it.
    watch: Arc<IdleSet>,
}

impl WarmSocket {
    #[must_use]
    pub fn new(
        socket: OwnedFd,
        profile: WarmProfile,
        token: u64,
        expires: Nanos,
        reserved: bool,
        watch: Arc<IdleSet>,
    ) -> WarmSocket {
        WarmSocket {
            socket: Some(socket),
            profile,
            token,
            expires,
            reserved,
            watch,
        }
    }

    #[must_use]
    pub fn profile(&self) -> WarmProfile {
        self.profile
    }

    /// Looks at what waits in it, without taking anything.
    #[must_use]
    pub fn look(&self) -> Condition {
        let Some(socket) = &self.socket else {
            return Condition::Closed;
        };
        let mut first = [0; 5];
        match stream::peek(socket.as_fd(), &mut first) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Condition::Fine,
            Err(_) | Ok(0) => Condition::Closed,
            Ok(count) if self.profile.speaks_first() && is_greeting(&first[..count]) => {
                Condition::Fine
            }
            Ok(_) => Condition::Spoke,
        }
    }

    /// The descriptor, if the connection is alive and young enough to be a session's; else it is closed.
    #[must_use]
    pub fn hand_over(mut self, now: Nanos) -> Option<OwnedFd> {
        if now >= self.expires || self.look() != Condition::Fine {
            return None;
        }
        let socket = self.socket.take()?;
        self.watch.remove(socket.as_fd());
        Some(socket)
    }
}

impl Drop for WarmSocket {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket
            && self.profile.leaves_by_reset()
        {
            let _ = stream::set_reset_on_close(socket.as_fd());
        }
    }
}

/// Whether a MySQL packet begins a greeting of protocol 10, as far as its first bytes tell; 0xff is an error.
fn is_greeting(first: &[u8]) -> bool {
    first.get(4).is_none_or(|&kind| kind == 10)
}

/// A backend's warm connections.
#[derive(Debug, Default)]
pub struct WarmStock {
    places: OnceLock<Box<[ArrayQueue<WarmSocket>]>>,
    /// So many are wanted; 0: the pool keeps none.
    wanted: AtomicU32,
    /// Never less than there are.
    idle: AtomicU32,
    dormant: AtomicBool,
    /// By [`Discard`]; the prober counts.
    pub discards: [Tally; Discard::COUNT],
}

impl WarmStock {
    /// Warm connections at rest. Stale at once.
    #[must_use]
    pub fn idle(&self) -> u32 {
        self.idle.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0
    }

    pub fn want(&self, count: u32) {
        self.wanted.store(count, Ordering::Relaxed);
    }

    /// Whether the prober has stopped refilling until somebody asks.
    #[must_use]
    pub fn is_dormant(&self) -> bool {
        self.dormant.load(Ordering::Relaxed)
    }

    pub fn fall_asleep(&self) {
        self.dormant.store(true, Ordering::Relaxed);
    }

    /// A session has found nothing; true if the prober must be woken because of that.
    pub fn wake(&self) -> bool {
        self.is_dormant() && self.dormant.swap(false, Ordering::Relaxed)
    }

    /// Takes one, whichever is met first from place `start` on.
    #[must_use]
    pub fn take(&self, start: usize) -> Option<WarmSocket> {
        if self.idle() == 0 {
            return None;
        }
        let places = self.places.get()?;
        (0..places.len()).find_map(|step| self.take_from((start + step) % places.len()))
    }

    /// Takes the one in this place.
    #[must_use]
    pub fn take_from(&self, place: usize) -> Option<WarmSocket> {
        let socket = self.places.get()?.get(place)?.pop()?;
        self.idle.fetch_sub(1, Ordering::Relaxed);
        Some(socket)
    }

    #[must_use]
    pub fn is_empty(&self, place: usize) -> bool {
        let queue = self.places.get().and_then(|places| places.get(place));
        queue.is_none_or(ArrayQueue::is_empty)
    }

    /// Puts one into an empty place. Only the prober does.
    ///
    /// # Errors
    /// Gives it back if the place is taken.
    pub fn put(&self, place: usize, socket: WarmSocket) -> Result<(), WarmSocket> {
        let places = self
            .places
            .get_or_init(|| (0..WARM_MAX).map(|_| ArrayQueue::new(1)).collect());
        let Some(queue) = places.get(place) else {
            return Err(socket);
        };
        self.idle.fetch_add(1, Ordering::Relaxed);
        queue.push(socket).inspect_err(|_| {
            self.idle.fetch_sub(1, Ordering::Relaxed);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    fn warm(socket: TcpStream, profile: WarmProfile, token: u64) -> WarmSocket {
        let watch = Arc::new(IdleSet::new().unwrap());
        WarmSocket::new(socket.into(), profile, token, Nanos(100), false, watch)
    }

    /// Sends, and waits until the other end can see it.
    fn say(from: &mut TcpStream, to: &TcpStream, bytes: &[u8]) {
        from.write_all(bytes).unwrap();
        let mut seen = [0; 1];
        assert_eq!(to.peek(&mut seen).unwrap(), 1);
    }

    #[test]
    fn one_connection_has_one_owner_among_many_takers() {
        let stock = WarmStock::default();
        assert!(stock.take(0).is_none());
        let mut peers = Vec::new();
        for place in 0..WARM_MAX {
            let (ours, theirs) = pair();
            peers.push(theirs);
            let socket = warm(ours, WarmProfile::Generic, place as u64);
            stock.put(place, socket).unwrap();
        }
        let (ours, _theirs) = pair();
        let extra = warm(ours, WarmProfile::Generic, 99);
        assert_eq!(stock.put(3, extra).unwrap_err().token, 99);
        assert_eq!(stock.idle(), WARM_MAX as u32);
        let taken: Vec<u64> = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|start| {
                    let stock = &stock;
                    scope.spawn(move || {
                        std::iter::from_fn(|| stock.take(start))
                            .map(|socket| socket.token)
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            takers
                .into_iter()
                .flat_map(|it| it.join().unwrap())
                .collect()
        });
        let mut sorted = taken;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..WARM_MAX as u64).collect::<Vec<_>>());
        assert_eq!(stock.idle(), 0);
    }

    #[test]
    fn only_a_silent_young_living_connection_is_handed_over() {
        let (ours, _theirs) = pair();
        let socket = warm(ours, WarmProfile::Generic, 0);
        assert!(socket.hand_over(Nanos(99)).is_some());
        let (ours, _theirs) = pair();
        assert!(
            warm(ours, WarmProfile::Generic, 0)
                .hand_over(Nanos(100))
                .is_none()
        );
        let (ours, mut theirs) = pair();
        say(&mut theirs, &ours, b"hello");
        let socket = warm(ours, WarmProfile::Generic, 0);
        assert_eq!(socket.look(), Condition::Spoke);
        assert!(socket.hand_over(Nanos(0)).is_none());
        let (ours, theirs) = pair();
        drop(theirs);
        assert_eq!(ours.peek(&mut [0; 1]).unwrap(), 0);
        assert_eq!(warm(ours, WarmProfile::Mysql, 0).look(), Condition::Closed);
    }

    #[test]
    fn a_greeting_stays_unread_and_an_error_is_none() {
        let (ours, mut theirs) = pair();
        say(&mut theirs, &ours, b"\x4a\0\0\0\x0a8.0.36\0");
        let socket = warm(ours, WarmProfile::Mysql, 0);
        let mut ours = TcpStream::from(socket.hand_over(Nanos(0)).unwrap());
        let mut first = [0; 5];
        ours.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"\x4a\0\0\0\x0a");

        let (ours, mut theirs) = pair();
        say(
            &mut theirs,
            &ours,
            b"\x20\0\0\0\xff\x10\x04Too many connections",
        );
        assert_eq!(warm(ours, WarmProfile::Mysql, 0).look(), Condition::Spoke);
    }
}
