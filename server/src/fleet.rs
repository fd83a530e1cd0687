//! The live sessions, one for each connected node.
//!
//! A session is entered before its node's assignments are read and gets everything through its [`Outbox`], in commit
//! order: Welcome, the full set, then increments. Nothing here waits: an outbox that is full ends its session, and the
//! next session starts from the full set again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_model::limits::MAX_FULL_SET;
use longshore_model::name::{AppName, NodeName, SessionId};
use longshore_proto::convert;
use longshore_proto::v1;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;
use v1::open_session_response::Message;

use crate::store::EncodedAssignment;

mod heard;
mod metrics;
mod outbox;

pub use heard::{Heard, Standing};
pub use metrics::FleetMetrics;
use outbox::Offer;
pub use outbox::{End, Outbox};

/// Reconnections for each second of [`v1::Drain`]'s window: what one core's TLS handshakes keep up with.
const RECONNECTS_PER_SECOND: u32 = 650;
/// Shortest window to reconnect in: even a small fleet shall not come back in one burst.
const MIN_RECONNECT_WINDOW: Duration = Duration::from_secs(1);

/// Why something could not be sent to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// The node has no live session.
    #[error("the node is not connected")]
    NotConnected,
    /// The server is going away and takes no new sessions.
    #[error("the server is shutting down")]
    Draining,
}

/// The live sessions.
#[derive(Debug)]
pub struct Fleet {
    registry: Mutex<Registry>,
    /// Streams that have not ended yet, those of fenced sessions included: a drain waits for them.
    streams: watch::Sender<usize>,
    metrics: FleetMetrics,
    /// Nodes that have not come since are away from here on: a restarted server gives all of them their time anew.
    begun: Instant,
}

#[derive(Debug, Default)]
struct Registry {
    sessions: HashMap<NodeName, Arc<Outbox>>,
    /// When the last session of each node ended that has none now.
    ended: HashMap<NodeName, Instant>,
    /// What nodes said of themselves in the newest session of each that said anything.
    heard: HashMap<NodeName, Arc<Heard>>,
    draining: bool,
}

impl Default for Fleet {
    fn default() -> Self {
        let (registry, streams) = (Mutex::default(), watch::Sender::new(0));
        Self { registry, streams, metrics: FleetMetrics::default(), begun: Instant::now() }
    }
}

impl Fleet {
    /// Enters a session, whose first message is `welcome`, and fences the node's previous one.
    ///
    /// # Errors
    ///
    /// [`FleetError::Draining`] once [`Fleet::drain`] was called.
    pub fn enter(
        self: &Arc<Self>,
        node: NodeName,
        session: SessionId,
        welcome: v1::Welcome,
    ) -> Result<Entry, FleetError> {
        let outbox = Arc::new(Outbox::new(session, Message::Welcome(welcome)));
        let previous = {
            let mut registry = self.registry();
            if registry.draining {
                return Err(FleetError::Draining);
            }
            registry.ended.remove(&node);
            // Its agent may be one that says nothing, and what was said long ago would stand there as if it were new.
            registry.heard.remove(&node);
            registry.sessions.insert(node.clone(), Arc::clone(&outbox))
        };
        self.streams.send_modify(|streams| *streams += 1);
        self.metrics.opened();
        if let Some(previous) = previous {
            tracing::info!(%node, session = %previous.session(), "a newer session fences this one");
            previous.end(End::Fenced);
        }
        Ok(Entry { fleet: Arc::clone(self), node, outbox })
    }

    /// Whether the node has a live session.
    #[must_use]
    pub fn connected(&self, node: &NodeName) -> bool {
        self.registry().sessions.contains_key(node)
    }

    /// How long the node has had no session; `None` while it has one.
    #[must_use]
    pub fn away(&self, node: &NodeName) -> Option<Duration> {
        let registry = self.registry();
        let is_live = registry.sessions.contains_key(node);
        (!is_live).then(|| registry.ended.get(node).unwrap_or(&self.begun).elapsed())
    }

