//! Health, reflection and the way out.

use std::time::Duration;

use longshore_proto::v1;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use v1::open_session_response::Message as FromServer;

use crate::harness::{World, hello, order, soon};

#[tokio::test]
async fn a_drain_ends_all_that_is_open_and_takes_nothing_new() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    let job = world.create(order(&["shop-1"])).await;
    agent.set().await;
    let request = v1::WatchJobRequest { job_id: job.job_id.clone(), ..Default::default() };
    let mut watch = world.jobs().watch_job(request).await.unwrap().into_inner();
    soon(watch.message()).await.unwrap();
    let mut health = HealthClient::new(world.channel());
    let status = |mut health: HealthClient<_>| async move {
        health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status()
    };
    assert_eq!(status(health.clone()).await, ServingStatus::Serving);
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(soon(watched.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);

    let backstage = world.backstage.clone();
    let drained = tokio::spawn(async move { backstage.drain(Duration::from_secs(20)).await });
    let FromServer::Drain(drain) = agent.next().await else { panic!("not a drain") };
    assert!(drain.reconnect_within.unwrap().seconds >= 1);
    assert!(agent.end().await.is_none(), "the session ends well");
    assert!(soon(drained).await.unwrap(), "everything ended in time");
    assert_eq!(soon(watch.message()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(soon(watched.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(soon(watched.message()).await.unwrap().is_none());

    let status = world.dial_session(world.agent_service("shop-1"), hello("amd64")).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    let wait = world.jobs().wait_job(v1::WaitJobRequest { job_id: job.job_id, timeout: None }).await;
    assert_eq!(wait.unwrap_err().code(), Code::Unavailable);
    let name = "shop-1".parse().unwrap();
    assert!(world.store.node(&name).await.unwrap().last_seen.is_some());
}

#[tokio::test]
async fn a_drain_has_a_time_limit() {
    let world = World::start().await;
    let agent = world.fleet(&["shop-1"]).await.remove(0);
    let stuck = world.live.fleet.enter(
        "shop-2".parse().unwrap(),
        "01arz3ndektsv4rrffq69g5fav".parse().unwrap(),
        v1::Welcome::default(),
    );
    assert!(!world.backstage.drain(Duration::from_millis(50)).await);
    drop((agent, stuck));
}

#[tokio::test]
async fn both_reflections_know_services_and_error_details() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient as AlphaClient;

    let world = World::start().await;
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("google.rpc.BadRequest".to_owned())),
        ask(MessageRequest::FileContainingSymbol("longshore.v1.JobService".to_owned())),
    ];
    let mut client = ServerReflectionClient::new(world.channel());
    let mut answers = client.server_reflection_info(tokio_stream::iter(questions)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(services)) =
        soon(answers.message()).await.unwrap().unwrap().message_response
    else {
        panic!("not a list of services")
    };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in
        ["longshore.v1.JobService", "longshore.v1.NodeService", "longshore.v1.AppService", "grpc.health.v1.Health"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
    for _ in 0..2 {
        let answer = soon(answers.message()).await.unwrap().unwrap().message_response;
        assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
    }
    let mut alpha = AlphaClient::new(world.channel());
    let empty = tokio_stream::empty();
    alpha.server_reflection_info(empty).await.unwrap();
}
