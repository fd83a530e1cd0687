//! What the built server does with connections that no well-behaved client makes, row by row of docs/threat-model.md.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request};
use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::{Cluster, Node};
use longshore_tests::http2::{
    ACK, Frame, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, PREFACE, Pem, REFUSED_STREAM, Receiver, Sender, begin,
    framed, kind, tls,
};
use longshore_tests::process::succeed;
use longshore_tests::wait;
use nix::sys::signal::{Signal, kill};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::network::on_a_switch;

const WATCH_HEALTH: &str = "/grpc.health.v1.Health/Watch";
const OPEN_SESSION: &str = "/longshore.v1.AgentService/OpenSession";
const GET_NODE: &str = "/longshore.v1.NodeService/GetNode";
const WAIT_JOB: &str = "/longshore.v1.JobService/WaitJob";

/// Whose certificate a connection shows.
enum Who {
    Nobody,
    Admin,
    Node(PathBuf),
}

impl Who {
    fn node(node: &Node) -> Self {
        Self::Node(node.directory().join("identity/node.pem"))
    }
}

async fn shake_hands(cluster: &Cluster, address: &str, who: &Who) -> tokio_rustls::client::TlsStream<TcpStream> {
    let admin = cluster.admin();
    let (root, chain, key) = (admin.join("root.crt"), admin.join("client.crt"), admin.join("client.key"));
    let pair = match who {
        Who::Nobody => None,
        Who::Admin => Some((chain.as_path(), key.as_path())),
        Who::Node(pem) => Some((pem.as_path(), pem.as_path())),
    };
    tls(address, Pem { root: &root, pair }).await.unwrap()
}

/// A connection that was greeted by the server, and the server's settings.
async fn speak(cluster: &Cluster, address: &str, who: &Who, settings: &[(u16, u32)]) -> (Sender, Receiver, Frame) {
    let (mut sender, mut receiver) = begin(shake_hands(cluster, address, who).await);
    sender.greet(settings).await.unwrap();
    let settings = receiver.find(|frame| frame.kind == kind::SETTINGS && frame.flags & ACK == 0).await.unwrap();
    sender.send(Frame::new(kind::SETTINGS, ACK, 0, &[])).await.unwrap();
    (sender, receiver, settings)
}

