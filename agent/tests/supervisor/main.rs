//! The supervisor on the fake runtime, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a failed unwrap is a failed test")]

mod accelerators;
mod admission;
mod crashes;
mod foresight;
mod node;
mod probes;
mod trouble;
mod updates;

use std::time::Duration;

use longshore_agent::runtime::InstanceKey;
use longshore_model::app::{AppState, InstanceState};
use longshore_model::assignment::{Assignment, Order};
use longshore_model::spec::{AppSpec, RestartPolicy};
use longshore_model::task::TaskState;
use node::{Node, assignment, deploy, ordered, spec};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_deployment_goes_forward_step_by_step_and_succeeds_once_it_has_settled() {
    let mut node = Node::new().await;
    let begin = Instant::now();
    node.supervisor.set(deploy("fake/app:1?pull=2s&create=1s&start=1s"));
    node.until_task(TaskState::Succeeded).await;
    let states: Vec<TaskState> = node.tasks.iter().map(|report| report.state).collect();
    assert!(states.is_sorted_by_key(|state| state.rank()), "{states:?}");
    for step in [TaskState::Pulling, TaskState::Creating, TaskState::Starting, TaskState::Settling] {
        assert!(states.contains(&step), "{step} is missing in {states:?}");
    }
    let pulled: Vec<u64> = node.tasks.iter().filter_map(|report| report.pull).map(|pull| pull.done).collect();
    assert!(pulled.len() > 3 && pulled.is_sorted(), "{pulled:?}");
    assert!(begin.elapsed() >= Duration::from_secs(9));
    assert_eq!(node.until_app(AppState::Running).await.instances[0].starts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_is_given_the_time_of_its_own_revision_to_end() {
    let mut node = Node::new().await;
    let key = InstanceKey { app: node::app("till"), index: 0 };
    let with_grace =
        |seconds| AppSpec { termination_grace_period: Some(Duration::from_secs(seconds)), ..spec("fake/app:1") };
    node.supervisor.set(assignment(with_grace(77)));
    node.until_task(TaskState::Succeeded).await;
    node.tasks.clear();
    let next = Assignment { spec: with_grace(3).into(), ..node::update("fake/app:2") };
    node.supervisor.set(next);
    node.until_task(TaskState::Succeeded).await;
    assert_eq!(node.machine.grace(&key), Some(Duration::from_secs(77)));
    node.supervisor.remove(&key.app).await;
    node.until_app(AppState::Removed).await;
    assert_eq!(node.machine.grace(&key), Some(Duration::from_secs(3)));
}

#[tokio::test(start_paused = true)]
async fn every_instance_runs_and_has_a_loop_of_its_own() {
    let mut node = Node::new().await;
    let mut spec = spec("fake/app:1");
    spec.instances = 5;
    node.supervisor.set(assignment(spec));
    node.until_task(TaskState::Succeeded).await;
    let status = node.until_app(AppState::Running).await;
    assert_eq!(status.instances.len(), 5);
    assert!((0..5).all(|index| node.starts(index) == 1));
}

#[tokio::test(start_paused = true)]
async fn an_end_with_0_is_a_success_where_the_policy_lets_it_end() {
    for policy in [RestartPolicy::Never, RestartPolicy::OnFailure] {
        let mut node = Node::new().await;
        let mut spec = spec("fake/app:1?exit=0&after=1s");
        spec.restart_policy = policy;
        node.supervisor.set(assignment(spec));
        node.until_task(TaskState::Succeeded).await;
        let status = node.until_app(AppState::Completed).await;
        assert_eq!(status.instances[0].state, InstanceState::Exited);
        node.restart().await;
        node.until_app(AppState::Completed).await;
        assert_eq!(node.starts(0), 1, "what has ended is not started again by a new agent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_app_was_healthy_is_survived_within_the_allowed_starts() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1?exit=1&after=1s&runs=2"));
    node.until_task(TaskState::Succeeded).await;
    assert_eq!(node.starts(0), 3);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_was_healthy_is_restarted_for_ever_with_growing_delays() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1?exit=1&after=20s"));
    node.until_task(TaskState::Succeeded).await;
    let begin = Instant::now();
    node.until(|node| node.starts(0) == 5).await;
    let four = begin.elapsed();
    node.until(|node| node.starts(0) == 9).await;
    assert!(begin.elapsed() - four > four * 3, "the delays do not grow");
    node.restart().await;
    let status = node.until_app(AppState::Running).await;
    assert!(status.instances[0].starts >= 9, "the count of starts survives the agent: {status:?}");
}

#[tokio::test(start_paused = true)]
async fn an_app_at_the_wanted_revision_succeeds_at_once_for_a_new_attempt() {
    let mut node = Node::new().await;
    let first = deploy("fake/app:1?pull=5s");
    node.supervisor.set(first.clone());
    node.until_task(TaskState::Succeeded).await;
    let begin = Instant::now();
    let mut second = first;
    second.attempt = 2;
    node.supervisor.set(second);
    node.until(|node| node.tasks.last().is_some_and(|report| report.attempt == 2)).await;
    assert_eq!(node.tasks.last().unwrap().state, TaskState::Succeeded);
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(node.starts(0), 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_attempt_is_told_again_when_asked_again_and_nothing_is_redone() {
    let mut node = Node::new().await;
    let failing = deploy("fake/app:1?exit=1");
    node.supervisor.replace(vec![failing.clone()], &[]).await;
    let first = node.until_task(TaskState::Failed).await;
    node.restart().await;
    node.tasks.clear();
    node.supervisor.replace(vec![failing], &[]).await;
    let again = node.until_task(TaskState::Failed).await;
    assert_eq!(first, again);
    assert_eq!(node.starts(0), 3);
}

#[tokio::test(start_paused = true)]
async fn keep_runs_an_app_and_says_nothing_of_a_task() {
    let mut node = Node::new().await;
    node.supervisor.set(ordered(deploy("fake/app:1"), Order::Keep));
    node.until_app(AppState::Running).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.tasks, []);
    assert_eq!(node.starts(0), 1);
}

#[tokio::test(start_paused = true)]
async fn a_removed_app_leaves_nothing_and_is_forgotten_once_the_server_knows() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1"));
    node.until_task(TaskState::Succeeded).await;
    assert!(node.ledger_file("till").exists());
    node.supervisor.replace(Vec::new(), &[]).await;
    node.until_app(AppState::Removed).await;
    assert_eq!(node.containers().await, 0);
    assert!(!node.ledger_file("till").exists());
    node.supervisor.remove(&node::app("never-here")).await;
    node.until_app(AppState::Removed).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_revision_replaces_the_old_containers() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1"));
    node.until_task(TaskState::Succeeded).await;
    let mut next = deploy("fake/app:2");
    (next.revision, next.attempt) = (2, 2);
    node.supervisor.set(next);
    node.until(|node| node.tasks.last().is_some_and(|r| r.attempt == 2 && r.state.is_end())).await;
    assert_eq!(node.tasks.last().unwrap().state, TaskState::Succeeded);
    assert_eq!((node.containers().await, node.starts(0)), (1, 2));
}
