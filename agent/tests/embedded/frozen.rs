//! Shims and containers that stand still.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use longshore_agent::runtime::embedded::{EgressChoice, EmbeddedRuntime, Patience, Settings};
use longshore_agent::runtime::image::RegistryConfig;
use longshore_agent::runtime::{FoundState, Launch, Runtime};
use longshore_demo_image::DemoImage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::node::{Backend, Node};

/// A node that soon gives up what does not answer.
fn impatient() -> Node {
    let mut node = Node::new();
    let soon = Duration::from_millis(300);
    *node.backend.patience.lock().unwrap() = Patience { start: soon, signal: soon, ..Patience::default() };
    node.restart();
    node
}

fn freeze_shim(node: &Node, launch: &Launch) {
    kill(Pid::from_raw(node.shim_pid(launch)), Signal::SIGSTOP).unwrap();
}

/// Nothing of the instance's containers is left, and the next run of it works.
async fn goes_on(node: &Node, launch: &Launch) {
    node.runtime().delete(&launch.instance).await.unwrap();
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    let next = Launch { run: launch.run + 100, ..launch.clone() };
    node.run(&next).await.unwrap();
    node.runtime().stop(&next.instance, Duration::ZERO).await.unwrap();
    node.runtime().delete(&next.instance).await.unwrap();
}

#[tokio::test]
async fn a_start_that_a_frozen_shim_does_not_answer_fails_and_says_so() {
    let node = impatient();
    let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), json!({})).await;
    node.runtime().create(&launch).await.unwrap();
    freeze_shim(&node, &launch);
    let error = node.runtime().start(&launch.instance).await.unwrap_err();
    assert_eq!(error.message, "starting the container was given up: its shim did not answer for 0 s");
    let found = node.runtime().list().await.unwrap();
    assert!(matches!(found[..], [ref one] if one.state == FoundState::Created), "{found:?}");
    goes_on(&node, &launch).await;
    node.end().await;
}

#[tokio::test]
async fn a_container_with_a_frozen_shim_is_stopped_and_deleted() {
    let node = impatient();
    let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), json!({})).await;
    node.run(&launch).await.unwrap();
    freeze_shim(&node, &launch);
    // However long the program may take to end by itself: it was never told.
    node.runtime().stop(&launch.instance, Duration::from_secs(3600)).await.unwrap();
    let found = node.runtime().list().await.unwrap();
    assert!(matches!(found[0].state, FoundState::Exited(exit) if exit.code == 137), "{found:?}");
    assert_eq!(node.wait(&launch.instance).await.code, 137);
    goes_on(&node, &launch).await;

    for is_started in [false, true] {
        let launch = node.launch("b", DemoImage::new().cmd(&["sleep"]), json!({})).await;
        node.runtime().create(&launch).await.unwrap();
        if is_started {
            node.runtime().start(&launch.instance).await.unwrap();
        }
        freeze_shim(&node, &launch);
        goes_on(&node, &launch).await;
    }
    node.end().await;
}

#[tokio::test]
async fn a_shim_that_says_nothing_while_it_makes_its_container_is_given_up() {
    let agent = env!("CARGO_BIN_EXE_longshore-agent");
    let node = Node::new();
    let shim = node.path().join("shim");
    let settings = Settings {
        shim: shim.clone(),
        patience: Patience { make: Duration::from_millis(300), ..Patience::default() },
        egress: EgressChoice::Off,
        ..Settings::of_this_program(&node.data_dir(), &node.uid)
    };
    let runtime = EmbeddedRuntime::open(settings, &RegistryConfig::default()).unwrap();
    // Stopped before it does anything; and held up with its lock taken, by a log that nobody reads.
    for stuck in ["kill -STOP $$".to_owned(), format!("mkfifo $2/shim.log\nexec {agent} \"$@\"")] {
        fs::write(&shim, format!("#!/bin/sh\n{stuck}\n")).unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), json!({})).await;
        let error = runtime.create(&launch).await.unwrap_err();
        assert_eq!(error.message, "making the container was given up: its shim said nothing for 0 s", "{stuck}");
        assert!(node.leftovers().is_empty(), "{stuck}: {:?}", node.leftovers());
        goes_on(&node, &launch).await;
    }
    node.end().await;
}

/// The files by which a container's processes are frozen, in whichever version of cgroups it is.
fn freezers(node: &Node, launch: &Launch) -> Vec<(PathBuf, &'static str)> {
    let group = node.backend.cgroup(&node.uid, launch);
    let all = [("freezer", "freezer.state", "FROZEN"), ("", "cgroup.freeze", "1"), ("unified", "cgroup.freeze", "1")];
    let paths = all.map(|(at, file, word)| (PathBuf::from("/sys/fs/cgroup").join(at).join(&group).join(file), word));
    paths.into_iter().filter(|(path, _)| path.exists()).collect()
}

#[tokio::test]
async fn a_frozen_container_is_stopped_deleted_and_swept() {
    let mut node = impatient();
    for how in ["stop", "delete", "sweep", "reset"] {
        let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), json!({})).await;
        node.run(&launch).await.unwrap();
        let freezers = freezers(&node, &launch);
        assert!(!freezers.is_empty(), "this machine cannot freeze cgroups");
        for (path, word) in freezers {
            fs::write(path, word).unwrap();
        }
        match how {
            "stop" => node.runtime().stop(&launch.instance, Duration::ZERO).await.unwrap(),
            "delete" => {}
            "sweep" => {
                node.kill_shim(&launch).await;
                node.restart();
            }
            // With the node.
            _ => break,
        }
        if how != "delete" {
            assert!(node.leftovers().is_empty(), "{how}: {:?}", node.leftovers());
        }
        node.runtime().delete(&launch.instance).await.unwrap();
        assert!(node.leftovers().is_empty(), "{how}: {:?}", node.leftovers());
    }
    node.end().await;
}
