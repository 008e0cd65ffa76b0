//! Puts snapshots into the workers' hatches and waits until they run on them. It keeps every snapshot until no worker
//! holds it any more, so that freeing a large one happens on the office's thread and never on a worker's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::handoff::{Hatches, Snapshot};

/// Workers look into the hatch each turn: one that has not after this long is stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait for the old snapshot once all workers have the new one.
const RELEASE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Publisher {
    hatches: Arc<Hatches>,
    generation: u64,
    current: Option<Arc<Snapshot>>,
    old: Vec<Arc<Snapshot>>,
}

impl Publisher {
    #[must_use]
    pub fn new(hatches: Arc<Hatches>) -> Publisher {
        Publisher {
            hatches,
            generation: 0,
            current: None,
            old: Vec::new(),
        }
    }

    /// The generation that the next snapshot has to carry.
    #[must_use]
    pub fn next_generation(&self) -> u64 {
        self.generation + 1
    }

    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        debug_assert_eq!(snapshot.generation, self.next_generation());
        self.generation = snapshot.generation;
        self.hatches.post(&snapshot);
        self.old.extend(self.current.replace(snapshot));
    }

    /// Waits until all workers run on the newest snapshot; false if some did not in time.
    pub async fn settled(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(200);
        while !self.hatches.all_have(self.generation) {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        // A worker shows the generation a moment before it lets go of the old snapshot, which may hold sockets that are to
        // be closed. One that keeps it longer is left to the next sweep.
        let deadline = Instant::now() + RELEASE;
        self.sweep();
        while !self.old.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.sweep();
        }
        true
    }

    /// Frees old snapshots that nobody else holds.
    pub fn sweep(&mut self) {
        self.old.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::{Mail, Phase, Spin};

    fn snapshot(generation: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            generation,
            phase: Phase::Serving,
            listeners: Vec::new(),
            pools: Vec::new(),
            spin: Spin::Off,
            journal: false,
            report_ns: 0,
        })
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_old_snapshot_is_freed_here_once_every_worker_moved_on() {
        let hatches = Arc::new(Hatches::new(2).unwrap());
        let mut publisher = Publisher::new(Arc::clone(&hatches));
        publisher.publish(snapshot(1));
        let taken: Vec<Mail> = hatches.workers.iter().map(|hatch| hatch.take()).collect();
        publisher.publish(snapshot(2));
        publisher.sweep();
        assert_eq!(publisher.old.len(), 1, "workers still hold it");
        for hatch in &hatches.workers {
            assert!(matches!(hatch.take(), Mail::News(_)));
            hatch.counters.generation.set(2);
        }
        drop(taken);
        assert!(publisher.settled().await);
        assert!(publisher.old.is_empty());
    }

    /// As when a second signal comes in the moment in which the last session has ended.
    #[tokio::test(flavor = "current_thread")]
    async fn nobody_waits_for_a_worker_that_has_ended() {
        let hatches = Arc::new(Hatches::new(2).unwrap());
        let mut publisher = Publisher::new(Arc::clone(&hatches));
        publisher.publish(snapshot(1));
        assert!(!hatches.all_have(1));
        hatches.workers[0].counters.generation.set(1);
        hatches.workers[1].counters.stopped.add(1);
        let began = Instant::now();
        assert!(publisher.settled().await);
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }
}
