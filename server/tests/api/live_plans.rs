//! Plans for which agents are asked.

use std::time::Duration;

use longshore_proto::v1;
use tonic::{Code, Status};
use v1::open_session_response::Message as FromServer;
use v1::{FailureReason, NodeCheck};

use crate::harness::{Agent, ToServer, World, eventually, hello, order, soon};

/// Says of its node that it can be asked.
fn askable() -> ToServer {
    let ToServer::Hello(mut hello) = hello("amd64") else { panic!("a Hello") };
    let words = ["network.ports", "image.registry", "plans.check", "spec.node-values"];
    hello.info.as_mut().unwrap().capabilities.extend(words.map(str::to_owned));
    ToServer::Hello(hello)
}

/// Enrols a node whose agent can be asked.
async fn connect(world: &World, node: &str) -> Agent {
    world.enroll(node, &[("floor", "2"), ("site", "hh")]).await;
    let mut agent = world.dial_session(world.agent_service(node), askable()).await.unwrap();
    for _ in ["welcome", "full set"] {
        agent.next().await;
    }
    agent
}

async fn asked(agent: &mut Agent) -> v1::CheckRequest {
    match agent.next().await {
        FromServer::Check(check) => check,
        other => panic!("not a check: {other:?}"),
    }
}

fn request(job: v1::CreateJobRequest) -> v1::PlanJobRequest {
    v1::PlanJobRequest { job: Some(job), live: true }
}

/// Plans beside what the test's agents do meanwhile.
fn planning(world: &World, job: v1::CreateJobRequest) -> tokio::task::JoinHandle<Result<v1::PlanJobResponse, Status>> {
    let mut jobs = world.jobs();
    tokio::spawn(async move {
        let mut stream = jobs.plan_job(request(job)).await?.into_inner();
        let mut whole = v1::PlanJobResponse::default();
        while let Some(piece) = stream.message().await? {
            whole.summary = piece.summary;
            whole.nodes.extend(piece.nodes);
        }
        Ok(whole)
    })
}

fn obstacle(reason: FailureReason, message: &str) -> v1::PlanObstacle {
    v1::PlanObstacle { reason: reason.into(), message: message.to_owned() }
}

#[tokio::test]
async fn agents_say_what_they_find_and_others_are_judged_by_what_they_said_last() {
    let world = World::start().await;
    let mut one = connect(&world, "shop-1").await;
    world.enroll("shop-2", &[]).await;
    let _old = world.connect("shop-2").await;
    world.enroll("shop-3", &[]).await;
    let mut job = order(&["shop-1", "shop-2", "shop-3"]);
    job.spec.as_mut().unwrap().env =
        vec![v1::EnvVar { name: "F".to_owned(), source: Some(v1::env_var::Source::NodeLabel("floor".to_owned())) }];
    let plan = planning(&world, job);
    let check = asked(&mut one).await;
    assert_eq!(check.node_labels.clone().into_iter().collect::<Vec<_>>(), [("floor".to_owned(), "2".to_owned())]);
    assert_eq!(check.image_access(), v1::ImageAccess::Open);
    assert!(check.app_name.starts_with("till-"));
    let mut obstacles = vec![obstacle(FailureReason::PortInUse, "port 80 is taken\nby others")];
    obstacles.push(v1::PlanObstacle { reason: 9999, message: "of a newer agent".to_owned() });
    let answer = v1::AnswerCheckRequest { request_id: check.request_id.clone(), obstacles, fetch_bytes: Some(120) };
    one.service.answer_check(answer.clone()).await.unwrap();
    assert_eq!(one.service.answer_check(answer).await.unwrap_err().code(), Code::NotFound, "once");

    let found = soon(plan).await.unwrap().unwrap();
    let checks: Vec<_> = found.nodes.iter().map(|node| (node.check(), node.fetch_bytes)).collect();
    let expected = [(NodeCheck::Done, Some(120)), (NodeCheck::TooOld, None), (NodeCheck::NotConnected, None)];
    assert_eq!(checks, expected);
    let told = [
        obstacle(FailureReason::PortInUse, "Port 80 is taken by others."),
        obstacle(FailureReason::RuntimeError, "Of a newer agent."),
    ];
    assert_eq!(found.nodes[0].obstacles, told);
    let reasons = |at: usize| found.nodes[at].obstacles.iter().map(v1::PlanObstacle::reason).collect::<Vec<_>>();
    assert_eq!(reasons(1), [FailureReason::Unsupported, FailureReason::NodeValueMissing], "by its last report");
    assert_eq!(reasons(2), [FailureReason::DeadlineExceeded]);
    let summary = found.summary.unwrap();
    assert_eq!((summary.checked_nodes, summary.unchecked_nodes, summary.fetch_bytes), (1, 2, 120));

    let remove = v1::CreateJobRequest { kind: v1::JobKind::Remove.into(), ..Default::default() };
    let (app, _) = crate::removal::deployed(&world, std::slice::from_mut(&mut one), &["shop-1"]).await;
    let found = soon(planning(&world, v1::CreateJobRequest { app_name: app, ..remove })).await.unwrap().unwrap();
    assert_eq!(found.nodes[0].check(), NodeCheck::Needless);
}

