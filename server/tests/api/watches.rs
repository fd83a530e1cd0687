//! Watching and waiting.

use std::collections::HashMap;

use longshore_proto::v1;
use tonic::Code;
use v1::{JobState, TaskState};

use crate::harness::{World, failure, order, soon};

#[tokio::test]
async fn a_watch_tells_everything_first_and_then_what_changes() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1"]).await;
    world.enroll("shop-2", &[]).await;
    let job = world.create(order(&["shop-1", "shop-2"])).await;
    let assignment = agents[0].set().await;
    let request = v1::WatchJobRequest { job_id: job.job_id.clone(), ..Default::default() };
    let mut watch = world.jobs().watch_job(request).await.unwrap().into_inner();
    let first = soon(watch.message()).await.unwrap().unwrap();
    let states: Vec<_> = first.tasks.iter().map(|task| (task.node_name.as_str(), task.state())).collect();
    assert_eq!(states, [("shop-2", TaskState::Pending), ("shop-1", TaskState::Assigned)], "oldest changes first");

    agents[0].reach(&assignment, TaskState::Pulling).await;
    let next = soon(watch.message()).await.unwrap().unwrap();
    assert_eq!(next.tasks.len(), 1, "only what changed");
    assert_eq!(next.tasks[0].state(), TaskState::Pulling);

    agents[0].reach(&assignment, TaskState::Succeeded).await;
    let stop = v1::StopJobRequest { job_id: job.job_id.clone(), cancel_in_flight: false, ..Default::default() };
    world.jobs().stop_job(stop).await.unwrap();
    let mut last = next;
    while let Some(message) = soon(watch.message()).await.unwrap() {
        assert!(message.job.as_ref().unwrap().version >= last.job.as_ref().unwrap().version);
        last = message;
    }
    assert_eq!(last.job.unwrap().state(), JobState::Stopped, "the stream ends after it");
}

#[tokio::test]
async fn a_slow_watcher_sees_the_final_state_and_the_newest_of_every_task() {
    let world = World::start().await;
    let names: Vec<String> = (0..20).map(|index| format!("shop-{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut agents = world.fleet(&names).await;
    let mut request = order(&names);
    // Large enough that unread messages fill the connection's window.
    request.spec.as_mut().unwrap().args = vec!["x".repeat(16 * 1024); 2];
    let job = world.create(request).await;
    let request = v1::WatchJobRequest { job_id: job.job_id.clone(), ..Default::default() };
    let mut watch = world.jobs().watch_job(request).await.unwrap().into_inner();
    for agent in &mut agents {
        let assignment = agent.set().await;
        for state in [TaskState::Checking, TaskState::Pulling, TaskState::Starting, TaskState::Succeeded] {
            agent.reach(&assignment, state).await;
        }
    }
    world.job_in(&job.job_id, JobState::Succeeded).await;
    let (mut tasks, mut messages, mut last) = (HashMap::new(), 0, None);
    while let Some(message) = soon(watch.message()).await.unwrap() {
        messages += 1;
        tasks.extend(message.tasks.iter().map(|task| (task.node_name.clone(), task.state())));
        last = message.job;
    }
    assert_eq!(last.unwrap().state(), JobState::Succeeded);
    assert_eq!(tasks.len(), 20);
    assert!(tasks.values().all(|state| *state == TaskState::Succeeded));
    assert!(messages < 80, "{messages} messages for 80 reports: nothing was left out");
}

#[tokio::test]
async fn a_job_at_rest_is_told_once() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1"]).await;
    let job = world.create(order(&["shop-1"])).await;
    let assignment = agents[0].set().await;
    agents[0].reach(&assignment, TaskState::Failed).await;
    let request = v1::WatchJobRequest { job_id: job.job_id, ..Default::default() };
    let mut watch = world.jobs().watch_job(request).await.unwrap().into_inner();
    let only = soon(watch.message()).await.unwrap().unwrap();
    assert_eq!(only.job.unwrap().state(), JobState::Failed);
    assert_eq!(only.tasks.len(), 1);
    assert!(soon(watch.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_wait_ends_with_the_job_or_with_its_time() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1"]).await;
    let job = world.create(order(&["shop-1"])).await;
    let wait = |nanos: Option<i32>| {
        let timeout = nanos.map(|nanos| prost_types::Duration { seconds: 0, nanos });
        let request = v1::WaitJobRequest { job_id: job.job_id.clone(), timeout };
        let mut jobs = world.jobs();
        async move { jobs.wait_job(request).await.map(|answer| answer.into_inner().job.unwrap().state()) }
    };
    let assignment = agents[0].set().await;
    assert_eq!(soon(wait(Some(1_000_000))).await.unwrap(), JobState::Running);
    let (code, details) = failure(wait(Some(-1)).await);
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "timeout");

    let waiting = tokio::spawn(wait(None));
    agents[0].reach(&assignment, TaskState::Succeeded).await;
    assert_eq!(soon(waiting).await.unwrap().unwrap(), JobState::Succeeded);
    assert_eq!(soon(wait(None)).await.unwrap(), JobState::Succeeded, "it has ended already");
}
