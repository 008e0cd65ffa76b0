//! Keeps warm connections: a task of its own on the prober's thread. It opens them, watches them while they are idle, lets
//! them go when they are too old or their backend gets nothing new, and puts them where workers take them.
//!
//! An idle connection is watched by an epoll set and not by a poll in the ring (see [`crate::sys::IdleSet`] for why); the
//! ring polls the set. Nothing here reads or sends a byte.

mod dial;
mod keeper;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::handoff::{BackendShared, Hatches, Waiters, WarmProfile, WarmSocket};
use crate::ids::{Address, Clock, millis};
use crate::sys::IdleSet;

use super::chance::Chance;
use super::ring;
use super::watch::Desk;
use keeper::{Dial, Keeper};

/// Connects begun at one look, over all backends.
const DIALS_PER_LOOK: usize = 16;
/// Connects in flight, over all backends, each with one descriptor.
pub const DIALS_MAX: usize = 64;
/// How often verdicts and ages are looked at while there is somebody to keep warm.
const LOOK_NS: u64 = millis(50);
/// With more backends than this a look is not made again within [`PAUSE`], however often workers ring.
const OFTEN_MAX: usize = 32;
const PAUSE: Duration = Duration::from_millis(1);
/// The token of the bell among those of the idle connections.
const BELL: u64 = u64::MAX;
/// How long connects in flight may take to end once the prober is told to stop.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// Warm connections that one backend is to have. It is the same backend as before while `backend` is the same allocation.
#[derive(Clone, Debug)]
pub struct Order {
    pub backend: Arc<BackendShared>,
    /// `None`: its name does not resolve.
    pub address: Option<Address>,
    /// Local addresses to connect from, in turn.
    pub sources: Vec<IpAddr>,
    /// At most [`crate::handoff::WARM_MAX`].
    pub size: u32,
    pub max_age_ns: u64,
    pub profile: WarmProfile,
    pub connect_timeout_ns: u64,
    pub user_timeout_ms: u32,
    /// Sessions are given to backends by connect time, for which these connects count, too.
    pub measured: bool,
    /// It has weight, so that sessions may come to it.
    pub open: bool,
    /// The pool's: nothing is opened while clients wait.
    pub waiters: Arc<Waiters>,
}

/// Something that the operator should know.
#[derive(Clone, Debug)]
pub struct Notice {
    pub backend: Arc<BackendShared>,
    pub kind: NoticeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// The server closed an idle connection at this age: the age limit is halved.
    Young { age_ns: u64 },
    /// The server greets with an error: full, or this host is blocked.
    Refused,
}

/// What the office and the task share.
#[derive(Debug, Default)]
pub struct Counter {
    /// The newest set of orders, until it is taken.
    pub orders: Mutex<Option<Vec<Order>>>,
    pub notices: Mutex<Vec<Notice>>,
    pub news: Notify,
}

/// How a connect went.
type Dialled = (Dial, Option<OwnedFd>);

pub struct Warmth {
    desk: Arc<Desk>,
    hatches: Arc<Hatches>,
    clock: Clock,
    watch: Arc<IdleSet>,
    chance: Chance,
    keepers: Vec<Keeper>,
    keepers_made: u32,
    dials: JoinSet<Dialled>,
    stirred: Vec<u64>,
    due: Vec<Dial>,
}

impl Warmth {
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn new(
        desk: Arc<Desk>,
        hatches: Arc<Hatches>,
        clock: Clock,
        chance: Chance,
    ) -> std::io::Result<Warmth> {
        let watch = Arc::new(IdleSet::new()?);
        watch.add(hatches.warm_bell.doorbell.as_fd(), BELL)?;
        Ok(Warmth {
            desk,
            hatches,
            clock,
            watch,
            chance,
            keepers: Vec::new(),
            keepers_made: 0,
            dials: JoinSet::new(),
            stirred: Vec::new(),
            due: Vec::new(),
        })
    }

