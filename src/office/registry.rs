//! Who is who over reloads: the identities of listeners, pools and backends, to which counters, verdicts and limits
//! are tied, and the small dense ids that workers index with.
//!
//! An identity lives as long as its key stays in the plan; when it goes it is *retired*, and comes back with all its
//! counters if a later plan names it again. Its id is given to another only when nobody but this registry has held it
//! for [`REST_NS`]: a record that a worker wrote just before must still find the right name.
//!
//! A plan is taken over in a round: `begin`, any number of claims, then `commit` or `rollback`. Called by the office's
//! thread only; it must not know what a snapshot looks like.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::handoff::{BackendShared, Capacity, ListenerShared, PoolShared};
use crate::ids::{BackendId, ListenerId, Nanos, PoolId, millis};

use super::counting::Counting;
use super::upgrade::{key_of_backend, key_of_listener, key_of_pool, key_of_queue};

/// How long an id rests after the last holder let go of it.
const REST_NS: u64 = millis(5_000);

/// What makes a backend the same one as before: a new address is a new backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendKey {
    pub pool: String,
    pub name: String,
    /// As written in the configuration, so that a host name stays itself when it resolves anew.
    pub address: String,
}

/// Every id of a kind is in use or at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    kind: &'static str,
    ids_max: usize,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "no id is left for another {}: {} are in use, removed ones with sessions included; try again when those have \
             ended",
            self.kind, self.ids_max
        )
    }
}

impl std::error::Error for Exhausted {}

#[derive(Debug)]
struct Entry<T> {
    shared: Arc<T>,
    id: u16,
    /// The round that named it last.
    round: u64,
    /// Whether that round also made it.
    fresh: bool,
    retired: bool,
    /// Since when nobody else has held it, once retired.
    alone_since: Option<Nanos>,
}

/// The identities of one kind.
#[derive(Debug)]
struct Roll<K, T> {
    kind: &'static str,
    entries: BTreeMap<K, Entry<T>>,
    free: BTreeSet<u16>,
    next: usize,
    ids_max: usize,
}

impl<K: Ord + Clone, T> Roll<K, T> {
    fn new(kind: &'static str, ids_max: usize) -> Roll<K, T> {
        Roll {
            kind,
            entries: BTreeMap::new(),
            free: BTreeSet::new(),
            next: 0,
            ids_max,
        }
    }

    fn fresh_id(&mut self) -> Result<u16, Exhausted> {
        if let Some(id) = self.free.pop_first() {
            return Ok(id);
        }
        match u16::try_from(self.next) {
            Ok(id) if self.next < self.ids_max => {
                self.next += 1;
                Ok(id)
            }
            _ => Err(Exhausted {
                kind: self.kind,
                ids_max: self.ids_max,
            }),
        }
    }

    fn claim(
        &mut self,
        key: &K,
        round: u64,
        make: impl FnOnce(u16) -> T,
    ) -> Result<Arc<T>, Exhausted> {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.round = round;
            return Ok(Arc::clone(&entry.shared));
        }
        let id = self.fresh_id()?;
        let shared = Arc::new(make(id));
        let entry = Entry {
            shared: Arc::clone(&shared),
            id,
            round,
            fresh: true,
            retired: false,
            alone_since: None,
        };
        self.entries.insert(key.clone(), entry);
        Ok(shared)
    }

    /// Ends a round for good; returns what it left out for the first time, and what it brought back.
    fn commit(&mut self, round: u64) -> Change<T> {
        let mut change = Change {
            retired: Vec::new(),
            returned: Vec::new(),
        };
        for entry in self.entries.values_mut() {
            entry.fresh = false;
            let named = entry.round == round;
            if named && entry.retired {
                change.returned.push(Arc::clone(&entry.shared));
            } else if !named && !entry.retired {
                change.retired.push(Arc::clone(&entry.shared));
            }
            entry.retired = !named;
            entry.alone_since = None;
        }
        change
    }

    /// Undoes a round: what it made was seen by nobody, so its id is free at once.
    fn rollback(&mut self, round: u64) {
        let free = &mut self.free;
        self.entries.retain(|_, entry| {
            let made_in_vain = entry.fresh && entry.round == round;
            if made_in_vain {
                free.insert(entry.id);
            }
            !made_in_vain
        });
    }

    fn sweep(&mut self, now: Nanos) {
        let free = &mut self.free;
        self.entries.retain(|_, entry| {
            if !entry.retired || Arc::strong_count(&entry.shared) > 1 {
                entry.alone_since = None;
                return true;
            }
            let since = *entry.alone_since.get_or_insert(now);
            let rested = now.since(since) >= REST_NS;
            if rested {
                free.insert(entry.id);
            }
            !rested
        });
    }
}

