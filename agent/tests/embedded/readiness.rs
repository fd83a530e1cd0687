//! Traffic of instances that are not ready: only the embedded runtime leads it itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use longshore_agent::runtime::{Launch, Runtime};
use longshore_demo_image::DemoImage;
use longshore_model::capability;
use longshore_model::spec::Protocol;
use serde_json::{Value, json};

use super::node::{Node, PATIENCE, eventually, free_port, http, port, udp_echo};

fn probed() -> Value {
    json!({ "readinessProbe": { "tcpSocket": { "port": 8080 } }, "args": ["serve", "--udp-port", "9000"] })
}

async fn launch(node: &Node, tcp: u16, udp: u16) -> Launch {
    let mut launch = node.launch("a", DemoImage::new(), probed()).await;
    launch.ports = vec![port(Protocol::Tcp, tcp, 8080), port(Protocol::Udp, udp, 9000)];
    launch
}

fn is_refused(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Whether a socket's datagram comes back.
fn echoes(socket: &UdpSocket, port: u16) -> bool {
    let mut buffer = [0; 8];
    socket.send_to(b"x", (Ipv4Addr::LOCALHOST, port)).unwrap();
    socket.recv(&mut buffer).is_ok()
}

fn datagrams() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_in_while_it_is_ready_and_no_others_can_have_the_port_meanwhile() {
    let node = Node::new();
    assert!(node.runtime().capabilities().contains(&capability::NETWORK_PORTS_READINESS.to_owned()));
    let (tcp, udp) = (free_port(), free_port());
    let launch = launch(&node, tcp, udp).await;
    let key = &launch.instance;
    node.runtime().create(&launch).await.unwrap();
    assert!(is_refused(tcp), "before it is started");
    node.runtime().start(key).await.unwrap();
    assert!(is_refused(tcp), "before it is ready");
    for _ in 0..3 {
        node.runtime().admit(key, true).await.unwrap();
        assert_eq!(http(tcp, "GET /healthz").await, "ok");
        udp_echo(udp, "in").await;
        node.runtime().admit(key, false).await.unwrap();
        assert!(is_refused(tcp));
        assert!(!echoes(&datagrams(), udp));
        // The standard library asks for ports as servers do that may take over from their predecessor's connections.
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, tcp)).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    }
    node.runtime().delete(key).await.unwrap();
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, tcp)).is_ok(), "the port is free again");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_there_stay() {
    let node = Node::new();
    let (tcp, udp) = (free_port(), free_port());
    let mut launch = launch(&node, tcp, udp).await;
    let echo = json!({ "readinessProbe": { "tcpSocket": { "port": 7 } } });
    let echo = node.launch("b", DemoImage::new().cmd(&["tcp-echo", "7"]), echo).await;
    let echo_port = free_port();
    let echo = Launch { ports: vec![port(Protocol::Tcp, echo_port, 7)], ..echo };
    launch.ports.remove(0);
    for launch in [&launch, &echo] {
        node.run(launch).await.unwrap();
        node.runtime().admit(&launch.instance, true).await.unwrap();
    }
    let old = datagrams();
    eventually("the first echo", || echoes(&old, udp)).await;
    // Whoever came before its program listened was reset.
    let mut stream = None;
    eventually("a connection", || {
        let said = TcpStream::connect((Ipv4Addr::LOCALHOST, echo_port)).and_then(|mut new| {
            new.set_read_timeout(Some(PATIENCE))?;
            new.write_all(b"x")?;
            new.read_exact(&mut [0; 1]).map(|()| new)
        });
        stream = said.ok();
        stream.is_some()
    })
    .await;
    for launch in [&launch, &echo] {
        node.runtime().admit(&launch.instance, false).await.unwrap();
    }
    let mut stream = stream.unwrap();
    stream.write_all(b"still").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!((&answer, is_refused(echo_port)), (b"still", true));
    eventually("the old client's echo", || echoes(&old, udp)).await;
    assert!(!echoes(&datagrams(), udp), "a new client");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_the_queue_is_served_when_the_port_is_shut() {
    let node = Node::new();
    let tcp = free_port();
    let launch = node.launch("a", DemoImage::new(), probed()).await;
    let launch = Launch { ports: vec![port(Protocol::Tcp, tcp, 8080)], ..launch };
    node.run(&launch).await.unwrap();
    node.runtime().admit(&launch.instance, true).await.unwrap();
    assert_eq!(http(tcp, "GET /healthz").await, "ok");
    let shim = nix::unistd::Pid::from_raw(node.shim_pid(&launch));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, tcp)).unwrap();
    let shut = node.runtime().admit(&launch.instance, false);
    let go_on = async { nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGCONT).unwrap() };
    let (shut, ()) = tokio::join!(shut, go_on);
    shut.unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("ok\n") || answer.ends_with("ok"), "{answer}");
    assert!(is_refused(tcp));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_stopped_gets_no_clients_while_it_ends_and_without_a_probe_nothing_is_shut() {
    let node = Node::new();
    let (one, other) = (free_port(), free_port());
    let ignores = json!({ "args": ["serve", "--ignore-term"] });
    let mut plain = node.launch("a", DemoImage::new(), ignores.clone()).await;
    plain.ports = vec![port(Protocol::Tcp, one, 8080)];
    let mut probed = probed();
    probed["args"] = ignores["args"].clone();
    let mut gated = node.launch("b", DemoImage::new(), probed).await;
    gated.ports = vec![port(Protocol::Tcp, other, 8080)];
    for (launch, port) in [(&plain, one), (&gated, other)] {
        node.run(launch).await.unwrap();
        node.runtime().admit(&launch.instance, true).await.unwrap();
        assert_eq!(http(port, "GET /healthz").await, "ok");
    }
    node.runtime().admit(&plain.instance, false).await.unwrap();
    assert_eq!(http(one, "GET /healthz").await, "ok");
    let grace = Duration::from_secs(3600);
    tokio::select! {
        stopped = node.runtime().stop(&gated.instance, grace) => panic!("{stopped:?}"),
        () = eventually("the port to be shut", || is_refused(other)) => {}
    }
    assert!(node.leftovers().iter().any(|left| left.contains("/b-0-")), "it has its time to end");
    node.end().await;
}
