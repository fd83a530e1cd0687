//! Plans: what a job would do, without a job.

use longshore_proto::v1;
use tonic::Code;
use v1::{FailureReason, JobKind, PlanAction};

use crate::harness::{ToServer, World, failure, hello, order, soon};
use crate::removal::deployed;

/// A whole plan, and in how many messages it came.
async fn plan(world: &World, job: v1::CreateJobRequest) -> (v1::PlanJobResponse, usize) {
    let request = v1::PlanJobRequest { job: Some(job), live: false };
    let mut stream = world.jobs().plan_job(request).await.unwrap().into_inner();
    let (mut whole, mut messages) = (v1::PlanJobResponse::default(), 0);
    while let Some(piece) = soon(stream.message()).await.unwrap() {
        assert_eq!(piece.job.is_some(), messages == 0, "the job comes first");
        assert!(whole.summary.is_none(), "the summary comes last");
        whole.job = whole.job.or(piece.job);
        whole.summary = piece.summary;
        whole.nodes.extend(piece.nodes);
        messages += 1;
    }
    (whole, messages)
}

fn reasons(node: &v1::NodePlan) -> Vec<FailureReason> {
    node.obstacles.iter().map(v1::PlanObstacle::reason).collect()
}

/// Says of its node all that an agent of the harness does, and that it can bring up an app of [`order`].
fn able() -> ToServer {
    let ToServer::Hello(mut hello) = hello("amd64") else { panic!("a Hello") };
    let info = hello.info.as_mut().unwrap();
    info.capabilities.extend(["network.ports", "image.registry", "resources.requests"].map(str::to_owned));
    info.allocatable = Some(v1::Allocatable { cpu_millis: 1000, memory_bytes: 1 << 30 });
    ToServer::Hello(hello)
}

#[tokio::test]
async fn a_plan_says_of_each_node_what_is_known_and_makes_nothing() {
    let world = World::start().await;
    for node in ["shop-1", "shop-2", "shop-3"] {
        world.enroll(node, &[]).await;
    }
    let _able = world.dial_session(world.agent_service("shop-1"), able()).await.unwrap();
    let _old = world.dial_session(world.agent_service("shop-2"), hello("amd64")).await.unwrap();
    let (found, _) = plan(&world, order(&["shop-1", "shop-2", "shop-3"])).await;
    let job = found.job.unwrap();
    assert_eq!((job.job_id.as_str(), job.app_name.as_str(), job.counts.unwrap().pending), ("", "", 3));
    let reasons: Vec<_> = found.nodes.iter().map(|node| (node.node_name.as_str(), reasons(node))).collect();
    let (unsupported, late) = (FailureReason::Unsupported, FailureReason::DeadlineExceeded);
    assert_eq!(reasons, [("shop-1", vec![]), ("shop-2", vec![unsupported]), ("shop-3", vec![late])]);
    assert!(found.nodes.iter().all(|node| node.action() == PlanAction::Deploy));
    let summary = found.summary.unwrap();
    assert_eq!((summary.clear_nodes, summary.obstructed_nodes, summary.groups.len()), (1, 2, 2));
    let made = world.jobs().list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(made, []);
}

#[tokio::test]
async fn what_other_apps_hold_stands_in_the_way_and_what_is_missing_does_everywhere() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let mut agents = [world.dial_session(world.agent_service("shop-1"), able()).await.unwrap()];
    // Welcome, and the full set.
    agents[0].next().await;
    agents[0].next().await;
    let asking = |cpu_millis: u32| {
        let mut request = order(&["shop-1"]);
        let requests = Some(v1::Requests { cpu_millis, ..Default::default() });
        request.spec.as_mut().unwrap().resources = Some(v1::Resources { requests, ..Default::default() });
        request
    };
    let (found, _) = plan(&world, asking(1001)).await;
    assert_eq!(reasons(&found.nodes[0]), [FailureReason::InsufficientResources]);
    let (app, _) = deployed(&world, &mut agents, &["shop-1"]).await;
    let (found, _) = plan(&world, asking(1000)).await;
    assert_eq!(reasons(&found.nodes[0]), [], "that app asked for nothing");

    let mut request = asking(10);
    let spec = request.spec.as_mut().unwrap();
    spec.image.as_mut().unwrap().credential = "nobody".to_owned();
    let key = v1::SecretKey { secret: "shop".to_owned(), key: "token".to_owned() };
    spec.env = vec![v1::EnvVar { name: "A".to_owned(), source: Some(v1::env_var::Source::SecretKey(key)) }];
    let (found, _) = plan(&world, request.clone()).await;
    let expected = [FailureReason::ImageAccessDenied, FailureReason::ConfigurationMissing];
    assert_eq!(reasons(&found.nodes[0]), expected, "{found:?}");
    let message = &found.nodes[0].obstacles[1].message;
    assert_eq!(message, "There is no secret \"shop\" (spec.env[0].secret_key.secret).");
    assert_eq!(failure(world.jobs().create_job(request).await).0, Code::InvalidArgument, "creation refuses it whole");

    let update = v1::CreateJobRequest { kind: JobKind::Update.into(), app_name: app.clone(), ..asking(10) };
    let (found, _) = plan(&world, update).await;
    let node = &found.nodes[0];
    assert_eq!((node.action(), node.from_revision, node.same_spec), (PlanAction::Update, 1, false));
    let remove = v1::CreateJobRequest { kind: JobKind::Remove.into(), app_name: app, ..Default::default() };
    let (found, _) = plan(&world, remove).await;
    assert_eq!((found.nodes[0].action(), reasons(&found.nodes[0])), (PlanAction::Remove, vec![]));
}

#[tokio::test]
async fn what_no_job_can_be_is_refused_under_its_path() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let fields = |details: &tonic_types::ErrorDetails| {
        let found = details.bad_request().unwrap().field_violations.iter();
        found.map(|violation| violation.field.clone()).collect::<Vec<_>>()
    };
    let (code, details) = failure(world.jobs().plan_job(v1::PlanJobRequest::default()).await);
    assert_eq!((code, fields(&details)), (Code::InvalidArgument, vec!["job".to_owned()]));
    let mut job = order(&["shop-1", "nobody"]);
    job.spec.as_mut().unwrap().instances = 1000;
    let (_, details) = failure(world.jobs().plan_job(v1::PlanJobRequest { job: Some(job), live: false }).await);
    assert_eq!(fields(&details), ["job.spec.instances", "job.targets.node_names"]);
}

#[tokio::test]
async fn a_plan_for_many_nodes_comes_in_pieces() {
    let world = World::start().await;
    let names: Vec<String> = (0..1_001).map(|number| format!("shop-{number:04}")).collect();
    futures::future::join_all(names.iter().map(|name| world.enroll(name, &[]))).await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (found, messages) = plan(&world, order(&names)).await;
    assert_eq!((found.nodes.len(), messages), (1_001, 3));
    let told: Vec<&str> = found.nodes.iter().map(|node| node.node_name.as_str()).collect();
    assert_eq!(told, names);
    let groups = found.summary.unwrap().groups;
    assert_eq!((groups.len(), groups[0].nodes), (1, 1_001));
}
