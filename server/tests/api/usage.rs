//! What agents measure, and how nodes are.

use longshore_proto::v1;
use tonic::Code;
use v1::{AppState, InstanceState, NodeWarningKind, TaskState};

use crate::harness::{Agent, ToServer, World, eventually, order};

const GIBIBYTE: u64 = 1 << 30;

async fn say(agent: &Agent, report: v1::UsageReport) {
    agent.sender.send(v1::OpenSessionRequest { message: Some(ToServer::Usage(report)) }).await.unwrap();
}

/// What a node says whose clock is so many seconds ahead.
fn report(ahead: i64, disk_free_bytes: u64, apps: Vec<v1::AppUsage>) -> v1::UsageReport {
    let now = jiff::Timestamp::now();
    let figures = v1::NodeFigures { disk_total_bytes: 100 * GIBIBYTE, disk_free_bytes, ..Default::default() };
    v1::UsageReport {
        node_time: Some(prost_types::Timestamp { seconds: now.as_second() + ahead, nanos: 0 }),
        figures: Some(figures),
        apps,
    }
}

async fn node(world: &World) -> v1::Node {
    let request = v1::GetNodeRequest { name: "shop-1".to_owned() };
    world.nodes().get_node(request).await.unwrap().into_inner().node.unwrap()
}

/// The node once it has so much free disk.
async fn node_with(world: &World, disk_free_bytes: u64) -> v1::Node {
    eventually(|| async {
        let node = node(world).await;
        let free = node.status.as_ref().and_then(|status| status.figures).map(|figures| figures.disk_free_bytes);
        (free == Some(disk_free_bytes)).then_some(node)
    })
    .await
}

fn kinds(node: &v1::Node) -> Vec<NodeWarningKind> {
    node.warnings.iter().map(v1::NodeWarning::kind).collect()
}

#[tokio::test]
async fn the_newest_word_of_a_node_counts_and_changes_nothing_that_is_kept() {
    let world = World::start().await;
    let agent = world.fleet(&["shop-1"]).await.remove(0);
    let before = node(&world).await;
    let status = before.status.unwrap();
    assert!(status.connect_time.is_some() && before.warnings.is_empty());
    assert_eq!((status.sample_time, status.figures, status.clock_skew), (None, None, None));

    say(&agent, report(3600, 4 * GIBIBYTE, Vec::new())).await;
    let known = node_with(&world, 4 * GIBIBYTE).await;
    assert_eq!(kinds(&known), [NodeWarningKind::DiskNearlyFull, NodeWarningKind::ClockSkew]);
    assert_eq!(known.warnings[0].message, "its disk is 96 % full");
    assert!((3590..3610).contains(&known.status.as_ref().unwrap().clock_skew.unwrap().seconds), "{known:?}");
    assert_eq!(known.etag, before.etag);
    let listed = world.nodes().list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner().nodes;
    assert_eq!((kinds(&listed[0]), listed[0].refusals.len()), (kinds(&known), 0));
    assert!(known.refusals.iter().any(|refusal| refusal.capability == "security.privileged"), "{:?}", known.refusals);
    assert!(!known.refusals.iter().any(|refusal| refusal.capability == "jobs.update"));

    say(&agent, report(0, 50 * GIBIBYTE, Vec::new())).await;
    assert_eq!(kinds(&node_with(&world, 50 * GIBIBYTE).await), []);

    // What is said of the past is told with its time, and no reason to warn.
    say(&agent, report(0, GIBIBYTE, Vec::new())).await;
    node_with(&world, GIBIBYTE).await;
    drop(agent);
    let away = eventually(|| async { Some(node(&world).await).filter(|node| !node.connected) }).await;
    let status = away.status.unwrap();
    assert_eq!(status.figures.unwrap().disk_free_bytes, GIBIBYTE);
    assert!(away.warnings.is_empty() && status.sample_time.is_some() && status.connect_time.is_none());
    world.connect("shop-1").await;
    assert_eq!(node(&world).await.status.unwrap().figures, None, "another session says it anew");
}

#[tokio::test]
async fn usage_is_of_instances_that_run_on_nodes_that_are_there() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    world.create(order(&["shop-1"])).await;
    let assignment = agent.set().await;
    let instance =
        |index, state: InstanceState| v1::InstanceStatus { index, state: state.into(), ..Default::default() };
    let status = v1::AppStatus {
        state: AppState::BackOff.into(),
        instances: vec![instance(0, InstanceState::Running), instance(1, InstanceState::BackOff)],
        ports: Vec::new(),
    };
    let app = v1::AppReport {
        app_name: assignment.app_name.clone(),
        revision: assignment.revision,
        attempt: assignment.attempt,
        status: Some(status),
    };
    agent.report(v1::report::Subject::App(app)).await;
    agent.reach(&assignment, TaskState::Succeeded).await;
    let get = || async {
        let app_name = assignment.app_name.clone();
        let request = v1::GetAppRequest { node_name: "shop-1".to_owned(), app_name };
        world.apps().get_app(request).await.unwrap().into_inner().app.unwrap()
    };
    let before = get().await;
    let measured = |index| v1::MeasuredInstance { index, cpu_millis: Some(250), memory_bytes: Some(7) };
    let instances = vec![measured(0), measured(1)];
    let usage = v1::AppUsage { app_name: assignment.app_name.clone(), instances };
    say(&agent, report(0, 50 * GIBIBYTE, vec![usage])).await;
    node_with(&world, 50 * GIBIBYTE).await;

    let app = get().await;
    assert_eq!(app.update_time, before.update_time);
    let instances = &app.status.as_ref().unwrap().instances;
    let usage = instances[0].usage.as_ref().unwrap();
    assert_eq!((usage.cpu_millis, usage.memory_bytes), (Some(250), Some(7)));
    assert_eq!(instances[1].usage, None, "it does not run");
    let listed = world.apps().list_apps(v1::ListAppsRequest::default()).await.unwrap().into_inner().apps;
    assert_eq!(listed, [app]);

    drop(agent);
    eventually(|| async { (!node(&world).await.connected).then_some(()) }).await;
    assert_eq!(get().await.status.unwrap().instances[0].usage, None, "nobody knows what it uses now");
}

#[tokio::test]
async fn usage_that_cannot_be_ends_the_session_and_names_the_field() {
    let world = World::start().await;
    let mut agent = world.fleet(&["shop-1"]).await.remove(0);
    say(&agent, v1::UsageReport::default()).await;
    let status = agent.end().await.unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("usage.node_time"), "{status}");
}
