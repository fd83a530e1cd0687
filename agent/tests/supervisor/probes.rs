//! What probes do to apps: restarts, readiness, and how both survive an agent.

use std::time::Duration;

use longshore_model::app::{AppState, InstanceState};
use longshore_model::assignment::Order;
use longshore_model::failure::FailureReason;
use longshore_model::probe::{Action, Probe, TcpSocket};
use longshore_model::spec::{AppSpec, RestartPolicy};
use longshore_model::task::TaskState;
use tokio::time::Instant;

use super::node::{Node, assignment, ordered, spec, update};

/// What the fake runtime's words are about.
const LIVENESS: u16 = 80;
const READINESS: u16 = 81;

fn probe(port: u16) -> Probe {
    let action = Action::TcpSocket(TcpSocket { host: None, port });
    Probe { period: Duration::from_secs(2), ..Probe::new(action) }
}

fn probed(image: &str) -> AppSpec {
    AppSpec { liveness_probe: Some(probe(LIVENESS)), readiness_probe: Some(probe(READINESS)), ..spec(image) }
}

#[tokio::test(start_paused = true)]
async fn an_app_succeeds_when_it_is_ready_and_not_before() {
    let mut node = Node::new().await;
    let begin = Instant::now();
    node.supervisor.set(assignment(probed("fake/app:1?opens=81:60s")));
    let status = node.until_app(AppState::NotReady).await;
    let readiness = status.instances[0].readiness.clone().unwrap();
    assert!(!readiness.ready && begin.elapsed() < Duration::from_secs(60), "{readiness:?}");
    node.until_task(TaskState::Succeeded).await;
    assert!(begin.elapsed() >= Duration::from_secs(60), "{:?}", begin.elapsed());
    let readiness = node.until_app(AppState::Running).await.instances[0].readiness.clone().unwrap();
    assert!(readiness.ready, "{readiness:?}");
    assert_eq!((readiness.message.as_str(), node.starts(0)), ("HTTP 200", 1));
}

