//! Agents and shims that die.

use std::fs;

use longshore_agent::runtime::{FoundState, Rotation, Runtime};
use longshore_demo_image::DemoImage;
use longshore_model::spec::Protocol;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::node::{Node, eventually, free_port, http, port};

#[tokio::test]
async fn a_restarted_agent_finds_its_containers() {
    let mut node = Node::new();
    let host_port = free_port();
    let mut launch = node.launch("a", DemoImage::new(), json!({})).await;
    launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
    node.runtime().create(&launch).await.unwrap();
    let since = node.runtime().start(&launch.instance).await.unwrap();
    let started = http(host_port, "GET /started").await;
    node.restart();
    let found = node.runtime().list().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].instance, &found[0].state), (&launch.instance, &FoundState::Running(since)));
    assert_eq!(found[0].ports, launch.ports);
    assert_eq!(http(host_port, "GET /started").await, started, "it was not started anew");
    let waiter = node.runtime().wait(&launch.instance);
    let ended = async {
        let _ = http(host_port, "POST /exit?code=9").await;
    };
    let (exit, ()) = tokio::join!(waiter, ended);
    assert_eq!(exit.unwrap().code, 9);
    node.end().await;
}

#[tokio::test]
async fn an_exit_that_no_agent_saw_is_told_to_the_next() {
    let mut node = Node::new();
    let launch = node.launch("a", DemoImage::new().cmd(&["exit", "5"]), json!({})).await;
    node.run(&launch).await.unwrap();
    let state = node.container(&launch).join("state.json");
    eventually("the exit is on disk", || fs::read_to_string(&state).unwrap().contains("exited")).await;
    node.restart();
    assert_eq!(node.wait(&launch.instance).await.code, 5);
    node.end().await;
}

#[tokio::test]
async fn a_container_does_not_outlive_its_shim() {
    let mut node = Node::new();
    let host_port = free_port().to_string();
    let spec = json!({ "network": "host", "args": ["serve", "--port", host_port] });
    let launch = node.launch("a", DemoImage::new(), spec).await;
    let key = node.run(&launch).await.unwrap();
    assert_eq!(http(host_port.parse().unwrap(), "GET /healthz").await, "ok");
    kill(Pid::from_raw(node.shim_pid(&launch)), Signal::SIGKILL).unwrap();
    assert_eq!(node.wait(&key).await.code, 137);
    let found = node.runtime().list().await.unwrap();
    assert!(matches!(found[0].state, FoundState::Exited(exit) if exit.code == 137), "{found:?}");
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.runtime().delete(&key).await.unwrap();

    // The same while no agent is there to see it, and without a namespace whose end the kernel would make one of processes.
    let launch = node.launch("b", DemoImage::new().cmd(&["sleep"]), json!({ "hostPID": true })).await;
    let key = node.run(&launch).await.unwrap();
    node.kill_shim(&launch).await;
    node.restart();
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    let found = node.runtime().list().await.unwrap();
    assert!(matches!(found[0].state, FoundState::Exited(exit) if exit.code == 137), "{found:?}");
    assert_eq!(node.wait(&key).await.code, 137);
    node.end().await;
}

#[tokio::test]
async fn half_made_containers_are_swept() {
    let mut node = Node::new();
    let half = node.data_dir().join("runtime/containers/half-0-1");
    fs::create_dir_all(half.join("upper")).unwrap();
    let launch = node.launch("made", DemoImage::new(), json!({})).await;
    node.runtime().create(&launch).await.unwrap();
    node.kill_shim(&launch).await;
    node.restart();
    assert!(!half.exists());
    assert!(node.runtime().list().await.unwrap().is_empty());
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.end().await;
}

#[tokio::test]
async fn a_stopped_shim_is_killed_by_reset() {
    let node = Node::new();
    let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), json!({})).await;
    node.run(&launch).await.unwrap();
    kill(Pid::from_raw(node.shim_pid(&launch)), Signal::SIGSTOP).unwrap();
    node.end().await;
}

#[tokio::test]
async fn a_data_directory_may_have_a_long_name() {
    let node = Node::with(Rotation::default(), &format!("{0}/{0}", "long-name".repeat(12)));
    let exit = node.outcome("a", &["exit", "6"], json!({})).await;
    assert_eq!(exit.code, 6);
    node.end().await;
}

#[tokio::test]
async fn many_containers_start_and_end_at_once() {
    let node = Node::new();
    let mut launches = Vec::new();
    for number in 0..12 {
        launches.push(node.launch(&format!("a{number}"), DemoImage::new().cmd(&["exit", "4"]), json!({})).await);
    }
    let outcomes = futures::future::join_all(launches.iter().map(|launch| async {
        let key = node.run(launch).await.unwrap();
        let exit = node.wait(&key).await;
        node.runtime().delete(&key).await.unwrap();
        exit.code
    }));
    assert_eq!(outcomes.await, [4; 12]);
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.end().await;
}

#[tokio::test]
async fn a_container_of_another_version_of_the_agent_is_found_and_left_alone() {
    let mut node = Node::new();
    let host_port = free_port();
    let mut launch = node.launch("a", DemoImage::new(), json!({})).await;
    launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
    node.run(&launch).await.unwrap();
    let started = http(host_port, "GET /started").await;
    // What an older agent did not know yet is missing, and there is something that a newer one brought in.
    let file = node.container(&launch).join("launch.json");
    let mut description: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let fields = description.as_object_mut().unwrap();
    fields.insert("version".to_owned(), json!(0));
    fields.insert("gravity".to_owned(), json!({ "on": true }));
    fields.remove("volumesRoot").unwrap();
    fields.remove("rotation").unwrap();
    fs::write(&file, description.to_string()).unwrap();
    node.restart();
    let found = node.runtime().list().await.unwrap();
    assert!(matches!(found[..], [ref one] if matches!(one.state, FoundState::Running(_))), "{found:?}");
    assert_eq!(found[0].ports, launch.ports);
    assert_eq!(http(host_port, "GET /started").await, started);

    // Even one of which nothing can be read is not for the agent's start to kill.
    fs::write(&file, "{}").unwrap();
    node.restart();
    assert_eq!(http(host_port, "GET /started").await, started);
    node.end().await;
}

#[tokio::test]
async fn a_shim_cannot_begin_in_a_container_that_is_being_removed() {
    let node = Node::new();
    let mut launch = node.launch("a", DemoImage::new(), json!({})).await;
    for _ in 0..20 {
        // The call is dropped when the shim was forked and has not done anything yet, or nearly so.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(3), node.runtime().create(&launch)).await;
        node.runtime().delete(&launch.instance).await.unwrap();
        assert!(node.runtime().list().await.unwrap().is_empty());
        launch.run += 1;
    }
    eventually("nothing is left", || node.leftovers().is_empty()).await;
    node.end().await;
}
