//! The keeper's decisions, with pairs of local sockets in place of connections and time handed in.

use std::os::unix::net::UnixStream;

use super::keeper::UNUSED_MAX;
use super::*;
use crate::handoff::{Discard, Health, Ticket, WARM_MAX};
use crate::ids::{BackendId, Nanos, SessionKey, Slot, WorkerId};

const SECOND: u64 = millis(1_000);

struct Bench {
    keeper: Keeper,
    backend: Arc<BackendShared>,
    watch: Arc<IdleSet>,
    now: Nanos,
    peers: Vec<UnixStream>,
    notices: Vec<Notice>,
}

impl Bench {
    fn new(size: u32, profile: WarmProfile) -> Bench {
        let backend = Arc::new(BackendShared::new(BackendId(1), "p", "b", true, 1));
        backend.verdict.set_health(Health::Up);
        let order = Order {
            backend: Arc::clone(&backend),
            address: Some(Address::Unix("nowhere".into())),
            sources: Vec::new(),
            size,
            max_age_ns: 10 * SECOND,
            profile,
            connect_timeout_ns: SECOND,
            user_timeout_ms: 0,
            measured: false,
            open: true,
            waiters: Arc::new(Waiters::new(8)),
        };
        Bench {
            keeper: Keeper::new(7, Arc::new(order)),
            backend,
            watch: Arc::new(IdleSet::new().unwrap()),
            now: Nanos(SECOND),
            peers: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn look(&mut self) -> Vec<Dial> {
        let mut dials = Vec::new();
        self.keeper.look(self.now, 100, &mut dials);
        dials
    }

    /// Each of these connects succeeds now.
    fn connect(&mut self, dials: Vec<Dial>) -> Vec<u64> {
        let now = self.now;
        let made = dials.into_iter().map(|dial| {
            assert!(self.keeper.is_awaited(dial.token));
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            self.peers.push(theirs);
            let expires = now.after(10 * SECOND);
            let watch = Arc::clone(&self.watch);
            let profile = dial.order.profile;
            let socket = WarmSocket::new(
                ours.into(),
                profile,
                dial.token,
                expires,
                dial.reserved,
                watch,
            );
            self.keeper.stock(socket, now).unwrap();
            dial.token
        });
        made.collect()
    }

    fn fill(&mut self) -> Vec<u64> {
        let mut tokens = Vec::new();
        loop {
            let dials = self.look();
            if dials.is_empty() {
                return tokens;
            }
            tokens.extend(self.connect(dials));
        }
    }

    /// The server closes these.
    fn die(&mut self, tokens: &[u64]) {
        self.peers.clear();
        for &token in tokens {
            self.keeper.on_stirred(token, self.now, &mut self.notices);
        }
    }

    fn pass(&mut self, nanoseconds: u64) {
        self.now = self.now.after(nanoseconds);
    }

    fn discards(&self, why: Discard) -> u64 {
        self.backend.warm.discards[why.index()].read()
    }
}

#[test]
fn a_few_connects_at_a_time_until_the_places_are_filled() {
    let mut bench = Bench::new(6, WarmProfile::Generic);
    let dials = bench.look();
    assert_eq!(dials.len(), 4);
    assert!(bench.look().is_empty(), "four are under way");
    bench.connect(dials);
    assert_eq!(bench.fill().len(), 2);
    assert_eq!(bench.backend.warm.idle(), 6);
    // A worker takes one: it is replaced.
    drop(bench.backend.warm.take(0));
    assert_eq!(bench.fill().len(), 1);
}

#[test]
fn the_last_place_is_a_clients_and_every_place_is_given_back() {
    let mut bench = Bench::new(8, WarmProfile::Generic);
    bench.backend.capacity.set_limit(5);
    assert_eq!(bench.fill().len(), 4);
    assert_eq!(bench.backend.capacity.used(), 4);
    bench.pass(20 * SECOND);
    let dials = bench.look();
    assert_eq!(bench.discards(Discard::Expired), 4);
    assert_eq!(dials.len(), 4);
    for dial in dials {
        assert!(dial.reserved);
        bench.backend.capacity.release();
        bench.keeper.on_refused(dial.token, bench.now);
    }
    assert_eq!(bench.backend.capacity.used(), 0);
    assert!(bench.look().is_empty(), "it backs off");
}

#[test]
fn nothing_is_opened_while_clients_wait() {
    let mut bench = Bench::new(4, WarmProfile::Generic);
    let ticket = Ticket {
        worker: WorkerId(0),
        session: SessionKey {
            slot: Slot(1),
            generation: 0,
        },
        hash: 0,
        avoid: None,
    };
    assert!(bench.keeper.order.waiters.join(ticket));
    assert!(bench.look().is_empty());
    bench.keeper.order.waiters.leave();
    assert_eq!(bench.look().len(), 4);
}

#[test]
fn a_backend_that_gets_nothing_new_loses_what_it_has() {
    let mut bench = Bench::new(4, WarmProfile::Generic);
    bench.fill();
    drop(bench.backend.warm.take(0));
    let dials = bench.look();
    assert_eq!(dials.len(), 1);
    bench.backend.verdict.set_health(Health::Down);
    assert!(bench.look().is_empty());
    assert_eq!(bench.backend.warm.idle(), 0);
    assert_eq!(bench.discards(Discard::Flushed), 3);
    assert!(
        !bench.keeper.is_awaited(dials[0].token),
        "it comes too late"
    );
    bench.backend.verdict.set_health(Health::Up);
    assert_eq!(bench.fill().len(), 4);
}

#[test]
fn a_server_with_less_patience_halves_the_age_once_and_a_restart_is_one_death() {
    let mut bench = Bench::new(4, WarmProfile::Generic);
    let tokens = bench.fill();
    bench.pass(2 * SECOND);
    bench.die(&tokens);
    assert_eq!(bench.discards(Discard::Closed), 4);
    assert_eq!(bench.notices.len(), 1);
    let mut chance = Chance::from_seed(1);
    let drawn = bench.keeper.draw_age_ns(&mut chance);
    assert!((4 * SECOND..=6 * SECOND).contains(&drawn), "{drawn}");
    // Again and again: halved again, but said once.
    bench.pass(11 * SECOND);
    let tokens = bench.fill();
    bench.pass(SECOND);
    bench.die(&tokens);
    assert_eq!(bench.notices.len(), 1);
    let drawn = bench.keeper.draw_age_ns(&mut chance);
    assert!((2 * SECOND..=3 * SECOND).contains(&drawn), "{drawn}");
    // A long time without: back to what was asked for.
    bench.pass(200 * SECOND);
    bench.fill();
    let drawn = bench.keeper.draw_age_ns(&mut chance);
    assert!((8 * SECOND..=12 * SECOND).contains(&drawn), "{drawn}");
}

#[test]
fn an_old_age_is_no_sign_of_impatience() {
    let mut bench = Bench::new(4, WarmProfile::Generic);
    let tokens = bench.fill();
    bench.pass(6 * SECOND);
    bench.die(&tokens);
    assert!(bench.notices.is_empty());
    assert_eq!(bench.fill().len(), 4);
}

#[test]
fn where_unused_ones_count_as_errors_it_rests_until_somebody_asks() {
    let mut bench = Bench::new(4, WarmProfile::Mysql);
    for _ in 0..100 {
        bench.fill();
        bench.pass(20 * SECOND);
    }
    bench.look();
    let unused = bench.discards(Discard::Expired);
    let most = u64::from(UNUSED_MAX) + WARM_MAX as u64;
    assert!((u64::from(UNUSED_MAX)..most).contains(&unused), "{unused}");
    assert!(bench.backend.warm.is_dormant());
    assert!(bench.backend.warm.wake());
    assert!(!bench.backend.warm.wake(), "one ring is enough");
    assert_eq!(bench.fill().len(), 4);
    // Of use: the count begins anew.
    for _ in 0..30 {
        bench.pass(SECOND);
        drop(bench.backend.warm.take(0));
        bench.fill();
    }
    assert!(!bench.backend.warm.is_dormant());
}

#[test]
fn another_address_is_another_server() {
    let mut bench = Bench::new(4, WarmProfile::Generic);
    bench.fill();
    let same = Arc::new(Order {
        size: 3,
        ..(*bench.keeper.order).clone()
    });
    bench.keeper.adapt(Arc::clone(&same));
    bench.look();
    assert_eq!(bench.backend.warm.idle(), 3, "one is too many");
    bench.keeper.adapt(Arc::new(Order {
        address: Some(Address::Unix("elsewhere".into())),
        ..(*same).clone()
    }));
    assert_eq!(bench.backend.warm.idle(), 0);
    assert_eq!(bench.discards(Discard::Flushed), 3);
}
