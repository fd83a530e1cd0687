//! Probes on real containers: what they keep waiting, what they start again, and what people are told of it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use longshore_proto::v1;
use longshore_tests::client::{Client, seconds};
use longshore_tests::cluster::Cluster;
use longshore_tests::http;
use longshore_tests::process::succeed;
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::wait;
use v1::{AppState, FailureReason, JobKind, JobState, TaskState};

/// A directory of the node in which the app's answers lie: what is there is answered with 200, what is not with 404.
struct Answers(PathBuf);

impl Answers {
    fn new(cluster: &Cluster) -> Self {
        let directory = cluster.directory().join("answers");
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn give(&self, name: &str) {
        std::fs::write(self.0.join(name), "yes").unwrap();
    }

    fn take(&self, name: &str) {
        std::fs::remove_file(self.0.join(name)).unwrap();
    }

    fn volume(&self) -> v1::Volume {
        let path = v1::HostPath { path: path(&self.0), create: false };
        let source = Some(v1::volume::Source::HostPath(path));
        v1::Volume { mount_path: "/answers".to_owned(), read_only: true, source }
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// A probe by HTTP GET that is asked once a second.
fn probe(name: &str) -> v1::Probe {
    let get = v1::HttpGet { port: 8080, path: format!("/read?path=/answers/{name}"), ..Default::default() };
    v1::Probe {
        action: Some(v1::probe::Action::HttpGet(get)),
        period: Some(seconds(1)),
        timeout: Some(seconds(10)),
        failure_threshold: 2,
        ..Default::default()
    }
}

fn spec(cluster: &Cluster, answers: &Answers) -> v1::AppSpec {
    v1::AppSpec {
        volumes: vec![answers.volume()],
        liveness_probe: Some(probe("alive")),
        readiness_probe: Some(probe("ready")),
        ..with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)])
    }
}

async fn in_state(client: &Client, name: &str, state: AppState) -> v1::AppStatus {
    wait::for_value(&format!("the app being {}", state.as_str_name()), || async {
        client.app("node", name).await.status.filter(|status| status.state() == state)
    })
    .await
}

