//! Admission against what the node has: 1 CPU and 1 GiB in these tests.

use longshore_model::app::AppState;
use longshore_model::assignment::Assignment;
use longshore_model::failure::{Failure, FailureReason};
use longshore_model::name::JobId;
use longshore_model::spec::{AppSpec, Requests, Resources};
use longshore_model::task::TaskState;

use super::node::{Node, app, assignment, spec, update};

fn asking(image: &str, cpu: u32) -> AppSpec {
    let requests = Requests { cpu: Some(cpu), memory: None };
    AppSpec { resources: Resources { requests, ..Resources::default() }, ..spec(image) }
}

/// A deployment of another app than `till`.
fn other(cpu: u32) -> Assignment {
    let job = JobId::parse("01jd0000000000000000000009").unwrap();
    Assignment { app: app("other"), job, ..assignment(asking("fake/app:1?pull=1h", cpu)) }
}

async fn ends(node: &mut Node, wanted: Assignment) -> Option<Failure> {
    node.tasks.clear();
    node.supervisor.set(wanted);
    node.until(|node| node.tasks.last().is_some_and(|report| report.state.is_end())).await;
    node.tasks.last().unwrap().failure.clone()
}

/// Whether another app that asks for so much is admitted; it is gone afterwards.
async fn has_room_for(node: &mut Node, cpu: u32) -> bool {
    node.tasks.clear();
    node.supervisor.set(other(cpu));
    let is_decided = |state: TaskState| state == TaskState::Pulling || state.is_end();
    node.until(|node| node.tasks.last().is_some_and(|report| is_decided(report.state))).await;
    let last = node.tasks.last().unwrap().clone();
    if let Some(failure) = &last.failure {
        assert_eq!((failure.reason, failure.step), (FailureReason::InsufficientResources, TaskState::Checking));
        assert!(node.tasks.iter().all(|report| report.state != TaskState::Pulling), "nothing is fetched");
    }
    node.apps.clear();
    node.supervisor.remove(&app("other")).await;
    node.until_app(AppState::Removed).await;
    last.failure.is_none()
}

#[tokio::test(start_paused = true)]
async fn an_app_is_refused_what_others_hold_and_told_who() {
    let mut node = Node::new().await;
    let two = AppSpec { instances: 2, ..asking("fake/app:1", 300) };
    assert_eq!(ends(&mut node, assignment(two)).await, None);
    let failure = ends(&mut node, other(401)).await.unwrap();
    assert_eq!(failure.reason, FailureReason::InsufficientResources);
    let expected = "The app asks for CPU 401m, and of the CPU 1 that this node has for apps CPU 400m is free; till holds CPU \
                    600m.";
    assert_eq!(failure.message, expected);
    node.apps.clear();
    node.supervisor.remove(&app("other")).await;
    node.until_app(AppState::Removed).await;
    assert!(has_room_for(&mut node, 400).await && !has_room_for(&mut node, 401).await);
    node.apps.clear();
    node.supervisor.remove(&app("till")).await;
    node.until_app(AppState::Removed).await;
    assert!(has_room_for(&mut node, 1000).await, "what a removed app held is free");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_outlives_the_agent() {
    let mut node = Node::new().await;
    assert_eq!(ends(&mut node, assignment(asking("fake/app:1", 600))).await, None);
    node.restart().await;
    assert!(has_room_for(&mut node, 400).await && !has_room_for(&mut node, 401).await);
}

#[tokio::test(start_paused = true)]
async fn what_failed_holds_nothing() {
    let mut node = Node::new().await;
    assert!(ends(&mut node, assignment(asking("fake/app:1?create=fail", 600))).await.is_some());
    assert!(has_room_for(&mut node, 1000).await);
    node.restart().await;
    assert!(has_room_for(&mut node, 1000).await);
}

#[tokio::test(start_paused = true)]
async fn both_revisions_of_an_update_are_held_once() {
    let mut node = Node::new().await;
    assert_eq!(ends(&mut node, assignment(asking("fake/app:1", 600))).await, None);
    let to = |image: &str, cpu| Assignment { spec: asking(image, cpu).into(), ..update(image) };
    assert_eq!(ends(&mut node, to("fake/app:2", 900)).await, None, "they never run at the same time");
    assert!(has_room_for(&mut node, 100).await && !has_room_for(&mut node, 101).await);
}

#[tokio::test(start_paused = true)]
async fn an_update_that_fails_gives_back_what_it_was_for() {
    let mut node = Node::new().await;
    assert_eq!(ends(&mut node, assignment(asking("fake/app:1", 600))).await, None);
    let to = |image: &str, cpu| Assignment { spec: asking(image, cpu).into(), ..update(image) };
    let failure = ends(&mut node, to("fake/app:2", 1001)).await.unwrap();
    assert_eq!(failure.reason, FailureReason::InsufficientResources);
    assert_eq!(node.revisions().await, [1]);
    assert!(has_room_for(&mut node, 400).await && !has_room_for(&mut node, 401).await);
    let retry = Assignment { attempt: 2, ..to("fake/app:2?create=fail", 900) };
    assert!(ends(&mut node, retry).await.is_some());
    assert!(has_room_for(&mut node, 400).await && !has_room_for(&mut node, 401).await);
    node.restart().await;
    assert!(has_room_for(&mut node, 400).await && !has_room_for(&mut node, 401).await, "nor after a restart");
}

#[tokio::test(start_paused = true)]
async fn an_update_to_less_keeps_the_rest_until_it_is_healthy() {
    let mut node = Node::new().await;
    assert_eq!(ends(&mut node, assignment(asking("fake/app:1", 600))).await, None);
    node.tasks.clear();
    node.supervisor.set(Assignment { spec: asking("fake/app:2?pull=2h", 100).into(), ..update("fake/app:2") });
    node.until_task(TaskState::Pulling).await;
    assert!(!has_room_for(&mut node, 401).await, "the way back stays open");
    node.until(|node| node.tasks.last().is_some_and(|report| report.state == TaskState::Succeeded)).await;
    assert!(has_room_for(&mut node, 900).await && !has_room_for(&mut node, 901).await);
}