#[tokio::test(start_paused = true)]
async fn an_app_that_does_not_become_ready_waits_and_says_so() {
    let mut node = Node::new().await;
    node.supervisor.set(assignment(probed("fake/app:1?opens=81:100000s")));
    node.until(|node| {
        node.apps.last().is_some_and(|(_, status)| {
            status.unreadiness().as_deref() == Some("instance 0 is not ready: connection refused")
        })
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(node.tasks.iter().all(|report| !report.state.is_end()), "{:?}", node.tasks.last());
    assert_eq!(node.starts(0), 1, "readiness restarts nothing");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_ready_any_more_is_told_and_left_alone() {
    let mut node = Node::new().await;
    node.supervisor.set(assignment(probed("fake/app:1?hangs=81:30s")));
    node.until_task(TaskState::Succeeded).await;
    let status = node.until_app(AppState::NotReady).await;
    assert_eq!(status.unreadiness().as_deref(), Some("instance 0 is not ready: no answer within 1s"));
    assert_eq!((status.instances[0].state, node.starts(0)), (InstanceState::Running, 1));
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_live_is_started_again_with_growing_delays() {
    let mut node = Node::new().await;
    node.supervisor.set(assignment(probed("fake/app:1?hangs=80:30s")));
    node.until_task(TaskState::Succeeded).await;
    let status = node.until_app(AppState::BackOff).await;
    let instance = &status.instances[0];
    assert_eq!(instance.last_exit_reason.as_deref(), Some("liveness probe failed: no answer within 1s"));
    assert_eq!((instance.last_exit.unwrap().code, instance.readiness.as_ref()), (143, None));
    let begin = Instant::now();
    node.until(|node| node.starts(0) == 4).await;
    let three = begin.elapsed();
    node.until(|node| node.starts(0) == 7).await;
    assert!(begin.elapsed() - three > three, "the delays do not grow");
    let said = &node.apps.last().unwrap().1.instances[0].last_exit_reason;
    assert!(said.is_some(), "the reason of the last end is gone with the next start");
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_does_not_live_fails_by_its_starts_and_says_why() {
    for (policy, starts) in [(RestartPolicy::Always, 3), (RestartPolicy::OnFailure, 3), (RestartPolicy::Never, 1)] {
        let mut node = Node::new().await;
        let mut spec = AppSpec { restart_policy: policy, ..probed("fake/app:1?hangs=80:0s") };
        spec.startup.settle = Duration::from_secs(60);
        node.supervisor.set(assignment(spec));
        let failure = node.until_task(TaskState::Failed).await.failure.unwrap();
        assert_eq!(failure.reason, FailureReason::LivenessProbeFailed, "{failure:?}");
        assert!(failure.message.ends_with("liveness probe failed: no answer within 1s."), "{failure:?}");
        assert_eq!(node.starts(0), starts, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn questions_are_not_asked_before_the_delay() {
    let mut node = Node::new().await;
    let mut spec = probed("fake/app:1?hangs=80:0s");
    spec.liveness_probe = Some(Probe { initial_delay: Duration::from_secs(1000), ..probe(LIVENESS) });
    node.supervisor.set(assignment(spec));
    node.until_task(TaskState::Succeeded).await;
    let begin = Instant::now();
    node.until_app(AppState::BackOff).await;
    assert!(begin.elapsed() > Duration::from_secs(900));
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_keeps_what_is_ready_and_goes_on_asking() {
    let mut node = Node::new().await;
    node.supervisor.set(assignment(probed("fake/app:1?opens=81:3s&hangs=80:1000s")));
    node.until_task(TaskState::Succeeded).await;
    let before = node.until_app(AppState::Running).await;
    node.restart().await;
    node.until(|node| !node.apps.is_empty()).await;
    let after = node.apps[0].1.clone();
    assert_eq!((after.state, &after.instances[0].readiness), (AppState::Running, &before.instances[0].readiness));
    node.until_app(AppState::BackOff).await;
    node.until_app(AppState::Running).await;
    assert_eq!(node.starts(0), 2, "the new agent asks whether it lives");
}

#[tokio::test(start_paused = true)]
async fn every_instance_is_asked_for_itself_and_many_take_turns() {
    let mut node = Node::new().await;
    // Silent ones hold their places for a second each: there are more of them than places.
    let mut spec = AppSpec { instances: 40, ..probed("fake/app:1?hangs=81:0s&hangs_runs=0&opens=81:7s") };
    spec.liveness_probe = Some(Probe { failure_threshold: 100, ..probe(LIVENESS) });
    node.supervisor.set(assignment(spec));
    node.until_task(TaskState::Succeeded).await;
    let status = node.until_app(AppState::Running).await;
    assert!(status.instances.iter().all(|one| one.readiness.as_ref().is_some_and(|readiness| readiness.ready)));
}

#[tokio::test(start_paused = true)]
async fn an_update_that_does_not_become_ready_leaves_the_old_revision_probed_and_comes_back_to_it() {
    let mut node = Node::new().await;
    node.supervisor.set(assignment(probed("fake/app:1?hangs=80:2000s&hangs_runs=1")));
    node.until_task(TaskState::Succeeded).await;
    let mut second = update("fake/app:2");
    second.spec = std::sync::Arc::new(probed("fake/app:2?pull=3000s&opens=81:100000s"));
    node.supervisor.set(second.clone());
    node.until_app(AppState::BackOff).await;
    let status = node.until_app(AppState::Running).await;
    assert!(status.instances[0].last_exit_reason.is_some(), "probed while the update is being fetched");
    node.until(|node| node.tasks.last().is_some_and(|report| report.state == TaskState::Settling)).await;
    node.until_app(AppState::NotReady).await;
    // At the deadline the server wants the revision before again.
    let back = ordered(assignment(probed("fake/app:1?hangs=80:2000s&hangs_runs=1")), Order::Keep);
    node.supervisor.set(back);
    node.until_app(AppState::Running).await;
    assert_eq!(node.revisions().await, [1]);
}

#[tokio::test(start_paused = true)]
async fn clients_are_let_in_with_readiness_and_told_again_where_that_was_not_heard() {
    let mut node = Node::new().await;
    let key = node.key(0);
    node.supervisor.set(assignment(probed("fake/app:1?opens=81:20s&hangs=81:100s&admit=fail")));
    node.until_app(AppState::NotReady).await;
    node.until_task(TaskState::Succeeded).await;
    assert_eq!(node.machine.admissions(&key), [true, true], "told again, and before the task has its end");
    node.until_app(AppState::NotReady).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(node.machine.admissions(&key), [true, true, false], "each time once");
    node.restart().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(node.machine.admissions(&key), [true, true, false, false], "a new agent does not know");
}

#[tokio::test(start_paused = true)]
async fn clients_wait_for_the_readiness_of_each_run_and_nothing_is_told_without_a_probe() {
    let mut node = Node::new().await;
    let key = node.key(0);
    node.supervisor.set(assignment(probed("fake/app:1?opens=81:5s&hangs=80:30s&hangs_runs=1")));
    node.until_task(TaskState::Succeeded).await;
    node.until_app(AppState::BackOff).await;
    node.until_app(AppState::Running).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(node.machine.admissions(&key), [true, true]);
    let mut node = Node::new().await;
    node.supervisor.set(assignment(AppSpec { readiness_probe: None, ..probed("fake/app:1") }));
    node.until_task(TaskState::Succeeded).await;
    assert!(node.machine.admissions(&node.key(0)).is_empty());
}
