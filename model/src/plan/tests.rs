#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::accelerator::Stock;
use crate::app::AppStatus;
use crate::host_path::NodeRules;
use crate::name::JobId;
use crate::node::{Labels, NetworkInterface};
use crate::spec::Protocol;

const MI: u64 = 1 << 20;

fn spec(parts: Value) -> AppSpec {
    let mut whole = json!({ "name": "till", "image": { "reference": "till:1" } });
    whole.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

fn node() -> Node {
    let interface = |name: &str, ipv4: &[[u8; 4]]| NetworkInterface {
        name: name.to_owned(),
        ipv4: ipv4.iter().map(|ip| (*ip).into()).collect(),
        ipv6: Vec::new(),
    };
    let info = NodeInfo {
        agent_version: "0.1.0".to_owned(),
        architecture: "amd64".to_owned(),
        kernel_release: "6.1".to_owned(),
        cpus: 2,
        memory_bytes: 1024 * MI,
        interfaces: vec![interface("eth0", &[[10, 0, 0, 7]]), interface("wwan0", &[])],
        capabilities: capability::ALL
            .iter()
            .filter(|word| **word != capability::SECURITY_PRIVILEGED)
            .map(|word| (*word).to_owned())
            .collect(),
        runtime: "fake".to_owned(),
        host_ip: Some([10, 0, 0, 7].into()),
        allocatable: Some(Amounts { cpu: 1500, memory: 500 * MI }),
        accelerators: vec![Stock { kind: "nvidia.com/gpu".to_owned(), model: String::new(), count: 2, free: 1 }],
        host_paths: Some(NodeRules { guarded: vec!["/opt/longshore".to_owned()], allowed: Vec::new() }),
    };
    Node {
        name: NodeName::parse("shop-1").unwrap(),
        labels: Labels::from([("site".to_owned(), "hh".to_owned())]),
        enroll_time: Timestamp::UNIX_EPOCH,
        last_seen: Some(Timestamp::UNIX_EPOCH),
        info: Some(info),
        certificate_end: None,
    }
}

fn resident(name: &str, holds: Amounts, port: u16) -> Resident {
    let bound = BoundPort {
        instance: 0,
        container_port: 80,
        host_port: port,
        protocol: Protocol::Tcp,
        host_ip: [0, 0, 0, 0].into(),
        shared: false,
        host_interface: None,
    };
    let app = App {
        node: NodeName::parse("shop-1").unwrap(),
        name: AppName::parse(name).unwrap(),
        job: JobId::parse("01arz3ndektsv4rrffq69g5fav").unwrap(),
        spec_revision: 1,
        attempt: 1,
        revision: 3,
        desired: Desired::Present,
        remover: None,
        previous: None,
        last_revision: 3,
        status: AppStatus { ports: vec![bound], ..AppStatus::default() },
        update_time: Timestamp::UNIX_EPOCH,
    };
    Resident { app, holds, is_same: false }
}

fn plan(kind: JobKind, app: &str, spec: &AppSpec, node: &Node, is_connected: bool) -> (Action, Vec<String>) {
    let residents = [resident("web-x1", Amounts { cpu: 1000, memory: 100 * MI }, 8080)];
    let app = AppName::parse(app).unwrap();
    let judged = judge(Wanted { kind, app: &app, spec }, Known { node, is_connected, residents: &residents });
    (judged.action, told(&judged.obstacles(&[])))
}

fn told(obstacles: &[Obstacle]) -> Vec<String> {
    obstacles.iter().map(|found| format!("{:?}: {}", found.reason, found.message)).collect()
}

#[test]
fn each_obstacle_is_named_by_what_the_task_would_fail_for() {
    let port = |more: Value| {
        let mut port = json!({ "containerPort": 80 });
        port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "network": { "ports": [port] } })
    };
    let table = [
        (json!({}), None),
        (json!({ "args": ["${node.labels.site}", "${node.host_ip}"] }), None),
        (json!({ "resources": { "requests": { "cpu": "500m", "memory": "400Mi" } } }), None),
        (json!({ "privileged": true }), Some("Unsupported: This node does not offer security.privileged")),
        (json!({ "args": ["${node.labels.floor}"] }), Some("NodeValueMissing: The node has no label \"floor\"")),
        (
            json!({ "env": [{ "name": "A", "nodeLabel": "floor" }] }),
            Some("NodeValueMissing: The node has no label \"floor\""),
        ),
        (
            json!({ "volumes": [{ "mountPath": "/v", "hostPath": { "path": "/opt/longshore/x" } }] }),
            Some(
                "HostPathUnavailable: The host path /opt/longshore/x leads to /opt/longshore/x, which /opt/longshore rules out",
            ),
        ),
        (port(json!({ "hostPort": 8080 })), Some("PortInUse: Port 8080/tcp on 0.0.0.0 is taken by the app web-x1")),
        (port(json!({ "hostInterface": "eth9" })), Some("InterfaceNotFound: The node has no network interface")),
        (port(json!({ "hostInterface": "wwan0" })), Some("InterfaceWithoutIpv4: The network interface \"wwan0\"")),
        (json!({ "accelerators": [{ "kind": "nvidia.com/gpu" }] }), None),
        (
            json!({ "accelerators": [{ "kind": "nvidia.com/gpu", "count": 2 }] }),
            Some(
                "InsufficientAccelerators: The app asks for 2 of nvidia.com/gpu, and of the 2 that this node has 1 is free.",
            ),
        ),
        (
            json!({ "accelerators": [{ "kind": "huawei.com/npu" }] }),
            Some(
                "AcceleratorNotFound: This node has no accelerator of the kind huawei.com/npu; it has nvidia.com/gpu.",
            ),
        ),
        (
            json!({ "resources": { "requests": { "cpu": 1 } } }),
            Some(
                "InsufficientResources: The app asks for CPU 1, and of the CPU 1500m that this node has for apps CPU 500m",
            ),
        ),
    ];
    for (parts, expected) in table {
        let (action, found) = plan(JobKind::Deploy, "till-x2", &spec(parts.clone()), &node(), true);
        assert_eq!(action, Action::Deploy);
        assert_eq!(found.len(), usize::from(expected.is_some()), "{parts}: {found:?}");
        assert!(expected.is_none_or(|start| found[0].starts_with(start)), "{parts}: {found:?}");
    }
}

