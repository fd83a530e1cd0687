//! What the kernel says of a container's rights.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use longshore_agent::runtime::{Allowances, Runtime};
use longshore_demo_image::DemoImage;
use longshore_model::capability;
use longshore_model::failure::FailureReason;
use longshore_model::spec::Protocol;
use serde_json::{Value, json};

use super::node::{Node, eventually, free_port, http, port};

/// The capabilities of an ordinary container, as `docs/runtimes.md` has them.
const DOCUMENTED: &str = "00000000a00425fb";

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    value.unwrap_or_else(|| panic!("no {name} in {status}"))
}

/// Runs the demo image's web server, and returns its port.
async fn serve(node: &Node, app: &str, spec: Value) -> u16 {
    let host_port = free_port();
    let mut launch = node.launch(app, DemoImage::new(), spec).await;
    launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
    node.run(&launch).await.unwrap();
    host_port
}

#[tokio::test]
async fn an_ordinary_container_is_confined_as_documented() {
    assert!(include_str!("../../../docs/runtimes.md").contains(DOCUMENTED), "documented");
    let node = Node::new();
    let expected = u64::from_str_radix(DOCUMENTED, 16).unwrap() & node.all_capabilities();
    for (name, user) in [("root", ""), ("user", "demo")] {
        let host_port = free_port();
        let mut launch = node.launch(name, DemoImage::new().user(user), json!({})).await;
        launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
        node.run(&launch).await.unwrap();
        let status = http(host_port, "GET /read?path=/proc/self/status").await;
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{name}");
        assert_eq!(field(&status, "Seccomp"), "2", "{name}");
        let held = |set| u64::from_str_radix(field(&status, set), 16).unwrap();
        let effective = if user.is_empty() { expected } else { 0 };
        let bounding = held("CapBnd");
        assert!(bounding == expected || bounding == effective, "{name}: {status}");
        assert_eq!([held("CapEff"), held("CapPrm")], [effective; 2], "{name}: {status}");
        assert_eq!([held("CapInh"), held("CapAmb")], [0; 2], "{name}: {status}");
        assert_eq!(http(host_port, "GET /read?path=/proc/keys").await, "", "masked");
        assert_ne!(http(host_port, "POST /write?path=/proc/sys/kernel/domainname").await, "written");
    }
    node.end().await;
}

/// Devices of this machine that are not mounted, but for the console, which a container has of its own.
fn devices(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let devices = entries.filter(|entry| {
        let kind = entry.file_type().unwrap();
        (kind.is_char_device() || kind.is_block_device()) && entry.file_name() != "console"
    });
    devices.map(|entry| entry.path()).collect()
}

#[tokio::test]
async fn a_privileged_container_may_do_what_root_may() {
    let node = Node::new();
    assert!(node.runtime().capabilities().contains(&capability::SECURITY_PRIVILEGED.to_owned()));
    let web = serve(&node, "a", json!({ "privileged": true })).await;
    let status = http(web, "GET /read?path=/proc/self/status").await;
    assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), ("0", "0"));
    let held = |set| u64::from_str_radix(field(&status, set), 16).unwrap();
    assert_eq!([held("CapBnd"), held("CapEff"), held("CapPrm")], [node.all_capabilities(); 3], "{status}");

    let mounts = http(web, "GET /read?path=/proc/self/mountinfo").await;
    let points: Vec<(&str, &str)> = mounts
        .lines()
        .map(|line| {
            let mut words = line.split(' ').skip(4);
            (words.next().unwrap(), words.next().unwrap())
        })
        .collect();
    assert!(points.iter().all(|(point, _)| !point.starts_with("/proc/")), "nothing is hidden: {mounts}");
    let writable = |at: &str| points.iter().any(|(point, options)| *point == at && options.starts_with("rw"));
    assert!(writable("/sys"), "{mounts}");
    let groups = points.iter().filter(|(point, _)| point.starts_with("/sys/fs/cgroup/"));
    assert!(writable("/sys/fs/cgroup") || groups.clone().count() > 0, "{mounts}");
    assert!(groups.clone().all(|(_, options)| options.starts_with("rw")), "{mounts}");

    for path in ["/dev", "/dev/net"].map(Path::new).into_iter().filter(|path| path.exists()).flat_map(devices) {
        // What is there and no directory is told from what is not there, and is not opened.
        let answer = http(web, format!("GET /read?path={}/", path.display()).leak()).await;
        assert!(answer.contains("Not a directory"), "{}: {answer}", path.display());
    }
    // Opened for writing, which a cgroup would forbid. Nothing is written.
    assert_eq!(node.outcome("device", &["fill", "/dev/kmsg", "0"], json!({ "privileged": true })).await.code, 0);
    node.end().await;
}

