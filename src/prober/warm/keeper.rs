//! One backend's warm connections as the prober remembers them: which places are filled, when each is too old, when the
//! next connect may begin. Decisions only; `super` carries them between the stock, the ring and the office.
//!
//! Places are filled one connect each and let go one by one. Whoever the stock misses was taken by a worker.

use std::sync::Arc;

use crate::handoff::{
    BackendShared, BreakerState, Discard, Reservation, WARM_MAX, WarmCondition, WarmProfile,
    WarmSocket,
};
use crate::ids::{Nanos, millis};

use super::{Notice, NoticeKind, Order};
use crate::prober::chance::Chance;

/// Connects towards one backend at a time.
const DIALS_MAX: usize = 4;
/// After a connect that failed, or a connection that died young, the next one waits: so long, doubled each time.
const RETRY_NS: u64 = millis(100);
const RETRY_MAX_NS: u64 = millis(5_000);
/// The age limit is not halved below this.
const AGE_MIN_NS: u64 = millis(250);
/// A halved age limit is given up after so many times itself without a young death.
const RECOVERY: u64 = 40;
/// A server that counts unused connections as errors of this host sees at most so many in a row: MySQL's
/// max_connect_errors is 100 by default. Then the pool rests until a client asks.
pub const UNUSED_MAX: u32 = 10;
/// A server that refuses by a message (full, or this host is blocked) is left alone for so long.
const REFUSED_NS: u64 = millis(10_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    Empty,
    Dialling {
        token: u64,
    },
    Idle {
        token: u64,
        born: Nanos,
        expires: Nanos,
    },
}

/// A connect to be made.
#[derive(Debug)]
pub struct Dial {
    pub token: u64,
    pub backend: Arc<BackendShared>,
    pub order: Arc<Order>,
    /// Counts up, to use source addresses in turn.
    pub turn: u64,
    /// It holds a unit of the backend's capacity.
    pub reserved: bool,
    pub began: Nanos,
}

#[derive(Debug)]
pub struct Keeper {
    pub id: u32,
    pub order: Arc<Order>,
    seats: [Seat; WARM_MAX],
    serial: u64,
    age_ns: u64,
    young_death_at: Option<Nanos>,
    retry_at: Nanos,
    failures: u32,
    /// Connections in a row that nobody used.
    unused: u32,
    complained: bool,
}

impl Keeper {
    #[must_use]
    pub fn new(id: u32, order: Arc<Order>) -> Keeper {
        let age_ns = order.max_age_ns;
        Keeper {
            id,
            order,
            seats: [Seat::Empty; WARM_MAX],
            serial: 0,
            age_ns,
            young_death_at: None,
            retry_at: Nanos::ZERO,
            failures: 0,
            unused: 0,
            complained: false,
        }
    }

    fn backend(&self) -> &Arc<BackendShared> {
        &self.order.backend
    }

    /// Takes over what a reload says. Connections that go elsewhere, or by other rules, are let go.
    pub fn adapt(&mut self, order: Arc<Order>) {
        let same = self.order.address == order.address
            && self.order.profile == order.profile
            && self.order.sources == order.sources
            && self.order.max_age_ns == order.max_age_ns;
        if !same {
            self.flush();
            self.age_ns = order.max_age_ns;
            self.failures = 0;
            self.retry_at = Nanos::ZERO;
            self.complained = false;
        }
        order.backend.warm.want(order.size);
        self.order = order;
    }

    /// Lets everything go: the backend gets nothing new, or is not wanted any more.
    pub fn flush(&mut self) {
        for place in 0..WARM_MAX {
            if let Seat::Idle { token, .. } = self.seats[place] {
                self.let_go(place, token, Discard::Flushed);
            }
            // What is being dialled finds no place any more.
            self.seats[place] = Seat::Empty;
        }
        self.unused = 0;
        self.age_ns = self.order.max_age_ns;
    }