#[test]
fn all_obstacles_are_named_at_once() {
    let spec = spec(json!({
        "privileged": true,
        "args": ["${node.labels.floor}"],
        "network": { "ports": [{ "containerPort": 80, "hostPort": 8080 }, { "containerPort": 81, "hostInterface": "x" }] },
    }));
    let (_, found) = plan(JobKind::Deploy, "till-x2", &spec, &node(), false);
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(found[0].starts_with("DeadlineExceeded: The node is not connected"), "{found:?}");
}

#[test]
fn what_an_app_holds_itself_does_not_stand_in_its_way() {
    let spec = spec(json!({
        "network": { "ports": [{ "containerPort": 80, "hostPort": 8080 }] },
        "resources": { "requests": { "cpu": "1500m" } },
    }));
    let mut able = node();
    able.info.as_mut().unwrap().capabilities.push(capability::JOBS_UPDATE.to_owned());
    let (action, found) = plan(JobKind::Update, "web-x1", &spec, &able, true);
    assert_eq!((action, found), (Action::Update { from: 3, is_same: false }, Vec::new()));
    let (_, found) = plan(JobKind::Update, "web-x1", &spec, &node(), true);
    assert_eq!(found, ["Unsupported: The agent of this node is too old for UPDATE jobs; upgrade it."]);
    let (action, found) = plan(JobKind::Update, "other-x1", &self::spec(json!({})), &able, true);
    assert_eq!(
        (action, found),
        (Action::Nothing, vec!["AppNotFound: The app other-x1 is not on this node.".to_owned()])
    );
}

