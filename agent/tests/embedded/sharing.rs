//! Several instances behind one port of the node: only the embedded runtime can have them there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use longshore_agent::runtime::{InstanceKey, Launch, Runtime};
use longshore_demo_image::DemoImage;
use longshore_model::app::BoundPort;
use longshore_model::spec::Protocol;
use serde_json::json;

use super::node::{Node, PATIENCE, eventually, free_port, port};

const INSTANCES: u32 = 3;
/// So many connections that each of three instances has one, but for one time in 10^10.
const CLIENTS: usize = 60;

/// Launches of every instance, whose readiness decides on their traffic.
async fn launches(node: &Node, ports: &[BoundPort]) -> Vec<Launch> {
    let mut launches = Vec::new();
    for index in 0..INSTANCES {
        let spec = json!({
            "readinessProbe": { "tcpSocket": { "port": 8080 } },
            "instances": INSTANCES,
            "args": ["serve", "--udp-port", "9000"],
        });
        let launch = node.launch("a", DemoImage::new(), spec).await;
        let ports = ports.iter().map(|port| BoundPort { instance: index, shared: true, ..port.clone() }).collect();
        launches.push(Launch { instance: InstanceKey { index, ..launch.instance.clone() }, ports, ..launch });
    }
    launches
}

/// The name of the host that answers, which is that of the instance.
fn who(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let name = ["a-0", "a-1", "a-2"].into_iter().find(|name| answer.contains(name));
    name.map(str::to_owned).ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

/// Who answers many clients, of which each is answered.
fn answerers(port: u16) -> BTreeSet<String> {
    (0..CLIENTS).map(|_| who(port).unwrap()).collect()
}

/// Begins, and waits until the program answers.
async fn begin(node: &Node, launch: &Launch, port: u16) {
    node.run(launch).await.unwrap();
    node.runtime().admit(&launch.instance, true).await.unwrap();
    let name = format!("a-{}", launch.instance.index);
    eventually("an answer", || (0..CLIENTS).any(|_| who(port).is_ok_and(|who| who == name))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_go_to_those_that_are_ready() {
    let node = Node::new();
    let tcp = free_port();
    let mut launches = launches(&node, &[port(Protocol::Tcp, tcp, 8080)]).await;
    for launch in &launches {
        begin(&node, launch, tcp).await;
    }
    let names = |indices: &[u32]| indices.iter().map(|index| format!("a-{index}")).collect::<BTreeSet<_>>();
    assert_eq!(answerers(tcp), names(&[0, 1, 2]));
    node.runtime().admit(&launches[1].instance, false).await.unwrap();
    assert_eq!(answerers(tcp), names(&[0, 2]));
    node.runtime().admit(&launches[1].instance, true).await.unwrap();
    assert_eq!(answerers(tcp), names(&[0, 1, 2]));
    // One that is gone is missed by nobody, and its next run has its share again.
    node.runtime().delete(&launches[0].instance).await.unwrap();
    assert_eq!(answerers(tcp), names(&[1, 2]));
    launches[0].run += 100;
    node.runtime().create(&launches[0]).await.unwrap();
    node.runtime().start(&launches[0].instance).await.unwrap();
    assert_eq!(answerers(tcp), names(&[1, 2]), "it is not ready yet");
    node.runtime().admit(&launches[0].instance, true).await.unwrap();
    eventually("its share", || (0..CLIENTS).any(|_| who(tcp).is_ok_and(|who| who == "a-0"))).await;
    for launch in &launches {
        node.runtime().admit(&launch.instance, false).await.unwrap();
    }
    assert_eq!(who(tcp).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(TcpListener::bind((Ipv4Addr::LOCALHOST, tcp)).unwrap_err().kind(), ErrorKind::AddrInUse);
    node.end().await;
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, tcp)).is_ok(), "the port is free again");
}

fn echoes(client: &UdpSocket, port: u16) -> bool {
    let mut buffer = [0; 8];
    client.send_to(b"x", (Ipv4Addr::LOCALHOST, port)).unwrap();
    client.recv(&mut buffer).is_ok()
}

/// The clients of each instance: its shim has a socket that is connected to them.
fn owners(node: &Node, launches: &[Launch], clients: &[UdpSocket], port: u16) -> BTreeMap<u32, Vec<usize>> {
    let number = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    let sockets = std::fs::read_to_string("/proc/self/net/udp").unwrap();
    let connected = sockets.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let connected: BTreeMap<String, u16> = connected
        .filter(|fields| number(fields[1]) == port)
        .map(|fields| (format!("socket:[{}]", fields[9]), number(fields[2])))
        .collect();
    let has = |launch: &Launch, client: &UdpSocket| {
        let client = client.local_addr().unwrap().port();
        let files = std::fs::read_dir(format!("/proc/{}/fd", node.shim_pid(launch))).unwrap().flatten();
        let mut links =
            files.filter_map(|file| std::fs::read_link(file.path()).ok()?.into_os_string().into_string().ok());
        links.any(|link| connected.get(&link) == Some(&client))
    };
    let of = |launch: &Launch| (0..clients.len()).filter(|index| has(launch, &clients[*index])).collect();
    launches.iter().map(|launch| (launch.instance.index, of(launch))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_of_udp_stays_with_its_instance_whoever_comes_and_goes() {
    let node = Node::new();
    let (tcp, udp) = (free_port(), free_port());
    let launches = launches(&node, &[port(Protocol::Tcp, tcp, 8080), port(Protocol::Udp, udp, 9000)]).await;
    for launch in &launches {
        begin(&node, launch, tcp).await;
    }
    let client = || {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        client
    };
    let clients: Vec<UdpSocket> = (0..20).map(|_| client()).collect();
    for client in &clients {
        eventually("an echo", || echoes(client, udp)).await;
    }
    let before = owners(&node, &launches, &clients, udp);
    assert_eq!(before.values().map(Vec::len).sum::<usize>(), clients.len(), "each has one: {before:?}");
    assert!(before.values().filter(|its| !its.is_empty()).count() > 1, "one has them all: {before:?}");
    node.runtime().admit(&launches[0].instance, false).await.unwrap();
    node.runtime().admit(&launches[1].instance, false).await.unwrap();
    for client in &clients {
        eventually("an echo as before", || echoes(client, udp)).await;
    }
    assert_eq!(owners(&node, &launches, &clients, udp), before);
    let fresh: Vec<UdpSocket> = (0..10).map(|_| client()).collect();
    for client in &fresh {
        eventually("an echo from the one that is ready", || echoes(client, udp)).await;
    }
    let theirs = owners(&node, &launches, &fresh, udp);
    assert_eq!(theirs[&2].len(), fresh.len(), "{theirs:?}");
    node.runtime().admit(&launches[2].instance, false).await.unwrap();
    assert!(!echoes(&client(), udp), "nobody is ready");
    assert_eq!(UdpSocket::bind((Ipv4Addr::LOCALHOST, udp)).unwrap_err().kind(), ErrorKind::AddrInUse);
    for launch in &launches {
        node.runtime().admit(&launch.instance, true).await.unwrap();
    }
    assert_eq!(owners(&node, &launches, &clients, udp), before);
    node.end().await;
}
