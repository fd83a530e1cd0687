//! Admission against what a node has, on real machines.

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::spec::app;
use longshore_tests::{process, wait};
use v1::{FailureReason, JobState, TaskState};

fn asking(cluster: &Cluster, memory_bytes: u64) -> v1::AppSpec {
    let requests = Some(v1::Requests { memory_bytes, ..Default::default() });
    v1::AppSpec {
        resources: Some(v1::Resources { requests, ..Default::default() }),
        ..app(&cluster.image(), &["sleep"])
    }
}

async fn refusal(client: &Client, spec: v1::AppSpec) -> (String, v1::Failure) {
    let job = client.create(spec, &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    (job.job_id.clone(), client.task(&job.job_id).await.failure.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_promises_no_more_memory_than_it_has() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let whole = client.node("node").await.info.unwrap().memory_bytes;
    let first = client.create(asking(&cluster, whole / 10 * 6), &["node"]).await;
    assert_eq!(client.rest(&first.job_id).await.state(), JobState::Succeeded);

    let (second, failure) = refusal(&client, asking(&cluster, whole / 10 * 6)).await;
    let told = (failure.reason(), failure.step());
    assert_eq!(told, (FailureReason::InsufficientResources, TaskState::Checking), "{failure:?}");
    assert!(failure.message.contains(&format!("{} holds memory", first.app_name)), "{failure:?}");
    let (_, failure) = refusal(&client, asking(&cluster, whole)).await;
    assert_eq!(failure.reason(), FailureReason::InsufficientResources, "the system has its part: {failure:?}");

    // An agent that is killed knows it again from its ledger.
    node.kill();
    node.start();
    wait::until("the node's session", || async { client.is_connected("node").await }).await;
    let (_, failure) = refusal(&client, asking(&cluster, whole / 10 * 6)).await;
    assert_eq!(failure.reason(), FailureReason::InsufficientResources, "{failure:?}");

    let remove = v1::RemoveAppRequest { app_name: first.app_name.clone(), ..Default::default() };
    client.apps.clone().remove_app(remove).await.unwrap();
    wait::until("the app to be gone", || async { client.apps_of("node").await.is_empty() }).await;
    client.retry(&second).await;
    assert_eq!(client.rest(&second).await.state(), JobState::Succeeded, "{:?}", client.task(&second).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_the_system_is_a_setting_and_the_command_line_tells_the_refusal() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with("node", &[], None, &["--reserve-cpu", "1000"]).await;
    let text = format!(
        "spec:\n  name: web\n  image: {{ archive: {} }}\n  args: [sleep]\n  resources: {{ requests: {{ cpu: 1m }} }}\n\
         targets: {{ nodes: [node] }}\n",
        cluster.image()
    );
    let file = cluster.file("job.yaml", text);
    let applied = process::output(&mut cluster.cli(&["apply", "-f", &file]));
    assert!(!applied.status.success());
    let told = [applied.stdout, applied.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    for words in ["INSUFFICIENT_RESOURCES", "CPU 1m", "CPU 0", "no other app holds any"] {
        assert!(told.contains(words), "{words}: {told}");
    }
}