#[test]
fn a_removal_needs_nothing_but_the_node() {
    let spec = spec(json!({ "privileged": true }));
    assert_eq!(plan(JobKind::Remove, "web-x1", &spec, &node(), true), (Action::Remove, Vec::new()));
    assert_eq!(plan(JobKind::Remove, "gone-x1", &spec, &node(), true), (Action::Nothing, Vec::new()));
}

#[test]
fn of_a_node_that_was_never_seen_only_that_is_said() {
    let never = Node { info: None, last_seen: None, ..node() };
    let (action, found) = plan(JobKind::Deploy, "till-x2", &spec(json!({ "privileged": true })), &never, false);
    assert_eq!((action, found.len()), (Action::Deploy, 1));
    assert!(found[0].contains("never been connected"), "{found:?}");
}

#[test]
fn a_summary_counts_nodes_and_causes() {
    let mut summary = Summary::default();
    let port = |number: u16| Obstacle::new(FailureReason::PortInUse, &format!("port {number} is taken"));
    for (name, obstacles) in [("a", vec![port(1)]), ("b", vec![port(2)]), ("c", Vec::new())] {
        summary.add(&NodeName::parse(name).unwrap(), &obstacles);
    }
    assert_eq!((summary.clear, summary.obstructed), (1, 2));
    let groups = summary.into_groups().groups;
    assert_eq!((groups.len(), groups[0].count, groups[0].example.as_str()), (1, 2, "a"));
    assert_eq!(groups[0].shape, "Port … is taken.");
}

#[test]
fn what_an_agent_finds_takes_the_place_of_what_it_reported_and_of_nothing_else() {
    let one = |reason, word: &str| Obstacle::new(reason, word);
    let judgement = Judgement {
        action: Action::Nothing,
        own: vec![one(FailureReason::AppNotFound, "own")],
        reported: vec![one(FailureReason::PortInUse, "reported")],
    };
    let common = [one(FailureReason::ImageAccessDenied, "common")];
    let found = vec![
        one(FailureReason::ImageNotFound, "found"),
        // In the node's words, what is said already.
        one(FailureReason::ImageAccessDenied, "denied"),
    ];
    let own_and_common = |between: &[&str]| -> Vec<String> {
        [&["AppNotFound: Own."], between, &["ImageAccessDenied: Common."]]
            .concat()
            .iter()
            .map(|&s| s.to_owned())
            .collect()
    };
    let silent =
        "DeadlineExceeded: The node is connected, and its agent did not answer in time: its task may wait in vain.";
    let table = [
        (Check::Done(Look { obstacles: found, fetch_bytes: None }), vec!["ImageNotFound: Found."]),
        (Check::TooOld, vec!["PortInUse: Reported."]),
        (Check::Needless, vec!["PortInUse: Reported."]),
        (Check::NoAnswer, vec![silent, "PortInUse: Reported."]),
    ];
    for (check, between) in table {
        assert_eq!(told(&judgement.clone().checked(&check, &common)), own_and_common(&between), "{check:?}");
    }
    // It has gone since it was judged, or before.
    for own in [Vec::new(), vec![one(FailureReason::DeadlineExceeded, NOT_CONNECTED)]] {
        let judgement = Judgement { own, ..judgement.clone() };
        let told = told(&judgement.checked(&Check::NotConnected, &[]));
        assert_eq!(told, [format!("DeadlineExceeded: {NOT_CONNECTED}"), "PortInUse: Reported.".to_owned()]);
    }
}

#[test]
fn a_summary_adds_up_what_would_be_fetched_and_tells_who_did_not_look() {
    let mut summary = Summary::default();
    let done = |fetch_bytes| Check::Done(Look { obstacles: Vec::new(), fetch_bytes });
    let checks = [done(Some(5)), done(None), done(Some(u64::MAX)), Check::Needless, Check::TooOld, Check::NoAnswer];
    checks.iter().for_each(|check| summary.count(check));
    assert_eq!((summary.checked, summary.unchecked, summary.fetch_bytes), (3, 2, u64::MAX));
}
