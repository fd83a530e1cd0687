use longshore_proto::v1::{Failure, FailureReason};

use super::*;

fn job(state: JobState, counts: TaskCounts) -> Job {
    Job {
        job_id: "01jd".to_owned(),
        state: state.into(),
        counts: Some(counts),
        round: 1,
        create_time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        ..Default::default()
    }
}

fn task(node: &str, state: TaskState) -> Task {
    Task { node_name: node.to_owned(), state: state.into(), attempt: 1, ..Default::default() }
}

fn pulling(node: &str, done_bytes: u64, total_bytes: u64) -> Task {
    Task { pull: Some(PullProgress { done_bytes, total_bytes }), ..task(node, TaskState::Pulling) }
}

fn failed(node: &str) -> Task {
    let failure = Failure {
        reason: FailureReason::PortInUse.into(),
        message: "Port 8080 is taken.".to_owned(),
        step: TaskState::Checking.into(),
        ..Default::default()
    };
    Task { failure: Some(failure), ..task(node, TaskState::Failed) }
}

fn message(job: Job, tasks: Vec<Task>) -> WatchJobResponse {
    WatchJobResponse { job: Some(job), tasks, ..Default::default() }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_012).unwrap_or_default()
}

#[test]
fn each_change_is_told_once() {
    let mut view = View::default();
    let queued = job(JobState::Queued, TaskCounts { pending: 2, ..Default::default() });
    let running = job(JobState::Running, TaskCounts { active: 2, ..Default::default() });
    let ended = job(JobState::PartiallySucceeded, TaskCounts { succeeded: 1, failed: 1, ..Default::default() });
    let pending = vec![task("a", TaskState::Pending), task("b", TaskState::Pending)];
    let steps = [
        (message(queued, pending), vec!["job 01jd QUEUED: 2 pending"]),
        (
            message(running.clone(), vec![task("a", TaskState::Assigned)]),
            vec!["job 01jd RUNNING: 2 active", "a: ASSIGNED"],
        ),
        (message(running.clone(), vec![pulling("a", 0, 4096)]), vec!["a: PULLING 0 B of 4.0 KiB"]),
        (message(running.clone(), vec![pulling("a", 100, 4096)]), vec![]),
        (message(running.clone(), vec![pulling("a", 2048, 4096)]), vec!["a: PULLING 2.0 KiB of 4.0 KiB"]),
        // A watch that was broken begins with everything: nothing of it is new.
        (message(running, vec![pulling("a", 2048, 4096), task("b", TaskState::Pending)]), vec![]),
        (
            message(ended, vec![task("a", TaskState::Succeeded), failed("b")]),
            vec!["a: SUCCEEDED", "b: FAILED: PORT_IN_USE while CHECKING: Port 8080 is taken."],
        ),
    ];
    for (message, expected) in steps {
        assert_eq!(view.take(message), expected);
    }
    assert!(view.is_at_rest());
}

#[test]
fn of_a_large_job_only_trouble_and_counts_are_told() {
    let mut view = View::default();
    let tasks: Vec<Task> = (0..100).map(|n| task(&format!("n{n:03}"), TaskState::Assigned)).collect();
    let running = |succeeded, failed| {
        job(JobState::Running, TaskCounts { active: 100 - succeeded - failed, succeeded, failed, ..Default::default() })
    };
    assert_eq!(view.take(message(running(0, 0), tasks)), ["job 01jd RUNNING: 100 active"]);
    assert!(view.take(message(running(1, 0), vec![task("n000", TaskState::Succeeded)])).is_empty());
    assert_eq!(
        view.take(message(running(4, 1), vec![task("n001", TaskState::Succeeded), failed("n002")])),
        [
            "job 01jd RUNNING: 4 succeeded, 1 failed, 95 active",
            "n002: FAILED: PORT_IN_USE while CHECKING: Port 8080 is taken.",
        ]
    );
}

