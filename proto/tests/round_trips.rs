//! What the model says survives the wire.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod any;

use jiff::Timestamp;
use longshore_model::app::AppStatus;
use longshore_model::assignment::Assignment;
use longshore_model::job::JobState;
use longshore_model::node::{Node, NodeInfo};
use longshore_model::order::JobOrder;
use longshore_model::report::{AppReport, TaskReport};
use longshore_model::spec::AppSpec;
use longshore_model::task::{Task, TaskState};
use longshore_proto::convert::{self, FromWire, LogLine, decode_spec, encode_spec};
use longshore_proto::v1;
use proptest::prelude::*;
use prost::Message;

/// Sends a message through its encoded form.
fn carried<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #[test]
    fn specs(spec in any::spec()) {
        prop_assert_eq!(decode_spec(&encode_spec(&spec)), Ok(spec.clone()));
        prop_assert_eq!(AppSpec::read(v1::AppSpec::from(&spec)), Ok(spec));
    }

    #[test]
    fn orders(order in any::order()) {
        prop_assert_eq!(JobOrder::read(carried(&v1::CreateJobRequest::from(&order))), Ok(order));
    }

    #[test]
    fn tasks(task in any::task()) {
        prop_assert_eq!(Task::read(carried(&v1::Task::from(&task))), Ok(task));
    }

    #[test]
    fn nodes(node in any::node(), now in any::time()) {
        prop_assert_eq!(Node::read(carried(&convert::node(&node, false, now))), Ok(node.clone()));
        let connected = Node { last_seen: Some(now), ..node.clone() };
        prop_assert_eq!(Node::read(carried(&convert::node(&node, true, now))), Ok(connected));
        if let Some(info) = node.info {
            prop_assert_eq!(NodeInfo::read(v1::NodeInfo::from(&info)), Ok(info));
        }
    }

    #[test]
    fn statuses(status in any::status()) {
        prop_assert_eq!(AppStatus::read(carried(&v1::AppStatus::from(&status))), Ok(status));
    }

    #[test]
    fn assignments(assignment in any::assignment()) {
        prop_assert_eq!(Assignment::read(carried(&v1::Assignment::from(&assignment))), Ok(assignment));
    }

    #[test]
    fn reports(task in any::task_report(), app in any::app_report(), now in any::time()) {
        prop_assert_eq!(AppReport::read(carried(&v1::AppReport::from(&app))), Ok(app));
        let is_agents = !matches!(task.state, TaskState::Pending | TaskState::Assigned | TaskState::TimedOut);
        match TaskReport::read(carried(&convert::task_report(&task, now))) {
            Ok(read) => prop_assert!(is_agents && read == task),
            Err(bad) => {
                prop_assert!(!is_agents);
                prop_assert_eq!(bad.0.first().map(|violation| violation.field.as_str()), Some("state"));
            }
        }
    }

    #[test]
    fn log_lines(time in any::time(), stderr: bool, text: Vec<u8>) {
        let line = LogLine { time, stderr, text: text.into() };
        prop_assert_eq!(LogLine::read(carried(&v1::LogLine::from(line.clone()))), Ok(line));
    }

    #[test]
    fn moments_and_spans(time in any::time(), span in any::span()) {
        let wire = convert::timestamp(time);
        prop_assert!((0..1_000_000_000).contains(&wire.nanos));
        prop_assert_eq!(Timestamp::read(wire), Ok(time));
        prop_assert_eq!(std::time::Duration::read(convert::duration(span)), Ok(span));
    }
}

#[test]
fn states_of_jobs() {
    for state in JobState::ALL {
        assert_eq!(JobState::read(v1::JobState::from(state).into()), Ok(state));
        assert_eq!(v1::JobState::from(state).as_str_name(), format!("JOB_STATE_{state}"));
    }
    for state in TaskState::ALL {
        assert_eq!(v1::TaskState::from(state).as_str_name(), format!("TASK_STATE_{state}"));
    }
}

#[test]
fn the_edges_of_time() {
    for time in [Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
        assert_eq!(Timestamp::read(convert::timestamp(time)), Ok(time));
    }
}
