//! Updates: a new revision beside the old one, and the way back.

use std::net::TcpListener;
use std::time::Duration;

use longshore_model::app::AppState;
use longshore_model::assignment::{Assignment, Order};
use longshore_model::failure::FailureReason as R;
use longshore_model::report::TaskReport;
use longshore_model::spec::{AppSpec, Network, Port, PortRange, Protocol, RestartPolicy};
use longshore_model::task::TaskState as S;

use super::node::{Node, app, assignment, deploy, job, ordered, spec, update};

/// A node on which the first revision is healthy.
async fn deployed(first: Assignment) -> Node {
    let mut node = Node::new().await;
    node.supervisor.set(first);
    node.until_task(S::Succeeded).await;
    node.until_app(AppState::Running).await;
    node.tasks.clear();
    node
}

/// What the server says once it knows that the update did not succeed.
fn kept(first: Assignment) -> Assignment {
    ordered(first, Order::Keep)
}

#[tokio::test(start_paused = true)]
async fn the_old_revision_runs_until_the_new_one_is_here() {
    let mut node = deployed(deploy("fake/app:1")).await;
    node.supervisor.set(update("fake/app:2?pull=60s&create=5s"));
    node.until_task(S::Pulling).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(node.revisions().await, [1], "nothing is stopped before the image is here");
    }
    node.until_task(S::Succeeded).await;
    let status = node.until_app(AppState::Running).await;
    assert_eq!((node.revisions().await, node.said), (vec![2], (2, 1)));
    assert_eq!(status.instances[0].starts, 1, "starts are those of the revision");
    let states: Vec<S> = node.tasks.iter().map(|report| report.state).collect();
    assert!(states.is_sorted_by_key(|state| state.rank()), "{states:?}");
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_the_old_revision_is_back_and_the_failure_says_so() {
    let table = [
        ("resolve=fail&reason=IMAGE_NOT_FOUND", S::Checking, R::ImageNotFound, "kept"),
        ("arch=s390x", S::Checking, R::ArchitectureMismatch, "kept"),
        ("pull=fail&reason=DISK_FULL", S::Pulling, R::DiskFull, "kept"),
        ("create=fail&reason=COMMAND_NOT_FOUND", S::Creating, R::CommandNotFound, "went back to"),
        ("start=fail", S::Starting, R::RuntimeError, "went back to"),
        ("exit=1&after=1s", S::Settling, R::ContainerExited, "went back to"),
        ("oom=true&after=1s", S::Settling, R::OutOfMemory, "went back to"),
    ];
    for (script, step, reason, word) in table {
        let mut node = deployed(deploy("fake/app:1")).await;
        node.supervisor.set(update(&format!("fake/app:2?{script}")));
        let failure = node.until_task(S::Failed).await.failure.unwrap();
        assert_eq!((failure.step, failure.reason), (step, reason), "{script}: {failure:?}");
        assert!(failure.message.ends_with(&format!("; the node {word} revision 1.")), "{script}: {failure:?}");
        assert_eq!(node.revisions().await, [1], "{script}");
        node.until(|node| node.apps.last().is_some_and(|(_, s)| s.state == AppState::Running) && node.said == (1, 1))
            .await;
        let starts = node.starts(0);
        // The server's word changes nothing, nor does a new agent.
        node.supervisor.set(kept(deploy("fake/app:1")));
        tokio::time::sleep(Duration::from_secs(60)).await;
        node.restart().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((node.revisions().await, node.starts(0)), (vec![1], starts), "{script}");
        // And a further update finds it as it was.
        node.tasks.clear();
        node.supervisor.set(Assignment { revision: 3, attempt: 2, ..update("fake/app:3") });
        node.until_task(S::Succeeded).await;
        assert_eq!(node.revisions().await, [3], "{script}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_can_be_given_up_in_every_step() {
    for step in [S::Checking, S::Pulling, S::Creating, S::Starting, S::Settling] {
        let mut node = deployed(deploy("fake/app:1")).await;
        let next = update("fake/app:2?pull=5s&create=5s&start=5s");
        node.supervisor.set(next.clone());
        node.until(|node| node.tasks.last().is_some_and(|report| report.state.rank() >= step.rank())).await;
        node.supervisor.set(ordered(next, Order::Cancel));
        node.until(|node| node.tasks.last().is_some_and(|report| report.state.is_end())).await;
        assert_eq!(node.tasks.last().unwrap().state, S::Cancelled, "{step}");
        assert_eq!(node.revisions().await, [1], "{step}");
        node.supervisor.set(kept(deploy("fake/app:1")));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((node.revisions().await, node.said), (vec![1], (1, 1)), "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_of_the_old_revision_that_ends_is_restarted_while_the_new_one_is_fetched() {
    // Healthy at first, and then it ends every 20 seconds.
    let mut node = deployed(deploy("fake/app:1?exit=1&after=20s")).await;
    node.supervisor.set(update("fake/app:2?pull=300s"));
    node.until(|node| node.starts(0) >= 4).await;
    assert_eq!(node.tasks.last().unwrap().state, S::Pulling);
    let pulled: Vec<u64> = node.tasks.iter().filter_map(|report| report.pull).map(|pull| pull.done).collect();
    assert!(pulled.is_sorted(), "the pull begins anew: {pulled:?}");
    node.until_task(S::Succeeded).await;
    assert_eq!(node.revisions().await, [2]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passed_takes_even_a_healthy_revision_back() {
    let mut node = deployed(deploy("fake/app:1")).await;
    node.supervisor.set(update("fake/app:2"));
    node.until_task(S::Succeeded).await;
    node.supervisor.set(kept(deploy("fake/app:1")));
    node.until(|node| node.said == (1, 1) && node.apps.last().is_some_and(|(_, s)| s.state == AppState::Running)).await;
    assert_eq!(node.revisions().await, [1]);
    // In the middle of one, too.
    node.supervisor.set(Assignment { revision: 3, ..update("fake/app:2?create=5s&start=5s") });
    node.until(|node| node.tasks.last().is_some_and(|report| report.state == S::Starting)).await;
    node.supervisor.set(kept(deploy("fake/app:1")));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.revisions().await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_reboot_in_the_middle_brings_the_old_revision_up_without_a_server_or_a_registry() {
    for script in ["pull=600s", "create=600s", "exit=1&after=3s"] {
        let mut node = deployed(deploy("fake/app:1")).await;
        node.supervisor.set(update(&format!("fake/app:2?{script}")));
        let step = if script.starts_with("pull") { S::Pulling } else { S::Creating };
        node.until(|node| node.tasks.last().is_some_and(|report| report.state.rank() >= step.rank())).await;
        node.machine.reboot();
        node.restart().await;
        if !script.starts_with("create") {
            node.until(|node| node.apps.last().is_some_and(|(_, s)| s.state == AppState::Running)).await;
        }
        if script.starts_with("pull") {
            assert_eq!((node.revisions().await, node.said), (vec![1], (1, 1)), "the pull goes on beside it");
        }
        if script.starts_with("exit") {
            node.until_task(S::Failed).await;
            assert_eq!(node.revisions().await, [1]);
        }
    }
}

/// The old revision runs, and the new one comes or fails, whenever the agent is killed.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_of_an_update_loses_nothing_and_starts_nothing_twice() {
    for (script, end, revision) in
        [("create=500ms&start=500ms", S::Succeeded, 2), ("exit=1&after=500ms&stop=200ms", S::Failed, 1)]
    {
        for moment in 0..60 {
            let mut node = deployed(deploy("fake/app:1?stop=200ms")).await;
            let next = update(&format!("fake/app:2?pull=500ms&{script}"));
            node.supervisor.set(next.clone());
            let moment = Duration::from_millis(moment * 110);
            let _ = tokio::time::timeout(moment, async {
                loop {
                    node.receive().await
                }
            })
            .await;
            node.restart().await;
            node.supervisor.replace(vec![next], &[]).await;
            let is_its_end = |report: &&TaskReport| report.job == update("").job && report.state.is_end();
            node.until(|node| node.tasks.iter().any(|report| is_its_end(&report))).await;
            let report = node.tasks.iter().find(is_its_end).unwrap();
            assert_eq!(report.state, end, "crash after {moment:?}: {report:?}");
            assert_eq!(node.revisions().await, [revision], "crash after {moment:?}");
            let allowed = if end == S::Succeeded { 2..=2 } else { 3..=5 };
            assert!(allowed.contains(&node.starts(0)), "crash after {moment:?}: {} starts", node.starts(0));
            node.restart().await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(node.revisions().await, [revision], "crash after {moment:?}, and once more");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_ends_by_itself_stays_ended_when_its_update_fails() {
    let mut first = spec("fake/app:1?exit=0&after=1s");
    first.restart_policy = RestartPolicy::Never;
    let mut node = Node::new().await;
    node.supervisor.set(assignment(first.clone()));
    node.until_task(S::Succeeded).await;
    node.until_app(AppState::Completed).await;
    node.tasks.clear();
    node.supervisor.set(update("fake/app:2?pull=fail"));
    node.until_task(S::Failed).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.starts(0), 1, "it had done its work");
    assert_eq!(node.until_app(AppState::Completed).await.instances.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn instances_come_and_go_with_the_revision() {
    let instances = |image: &str, instances| AppSpec { instances, ..spec(image) };
    let mut node = deployed(assignment(instances("fake/app:1", 3))).await;
    node.supervisor.set(Assignment { spec: instances("fake/app:2", 1).into(), ..update("") });
    node.until_task(S::Succeeded).await;
    assert_eq!(node.revisions().await, [2]);
    node.until(|node| node.apps.last().is_some_and(|(_, status)| status.instances.len() == 1)).await;
    node.tasks.clear();
    let grown = instances("fake/app:3?exit=1&runs=1000", 4).into();
    node.supervisor.set(Assignment { spec: grown, revision: 3, attempt: 2, ..update("") });
    node.until_task(S::Failed).await;
    assert_eq!(node.revisions().await, [2]);
    node.until(|node| node.apps.last().is_some_and(|(_, status)| status.instances.len() == 1)).await;
}

fn port(container_port: u16, host_port: Option<u16>) -> Port {
    Port {
        container_port: container_port.into(),
        host_port: host_port.map(PortRange::from),
        protocol: Protocol::Tcp,
        host_interface: None,
    }
}

fn with_ports(image: &str, ports: &[Port]) -> AppSpec {
    AppSpec { network: Network::Ports(ports.to_vec()), ..spec(image) }
}

fn ports(node: &Node) -> Vec<(u16, u16)> {
    let status = node.apps.iter().find(|(name, _)| *name == app("till")).map(|(_, status)| status).unwrap();
    status.ports.iter().map(|port| (port.container_port, port.host_port)).collect()
}

#[tokio::test(start_paused = true)]
async fn ports_that_stay_keep_their_numbers_and_those_of_the_old_revision_are_no_conflict() {
    // A port that nobody else has, which the fake's containers do not open either: so the test does for them.
    let fixed = TcpListener::bind("0.0.0.0:0").unwrap();
    let number = fixed.local_addr().unwrap().port();
    drop(fixed);
    let first = with_ports("fake/app:1", &[port(80, None), port(81, Some(number))]);
    let mut node = deployed(assignment(first)).await;
    node.until(|node| !ports(node).is_empty()).await;
    let before = ports(&node);
    let held = TcpListener::bind(("0.0.0.0", number)).unwrap();
    // The same fixed port leads elsewhere, and the automatic one stands in another place.
    let next = with_ports("fake/app:2", &[port(8081, Some(number)), port(80, None), port(82, None)]);
    node.supervisor.set(Assignment { spec: next.into(), ..update("") });
    node.until(|node| node.tasks.last().is_some_and(|report| report.state == S::Pulling || report.state.is_end()))
        .await;
    assert!(!node.tasks.last().unwrap().state.is_end(), "{:?}", node.tasks.last());
    drop(held);
    node.until_task(S::Succeeded).await;
    node.until(|node| ports(node).len() == 3).await;
    let after = ports(&node);
    assert_eq!((after[0], after[1]), ((8081, number), before[0]));
}

#[tokio::test(start_paused = true)]
async fn the_old_ports_stay_the_apps_until_the_update_is_over() {
    let free = || TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let number = free();
    let mut node = deployed(assignment(with_ports("fake/app:1", &[port(80, Some(number))]))).await;
    node.supervisor.set(Assignment { spec: with_ports("fake/app:2?create=60s", &[]).into(), ..update("") });
    node.until(|node| node.tasks.last().is_some_and(|report| report.state == S::Creating)).await;
    let wants_it = Assignment { app: app("other"), ..assignment(with_ports("fake/app:1", &[port(80, Some(number))])) };
    node.supervisor.set(wants_it.clone());
    node.until(|node| node.tasks.last().is_some_and(|report| report.state == S::Failed)).await;
    assert_eq!(node.tasks.last().unwrap().failure.as_ref().unwrap().reason, R::PortInUse);
    node.until(|node| node.tasks.iter().any(|report| report.state == S::Succeeded)).await;
    node.tasks.clear();
    node.supervisor.set(Assignment { attempt: 2, ..wants_it });
    node.until_task(S::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn the_old_ports_are_free_after_the_update_also_for_an_agent_that_no_server_has_heard() {
    let number = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let mut node = deployed(assignment(with_ports("fake/app:1", &[port(80, Some(number))]))).await;
    node.supervisor.set(Assignment { spec: with_ports("fake/app:2", &[]).into(), ..update("") });
    node.until(|node| node.tasks.last().is_some_and(|report| report.state == S::Settling)).await;
    // The success is on disk, and its report with nobody.
    node.until_written("SUCCEEDED").await;
    node.restart().await;
    node.tasks.clear();
    let wants_it = Assignment { app: app("other"), ..assignment(with_ports("fake/app:1", &[port(80, Some(number))])) };
    node.supervisor.set(wants_it);
    node.until(|node| node.tasks.iter().any(|report| report.job == job() && report.state.is_end())).await;
    let end = node.tasks.iter().find(|report| report.job == job() && report.state.is_end()).unwrap();
    assert_eq!(end.state, S::Succeeded, "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn an_app_can_be_removed_in_the_middle_of_its_update() {
    for step in [S::Pulling, S::Creating, S::Settling] {
        let mut node = deployed(deploy("fake/app:1")).await;
        node.supervisor.set(update("fake/app:2?pull=5s&create=5s&start=5s"));
        node.until(|node| node.tasks.last().is_some_and(|report| report.state.rank() >= step.rank())).await;
        node.supervisor.remove(&app("till")).await;
        node.until_app(AppState::Removed).await;
        assert_eq!(node.containers().await, 0);
        assert!(!node.ledger_file("till").exists());
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_has_lost_its_memory_says_that_it_cannot_go_back() {
    let mut node = Node::new().await;
    node.supervisor.set(update("fake/app:2?exit=1"));
    let failure = node.until_task(S::Failed).await.failure.unwrap();
    assert!(!failure.message.contains("revision"), "{failure:?}");
    assert_eq!(node.containers().await, 0);
    // The server knows what was there before.
    node.supervisor.set(kept(deploy("fake/app:1")));
    node.until_app(AppState::Running).await;
    assert_eq!(node.revisions().await, [1]);
}
