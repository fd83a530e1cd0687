//! The history of what happened to an app, on real containers.

use std::net::SocketAddr;

use longshore_proto::v1;
use longshore_tests::client::{Client, seconds};
use longshore_tests::cluster::Cluster;
use longshore_tests::process::succeed;
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::{http, wait};
use v1::{AppEventType, AppState, JobKind, JobState};

/// The served app, which is ready as long as there is a file, and may use 64 MiB.
fn spec(cluster: &Cluster) -> v1::AppSpec {
    let path = cluster.directory().join("answers").display().to_string();
    let answers = v1::volume::Source::HostPath(v1::HostPath { path, create: false });
    let get = v1::HttpGet { port: 8080, path: "/read?path=/answers/ready".to_owned(), ..Default::default() };
    let probe = v1::Probe {
        action: Some(v1::probe::Action::HttpGet(get)),
        period: Some(seconds(1)),
        timeout: Some(seconds(10)),
        failure_threshold: 2,
        ..Default::default()
    };
    v1::AppSpec {
        volumes: vec![v1::Volume { mount_path: "/answers".to_owned(), read_only: true, source: Some(answers) }],
        readiness_probe: Some(probe),
        resources: Some(v1::Resources { memory_bytes: 64 << 20, ..Default::default() }),
        ..with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)])
    }
}

async fn events(client: &Client, app: &str) -> Vec<v1::AppEvent> {
    let request = v1::ListAppEventsRequest { app_name: app.to_owned(), page_size: 1000, ..Default::default() };
    client.apps.clone().list_app_events(request).await.unwrap().into_inner().events
}

/// How often it is told that this happened, all messages together.
async fn told(client: &Client, app: &str, kind: AppEventType) -> u32 {
    events(client, app).await.iter().filter(|event| event.r#type() == kind).map(|event| event.count).sum()
}

async fn is_told(client: &Client, app: &str, kind: AppEventType, count: u32) {
    let what = format!("{} told {count} times", kind.as_str_name());
    wait::until(&what, || async { told(client, app, kind).await >= count }).await;
}

/// Lets the app end, by a request that it cannot answer.
async fn end(address: SocketAddr, request: &str) {
    wait::until("the app to answer", || async { http::get(address, "/healthz").await.is_ok() }).await;
    // It may end before its answer has left.
    let _ = http::request("POST", address, request, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_an_app_is_kept_and_outlives_it() {
    let mut cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let ready = cluster.directory().join("answers/ready");
    std::fs::create_dir_all(ready.parent().unwrap()).unwrap();
    std::fs::write(&ready, "yes").unwrap();
    let job = client.create(spec(&cluster), &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let name = job.app_name.as_str();
    let app = client.app("node", name).await;
    let address: SocketAddr = format!("127.0.0.1:{}", app.status.unwrap().ports[0].host_port).parse().unwrap();
    is_told(&client, name, AppEventType::Ready, 1).await;

    for round in 1..=2 {
        end(address, "/exit?code=7").await;
        is_told(&client, name, AppEventType::Exited, round).await;
        is_told(&client, name, AppEventType::Restarted, round).await;
    }
    end(address, "/eat?bytes=268435456").await;
    is_told(&client, name, AppEventType::OutOfMemory, 1).await;
    is_told(&client, name, AppEventType::Ready, 4).await;
    std::fs::remove_file(&ready).unwrap();
    is_told(&client, name, AppEventType::NotReady, 1).await;
    std::fs::write(&ready, "yes").unwrap();
    is_told(&client, name, AppEventType::Ready, 5).await;

    // What happens without a server is told when there is one, and nothing is told twice.
    cluster.kill_server();
    end(address, "/exit?code=7").await;
    wait::until("the app to answer", || async { http::get(address, "/healthz").await.is_ok() }).await;
    cluster.start_server().await;
    let client = cluster.client().await;
    is_told(&client, name, AppEventType::Exited, 3).await;
    is_told(&client, name, AppEventType::Ready, 6).await;
    let before = events(&client, name).await;
    cluster.kill_server();
    cluster.start_server().await;
    let client = cluster.client().await;
    wait::until("the node's session", || client.is_connected("node")).await;
    node.has_its_set().await;
    assert_eq!(events(&client, name).await, before);

    let update = v1::CreateJobRequest {
        kind: JobKind::Update.into(),
        app_name: name.to_owned(),
        spec: Some(v1::AppSpec { args: vec!["exit".to_owned(), "3".to_owned()], ..spec(&cluster) }),
        timeout: Some(seconds(60)),
        ..Default::default()
    };
    let update = client.create_with(update).await;
    assert_eq!(client.rest(&update.job_id).await.state(), JobState::Failed);
    is_told(&client, name, AppEventType::WentBack, 1).await;
    wait::until("the revision before", || async {
        let status = client.app("node", name).await.status.unwrap();
        status.state() == AppState::Running
    })
    .await;
    let remove = v1::RemoveAppRequest { app_name: name.to_owned(), ..Default::default() };
    client.apps.clone().remove_app(remove).await.unwrap();
    is_told(&client, name, AppEventType::Removed, 1).await;

    let shown = succeed(&mut cluster.cli(&["app", "events", name]));
    for expected in [
        "STARTED        Started with revision 1.",
        "EXITED         Ended with exit code 7.",
        "OUT_OF_MEMORY  Passed its memory limit and was killed: exit code 137 (SIGKILL).",
        "NOT_READY      Not ready: HTTP 404.",
        "EXITED         Ended with exit code 3.",
        &format!("UPDATING       Job {} updates it to revision 2.", update.job_id),
        &format!("WENT_BACK      Back to revision 1, for job {} did not succeed: Instance 0 ended", update.job_id),
        "REMOVED        Removed.",
    ] {
        assert!(shown.contains(expected), "{expected}:\n{shown}");
    }
    let ended = shown.lines().find(|line| line.contains("code 7")).unwrap();
    assert!(ended.contains("  3 in "), "{ended}");
    let filtered = succeed(&mut cluster.cli(&["app", "events", name, "--filter", "type = EXITED", "--instance", "0"]));
    assert_eq!(filtered.lines().count(), 3, "{filtered}");
    let json = succeed(&mut cluster.cli(&["app", "events", name, "--since", "1h", "-o", "json"]));
    assert!(json.contains("\"exitCode\": 7") && json.contains("\"type\": \"OUT_OF_MEMORY\""), "{json}");
}
