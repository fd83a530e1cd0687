//! What the store counts of itself.

use longshore_metrics::SECONDS;
use longshore_metrics::client::metrics::counter::Counter;
use longshore_metrics::client::metrics::gauge::Gauge;
use longshore_metrics::client::metrics::histogram::Histogram;
use longshore_metrics::client::registry::{Registry, Unit};

/// Upper bounds of buckets of writes in one commit.
const WRITES: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 10_000.0];

/// What the store counts of itself; clones share their counts.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    /// Time from the first write's turn to the end of its commit, of commits that went well.
    pub(super) commit: Histogram,
    /// Writes in one commit.
    pub(super) writes: Histogram,
    /// Writes that wait.
    pub(super) waiting: Gauge,
    /// Writes that were refused because too many waited.
    pub(super) refused: Counter,
    /// Commits that were rolled back.
    pub(super) failed: Counter,
    /// Reports of agents that are durable.
    pub(super) reports: Counter,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            commit: Histogram::new(SECONDS),
            writes: Histogram::new(WRITES),
            waiting: Gauge::default(),
            refused: Counter::default(),
            failed: Counter::default(),
            reports: Counter::default(),
        }
    }
}

impl StoreMetrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        let store = registry.sub_registry_with_prefix("store");
        let help = "Time that a commit takes, from its first decision to the disk";
        store.register_with_unit("commit_duration", help, Unit::Seconds, self.commit.clone());
        store.register("commit_writes", "Writes in one commit", self.writes.clone());
        store.register("queued_writes", "Writes that waited for the last commit to begin", self.waiting.clone());
        store.register("refused_writes", "Writes refused because the queue was full", self.refused.clone());
        store.register("failed_commits", "Commits that were rolled back", self.failed.clone());
        store.register("reports", "Reports of agents that were committed", self.reports.clone());
    }
}
