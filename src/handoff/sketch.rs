//! A handful of client addresses, to tell one client that misbehaves from several that are served badly. Workers ask it
//! together, without a lock; it is cleared by asking under another tag, and never counts one address twice.
//!
//! It must not keep what it does not need: a hash of 32 bits stands for an address. Only the breaker uses it.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use crate::balance::hash_client;

/// Addresses that are told apart; more are "many".
pub const DISTINCT_MAX: usize = 8;

const SEED: u64 = 0x6272_6561_6b65_7221;

/// Slots are taken in order under each tag, and none is given back: what stands under the newest tag is a beginning.
#[derive(Debug, Default)]
pub struct Sketch {
    /// Tag in the upper half, hash in the lower; tag 0 is nobody's.
    slots: [AtomicU64; DISTINCT_MAX],
}

/// What the sketch says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// Different addresses met under this tag, this one included; [`DISTINCT_MAX`] may be more.
    pub distinct: u32,
    /// Whether this one was not met before. Beyond [`DISTINCT_MAX`] that is not known, and said to be so.
    pub new: bool,
}

impl Sketch {
    /// Meets a client under `tag`, which is not 0. Tags only grow (and begin again after the
    /// last): under an older one than others use already, nobody is
    /// met any more.
    pub fn meet(&self, tag: u32, client: u32) -> Met {
        let wanted = u64::from(tag) << 32 | u64::from(client);
        let mut place = 0;
        while place < DISTINCT_MAX {
            let slot = &self.slots[place];
            let found = slot.load(Acquire);
            if found == wanted {
                return Met {
                    distinct: self.count(tag),
                    new: false,
                };
            }
            match age(found, tag) {
                Age::Older => {}
                Age::Same => {
                    place += 1;
                    continue;
                }
                Age::Newer => {
                    return Met {
                        distinct: 0,
                        new: false,
                    };
                }
            }
            // Whoever takes this slot first has it; the loser looks at it again, for it may now hold the same client.
            let taken = slot.compare_exchange(found, wanted, AcqRel, Acquire);
            if taken.is_ok() {
                return Met {
                    distinct: place as u32 + 1,
                    new: true,
                };
            }
        }
        Met {
            distinct: DISTINCT_MAX as u32,
            new: true,
        }
    }

    /// How many were met under this tag.
    #[must_use]
    pub fn count(&self, tag: u32) -> u32 {
        let slots = self.slots.iter();
        let ours = slots.take_while(|slot| age(slot.load(Acquire), tag) == Age::Same);
        ours.count() as u32
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Older,
    Same,
    Newer,
}

/// Others are ahead by a few tags at most; what looks further ahead was left by a tag before the numbers began again.
fn age(slot: u64, tag: u32) -> Age {
    let own = (slot >> 32) as u32;
    match own.wrapping_sub(tag) {
        0 => Age::Same,
        1..=0xffff if own != 0 => Age::Newer,
        _ => Age::Older,
    }
}

/// The number that stands for a client: of its address, or of its /64 where it has a whole one. Clients without an
/// address (unix sockets) are one client.
#[must_use]
pub fn client_number(client: Option<IpAddr>) -> u32 {
    let address = match client {
        None => return 0,
        Some(IpAddr::V6(address)) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        Some(v4) => v4,
    };
    (hash_client(SEED, address, None) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_client_is_one_however_often_it_comes() {
        let sketch = Sketch::default();
        let met = |distinct, new| Met { distinct, new };
        assert_eq!(sketch.meet(1, 7), met(1, true));
        assert_eq!(sketch.meet(1, 7), met(1, false));
        assert_eq!(sketch.meet(1, 8), met(2, true));
        assert_eq!(sketch.meet(1, 7), met(2, false));
        // A new tag is a new beginning, and who still asks under the old one learns nothing.
        assert_eq!(sketch.meet(2, 8), met(1, true));
        assert_eq!(sketch.meet(1, 9), met(0, false));
        assert_eq!(sketch.meet(2, 8), met(1, false));
        // The numbers begin again: what stands there from long ago is free.
        assert_eq!(sketch.meet(1 << 31, 5), met(1, true));
        assert_eq!(sketch.meet(1, 6), met(1, true));
        for client in 0..20 {
            sketch.meet(2, 100 + client);
        }
        assert_eq!(sketch.meet(2, 8).distinct, DISTINCT_MAX as u32);
    }

    #[test]
    fn a_whole_network_of_one_customer_is_one_client() {
        let number = |text: &str| client_number(Some(text.parse().unwrap()));
        assert_eq!(number("2001:db8::1"), number("2001:db8::ffff:1"));
        assert_ne!(number("2001:db8::1"), number("2001:db8:0:1::1"));
        assert_ne!(number("192.0.2.1"), number("192.0.2.2"));
        assert_eq!(client_number(None), client_number(None));
    }

    #[test]
    fn threads_that_meet_the_same_clients_count_each_once() {
        for round in 1..200_u32 {
            let sketch = Sketch::default();
            let new = std::sync::atomic::AtomicU32::new(0);
            std::thread::scope(|scope| {
                for thread in 0..3_u32 {
                    let (sketch, new) = (&sketch, &new);
                    scope.spawn(move || {
                        for client in 0..4 {
                            // Each thread in another order.
                            let met = sketch.meet(round, 10 + (client + thread) % 4);
                            new.fetch_add(u32::from(met.new), AcqRel);
                        }
                    });
                }
            });
            assert_eq!(new.into_inner(), 4);
            assert_eq!(sketch.count(round), 4);
        }
    }

    proptest! {
        #[test]
        fn counts_as_a_set_does(clients in proptest::collection::vec(0u32..12, 0..40)) {
            let sketch = Sketch::default();
            let mut set = std::collections::BTreeSet::new();
            for client in clients {
                let new = set.insert(client);
                let met = sketch.meet(5, client);
                if set.len() <= DISTINCT_MAX {
                    prop_assert_eq!(met.distinct as usize, set.len());
                    prop_assert_eq!(met.new, new);
                } else {
                    prop_assert_eq!(met.distinct as usize, DISTINCT_MAX);
                }
            }
        }
    }
}
