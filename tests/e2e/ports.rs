//! Ports that several instances have, and ranges of them, on real containers.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use longshore_proto::v1;
use longshore_tests::client::{Client, seconds};
use longshore_tests::cluster::Cluster;
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::{http, process, wait};
use v1::{AppState, FailureReason, JobKind, JobState};

/// So many connections that each of three instances has one, but for one time in 10^10.
const CLIENTS: usize = 60;

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Three instances behind a port, that answer what `WORD` is.
fn three(cluster: &Cluster, port: u16, word: &str) -> v1::AppSpec {
    let value = Some(v1::env_var::Source::Value(word.to_owned()));
    let spec = with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, port.into())]);
    v1::AppSpec { instances: 3, env: vec![v1::EnvVar { name: "WORD".to_owned(), source: value }], ..spec }
}

/// What so many clients are told.
async fn answers(address: SocketAddr, path: &str) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    for _ in 0..CLIENTS {
        told.extend(http::get(address, path).await.ok().map(|answer| answer.body.trim().to_owned()));
    }
    told
}

async fn all_answer(client: &Client, app: &str, address: SocketAddr) {
    wait::until("all three instances", || async {
        let status = client.app("node", app).await.status.unwrap();
        status.state() == AppState::Running && answers(address, "/started").await.len() == 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_instances_share_a_port_over_crashes_and_updates() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let port = free_port();
    let job = client.create(three(&cluster, port, "first"), &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
    all_answer(&client, &job.app_name, local(port)).await;
    let ports = client.app("node", &job.app_name).await.status.unwrap().ports;
    assert_eq!(ports.len(), 3);
    assert!(ports.iter().all(|one| one.shared && one.host_port == u32::from(port)), "{ports:?}");
    let listed = process::succeed(&mut cluster.cli(&["app", "list"]));
    assert_eq!(listed.matches(&format!(":{port}->8080/tcp")).count(), 1, "{listed}");

    // It is one app's, also for an agent that has just begun.
    node.kill();
    node.start();
    wait::until("the node's session", || client.is_connected("node")).await;
    let other = client.create(with_ports(app(&cluster.image(), &["serve"]), &[tcp(80, port.into())]), &["node"]).await;
    assert_eq!(client.rest(&other.job_id).await.state(), JobState::Failed);
    let failure = client.task(&other.job_id).await.failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::PortInUse);
    assert!(failure.message.contains(&format!("by the app {}", job.app_name)), "{failure:?}");

    // One that crashes is missed by nobody, and comes back to its share.
    http::request("POST", local(port), "/exit?code=3", "").await.unwrap();
    wait::until("the crash to be seen", || async {
        let status = client.app("node", &job.app_name).await.status.unwrap();
        status.instances.iter().any(|instance| instance.last_exit.is_some())
    })
    .await;
    assert!(!answers(local(port), "/started").await.is_empty());
    all_answer(&client, &job.app_name, local(port)).await;

    let update = v1::CreateJobRequest {
        kind: JobKind::Update.into(),
        app_name: job.app_name.clone(),
        spec: Some(three(&cluster, port, "second")),
        timeout: Some(seconds(60)),
        ..Default::default()
    };
    let update = client.create_with(update).await;
    assert_eq!(client.rest(&update.job_id).await.state(), JobState::Succeeded);
    all_answer(&client, &job.app_name, local(port)).await;
    assert_eq!(answers(local(port), "/env/WORD").await.into_iter().collect::<Vec<_>>(), ["second"]);

    process::succeed(&mut cluster.cli(&["remove", &job.app_name]));
    wait::until("the app to be gone", || async { client.apps_of("node").await.is_empty() }).await;
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok());
}

/// The first of three ports in a row that nobody has.
fn three_free() -> u16 {
    (0..100)
        .map(|_| free_port())
        .find(|first| {
            (*first..first.saturating_add(3)).all(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok())
        })
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_port_of_a_range_leads_to_the_one_in_its_place() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let first = three_free();
    let range = format!("{first}-{}", first + 2);
    let file = |host: &str| {
        let text = format!(
            "spec:
  name: phone
  image: {{ archive: {} }}
  args: [serve, --udp-port, '9001']
  network: {{ ports: [{{ containerPort: 9000-9002, hostPort: {host}, protocol: udp }}] }}
  startup: {{ settle: 200ms }}
targets: {{ nodes: [node] }}
",
            cluster.image()
        );
        cluster.file("job.yaml", text)
    };
    for (host, told) in [
        ("1-65535", "spec.network.ports[0].hostPort: has 65535 ports for 3 of the container"),
        ("9002-9000", "spec.network.ports[0].hostPort: is 9002-9000; a range ends with its last port"),
        ("9-", "a range such as 8000-8010"),
    ] {
        let applied = process::output(&mut cluster.cli(&["apply", "-f", &file(host)]));
        let words = String::from_utf8_lossy(&applied.stderr).into_owned();
        assert!(!applied.status.success() && words.contains(told), "{host}: {words}");
    }
    process::succeed(&mut cluster.cli(&["apply", "-f", &file(&range)]));
    let app = client.apps_of("node").await.remove(0);
    assert_eq!(app.status.unwrap().ports.len(), 3);
    let shown = process::succeed(&mut cluster.cli(&["app", "show", &app.app_name]));
    assert!(shown.contains(&format!("0.0.0.0:{range}->9000-9002/udp")), "{shown}");
    let echo = move || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut buffer = [0; 8];
        // UDP may lose a datagram: ask again.
        (0..20).find_map(|_| {
            socket.send_to(b"hello", local(first + 1)).unwrap();
            socket.recv_from(&mut buffer).ok().map(|(length, from)| (buffer[..length].to_vec(), from))
        })
    };
    let echoed = tokio::task::spawn_blocking(echo).await.unwrap().unwrap();
    assert_eq!(echoed, (b"hello".to_vec(), local(first + 1)));
}