    /// Runs until the desk says stop.
    pub async fn run(mut self) {
        let descriptor = self.watch.as_fd().as_raw_fd();
        let mut stirring = ring::readable(descriptor);
        while !self.desk.stop.load(Ordering::Acquire) {
            self.take_orders();
            self.hear_stirred();
            self.look();
            let pause = if self.keepers.is_empty() && self.dials.is_empty() {
                Duration::from_secs(3_600)
            } else {
                Duration::from_nanos(LOOK_NS)
            };
            tokio::select! {
                () = self.desk.warm.news.notified() => {}
                _ = &mut stirring => stirring = ring::readable(descriptor),
                Some(done) = self.dials.join_next() => self.hear(done.ok()),
                () = tokio::time::sleep(pause) => {}
            }
            if self.keepers.len() > OFTEN_MAX {
                tokio::time::sleep(PAUSE).await;
            }
            while let Some(done) = self.dials.try_join_next() {
                self.hear(done.ok());
            }
        }
        self.keepers.clear();
        let answers = async {
            while !self.dials.is_empty() {
                let _ = ring::cancel_all().await;
                let one = self.dials.join_next();
                if let Ok(Some(done)) = tokio::time::timeout(Duration::from_millis(10), one).await {
                    self.hear(done.ok());
                }
            }
            let _ = ring::cancel_all().await;
            let _ = stirring.await;
        };
        let _ = tokio::time::timeout(LAST_ANSWERS, answers).await;
    }

    fn take_orders(&mut self) {
        let Some(orders) = self.desk.warm.orders.lock().take() else {
            return;
        };
        let mut before = std::mem::take(&mut self.keepers);
        for order in orders.into_iter().map(Arc::new) {
            let known = before
                .iter()
                .position(|keeper| Arc::ptr_eq(&keeper.order.backend, &order.backend));
            let mut keeper = match known {
                Some(place) => before.swap_remove(place),
                None => {
                    self.keepers_made = self.keepers_made.wrapping_add(1) & 0x7fff_ffff;
                    Keeper::new(self.keepers_made, Arc::clone(&order))
                }
            };
            keeper.adapt(order);
            self.keepers.push(keeper);
        }
        // Those that are left in `before` let everything go as they are dropped.
    }

    fn keeper(&mut self, token: u64) -> Option<&mut Keeper> {
        let id = (token >> 32) as u32;
        self.keepers.iter_mut().find(|keeper| keeper.id == id)
    }

    fn hear_stirred(&mut self) {
        let mut stirred = std::mem::take(&mut self.stirred);
        self.watch.take_stirred(&mut stirred);
        let (now, mut notices) = (self.clock.now(), Vec::new());
        for token in stirred.drain(..) {
            if token == BELL {
                self.hatches.warm_bell.silence();
            } else if let Some(keeper) = self.keeper(token) {
                keeper.on_stirred(token, now, &mut notices);
            }
        }
        self.stirred = stirred;
        if !notices.is_empty() {
            self.desk.warm.notices.lock().append(&mut notices);
        }
    }

    fn look(&mut self) {
        let (now, mut owing) = (self.clock.now(), false);
        let mut due = std::mem::take(&mut self.due);
        for keeper in &mut self.keepers {
            let room = DIALS_MAX.saturating_sub(self.dials.len() + due.len());
            let budget = DIALS_PER_LOOK.saturating_sub(due.len()).min(room);
            keeper.look(now, budget, &mut due);
            owing |= keeper.owes();
        }
        for dial in due.drain(..) {
            self.dials.spawn_local(async move {
                let socket = dial::open(&dial).await;
                (dial, socket)
            });
        }
        self.due = due;
        if owing {
            // A place that was freed here is for those who wait, and so is a connection that lies ready.
            self.hatches.ring();
        }
    }

    /// A connect has ended, one way or the other.
    fn hear(&mut self, done: Option<Dialled>) {
        let Some((dial, socket)) = done else {
            return;
        };
        let now = self.clock.now();
        let kept = socket.and_then(|socket| self.stock(&dial, socket));
        if kept.is_none() {
            if dial.reserved {
                dial.backend.capacity.release();
            }
            if let Some(keeper) = self.keeper(dial.token) {
                keeper.on_refused(dial.token, now);
            }
        }
        let waiting = self.keeper(dial.token).is_some_and(|keeper| keeper.owes());
        if waiting {
            self.hatches.ring();
        }
    }

    fn stock(&mut self, dial: &Dial, socket: OwnedFd) -> Option<()> {
        let (now, watch) = (self.clock.now(), Arc::clone(&self.watch));
        let mut chance = self.chance.clone();
        let keeper = self.keeper(dial.token)?;
        let expires = now.after(keeper.draw_age_ns(&mut chance));
        let awaited = keeper.is_awaited(dial.token);
        if dial.order.measured {
            dial.backend.latency.add(now.since(dial.began), now);
        }
        let profile = dial.order.profile;
        let token = dial.token;
        let watched = watch.add(socket.as_fd(), token).is_ok();
        let socket = WarmSocket::new(socket, profile, token, expires, dial.reserved, watch);
        let stocked = (awaited && watched).then(|| keeper.stock(socket, now));
        self.chance = chance;
        stocked?.ok()
    }
}
