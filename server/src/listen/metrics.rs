//! What listeners count.

use longshore_metrics::client::metrics::counter::Counter;
use longshore_metrics::client::metrics::family::Family;
use longshore_metrics::client::metrics::gauge::Gauge;
use longshore_metrics::client::registry::Registry;

type Listener = [(&'static str, &'static str); 1];
type Refusal = [(&'static str, &'static str); 2];

/// What all listeners count.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics {
    open: Family<Listener, Gauge>,
    accepted: Family<Listener, Counter>,
    refused: Family<Refusal, Counter>,
}

/// What one listener counts.
#[derive(Clone, Debug, Default)]
pub struct ListenerMetrics {
    open: Gauge,
    accepted: Counter,
    failed: Counter,
    timed_out: Counter,
}

/// Counts a connection until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ConnectionMetrics {
    /// Those of one listener.
    #[must_use]
    pub fn of(&self, listener: &'static str) -> ListenerMetrics {
        let own = [("listener", listener)];
        let refused = |reason| self.refused.get_or_create_owned(&[("listener", listener), ("reason", reason)]);
        ListenerMetrics {
            open: self.open.get_or_create_owned(&own),
            accepted: self.accepted.get_or_create_owned(&own),
            failed: refused("handshake_failed"),
            timed_out: refused("handshake_timeout"),
        }
    }

    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        let connections = registry.sub_registry_with_prefix("connections");
        connections.register("open", "Connections that are open, by listener", self.open.clone());
        connections.register(
            "accepted",
            "Connections whose TLS handshake went well, by listener",
            self.accepted.clone(),
        );
        connections.register("refused", "Connections that ended before they were any, by why", self.refused.clone());
    }
}

impl ListenerMetrics {
    pub(super) fn open(&self) -> Open {
        self.accepted.inc();
        self.open.inc();
        Open(self.open.clone())
    }

    pub(super) fn handshake_failed(&self) {
        self.failed.inc();
    }

    pub(super) fn handshake_timed_out(&self) {
        self.timed_out.inc();
    }
}