    /// Whether the node has a live session that got its full set: from then on the store knows what this session's agent
    /// said of its machine, and no longer what an earlier one said.
    #[must_use]
    pub fn is_open(&self, node: &NodeName) -> bool {
        self.live(node).is_some_and(|outbox| outbox.is_open())
    }

    /// What the fleet counts of itself.
    #[must_use]
    pub fn metrics(&self) -> &FleetMetrics {
        &self.metrics
    }

    /// Number of nodes with a live session.
    #[must_use]
    pub fn len(&self) -> usize {
        self.registry().sessions.len()
    }

    /// Whether no node has a live session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends a session its full set, and the names of apps whose removal its node shall confirm, all in one update: they
    /// may be more than an outbox holds. Nothing happens if it is no longer the node's live session.
    ///
    /// A set that is larger than [`MAX_FULL_SET`] cannot be sent: the session ends, and the node keeps what it runs until
    /// enough of its apps were removed.
    pub fn opened(
        &self,
        node: &NodeName,
        session: &SessionId,
        assignments: Vec<EncodedAssignment>,
        removing: &[AppName],
        keep_others: bool,
    ) {
        let Some(outbox) = self.live(node).filter(|outbox| outbox.session() == session) else { return };
        let assignments = assignments.into_iter().map(on_wire).collect();
        let full = v1::FullAssignments { revision: 1, assignments, keep_others };
        let bytes = full.encoded_len();
        if bytes > MAX_FULL_SET {
            tracing::error!(%node, bytes, limit = MAX_FULL_SET, "the node's full set is too large to be sent");
            self.remove(node, session);
            return outbox.end(End::SetTooLarge);
        }
        outbox.open(full);
        if !removing.is_empty() {
            self.update(node, || (Vec::new(), removing.iter().map(AppName::to_string).collect()));
        }
    }

    /// Sends a node an assignment, if it has a session that got its full set.
    pub fn set(&self, node: &NodeName, assignment: EncodedAssignment) {
        self.update(node, || (vec![on_wire(assignment)], Vec::new()));
    }

    /// Tells a node to remove an app, if it has a session that got its full set.
    pub fn unset(&self, node: &NodeName, app: &AppName) {
        self.update(node, || (Vec::new(), vec![app.to_string()]));
    }

    fn update(&self, node: &NodeName, change: impl FnOnce() -> (Vec<v1::Assignment>, Vec<String>)) {
        // Before the full set nothing needs to be sent: that set will hold the change.
        if let Some(outbox) = self.live(node)
            && outbox.update(change) == Offer::Full
        {
            self.overflowed(node, &outbox);
        }
    }

    /// Asks a node for logs.
    ///
    /// # Errors
    ///
    /// [`FleetError::NotConnected`] when it has no live session, or just lost it because its outbox was full.
    pub fn ask_for_logs(&self, node: &NodeName, request: v1::LogRequest) -> Result<(), FleetError> {
        self.ask(node, Message::Logs(request))
    }

    /// Asks a node's agent for a channel.
    ///
    /// # Errors
    ///
    /// As [`Fleet::ask_for_logs`].
    pub fn ask_for_channel(&self, node: &NodeName, request: v1::ChannelRequest) -> Result<(), FleetError> {
        self.ask(node, Message::Channel(request))
    }

    /// Asks a node's agent for a check. Of all that an agent is asked this is the least: where its outbox is full, it is not asked.
    ///
    /// # Errors
    ///
    /// [`FleetError::NotConnected`] when it has no live session, or reads too slowly.
    pub fn ask_for_check(&self, node: &NodeName, request: v1::CheckRequest) -> Result<(), FleetError> {
        let outbox = self.live(node).ok_or(FleetError::NotConnected)?;
        match outbox.push(Message::Check(request)) {
            Offer::Taken => Ok(()),
            Offer::NotOpen | Offer::Full => Err(FleetError::NotConnected),
        }
    }

    fn ask(&self, node: &NodeName, message: Message) -> Result<(), FleetError> {
        let outbox = self.live(node).ok_or(FleetError::NotConnected)?;
        match outbox.push(message) {
            Offer::Taken => return Ok(()),
            Offer::NotOpen => {}
            Offer::Full => self.overflowed(node, &outbox),
        }
        Err(FleetError::NotConnected)
    }