#[tokio::test]
async fn a_node_gets_the_credential_of_the_image_that_it_is_asked_for_until_it_has_answered() {
    let world = World::start().await;
    let mut agents = [connect(&world, "shop-1").await, connect(&world, "shop-2").await];
    let credential = v1::RegistryCredential {
        name: "shop".to_owned(),
        registry: "registry.example.com".to_owned(),
        username: "robot".to_owned(),
        ..Default::default()
    };
    let creation = v1::CreateRegistryCredentialRequest {
        registry_credential: Some(credential),
        password: "canary-5f1c".to_owned(),
        ..Default::default()
    };
    world.credentials("user/admin/bob").create_registry_credential(creation).await.unwrap();
    let plan = planning(&world, order(&["shop-1"]));
    let check = asked(&mut agents[0]).await;
    assert_eq!(check.image_access(), v1::ImageAccess::Credential);
    let fetch = v1::FetchRegistryCredentialRequest { check_id: check.request_id.clone(), ..Default::default() };
    let given = agents[0].service.fetch_registry_credential(fetch.clone()).await.unwrap().into_inner();
    assert_eq!((given.name.as_str(), given.password.as_str()), ("shop", "canary-5f1c"));
    let stolen = agents[1].service.fetch_registry_credential(fetch.clone()).await;
    assert_eq!(stolen.unwrap_err().code(), Code::NotFound);
    let answer = v1::AnswerCheckRequest { request_id: check.request_id, ..Default::default() };
    assert_eq!(agents[1].service.answer_check(answer.clone()).await.unwrap_err().code(), Code::NotFound);
    agents[0].service.answer_check(answer).await.unwrap();
    let late = agents[0].service.fetch_registry_credential(fetch).await;
    assert_eq!(late.unwrap_err().code(), Code::NotFound);
    let found = soon(plan).await.unwrap().unwrap();
    assert_eq!((found.nodes[0].check(), found.nodes[0].fetch_bytes), (NodeCheck::Done, None));
}

#[tokio::test]
async fn whoever_leaves_is_answered_no_more_and_a_shutdown_ends_what_is_open() {
    let world = World::start().await;
    let mut agent = connect(&world, "shop-1").await;
    let plan = planning(&world, order(&["shop-1"]));
    let check = asked(&mut agent).await;
    plan.abort();
    let fetch = v1::FetchRegistryCredentialRequest { check_id: check.request_id, ..Default::default() };
    eventually(|| async {
        let answer = agent.service.clone().fetch_registry_credential(fetch.clone()).await;
        answer.is_err_and(|status| status.code() == Code::NotFound).then_some(())
    })
    .await;

    let plan = planning(&world, order(&["shop-1"]));
    asked(&mut agent).await;
    let backstage = world.backstage.clone();
    let drained = tokio::spawn(async move { backstage.drain(Duration::from_secs(20)).await });
    assert_eq!(soon(plan).await.unwrap().unwrap_err().code(), Code::Unavailable);
    agent.end().await;
    assert!(soon(drained).await.unwrap());
}
