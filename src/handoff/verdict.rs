//! What is known of a backend, in atomics that the prober and the office write and every worker reads: the operator's
//! word, the checks' word, the breaker, and the order to close its sessions. Checks and breaker are kept apart, so that
//! neither's word is lost under the other's; what is shown as health is made of both.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::ids::{End, Nanos};

use super::breaker::{Breaker, BreakerState};
use super::field::Standing;

/// The operator's state of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Admin {
    Ready = 0,
    Draining = 1,
    Maintenance = 2,
}

/// The health of a backend. Checks never say `Ejected`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Health {
    /// No verdict yet.
    Unknown = 0,
    Up = 1,
    Down = 2,
    Ejected = 3,
    WrongRole = 4,
}

impl Admin {
    pub const ALL: [Admin; 3] = [Admin::Ready, Admin::Draining, Admin::Maintenance];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Admin::Ready => "ready",
            Admin::Draining => "draining",
            Admin::Maintenance => "maintenance",
        }
    }
}

impl Health {
    pub const ALL: [Health; 5] = [
        Health::Unknown,
        Health::Up,
        Health::Down,
        Health::Ejected,
        Health::WrongRole,
    ];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Up => "up",
            Health::Down => "down",
            Health::Ejected => "ejected",
            Health::WrongRole => "wrong-role",
        }
    }
}

/// An order to close a backend's sessions, at once or spread over some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Grows with each order, so that a worker sees a new one; 0: there was none yet.
    pub epoch: u32,
    pub end: End,
    /// Closes are spread evenly over this many milliseconds; 0: at once. At most 2^24 - 1 (4.6 h).
    pub over_ms: u32,
}

/// A backend's states. Writers are the prober (health), the office (admin), and who sees the cause (breaker).
#[derive(Debug)]
pub struct Verdict {
    admin: AtomicU8,
    /// The checks' word.
    health: AtomicU8,
    pub breaker: Breaker,
    /// Whether sessions may come while health is unknown: no check is configured, or one check timeout passed.
    unknown_is_eligible: AtomicU8,
    /// It turned a session away since its last check; see [`Verdict::doubt`].
    doubted: AtomicU8,
    /// When it came up last; `u64::MAX` if it never did: then it has its full weight.
    risen_at: AtomicU64,
    /// epoch (32 bits), end (8), over_ms (24).
    eviction: AtomicU64,
}

impl Verdict {
    #[must_use]
    pub fn new(unknown_is_eligible: bool) -> Verdict {
        Verdict {
            admin: AtomicU8::new(Admin::Ready as u8),
            health: AtomicU8::new(Health::Unknown as u8),
            breaker: Breaker::default(),
            unknown_is_eligible: AtomicU8::new(u8::from(unknown_is_eligible)),
            doubted: AtomicU8::new(0),
            risen_at: AtomicU64::new(u64::MAX),
            eviction: AtomicU64::new(0),
        }
    }

