//! Jobs that remove apps, on real containers.

use longshore_proto::v1;
use longshore_tests::client::{Client, seconds};
use longshore_tests::cluster::Cluster;
use longshore_tests::process::succeed;
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::wait;
use v1::{JobKind, JobState, TaskState};

async fn deployed(cluster: &Cluster, client: &Client, nodes: &[&str]) -> String {
    let spec = with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)]);
    let job = client.create(spec, nodes).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    job.app_name
}

fn removal(app: &str) -> v1::CreateJobRequest {
    v1::CreateJobRequest {
        kind: JobKind::Remove.into(),
        app_name: app.to_owned(),
        timeout: Some(seconds(60)),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paced_removal_leaves_nothing_on_any_node_but_what_is_the_nodes_own() {
    let cluster = Cluster::start().await;
    let nodes = [cluster.node("a").await, cluster.node("b").await];
    let client = cluster.client().await;
    let kept = tempfile::tempdir().unwrap();
    let mut spec = with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)]);
    let host = v1::HostPath { path: kept.path().display().to_string(), create: false };
    let volume = |mount_path: &str, source| v1::Volume {
        mount_path: mount_path.to_owned(),
        source: Some(source),
        read_only: false,
    };
    spec.volumes = vec![
        volume("/data", v1::volume::Source::HostPath(host)),
        volume("/cache", v1::volume::Source::EmptyDir(v1::EmptyDir::default())),
    ];
    std::fs::write(kept.path().join("ledger"), "mine").unwrap();
    let job = client.create(spec, &["a", "b"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);

    let one_by_one = v1::Rollout { max_parallel: 1, ..Default::default() };
    let request = v1::CreateJobRequest { rollout: Some(one_by_one), ..removal(&job.app_name) };
    let removal = client.create_with(request).await;
    assert_eq!(client.rest(&removal.job_id).await.state(), JobState::Succeeded);
    for node in &nodes {
        assert!(node.shims().is_empty());
        let volumes = node.directory().join("runtime/volumes").join(&job.app_name);
        assert!(!volumes.exists(), "an empty directory was left");
        assert_eq!(client.apps_of(node.name()).await, []);
    }
    assert_eq!(std::fs::read_to_string(kept.path().join("ledger")).unwrap(), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_outlives_kills_of_agent_and_server_and_waits_for_who_is_away() {
    let mut cluster = Cluster::start().await;
    let mut nodes = [cluster.node("a").await, cluster.node("b").await];
    let client = cluster.client().await;
    let app = deployed(&cluster, &client, &["a", "b"]).await;
    nodes[1].kill();
    let job = client.create_with(removal(&app)).await;
    wait::until("the removal from the node that is there", || {
        let client = client.clone();
        let job_id = job.job_id.clone();
        async move { client.tasks(&job_id).await[0].state() == TaskState::Succeeded }
    })
    .await;
    assert!(!nodes[1].containers().is_empty(), "a node that is away keeps what it has");
    cluster.kill_server();
    cluster.start_server().await;
    nodes[1].start();
    let client = cluster.client().await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    assert!(nodes[1].shims().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_removes_by_a_job_too() {
    let cluster = Cluster::start().await;
    let node = cluster.node("a").await;
    let client = cluster.client().await;
    let app = deployed(&cluster, &client, &["a"]).await;
    let printed = succeed(&mut cluster.cli(&["remove", &app, "--max-parallel", "1"]));
    assert!(printed.contains("SUCCEEDED"), "{printed}");
    assert!(node.shims().is_empty());
    let jobs = succeed(&mut cluster.cli(&["job", "list", "--filter", "kind = REMOVE"]));
    assert!(jobs.contains(&app), "{jobs}");

    let app = deployed(&cluster, &client, &["a"]).await;
    let file = cluster.file("removal.yaml", format!("kind: Remove\napp: {app}\n"));
    succeed(&mut cluster.cli(&["apply", "-f", &file]));
    assert!(node.shims().is_empty());
}
