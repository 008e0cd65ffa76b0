//! Counters in words: what one process has counted of each listener, pool and backend, by name, so that the next can go on
//! from there. Older generations' numbers stand in the last shard of each identity, which no worker owns.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::handoff::{BackendCounters, Handout, Histogram, ListenerCounters, PoolCounters, Tally};
use crate::ids::{ConnectFailure, Drop, End, Refusal};
use crate::office::registry::{BackendKey, Registry};

use super::words::Accounts;

type Numbers = BTreeMap<String, u64>;

/// How many there are now: of a process that is gone, none.
const NOW: [&str; 3] = ["sessions_active", "flows_active", "active"];

#[must_use]
pub fn key_of_listener(name: &str) -> String {
    format!("listener\n{name}")
}

#[must_use]
pub fn key_of_pool(name: &str) -> String {
    format!("pool\n{name}")
}

#[must_use]
pub fn key_of_queue(pool: &str) -> String {
    format!("queue\n{pool}")
}

#[must_use]
pub fn key_of_backend(key: &BackendKey) -> String {
    format!("backend\n{}\n{}\n{}", key.pool, key.name, key.address)
}

type Field<'a> = (String, &'a Tally);

fn named<'a, T: Copy>(
    prefix: &'a str,
    all: &'a [T],
    word: fn(T) -> &'static str,
    tallies: &'a [Tally],
) -> impl Iterator<Item = Field<'a>> {
    let words = all
        .iter()
        .map(move |&one| format!("{prefix}.{}", word(one)));
    words.zip(tallies)
}

fn plain<'a>(fields: &[(&'static str, &'a Tally)]) -> Vec<Field<'a>> {
    let fields = fields.iter();
    fields
        .map(|(name, tally)| ((*name).to_owned(), *tally))
        .collect()
}

fn of_listener(counters: &ListenerCounters) -> Vec<Field<'_>> {
    let mut fields = plain(&[
        ("sessions_active", &counters.sessions_active),
        ("sessions_total", &counters.sessions_total),
        ("bytes_in", &counters.bytes_in),
        ("bytes_out", &counters.bytes_out),
        ("flows_active", &counters.flows_active),
        ("flows_total", &counters.flows_total),
        ("flows_moved", &counters.flows_moved),
        ("datagrams_in", &counters.datagrams_in),
        ("datagrams_out", &counters.datagrams_out),
    ]);
    fields.extend(named("ends", End::ALL, End::word, &counters.ends));
    let refused = &counters.refused;
    fields.extend(named("refused", Refusal::ALL, Refusal::word, refused));
    fields.extend(named("drops", Drop::ALL, Drop::word, &counters.drops));
    fields
}

fn of_pool(counters: &PoolCounters) -> Vec<Field<'_>> {
    let mut fields = plain(&[("retries", &counters.retries), ("paced", &counters.paced)]);
    let histograms: [(&str, &Histogram); 3] = [
        ("wait", &counters.wait),
        ("connect", &counters.connect),
        ("session", &counters.session),
    ];
    for (name, histogram) in histograms {
        let cells = histogram.cells().enumerate();
        fields.extend(cells.map(|(n, cell)| (format!("{name}.{n}"), cell)));
    }
    fields
}

/// Not what breakers are fed with: an older generation has a breaker of its own.
fn of_backend(counters: &BackendCounters) -> Vec<Field<'_>> {
    let mut fields = plain(&[
        ("sessions_total", &counters.sessions_total),
        ("connect_attempts", &counters.connect_attempts),
        ("connect_ns", &counters.connect_ns),
        ("early_resets", &counters.early_resets),
        ("bytes_in", &counters.bytes_in),
        ("bytes_out", &counters.bytes_out),
        ("spliced_bytes", &counters.spliced_bytes),
    ]);
    let failures = &counters.connect_failures;
    fields.extend(named(
        "failures",
        ConnectFailure::ALL,
        ConnectFailure::word,
        failures,
    ));
    fields.extend(named(
        "handouts",
        &Handout::ALL,
        Handout::word,
        &counters.handouts,
    ));
    fields
}

fn count(numbers: &mut Numbers, fields: Vec<Field<'_>>) {
    for (name, tally) in fields {
        let number = tally.read();
        if number > 0 {
            *numbers.entry(name).or_default() += number;
        }
    }
}

