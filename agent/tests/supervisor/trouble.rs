//! What goes wrong, and what is given up.

use std::net::TcpListener;
use std::time::Duration;

use longshore_model::app::AppState;
use longshore_model::assignment::Order;
use longshore_model::capability;
use longshore_model::failure::FailureReason as R;
use longshore_model::spec::{HostPath, Network, Port, PortRange, Protocol, RestartPolicy, Volume, VolumeSource};
use longshore_model::task::TaskState as S;
use tokio::time::Instant;

use super::node::{Node, app, assignment, deploy, ordered, spec};

#[tokio::test(start_paused = true)]
async fn each_failure_has_its_step_and_reason_and_leaves_nothing() {
    let table = [
        ("resolve=fail&reason=IMAGE_NOT_FOUND", S::Checking, R::ImageNotFound),
        ("arch=s390x", S::Checking, R::ArchitectureMismatch),
        ("pull=fail&reason=DISK_FULL", S::Pulling, R::DiskFull),
        ("create=fail&reason=COMMAND_NOT_FOUND", S::Creating, R::CommandNotFound),
        ("start=fail", S::Starting, R::RuntimeError),
        ("exit=1&after=1s", S::Settling, R::ContainerExited),
        ("oom=true&after=1s", S::Settling, R::OutOfMemory),
    ];
    for (script, step, reason) in table {
        let mut node = Node::new().await;
        node.supervisor.set(deploy(&format!("fake/app:1?{script}")));
        let failure = node.until_task(S::Failed).await.failure.unwrap();
        assert_eq!((failure.step, failure.reason), (step, reason), "{script}: {failure:?}");
        assert!(failure.message.ends_with('.'), "{failure:?}");
        assert_eq!(node.containers().await, 0, "{script}");
        node.until_app(AppState::Failed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_runtime_cannot_do_is_refused_before_anything_is_made() {
    let mut node = Node::able_to(&[capability::NETWORK_PORTS, capability::VOLUMES_HOST_PATH]).await;
    let path = node.directory.path().join("made");
    let source = VolumeSource::HostPath(HostPath { path: path.to_str().unwrap().to_owned(), create: true });
    let mut spec = spec("fake/app:1");
    spec.volumes = vec![Volume { mount_path: "/made".to_owned(), read_only: false, source }];
    node.supervisor.set(assignment(spec));
    let failure = node.until_task(S::Failed).await.failure.unwrap();
    assert_eq!((failure.step, failure.reason), (S::Checking, R::Unsupported));
    assert_eq!(failure.message, "This node does not offer image.registry.");
    assert!(!path.exists());
    assert_eq!(node.containers().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_spec_is_filled_in_before_anything_is_checked_made_or_pulled() {
    let mut node = Node::new().await;
    let root = node.directory.path().join("paths").to_str().unwrap().to_owned();
    let filled_in = |path: String, create| {
        let source = VolumeSource::HostPath(HostPath { path, create });
        let mut spec = spec("fake/app:1");
        spec.volumes = vec![Volume { mount_path: "/made".to_owned(), read_only: false, source }];
        assignment(spec)
    };
    let table = [
        (filled_in(format!("{root}/${{node.labels.site}}"), true), R::NodeValueMissing, "no label \"site\""),
        (filled_in(format!("{root}/${{node.labels.empty}}"), true), R::NodeValueMissing, "\"empty\" is empty"),
        (filled_in(format!("{root}/${{node.host_ip}}"), true), R::NodeValueMissing, "IPv4 address"),
        (filled_in("/${node.labels.system}/shadow".to_owned(), false), R::HostPathUnavailable, "leads to /etc/shadow"),
        (filled_in(format!("{root}/.${{node.labels.empty}}."), true), R::NodeValueMissing, "is empty"),
    ];
    for (attempt, (mut wanted, reason, message)) in (1..).zip(table) {
        wanted.attempt = attempt;
        wanted.node_labels = [("empty", ""), ("system", "etc")].map(|(key, value)| (key.into(), value.into())).into();
        node.tasks.clear();
        node.supervisor.set(wanted);
        let failure = node.until_task(S::Failed).await.failure.unwrap();
        assert_eq!((failure.step, failure.reason), (S::Checking, reason), "{failure:?}");
        assert!(failure.message.contains(message), "{failure:?}");
        assert!(!std::path::Path::new(&root).exists(), "{failure:?}");
    }
    let mut wanted = filled_in(format!("{root}/${{node.name}}/${{node.labels.site}}"), true);
    (wanted.attempt, wanted.node_labels) = (9, [("site".to_owned(), "hh".to_owned())].into());
    node.tasks.clear();
    node.supervisor.set(wanted);
    node.until_task(S::Succeeded).await;
    assert!(std::path::Path::new(&format!("{root}/edge-1/hh")).is_dir());
}

#[tokio::test(start_paused = true)]
async fn labels_of_an_attempt_stay_with_it() {
    let mut node = Node::new().await;
    let root = node.directory.path().join("paths").to_str().unwrap().to_owned();
    let source = VolumeSource::HostPath(HostPath { path: format!("{root}/${{node.labels.site}}"), create: true });
    let mut spec = spec("fake/app:1?exit=1&after=600s");
    spec.volumes = vec![Volume { mount_path: "/made".to_owned(), read_only: false, source }];
    let labelled = |site: &str| {
        let node_labels = [("site".to_owned(), site.to_owned())].into();
        longshore_model::assignment::Assignment { node_labels, ..assignment(spec.clone()) }
    };
    node.supervisor.set(labelled("one"));
    node.until_task(S::Succeeded).await;
    // The node got another label, and its agent a new session; then the agent ends, and no server is in reach.
    node.supervisor.replace(vec![ordered(labelled("two"), Order::Keep)], &[]).await;
    node.kill().await;
    node.begin().await;
    node.until_app(AppState::BackOff).await;
    node.until_app(AppState::Running).await;
    let site = |node: &Node| {
        let file: serde_json::Value =
            serde_json::from_slice(&std::fs::read(node.ledger_file("till")).unwrap()).unwrap();
        file["entry"]["assignment"]["node_labels"]["site"].as_str().map(str::to_owned)
    };
    assert_eq!(site(&node).as_deref(), Some("one"));
    // Another attempt takes what is so now.
    let again = longshore_model::assignment::Assignment { attempt: 2, ..labelled("two") };
    node.supervisor.set(again);
    node.until(|node| node.tasks.last().is_some_and(|report| report.attempt == 2 && report.state == S::Succeeded))
        .await;
    assert_eq!(site(&node).as_deref(), Some("two"));
    let made = ["one", "two"].map(|site| std::path::Path::new(&format!("{root}/{site}")).exists());
    assert_eq!(made, [true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_fails_after_the_allowed_starts_and_never_policy_at_once() {
    for (policy, starts) in [(RestartPolicy::Always, 3), (RestartPolicy::OnFailure, 3), (RestartPolicy::Never, 1)] {
        let mut node = Node::new().await;
        let mut spec = spec("fake/app:1?exit=7&after=100ms");
        spec.restart_policy = policy;
        node.supervisor.set(assignment(spec));
        let failure = node.until_task(S::Failed).await.failure.unwrap();
        assert_eq!(failure.reason, R::ContainerExited);
        assert!(failure.message.contains("exit code 7"), "{failure:?}");
        assert_eq!(node.starts(0), starts, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_can_be_retried() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1?exit=1&runs=3"));
    node.until_task(S::Failed).await;
    let mut retry = deploy("fake/app:1?exit=1&runs=3");
    retry.attempt = 2;
    node.supervisor.set(retry);
    node.until(|node| node.tasks.last().is_some_and(|r| r.attempt == 2 && r.state.is_end())).await;
    assert_eq!(node.tasks.last().unwrap().state, S::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn cancel_and_removal_act_at_once_in_every_step() {
    for (script, step) in [
        ("pull=600s", S::Pulling),
        ("create=600s", S::Creating),
        ("start=600s", S::Starting),
        ("exit=1&after=4s", S::Settling),
    ] {
        let deployment = deploy(&format!("fake/app:1?{script}"));
        let mut node = Node::new().await;
        node.supervisor.set(deployment.clone());
        node.until_task(step).await;
        let begin = Instant::now();
        node.supervisor.set(ordered(deployment.clone(), Order::Cancel));
        node.until_task(S::Cancelled).await;
        assert!(begin.elapsed() < Duration::from_secs(1), "{script}");
        assert_eq!(node.containers().await, 0, "{script}");

        let mut node = Node::new().await;
        node.supervisor.set(deployment);
        node.until_task(step).await;
        let begin = Instant::now();
        node.supervisor.remove(&app("till")).await;
        node.until_app(AppState::Removed).await;
        assert!(begin.elapsed() < Duration::from_secs(1), "{script}");
        assert_eq!(node.containers().await, 0, "{script}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_after_the_end_tells_the_end_and_leaves_the_app() {
    let mut node = Node::new().await;
    let deployment = deploy("fake/app:1");
    node.supervisor.set(deployment.clone());
    node.until_task(S::Succeeded).await;
    node.tasks.clear();
    node.supervisor.set(ordered(deployment, Order::Cancel));
    node.until_task(S::Succeeded).await;
    assert_eq!(node.containers().await, 1);
}

fn with_port(port: Port) -> longshore_model::spec::AppSpec {
    let mut spec = spec("fake/app:1");
    spec.network = Network::Ports(vec![port]);
    spec
}

fn port(host_port: Option<u16>) -> Port {
    Port {
        container_port: 80.into(),
        host_port: host_port.map(PortRange::from),
        protocol: Protocol::Tcp,
        host_interface: Some("lo".to_owned()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_taken_port_names_who_has_it() {
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = foreign.local_addr().unwrap().port();
    let mut node = Node::new().await;
    node.supervisor.set(assignment(with_port(port(Some(number)))));
    let failure = node.until_task(S::Failed).await.failure.unwrap();
    assert_eq!((failure.reason, failure.step), (R::PortInUse, S::Checking));
    assert!(failure.message.contains("outside Longshore"), "{failure:?}");

    drop(foreign);
    let mut node = Node::new().await;
    node.supervisor.set(assignment(with_port(port(Some(number)))));
    node.until_task(S::Succeeded).await;
    let mut second = assignment(with_port(port(Some(number))));
    second.app = app("other");
    second.attempt = 2;
    node.supervisor.set(second);
    node.until(|node| node.tasks.last().is_some_and(|r| r.attempt == 2 && r.state.is_end())).await;
    let failure = node.tasks.last().unwrap().failure.clone().unwrap();
    assert_eq!(failure.reason, R::PortInUse);
    assert!(failure.message.contains("the app till"), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn an_automatic_port_stays_for_the_apps_life() {
    let mut node = Node::new().await;
    let mut spec = with_port(port(None));
    spec.instances = 3;
    node.supervisor.set(assignment(spec));
    node.until_task(S::Succeeded).await;
    let ports = node.until_app(AppState::Running).await.ports;
    let mut numbers: Vec<u16> = ports.iter().map(|port| port.host_port).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 3);
    node.machine.reboot();
    node.restart().await;
    assert_eq!(node.until_app(AppState::Running).await.ports, ports);
}

#[tokio::test(start_paused = true)]
async fn unknown_interfaces_and_missing_paths_are_found_before_anything_is_made() {
    let mut unknown = port(None);
    unknown.host_interface = Some("nosuch0".to_owned());
    let mut node = Node::new().await;
    node.supervisor.set(assignment(with_port(unknown)));
    assert_eq!(node.until_task(S::Failed).await.failure.unwrap().reason, R::InterfaceNotFound);

    let missing = HostPath { path: "/srv/longshore-test-missing".to_owned(), create: false };
    let system = HostPath { path: "/etc/ssl".to_owned(), create: true };
    for path in [missing, system] {
        let mut node = Node::new().await;
        let mut spec = spec("fake/app:1");
        let source = VolumeSource::HostPath(path);
        spec.volumes = vec![Volume { mount_path: "/data".to_owned(), read_only: false, source }];
        node.supervisor.set(assignment(spec));
        let failure = node.until_task(S::Failed).await.failure.unwrap();
        assert_eq!((failure.reason, failure.step), (R::HostPathUnavailable, S::Checking), "{failure:?}");
    }
}
