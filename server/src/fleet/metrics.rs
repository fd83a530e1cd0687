//! What the fleet counts of itself.

use longshore_metrics::client::metrics::counter::Counter;
use longshore_metrics::client::metrics::family::Family;
use longshore_metrics::client::registry::Registry;

use super::End;

type Reason = [(&'static str, &'static str); 1];

/// What the fleet counts of itself.
#[derive(Debug)]
pub struct FleetMetrics {
    opened: Counter,
    ended: Family<Reason, Counter>,
}

impl Default for FleetMetrics {
    fn default() -> Self {
        let ended = Family::default();
        let ends = [End::Fenced, End::Overflow, End::SetTooLarge, End::NodeDeleted, End::Drained];
        // From the beginning at 0, so that the first of a kind is seen as a growth.
        for end in ends.map(Some).into_iter().chain([None]) {
            drop(ended.get_or_create(&reason(end)));
        }
        Self { opened: Counter::default(), ended }
    }
}

impl FleetMetrics {
    pub(super) fn opened(&self) {
        self.opened.inc();
    }

    pub(super) fn ended(&self, end: Option<End>) {
        self.ended.get_or_create(&reason(end)).inc();
    }

    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("session_opens", "Sessions that agents opened", self.opened.clone());
        registry.register("session_ends", "Sessions that ended, by why", self.ended.clone());
    }
}

/// What the server did not end, the agent or the network did.
fn reason(end: Option<End>) -> Reason {
    let word = match end {
        Some(End::Fenced) => "fenced",
        Some(End::Overflow) => "outbox_overflow",
        Some(End::SetTooLarge) => "set_too_large",
        Some(End::NodeDeleted) => "node_deleted",
        Some(End::Drained) => "drained",
        None => "agent_left",
    };
    [("reason", word)]
}