#[test]
fn the_screen_shows_every_node_when_there_is_room() {
    let mut view = View::default();
    assert_eq!(view.screen(8, now()), ["waiting for the server"]);
    let running = job(JobState::Running, TaskCounts { active: 1, succeeded: 1, ..Default::default() });
    view.take(message(running, vec![task("store-1", TaskState::Succeeded), pulling("gateway-1", 1 << 20, 0)]));
    assert_eq!(
        view.screen(8, now()),
        [
            "RUNNING ██████████░░░░░░░░░░ 1 succeeded, 1 active  12s",
            "  gateway-1  PULLING 1.0 MiB",
            "  store-1    SUCCEEDED",
        ]
    );
}

#[test]
fn the_screen_shows_what_matters_most_when_there_is_not() {
    let mut view = View::default();
    let running = job(JobState::Running, TaskCounts { active: 2, succeeded: 2, failed: 1, ..Default::default() });
    view.take(message(
        running,
        vec![
            task("a", TaskState::Succeeded),
            task("b", TaskState::Starting),
            failed("c"),
            task("d", TaskState::Succeeded),
            task("e", TaskState::Settling),
        ],
    ));
    assert_eq!(
        view.screen(4, now()),
        [
            "RUNNING ████████████░░░░░░░░ 2 succeeded, 1 failed, 2 active  12s",
            "  c  FAILED: PORT_IN_USE while CHECKING: Port 8080 is taken.",
            "  b  STARTING",
            "  … and 3 more nodes",
        ]
    );
}

#[test]
fn attempts_and_cancellation_are_said() {
    let mut again = task("a", TaskState::Creating);
    again.attempt = 3;
    again.cancel_requested = true;
    assert_eq!(describe(&again), "CREATING (being cancelled) (attempt 3)");
}

#[test]
fn who_is_waited_for_is_said() {
    let mut view = View::default();
    let running = |absent| job(JobState::Running, TaskCounts { active: 2, pending: 1, absent, ..Default::default() });
    let starting = task("a", TaskState::Starting);
    let away = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 });
    let absent = Task { absent_time: away, ..starting.clone() };
    let sentence = "STARTING (waits for its node, away since 2023-11-14T22:13:20Z)";
    view.take(message(running(0), vec![starting.clone(), task("b", TaskState::Settling)]));
    assert_eq!(view.take(message(running(1), vec![absent])), [format!("a: {sentence}")]);
    let first = "RUNNING ░░░░░░░░░░░░░░░░░░░░ 2 active, 1 pending, 1 node away  12s";
    assert_eq!(view.screen(3, now()), [first.to_owned(), format!("  a  {sentence}"), "  b  SETTLING".to_owned()]);
    assert_eq!(view.take(message(running(0), vec![starting])), ["a: STARTING"]);
}

#[test]
fn a_pull_is_told_with_its_pace_since_it_was_first_heard_of() {
    let at = |seconds, done: u64| {
        let update_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        Task { update_time, ..pulling("a", done << 20, 100 << 20) }
    };
    let running = || job(JobState::Running, TaskCounts { active: 1, ..Default::default() });
    let mut view = View::default();
    let mut told = |task: Task| view.take(message(running(), vec![task])).pop().unwrap_or_default();
    assert!(told(at(0, 0)).ends_with("a: PULLING 0 B of 100.0 MiB"));
    assert_eq!(told(at(10, 50)), "a: PULLING 50.0 MiB of 100.0 MiB, 5.0 MiB/s, 10s left");
    assert_eq!(told(at(100, 75)), "a: PULLING 75.0 MiB of 100.0 MiB, 768.0 KiB/s, 34s left");
    // A layer came damaged, and has to come again.
    assert_eq!(told(at(110, 25)), "a: PULLING 25.0 MiB of 100.0 MiB");
    assert_eq!(told(at(120, 50)), "a: PULLING 50.0 MiB of 100.0 MiB, 2.5 MiB/s, 20s left");
    let next = Task { attempt: 2, ..at(130, 75) };
    assert_eq!(told(next), "a: PULLING 75.0 MiB of 100.0 MiB (attempt 2)");
}
