//! From create to delete.

use std::time::Duration;

use longshore_agent::runtime::{FoundState, Runtime};
use longshore_demo_image::DemoImage;
use longshore_model::failure::FailureReason;
use longshore_model::spec::Protocol;
use serde_json::json;

use super::node::{Node, PATIENCE, free_port, http, port};

#[tokio::test]
async fn a_container_runs_and_its_exit_code_is_told() {
    let node = Node::new();
    let exit = node.outcome("a", &["exit", "42"], json!({})).await;
    assert_eq!((exit.code, exit.out_of_memory), (42, false));
    let found = node.runtime().list().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].revision, found[0].run, &found[0].state), (7, 1, &FoundState::Exited(exit)));
    assert_eq!(node.wait(&node.key("a")).await, exit, "told again to who asks later");
    node.runtime().delete(&node.key("a")).await.unwrap();
    node.runtime().delete(&node.key("a")).await.unwrap();
    assert!(node.runtime().list().await.unwrap().is_empty());
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.end().await;
}

#[tokio::test]
async fn nothing_of_the_app_runs_before_start() {
    let node = Node::new();
    let launch = node.launch("a", DemoImage::new().cmd(&["print", "1", "x"]), json!({})).await;
    node.runtime().create(&launch).await.unwrap();
    assert_eq!(node.runtime().list().await.unwrap()[0].state, FoundState::Created);
    assert!(node.texts(&launch.instance).await.is_empty());
    node.runtime().delete(&launch.instance).await.unwrap();
    assert!(node.texts(&launch.instance).await.is_empty());
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.end().await;
}

#[tokio::test]
async fn stop_asks_first_and_kills_after_the_grace() {
    let node = Node::new();
    let launch = node.launch("polite", DemoImage::new().cmd(&["serve"]), json!({})).await;
    let key = node.run(&launch).await.unwrap();
    // Before it has said what shall come of SIGTERM, the kernel keeps that from a first process.
    let listens = async { while node.texts(&key).await.is_empty() {} };
    tokio::time::timeout(PATIENCE, listens).await.unwrap();
    let before = std::time::Instant::now();
    node.runtime().stop(&key, Duration::from_secs(60)).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(30), "the demo program ends at SIGTERM");
    let polite = node.wait(&key).await.code;
    assert_ne!(polite, 137);

    let launch = node.launch("deaf", DemoImage::new().cmd(&["sleep", "--ignore-term"]), json!({})).await;
    let key = node.run(&launch).await.unwrap();
    node.runtime().stop(&key, Duration::from_millis(50)).await.unwrap();
    assert_eq!(node.wait(&key).await.code, 137);
    node.runtime().stop(&key, Duration::from_secs(60)).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn a_run_follows_another_on_the_same_ports() {
    let node = Node::new();
    let host_port = free_port();
    for run in 1..=3 {
        let mut launch = node.launch("a", DemoImage::new(), json!({})).await;
        launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
        let key = node.run(&launch).await.unwrap();
        assert_eq!(http(host_port, "GET /healthz").await, "ok");
        let found = node.runtime().list().await.unwrap();
        assert_eq!((found[0].run, found.len()), (run, 1));
        assert_eq!(found[0].ports, launch.ports);
        node.runtime().stop(&key, Duration::ZERO).await.unwrap();
        node.runtime().delete(&key).await.unwrap();
    }
    node.end().await;
}

#[tokio::test]
async fn the_command_rule_and_the_environment_reach_the_program() {
    let node = Node::new();
    let image =
        || DemoImage::new().entrypoint(&["/app", "args"]).cmd(&["from-cmd"]).env("A", "image").env("B", "image");
    for (name, spec, expected) in [
        ("neither", json!({}), vec!["/app", "args", "from-cmd"]),
        ("args", json!({ "args": ["x", "y"] }), vec!["/app", "args", "x", "y"]),
        ("command", json!({ "command": ["app", "args", "z"] }), vec!["app", "args", "z"]),
        ("both", json!({ "command": ["/app", "args"], "args": ["w"] }), vec!["/app", "args", "w"]),
    ] {
        let launch = node.launch(name, image(), spec).await;
        let key = node.run(&launch).await.unwrap();
        node.wait(&key).await;
        assert_eq!(node.texts(&key).await, expected, "{name}");
    }
    let host_port = free_port();
    let mut launch = node.launch("env", DemoImage::new().env("A", "image").env("B", "image"), json!({})).await;
    launch.env = vec![("A".to_owned(), "spec".to_owned())];
    launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
    node.run(&launch).await.unwrap();
    assert_eq!(http(host_port, "GET /env/A").await, "spec");
    assert_eq!(http(host_port, "GET /env/B").await, "image");
    assert_eq!(http(host_port, "GET /env/HOSTNAME").await, "env-0");
    assert!(http(host_port, "GET /").await.contains("host    env-0\nprocess 1\n"));
    assert!(http(host_port, "GET /read?path=/etc/hosts").await.contains("env-0"));
    node.end().await;
}

#[tokio::test]
async fn the_user_of_the_image_is_taken() {
    let node = Node::new();
    let status = "GET /read?path=/proc/self/status";
    for (name, user, uid, gid) in [("number", "7:8", 7, 8), ("name", "demo", 1000, 1000), ("none", "", 0, 0)] {
        let host_port = free_port();
        let image = DemoImage::new().user(user).working_dir("/made/for it").cmd(&["serve", "--port", "80"]);
        let mut launch = node.launch(name, image, json!({})).await;
        launch.ports = vec![port(Protocol::Tcp, host_port, 80)];
        node.run(&launch).await.unwrap();
        let status = http(host_port, status).await;
        assert!(status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{name}: {status}");
        assert!(status.contains(&format!("Gid:\t{gid}\t{gid}\t{gid}\t{gid}")), "{name}: {status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{name}: {status}");
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let own = gid.to_string();
        assert!(groups.split_whitespace().all(|group| group == own), "none of the agent's groups: {groups}");
    }
    let unknown = node.launch("unknown", DemoImage::new().user("nobody-knows"), json!({})).await;
    let error = node.run(&unknown).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageInvalid, "{error}");
    node.end().await;
}

#[tokio::test]
async fn a_command_that_cannot_be_executed_is_named() {
    let node = Node::new();
    let image = || DemoImage::new().layer(&[("text", b"no program"), ("dir/file", b"x")]);
    for (name, command, says) in [
        ("missing", "/no/such", "no such file"),
        ("path", "no-such", "PATH"),
        ("directory", "/dir", "is a directory|permission denied"),
        ("plain", "/dir/file", "may not be executed|permission denied"),
    ] {
        let launch = node.launch(name, image(), json!({ "command": [command] })).await;
        let error = node.run(&launch).await.unwrap_err();
        assert_eq!(error.reason, FailureReason::CommandNotFound, "{name}: {error}");
        let says = says.split('|').any(|words| error.message.contains(words));
        assert!(error.message.contains(command) && says, "{name}: {error}");
        node.runtime().delete(&launch.instance).await.unwrap();
    }
    let nothing = node.launch("nothing", DemoImage::new().entrypoint(&[]).cmd(&[]), json!({})).await;
    assert_eq!(node.run(&nothing).await.unwrap_err().reason, FailureReason::CommandNotFound);
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.end().await;
}
