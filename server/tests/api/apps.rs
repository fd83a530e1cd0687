//! Apps and their output.

use std::time::Duration;

use longshore_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use v1::TaskState;
use v1::open_session_response::Message as FromServer;

use crate::harness::{Agent, World, failure, order, soon};

fn ask(node: &str, follow: bool) -> v1::ReadLogsRequest {
    v1::ReadLogsRequest {
        node_name: node.to_owned(),
        app_name: "till-1".to_owned(),
        instance: 2,
        tail_lines: 10,
        follow,
        ..Default::default()
    }
}

fn line(text: &str) -> v1::LogLine {
    v1::LogLine { text: text.to_owned().into(), stream: v1::LogStream::Stdout.into(), ..Default::default() }
}

type Upload = (mpsc::Sender<v1::UploadLogsRequest>, tokio::task::JoinHandle<Result<(), Status>>);

/// Answers the request for logs that must come next.
async fn answer(agent: &mut Agent) -> (v1::LogRequest, Upload) {
    let FromServer::Logs(request) = agent.next().await else { panic!("nobody asks for logs") };
    let (sender, receiver) = mpsc::channel(8);
    let mut service = agent.service.clone();
    let call = tokio::spawn(async move { service.upload_logs(ReceiverStream::new(receiver)).await.map(|_| ()) });
    (request, (sender, call))
}

fn read(
    world: &World,
    request: v1::ReadLogsRequest,
) -> tokio::task::JoinHandle<Result<Streaming<v1::ReadLogsResponse>, Status>> {
    let mut apps = world.apps();
    tokio::spawn(async move { apps.read_logs(request).await.map(tonic::Response::into_inner) })
}

#[tokio::test]
async fn lines_come_from_the_agent_to_the_reader_in_order() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let reader = read(&world, ask("shop-1", false));
    let (request, (sender, call)) = answer(&mut agent).await;
    assert_eq!((request.app_name.as_str(), request.instance, request.tail_lines), ("till-1", 2, 10));
    let upload = |request_id: &str, lines| v1::UploadLogsRequest {
        request_id: request_id.to_owned(),
        lines,
        ..Default::default()
    };
    sender.send(upload(&request.request_id, vec![line("one"), line("two")])).await.unwrap();
    sender.send(v1::UploadLogsRequest { complete: true, ..upload("", vec![line("three")]) }).await.unwrap();
    let mut lines = soon(reader).await.unwrap().unwrap();
    let mut texts = Vec::new();
    while let Some(message) = soon(lines.message()).await.unwrap() {
        texts.extend(message.lines.into_iter().map(|line| line.text));
    }
    assert_eq!(texts, ["one", "two", "three"]);
    soon(call).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_agents_call_fails_when_the_reader_hangs_up() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let reader = read(&world, ask("shop-1", true));
    let (request, (sender, call)) = answer(&mut agent).await;
    let first =
        v1::UploadLogsRequest { request_id: request.request_id, lines: vec![line("one")], ..Default::default() };
    sender.send(first).await.unwrap();
    let mut lines = soon(reader).await.unwrap().unwrap();
    soon(lines.message()).await.unwrap().unwrap();
    drop(lines);
    assert_eq!(soon(call).await.unwrap().unwrap_err().code(), Code::Cancelled);
}

#[tokio::test]
async fn an_upload_that_ends_before_its_last_message_is_told_from_a_whole_one() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let reader = read(&world, ask("shop-1", false));
    let (request, (sender, call)) = answer(&mut agent).await;
    let first =
        v1::UploadLogsRequest { request_id: request.request_id, lines: vec![line("one")], ..Default::default() };
    sender.send(first).await.unwrap();
    drop(sender);
    let mut lines = soon(reader).await.unwrap().unwrap();
    assert_eq!(soon(lines.message()).await.unwrap().unwrap().lines.len(), 1);
    let status = soon(lines.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("broke off"), "{status}");
    assert_eq!(soon(call).await.unwrap().unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_reader_that_stalls_holds_up_nothing_else_of_the_node() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let reader = read(&world, ask("shop-1", true));
    let (request, (sender, _call)) = answer(&mut agent).await;
    let piece = |request_id: &str| v1::UploadLogsRequest {
        request_id: request_id.to_owned(),
        lines: vec![line(&"x".repeat(16 * 1024)); 16],
        ..Default::default()
    };
    sender.send(piece(&request.request_id)).await.unwrap();
    let _unread = soon(reader).await.unwrap().unwrap();
    // Far longer than the server takes to read one.
    while tokio::time::timeout(Duration::from_secs(4), sender.send(piece(""))).await.is_ok() {}
    let job = world.create(order(&["shop-1"])).await;
    let assignment = agent.set().await;
    assert_eq!(assignment.job_id, job.job_id);
    agent.reach(&assignment, TaskState::Succeeded).await;
}

