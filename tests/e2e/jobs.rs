//! The life of a job: batches, stop, resume, retry, deadlines, offline nodes.

use longshore_proto::v1;
use longshore_tests::client::seconds;
use longshore_tests::cluster::Cluster;
use longshore_tests::http;
use longshore_tests::spec::{app, restart, tcp, with_ports};
use longshore_tests::wait;
use v1::{JobState, TaskState};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_reaches_every_node_of_its_selector_and_the_apps_answer() {
    let cluster = Cluster::start().await;
    let nodes = [
        cluster.node_with("a", &[("role", "till")], None, &[]).await,
        cluster.node_with("b", &[("role", "till")], None, &[]).await,
        cluster.node_with("c", &[("role", "gateway")], None, &[]).await,
    ];
    let client = cluster.client().await;
    let job = client
        .create_with(v1::CreateJobRequest {
            spec: Some(with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)])),
            targets: Some(v1::Targets { selector: "role=till".to_owned(), ..Default::default() }),
            ..Default::default()
        })
        .await;
    let job = client.rest(&job.job_id).await;
    assert_eq!(job.state(), JobState::Succeeded);
    assert_eq!(job.counts.unwrap().succeeded, 2);
    for node in &nodes[..2] {
        let app = client.app(node.name(), &job.app_name).await;
        let port = app.status.unwrap().ports[0].host_port;
        let answer = http::get(format!("127.0.0.1:{port}").parse().unwrap(), "/").await.unwrap();
        assert_eq!(answer.status, 200);
    }
    assert!(client.apps_of("c").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn max_parallel_holds_back_the_rest() {
    let cluster = Cluster::start().await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(cluster.node(name).await);
    }
    let client = cluster.client().await;
    let mut spec = app(&cluster.image(), &["sleep"]);
    spec.startup = Some(v1::Startup { settle: Some(seconds(1)), max_starts: 1 });
    let job = client
        .create_with(v1::CreateJobRequest {
            spec: Some(spec),
            targets: Some(v1::Targets { node_names: vec!["a".into(), "b".into(), "c".into()], ..Default::default() }),
            rollout: Some(v1::Rollout { max_parallel: 1, ..Default::default() }),
            ..Default::default()
        })
        .await;
    let mut watch = client
        .jobs
        .clone()
        .watch_job(v1::WatchJobRequest { job_id: job.job_id.clone(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let mut last = None;
    while let Some(message) = watch.message().await.unwrap() {
        let job = message.job.unwrap();
        assert!(job.counts.unwrap().active <= 1, "{job:?}");
        last = Some(job);
    }
    assert_eq!(last.unwrap().state(), JobState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_node_gets_its_task_when_it_comes() {
    let cluster = Cluster::start().await;
    let mut late = cluster.enroll("late", &[], None, &[]).await;
    let client = cluster.client().await;
    let job = client.create(app(&cluster.image(), &["sleep"]), &["late"]).await;
    assert_eq!(job.state(), JobState::Queued);
    late.start();
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_what_waits_for_an_offline_node_and_a_retry_goes_on() {
    let cluster = Cluster::start().await;
    let online = cluster.node("online").await;
    let mut offline = cluster.enroll("offline", &[], None, &[]).await;
    let client = cluster.client().await;
    let job = client
        .create_with(v1::CreateJobRequest {
            spec: Some(app(&cluster.image(), &["sleep"])),
            targets: Some(v1::Targets { node_names: vec!["online".into(), "offline".into()], ..Default::default() }),
            timeout: Some(seconds(4)),
            ..Default::default()
        })
        .await;
    let job = client.rest(&job.job_id).await;
    assert_eq!(job.state(), JobState::TimedOut);
    let tasks = client.tasks(&job.job_id).await;
    let of = |name: &str| tasks.iter().find(|task| task.node_name == name).unwrap();
    assert_eq!(of("online").state(), TaskState::Succeeded);
    assert_eq!(of("offline").state(), TaskState::TimedOut);
    assert_eq!(of("offline").failure.as_ref().unwrap().reason(), v1::FailureReason::DeadlineExceeded);

    offline.start();
    client.retry(&job.job_id).await;
    let job = client.rest(&job.job_id).await;
    assert_eq!(job.state(), JobState::Succeeded);
    let tasks = client.tasks(&job.job_id).await;
    let attempts = |name: &str| tasks.iter().find(|task| task.node_name == name).unwrap().attempt;
    assert_eq!((attempts("online"), attempts("offline")), (1, 2));
    drop(online);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_job_starts_nothing_until_it_is_resumed() {
    let cluster = Cluster::start().await;
    let first = cluster.node("first").await;
    let mut second = cluster.enroll("second", &[], None, &[]).await;
    let client = cluster.client().await;
    let job = client.create(app(&cluster.image(), &["sleep"]), &["first", "second"]).await;
    wait::until("the first task's success", || async { client.job(&job.job_id).await.counts.unwrap().succeeded == 1 })
        .await;
    let stop = v1::StopJobRequest { job_id: job.job_id.clone(), cancel_in_flight: false, ..Default::default() };
    let stopped = client.jobs.clone().stop_job(stop).await.unwrap().into_inner().job.unwrap();
    assert_eq!(stopped.state(), JobState::Stopped);
    assert!(stopped.remaining.is_some() && stopped.deadline.is_none());

    second.start();
    wait::until("the second node's session", || client.is_connected("second")).await;
    assert_eq!(client.job(&job.job_id).await.counts.unwrap().pending, 1);
    assert!(client.apps_of("second").await.is_empty());

    client
        .jobs
        .clone()
        .resume_job(v1::ResumeJobRequest { job_id: job.job_id.clone(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let tasks = client.tasks(&job.job_id).await;
    assert!(tasks.iter().all(|task| task.attempt == 1), "a resume never redoes a success: {tasks:?}");
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_cancel_gives_up_what_is_in_flight() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let mut spec = app(&cluster.image(), &["sleep"]);
    spec.startup = Some(v1::Startup { settle: Some(seconds(60)), max_starts: 1 });
    let job = client.create(spec, &["node"]).await;
    client.reach(&job.job_id, TaskState::Settling).await;
    let stop = v1::StopJobRequest { job_id: job.job_id.clone(), cancel_in_flight: true, ..Default::default() };
    client.jobs.clone().stop_job(stop).await.unwrap();
    let job = client.rest(&job.job_id).await;
    assert_eq!(job.state(), JobState::Stopped);
    assert_eq!(client.task(&job.job_id).await.state(), TaskState::Cancelled);
    wait::until("the app to be gone", || async { client.apps_of("node").await.is_empty() }).await;
    wait::until("the shim to be gone", || async { node.shims().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_the_state_forbids_are_refused_with_that_state() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let spec = restart(app(&cluster.image(), &["exit", "0"]), v1::RestartPolicy::Never);
    let job = client.create(spec, &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let job_id = job.job_id;
    let stop = client
        .jobs
        .clone()
        .stop_job(v1::StopJobRequest { job_id: job_id.clone(), cancel_in_flight: false, ..Default::default() })
        .await
        .unwrap_err();
    let resume = client
        .jobs
        .clone()
        .resume_job(v1::ResumeJobRequest { job_id: job_id.clone(), ..Default::default() })
        .await
        .unwrap_err();
    let retry = client.jobs.clone().retry_job(v1::RetryJobRequest { job_id, ..Default::default() }).await.unwrap_err();
    for status in [stop, resume, retry] {
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().contains("SUCCEEDED"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_node_fails_its_open_task() {
    let cluster = Cluster::start().await;
    let mut node = cluster.enroll("gone", &[], None, &[]).await;
    let client = cluster.client().await;
    let job = client.create(app(&cluster.image(), &["sleep"]), &["gone"]).await;
    client
        .nodes
        .clone()
        .delete_node(v1::DeleteNodeRequest { name: "gone".into(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    let task = client.task(&job.job_id).await;
    assert_eq!(task.failure.unwrap().reason(), v1::FailureReason::NodeDeleted);
    node.start();
    wait::until("the refusal in the agent's log", || async {
        node.log().contains("does not accept this node's identity")
    })
    .await;
    assert!(!client.is_connected("gone").await);
}