#[tokio::test]
async fn a_container_may_live_among_the_nodes_processes() {
    let node = Node::new();
    assert!(node.runtime().capabilities().contains(&capability::SECURITY_HOST_PID.to_owned()));
    let mine: &str = format!("GET /read?path=/proc/{}/cmdline", std::process::id()).leak();
    let this = fs::read_to_string("/proc/self/cmdline").unwrap();
    let apart = serve(&node, "apart", json!({})).await;
    assert!(http(apart, "GET /").await.contains("process 1\n"));
    assert_ne!(http(apart, mine).await, this.trim_end());
    let among = serve(&node, "among", json!({ "hostPID": true })).await;
    let greeting = http(among, "GET /").await;
    let pid = greeting.lines().find_map(|line| line.strip_prefix("process ")).unwrap().to_owned();
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("/app"), "{greeting}");
    assert_eq!(http(among, mine).await, this.trim_end());
    let status = http(among, "GET /read?path=/proc/self/status").await;
    assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), ("1", "2"), "that is all that differs");
    node.runtime().stop(&node.key("among"), super::node::PATIENCE).await.unwrap();
    node.runtime().delete(&node.key("among")).await.unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    node.end().await;
}

#[tokio::test]
async fn what_a_container_has_started_ends_with_its_first_process() {
    let node = Node::new();
    for (name, spec) in [("apart", json!({})), ("among", json!({ "hostPID": true }))] {
        // As long as no other test's, so that it can be told from them.
        let marker = (3_600_000_000 + u64::from(free_port()) * 100_000 + u64::from(free_port())).to_string();
        let is_there = || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            let lines = processes.filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok());
            lines.into_iter().any(|line| line.contains(&format!("sleep\0{marker}")))
        };
        assert_eq!(node.outcome(name, &["orphan", &marker], spec).await.code, 0);
        assert!(node.texts(&node.key(name)).await[0].starts_with("left "));
        eventually("the orphan's end", || !is_there()).await;
        node.runtime().delete(&node.key(name)).await.unwrap();
    }
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.end().await;
}

#[tokio::test]
async fn what_the_node_does_not_allow_is_refused() {
    let mut node = Node::new();
    node.restart_allowing(Allowances::default());
    let offered = node.runtime().capabilities();
    for (name, spec, word, setting) in [
        ("root", json!({ "privileged": true }), capability::SECURITY_PRIVILEGED, "--allow-privileged"),
        ("pid", json!({ "hostPID": true }), capability::SECURITY_HOST_PID, "--allow-host-pid"),
    ] {
        assert!(!offered.contains(&word.to_owned()), "{offered:?}");
        let launch = node.launch(name, DemoImage::new(), spec).await;
        let error = node.runtime().create(&launch).await.unwrap_err();
        assert_eq!(error.reason, FailureReason::Unsupported, "{error}");
        assert!(error.message.contains(word) && error.message.contains(setting), "{error}");
    }
    assert_eq!(node.runtime().list().await.unwrap(), []);
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.end().await;
}
