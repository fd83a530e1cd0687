//! Several hosts: every node a network namespace, on one switch.

use std::net::{IpAddr, SocketAddr};

use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::host::{Host, Switch};
use longshore_tests::http;
use longshore_tests::spec::{app, on_host, tcp, with_ports};
use longshore_tests::wait;
use v1::{FailureReason, JobState, TaskState};

/// Runs a test on the first host of a switch, where the server will be, with the switch for further hosts.
pub(crate) fn on_a_switch<F: Future<Output = ()>>(test: impl FnOnce(Switch, Host) -> F + Send + 'static) {
    let switch = Switch::new();
    let server = switch.host();
    let namespace = server.namespace().to_owned();
    std::thread::spawn(move || {
        let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        // One thread, so that every socket of the test is made on this host.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(switch, server));
    })
    .join()
    .unwrap();
}

fn at(host: &Host, port: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(host.address), u16::try_from(port).unwrap())
}

#[test]
fn apps_answer_from_the_node_itself_and_from_another_host() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let host = switch.host();
        let _node = cluster.node_with("node", &[], Some(&host), &[]).await;
        let client = cluster.client().await;

        let mapped = with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 80)]);
        let on_host = on_host(app(&cluster.image(), &["serve", "--port", "81"]));
        for (spec, port) in [(mapped, 80), (on_host, 81)] {
            let job = client.create(spec, &["node"]).await;
            assert_eq!(
                client.rest(&job.job_id).await.state(),
                JobState::Succeeded,
                "{:?}",
                client.task(&job.job_id).await
            );
            assert_eq!(http::get(at(&host, port), "/healthz").await.unwrap().status, 200);
            let address = at(&host, port);
            let itself = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let by_address = runtime.block_on(http::get(address, "/healthz")).unwrap().status;
                let loopback = SocketAddr::from(([127, 0, 0, 1], address.port()));
                (by_address, runtime.block_on(http::get(loopback, "/healthz")).unwrap().status)
            };
            assert_eq!(host.run(itself), (200, 200));
        }
    });
}

#[test]
fn a_chosen_interface_is_bound_and_no_other() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let host = switch.host();
        host.add_interface("back0", "192.0.2.9/24");
        host.add_interface("six0", "2001:db8::9/64");
        let _node = cluster.node_with("node", &[], Some(&host), &[]).await;
        let client = cluster.client().await;

        let on = |interface: &str, port| {
            let port = v1::Port { host_interface: interface.to_owned(), ..tcp(8080, port) };
            with_ports(app(&cluster.image(), &["serve"]), &[port])
        };
        let job = client.create(on("eth0", 80), &["node"]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
        let ports = client.app("node", &job.app_name).await.status.unwrap().ports;
        assert_eq!(ports[0].host_ip, host.address.to_string());
        assert_eq!(http::get(at(&host, 80), "/healthz").await.unwrap().status, 200);
        let elsewhere = || std::net::TcpStream::connect("127.0.0.1:80").is_err();
        assert!(host.run(elsewhere), "bound to loopback as well");
        // The same port on another interface's address is free.
        let job = client.create(on("back0", 80), &["node"]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);

        let job = client.create(on("six0", 80), &["node"]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
        let failure = client.task(&job.job_id).await.failure.unwrap();
        assert_eq!(failure.reason(), FailureReason::InterfaceWithoutIpv4);
    });
}

/// What the served app says at an address of the host's, by a path.
fn said_at(host: &Host, address: &'static str, path: &'static str) -> Option<String> {
    host.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(http::get(address.parse().unwrap(), path)).ok().map(|answer| answer.body)
    })
}

/// Whether a datagram to an address of the host's comes back from there.
fn echoes_at(host: &Host, address: &'static str) -> bool {
    host.run(move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        let address: SocketAddr = address.parse().unwrap();
        socket.send_to(b"x", address).is_ok() && socket.recv_from(&mut [0; 8]).is_ok_and(|(_, from)| from == address)
    })
}

