//! Host network and port mapping.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

use longshore_agent::runtime::Runtime;
use longshore_demo_image::DemoImage;
use longshore_model::failure::FailureReason;
use longshore_model::spec::Protocol;
use serde_json::json;

use super::node::{Node, free_port, http, port, udp_echo};

#[tokio::test]
async fn the_hosts_network_is_the_nodes_own() {
    let node = Node::new();
    let host_port = free_port().to_string();
    let spec = json!({ "network": "host", "args": ["serve", "--port", host_port] });
    let launch = node.launch("a", DemoImage::new(), spec).await;
    node.run(&launch).await.unwrap();
    assert_eq!(http(host_port.parse().unwrap(), "GET /healthz").await, "ok");
    node.end().await;
}

#[tokio::test]
async fn tcp_and_udp_ports_lead_into_the_container() {
    let node = Node::new();
    let (tcp, other, udp) = (free_port(), free_port(), free_port());
    let spec = json!({ "args": ["serve", "--udp-port", "9000"] });
    let mut launch = node.launch("a", DemoImage::new(), spec).await;
    launch.ports =
        vec![port(Protocol::Tcp, tcp, 8080), port(Protocol::Tcp, other, 8080), port(Protocol::Udp, udp, 9000)];
    node.run(&launch).await.unwrap();
    assert_eq!(http(tcp, "GET /healthz").await, "ok");
    assert_eq!(http(other, "GET /healthz").await, "ok");
    udp_echo(udp, "first").await;
    udp_echo(udp, "second").await;
    // Its network is not the node's: nothing else listens there, and no device of the node is there.
    let devices = http(tcp, "GET /read?path=/proc/net/dev").await;
    assert_eq!(devices.lines().filter(|line| line.contains(':')).count(), node.devices(), "{devices}");
    node.end().await;
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, tcp)).is_ok(), "the port is free again");
}

#[tokio::test]
async fn a_half_closed_connection_still_answers() {
    const SIZE: usize = 3 * 1024 * 1024;
    let node = Node::new();
    let host_port = free_port();
    let mut launch = node.launch("a", DemoImage::new().cmd(&["tcp-echo", "7"]), json!({})).await;
    launch.ports = vec![port(Protocol::Tcp, host_port, 7)];
    node.run(&launch).await.unwrap();
    let echoed = tokio::task::spawn_blocking(move || {
        let deadline = std::time::Instant::now() + super::node::PATIENCE;
        loop {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, host_port)).unwrap();
            stream.set_read_timeout(Some(super::node::PATIENCE)).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let sender = std::thread::spawn(move || {
                writer.write_all(&vec![b'x'; SIZE])?;
                writer.shutdown(Shutdown::Write)
            });
            let mut answer = Vec::new();
            let read = stream.read_to_end(&mut answer);
            let sent = sender.join().unwrap();
            if read.is_ok() && sent.is_ok() {
                return answer.len();
            }
            assert!(std::time::Instant::now() < deadline, "{read:?} {sent:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    assert_eq!(echoed.await.unwrap(), SIZE);
    node.end().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let node = Node::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let host_port = taken.local_addr().unwrap().port();
    let mut launch = node.launch("a", DemoImage::new(), json!({})).await;
    launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
    // Some runtimes bind when they make a container, others when they start it.
    let error = node.run(&launch).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::PortInUse, "{error}");
    assert!(error.message.contains(&host_port.to_string()), "{error}");
    node.runtime().delete(&launch.instance).await.unwrap();
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.end().await;
}
