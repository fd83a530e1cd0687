//! Privileged apps, and apps among the node's processes: allowed by the node itself or not at all.

use std::net::{Ipv4Addr, SocketAddr};

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::{Cluster, Node};
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::{http, process, wait};
use v1::{FailureReason, InstanceState, JobState, TaskState};

fn serve(cluster: &Cluster) -> v1::AppSpec {
    with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)])
}

/// The machine's address of an app's only port.
async fn address(client: &Client, app: &str) -> SocketAddr {
    let status = client.app("node", app).await.status.unwrap();
    SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(status.ports[0].host_port).unwrap()))
}

async fn restart_with(node: &mut Node, client: &Client, arguments: &[&str]) {
    assert!(node.stop());
    wait::until("the session's end", || async { !client.is_connected("node").await }).await;
    node.set_arguments(arguments);
    node.start();
    wait::until("the node's session", || async { client.is_connected("node").await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_node_that_allows_it_takes_a_privileged_app() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let cases = [
        (v1::AppSpec { privileged: true, ..serve(&cluster) }, "security.privileged", "--allow-privileged"),
        (v1::AppSpec { host_pid: true, ..serve(&cluster) }, "security.host-pid", "--allow-host-pid"),
    ];
    let mut jobs = Vec::new();
    for (spec, word, setting) in cases {
        let job = client.create(spec, &["node"]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
        let task = client.task(&job.job_id).await;
        let failure = task.failure.unwrap();
        assert_eq!((failure.reason(), failure.step()), (FailureReason::Unsupported, TaskState::Pending), "{failure:?}");
        assert!(failure.message.contains(word) && failure.message.contains(setting), "{failure:?}");
        assert!(!node.log().contains(&job.job_id), "the node never hears of it");
        jobs.push(job);
    }
    assert!(client.apps_of("node").await.is_empty());

    // Both at once, and the retry finds a node that takes them.
    restart_with(&mut node, &client, &["--allow-privileged", "--allow-host-pid"]).await;
    for job in &jobs {
        client.retry(&job.job_id).await;
        let job = client.rest(&job.job_id).await;
        assert_eq!(job.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
    }
    let [privileged, host_pid] = [&jobs[0], &jobs[1]].map(|job| job.app_name.clone());
    let status = http::get(address(&client, &privileged).await, "/read?path=/proc/self/status").await.unwrap().body;
    assert!(status.contains("Seccomp:\t0") && status.contains("NoNewPrivs:\t0"), "{status}");
    let greeting = http::get(address(&client, &host_pid).await, "/").await.unwrap().body;
    assert!(!greeting.contains("process 1\n"), "{greeting}");

    for app_name in [privileged, host_pid] {
        let remove = v1::RemoveAppRequest { app_name, ..Default::default() };
        client.apps.clone().remove_app(remove).await.unwrap();
    }
    wait::until("the apps to be gone", || async { client.apps_of("node").await.is_empty() }).await;
    wait::until("every shim to be gone", || async { node.shims().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_older_than_its_nodes_configuration_is_not_started_again() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node_with("node", &[], None, &["--allow-privileged"]).await;
    let client = cluster.client().await;
    let job = client.create(v1::AppSpec { privileged: true, ..serve(&cluster) }, &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let at = address(&client, &job.app_name).await;

    restart_with(&mut node, &client, &[]).await;
    assert_eq!(http::get(at, "/healthz").await.unwrap().body.trim(), "ok", "what runs runs on");
    assert_eq!(http::request("POST", at, "/exit?code=1", "").await.unwrap().status, 200);
    wait::until("word of the refusal", || async { node.log().contains("--allow-privileged") }).await;
    let instances = client.app("node", &job.app_name).await.status.unwrap().instances;
    assert!(instances.iter().all(|one| one.starts == 1 && one.state() != InstanceState::Running), "{instances:?}");
    assert!(node.shims().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_file_asks_for_it_and_the_command_line_tells_the_refusal() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let image = cluster.image();
    let text = format!(
        "spec:\n  name: web\n  image: {{ archive: {image} }}\n  args: [sleep]\n  privileged: true\n  hostPID: true\n\
         targets: {{ nodes: [node] }}\n"
    );
    let file = cluster.file("job.yaml", text);
    let applied = process::output(&mut cluster.cli(&["apply", "-f", &file]));
    assert!(!applied.status.success());
    let told = [applied.stdout, applied.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    for words in ["A privileged app is root", "UNSUPPORTED", "--allow-privileged and --allow-host-pid"] {
        assert!(told.contains(words), "{words}: {told}");
    }
}
