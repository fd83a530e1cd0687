//! What a container finds around it: devices of the node, names, and where it asks for others.

use std::path::Path;

use longshore_agent::accelerators::{Attached, MountEdit};
use longshore_agent::devices;
use longshore_agent::runtime::{Allowances, Runtime};
use longshore_demo_image::DemoImage;
use longshore_model::failure::FailureReason;
use longshore_model::spec::Protocol;
use serde_json::{Value, json};

use super::node::{Node, free_port, http, port};

/// A device that no container has by itself, that every machine with loop devices has, and that answers to a read with
/// EINVAL: so what is refused by the kernel's rules, with EPERM, can be told from what is let through.
const DEVICE: &str = "/dev/loop-control";

async fn serve(node: &Node, app: &str, spec: Value) -> u16 {
    let host_port = free_port();
    let mut launch = node.launch(app, DemoImage::new(), spec).await;
    launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
    node.run(&launch).await.unwrap();
    host_port
}

#[tokio::test]
async fn a_container_has_the_specs_devices_and_may_do_with_them_what_it_says() {
    let node = Node::new();
    let of =
        |permissions: &str| json!([{ "hostPath": DEVICE, "containerPath": "/dev/mine", "permissions": permissions }]);
    let table = [("whole", "rwm", "Invalid argument", "written"), ("less", "w", "Operation not permitted", "written")];
    for (app, permissions, read, written) in table {
        let web = serve(&node, app, json!({ "devices": of(permissions) })).await;
        let answer = http(web, "GET /read?path=/dev/mine").await;
        assert!(answer.contains(read), "{permissions}: {answer}");
        assert_eq!(http(web, "POST /write?path=/dev/mine").await, written, "{permissions}");
        let answer = http(web, "GET /read?path=/dev/loop-control").await;
        assert!(answer.contains("No such file"), "only where the spec has it: {answer}");
    }
    let web = serve(&node, "read", json!({ "devices": of("r") })).await;
    let answer = http(web, "POST /write?path=/dev/mine").await;
    assert!(answer.contains("Operation not permitted"), "{answer}");
    node.end().await;
}

#[tokio::test]
async fn what_comes_with_accelerators_needs_no_other_permission_of_the_node() {
    let mut node = Node::new();
    node.restart_allowing(Allowances::default());
    let mut launch = node.launch("a", DemoImage::new(), json!({})).await;
    let host_port = free_port();
    launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
    // A file of the system, as drivers are, which no app could mount.
    let driver = Path::new("/etc/passwd").canonicalize().unwrap();
    launch.attached = Attached {
        devices: vec![devices::look(Path::new(DEVICE), "/dev/accelerator0", "rw").unwrap()],
        mounts: vec![MountEdit { source: driver.clone(), target: "/opt/driver".to_owned(), read_only: true }],
        env: Vec::new(),
    };
    node.run(&launch).await.unwrap();
    let answer = http(host_port, "GET /read?path=/dev/accelerator0").await;
    assert!(answer.contains("Invalid argument"), "{answer}");
    assert_eq!(http(host_port, "POST /write?path=/dev/accelerator0").await, "written");
    let read = http(host_port, "GET /read?path=/opt/driver").await;
    assert_eq!(read, std::fs::read_to_string(driver).unwrap().trim_end());
    let answer = http(host_port, "POST /write?path=/opt/driver").await;
    assert!(answer.contains("Read-only file system"), "{answer}");
    node.end().await;
}

#[tokio::test]
async fn devices_that_are_not_allowed_or_not_there_are_refused() {
    let mut node = Node::new();
    let devices = json!([{ "hostPath": DEVICE }, { "hostPath": "/dev/no-such-device" }]);
    for (allowed, reason, words) in [
        (vec![], FailureReason::Unsupported, "container.devices; its agent has to be run with --device-allow"),
        (vec!["/dev/no*"], FailureReason::Unsupported, "devices[0].host_path"),
        (vec!["/dev/no*", DEVICE], FailureReason::DeviceUnavailable, "devices[1].host_path asks for, does not exist"),
    ] {
        let devices_allowed = allowed.iter().map(|rule| rule.parse().unwrap()).collect();
        node.restart_allowing(Allowances { devices: devices_allowed, ..Allowances::default() });
        let launch = node.launch("a", DemoImage::new(), json!({ "devices": devices })).await;
        let error = node.runtime().create(&launch).await.unwrap_err();
        assert_eq!(error.reason, reason, "{allowed:?}: {error}");
        assert!(error.message.contains(words), "{error}");
    }
    assert_eq!(node.runtime().list().await.unwrap(), []);
    node.end().await;
}

#[tokio::test]
async fn names_and_resolvers_are_the_specs() {
    let node = Node::new();
    let around = |network: Value| {
        json!({
            "network": network,
            "hostAliases": [
                { "ip": "192.0.2.7", "hostnames": ["db", "db.example.com"] },
                { "ip": "2001:db8::7", "hostnames": ["db"] },
            ],
            "dnsConfig": {
                "nameservers": ["192.0.2.53", "192.0.2.54"],
                "searches": ["shop.example.com", "example.com"],
                "options": [{ "name": "ndots", "value": 3 }, { "name": "rotate" }],
            },
        })
    };
    for (app, network) in [("own", json!({ "ports": [] })), ("node", json!("host"))] {
        let mut spec = around(network);
        let host_port = free_port();
        spec["args"] = json!(["serve", "--port", if app == "own" { 8080 } else { host_port }.to_string()]);
        let mut launch = node.launch(app, DemoImage::new(), spec).await;
        launch.ports = if app == "own" { vec![port(Protocol::Tcp, host_port, 8080)] } else { Vec::new() };
        node.run(&launch).await.unwrap();
        let hosts = http(host_port, "GET /read?path=/etc/hosts").await;
        let meaning = |name: &str| -> Vec<&str> {
            let lines = hosts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            lines.filter(|words| words.iter().skip(1).any(|word| *word == name)).map(|words| words[0]).collect()
        };
        assert_eq!(meaning("db"), ["192.0.2.7", "2001:db8::7"], "{app}: {hosts}");
        assert_eq!(meaning("db.example.com"), ["192.0.2.7"], "{app}: {hosts}");
        assert!(meaning("localhost").contains(&"127.0.0.1"), "{app}: {hosts}");
        let resolver = http(host_port, "GET /read?path=/etc/resolv.conf").await;
        let of = |word: &str| -> Vec<&str> {
            let lines = resolver.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
            lines.flat_map(str::split_whitespace).collect()
        };
        assert_eq!(of("nameserver"), ["192.0.2.53", "192.0.2.54"], "{app}: {resolver}");
        assert_eq!(of("search"), ["shop.example.com", "example.com"], "{app}: {resolver}");
        assert_eq!(of("options"), ["ndots:3", "rotate"], "{app}: {resolver}");
    }
    node.end().await;
}
