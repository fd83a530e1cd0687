//! Connections to ports of apps: a caller's call and an agent's, joined.

use longshore_model::capability;
use longshore_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use v1::forward_port_request::Message as Asked;
use v1::forward_port_response::Message as Answered;
use v1::open_channel_request::Message as Said;
use v1::open_channel_response::Message as Heard;
use v1::open_session_request::Message as ToServer;
use v1::open_session_response::Message as FromServer;

use crate::harness::{Agent, World, failure, hello, order, soon};

/// What a caller sends, and its answers once the connection stands.
type Caller = (mpsc::Sender<v1::ForwardPortRequest>, Streaming<v1::ForwardPortResponse>);

async fn call(world: &World, start: v1::ForwardPortStart) -> Result<Caller, Status> {
    let (sender, requests) = mpsc::channel(8);
    sender.send(v1::ForwardPortRequest { message: Some(Asked::Start(start)) }).await.unwrap();
    let answers = soon(world.apps().forward_port(ReceiverStream::new(requests))).await?.into_inner();
    Ok((sender, answers))
}

async fn ask(caller: &Caller, message: Asked) {
    caller.0.send(v1::ForwardPortRequest { message: Some(message) }).await.unwrap();
}

async fn answered(caller: &mut Caller) -> Option<Answered> {
    soon(caller.1.message()).await.unwrap().map(|answer| answer.message.unwrap())
}

/// The agent's side of a channel: it says these, and hears what comes.
async fn channel(
    agent: &mut Agent,
    first: Said,
) -> (v1::ChannelRequest, mpsc::Sender<v1::OpenChannelRequest>, Streaming<v1::OpenChannelResponse>) {
    let FromServer::Channel(request) = agent.next().await else { panic!("no channel is asked for") };
    let (sender, said) = mpsc::channel(8);
    for message in [Said::RequestId(request.request_id.clone()), first] {
        sender.send(v1::OpenChannelRequest { message: Some(message) }).await.unwrap();
    }
    let heard = soon(agent.service.open_channel(ReceiverStream::new(said))).await.unwrap().into_inner();
    (request, sender, heard)
}

async fn heard(stream: &mut Streaming<v1::OpenChannelResponse>) -> Heard {
    soon(stream.message()).await.unwrap().expect("the call ended").message.unwrap()
}

/// An app on a node whose agent is too old, and then one that knows how.
async fn world() -> (World, v1::ForwardPortStart) {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    world.create(order(&["shop-1"])).await;
    let app_name = agent.set().await.app_name;
    let start = v1::ForwardPortStart { node_name: "shop-1".to_owned(), app_name, port: 80, ..Default::default() };
    for validate_only in [false, true] {
        let (code, details) =
            failure(call(&world, v1::ForwardPortStart { validate_only, ..start.clone() }).await.map(drop));
        assert_eq!(code, Code::FailedPrecondition);
        assert_eq!(details.error_info().unwrap().reason, "PORT_FORWARD_FORBIDDEN");
        assert!(details.precondition_failure().unwrap().violations[0].description.contains("too old to know how"));
    }
    (world, start)
}

async fn newer_agent(world: &World) -> Agent {
    let ToServer::Hello(mut hello) = hello("amd64") else { panic!("no hello") };
    hello.info.as_mut().unwrap().capabilities.push(capability::APPS_PORT_FORWARD.to_owned());
    let mut agent = world.dial_session(world.agent_service("shop-1"), ToServer::Hello(hello)).await.unwrap();
    for _ in ["welcome", "full set"] {
        agent.next().await;
    }
    agent
}

