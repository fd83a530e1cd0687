//! Connections of people to ports of instances.

use std::net::{Ipv4Addr, TcpListener};

use longshore_agent::runtime::{Launch, PortError, Runtime};
use longshore_demo_image::DemoImage;
use longshore_tests::wait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::node::{Node, PATIENCE, free_port};

async fn serving(node: &Node, app: &str, spec: Value) -> Launch {
    let launch = node.launch(app, DemoImage::new(), spec).await;
    node.run(&launch).await.unwrap();
    launch
}

/// What the instance's program answers on a port, once it listens there.
async fn answer(node: &Node, launch: &Launch, port: u16) -> String {
    let mut stream = wait::for_value("the program to listen", || async {
        match node.runtime().connect(&launch.instance, port).await {
            Ok(stream) => Some(stream),
            Err(PortError::NotListening(_)) => None,
            Err(error) => panic!("port {port}: {error:?}"),
        }
    })
    .await;
    stream.write_all(b"GET /args HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn refusal(node: &Node, launch: &Launch, port: u16) -> String {
    match node.runtime().connect(&launch.instance, port).await {
        Err(PortError::NotListening(why)) => why,
        other => panic!("port {port}: {other:?}"),
    }
}

#[tokio::test]
async fn a_port_is_connected_to_inside_the_instance_mapped_or_not() {
    let node = Node::new();
    // Engines may give their containers no IPv6.
    let addresses: &[&str] =
        if node.runtime().name() == "embedded" { &["0.0.0.0", "127.0.0.1", "::1"] } else { &["0.0.0.0", "127.0.0.1"] };
    for (number, address) in addresses.iter().enumerate() {
        let spec = json!({ "args": ["serve", "--bind", address, "--port", "8081"] });
        let launch = serving(&node, &format!("a{number}"), spec).await;
        let answer = answer(&node, &launch, 8081).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(address), "{answer}");
        assert_eq!(refusal(&node, &launch, 9).await, "nothing listens on port 9 of the instance");
        node.runtime().stop(&launch.instance, PATIENCE).await.unwrap();
        let stopped = node.runtime().connect(&launch.instance, 8081).await;
        assert!(matches!(stopped, Err(PortError::NotRunning(_))), "{stopped:?}");
    }
    node.end().await;
}

#[tokio::test]
async fn in_the_nodes_network_nothing_is_connected_to_but_the_instances_own_ports() {
    let node = Node::new();
    let (own, others) = (free_port(), free_port());
    let launch = serving(&node, "a", json!({ "network": "host", "args": ["serve", "--port", own.to_string()] })).await;
    let neighbour = json!({ "network": "host", "args": ["serve", "--port", others.to_string()] });
    let neighbour = serving(&node, "b", neighbour).await;
    assert!(answer(&node, &launch, own).await.starts_with("HTTP/1.1 200"));
    assert!(answer(&node, &neighbour, others).await.starts_with("HTTP/1.1 200"));
    let nodes = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for port in [nodes.local_addr().unwrap().port(), others, 9] {
        let why = refusal(&node, &launch, port).await;
        assert!(why.starts_with(&format!("no process of the instance listens on port {port};")), "{why}");
    }
    nodes.set_nonblocking(true).unwrap();
    assert!(nodes.accept().is_err(), "nobody has tried");
    node.end().await;
}