#[test]
fn ports_follow_their_interface_to_another_address_while_the_app_runs() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let host = switch.host();
        host.add_interface("back0", "192.0.2.9/24");
        let mut node = cluster.node_with("node", &[], Some(&host), &[]).await;
        let client = cluster.client().await;
        let on_back = |port: v1::Port| v1::Port { host_interface: "back0".to_owned(), ..port };
        let udp = |port| v1::Port { protocol: v1::Protocol::Udp.into(), ..tcp(9000, port) };
        let args = ["serve", "--udp-port", "9000"];
        let alone = with_ports(app(&cluster.image(), &args), &[on_back(tcp(8080, 80)), on_back(udp(90))]);
        let shared = with_ports(app(&cluster.image(), &args), &[on_back(tcp(8080, 81)), on_back(udp(91))]);
        let mut apps = Vec::new();
        for spec in [alone, v1::AppSpec { instances: 2, ..shared }] {
            let job = client.create(spec, &["node"]).await;
            assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
            apps.push(job.app_name);
        }
        let started = said_at(&host, "192.0.2.9:80", "/started").unwrap();
        let shims = node.shims();

        // DHCP takes one address away and gives another.
        host.remove_address("back0", "192.0.2.9/24");
        host.add_address("back0", "192.0.2.10/24");
        for address in ["192.0.2.10:80", "192.0.2.10:81"] {
            wait::until("the app at the new address", || async { said_at(&host, address, "/healthz").is_some() }).await;
        }
        for address in ["192.0.2.10:90", "192.0.2.10:91"] {
            wait::until("an echo from the new address", || async { echoes_at(&host, address) }).await;
        }
        assert_eq!(said_at(&host, "192.0.2.10:80", "/started"), Some(started.clone()));
        assert_eq!(node.shims(), shims);
        for name in &apps {
            wait::until("the address in the status", || async {
                let ports = client.app("node", name).await.status.unwrap().ports;
                ports.iter().all(|port| port.host_ip == "192.0.2.10" && port.host_interface == "back0")
            })
            .await;
        }

        // Also where it changes while no agent is there.
        node.kill();
        host.remove_address("back0", "192.0.2.10/24");
        host.add_address("back0", "192.0.2.11/24");
        node.start();
        wait::until("the app at the new address", || async {
            said_at(&host, "192.0.2.11:80", "/started").as_ref() == Some(&started)
        })
        .await;

        // A program that has the port at the next address keeps it, and is waited for.
        host.add_address("back0", "203.0.113.5/24");
        let foreign = host.run(|| std::net::TcpListener::bind("203.0.113.5:80").unwrap());
        host.remove_address("back0", "192.0.2.11/24");
        wait::until("word of it", || async { node.log().contains("port 80/tcp of 203.0.113.5 is in use") }).await;
        drop(foreign);
        wait::until("the app at the new address", || async {
            said_at(&host, "203.0.113.5:80", "/started").as_ref() == Some(&started)
        })
        .await;
        assert_eq!(node.shims(), shims);
    });
}

#[test]
fn a_node_cut_off_during_its_task_finishes_and_reports_later() {
    on_a_switch(|switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let host = switch.host();
        let node = cluster.node_with("node", &[], Some(&host), &[]).await;
        let client = cluster.client().await;
        let mut spec = app(&cluster.image(), &["sleep"]);
        spec.startup = Some(v1::Startup { settle: Some(longshore_tests::client::seconds(3)), max_starts: 1 });
        let job = client.create(spec, &["node"]).await;
        client.reach(&job.job_id, TaskState::Settling).await;
        host.unplug();
        // The ledger shows that the agent has finished, though nobody can be told.
        wait::until("the end of the task on the node", || async {
            let ledger = std::fs::read_to_string(node.directory().join(format!("ledger/{}.json", job.app_name)));
            ledger.is_ok_and(|text| text.contains("SUCCEEDED"))
        })
        .await;
        assert_eq!(client.job(&job.job_id).await.state(), JobState::Running);
        host.plug();
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
        assert_eq!(client.task(&job.job_id).await.attempt, 1);
    });
}
