//! What a spec says of its containers beyond what to run, as the kernel tells it.

use std::fs;
use std::path::Path;

use longshore_agent::runtime::{Allowances, FoundState, Launch, Runtime};
use longshore_demo_image::DemoImage;
use longshore_model::failure::FailureReason;
use longshore_model::linux::CapabilitySet;
use longshore_model::spec::Protocol;
use serde_json::{Value, json};

use super::node::{Node, PATIENCE, free_port, http, port};

/// Runs the demo image's web server, and returns its port.
async fn serve(node: &Node, app: &str, spec: Value) -> (u16, Launch) {
    let host_port = free_port();
    let mut launch = node.launch(app, DemoImage::new(), spec).await;
    launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
    node.run(&launch).await.unwrap();
    (host_port, launch)
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    value.unwrap_or_else(|| panic!("no {name} in {status}"))
}

#[tokio::test]
async fn the_user_is_the_specs() {
    let node = Node::new();
    for (app, user, uid, gid) in [("number", "4000:5000", "4000", "5000"), ("name", "demo", "1000", "1000")] {
        let (web, _) = serve(&node, app, json!({ "user": user })).await;
        let status = http(web, "GET /read?path=/proc/self/status").await;
        assert_eq!(field(&status, "Uid").split('\t').collect::<Vec<_>>(), [uid; 4], "{user}");
        assert_eq!(field(&status, "Gid").split('\t').collect::<Vec<_>>(), [gid; 4], "{user}");
    }
    let launch = node.launch("nobody", DemoImage::new(), json!({ "user": "no-such-user" })).await;
    let error = node.run(&launch).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageInvalid, "{error}");
    assert!(error.message.contains("no-such-user"), "{error}");
    node.end().await;
}

#[tokio::test]
async fn the_program_starts_where_the_spec_says() {
    let node = Node::new();
    let (web, _) = serve(&node, "a", json!({ "workingDir": "/made/on/the/way" })).await;
    assert_eq!(http(web, "POST /write?path=here").await, "written");
    assert_eq!(http(web, "GET /read?path=/made/on/the/way/here").await, "");
    node.end().await;
}

#[tokio::test]
async fn a_container_is_stopped_by_the_specs_signal() {
    let node = Node::new();
    let spec = json!({ "args": ["sleep", "--ignore-term"], "stopSignal": "SIGINT" });
    let launch = node.launch("a", DemoImage::new(), spec).await;
    node.run(&launch).await.unwrap();
    node.runtime().stop(&launch.instance, PATIENCE).await.unwrap();
    let found = node.runtime().list().await.unwrap().remove(0);
    let FoundState::Exited(exit) = found.state else { panic!("stop returned too early") };
    assert_eq!(exit.code, 0, "it was killed: nobody sent SIGINT");
    node.end().await;
}

#[tokio::test]
async fn a_read_only_root_can_be_read_and_its_volumes_written() {
    let node = Node::new();
    let volumes = json!([{ "mountPath": "/data", "emptyDir": {} }]);
    let (web, _) = serve(&node, "a", json!({ "readOnlyRootFilesystem": true, "volumes": volumes })).await;
    for path in ["/file", "/etc/file"] {
        let answer = http(web, format!("POST /write?path={path}").leak()).await;
        assert!(answer.contains("Read-only file system"), "{path}: {answer}");
    }
    for path in ["/data/file", "/dev/shm/file"] {
        assert_eq!(http(web, format!("POST /write?path={path}").leak()).await, "written", "{path}");
    }
    node.end().await;
}