    /// Whether new sessions may be given to this backend, as far as operator, checks and breaker are concerned. A half-open
    /// breaker lets some in: who takes a place asks [`Breaker::enter`].
    #[inline]
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.against(false).is_none()
    }

    /// The same as far as operator and checks are concerned.
    #[inline]
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.unsound(false).is_none()
    }

    /// What speaks against giving it new sessions. What checks say can be ignored; the operator's word and an open breaker
    /// cannot, nor can a role: a backend of the wrong one is well and would do the wrong thing.
    #[inline]
    #[must_use]
    pub fn against(&self, ignoring_health: bool) -> Option<Standing> {
        let ejected = || Standing::Health(Health::Ejected);
        let unsound = self.unsound(ignoring_health);
        unsound.or_else(|| (!self.breaker.admits()).then(ejected))
    }

    #[inline]
    fn unsound(&self, ignoring_health: bool) -> Option<Standing> {
        let admin = self.admin();
        if admin != Admin::Ready {
            return Some(Standing::Admin(admin));
        }
        let health = self.checked();
        let is_fine = match health {
            Health::Up if self.doubted.load(Ordering::Relaxed) != 0 && !ignoring_health => {
                return Some(Standing::Health(Health::Unknown));
            }
            Health::Up => true,
            Health::Unknown => {
                ignoring_health || self.unknown_is_eligible.load(Ordering::Relaxed) != 0
            }
            Health::Down | Health::Ejected => ignoring_health,
            Health::WrongRole => false,
        };
        (!is_fine).then_some(Standing::Health(health))
    }

    /// When it came up last.
    #[inline]
    #[must_use]
    pub fn risen_at(&self) -> Option<Nanos> {
        let at = self.risen_at.load(Ordering::Relaxed);
        (at != u64::MAX).then_some(Nanos(at))
    }

    pub fn set_risen(&self, at: Nanos) {
        self.risen_at.store(at.0, Ordering::Relaxed);
    }

    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::ALL[usize::from(self.admin.load(Ordering::Relaxed)) % Admin::ALL.len()]
    }

    /// Health as it is shown: what checks hold against the backend, else that it is ejected, else what they say.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.checked() {
            Health::Up | Health::Unknown if self.breaker.state() != BreakerState::Closed => {
                Health::Ejected
            }
            checked => checked,
        }
    }

    /// The checks' word alone.
    #[inline]
    #[must_use]
    pub fn checked(&self) -> Health {
        Health::ALL[usize::from(self.health.load(Ordering::Relaxed)) % Health::ALL.len()]
    }

    pub fn set_admin(&self, admin: Admin) {
        self.admin.store(admin as u8, Ordering::Release);
    }

    /// Sets the checks' word.
    pub fn set_health(&self, health: Health) {
        debug_assert_ne!(
            health,
            Health::Ejected,
            "the breaker's word, not the checks'"
        );
        self.health.store(health as u8, Ordering::Release);
    }

    /// A session could not connect. In a pool with one primary there is no other backend to try: whoever comes waits for
    /// what the next check says, instead of being turned away as well.
    pub fn doubt(&self) {
        self.doubted.store(1, Ordering::Release);
    }

    /// A check has spoken. True if there was a doubt.
    pub fn dispel_doubt(&self) -> bool {
        self.doubted.swap(0, Ordering::AcqRel) != 0
    }

    pub fn set_unknown_is_eligible(&self, eligible: bool) {
        self.unknown_is_eligible
            .store(u8::from(eligible), Ordering::Release);
    }

    /// Orders every worker to close this backend's sessions. Ring the doorbells afterwards.
    pub fn evict(&self, end: End, over_ms: u32) {
        let next = |packed: u64| {
            let epoch = (packed >> 32).wrapping_add(1).max(1) & u64::from(u32::MAX);
            Some(epoch << 32 | (end.index() as u64) << 24 | u64::from(over_ms.min(0xff_ffff)))
        };
        let updated = self
            .eviction
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
        debug_assert!(updated.is_ok(), "the update never declines");
    }

    /// The latest order; `None` while there was none.
    #[must_use]
    pub fn eviction(&self) -> Option<Eviction> {
        let packed = self.eviction.load(Ordering::Acquire);
        let epoch = u32::try_from(packed >> 32).unwrap_or(0);
        let end = End::ALL.get((packed >> 24 & 0xff) as usize).copied()?;
        (epoch != 0).then_some(Eviction {
            epoch,
            end,
            over_ms: (packed & 0xff_ffff) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eligible_is_ready_and_up_or_unknown_where_allowed() {
        let verdict = Verdict::new(false);
        assert!(!verdict.is_eligible());
        verdict.set_unknown_is_eligible(true);
        assert!(verdict.is_eligible());
        verdict.set_health(Health::Down);
        assert!(!verdict.is_eligible());
        verdict.set_health(Health::Up);
        assert!(verdict.is_eligible());
        verdict.set_admin(Admin::Draining);
        assert!(!verdict.is_eligible());
    }

    #[test]
    fn health_can_be_ignored_but_neither_the_operator_nor_a_role() {
        let verdict = Verdict::new(false);
        for (health, ignored) in [
            (Health::Unknown, true),
            (Health::Up, true),
            (Health::Down, true),
            (Health::WrongRole, false),
        ] {
            verdict.set_health(health);
            assert_eq!(verdict.against(true).is_none(), ignored, "{health:?}");
        }
        verdict.set_health(Health::Up);
        verdict.set_admin(Admin::Maintenance);
        assert!(verdict.against(true).is_some());
    }

    #[test]
    fn in_doubt_nobody_comes_until_a_check_has_spoken() {
        let verdict = Verdict::new(false);
        verdict.set_health(Health::Up);
        verdict.doubt();
        assert!(!verdict.is_eligible());
        assert_eq!(verdict.health(), Health::Up);
        assert!(verdict.dispel_doubt());
        assert!(verdict.is_eligible());
        assert!(!verdict.dispel_doubt());
    }

    #[test]
    fn an_eviction_reads_back_and_each_is_new() {
        let verdict = Verdict::new(true);
        assert_eq!(verdict.eviction(), None);
        verdict.evict(End::BackendDown, 10_000);
        assert_eq!(
            verdict.eviction(),
            Some(Eviction {
                epoch: 1,
                end: End::BackendDown,
                over_ms: 10_000
            })
        );
        verdict.evict(End::Drained, 0);
        assert_eq!(
            verdict.eviction(),
            Some(Eviction {
                epoch: 2,
                end: End::Drained,
                over_ms: 0
            })
        );
    }
}