/// Waits for the end of a connection, clean or not.
async fn ends(what: &str, mut stream: impl tokio::io::AsyncRead + Unpin) {
    let end = async { while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(wait::PATIENCE, end).await.unwrap_or_else(|_| panic!("{what} is still open"));
}

/// That people are served as ever.
async fn serves(client: &Client) {
    let mut jobs = client.jobs.clone();
    jobs.list_jobs(v1::ListJobsRequest::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_stop_before_they_say_anything_are_closed_by_the_server() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let mut closing = tokio::task::JoinSet::new();
    for (address, who) in [(cluster.api_address(), Who::Admin), (cluster.agents_address(), Who::Nobody)] {
        let silent = TcpStream::connect(address).await.unwrap();
        closing.spawn(ends("a silent connection", silent));
        let mut halting = TcpStream::connect(address).await.unwrap();
        // A record of TLS that promises more than comes.
        halting.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.unwrap();
        closing.spawn(ends("a handshake that does not go on", halting));
        closing.spawn(ends("a handshake without HTTP/2", shake_hands(&cluster, address, &who).await));
        let mut short = shake_hands(&cluster, address, &who).await;
        short.write_all(&PREFACE[..23]).await.unwrap();
        short.flush().await.unwrap();
        closing.spawn(ends("a preface that lacks a byte", short));
    }
    serves(&client).await;
    while let Some(closed) = closing.join_next().await {
        closed.unwrap();
    }
    serves(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_of_either_port_are_refused() {
    let cluster = Cluster::start().await;
    let node = cluster.enroll("edge-1", &[], None, &[]).await;
    let agents = (cluster.agents_address(), Who::node(&node), OPEN_SESSION, 16);
    let people = (cluster.api_address(), Who::Admin, WATCH_HEALTH, 100);
    for (address, who, path, limit) in [agents, people] {
        let (mut sender, mut receiver, settings) = speak(&cluster, address, &who, &[]).await;
        assert_eq!(settings.setting(MAX_CONCURRENT_STREAMS), Some(limit));
        // Streams of clients are odd. A watch has its whole request, and a session waits for its first message.
        let streams: Vec<u32> = (0..=limit).map(|number| number * 2 + 1).collect();
        for stream in &streams {
            sender.send(Frame::call(*stream, path)).await.unwrap();
            if path == WATCH_HEALTH {
                sender.send(Frame::message(*stream, &[]).last()).await.unwrap();
            }
        }
        let refused = receiver.find(|frame| frame.kind == kind::RST_STREAM).await.unwrap();
        assert_eq!((refused.stream, refused.error()), (*streams.last().unwrap(), REFUSED_STREAM));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_descriptors_waits_between_its_attempts_and_recovers() {
    const FAILURE: &str = "cannot accept connections";
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    serves(&client).await;
    let pid = cluster.server_pid().to_string();
    let limit = |soft: usize| {
        succeed(Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={soft}:")]));
    };
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    limit(open + 4);
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(cluster.agents_address()).await.unwrap());
    }
    let moments = || -> Vec<jiff::Timestamp> {
        let log = cluster.server_log();
        let failures = log.lines().filter(|line| line.contains(FAILURE));
        failures.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
    };
    wait::until("five attempts that failed", || async { moments().len() >= 5 }).await;
    // Whoever is connected already notices nothing.
    serves(&client).await;
    drop(silent);
    limit(1024);
    serves(&cluster.client().await).await;
    // The pause is 100 ms; the log is written a moment after it.
    let moments = moments();
    let pause = jiff::SignedDuration::from_millis(90);
    assert!(moments.windows(2).all(|pair| pair[1].duration_since(pair[0]) >= pause), "{moments:?}");
}

/// Sends the same frame again and again, as fast as the server takes it, until so many bytes are sent; then waits until
/// all of them were read.
async fn flood(cluster: &Cluster, address: &str, who: &Who, frame: Frame, bytes: usize) {
    let (mut sender, mut receiver, _) = speak(cluster, address, who, &[]).await;
    let frames = frame.bytes().repeat(4096);
    let sending = async {
        for _ in 0..bytes / frames.len() {
            sender.send_bytes(&frames).await.unwrap();
        }
        sender.send(Frame::new(kind::PING, 0, 0, b"the last")).await.unwrap();
    };
    let answered = receiver.find(|frame| frame.kind == kind::PING && frame.payload == b"the last");
    let (answered, ()) = tokio::join!(answered, sending);
    assert!(answered.is_some(), "the connection ended: {frame:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_empty_frames_are_read_no_faster_than_the_budget() {
    /// Bytes that are sent: what is free, and as much as takes four seconds.
    const SENT: usize = 2 * 1024 * 1024;
    const FREE: usize = 1024 * 1024;
    const A_SECOND: f64 = 256.0 * 1024.0;
    let cluster = Cluster::start().await;
    let node = cluster.enroll("edge-1", &[], None, &[]).await;
    let client = cluster.client().await;
    let frames = [
        Frame::settings(&[(INITIAL_WINDOW_SIZE, 65_535)]),
        Frame::new(kind::PING, 0, 0, b"flooding"),
        Frame::new(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 16]),
    ];
    for (address, who) in [(cluster.api_address(), Who::Admin), (cluster.agents_address(), Who::node(&node))] {
        let begun = Instant::now();
        let [settings, ping, priority] = frames.clone().map(|frame| flood(&cluster, address, &who, frame, SENT));
        let others = async {
            for _ in 0..20 {
                serves(&client).await;
            }
        };
        tokio::join!(settings, ping, priority, others);
        // Frames are sent in lumps, the last of which may be missing.
        let least = (SENT - FREE) as f64 / A_SECOND * 0.9;
        assert!(begun.elapsed().as_secs_f64() >= least, "read in {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_and_endless_headers_end_the_connection() {
    let cluster = Cluster::start().await;
    let reset = |number: u32| {
        let stream = number * 2 + 1;
        let reset = Frame::new(kind::RST_STREAM, 0, stream, &8u32.to_be_bytes());
        [Frame::call(stream, WATCH_HEALTH).bytes(), reset.bytes()].concat()
    };
    let mut endless = Frame::call(1, WATCH_HEALTH);
    endless.flags = 0;
    let more = Frame::new(kind::CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']).bytes();
    let resets: Vec<u8> = (0..10_000).flat_map(reset).collect();
    let continuations = [endless.bytes(), more.repeat(100_000)].concat();
    for attack in [resets, continuations] {
        let (mut sender, mut receiver, _) = speak(&cluster, cluster.api_address(), &Who::Admin, &[]).await;
        // It may end while there is more to send.
        let sending = async { while sender.send_bytes(&attack).await.is_ok() {} };
        let told = async {
            let told = receiver.find(|frame| frame.kind == kind::GOAWAY).await;
            while receiver.next().await.is_some() {}
            told
        };
        assert!(tokio::join!(sending, told).1.is_some());
    }
    serves(&cluster.client().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_no_ping_is_closed() {
    let cluster = Cluster::start().await;
    let (_sender, mut receiver, _) = speak(&cluster, cluster.api_address(), &Who::Admin, &[]).await;
    let asked = receiver.find(|frame| frame.kind == kind::PING && frame.flags & ACK == 0).await;
    while receiver.next().await.is_some() {}
    assert!(asked.is_some(), "it was closed, and not for its silence");
}

#[test]
fn a_cable_that_is_pulled_ends_the_session_on_both_ends() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let host = switch.host();
        let node = cluster.node_with("node", &[], Some(&host), &["--runtime", "fake"]).await;
        let client = cluster.client().await;
        host.unplug();
        let on_the_server = wait::until("the server to notice", || async { !client.is_connected("node").await });
        let on_the_node = wait::until("the agent to notice", || async { node.log().contains("the session ended") });
        tokio::join!(on_the_server, on_the_node);
        host.plug();
        wait::until("the next session", || client.is_connected("node")).await;
    });
}

fn hello() -> v1::OpenSessionRequest {
    let info = v1::NodeInfo {
        agent_version: "0.1.0".to_owned(),
        architecture: "amd64".to_owned(),
        kernel_release: "6.1".to_owned(),
        cpus: 1,
        memory_bytes: 1 << 30,
        runtime: "fake".to_owned(),
        ..Default::default()
    };
    let hello = v1::Hello { min_protocol: 1, max_protocol: 1, info: Some(info) };
    v1::OpenSessionRequest { message: Some(v1::open_session_request::Message::Hello(hello)) }
}

/// What the server logs when it is told to go away while an agent never ends its session, and lets it send no more than
/// this.
async fn goes_away(window: u32) -> String {
    let mut cluster = Cluster::start().await;
    let node = cluster.enroll("edge-1", &[], None, &[]).await;
    let who = Who::node(&node);
    let settings = [(INITIAL_WINDOW_SIZE, window)];
    let (mut sender, mut receiver, _) = speak(&cluster, cluster.agents_address(), &who, &settings).await;
    sender.send(Frame::call(1, OPEN_SESSION)).await.unwrap();
    sender.send(Frame::message(1, &hello().encode_to_vec())).await.unwrap();
    receiver.find(|frame| frame.kind == kind::HEADERS).await.unwrap();
    let reading = tokio::spawn(async move {
        while let Some(frame) = receiver.next().await {
            if frame.kind == kind::PING && frame.flags & ACK == 0 {
                let _ = sender.send(Frame::new(kind::PING, ACK, 0, &frame.payload)).await;
            }
        }
    });

    kill(cluster.server_pid(), Signal::SIGTERM).unwrap();
    let ended = wait::for_value("the server's end", || std::future::ready(cluster.server_ended())).await;
    assert!(ended.success(), "{ended}");
    reading.await.unwrap();
    cluster.server_log()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_goes_away_though_no_agent_ends_its_session() {
    let (takes, takes_nothing) = tokio::join!(goes_away(65_535), goes_away(0));
    let cut_off = "cutting off the connections that are left";
    assert!(!takes.contains(cut_off), "{takes}");
    // Its end cannot be told to whoever takes nothing, and that holds the server up no longer than it bears.
    assert!(takes_nothing.contains(cut_off), "{takes_nothing}");
}

/// Bytes that gRPC puts before a message.
const PREFIX: usize = 5;

/// A well-behaved client that has no deadline of its own.
struct Caller(h2::client::SendRequest<Bytes>);

impl Caller {
    async fn connect(cluster: &Cluster) -> Self {
        let tls = shake_hands(cluster, cluster.api_address(), &Who::Admin).await;
        let (caller, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::spawn(connection);
        Self(caller)
    }

    /// The HTTP status and the headers of the answer to a call; a message that is not all there is not ended either.
    async fn call(&mut self, path: &str, header: (&str, &str), body: &[u8]) -> (u16, HeaderMap) {
        let request = Request::post(format!("https://localhost{path}")).header("content-type", "application/grpc");
        let request = request.header("te", "trailers").header(header.0, header.1).body(()).unwrap();
        self.0 = self.0.clone().ready().await.unwrap();
        let (answer, mut sending) = self.0.send_request(request, false).unwrap();
        let is_whole = body.len() > PREFIX;
        sending.send_data(Bytes::copy_from_slice(body), is_whole).unwrap();
        let answer = tokio::time::timeout(wait::PATIENCE, answer).await.expect("no answer came");
        let (head, _) = answer.unwrap().into_parts();
        (head.status.as_u16(), head.headers)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_call_are_told_by_the_codes_that_grpc_has_for_them() {
    let cluster = Cluster::start().await;
    cluster.enroll("edge-1", &[], None, &[]).await;
    let client = cluster.client().await;
    let mut app = longshore_tests::spec::app("", &[]);
    app.image.as_mut().unwrap().source = Some(v1::image::Source::Reference("registry.example.com/app:1".to_owned()));
    let job_id = client.create(app, &["edge-1"]).await.job_id;
    let wait_for = framed(&v1::WaitJobRequest { job_id, ..Default::default() }.encode_to_vec());
    let get = framed(&v1::GetNodeRequest { name: "edge-1".to_owned() }.encode_to_vec());
    // The beginning of a message of 5 MiB.
    let large = [0, 0, 80, 0, 0];
    let headers = "x".repeat(20_000);
    let cases = [
        (WAIT_JOB, ("grpc-timeout", "300m"), wait_for.as_slice(), Code::DeadlineExceeded, "DEADLINE", 200),
        (GET_NODE, ("x-nothing", ""), &large, Code::ResourceExhausted, "MESSAGE_TOO_LARGE", 200),
        (GET_NODE, ("x-nothing", &headers), &get, Code::ResourceExhausted, "HEADERS_TOO_LARGE", 431),
    ];
    let mut caller = Caller::connect(&cluster).await;
    for (path, header, body, code, reason, http) in cases {
        let (found, headers) = caller.call(path, header, body).await;
        let status = Status::from_header_map(&headers).unwrap();
        let told = status.get_details_error_info().unwrap().reason;
        assert_eq!((status.code(), told.as_str(), found), (code, reason, http), "{status:?}");
    }
    // What is larger still is not looked at, and the connection lives on.
    let headers = "x".repeat(40_000);
    assert_eq!(caller.call(GET_NODE, ("x-nothing", &headers), &get).await.0, 431);
    let (found, headers) = caller.call(GET_NODE, ("x-nothing", ""), &get).await;
    assert_eq!((found, headers.get("grpc-status")), (200, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_certificate_is_shown_after_sighup_and_nobody_is_cut_off() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with("edge-1", &[], None, &["--runtime", "fake"]).await;
    let client = cluster.client().await;
    let (mut sender, mut receiver, _) = speak(&cluster, cluster.api_address(), &Who::Admin, &[]).await;
    let shown = async |address: &str, who: &Who| {
        let tls = shake_hands(&cluster, address, who).await;
        tls.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let old = shown(cluster.api_address(), &Who::Admin).await;

    let pki = cluster.server_dir().join("pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
    let issuing = rcgen::KeyPair::from_pem(&read("issuing.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("issuing.crt"), issuing).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut wanted = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    wanted.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = wanted.signed_by(&key, &issuer).unwrap();
    std::fs::write(pki.join("server.key"), key.serialize_pem()).unwrap();
    std::fs::write(pki.join("server.crt"), format!("{}{}", certificate.pem(), read("issuing.crt"))).unwrap();
    kill(cluster.server_pid(), Signal::SIGHUP).unwrap();
    wait::until("the server to look", || async {
        cluster.server_log().contains("looking at the server's certificate")
    })
    .await;
    for (address, who) in [(cluster.api_address(), Who::Admin), (cluster.agents_address(), Who::Nobody)] {
        wait::until("the new certificate", || async { shown(address, &who).await == *certificate.der() }).await;
    }
    assert_ne!(old, *certificate.der());

    // What was open before is still: a call, a session, and a connection that says nothing.
    serves(&client).await;
    assert_eq!(cluster.server_log().matches("session opened").count(), 1, "{}", cluster.server_log());
    assert!(!cluster.server_log().contains("session closed"));
    sender.send(Frame::new(kind::PING, 0, 0, b"still on")).await.unwrap();
    let answered = receiver.find(|frame| frame.kind == kind::PING && frame.flags & ACK != 0).await;
    assert!(answered.is_some(), "the connection that says nothing was cut off");
    // A deleted node's session is another matter.
    client
        .nodes
        .clone()
        .delete_node(v1::DeleteNodeRequest { name: "edge-1".to_owned(), ..Default::default() })
        .await
        .unwrap();
    wait::until("the end of the session", || async { cluster.server_log().contains("session closed") }).await;
}
