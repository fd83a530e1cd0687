//! Connections of people to ports of instances: a caller's stream and an agent's, joined.

use longshore_model::limits;
use longshore_model::name::{AppName, NodeName};
use longshore_model::validate::{Path, Violations};
use longshore_proto::convert::FromWire;
use longshore_proto::v1;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use v1::forward_port_request::Message as Asked;
use v1::forward_port_response::Message as Answered;

use super::channel::{self, Inbound, Place};
use super::{Context, record, status};
use crate::fleet::FleetError;
use crate::session::channels::{Channel, FromAgent, Purpose, ToAgent};

/// What a caller is answered.
pub(super) type ForwardStream = ReceiverStream<Result<v1::ForwardPortResponse, Status>>;

/// Answers that wait for the caller.
const QUEUE: usize = 4;

/// Where to connect to.
struct Order {
    place: Place,
    port: u16,
}

impl Order {
    fn read(start: v1::ForwardPortStart) -> Result<Self, Status> {
        let mut bad = Violations::default();
        let path = Path::Root.field("start");
        let node = NodeName::from_wire(start.node_name, path.field("node_name"), &mut bad);
        let app = AppName::from_wire(start.app_name, path.field("app_name"), &mut bad);
        let port = u16::try_from(start.port).unwrap_or_default();
        if port == 0 && !(start.validate_only && start.port == 0) {
            bad.add(path.field("port"), format!("is {}; a TCP port is needed, 1 to 65535", start.port));
        }
        match node.zip(app) {
            Some((node, app)) if bad.0.is_empty() => {
                Ok(Self { place: Place { node, app, instance: start.instance }, port })
            }
            _ => Err(status::invalid(bad)),
        }
    }

    /// What the audit log calls it.
    fn target(&self) -> String {
        let place = self.place.target();
        if self.port == 0 { place } else { format!("{place}/ports/{}", self.port) }
    }
}

/// Connects, and goes on with it behind the answer.
pub(super) async fn begin(
    context: &Context,
    request: Request<Streaming<v1::ForwardPortRequest>>,
) -> Result<Response<ForwardStream>, Status> {
    let mut inbound = Inbound::of(request);
    let Some(v1::ForwardPortRequest { message: Some(Asked::Start(start)) }) = inbound.first().await? else {
        return Err(status::invalid(Violations::one("start", "is needed: the first message says where to connect to")));
    };
    let validate_only = start.validate_only;
    let order = Order::read(start)?;
    record::about(order.target(), validate_only);
    let (answers, stream) = mpsc::channel(QUEUE);
    if validate_only {
        channel::check(context, &order.place, Purpose::Connection).await?;
        if !context.live.fleet.connected(&order.place.node) {
            return Err(status::fleet(FleetError::NotConnected, &order.place.node));
        }
        return Ok(Response::new(ReceiverStream::new(stream)));
    }
    let ask = v1::ChannelRequest { port: order.port.into(), ..Default::default() };
    let channel = channel::open(context, &order.place, Purpose::Connection, ask).await?;
    context.live.channels.track(async move {
        if let Err(status) = relay(channel, inbound, &answers, &order.place.node).await {
            // A caller who takes nothing holds nothing up.
            tokio::spawn(async move { answers.send(Err(status)).await });
        }
    });
    Ok(Response::new(ReceiverStream::new(stream)))
}

/// Passes everything on in both directions, until both have ended or the caller has hung up.
async fn relay(
    mut channel: Channel,
    inbound: Inbound<v1::ForwardPortRequest>,
    answers: &mpsc::Sender<Result<v1::ForwardPortResponse, Status>>,
    node: &NodeName,
) -> Result<(), Status> {
    let said = Notify::new();
    let (to_agent, given_up) = (channel.to_agent(), channel.given_up());
    let down = async {
        let mut next = Answered::Started(v1::ForwardPortStarted {});
        loop {
            if answers.send(Ok(v1::ForwardPortResponse { message: Some(next) })).await.is_err() {
                return Ok(());
            }
            next = match channel.next().await {
                Ok(Some(FromAgent::Data(bytes))) => Answered::Data(bytes),
                Ok(Some(FromAgent::DataEnd(end))) => Answered::DataEnd(end),
                Ok(Some(FromAgent::Closed(_))) => return Ok(()),
                Ok(Some(FromAgent::Refused(refusal))) if refusal.reason() == v1::ChannelRefusalReason::Reset => {
                    return Err(status::plain(Code::Aborted, "CONNECTION_RESET", refusal.message));
                }
                // What is of commands has no place here.
                Ok(_) | Err(_) => return Err(channel::broken_off(node)),
            };
            said.notify_one();
        }
    };
    tokio::select! {
        end = down => end,
        // Also while the caller takes no answers.
        () = given_up.cancelled() => Err(channel::broken_off(node)),
        () = up(inbound, &to_agent, &said) => Ok(()),
        () = answers.closed() => Ok(()),
        status = channel::idle(&said) => Err(status),
    }
}

/// Passes on what the caller sends; returns when its stream breaks, and not when it only has no more to say.
async fn up(mut inbound: Inbound<v1::ForwardPortRequest>, to_agent: &mpsc::Sender<ToAgent>, said: &Notify) {
    loop {
        let bytes = match inbound.next().await {
            Ok(Some(v1::ForwardPortRequest { message: Some(Asked::Data(bytes)) })) => bytes,
            Ok(None | Some(v1::ForwardPortRequest { message: Some(Asked::DataEnd(_)) })) => {
                let _ = to_agent.send(ToAgent::DataEnd(v1::DataEnd {})).await;
                // Nothing follows; whether the caller is there the answers tell.
                return std::future::pending().await;
            }
            // A second start, or a kind of message that only newer callers know.
            Ok(Some(_)) => continue,
            Err(_) => return,
        };
        // As much at a time as agents send, whatever the caller's pieces are.
        for piece in bytes.chunks(limits::MAX_CHANNEL_PIECE) {
            said.notify_one();
            if to_agent.send(ToAgent::Data(piece.to_vec())).await.is_err() {
                // The agent has gone, which the other direction tells.
                return std::future::pending().await;
            }
            inbound.passed_on(piece.len());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn start(port: u32, validate_only: bool) -> v1::ForwardPortStart {
        let (node_name, app_name) = ("till-1".to_owned(), "shop-x7k2".to_owned());
        v1::ForwardPortStart { node_name, app_name, instance: 2, port, validate_only }
    }

    #[test]
    fn a_port_is_needed_to_connect_and_the_audit_log_names_it() {
        let target = |port, validate_only| Order::read(start(port, validate_only)).map(|order| order.target());
        assert_eq!(target(80, false).unwrap(), "nodes/till-1/apps/shop-x7k2/instances/2/ports/80");
        assert_eq!(target(0, true).unwrap(), "nodes/till-1/apps/shop-x7k2/instances/2");
        for (port, validate_only) in [(0, false), (65_536, false), (65_536, true)] {
            let refused = target(port, validate_only).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains("start.port"), "{refused}");
        }
    }
}
