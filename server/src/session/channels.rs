//! Where people who work inside instances meet the agents that have them.
//!
//! A caller takes a place, its request goes out through the node's session, and the agent dials a connection of its own and
//! calls OpenChannel with the request's identifier. What either side says passes through short queues: who is slow slows
//! the other side down, and nothing else, since no two channels share a connection of an agent.

use std::sync::Arc;

use longshore_model::name::NodeName;
use longshore_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, Streaming};

pub use super::desk::DeskError;
use super::desk::{Bound, Desk, Taken};
use crate::api::status;
use crate::listen::PassedOn;

/// Commands on all nodes together: each holds two calls and their queues.
pub const MAX_COMMANDS: usize = 256;
/// Commands on one node: people at work.
pub const MAX_COMMANDS_PER_NODE: usize = 16;
/// Connections to ports of all nodes' apps together: each holds as much as a command.
pub const MAX_PORT_CONNECTIONS: usize = 512;
/// Connections to ports of one node's apps: a few browsers, each of which opens half a dozen.
pub const MAX_PORT_CONNECTIONS_PER_NODE: usize = 64;
/// Messages in each direction that wait: enough to keep both sides busy.
const QUEUE: usize = 4;

/// What an agent says on a channel.
pub type FromAgent = v1::open_channel_request::Message;
/// What an agent is told on a channel.
pub type ToAgent = v1::open_channel_response::Message;

/// What a channel is for. Each kind has places of its own, so that a busy browser keeps nobody from a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A command in an instance.
    Command,
    /// A connection to a port of an instance.
    Connection,
}

/// What a caller leaves for the agent's call.
type Ends = (mpsc::Sender<FromAgent>, mpsc::Receiver<ToAgent>);

/// The channels that are open or wait for their agent.
#[derive(Debug)]
pub struct ChannelDesk {
    commands: Arc<Desk<Ends>>,
    connections: Arc<Desk<Ends>>,
    /// What goes on behind the answers of calls: it has to be over before the store is.
    tasks: TaskTracker,
}

impl Default for ChannelDesk {
    fn default() -> Self {
        let commands = Desk::new(
            Bound { most: MAX_COMMANDS, what: "commands run on nodes" },
            Bound { most: MAX_COMMANDS_PER_NODE, what: "commands run on this node" },
        );
        let connections = Desk::new(
            Bound { most: MAX_PORT_CONNECTIONS, what: "connections to ports of apps are open" },
            Bound { most: MAX_PORT_CONNECTIONS_PER_NODE, what: "connections to ports of this node's apps are open" },
        );
        Self { commands, connections, tasks: TaskTracker::default() }
    }
}

impl ChannelDesk {
    /// Takes a place for a channel to the node, under a fresh identifier.
    ///
    /// # Errors
    ///
    /// No place is free, or the desk is closed.
    pub fn wait(&self, purpose: Purpose, node: &NodeName, request_id: String) -> Result<Channel, DeskError> {
        let (to_caller, from_agent) = mpsc::channel(QUEUE);
        let (to_agent, from_caller) = mpsc::channel(QUEUE);
        let desk = match purpose {
            Purpose::Command => &self.commands,
            Purpose::Connection => &self.connections,
        };
        let place = desk.take(node, request_id, (to_caller, from_caller))?;
        let ends_agent = place.given_up().clone().drop_guard();
        Ok(Channel { place, _ends_agent: ends_agent, from_agent, to_agent })
    }

    /// Brings an agent's call to whoever waits for it; `None` if nobody does.
    #[must_use]
    pub fn arrive(&self, node: &NodeName, request_id: &str) -> Option<AgentEnd> {
        let mut desks = self.desks().into_iter();
        let ((to_caller, from_caller), given_up) = desks.find_map(|desk| desk.arrive(node, request_id))?;
        Some(AgentEnd { to_caller, from_caller, given_up })
    }

    /// Breaks off every channel of a node.
    pub fn node_deleted(&self, node: &NodeName) {
        self.desks().into_iter().for_each(|desk| desk.node_deleted(node));
    }

    /// Breaks off all channels, and lets none begin.
    pub fn close(&self) {
        self.desks().into_iter().for_each(|desk| desk.close());
    }

    fn desks(&self) -> [&Arc<Desk<Ends>>; 2] {
        [&self.commands, &self.connections]
    }

