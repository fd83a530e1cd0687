//! Connections of people to ports of apps, on real containers.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::http;
use longshore_tests::process::{output, succeed};
use longshore_tests::spec::{app, on_host};
use longshore_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use v1::JobState;

async fn deployed(client: &Client, spec: v1::AppSpec) -> String {
    let job = client.create(spec, &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
    job.app_name
}

/// `longshore port-forward`, that runs.
struct Forward {
    program: Child,
    /// Where it listens, in the order of its words.
    addresses: Vec<SocketAddr>,
    errors: PathBuf,
}

impl Forward {
    fn start(cluster: &Cluster, words: &[&str]) -> Self {
        let errors = cluster.directory().join(format!("errors-{}", words.join("-").replace(':', "_")));
        let mut cli = cluster.cli(&[&["port-forward"], words].concat());
        let mut program = cli.stdout(Stdio::piped()).stderr(File::create(&errors).unwrap()).spawn().unwrap();
        let remotes: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix(':')).collect();
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
        let addresses = remotes.iter().map(|remote| {
            let line = lines.next().map_or_else(|| std::fs::read_to_string(&errors).unwrap(), Result::unwrap);
            let (local, to) = line.strip_prefix("Forwarding from ").and_then(|l| l.split_once(" -> ")).expect(&line);
            assert_eq!(to, *remote);
            local.parse().unwrap()
        });
        let addresses = addresses.collect();
        Self { program, addresses, errors }
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Target, code and reason of the connections in the audit log.
fn recorded(cluster: &Cluster) -> Vec<[String; 3]> {
    let filter = "method = \"longshore.v1.AppService/ForwardPort\"";
    let answer = succeed(&mut cluster.cli(&[
        "audit",
        "list",
        "--limit",
        "200",
        "--order-by",
        "number",
        "--filter",
        filter,
        "-o",
        "json",
    ]));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let row = |entry: &Value| ["target", "code", "reason"].map(|field| text(entry, field));
    let entries = answer["entries"].as_array().cloned().unwrap_or_default();
    entries.iter().filter(|entry| entry["validateOnly"] != true).map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_an_app_are_reached_and_each_connection_is_in_the_audit_log() {
    const CLIENTS: usize = 45;
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    // No port is mapped.
    let web = deployed(&client, app(&cluster.image(), &["serve", "--bind", "127.0.0.1"])).await;
    let mut forward = Forward::start(&cluster, &[&web, "--node", "node", ":8080", ":9"]);
    let (http, nothing) = (forward.addresses[0], forward.addresses[1]);
    assert!(http.ip().is_loopback());
    // More than may be at once: the others wait.
    let asked: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(http::get(http, "/healthz"))).collect();
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap().status, 200);
    }
    let mut stream = TcpStream::connect(nothing).await.unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    wait::until("word of the refusal", || async {
        forward.errors().contains("connection to port 9: nothing listens on port 9 of the instance")
    })
    .await;
    assert_eq!(http::get(http, "/healthz").await.unwrap().status, 200, "it goes on");

    let target = format!("nodes/node/apps/{web}/instances/0/ports");
    let log = recorded(&cluster);
    let count = |row: [&str; 3]| log.iter().filter(|entry| **entry == row.map(str::to_owned)).count();
    assert_eq!(count([&format!("{target}/8080"), "OK", ""]), CLIENTS + 1);
    assert_eq!(count([&format!("{target}/9"), "FAILED_PRECONDITION", "PORT_NOT_LISTENING"]), 1);
    assert_eq!(log.len(), CLIENTS + 2, "one for each connection");
    succeed(&mut cluster.cli(&["audit", "verify"]));

    kill(Pid::from_raw(forward.program.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(forward.program.wait().unwrap().code(), Some(130));
    assert_eq!(TcpStream::connect(http).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn much_goes_both_ways_at_once_and_either_way_ends_by_itself() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let echo = deployed(&client, app(&cluster.image(), &["tcp-echo", "7"])).await;
    let forward = Forward::start(&cluster, &[&echo, ":7"]);
    let sent: Vec<u8> = (0..8_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let stream = TcpStream::connect(forward.addresses[0]).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let to_send = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&to_send).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    let _write = writing.await.unwrap();
    assert!(back == sent, "{} bytes of {} came back", back.len(), sent.len());
}

/// Connections that stand to a port of this machine.
fn established(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let is_one = |row: &&str| {
        let fields: Vec<&str> = row.split_whitespace().collect();
        fields.get(1).is_some_and(|address| address.ends_with(&local)) && fields.get(3) == Some(&"01")
    };
    table.lines().filter(is_one).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_whoever_goes_away() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let port = StdListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port();
    let echo = deployed(&client, on_host(app(&cluster.image(), &["tcp-echo", &port.to_string()]))).await;
    let mut forward = Forward::start(&cluster, &[&echo, &format!(":{port}")]);
    let address = forward.addresses[0];
    let echoing = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        stream
    };
    let mut stream = echoing().await;
    assert_eq!(established(port), 1);
    node.kill();
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset, "no orderly end");
    wait::until("word of the end", || async { forward.errors().contains("the channel to node node broke off") }).await;
    wait::until("the connection's end", || async { established(port) == 0 }).await;
    wait::until("the node being away", || async { !client.is_connected("node").await }).await;
    node.start();
    wait::until("the node's session", || client.is_connected("node")).await;

    let mut stream = echoing().await;
    cluster.kill_server();
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset, "no orderly end");
    wait::until("the connection's end", || async { established(port) == 0 }).await;
    cluster.start_server().await;
    let client = cluster.client().await;
    wait::until("the node's session", || client.is_connected("node")).await;

    let _stream = echoing().await;
    forward.program.kill().unwrap();
    wait::until("the connection's end", || async { established(port) == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_connect_and_where_nobody_may_is_told_at_once() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&client, on_host(app(&cluster.image(), &["sleep"]))).await;
    let vic = cluster.directory().join("vic");
    succeed(&mut cluster.cli(&["user", "create", "vic", "--role", "viewer", "--out", vic.to_str().unwrap()]));
    let mut as_vic = cluster.cli(&["port-forward", &name, ":80"]);
    assert_eq!(output(as_vic.env("LONGSHORE_CREDENTIALS", &vic)).status.code(), Some(7));
    let refused = |words: &[&str]| {
        let found = output(&mut cluster.cli(&[&["port-forward"], words].concat()));
        (found.status.code(), String::from_utf8_lossy(&found.stderr).into_owned())
    };
    for (words, code, text) in [
        (&[&name, "80:"][..], 2, "write LOCAL:REMOTE"),
        (&["nothing-abcd", ":80"], 6, "nothing-abcd"),
        (&["nothing-abcd", "--node", "node", ":80"], 6, "nothing-abcd"),
        (&[&name, "--node", "nowhere", ":80"], 6, "nowhere"),
    ] {
        let (found, said) = refused(words);
        assert!(found == Some(code) && said.contains(text), "{words:?}: {found:?} {said}");
    }
    // In the node's own network, and so near to everything that only the node's programs shall reach.
    let nodes = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = nodes.local_addr().unwrap().port();
    let forward = Forward::start(&cluster, &[&name, &format!(":{port}")]);
    let mut stream = TcpStream::connect(forward.addresses[0]).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    wait::until("word of the refusal", || async { forward.errors().contains("no process of the instance listens") })
        .await;
    drop(forward);

    assert!(node.stop());
    wait::until("the node being away", || async { !client.is_connected("node").await }).await;
    let (code, said) = refused(&[&name, ":80"]);
    assert!(code == Some(8) && said.contains("is not connected"), "{code:?} {said}");
    node.set_arguments(&["--forbid-port-forward"]);
    node.start();
    wait::until("the node's session", || client.is_connected("node")).await;
    let (code, said) = refused(&[&name, ":80"]);
    assert!(code == Some(1) && said.contains("--forbid-port-forward"), "{code:?} {said}");
    let forbidden = ["FAILED_PRECONDITION", "PORT_FORWARD_FORBIDDEN"];
    let exec = output(&mut cluster.cli(&["exec", "node", &name, "--", "/app", "exit", "0"]));
    assert_eq!(exec.status.code(), Some(0), "one does not stand for the other");
    let log = succeed(&mut cluster.cli(&["audit", "list", "-o", "json"]));
    assert!(forbidden.iter().all(|word| log.contains(word)), "{log}");
}
