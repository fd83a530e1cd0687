#![allow(clippy::unwrap_used)] // A test may fail by panicking.

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::clock::Clock;
use longshore_model::job::{Control, TaskCounts};
use longshore_model::kind::JobKind;
use longshore_model::name::AppName;
use longshore_model::rollout::Rollout;
use longshore_model::spec::{AppSpec, ImageSource, Network};
use longshore_model::task::TaskState;

use super::*;

fn job(version: u64) -> Arc<Job> {
    let source = ImageSource::Reference("till:1".to_owned());
    let spec = AppSpec { network: Network::Host, ..AppSpec::new("till", source) };
    Arc::new(Job {
        id: JobId::parse("01arz3ndektsv4rrffq69g5fav").unwrap(),
        kind: JobKind::Deploy,
        app: AppName::parse("till-1").unwrap(),
        spec: Arc::new(spec),
        spec_revision: 1,
        rollout: Rollout::default(),
        timeout: Duration::from_secs(600),
        control: Control::Run,
        clock: Clock::Over,
        round: 1,
        counts: TaskCounts::default(),
        create_time: Timestamp::UNIX_EPOCH,
        start_time: None,
        end_time: None,
        creator: String::new(),
        version,
        warnings: Vec::new(),
        template: None,
    })
}

fn task(version: u64, node: &str, state: TaskState) -> Task {
    Task {
        job: job(1).id.clone(),
        node: NodeName::parse(node).unwrap(),
        attempt: 1,
        spec_revision: 1,
        state,
        pull: None,
        pull_start: None,
        failure: None,
        cancel_requested: false,
        absent_time: None,
        assign_time: None,
        update_time: Timestamp::UNIX_EPOCH,
        end_time: None,
        version,
        history: Vec::new(),
    }
}

fn from(version: u64, tasks: Vec<Task>) -> Snapshot {
    Snapshot { job: job(version), tasks, known: None }
}

fn states(news: &News) -> Vec<(&str, TaskState)> {
    news.tasks.iter().map(|task| (task.node.as_str(), task.state)).collect()
}

#[tokio::test]
async fn the_snapshot_and_what_was_committed_meanwhile_become_one() {
    let hub = Arc::new(Hub::default());
    let mut watch = hub.subscribe(&job(1).id, Interest::JobAndTasks).unwrap();
    hub.changed(&job(4), vec![task(4, "a", TaskState::Assigned)]);
    hub.changed(&job(6), vec![task(6, "b", TaskState::Pulling)]);
    // The snapshot is of version 5: it has the first change already, and not the second.
    let snapshot =
        vec![task(5, "a", TaskState::Checking), task(1, "b", TaskState::Pending), task(1, "c", TaskState::Pending)];
    watch.begin(from(5, snapshot)).unwrap();
    // Told late, and no news.
    hub.changed(&job(5), vec![task(5, "a", TaskState::Checking)]);

    let news = watch.next(100).await.unwrap();
    assert_eq!(news.job.version, 6);
    assert_eq!(states(&news), [("c", TaskState::Pending), ("a", TaskState::Checking), ("b", TaskState::Pulling)]);
    assert!(futures::poll!(std::pin::pin!(watch.next(100))).is_pending());
}

#[tokio::test]
async fn a_slow_watcher_sees_the_newest_of_everything_and_holds_no_more() {
    let hub = Arc::new(Hub::default());
    let mut watch = hub.subscribe(&job(1).id, Interest::JobAndTasks).unwrap();
    watch.begin(from(1, Vec::new())).unwrap();
    for version in 2..1_000 {
        hub.changed(
            &job(version),
            vec![task(version, "a", TaskState::Pulling), task(version, "b", TaskState::Starting)],
        );
    }
    hub.changed(&job(1_000), vec![task(1_000, "b", TaskState::Succeeded)]);
    assert_eq!(watch.watcher.pending().tasks.len(), 2);

    let first = watch.next(1).await.unwrap();
    assert_eq!((first.job.version, first.more), (1_000, true));
    assert_eq!(states(&first), [("a", TaskState::Pulling)]);
    // What changes again goes to the end, so that it overtakes nothing.
    hub.changed(&job(1_001), vec![task(1_001, "a", TaskState::Succeeded)]);
    let second = watch.next(1).await.unwrap();
    assert_eq!(states(&second), [("b", TaskState::Succeeded)]);
    let third = watch.next(1).await.unwrap();
    assert_eq!((states(&third), third.more), (vec![("a", TaskState::Succeeded)], false));
}

#[tokio::test]
async fn watchers_are_limited_leave_without_a_trace_and_end_with_the_server() {
    let hub = Arc::new(Hub::default());
    let id = &job(1).id;
    let mut all: Vec<_> = (0..MAX_WATCHERS).map(|_| hub.subscribe(id, Interest::Job).unwrap()).collect();
    assert_eq!(hub.subscribe(id, Interest::Job).err(), Some(HubError::Full));
    all.truncate(1);
    let mut waiting = hub.subscribe(id, Interest::Job).unwrap();
    waiting.begin(from(1, Vec::new())).unwrap();
    waiting.next(0).await.unwrap();
    {
        let mut next = std::pin::pin!(waiting.next(0));
        assert!(futures::poll!(&mut next).is_pending());
        hub.close();
        assert_eq!(next.await.err(), Some(HubError::Closed));
    }
    assert_eq!(hub.subscribe(id, Interest::Job).err(), Some(HubError::Closed));
    drop((all, waiting));
    assert_eq!(hub.inner().count, 0);
    assert!(hub.inner().watchers.is_empty());
}

#[tokio::test]
async fn what_watchers_may_hold_is_limited_and_given_back() {
    let hub = Arc::new(Hub::default());
    let id = &job(1).id;
    hub.inner().tasks = MAX_WATCHED_TASKS - 1;
    let one = || from(1, vec![task(1, "a", TaskState::Pending)]);
    let mut first = hub.subscribe(id, Interest::JobAndTasks).unwrap();
    first.begin(one()).unwrap();
    let mut second = hub.subscribe(id, Interest::JobAndTasks).unwrap();
    assert_eq!(second.begin(one()).err(), Some(HubError::TooManyTasks));
    drop(first);
    second.begin(one()).unwrap();
    drop(second);
    assert_eq!(hub.inner().tasks, MAX_WATCHED_TASKS - 1);
}
