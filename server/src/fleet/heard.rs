//! What nodes have said of themselves last: in memory only, since it is of interest only now.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use longshore_model::name::{AppName, NodeName, SessionId};
use longshore_model::usage::{InstanceUsage, Sample, clock_skew};
use longshore_proto::convert::UsageReport;

use super::{Entry, Fleet};

/// What a node said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When the server heard it.
    pub time: Timestamp,
    /// How far the node's clock was ahead then.
    pub clock_skew: SignedDuration,
    /// How it and its instances were.
    pub sample: Sample,
}

/// How a node stands.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Whether it has a live session.
    pub connected: bool,
    /// Whether that got its full set: see [`Fleet::is_open`].
    pub open: bool,
    /// What it said last: in the live session, or in the last one while there is none.
    pub heard: Option<Arc<Heard>>,
}

impl Standing {
    /// What the instances of an app use now, as far as that is known, and since when.
    #[must_use]
    pub fn usage(&self, app: &AppName) -> Option<(&[InstanceUsage], Timestamp)> {
        let heard = self.heard.as_ref().filter(|_| self.connected)?;
        Some((heard.sample.apps.get(app)?, heard.time))
    }
}

impl Fleet {
    /// How a node stands.
    #[must_use]
    pub fn standing(&self, node: &NodeName) -> Standing {
        let registry = self.registry();
        let session = registry.sessions.get(node);
        Standing {
            connected: session.is_some(),
            open: session.is_some_and(|outbox| outbox.is_open()),
            heard: registry.heard.get(node).cloned(),
        }
    }

    /// Keeps what a session's agent said, in the place of what was said before; what a fenced one says counts for nothing.
    fn hear(&self, node: &NodeName, session: &SessionId, heard: Heard) {
        let mut registry = self.registry();
        if registry.sessions.get(node).is_some_and(|live| live.session() == session) {
            registry.heard.insert(node.clone(), Arc::new(heard));
        }
    }
}

impl Entry {
    /// Takes what the session's agent has measured, and said by its own clock.
    pub fn measured(&self, report: UsageReport, now: Timestamp) {
        let UsageReport { sample, node_time } = report;
        let heard = Heard { time: now, clock_skew: clock_skew(node_time, now), sample };
        self.fleet.hear(&self.node, self.outbox.session(), heard);
    }
}