#[tokio::test]
async fn a_connection_goes_to_agents_that_know_how_and_each_way_ends_by_itself() {
    let (world, start) = world().await;
    let mut agent = newer_agent(&world).await;
    // Nothing is asked of the agent for that.
    let mut checked =
        call(&world, v1::ForwardPortStart { validate_only: true, port: 0, ..start.clone() }).await.unwrap();
    assert_eq!(answered(&mut checked).await, None);

    let (caller, agents) =
        tokio::join!(call(&world, start.clone()), channel(&mut agent, Said::Begun(v1::ChannelBegun {})));
    let (mut caller, (request, say, mut hear)) = (caller.unwrap(), agents);
    assert_eq!((request.port, request.command, request.app_name), (80, None, start.app_name.clone()));
    assert_eq!(answered(&mut caller).await, Some(Answered::Started(v1::ForwardPortStarted {})));
    // A piece that is larger than agents take is cut.
    ask(&caller, Asked::Data(vec![b'x'; 20_000])).await;
    ask(&caller, Asked::DataEnd(v1::DataEnd {})).await;
    for length in [16_384, 3_616] {
        assert_eq!(heard(&mut hear).await, Heard::Data(vec![b'x'; length]));
    }
    assert_eq!(heard(&mut hear).await, Heard::DataEnd(v1::DataEnd {}));
    for (said, answer) in [
        (Said::Data(b"late".to_vec()), Some(Answered::Data(b"late".to_vec()))),
        (Said::DataEnd(v1::DataEnd {}), Some(Answered::DataEnd(v1::DataEnd {}))),
        (Said::Closed(v1::ConnectionClosed {}), None),
    ] {
        say.send(v1::OpenChannelRequest { message: Some(said) }).await.unwrap();
        assert_eq!(answered(&mut caller).await, answer);
    }
}

#[tokio::test]
async fn a_connection_that_is_refused_reset_or_lost_is_told_with_its_reason() {
    use v1::ChannelRefusalReason as Why;
    let (world, start) = world().await;
    let (code, details) = failure(call(&world, v1::ForwardPortStart { port: 70_000, ..start.clone() }).await.map(drop));
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));

    let mut agent = newer_agent(&world).await;
    let refusal = |reason: Why| Said::Refused(v1::ChannelRefusal { reason: reason.into(), message: "no".to_owned() });
    for (why, code, reason) in [
        (Why::NotListening, Code::FailedPrecondition, "PORT_NOT_LISTENING"),
        (Why::Forbidden, Code::FailedPrecondition, "PORT_FORWARD_FORBIDDEN"),
        (Why::NotRunning, Code::FailedPrecondition, "INSTANCE_NOT_RUNNING"),
        (Why::TooMany, Code::ResourceExhausted, "TOO_MANY_CHANNELS"),
    ] {
        let (caller, _agents) = tokio::join!(call(&world, start.clone()), channel(&mut agent, refusal(why)));
        let (found, details) = failure(caller.map(drop));
        assert_eq!((found, details.error_info().unwrap().reason.as_str()), (code, reason));
    }
    for (last, code) in [(Some(refusal(Why::Reset)), Code::Aborted), (None, Code::Unavailable)] {
        let (caller, agents) =
            tokio::join!(call(&world, start.clone()), channel(&mut agent, Said::Begun(v1::ChannelBegun {})));
        let (mut caller, (_, say, hear)) = (caller.unwrap(), agents);
        answered(&mut caller).await;
        let mut ends = Some((say, hear));
        match last {
            Some(message) => {
                let (say, _) = ends.as_ref().unwrap();
                say.send(v1::OpenChannelRequest { message: Some(message) }).await.unwrap();
            }
            None => drop(ends.take()),
        }
        let broken = soon(caller.1.message()).await.unwrap_err();
        assert_eq!(broken.code(), code, "{broken}");
    }
    // The other way round the agent hears of it.
    let (caller, agents) = tokio::join!(call(&world, start), channel(&mut agent, Said::Begun(v1::ChannelBegun {})));
    let (_, _say, mut hear) = agents;
    drop(caller);
    assert_eq!(soon(hear.message()).await.unwrap_err().code(), Code::Cancelled);
}