    /// Whether this backend may have warm connections now. One that is to be tried first may not.
    fn is_open(&self) -> bool {
        let verdict = &self.backend().verdict;
        let trusted = verdict.is_sound() && verdict.breaker.state() == BreakerState::Closed;
        self.order.open && self.order.address.is_some() && trusted
    }

    /// Looks at every place, and appends the connects that are due, `budget` at most.
    pub fn look(&mut self, now: Nanos, budget: usize, dials: &mut Vec<Dial>) {
        if !self.is_open() {
            self.flush();
            return;
        }
        for place in 0..WARM_MAX {
            let Seat::Idle { token, expires, .. } = self.seats[place] else {
                continue;
            };
            if self.backend().warm.is_empty(place) {
                // Taken by a worker, and of use.
                self.seats[place] = Seat::Empty;
                self.unused = 0;
                self.failures = 0;
            } else if now >= expires || place >= self.order.size as usize {
                self.let_go(place, token, Discard::Expired);
                self.failures = 0;
            }
        }
        let quiet_ns = self.age_ns.saturating_mul(RECOVERY);
        if self
            .young_death_at
            .is_some_and(|at| now.since(at) > quiet_ns)
        {
            self.young_death_at = None;
            self.age_ns = self.order.max_age_ns;
        }
        self.dial(now, budget, dials);
    }

    fn dial(&mut self, now: Nanos, budget: usize, dials: &mut Vec<Dial>) {
        if self.is_resting() || now < self.retry_at || self.order.waiters.live() > 0 {
            return;
        }
        let dialling = |seat: &&Seat| matches!(seat, Seat::Dialling { .. });
        let mut room = DIALS_MAX
            .saturating_sub(self.seats.iter().filter(dialling).count())
            .min(budget);
        for place in 0..self.order.size as usize {
            if self.seats[place] != Seat::Empty || room == 0 {
                continue;
            }
            let Some(reserved) = self.reserve(now) else {
                return;
            };
            room -= 1;
            self.serial += 1;
            let token = u64::from(self.id) << 32 | (self.serial << 4 & 0xffff_fff0) | place as u64;
            self.seats[place] = Seat::Dialling { token };
            dials.push(Dial {
                token,
                backend: Arc::clone(self.backend()),
                order: Arc::clone(&self.order),
                turn: self.serial,
                reserved,
                began: now,
            });
        }
    }

    /// A place on the backend for one more connection, but never the last one: that is a client's. `Some(true)` if it
    /// holds a unit of capacity. The backend's `connect_rate` counts these connects, too.
    fn reserve(&self, now: Nanos) -> Option<bool> {
        let (capacity, pace) = (&self.backend().capacity, &self.backend().pace);
        let limit = capacity.limit();
        if (limit != 0 && capacity.used() + 1 >= limit) || !pace.is_open(now) {
            return None;
        }
        let held = match capacity.reserve() {
            Reservation::Unneeded => false,
            Reservation::Held => true,
            Reservation::Full => return None,
        };
        if !pace.take(now) {
            if held {
                capacity.release();
            }
            return None;
        }
        Some(held)
    }

    fn is_resting(&mut self) -> bool {
        if self.unused < UNUSED_MAX {
            return false;
        }
        if self.backend().warm.is_dormant() {
            return true;
        }
        // A worker has asked since.
        self.unused = 0;
        false
    }

    /// Whether the connect that was made for this place is still wanted; else the caller lets it go.
    #[must_use]
    pub fn is_awaited(&self, token: u64) -> bool {
        self.seats[place_of(token)] == Seat::Dialling { token } && self.is_open()
    }

    /// Puts a new connection into its place.
    pub fn stock(&mut self, socket: WarmSocket, now: Nanos) -> Result<(), WarmSocket> {
        let (token, expires) = (socket.token, socket.expires);
        let place = place_of(token);
        self.backend().warm.put(place, socket)?;
        self.seats[place] = Seat::Idle {
            token,
            born: now,
            expires,
        };
        Ok(())
    }