/// What a committed round changed among the identities of one kind.
#[derive(Debug)]
pub struct Change<T> {
    pub retired: Vec<Arc<T>>,
    pub returned: Vec<Arc<T>>,
}

/// All identities of the process.
#[derive(Debug)]
pub struct Registry {
    workers: u16,
    round: u64,
    listeners: Roll<String, ListenerShared>,
    pools: Roll<String, PoolShared>,
    backends: Roll<BackendKey, BackendShared>,
    /// Where limits are counted.
    pub counting: Counting,
}

impl Registry {
    /// The registry of a process that counts for itself.
    #[cfg(test)]
    #[must_use]
    pub fn new(workers: u16) -> Registry {
        Registry::counting(workers, Counting::default())
    }

    #[must_use]
    pub fn counting(workers: u16, counting: Counting) -> Registry {
        let ids_max = usize::from(u16::MAX) + 1;
        Registry {
            workers,
            round: 0,
            listeners: Roll::new("listener", ids_max),
            pools: Roll::new("pool", ids_max),
            backends: Roll::new("backend", ids_max),
            counting,
        }
    }

    pub fn begin(&mut self) {
        self.round += 1;
    }

    /// # Errors
    /// When all ids of the kind are taken; the caller rolls back.
    pub fn listener(&mut self, name: &str) -> Result<Arc<ListenerShared>, Exhausted> {
        let (workers, counting) = (self.workers, &mut self.counting);
        self.listeners.claim(&name.to_owned(), self.round, |id| {
            let mut shared = ListenerShared::new(ListenerId(id), name, workers);
            shared.capacity = counting.capacity(key_of_listener(name));
            shared
        })
    }

    /// # Errors
    /// When all ids of the kind are taken; the caller rolls back.
    pub fn pool(&mut self, name: &str) -> Result<Arc<PoolShared>, Exhausted> {
        let (workers, counting) = (self.workers, &mut self.counting);
        self.pools.claim(&name.to_owned(), self.round, |id| {
            let mut shared = PoolShared::new(PoolId(id), name, workers);
            shared.flows = counting.capacity(key_of_pool(name));
            shared.seniors = counting.seniors(key_of_queue(name));
            shared
        })
    }

    /// `unknown_is_eligible` counts for a new backend only: a kept one has its verdict.
    ///
    /// # Errors
    /// When all ids of the kind are taken; the caller rolls back.
    pub fn backend(
        &mut self,
        key: &BackendKey,
        unknown_is_eligible: bool,
    ) -> Result<Arc<BackendShared>, Exhausted> {
        let (workers, counting) = (self.workers, &mut self.counting);
        self.backends.claim(key, self.round, |id| {
            let mut shared = BackendShared::new(
                BackendId(id),
                &key.pool,
                &key.name,
                unknown_is_eligible,
                workers,
            );
            shared.capacity = counting.capacity(key_of_backend(key));
            shared
        })
    }

    /// Takes the round over. Tells which backends it left out and which came back.
    pub fn commit(&mut self) -> Change<BackendShared> {
        self.listeners.commit(self.round);
        self.pools.commit(self.round);
        self.backends.commit(self.round)
    }

    pub fn rollback(&mut self) {
        self.listeners.rollback(self.round);
        self.pools.rollback(self.round);
        self.backends.rollback(self.round);
    }

    /// Frees the ids of what was retired and has rested. Call it about once a second.
    pub fn sweep(&mut self, now: Nanos) {
        self.listeners.sweep(now);
        self.pools.sweep(now);
        self.backends.sweep(now);
        let known = self.listeners.entries.len() + 2 * self.pools.entries.len();
        if self
            .counting
            .is_cluttered(known + self.backends.entries.len())
        {
            let queues = self.pools().map(|pool| key_of_queue(&pool.name));
            let keys = self.limits().map(|(key, _)| key).chain(queues);
            let keys: BTreeSet<String> = keys.collect();
            self.counting.tidy(&keys);
        }
    }

    /// Every count that a limit may be held against, by its key.
    pub fn limits(&self) -> impl Iterator<Item = (String, &Capacity)> {
        let listeners = self.listeners();
        let listeners = listeners.map(|it| (key_of_listener(&it.name), &it.capacity));
        let pools = self.pools().map(|it| (key_of_pool(&it.name), &it.flows));
        let backends = self.keyed_backends();
        let backends = backends.map(|(key, it)| (key_of_backend(key), &it.capacity));
        listeners.chain(pools).chain(backends)
    }

