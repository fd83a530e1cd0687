//! Nodes whose containers are run by Debian's Docker or Podman instead of the agent's own runtime.

use std::net::{IpAddr, SocketAddr};

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::engine::{Engine, Kind};
use longshore_tests::http;
use longshore_tests::spec::{app, restart, tcp, with_ports};
use longshore_tests::wait;
use tokio_stream::wrappers::ReceiverStream;
use v1::forward_port_request::Message as Asked;
use v1::forward_port_response::Message as Answered;
use v1::{FailureReason, InstanceState, JobState, RestartPolicy, TaskState};

use crate::network::on_a_switch;

#[test]
fn apps_run_on_docker() {
    apps_run_on(Kind::Docker);
}

#[test]
fn apps_run_on_podman() {
    apps_run_on(Kind::Podman);
}

fn apps_run_on(kind: Kind) {
    on_a_switch(move |switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let host = switch.host();
        let mut engine = Engine::start(kind, &host);
        engine.stop();
        let socket = engine.address();
        let arguments = ["--runtime", "docker", "--docker-socket", &socket, "--usage-interval", "1s"];
        let mut node = cluster.enroll("node", &[], Some(&host), &arguments).await;
        node.start();
        wait::until("word of the missing engine", || async { node.log().contains("cannot be reached") }).await;
        assert!(node.is_running());
        engine.begin();
        let client = cluster.client().await;
        wait::until("the node's session", || async { client.is_connected("node").await }).await;
        let runtime = wait::for_value("what the node says of itself", || async {
            let answer = client.nodes.clone().get_node(v1::GetNodeRequest { name: "node".to_owned() }).await.unwrap();
            answer.into_inner().node.unwrap().info.map(|info| info.runtime)
        });
        assert_eq!(runtime.await, "docker");

        let range = v1::Port { container_port_end: 9002, host_port_end: 9002, ..tcp(9000, 9000) };
        let spec = with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 80), range]);
        let job = client.create(spec, &["node"]).await;
        let done = client.rest(&job.job_id).await;
        assert_eq!(done.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
        let address = SocketAddr::new(IpAddr::V4(host.address), 80);
        let started = http::get(address, "/started").await.unwrap().body;
        assert_eq!(client.app("node", &job.app_name).await.status.unwrap().ports.len(), 4);
        uses_something(&client, &job.app_name).await;
        let shared = v1::AppSpec { instances: 2, ..with_ports(app("/no/such.tar", &["serve"]), &[tcp(8080, 81)]) };
        let refused = client.create(shared, &["node"]).await;
        assert_eq!(client.rest(&refused.job_id).await.state(), JobState::Failed);
        let failure = client.task(&refused.job_id).await.failure.unwrap();
        assert_eq!((failure.reason(), failure.step()), (FailureReason::Unsupported, TaskState::Pending));
        assert!(failure.message.contains("network.ports.shared"), "{failure:?}");

        // Also by a way through the agent, to the port of the container itself.
        let said = through_the_agent(&client, &job.app_name, b"GET /started HTTP/1.1\r\n\r\n").await;
        assert!(said.ends_with(&started), "{said}");

        // The app does not notice that its agent is killed; the next one adopts it.
        node.kill();
        assert_eq!(http::get(address, "/started").await.unwrap().body, started);
        node.start();
        wait::until("the node's session", || async { client.is_connected("node").await }).await;
        assert_eq!(http::get(address, "/started").await.unwrap().body, started);

        failures_have_their_reasons(&client, &cluster).await;

        // Docker takes its containers along when it ends, and the restart policy brings them back.
        engine.stop();
        engine.begin();
        wait::until("the app after its engine was away", || async {
            http::get(address, "/healthz").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        wait::until("the app's status", || async {
            let status = client.app("node", &job.app_name).await.status.unwrap();
            status.instances.iter().all(|instance| instance.state() == InstanceState::Running)
        })
        .await;

        let remove =
            v1::RemoveAppRequest { app_name: job.app_name.clone(), node_name: String::new(), ..Default::default() };
        client.apps.clone().remove_app(remove).await.unwrap();
        wait::until("the app to be gone", || async { client.apps_of("node").await.is_empty() }).await;
        let (_, containers) = engine.request("GET", "/v1.40/containers/json?all=true", "");
        assert_eq!(containers.trim(), "[]");
        drop(node);
        let (_, images) = engine.request("GET", "/v1.40/images/json", "");
        assert_eq!(images.trim(), "[]", "a reset removes the node's images");
    });
}

/// Waits for what the engine says that an app uses.
async fn uses_something(client: &Client, app: &str) {
    wait::until("what the engine says that the app uses", || async {
        let status = client.app("node", app).await.status.unwrap();
        let usage = status.instances[0].usage;
        usage.is_some_and(|usage| usage.cpu_millis.is_some() && usage.memory_bytes.is_some_and(|bytes| bytes > 0))
    })
    .await;
}

/// What an app's port 8080 answers to these words.
async fn through_the_agent(client: &Client, app: &str, words: &[u8]) -> String {
    let (sender, requests) = tokio::sync::mpsc::channel(2);
    let (node_name, app_name) = ("node".to_owned(), app.to_owned());
    let start = v1::ForwardPortStart { node_name, app_name, port: 8080, ..Default::default() };
    for message in [Asked::Start(start), Asked::Data(words.to_vec())] {
        sender.send(v1::ForwardPortRequest { message: Some(message) }).await.unwrap();
    }
    let answers = client.apps.clone().forward_port(ReceiverStream::new(requests)).await.unwrap();
    let (mut answers, mut said) = (answers.into_inner(), Vec::new());
    while let Some(Answered::Started(_) | Answered::Data(_)) = answers.message().await.unwrap().and_then(|a| {
        if let Some(Answered::Data(bytes)) = &a.message {
            said.extend_from_slice(bytes);
        }
        a.message
    }) {}
    String::from_utf8_lossy(&said).into_owned()
}

async fn failures_have_their_reasons(client: &Client, cluster: &Cluster) {
    let once = |spec| restart(spec, RestartPolicy::Never);
    let mut greedy = once(app(&cluster.image(), &["eat", "200000000"]));
    greedy.resources = Some(v1::Resources { memory_bytes: 32 << 20, ..Default::default() });
    let absent = v1::AppSpec { command: vec!["/no/such".to_owned()], ..once(app(&cluster.image(), &[])) };
    let nowhere = once(app("/nowhere/image.tar", &[]));
    let cases = [
        (greedy, FailureReason::OutOfMemory),
        (absent, FailureReason::CommandNotFound),
        (nowhere, FailureReason::ImageNotFound),
        (once(app(&cluster.image(), &["exit", "3"])), FailureReason::ContainerExited),
    ];
    for (spec, reason) in cases {
        let job = client.create(spec, &["node"]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
        let failure = client.task(&job.job_id).await.failure.unwrap();
        assert_eq!(failure.reason(), reason, "{failure:?}");
    }
}