/// What this process has counted itself.
#[must_use]
pub fn own(registry: &Registry) -> Accounts {
    let mut accounts = Accounts::default();
    for listener in registry.listeners() {
        let numbers = accounts.entry(key_of_listener(&listener.name)).or_default();
        let own = listener.workers.split_last();
        for shard in own.map(|(_, own)| own).unwrap_or_default() {
            count(numbers, of_listener(shard));
        }
    }
    for pool in registry.pools() {
        let numbers = accounts.entry(key_of_pool(&pool.name)).or_default();
        let own = pool.workers.split_last();
        for shard in own.map(|(_, own)| own).unwrap_or_default() {
            count(numbers, of_pool(shard));
        }
    }
    for (key, backend) in registry.keyed_backends() {
        let numbers = accounts.entry(key_of_backend(key)).or_default();
        let own = backend.workers.split_last();
        for shard in own.map(|(_, own)| own).unwrap_or_default() {
            count(numbers, of_backend(shard));
            let active = u64::from(shard.active.load(Ordering::Relaxed));
            if active > 0 {
                *numbers.entry("active".to_owned()).or_default() += active;
            }
        }
    }
    accounts.retain(|_, numbers| !numbers.is_empty());
    accounts
}

/// Writes what others have counted into the shards that stand for them.
pub fn carry(registry: &Registry, others: &Accounts) {
    let nothing = Numbers::default();
    let of = |key: String| others.get(&key).unwrap_or(&nothing);
    let write = |numbers: &Numbers, fields: Vec<Field<'_>>| {
        for (name, tally) in fields {
            tally.set(numbers.get(&name).copied().unwrap_or(0));
        }
    };
    for listener in registry.listeners() {
        if let Some(shard) = listener.workers.last() {
            write(of(key_of_listener(&listener.name)), of_listener(shard));
        }
    }
    for pool in registry.pools() {
        if let Some(shard) = pool.workers.last() {
            write(of(key_of_pool(&pool.name)), of_pool(shard));
        }
    }
    for (key, backend) in registry.keyed_backends() {
        if let Some(shard) = backend.workers.last() {
            let numbers = of(key_of_backend(key));
            write(numbers, of_backend(shard));
            let active = numbers.get("active").copied().unwrap_or(0);
            let active = u32::try_from(active).unwrap_or(u32::MAX);
            shard.active.store(active, Ordering::Relaxed);
        }
    }
}

/// Adds one account to another.
pub fn add(sum: &mut Accounts, other: &Accounts) {
    for (key, numbers) in other {
        let own = sum.entry(key.clone()).or_default();
        for (name, number) in numbers {
            let total = own.entry(name.clone()).or_default();
            *total = total.saturating_add(*number);
        }
    }
}

/// What stays of a process that is gone.
#[must_use]
pub fn lasting(mut accounts: Accounts) -> Accounts {
    for numbers in accounts.values_mut() {
        numbers.retain(|name, _| !NOW.contains(&name.as_str()));
    }
    accounts
}

/// Sessions and flows now.
#[must_use]
pub fn alive(accounts: &Accounts) -> (u64, u64) {
    let sum = |name: &str| {
        let numbers = accounts.values().filter_map(|numbers| numbers.get(name));
        numbers.sum()
    };
    (sum("sessions_active"), sum("flows_active"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_counted_the_next_shows_and_no_more() {
        let mut old = Registry::new(2);
        old.begin();
        let listener = old.listener("front").unwrap();
        let key = BackendKey {
            pool: "p".into(),
            name: "a".into(),
            address: "127.0.0.1:1".into(),
        };
        let backend = old.backend(&key, true).unwrap();
        old.commit();
        listener.workers[0].sessions_total.add(3);
        listener.workers[1].sessions_total.add(4);
        listener.workers[1].sessions_active.add(2);
        listener.workers[0].ends[End::Idle.index()].add(5);
        // Of a generation before: not its own.
        listener.workers[2].sessions_total.set(100);
        backend.workers[0].active.store(2, Ordering::Relaxed);
        let said = own(&old);
        assert_eq!(alive(&said), (2, 0));

        let mut new = Registry::new(1);
        new.begin();
        let listener = new.listener("front").unwrap();
        let backend = new.backend(&key, true).unwrap();
        new.commit();
        let mut others = said.clone();
        add(&mut others, &said);
        carry(&new, &others);
        let last = &listener.workers[1];
        assert_eq!(last.sessions_total.read(), 14);
        assert_eq!(last.ends[End::Idle.index()].read(), 10);
        assert_eq!(backend.sessions(), 4);
        carry(&new, &lasting(others));
        assert_eq!(last.sessions_active.read(), 0);
        assert_eq!(last.sessions_total.read(), 14);
        assert_eq!(backend.sessions(), 0);
    }
}
