//! The way out of containers with mapped ports. Everything is on hosts of the tests' own: the machine's packet filter is
//! not touched.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::host::Host;
use longshore_tests::http;
use longshore_tests::process::{self, succeed};
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::wait;
use v1::JobState;

use crate::network::on_a_switch;

/// A server on a host, which tells each client the address that it came from.
fn mirror(host: &Host) -> SocketAddr {
    let address = host.address;
    let listener = host.run(move || TcpListener::bind((address, 0)).unwrap());
    let bound = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().unwrap().ip();
            // The whole request: what is left unread at the end would reset the connection.
            let head = BufReader::new(&stream).lines().map_while(Result::ok);
            head.take_while(|line| !line.is_empty()).for_each(drop);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nyou are {peer}.");
        }
    });
    bound
}

/// Runs a program in a host's network.
fn on(host: &Host, words: &str) -> String {
    succeed(Command::new("nsenter").arg(format!("--net=/run/netns/{}", host.namespace())).args(words.split(' ')))
}

/// Addresses of a host's containers, by its routes.
fn containers(host: &Host) -> Vec<IpAddr> {
    let routes = on(host, "ip -4 route show scope link");
    let ours = routes.lines().filter(|line| line.contains(" dev ls-"));
    ours.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}

/// What egress has changed on a host, beside its own interfaces and routes.
fn traces(host: &Host) -> (String, String, String) {
    let read = |path: &'static str| host.run(move || std::fs::read_to_string(path).unwrap().trim().to_owned());
    let (general, eth0) = (read("/proc/sys/net/ipv4/ip_forward"), read("/proc/sys/net/ipv4/conf/eth0/forwarding"));
    (on(host, "nft list ruleset"), general, eth0)
}

fn untouched() -> (String, String, String) {
    (String::new(), "0".to_owned(), "0".to_owned())
}

async fn deploy(client: &Client, cluster: &Cluster, node: &str, port: u32) -> String {
    let spec = with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, port)]);
    let job = client.create(spec, &[node]).await;
    let state = client.rest(&job.job_id).await.state();
    assert_eq!(state, JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
    job.app_name
}

async fn remove(client: &Client, node: &str, app: &str) {
    let request = v1::RemoveAppRequest { app_name: app.to_owned(), ..Default::default() };
    client.apps.clone().remove_app(request).await.unwrap();
    wait::until("the app's removal", || async { client.apps_of(node).await.iter().all(|a| a.app_name != app) }).await;
}

/// What the app behind a host's port gets from another server.
async fn fetch(host: &Host, port: u16, from: SocketAddr) -> http::Answer {
    http::get(SocketAddr::from((host.address, port)), &format!("/fetch?from={from}")).await.unwrap()
}

/// Fails unless the app behind a host's port reaches the mirror, and is seen there under the host's address.
async fn reaches(host: &Host, port: u16, mirror: SocketAddr) {
    let seen = fetch(host, port, mirror).await;
    let is_seen = seen.body.contains(&format!("you are {}.", host.address));
    assert!(is_seen, "{port}: {seen:?}\n{}\n{}", on(host, "nft list ruleset"), on(host, "ip route"));
}

async fn capabilities(client: &Client, node: &str) -> Vec<String> {
    wait::for_value("the node's facts", || async {
        let request = v1::GetNodeRequest { name: node.to_owned() };
        let node = client.nodes.clone().get_node(request).await.unwrap().into_inner().node.unwrap();
        node.info.map(|info| info.capabilities)
    })
    .await
}

#[test]
fn containers_reach_other_hosts_and_not_each_other_and_leave_nothing() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let (host, outside) = (switch.host(), switch.host());
        let mirror = mirror(&outside);
        let mut node = cluster.node_with("node", &[], Some(&host), &[]).await;
        let client = cluster.client().await;
        assert!(capabilities(&client, "node").await.contains(&"network.egress".to_owned()));
        assert_eq!(traces(&host), untouched(), "nothing is made before it is needed");

        let first = deploy(&client, &cluster, "node", 80).await;
        reaches(&host, 80, mirror).await;
        let second = deploy(&client, &cluster, "node", 81).await;
        reaches(&host, 81, mirror).await;

        // Of the two addresses one is its own, the other its neighbour's.
        let addresses = containers(&host);
        assert_eq!(addresses.len(), 2);
        let mut reached = 0;
        for address in &addresses {
            reached += u32::from(fetch(&host, 80, SocketAddr::new(*address, 8080)).await.status == 200);
        }
        assert_eq!(reached, 1, "only its own");
        // Nor from a host that takes the node for a router.
        on(&outside, &format!("ip route add 10.213.0.0/16 via {}", host.address));
        let target = SocketAddr::new(addresses[0], 8080);
        let knocks = move || std::net::TcpStream::connect_timeout(&target, std::time::Duration::from_secs(1)).is_ok();
        assert!(!outside.run(knocks));

        let (rules, general, eth0) = traces(&host);
        assert!(rules.contains("masquerade"), "{rules}");
        assert_eq!((general.as_str(), eth0.as_str()), ("0", "1"), "only what is needed is opened");
        let interfaces = client.nodes.clone().get_node(v1::GetNodeRequest { name: "node".to_owned() }).await.unwrap();
        let interfaces = interfaces.into_inner().node.unwrap().info.unwrap().interfaces;
        assert!(interfaces.iter().all(|interface| !interface.name.starts_with("ls-")));

        // Neither the agent's death nor its return makes a difference.
        node.kill();
        reaches(&host, 80, mirror).await;
        node.start();
        wait::until("the agent's return", || client.is_connected("node")).await;
        reaches(&host, 80, mirror).await;

        remove(&client, "node", &first).await;
        reaches(&host, 81, mirror).await;
        remove(&client, "node", &second).await;
        assert_eq!(traces(&host), untouched());
        assert!(!on(&host, "cat /proc/net/dev").contains("ls-"));
    });
}

