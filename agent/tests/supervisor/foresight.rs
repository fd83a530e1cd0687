//! What is foreseen for plans: the same as a task meets, and nothing comes of it.

use std::net::TcpListener;
use std::sync::Arc;

use async_trait::async_trait;
use longshore_agent::runtime::{Keyring, RegistryCredential, RuntimeError};
use longshore_agent::supervisor::check::foresee;
use longshore_model::assignment::ImageAccess;
use longshore_model::failure::FailureReason;
use longshore_model::name::AppName;
use longshore_model::node::Labels;
use longshore_model::plan::{Candidate, Look};
use longshore_model::spec::{AppSpec, Requests, Resources};
use longshore_model::task::TaskState;
use serde_json::json;

use super::node::{Node, app, assignment, deploy, spec};

/// Has nothing to tell.
struct Nobody;

#[async_trait]
impl Keyring for Nobody {
    async fn credential(&self, _: &AppName) -> Result<Option<RegistryCredential>, RuntimeError> {
        Ok(None)
    }
}

async fn look(node: &Node, name: &str, spec: AppSpec) -> Look {
    let candidate =
        Candidate { app: app(name), spec: Arc::new(spec), image_access: ImageAccess::Open, node_labels: Labels::new() };
    foresee(&node.context, &candidate, Arc::new(Nobody)).await
}

fn reasons(look: &Look) -> Vec<FailureReason> {
    look.obstacles.iter().map(|found| found.reason).collect()
}

fn with(image: &str, parts: &serde_json::Value) -> AppSpec {
    let mut whole = serde_json::to_value(spec(image)).unwrap();
    whole.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_obstacle_is_the_one_that_the_task_then_fails_for() {
    let node = Node::new().await;
    let foreign = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = foreign.local_addr().unwrap().port();
    let cases = [
        ("fake/app:1?resolve=fail", json!({})),
        ("fake/app:1?arch=vax", json!({})),
        ("fake/app:1?room=999999", json!({})),
        ("fake/app:1", json!({ "network": { "ports": [{ "containerPort": 80, "hostPort": port }] } })),
        ("fake/app:1", json!({ "network": { "ports": [{ "containerPort": 80, "hostInterface": "none0" }] } })),
        ("fake/app:1", json!({ "volumes": [{ "mountPath": "/x", "hostPath": { "path": "/proc/1" } }] })),
        ("fake/app:1", json!({ "resources": { "requests": { "cpu": "1001m" } } })),
        ("fake/app:1", json!({ "accelerators": [{ "kind": "example.com/npu" }] })),
        ("fake/app:1", json!({ "args": ["${node.labels.floor}"] })),
    ];
    for (image, parts) in cases {
        let wanted = with(image, &parts);
        let seen = look(&node, "till", wanted.clone()).await;
        assert_eq!(seen.obstacles.len(), 1, "{image} {parts}: {seen:?}");
        let mut node = Node::new().await;
        node.supervisor.set(assignment(wanted));
        let failure = node.until_task(TaskState::Failed).await.failure.unwrap();
        assert_eq!(failure.step, TaskState::Checking, "{image} {parts}: nothing is fetched");
        let told = (seen.obstacles[0].reason, seen.obstacles[0].message.as_str());
        assert_eq!(told, (failure.reason, failure.message.as_str()), "{image} {parts}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_is_told_at_once_and_nothing_comes_of_it() {
    let mut node = Node::new().await;
    let requests = Requests { cpu: Some(600), memory: None };
    let half = AppSpec { resources: Resources { requests, ..Resources::default() }, ..spec("fake/app:1") };
    for _ in 0..3 {
        let seen = look(&node, "other", half.clone()).await;
        assert_eq!((reasons(&seen), seen.fetch_bytes), (vec![], Some(1_000_000)), "nothing is held by a look");
    }
    node.supervisor.set(assignment(half.clone()));
    node.until_task(TaskState::Succeeded).await;
    assert_eq!(reasons(&look(&node, "till", half.clone()).await), [], "its own share does not stand in its way");
    let parts = json!({
        "resources": { "requests": { "cpu": "600m" } },
        "network": { "ports": [{ "containerPort": 80, "hostInterface": "none0" }, { "containerPort": 81, "hostInterface": "none1" }] },
    });
    use FailureReason as R;
    let expected = [R::InsufficientResources, R::InterfaceNotFound, R::InterfaceNotFound, R::ArchitectureMismatch];
    let seen = look(&node, "other", with("fake/app:1?arch=vax", &parts)).await;
    assert_eq!((reasons(&seen), seen.fetch_bytes), (expected.to_vec(), None));
    assert!(!node.ledger_file("other").exists());
    assert_eq!(node.containers().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_is_told_before_anything_is_fetched_that_its_image_has_no_room() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1?room=999999"));
    let failure = node.until_task(TaskState::Failed).await.failure.unwrap();
    assert_eq!((failure.reason, failure.step), (FailureReason::DiskFull, TaskState::Checking));
    assert!(node.tasks.iter().all(|report| report.state != TaskState::Pulling));
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1?room=1000000"));
    node.until_task(TaskState::Succeeded).await;
}
