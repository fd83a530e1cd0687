//! Nodes that go away while their task is in flight: they give their places to others, and take them again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use longshore_proto::v1;
use longshore_tests::client::{Client, seconds};
use longshore_tests::cluster::Cluster;
use longshore_tests::process::succeed;
use longshore_tests::spec::app;
use longshore_tests::wait;
use nix::sys::signal::Signal;
use v1::{JobState, TaskState};

/// The shortest that there is.
const ABSENT_AFTER: u64 = 10;

/// One at a time, each in flight for some seconds.
async fn create(cluster: &Cluster, client: &Client, nodes: &[&str]) -> String {
    let mut spec = app(&cluster.image(), &["sleep"]);
    spec.startup = Some(v1::Startup { settle: Some(seconds(5)), max_starts: 1 });
    let node_names = nodes.iter().map(|&name| name.to_owned()).collect();
    let request = v1::CreateJobRequest {
        spec: Some(spec),
        targets: Some(v1::Targets { node_names, ..Default::default() }),
        rollout: Some(v1::Rollout { max_parallel: 1, absent_after: Some(seconds(ABSENT_AFTER)) }),
        ..Default::default()
    };
    client.create_with(request).await.job_id
}

async fn task_of(client: &Client, job_id: &str, node: &str) -> v1::Task {
    client.tasks(job_id).await.into_iter().find(|task| task.node_name == node).unwrap()
}

/// Waits until the node's task is past PENDING.
async fn is_in_flight(client: &Client, job_id: &str, node: &str) -> v1::Task {
    wait::for_value(&format!("the turn of {node}"), || async {
        Some(task_of(client, job_id, node).await).filter(|task| task.state() != TaskState::Pending)
    })
    .await
}

/// Waits until the node counts as absent, and returns since when.
async fn is_absent(client: &Client, job_id: &str, node: &str) -> Timestamp {
    let time = wait::for_value(&format!("the absence of {node}"), || async {
        task_of(client, job_id, node).await.absent_time
    })
    .await;
    Timestamp::new(time.seconds, time.nanos).unwrap()
}

/// Watches a job to its end, and returns the names of the nodes that had ended when the last one got its turn.
async fn watch(client: Client, job_id: String, last: &str) -> BTreeSet<String> {
    let request = v1::WatchJobRequest { job_id, ..Default::default() };
    let mut messages = client.jobs.clone().watch_job(request).await.unwrap().into_inner();
    let mut states = BTreeMap::new();
    let mut ended = None;
    while let Some(message) = messages.message().await.unwrap() {
        states.extend(message.tasks.into_iter().map(|task| (task.node_name.clone(), task.state())));
        if ended.is_none() && states.get(last).is_some_and(|state| *state != TaskState::Pending) {
            let succeeded = states.iter().filter(|(_, state)| **state == TaskState::Succeeded);
            ended = Some(succeeded.map(|(node, _)| node.clone()).collect());
        }
    }
    ended.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_holds_nobody_back() {
    let cluster = Cluster::start().await;
    let a = cluster.node("a").await;
    let (_b, _c) = (cluster.node("b").await, cluster.node("c").await);
    let client = cluster.client().await;
    let job_id = create(&cluster, &client, &["a", "b", "c"]).await;
    let watch = tokio::spawn(watch(client.clone(), job_id.clone(), "c"));
    is_in_flight(&client, &job_id, "a").await;
    // As when its network is gone: its end of the connection is silent, and its container runs on.
    a.signal(Signal::SIGSTOP);
    wait::until("the end of the silent session", || async { !client.is_connected("a").await }).await;
    let counts = client.job(&job_id).await.counts.unwrap();
    assert_eq!((counts.pending, counts.active, counts.absent), (2, 1, 0), "it may be back in a moment");

    is_absent(&client, &job_id, "a").await;
    let shown = succeed(&mut cluster.cli(&["job", "show", &job_id]));
    assert!(shown.contains("1 node away") && shown.contains("(waits for its node, away since "), "{shown}");
    is_in_flight(&client, &job_id, "b").await;
    a.signal(Signal::SIGCONT);
    wait::until("the return of a", || async { task_of(&client, &job_id, "a").await.absent_time.is_none() }).await;

    assert_eq!(watch.await.unwrap(), ["a", "b"].map(str::to_owned).into(), "a took its place again, and c had to wait");
    assert_eq!(client.job(&job_id).await.state(), JobState::Succeeded);
    let tasks = client.tasks(&job_id).await;
    assert!(tasks.iter().all(|task| task.attempt == 1 && task.absent_time.is_none()), "{tasks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_gives_every_node_its_time_and_forgets_no_absence() {
    let mut cluster = Cluster::start().await;
    let mut a = cluster.node("a").await;
    let _b = cluster.node("b").await;
    let client = cluster.client().await;
    let job_id = create(&cluster, &client, &["a", "b"]).await;
    is_in_flight(&client, &job_id, "a").await;
    a.kill();
    cluster.kill_server();
    let restart = Timestamp::now();
    cluster.start_server().await;
    let client = cluster.client().await;
    let since = is_absent(&client, &job_id, "a").await;
    assert!(since >= restart, "away since {since}, before the restart at {restart}");

    cluster.kill_server();
    cluster.start_server().await;
    let client = cluster.client().await;
    let task = task_of(&client, &job_id, "a").await;
    let kept = task.absent_time.map(|time| Timestamp::new(time.seconds, time.nanos).unwrap());
    assert_eq!(kept, Some(since), "the absence is durable");
    wait::until("the success of b", || async { task_of(&client, &job_id, "b").await.state() == TaskState::Succeeded })
        .await;
    assert!(task_of(&client, &job_id, "a").await.absent_time.is_some(), "a is away still");
    a.start();
    assert_eq!(client.rest(&job_id).await.state(), JobState::Succeeded);
}
