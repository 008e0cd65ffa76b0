//! Verdicts and breakers in words, so that a successor begins with what is known of each backend instead of waiting for its
//! own first checks. The operator's states are the ledger's.

use crate::handoff::{BreakerState as State, Health};
use crate::ids::Nanos;
use crate::office::registry::Registry;

use super::accounts::key_of_backend;
use super::words::{BackendState, BreakerState};

#[must_use]
pub fn of(registry: &Registry) -> Vec<BackendState> {
    let backends = registry.keyed_backends();
    let states = backends.map(|(key, backend)| {
        let verdict = &backend.verdict;
        let breaker = &verdict.breaker;
        BackendState {
            key: key_of_backend(key),
            health: verdict.checked().word().to_owned(),
            risen_ns: verdict.risen_at().map(|at| at.0),
            breaker: breaker.since().map(|since| BreakerState {
                state: breaker.state().word().to_owned(),
                since_ns: since.0,
                row: breaker.row(),
                opens: breaker.opens(),
            }),
        }
    });
    states.collect()
}

/// Gives backends that are still there what was known of them. Call it before anybody looks at them.
pub fn restore(registry: &Registry, states: &[BackendState]) {
    for (key, backend) in registry.keyed_backends() {
        let key = key_of_backend(key);
        let Some(known) = states.iter().find(|state| state.key == key) else {
            continue;
        };
        let verdict = &backend.verdict;
        let mut words = Health::ALL.into_iter();
        match words.find(|health| health.word() == known.health) {
            Some(Health::Ejected) | None => {}
            Some(health) => verdict.set_health(health),
        }
        if let Some(at) = known.risen_ns {
            verdict.set_risen(Nanos(at));
        }
        if let Some(breaker) = &known.breaker {
            let states = [State::Closed, State::Open, State::HalfOpen];
            let state = states.into_iter().find(|it| it.word() == breaker.state);
            let since = Nanos(breaker.since_ns);
            if let Some(state) = state {
                let restored = &verdict.breaker;
                restored.restore(state, since, breaker.row, breaker.opens);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::office::registry::BackendKey;

    fn registry() -> Registry {
        let mut registry = Registry::new(1);
        registry.begin();
        for name in ["up", "down", "open", "half"] {
            let key = BackendKey {
                pool: "p".into(),
                name: name.into(),
                address: "127.0.0.1:1".into(),
            };
            registry.backend(&key, false).unwrap();
        }
        registry.commit();
        registry
    }

    #[test]
    fn what_is_known_of_a_backend_goes_over() {
        let old = registry();
        for (key, backend) in old.keyed_backends() {
            let verdict = &backend.verdict;
            match key.name.as_str() {
                "down" => verdict.set_health(Health::Down),
                name => {
                    verdict.set_health(Health::Up);
                    verdict.set_risen(Nanos(17));
                    let state = match name {
                        "open" => State::Open,
                        "half" => State::HalfOpen,
                        _ => continue,
                    };
                    verdict.breaker.restore(state, Nanos(40), 2, 9);
                }
            }
        }
        let new = registry();
        restore(&new, &of(&old));
        for (key, backend) in new.keyed_backends() {
            let verdict = &backend.verdict;
            let state = verdict.breaker.state();
            let known = (verdict.checked(), state, verdict.breaker.opens());
            let expected = match key.name.as_str() {
                "down" => (Health::Down, State::Closed, 0),
                "up" => (Health::Up, State::Closed, 0),
                // Trials that were under way are the old one's; the prober lets new ones in at once.
                _ => (Health::Up, State::Open, 9),
            };
            assert_eq!(known, expected, "{}", key.name);
        }
    }
}
