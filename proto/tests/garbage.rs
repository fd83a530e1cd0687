//! What no peer should send: it is refused with its place, and nothing panics.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::app::AppStatus;
use longshore_model::assignment::Assignment;
use longshore_model::job::JobState;
use longshore_model::limits;
use longshore_model::node::{Node, NodeInfo};
use longshore_model::order::JobOrder;
use longshore_model::report::{AppReport, TaskReport};
use longshore_model::spec::AppSpec;
use longshore_model::task::Task;
use longshore_model::validate::{self, Violations};
use longshore_proto::convert::{FromWire, LogLine, decode_spec};
use longshore_proto::v1;
use proptest::prelude::*;
use prost::Message;

fn fields<T: std::fmt::Debug>(result: Result<T, Violations>) -> Vec<String> {
    result.unwrap_err().0.into_iter().map(|violation| violation.field).collect()
}

/// Decodes bytes as a message and reads that; what comes of it does not matter here.
fn read<M: Message + Default, T: FromWire<M>>(bytes: &[u8]) -> bool {
    M::decode(bytes).is_ok_and(|message| {
        let result = T::read(message);
        if let Err(bad) = &result {
            assert!(!bad.0.is_empty(), "an error says what is wrong");
        }
        result.is_ok()
    })
}

fn read_as_everything(bytes: &[u8]) {
    let _ = decode_spec(bytes);
    let _ = read::<v1::AppSpec, AppSpec>(bytes);
    let _ = read::<v1::Task, Task>(bytes);
    let _ = read::<v1::Node, Node>(bytes);
    let _ = read::<v1::NodeInfo, NodeInfo>(bytes);
    let _ = read::<v1::AppStatus, AppStatus>(bytes);
    let _ = read::<v1::Assignment, Assignment>(bytes);
    let _ = read::<v1::TaskReport, TaskReport>(bytes);
    let _ = read::<v1::AppReport, AppReport>(bytes);
    let _ = read::<v1::LogLine, LogLine>(bytes);
    let _ = read::<prost_types::Timestamp, Timestamp>(bytes);
    let _ = read::<prost_types::Duration, Duration>(bytes);
    if let Ok(Ok(order)) = v1::CreateJobRequest::decode(bytes).map(JobOrder::read) {
        let _ = validate::job_order(&order);
    }
}

/// Bytes that are well-formed as a message of some kind, with fields of any number, kind and content, nested.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let leaf =
        prop_oneof![proptest::collection::vec(any::<u8>(), 0..12), "[a-z0-9/.:-]{0,12}".prop_map(String::into_bytes)];
    leaf.prop_recursive(4, 48, 6, |inner| {
        let value = prop_oneof![
            prop_oneof![0..12u64, any::<u64>()].prop_map(|number| (0, varint(number))),
            inner.prop_map(|bytes| (2, [varint(bytes.len() as u64), bytes].concat())),
        ];
        let field = (1..17u64, value).prop_map(|(number, (kind, value))| [varint(number << 3 | kind), value].concat());
        proptest::collection::vec(field, 0..6).prop_map(|fields| fields.concat())
    })
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn bytes_never_panic(bytes: Vec<u8>) {
        read_as_everything(&bytes);
    }

    #[test]
    fn messages_never_panic(bytes in message()) {
        read_as_everything(&bytes);
    }
}

#[test]
fn all_that_is_wrong_is_found_with_its_path() {
    let port = |container_port, protocol| v1::Port { container_port, protocol, ..v1::Port::default() };
    let env = |source| v1::EnvVar { name: "A".to_owned(), source };
    let spec = v1::AppSpec {
        env: vec![
            env(Some(v1::env_var::Source::Value(String::new()))),
            env(None),
            env(Some(v1::env_var::Source::NodeField(0))),
        ],
        restart_policy: 99,
        volumes: vec![v1::Volume::default()],
        network: Some(v1::Network {
            mode: Some(v1::network::Mode::PortMapping(v1::PortMapping { ports: vec![port(1, 0), port(65536, 7)] })),
        }),
        startup: Some(v1::Startup { settle: Some(prost_types::Duration { seconds: -1, nanos: 0 }), max_starts: 0 }),
        liveness_probe: Some(v1::Probe::default()),
        readiness_probe: Some(v1::Probe {
            action: Some(v1::probe::Action::HttpGet(v1::HttpGet { scheme: 3, port: 65536, ..v1::HttpGet::default() })),
            period: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            ..v1::Probe::default()
        }),
        ..v1::AppSpec::default()
    };
    let request = v1::CreateJobRequest {
        spec: Some(spec),
        timeout: Some(prost_types::Duration { seconds: 1, nanos: -1 }),
        ..v1::CreateJobRequest::default()
    };
    assert_eq!(
        fields(JobOrder::read(request)),
        [
            "spec.image",
            "spec.env[1]",
            "spec.env[2].node_field",
            "spec.restart_policy",
            "spec.volumes[0]",
            "spec.network.port_mapping.ports[1].container_port",
            "spec.network.port_mapping.ports[1].protocol",
            "spec.startup.settle",
            "spec.liveness_probe",
            "spec.readiness_probe.http_get.scheme",
            "spec.readiness_probe.http_get.port",
            "spec.readiness_probe.period",
            "timeout",
        ]
    );
    assert_eq!(fields(JobOrder::read(v1::CreateJobRequest::default())), ["spec"]);
}

#[test]
fn what_a_server_sends_is_checked_too() {
    assert_eq!(fields(Task::read(v1::Task::default())), ["job_id", "node_name", "state", "update_time"]);
    assert_eq!(fields(Node::read(v1::Node::default())), ["name", "enroll_time"]);
    assert_eq!(fields(JobState::read_field(42, "job.state")), ["job.state"]);
    let bad = JobState::read_field(42, "job.state").unwrap_err();
    assert_eq!(bad.to_string(), "job.state: has the value 42, which no JobState that this version knows has");
    let assignment = v1::Assignment {
        app_name: "till".to_owned(),
        job_id: "01jd8x3k5m7n9p2q4r6s8t0v1w".to_owned(),
        order: 1,
        app_spec: vec![0xff].into(),
        ..v1::Assignment::default()
    };
    assert_eq!(fields(Assignment::read(assignment.clone())), ["app_spec"]);
    let no_image = v1::Assignment { app_spec: v1::AppSpec::default().encode_to_vec().into(), ..assignment };
    assert_eq!(fields(Assignment::read(no_image)), ["app_spec.image"]);
}

#[test]
fn what_an_agent_sends_is_bounded() {
    let info = v1::NodeInfo {
        architecture: "amd64".to_owned(),
        kernel_release: "é".repeat(limits::MAX_MESSAGE),
        interfaces: vec![v1::NetworkInterface::default(); limits::MAX_INTERFACES + 1],
        capabilities: vec![String::new(); limits::MAX_CAPABILITIES + 1],
        ..v1::NodeInfo::default()
    };
    let info = NodeInfo::read(info).unwrap();
    assert_eq!(info.interfaces.len(), limits::MAX_INTERFACES);
    assert_eq!(info.capabilities.len(), limits::MAX_CAPABILITIES);
    assert_eq!(info.kernel_release.len(), limits::MAX_MESSAGE);
    let status = v1::AppStatus {
        instances: vec![v1::InstanceStatus { state: 1, ..v1::InstanceStatus::default() }; 65],
        ..v1::AppStatus::default()
    };
    assert_eq!(fields(AppStatus::read(status)), ["instances"]);
    assert_eq!(fields(decode_spec(&vec![0; limits::MAX_SPEC + 1])), ["spec"]);
}
