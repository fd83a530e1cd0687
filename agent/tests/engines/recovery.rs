//! Agents that are restarted, engines that go away, and containers of others.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_agent::runtime::{Access, Purpose};
use longshore_agent::runtime::{FoundState, Launch, Runtime};
use longshore_demo_image::DemoImage;
use longshore_model::failure::FailureReason;
use longshore_model::spec::Protocol;
use serde_json::json;

use super::node::{Backend, Kind, Node, PATIENCE, free_port, http, port};
use crate::node::Which;

#[tokio::test]
async fn a_restarted_agent_finds_its_containers_and_their_output() {
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
    assert_eq!((found[0].revision, found[0].run, &found[0].ports), (7, launch.run, &launch.ports));
    assert_eq!(http(host_port, "GET /started").await, started, "it was not started anew");
    let waiter = node.runtime().wait(&launch.instance);
    let ended = async {
        let _ = http(host_port, "POST /exit?code=9").await;
    };
    let (exit, ()) = tokio::join!(waiter, ended);
    assert_eq!(exit.unwrap().code, 9);
    let whole = node.texts(&launch.instance).await;
    // What each agent copied fits together: nothing is there twice.
    node.restart();
    node.runtime().delete(&launch.instance).await.unwrap();
    assert_eq!(node.texts(&launch.instance).await, whole);
    node.end().await;
}

#[tokio::test]
async fn an_end_that_no_agent_saw_is_told_to_the_next_with_its_output() {
    let mut node = Node::new();
    let launch = node.launch("a", DemoImage::new().cmd(&["print", "50", "x"]), json!({})).await;
    node.run(&launch).await.unwrap();
    node.restart();
    assert_eq!(node.wait(&launch.instance).await.code, 0);
    assert_eq!(node.texts(&launch.instance).await.len(), 50);
    node.runtime().delete(&launch.instance).await.unwrap();
    assert_eq!(node.texts(&launch.instance).await.len(), 50);
    node.end().await;
}

#[tokio::test]
async fn a_link_that_took_the_place_of_a_host_path_is_seen_before_the_start() {
    let node = Node::new();
    let here = node.path().canonicalize().unwrap();
    let data = here.join("shared");
    let spec = json!({ "volumes": [{ "mountPath": "/d", "hostPath": { "path": data, "create": true } }] });
    let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), spec).await;
    node.runtime().create(&launch).await.unwrap();
    std::fs::remove_dir(&data).unwrap();
    std::os::unix::fs::symlink("/etc", &data).unwrap();
    let error = node.runtime().start(&launch.instance).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::HostPathUnavailable, "{error}");
    assert!(error.message.contains("the system directory /etc rules out"), "{error}");
    assert!(matches!(node.runtime().list().await.unwrap()[..], [ref found] if found.state == FoundState::Created));
    node.runtime().delete(&launch.instance).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn the_engines_own_directory_is_not_mounted() {
    let node = Node::new();
    let engine = node.backend.machine().engine().root();
    for path in [engine.clone(), engine.parent().unwrap().to_owned()] {
        let spec = json!({ "volumes": [{ "mountPath": "/d", "hostPath": { "path": path } }] });
        let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), spec).await;
        let error = node.runtime().create(&launch).await.unwrap_err();
        assert_eq!(error.reason, FailureReason::HostPathUnavailable, "{error}");
        assert!(error.message.contains("the agent or its engine keeps things there"), "{error}");
    }
    node.end().await;
}

