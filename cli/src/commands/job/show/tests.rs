use longshore_proto::v1::{
    AppSpec, Failure, FailureReason, Image, Network, Port, PortMapping, PullProgress, PullStart, TaskCounts, TaskEvent,
    image,
};

use super::*;

fn moment(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn job() -> Job {
    let port = Port { container_port: 8080, ..Default::default() };
    Job {
        job_id: "01jd".to_owned(),
        app_name: "till-x1".to_owned(),
        state: JobState::PartiallySucceeded.into(),
        spec: Some(AppSpec {
            image: Some(Image {
                source: Some(image::Source::Reference("shop/till:1".to_owned())),
                ..Default::default()
            }),
            network: Some(Network { mode: Some(network::Mode::PortMapping(PortMapping { ports: vec![port] })) }),
            ..Default::default()
        }),
        counts: Some(TaskCounts { succeeded: 1, failed: 1, ..Default::default() }),
        round: 2,
        create_time: moment(1_700_000_000),
        end_time: moment(1_700_000_060),
        creator: "admin".to_owned(),
        ..Default::default()
    }
}

fn tasks() -> Vec<Task> {
    let failure = Failure {
        reason: FailureReason::ContainerExited.into(),
        message: "The container ended with exit code 3, three times.".to_owned(),
        step: TaskState::Settling.into(),
        ..Default::default()
    };
    let late = TaskEvent { attempt: 1, state: TaskState::Succeeded.into(), late: true, ..Default::default() };
    vec![
        Task {
            node_name: "store-1".to_owned(),
            state: TaskState::Succeeded.into(),
            attempt: 1,
            update_time: moment(1_700_000_030),
            ..Default::default()
        },
        Task {
            node_name: "store-2".to_owned(),
            state: TaskState::Failed.into(),
            attempt: 2,
            failure: Some(failure),
            update_time: moment(1_700_000_060),
            history: vec![late],
            ..Default::default()
        },
    ]
}

#[test]
fn a_job_that_went_half_wrong() {
    let now = Timestamp::from_second(1_700_000_090).unwrap_or_default();
    let expected = "\
Job:      01jd
Kind:     DEPLOY
App:      till-x1
State:    PARTIALLY_SUCCEEDED (1 succeeded, 1 failed)
Image:    shop/till:1
Network:  ports automatic->8080
Round:    2
Created:  2023-11-14T22:13:20Z (90s ago)
By:       admin
Ended:    2023-11-14T22:14:20Z (30s ago)

NODE     STATE      ATTEMPT  SINCE
store-1  SUCCEEDED  1        60s
store-2  FAILED     2        30s

What went wrong:
  store-2: FAILED: CONTAINER_EXITED while SETTLING: The container ended with exit code 3, three times. (attempt 2)

Too late to count:
  store-2: attempt 1 reported SUCCEEDED after it had ended here

Next:
  longshore app logs till-x1 --node store-2  # shows its last output
  longshore job retry 01jd --wait            # starts anew what has not succeeded";
    assert_eq!(text(&job(), &tasks(), &GroupFailuresResponse::default(), "longshore", now), expected);
}

#[test]
fn causes_are_told_with_what_retries_them() {
    let group = |node: &str, tasks: u32| FailureGroup {
        reason: FailureReason::PortInUse.into(),
        pattern: "Port … is taken.".to_owned(),
        tasks,
        example: Some(Task { node_name: node.to_owned(), ..Default::default() }),
        filter: format!("failure.cause = \"{node}\""),
        ..Default::default()
    };
    let causes = GroupFailuresResponse { groups: vec![group("store-7", 40), group("store-9", 1)], other_tasks: 3 };
    let expected = "\
By cause:
  40 tasks such as store-7: PORT_IN_USE: Port … is taken.
    ls job retry 01jd --filter 'failure.cause = \"store-7\"' --wait
  1 task such as store-9: PORT_IN_USE: Port … is taken.
    ls job retry 01jd --filter 'failure.cause = \"store-9\"' --wait
  … and 3 tasks for other causes";
    assert_eq!(by_cause(&job(), &causes, "ls"), expected);
    assert_eq!(by_cause(&job(), &GroupFailuresResponse::default(), "ls"), "");
    let running = Job { state: JobState::Running.into(), ..job() };
    assert!(!by_cause(&running, &causes, "ls").contains("retry"));
}

#[test]
fn who_is_waited_for_is_told() {
    let absent = |index: i64| Task {
        node_name: format!("store-{index}"),
        state: TaskState::Starting.into(),
        attempt: 1,
        absent_time: moment(1_700_000_000 + index),
        ..Default::default()
    };
    assert_eq!(absences(&tasks()), "");
    let expected = "\
Waits for absent nodes:
  store-9: STARTING (waits for its node, away since 2023-11-14T22:13:29Z)";
    assert_eq!(absences(&[absent(9)]), expected);
    let many: Vec<Task> = (0..23).map(absent).collect();
    assert!(absences(&many).ends_with("\n  … and 3 more: -o json shows all"));
}

#[test]
fn pulls_have_a_rate_and_an_estimate_from_one_look() {
    let task = Task {
        node_name: "store-1".to_owned(),
        state: TaskState::Pulling.into(),
        attempt: 1,
        pull: Some(PullProgress { done_bytes: 30 << 20, total_bytes: 90 << 20 }),
        pull_start: Some(PullStart { time: moment(1_700_000_000), done_bytes: 10 << 20 }),
        update_time: moment(1_700_000_010),
        ..Default::default()
    };
    let expected = "On its way:\n  store-1: PULLING 30.0 MiB of 90.0 MiB, 2.0 MiB/s, 30s left";
    assert_eq!(pulls(std::slice::from_ref(&task)), expected);
    let unsaid = Task { pull_start: None, ..task };
    assert_eq!(pulls(&[unsaid]), "On its way:\n  store-1: PULLING 30.0 MiB of 90.0 MiB", "an older server");
    assert_eq!(pulls(&tasks()), "");
}

#[test]
fn advice_follows_the_state() {
    let cases = [
        (JobState::Queued, "  ls job watch 01jd  # follows it to its end"),
        (JobState::Stopping, "  ls job watch 01jd  # follows it to its end"),
        (JobState::Succeeded, "  ls app list --name till-x1  # shows it on each node"),
        (JobState::Stopped, "  ls job resume 01jd --wait  # goes on with what is left"),
        (JobState::TimedOut, "  ls job retry 01jd --wait  # starts anew what has not succeeded"),
    ];
    for (state, line) in cases {
        let job = Job { state: state.into(), ..job() };
        assert_eq!(advice(&job, &[], "ls"), format!("Next:\n{line}"));
    }
}