#[tokio::test]
async fn only_agents_that_know_how_are_asked_for_a_time_or_a_run() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let since = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    for wanted in [
        v1::ReadLogsRequest { since, ..ask("shop-1", false) },
        v1::ReadLogsRequest { previous: true, ..ask("shop-1", false) },
    ] {
        let (code, details) = failure(soon(read(&world, wanted)).await.unwrap());
        assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::FailedPrecondition, "NODE_TOO_OLD"));
    }
    let both = v1::ReadLogsRequest { previous: true, ..ask("shop-1", true) };
    let (code, details) = failure(soon(read(&world, both)).await.unwrap());
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "follow");
    let _reader = read(&world, ask("shop-1", false));
    assert!(matches!(agent.next().await, FromServer::Logs(_)), "what every agent knows goes on");
}

#[tokio::test]
async fn logs_that_cannot_be_had_end_with_a_reason() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    world.enroll("shop-2", &[]).await;

    let (code, details) = failure(soon(read(&world, ask("shop-2", false))).await.unwrap());
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::Unavailable, "NODE_NOT_CONNECTED"));
    let (code, _) = failure(soon(read(&world, ask("nowhere", false))).await.unwrap());
    assert_eq!(code, Code::NotFound);

    let reader = read(&world, ask("shop-1", false));
    let (request, (sender, call)) = answer(&mut agent).await;
    let not_found =
        v1::UploadLogsRequest { request_id: request.request_id.clone(), not_found: true, ..Default::default() };
    sender.send(not_found.clone()).await.unwrap();
    let mut lines = soon(reader).await.unwrap().unwrap();
    assert_eq!(soon(lines.message()).await.unwrap_err().code(), Code::NotFound);
    soon(call).await.unwrap().unwrap();

    // Nobody waits for this one (any more).
    let mut service = agent.service.clone();
    let status = service.upload_logs(tokio_stream::once(not_found)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn reader_and_upload_break_off_when_the_node_is_deleted() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let reader = read(&world, ask("shop-1", true));
    let (request, (sender, call)) = answer(&mut agent).await;
    let first =
        v1::UploadLogsRequest { request_id: request.request_id, lines: vec![line("one")], ..Default::default() };
    sender.send(first).await.unwrap();
    let mut lines = soon(reader).await.unwrap().unwrap();
    soon(lines.message()).await.unwrap().unwrap();
    world.nodes().delete_node(v1::DeleteNodeRequest { name: "shop-1".to_owned(), ..Default::default() }).await.unwrap();
    assert_eq!(soon(lines.message()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(soon(call).await.unwrap().unwrap_err().code(), Code::Cancelled);
}

#[tokio::test]
async fn a_request_for_logs_belongs_to_its_node() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let reader = read(&world, ask("shop-1", false));
    let FromServer::Logs(request) = agents[0].next().await else { panic!("nobody asks for logs") };
    let forged =
        v1::UploadLogsRequest { request_id: request.request_id, lines: vec![line("lies")], ..Default::default() };
    let status = agents[1].service.upload_logs(tokio_stream::once(forged)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    reader.abort();
}

#[tokio::test]
async fn an_app_with_an_open_task_cannot_be_removed() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let job = world.create(order(&["shop-1"])).await;
    let assignment = agent.set().await;
    let remove =
        v1::RemoveAppRequest { app_name: job.app_name.clone(), node_name: "shop-1".to_owned(), ..Default::default() };
    let (code, details) = failure(world.apps().remove_app(remove.clone()).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert_eq!(details.precondition_failure().unwrap().violations[0].subject, job.app_name);
    agent.reach(&assignment, TaskState::Succeeded).await;
    assert_eq!(world.apps().remove_app(remove).await.unwrap().into_inner().nodes, 1);
    let missing = v1::RemoveAppRequest { app_name: "nothing".to_owned(), ..Default::default() };
    assert_eq!(failure(world.apps().remove_app(missing).await).0, Code::NotFound);
}