#[tokio::test]
async fn containers_of_others_are_not_seen_and_not_touched() {
    let mut node = Node::new();
    let other = Node::new();
    let theirs = other.launch("a", DemoImage::new(), json!({})).await;
    other.run(&theirs).await.unwrap();
    let image = other.runtime().resolve(&theirs.spec.image, &Access::anonymous(), Purpose::Pull).await.unwrap().image;
    let name = format!("longshore.invalid/{}:{}", other.uid.to_lowercase(), &image.digest["sha256:".len()..]);
    let foreign = format!("ls-foreign-{}", other.uid);
    let body = json!({ "Image": name, "Labels": { "com.example.app": "a" } }).to_string();
    let machine = other.backend.machine();
    let (status, answer) = machine.engine().request("POST", &format!("/v1.40/containers/create?name={foreign}"), &body);
    assert_eq!(status, 201, "{answer}");

    assert_eq!(node.runtime().list().await.unwrap(), []);
    node.runtime().stop(&theirs.instance, Duration::ZERO).await.unwrap();
    node.runtime().delete(&theirs.instance).await.unwrap();
    node.runtime().remove_app(&theirs.instance.app).await.unwrap();
    node.restart();
    node.end().await;
    let found = other.runtime().list().await.unwrap();
    assert!(matches!(found[..], [ref one] if matches!(one.state, FoundState::Running(_))), "{found:?}");
    let (status, _) = machine.engine().request("GET", &format!("/v1.40/containers/{foreign}/json"), "");
    assert_eq!(status, 200);
    let (status, _) = machine.engine().request("DELETE", &format!("/v1.40/containers/{foreign}?force=true"), "");
    assert_eq!(status, 204);
    other.end().await;
}

#[tokio::test]
async fn what_an_earlier_node_of_the_directory_has_in_the_engine_goes() {
    let mut node = Node::new();
    let other = Node::new();
    let theirs = other.launch("a", DemoImage::new().cmd(&["sleep"]), json!({})).await;
    other.run(&theirs).await.unwrap();
    let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), json!({})).await;
    node.run(&launch).await.unwrap();
    // The directory is enrolled again, after its identity was lost.
    let before = node.uid.clone();
    node.uid.push_str("-again");
    node.restart();
    assert_eq!(node.backend.leftovers(&before, ""), BTreeSet::new());
    assert_eq!(node.runtime().list().await.unwrap(), []);
    assert!(!node.data_dir().join("runtime/former-node-uids").exists());
    let found = other.runtime().list().await.unwrap();
    assert!(matches!(found[..], [ref one] if matches!(one.state, FoundState::Running(_))), "{found:?}");
    other.end().await;
    node.end().await;
}

#[tokio::test]
async fn an_engine_that_goes_away_and_comes_back_loses_no_app() {
    let mut node = Node::new();
    node.backend.isolate();
    node.restart();
    let machine = node.backend.machine();
    let launch = node.launch("a", DemoImage::new(), json!({})).await;
    let key = node.run(&launch).await.unwrap();
    let next = node.launch("b", DemoImage::new(), json!({})).await;

    let waiting = tokio::time::timeout(PATIENCE, node.runtime().wait(&key));
    let outage = async {
        // The wait is under way before the engine goes.
        tokio::task::yield_now().await;
        machine.engine().stop();
        let error = node.runtime().create(&next).await.unwrap_err();
        assert_eq!(error.reason, FailureReason::RuntimeError);
        assert!(error.message.contains("cannot be reached"), "{error}");
        node.runtime().list().await.unwrap_err();
        // What is on the node can be read all the same.
        node.texts(&key).await;
        machine.engine().begin();
        if !Kind::CONTAINERS_END {
            node.runtime().stop(&key, Duration::from_secs(10)).await.unwrap();
        }
    };
    let (exit, ()) = tokio::join!(waiting, outage);
    exit.expect("the end is heard of once the engine is back").unwrap();
    let found = node.runtime().list().await.unwrap();
    assert!(matches!(found[..], [ref one] if one.instance == key && one.run == launch.run), "{found:?}");

    node.runtime().delete(&key).await.unwrap();
    let again = Launch { run: launch.run + 10, ..launch };
    node.run(&again).await.unwrap();
    node.run(&next).await.unwrap();
    assert_eq!(node.runtime().list().await.unwrap().len(), 2);
    node.end().await;
}