    /// Lets something go on behind the answer of a call.
    pub fn track(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Waits for all of that; call it once the desk is closed.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A channel, as the caller has it; dropping it makes the agent end what it does.
#[derive(Debug)]
pub struct Channel {
    place: Taken<Ends>,
    /// Whoever drops the channel gives it up.
    _ends_agent: DropGuard,
    from_agent: mpsc::Receiver<FromAgent>,
    to_agent: mpsc::Sender<ToAgent>,
}

impl Channel {
    /// The identifier under which the agent shall come.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.place.request_id()
    }

    /// What the agent says next; `None` when it has said all. Loses nothing when it is dropped.
    ///
    /// # Errors
    ///
    /// [`DeskError::BrokenOff`] when the node was deleted or the server goes away.
    pub async fn next(&mut self) -> Result<Option<FromAgent>, DeskError> {
        tokio::select! {
            biased;
            () = self.place.given_up().cancelled() => Err(DeskError::BrokenOff),
            message = self.from_agent.recv() => Ok(message),
        }
    }

    /// Cancelled when the node is deleted or the server goes away.
    #[must_use]
    pub fn given_up(&self) -> CancellationToken {
        self.place.given_up().clone()
    }

    /// Where the agent is told things; a handle of its own, so that both directions go on at once.
    #[must_use]
    pub fn to_agent(&self) -> mpsc::Sender<ToAgent> {
        self.to_agent.clone()
    }
}

/// An agent's call that has found its caller.
#[derive(Debug)]
pub struct AgentEnd {
    to_caller: mpsc::Sender<FromAgent>,
    from_caller: mpsc::Receiver<ToAgent>,
    given_up: CancellationToken,
}

impl AgentEnd {
    /// Passes everything on in both directions until the agent has said all or the caller has hung up; the stream is what
    /// the agent is answered.
    pub fn run(
        self,
        mut inbound: Streaming<v1::OpenChannelRequest>,
        passed_on: PassedOn,
    ) -> impl futures::Stream<Item = Result<v1::OpenChannelResponse, Status>> + Send + 'static {
        let Self { to_caller, from_caller, given_up } = self;
        let over = CancellationToken::new();
        let (read, ended) = (given_up.clone(), over.clone());
        tokio::spawn(async move {
            let _over = ended.drop_guard();
            loop {
                let message = tokio::select! {
                    () = read.cancelled() => return,
                    message = inbound.message() => message,
                };
                // A message of an unknown kind is of a newer agent.
                let Ok(Some(v1::OpenChannelRequest { message })) = message else { return };
                let Some(message) = message else { continue };
                let bytes = payload(&message);
                if to_caller.send(message).await.is_err() {
                    return;
                }
                passed_on.add(bytes);
            }
        });
        let step = |(mut from_caller, given_up, over): (
            mpsc::Receiver<ToAgent>,
            CancellationToken,
            CancellationToken,
        )| async move {
            let message = tokio::select! {
                biased;
                () = given_up.cancelled() => return Some((Err(hung_up()), None)),
                // The agent has said all: so have we.
                () = over.cancelled() => return None,
                message = from_caller.recv() => message,
            };
            match message {
                Some(message) => {
                    let response = v1::OpenChannelResponse { message: Some(message) };
                    Some((Ok(response), Some((from_caller, given_up, over))))
                }
                // The caller has no more to say, and still listens.
                None => {
                    tokio::select! {
                        () = given_up.cancelled() => Some((Err(hung_up()), None)),
                        () = over.cancelled() => None,
                    }
                }
            }
        };
        futures::stream::unfold(Some((from_caller, given_up, over)), move |state| async move { step(state?).await })
    }
}

/// Bytes that an agent passes on with a message.
fn payload(message: &FromAgent) -> usize {
    match message {
        FromAgent::Stdout(bytes) | FromAgent::Stderr(bytes) | FromAgent::Data(bytes) => bytes.len(),
        _ => 0,
    }
}

fn hung_up() -> Status {
    status::plain(Code::Cancelled, "CALLER_GONE", "whoever opened this channel has hung up")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[tokio::test]
    async fn a_channel_is_met_once_by_its_node_and_its_end_ends_both() {
        let desk = Arc::new(ChannelDesk::default());
        let mut channel = desk.wait(Purpose::Connection, &node("a"), "1".to_owned()).unwrap();
        assert!(desk.arrive(&node("b"), "1").is_none() && desk.arrive(&node("a"), "2").is_none());
        let agent = desk.arrive(&node("a"), "1").unwrap();
        assert!(desk.arrive(&node("a"), "1").is_none(), "only once");
        agent.to_caller.send(FromAgent::Stdout(b"x".to_vec())).await.unwrap();
        assert_eq!(channel.next().await, Ok(Some(FromAgent::Stdout(b"x".to_vec()))));
        drop(channel);
        assert!(agent.given_up.is_cancelled());
    }

    #[tokio::test]
    async fn places_are_limited_and_given_back() {
        let desk = Arc::new(ChannelDesk::default());
        let place = |name: &str, id: usize| desk.wait(Purpose::Command, &node(name), format!("{name}{id}"));
        let held: Vec<_> = (0..MAX_COMMANDS_PER_NODE).map(|id| place("a", id).unwrap()).collect();
        let full = place("a", 1000).unwrap_err();
        assert!(matches!(full, DeskError::NodeFull(_)), "{full}");
        drop(desk.wait(Purpose::Connection, &node("a"), "c".to_owned()).unwrap());
        let mut other = place("b", 0).unwrap();
        drop(held);
        place("a", 1000).unwrap();
        desk.node_deleted(&node("b"));
        assert_eq!(other.next().await, Err(DeskError::BrokenOff));
        desk.close();
        assert_eq!(place("c", 0).unwrap_err(), DeskError::Closed);
    }
}