    /// Ends the session of a node that was deleted.
    pub fn node_deleted(&self, node: &NodeName) {
        self.end(node, End::NodeDeleted);
        let mut registry = self.registry();
        registry.ended.remove(node);
        registry.heard.remove(node);
    }

    /// Ends the session of whoever was this node before it was enrolled anew: as the new one's session would.
    pub fn reenrolled(&self, node: &NodeName) {
        self.end(node, End::Fenced);
    }

    fn end(&self, node: &NodeName, why: End) {
        let removed = self.registry().take(node);
        if let Some(outbox) = removed {
            outbox.end(why);
        }
    }

    /// Asks every agent to come back later and ends its session once that message is out; takes no new sessions.
    ///
    /// Returns when every stream has ended. An agent that reads nothing can hold it up for ever: give it a time limit.
    pub async fn drain(&self) {
        let sessions = {
            let mut registry = self.registry();
            registry.draining = true;
            let sessions = std::mem::take(&mut registry.sessions);
            let now = Instant::now();
            registry.ended.extend(sessions.keys().map(|node| (node.clone(), now)));
            sessions
        };
        let window = reconnect_window(sessions.len());
        tracing::info!(sessions = sessions.len(), reconnect_within = ?window, "draining the fleet");
        for outbox in sessions.into_values() {
            let drain = v1::Drain { reconnect_within: Some(convert::duration(window)) };
            // Whether it fits or not, the session ends.
            outbox.push(Message::Drain(drain));
            outbox.end(End::Drained);
        }
        // The sender lives as long as `self`, so that the wait cannot fail.
        let _ = self.streams.subscribe().wait_for(|streams| *streams == 0).await;
    }

    fn overflowed(&self, node: &NodeName, outbox: &Arc<Outbox>) {
        if self.remove(node, outbox.session()) {
            tracing::warn!(%node, session = %outbox.session(), "the agent is too slow: its session ends");
        }
        outbox.end(End::Overflow);
    }

    /// Compare-and-remove: a connection that died quietly may end long after its successor began.
    fn remove(&self, node: &NodeName, session: &SessionId) -> bool {
        let mut registry = self.registry();
        let is_live = registry.sessions.get(node).is_some_and(|live| live.session() == session);
        if is_live {
            registry.take(node);
        }
        is_live
    }

    fn live(&self, node: &NodeName) -> Option<Arc<Outbox>> {
        self.registry().sessions.get(node).cloned()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Takes a node's session out, if it has one.
    fn take(&mut self, node: &NodeName) -> Option<Arc<Outbox>> {
        let (node, outbox) = self.sessions.remove_entry(node)?;
        self.ended.insert(node, Instant::now());
        Some(outbox)
    }
}

/// A session's place in the fleet; dropping it takes the session out.
#[derive(Debug)]
pub struct Entry {
    fleet: Arc<Fleet>,
    node: NodeName,
    outbox: Arc<Outbox>,
}

impl Entry {
    /// The session's node.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// What is on its way to the agent.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.fleet.remove(&self.node, self.outbox.session());
        self.fleet.streams.send_modify(|streams| *streams -= 1);
        self.fleet.metrics.ended(self.outbox.ended());
    }
}

/// How long a fleet of this size takes to come back without drowning a server.
fn reconnect_window(sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
    (Duration::from_secs(1) * sessions / RECONNECTS_PER_SECOND).max(MIN_RECONNECT_WINDOW)
}

/// The wire form of an assignment; its spec is shared, not copied.
fn on_wire(assignment: EncodedAssignment) -> v1::Assignment {
    v1::Assignment {
        app_name: assignment.app.to_string(),
        revision: assignment.revision,
        job_id: assignment.job.to_string(),
        attempt: assignment.attempt,
        order: v1::Order::from(assignment.order).into(),
        app_spec: assignment.spec,
        request_id: assignment.cause.as_deref().unwrap_or_default().to_owned(),
        image_access: v1::ImageAccess::from(assignment.image_access).into(),
        node_labels: assignment.node_labels.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;