#[test]
fn agents_of_one_host_share_what_they_need() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let (host, outside) = (switch.host(), switch.host());
        let mirror = mirror(&outside);
        let one = cluster.node_with("one", &[], Some(&host), &[]).await;
        let mut two = cluster.node_with("two", &[], Some(&host), &["--egress", "172.30.0.0/24"]).await;
        let client = cluster.client().await;
        let first = deploy(&client, &cluster, "one", 80).await;
        deploy(&client, &cluster, "two", 81).await;
        assert!(containers(&host).iter().any(|address| address.to_string().starts_with("172.30.0.")));
        for port in [80, 81] {
            reaches(&host, port, mirror).await;
        }
        remove(&client, "one", &first).await;
        reaches(&host, 81, mirror).await;
        drop(one);
        reaches(&host, 81, mirror).await;
        // After a crash of everything at once, too, the reset leaves nothing.
        two.kill();
        two.shims().into_iter().for_each(process::kill_tree);
        drop(two);
        assert_eq!(traces(&host), untouched());
        assert!(!on(&host, "cat /proc/net/dev").contains("ls-"));
    });
}

#[test]
fn forwarding_that_was_on_stays_on_and_foreign_rules_stay() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let (host, outside) = (switch.host(), switch.host());
        let mirror = mirror(&outside);
        host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        on(&host, "nft add table ip other");
        let before = traces(&host);
        let _node = cluster.node_with("node", &[], Some(&host), &[]).await;
        let client = cluster.client().await;
        let app = deploy(&client, &cluster, "node", 80).await;
        reaches(&host, 80, mirror).await;
        remove(&client, "node", &app).await;
        assert_eq!(traces(&host), before);
    });
}

#[test]
fn without_a_way_out_the_node_says_so_and_all_else_works() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let (host, outside) = (switch.host(), switch.host());
        let mirror = mirror(&outside);
        // The switch's own network: the node reaches it otherwise.
        let node = cluster.node_with("node", &[], Some(&host), &["--egress", "10.77.0.0/24"]).await;
        let client = cluster.client().await;
        assert!(!capabilities(&client, "node").await.contains(&"network.egress".to_owned()));
        assert!(node.log().contains("the node has a route into 10.77.0.0/24"), "{}", node.log());
        deploy(&client, &cluster, "node", 80).await;
        assert_eq!(fetch(&host, 80, mirror).await.status, 502);
        assert_eq!(traces(&host), untouched());
    });
}

#[test]
fn what_an_earlier_node_of_the_directory_has_made_goes_too() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let host = switch.host();
        let mut node = cluster.node_with("node", &[], Some(&host), &[]).await;
        let client = cluster.client().await;
        let app = deploy(&client, &cluster, "node", 80).await;
        let names = || on(&host, "cat /proc/net/dev");
        let pair = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
        let pair = names().lines().filter_map(pair).find(|name| name.starts_with("ls-")).unwrap();

        // A crash of everything, after which the kernel still has a pair of the node's.
        node.kill();
        node.shims().into_iter().for_each(process::kill_tree);
        wait::until("the container's own pair to go", || async { !names().contains("ls-") }).await;
        let left = format!("{}{:06x}", &pair[..pair.len() - 6], 0xff);
        on(&host, &format!("ip link add {left} type veth peer name left"));
        assert_ne!(traces(&host), untouched());

        // The directory's identity was lost, and it was enrolled again.
        let uid = std::fs::read_to_string(node.directory().join("runtime/node-uid")).unwrap();
        let enrolment = node.directory().join("agent.json");
        let text = std::fs::read_to_string(&enrolment).unwrap();
        assert!(text.contains(&uid), "{text}");
        std::fs::write(&enrolment, text.replace(&uid, "fedcba9876543210")).unwrap();
        let request = v1::RemoveAppRequest { app_name: app, ..Default::default() };
        client.apps.clone().remove_app(request).await.unwrap();
        node.start();
        wait::until("the app's removal", || async { client.apps_of("node").await.is_empty() }).await;
        wait::until("the earlier node's network to go", || async { traces(&host) == untouched() }).await;
        assert!(!names().contains("ls-"), "{}", names());
    });
}