fn cli(cluster: &Cluster, arguments: &[&str]) -> String {
    succeed(&mut cluster.cli(arguments))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_healthy_once_it_is_ready_and_both_are_shown() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let answers = Answers::new(&cluster);
    answers.give("alive");
    let job = client.create(spec(&cluster, &answers), &["node"]).await;
    client.reach(&job.job_id, TaskState::Settling).await;
    let told = |name: String| {
        let client = &client;
        wait::for_value("the answer", move || {
            let name = name.clone();
            async move {
                let readiness = client.app("node", &name).await.status?.instances.first()?.readiness.clone()?;
                (readiness.message == "HTTP 404").then_some(readiness)
            }
        })
    };
    assert!(!told(job.app_name.clone()).await.ready);
    // The instance answers its probe, and nobody by its port.
    let port = client.app("node", &job.app_name).await.status.unwrap().ports[0].host_port;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap()));
    let refused = || async { http::get(address, "/healthz").await.err().map(|error| error.kind()) };
    assert_eq!(refused().await, Some(ErrorKind::ConnectionRefused));
    assert_eq!(client.task(&job.job_id).await.state(), TaskState::Settling);
    let shown = cli(&cluster, &["app", "show", &job.app_name]);
    assert!(shown.contains("NOT_READY") && shown.contains(": HTTP 404"), "{shown}");
    answers.give("ready");
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    assert_eq!(http::get(address, "/healthz").await.unwrap().status, 200);
    in_state(&client, &job.app_name, AppState::Running).await;
    let listed = cli(&cluster, &["app", "list"]);
    assert!(listed.contains("1/1"), "{listed}");
    answers.take("ready");
    let status = in_state(&client, &job.app_name, AppState::NotReady).await;
    assert_eq!(status.instances[0].starts, 1, "readiness restarts nothing");
    wait::until("the port to be shut", || async { refused().await == Some(ErrorKind::ConnectionRefused) }).await;
    answers.give("ready");
    wait::until("the port to be open", || async { http::get(address, "/healthz").await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_not_ready_at_the_deadline_fails_and_says_what_it_answered() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let answers = Answers::new(&cluster);
    answers.give("alive");
    let request = v1::CreateJobRequest {
        spec: Some(spec(&cluster, &answers)),
        targets: Some(v1::Targets { node_names: vec!["node".to_owned()], ..Default::default() }),
        timeout: Some(seconds(15)),
        ..Default::default()
    };
    let job = client.create_with(request).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::TimedOut);
    let failure = client.task(&job.job_id).await.failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::DeadlineExceeded);
    assert!(failure.message.ends_with("; instance 0 is not ready: HTTP 404."), "{failure:?}");
    wait::until("the app being gone", || async { node.containers().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_does_not_live_is_started_again_also_by_a_new_agent_without_a_server() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let answers = Answers::new(&cluster);
    ["alive", "ready"].iter().for_each(|name| answers.give(name));
    let job = client.create(spec(&cluster, &answers), &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let before = node.shims();
    node.kill();
    cluster.kill_server();
    node.start();
    assert_eq!(node.shims(), before, "the app was not adopted");
    answers.take("alive");
    wait::until("another container", || async { node.shims().iter().all(|shim| !before.contains(shim)) }).await;
    answers.give("alive");
    cluster.start_server().await;
    let client = cluster.client().await;
    wait::until("the node's session", || client.is_connected("node")).await;
    // The server comes back with what it knew before.
    wait::until("the agent's own word of the second start", || async {
        client.app("node", &job.app_name).await.status.unwrap().instances[0].starts >= 2
    })
    .await;
    let status = in_state(&client, &job.app_name, AppState::Running).await;
    let instance = &status.instances[0];
    assert_eq!(instance.last_exit_reason, "liveness probe failed: HTTP 404");
    let shown = cli(&cluster, &["app", "show", &job.app_name]);
    assert!(shown.contains("liveness probe failed: HTTP 404"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_does_not_live_fails_by_its_starts() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let answers = Answers::new(&cluster);
    let startup = v1::Startup { settle: Some(seconds(60)), max_starts: 2 };
    let job = client.create(v1::AppSpec { startup: Some(startup), ..spec(&cluster, &answers) }, &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    let failure = client.task(&job.job_id).await.failure.unwrap();
    assert_eq!((failure.reason(), failure.step()), (FailureReason::LivenessProbeFailed, TaskState::Settling));
    assert!(failure.message.ends_with("liveness probe failed: HTTP 404."), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_does_not_become_ready_goes_back() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let answers = Answers::new(&cluster);
    ["alive", "ready"].iter().for_each(|name| answers.give(name));
    let job = client.create(spec(&cluster, &answers), &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let update = v1::CreateJobRequest {
        kind: JobKind::Update.into(),
        app_name: job.app_name.clone(),
        spec: Some(v1::AppSpec { readiness_probe: Some(probe("never")), ..spec(&cluster, &answers) }),
        timeout: Some(seconds(15)),
        ..Default::default()
    };
    let update = client.create_with(update).await;
    assert_eq!(client.rest(&update.job_id).await.state(), JobState::TimedOut);
    let failure = client.task(&update.job_id).await.failure.unwrap();
    assert!(failure.message.contains("is not ready: HTTP 404"), "{failure:?}");
    wait::until("the revision before", || async {
        let app = client.app("node", &job.app_name).await;
        app.revision == 1 && app.status.is_some_and(|status| status.state() == AppState::Running)
    })
    .await;
}

/// A probe by a command that is asked once a second: it ends well as long as there is such an answer.
fn command(name: &str) -> v1::Probe {
    let command = ["/app", "cat", &format!("/answers/{name}")].map(str::to_owned).to_vec();
    let action = Some(v1::probe::Action::Exec(v1::ExecAction { command }));
    v1::Probe { action, ..probe(name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_say_whether_an_app_lives_and_is_ready() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let answers = Answers::new(&cluster);
    answers.give("alive");
    let spec = v1::AppSpec {
        liveness_probe: Some(command("alive")),
        readiness_probe: Some(command("ready")),
        ..spec(&cluster, &answers)
    };
    let job = client.create(spec, &["node"]).await;
    client.reach(&job.job_id, TaskState::Settling).await;
    wait::until("the command's own words", || async {
        let instance =
            client.app("node", &job.app_name).await.status.and_then(|status| status.instances.first().cloned());
        let readiness = instance.and_then(|instance| instance.readiness);
        readiness.is_some_and(|told| told.message.starts_with("exit code 1: app: /answers/ready: No such file"))
    })
    .await;
    answers.give("ready");
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    in_state(&client, &job.app_name, AppState::Running).await;
    answers.take("alive");
    wait::until("another start", || async {
        let status = client.app("node", &job.app_name).await.status.unwrap();
        status.instances[0].last_exit_reason.starts_with("liveness probe failed: exit code 1: app: /answers/alive")
    })
    .await;
}