    /// All backends with what they are known by.
    pub fn keyed_backends(&self) -> impl Iterator<Item = (&BackendKey, &Arc<BackendShared>)> {
        let entries = self.backends.entries.iter();
        entries.map(|(key, entry)| (key, &entry.shared))
    }

    /// Whether any listener has flows.
    #[must_use]
    pub fn has_flows(&self) -> bool {
        let shards = self.listeners().flat_map(|listener| &listener.workers);
        shards.map(|shard| shard.flows_active.read()).sum::<u64>() > 0
    }

    /// Every identity that may still occur in a record, retired ones included.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<ListenerShared>> {
        self.listeners.entries.values().map(|entry| &entry.shared)
    }

    /// Listeners that a reload removed.
    pub fn retired_listeners(&self) -> impl Iterator<Item = &Arc<ListenerShared>> {
        let entries = self.listeners.entries.values();
        let retired = entries.filter(|entry| entry.retired);
        retired.map(|entry| &entry.shared)
    }

    pub fn pools(&self) -> impl Iterator<Item = &Arc<PoolShared>> {
        self.pools.entries.values().map(|entry| &entry.shared)
    }

    /// All backends, and whether each is retired.
    pub fn backends(&self) -> impl Iterator<Item = (&Arc<BackendShared>, bool)> {
        let entries = self.backends.entries.values();
        entries.map(|entry| (&entry.shared, entry.retired))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> BackendKey {
        BackendKey {
            pool: "p".into(),
            name: name.into(),
            address: "127.0.0.1:1".into(),
        }
    }

    fn round(registry: &mut Registry, names: &[&str]) -> Change<BackendShared> {
        registry.begin();
        for name in names {
            registry.backend(&key(name), false).unwrap();
        }
        registry.commit()
    }

    fn id(registry: &Registry, name: &str) -> u16 {
        registry.backends.entries[&key(name)].id
    }

    #[test]
    fn a_kept_backend_keeps_identity_and_id() {
        let mut registry = Registry::new(2);
        round(&mut registry, &["a", "b"]);
        let before = Arc::clone(&registry.backends.entries[&key("b")].shared);
        let change = round(&mut registry, &["b", "c"]);
        assert!(Arc::ptr_eq(
            &before,
            &registry.backends.entries[&key("b")].shared
        ));
        assert_eq!(change.retired.len(), 1);
        assert_eq!(change.retired[0].name, "a");
        assert_eq!(id(&registry, "c"), 2, "a's id must not be reused at once");
    }

    #[test]
    fn an_id_is_recycled_only_when_alone_for_five_seconds() {
        let mut registry = Registry::new(1);
        round(&mut registry, &["a", "b"]);
        let held = Arc::clone(&registry.backends.entries[&key("a")].shared);
        round(&mut registry, &["b"]);
        registry.sweep(Nanos(0));
        registry.sweep(Nanos(millis(60_000)));
        assert!(registry.backends.free.is_empty(), "somebody holds it");
        drop(held);
        registry.sweep(Nanos(millis(60_001)));
        registry.sweep(Nanos(millis(65_000)));
        assert!(registry.backends.free.is_empty(), "it has not rested yet");
        registry.sweep(Nanos(millis(65_001)));
        assert_eq!(registry.backends.free.len(), 1);
        round(&mut registry, &["b", "d"]);
        assert_eq!(id(&registry, "d"), 0);
    }

    #[test]
    fn a_retired_backend_comes_back_as_itself() {
        let mut registry = Registry::new(1);
        round(&mut registry, &["a"]);
        let before = Arc::clone(&registry.backends.entries[&key("a")].shared);
        round(&mut registry, &[]);
        let change = round(&mut registry, &["a"]);
        assert!(Arc::ptr_eq(&before, &change.returned[0]));
        assert!(change.retired.is_empty());
    }

    #[test]
    fn a_rolled_back_round_leaves_no_trace() {
        let mut registry = Registry::new(1);
        round(&mut registry, &["a"]);
        registry.begin();
        registry.backend(&key("x"), false).unwrap();
        registry.rollback();
        assert_eq!(registry.backends.entries.len(), 1);
        assert_eq!(registry.backends.free.len(), 1);
        let change = round(&mut registry, &["a"]);
        assert!(change.retired.is_empty() && change.returned.is_empty());
    }

    #[test]
    fn exhaustion_is_an_error_that_says_of_what() {
        let mut roll: Roll<u32, ()> = Roll::new("backend", 2);
        roll.claim(&1, 1, |_| ()).unwrap();
        roll.claim(&2, 1, |_| ()).unwrap();
        let error = roll.claim(&3, 1, |_| ()).unwrap_err();
        assert!(error.to_string().contains("backend"), "{error}");
    }
}
