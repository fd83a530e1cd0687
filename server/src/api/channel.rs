//! What people do inside instances over a channel: whether they may, and the agent's call that carries it.

use std::time::Duration;

use longshore_model::capability;
use longshore_model::name::{AppName, NodeName};
use longshore_proto::v1;
use tokio::sync::Notify;
use tonic::{Code, Request, Status, Streaming};

use super::{Context, status};
use crate::listen::PassedOn;
use crate::session::channels::{Channel, DeskError, FromAgent, Purpose};

/// Time for a caller's first message: it has it ready when it calls.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for an agent to come, and to begin: a connection, and a process on a slow machine.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long nothing may be said in either direction: a shell or a connection that somebody has forgotten.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// The instance that a channel leads to.
pub(super) struct Place {
    pub(super) node: NodeName,
    pub(super) app: AppName,
    pub(super) instance: u32,
}

impl Place {
    /// What the audit log calls it.
    pub(super) fn target(&self) -> String {
        let Self { node, app, instance } = self;
        format!("nodes/{node}/apps/{app}/instances/{instance}")
    }
}

/// What a caller says.
pub(super) struct Inbound<T> {
    stream: Streaming<T>,
    passed_on: PassedOn,
}

impl<T> Inbound<T> {
    /// That of a call.
    pub(super) fn of(request: Request<Streaming<T>>) -> Self {
        let passed_on = status::passed_on(&request);
        Self { stream: request.into_inner(), passed_on }
    }

    /// The first message; `None` where the caller has said nothing and ended.
    pub(super) async fn first(&mut self) -> Result<Option<T>, Status> {
        match tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, self.stream.message()).await {
            Ok(first) => first.map_err(status::of_stream),
            Err(_) => Err(status::plain(Code::DeadlineExceeded, "NO_FIRST_MESSAGE", "nothing came on the stream")),
        }
    }

    /// The next message; `None` when the caller has said all.
    pub(super) async fn next(&mut self) -> Result<Option<T>, Status> {
        self.stream.message().await
    }

    /// Counts bytes that the agent's side has taken.
    pub(super) fn passed_on(&self, bytes: usize) {
        self.passed_on.add(bytes);
    }
}

/// Checks that node and app are known, and that the node lets people do such things; one that is not connected is asked nothing.
pub(super) async fn check(context: &Context, place: &Place, purpose: Purpose) -> Result<(), Status> {
    let Place { node, app, .. } = place;
    let known = context.store.node(node).await.map_err(status::store)?;
    context.store.app(node, app).await.map_err(status::store)?;
    let word = match purpose {
        Purpose::Command => capability::APPS_EXEC,
        Purpose::Connection => capability::APPS_PORT_FORWARD,
    };
    let may = known.info.as_ref().is_some_and(|info| info.can(word));
    if !may && context.live.fleet.connected(node) {
        let (what, flag) = match purpose {
            Purpose::Command => ("commands be run in its apps", "--forbid-exec"),
            Purpose::Connection => ("ports of its apps be forwarded", "--forbid-port-forward"),
        };
        let message = format!(
            "the node {node} does not let {what}: its agent was started with {flag}, or is too old to know how"
        );
        return Err(forbidden(purpose, node, &message));
    }
    Ok(())
}

/// Asks the node's agent, and waits until it has begun.
pub(super) async fn open(
    context: &Context,
    place: &Place,
    purpose: Purpose,
    ask: v1::ChannelRequest,
) -> Result<Channel, Status> {
    let (node, live) = (&place.node, &context.live);
    check(context, place, purpose).await?;
    let taken = live.channels.wait(purpose, node, context.ids.text());
    let mut channel = taken.map_err(|error| refused(error, node))?;
    let ask = v1::ChannelRequest {
        request_id: channel.request_id().to_owned(),
        app_name: place.app.to_string(),
        instance: place.instance,
        ..ask
    };
    live.fleet.ask_for_channel(node, ask).map_err(|error| status::fleet(error, node))?;
    let Ok(begun) = tokio::time::timeout(AGENT_TIMEOUT, channel.next()).await else {
        let message = format!("the agent of node {node} did not answer within {} s", AGENT_TIMEOUT.as_secs());
        return Err(status::later(Code::Unavailable, "NODE_NOT_ANSWERING", message));
    };
    match begun.map_err(|error| refused(error, node))? {
        Some(FromAgent::Begun(_)) => Ok(channel),
        Some(FromAgent::Refused(refusal)) => Err(refusal_of(&refusal, place, purpose)),
        _ => Err(broken_off(node)),
    }
}

/// Over when nothing was said for too long.
pub(super) async fn idle(said: &Notify) -> Status {
    while tokio::time::timeout(IDLE_TIMEOUT, said.notified()).await.is_ok() {}
    let message = format!("nothing was said for {} s", IDLE_TIMEOUT.as_secs());
    status::plain(Code::Aborted, "CHANNEL_IDLE", message)
}

/// What a caller is told whose channel has ended before its end.
pub(super) fn broken_off(node: &NodeName) -> Status {
    let message = format!("the channel to node {node} broke off");
    status::later(Code::Unavailable, "CHANNEL_BROKEN_OFF", message)
}

/// What it means for a caller that there is no channel.
fn refused(error: DeskError, node: &NodeName) -> Status {
    let message = error.to_string();
    match error {
        DeskError::Full(_) | DeskError::NodeFull(_) => {
            status::later(Code::ResourceExhausted, "TOO_MANY_CHANNELS", message)
        }
        DeskError::Closed => status::later(Code::Unavailable, "SHUTTING_DOWN", message),
        DeskError::BrokenOff => broken_off(node),
    }
}

fn forbidden(purpose: Purpose, node: &NodeName, message: &str) -> Status {
    match purpose {
        Purpose::Command => status::precondition("EXEC_FORBIDDEN", node.as_str(), message),
        Purpose::Connection => status::precondition("PORT_FORWARD_FORBIDDEN", node.as_str(), message),
    }
}

/// What an agent's refusal means for a caller.
fn refusal_of(refusal: &v1::ChannelRefusal, place: &Place, purpose: Purpose) -> Status {
    let (message, subject) = (&refusal.message, format!("{}-{}", place.app, place.instance));
    match refusal.reason() {
        v1::ChannelRefusalReason::Forbidden => forbidden(purpose, &place.node, message),
        v1::ChannelRefusalReason::TooMany => {
            status::later(Code::ResourceExhausted, "TOO_MANY_CHANNELS", message.as_str())
        }
        v1::ChannelRefusalReason::NotListening => status::precondition("PORT_NOT_LISTENING", &subject, message),
        v1::ChannelRefusalReason::NotRunning
        | v1::ChannelRefusalReason::Reset
        | v1::ChannelRefusalReason::Unspecified => status::precondition("INSTANCE_NOT_RUNNING", &subject, message),
    }
}