#[tokio::test]
async fn capabilities_are_the_specs() {
    let node = Node::new();
    let there_is = |set: CapabilitySet| set.bits() & node.all_capabilities();
    let named = |name| CapabilitySet::named(name).unwrap();
    let table = [
        ("none", json!({ "drop": ["ALL"] }), CapabilitySet::NONE),
        ("fewer", json!({ "drop": ["CAP_NET_RAW"] }), CapabilitySet::ORDINARY.without(named("NET_RAW"))),
        ("more", json!({ "add": ["NET_ADMIN"] }), CapabilitySet::ORDINARY.with(named("NET_ADMIN"))),
        ("one", json!({ "add": ["NET_ADMIN"], "drop": ["ALL"] }), named("NET_ADMIN")),
    ];
    for (app, capabilities, expected) in table {
        let (web, _) = serve(&node, app, json!({ "capabilities": capabilities })).await;
        let status = http(web, "GET /read?path=/proc/self/status").await;
        for set in ["CapBnd", "CapEff", "CapPrm"] {
            let held = u64::from_str_radix(field(&status, set), 16).unwrap();
            assert_eq!(held, there_is(expected), "{app}: {status}");
        }
        assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), ("1", "2"), "{app}");
    }
    node.end().await;
}

#[tokio::test]
async fn only_capabilities_that_the_node_allows_are_given() {
    let mut node = Node::new();
    let capabilities = CapabilitySet::named("NET_ADMIN").unwrap();
    node.restart_allowing(Allowances { capabilities, ..Allowances::default() });
    let spec = json!({ "capabilities": { "add": ["NET_ADMIN", "SYS_TIME"] } });
    let launch = node.launch("a", DemoImage::new(), spec).await;
    let error = node.runtime().create(&launch).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::Unsupported, "{error}");
    assert!(error.message.ends_with("--capability-allow SYS_TIME."), "{error}");
    assert_eq!(node.runtime().list().await.unwrap(), []);
    node.end().await;
}

#[tokio::test]
async fn processes_are_limited() {
    let node = Node::new();
    let spec = json!({ "args": ["sleep"], "pidsLimit": 77 });
    let launch = node.launch("a", DemoImage::new(), spec).await;
    node.run(&launch).await.unwrap();
    let group = node.cgroup(&launch);
    let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|root| Path::new(root).join(&group).join("pids.max"));
    let set = roots.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap();
    assert_eq!(set.trim(), "77");
    node.end().await;
}

#[tokio::test]
async fn each_process_has_the_specs_limits() {
    let node = Node::new();
    let ulimits = json!([
        { "name": "nofile", "soft": 700, "hard": 800 },
        { "name": "core", "soft": 0 },
        { "name": "fsize", "soft": 4096, "hard": 8192 },
    ]);
    let (web, _) = serve(&node, "a", json!({ "ulimits": ulimits })).await;
    let limits = http(web, "GET /read?path=/proc/self/limits").await;
    let of = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("Max open files"), ["700", "800"], "{limits}");
    assert_eq!(of("Max core file size"), ["0", "0"], "{limits}");
    assert_eq!(of("Max file size"), ["4096", "8192"], "{limits}");
    node.end().await;
}

#[tokio::test]
async fn a_limit_above_what_the_machine_gives_is_refused() {
    let node = Node::new();
    // More than the kernel takes of anybody.
    let ulimits = json!([{ "name": "nofile", "soft": 5, "hard": 1_u64 << 40 }]);
    let launch = node.launch("a", DemoImage::new(), json!({ "ulimits": ulimits })).await;
    let error = node.run(&launch).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::Unsupported, "{error}");
    node.runtime().delete(&launch.instance).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn shared_memory_has_the_specs_size() {
    let node = Node::new();
    for (app, spec, expected) in
        [("usual", json!({}), "size=65536k"), ("large", json!({ "shmSize": "128Mi" }), "size=131072k")]
    {
        let (web, _) = serve(&node, app, spec).await;
        let mounts = http(web, "GET /read?path=/proc/self/mounts").await;
        let shm = mounts.lines().find(|line| line.contains(" /dev/shm ")).unwrap();
        assert!(shm.contains(expected), "{shm}");
    }
    node.end().await;
}