    /// How old one that is born now may become: the limit ± 20 %.
    pub fn draw_age_ns(&self, chance: &mut Chance) -> u64 {
        // ± 10 % of twice as much is ± 20 %.
        chance
            .about(self.age_ns.saturating_mul(2))
            .saturating_sub(self.age_ns)
    }

    /// The connect failed.
    pub fn on_refused(&mut self, token: u64, now: Nanos) {
        let place = place_of(token);
        if self.seats[place] == (Seat::Dialling { token }) {
            self.seats[place] = Seat::Empty;
        }
        self.back_off(now);
    }

    fn back_off(&mut self, now: Nanos) {
        let pause = RETRY_NS << self.failures.min(10);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now.after(pause.min(RETRY_MAX_NS));
    }

    /// Something happened on an idle connection. What is no death is left alone.
    pub fn on_stirred(&mut self, token: u64, now: Nanos, notices: &mut Vec<Notice>) {
        let place = place_of(token);
        let Seat::Idle {
            token: own, born, ..
        } = self.seats[place]
        else {
            return;
        };
        let Some(socket) = self
            .backend()
            .warm
            .take_from(place)
            .filter(|_| own == token)
        else {
            // A worker has it.
            return;
        };
        let what = match socket.look() {
            WarmCondition::Fine => {
                // A greeting; it stays where it is.
                if let Err(socket) = self.backend().warm.put(place, socket) {
                    self.release(socket);
                    self.seats[place] = Seat::Empty;
                }
                return;
            }
            WarmCondition::Closed => Discard::Closed,
            WarmCondition::Spoke => Discard::Spoke,
        };
        self.release(socket);
        self.note_end(place, what);
        if what == Discard::Spoke && self.order.profile.speaks_first() {
            self.retry_at = now.after(REFUSED_NS);
            self.complain(NoticeKind::Refused, notices);
        } else {
            self.on_death(now.since(born), now, notices);
        }
    }

    /// The server closed one of this age: if it was young, its patience is shorter than we think.
    fn on_death(&mut self, age_ns: u64, now: Nanos, notices: &mut Vec<Notice>) {
        if age_ns >= self.age_ns / 2 {
            return;
        }
        self.back_off(now);
        // Several that die at one time are one death: the server restarted.
        let again = self
            .young_death_at
            .is_some_and(|at| now.since(at) <= self.age_ns);
        if !again {
            self.age_ns = (self.age_ns / 2).max(AGE_MIN_NS.min(self.order.max_age_ns));
            self.complain(NoticeKind::Young { age_ns }, notices);
        }
        self.young_death_at = Some(now);
    }

    fn complain(&mut self, kind: NoticeKind, notices: &mut Vec<Notice>) {
        if !std::mem::replace(&mut self.complained, true) {
            notices.push(Notice {
                backend: Arc::clone(self.backend()),
                kind,
            });
        }
    }

    fn let_go(&mut self, place: usize, token: u64, why: Discard) {
        if let Some(socket) = self.backend().warm.take_from(place) {
            debug_assert_eq!(socket.token, token, "only the prober fills a place");
            self.release(socket);
            self.note_end(place, why);
        }
        self.seats[place] = Seat::Empty;
    }

    fn note_end(&mut self, place: usize, why: Discard) {
        self.seats[place] = Seat::Empty;
        self.backend().warm.discards[why.index()].add(1);
        if self.order.profile == WarmProfile::Mysql && why != Discard::Flushed {
            self.unused += 1;
            if self.unused >= UNUSED_MAX {
                self.backend().warm.fall_asleep();
            }
        }
    }

    /// Closes one and gives its place on the backend back.
    fn release(&self, mut socket: WarmSocket) {
        let reserved = std::mem::take(&mut socket.reserved);
        drop(socket);
        if reserved {
            self.backend().capacity.release();
        }
    }

    /// Whether clients wait while something that they could have lies here.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.order.waiters.live() > 0
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.flush();
        self.backend().warm.want(0);
    }
}

fn place_of(token: u64) -> usize {
    (token & 0xf) as usize
}
