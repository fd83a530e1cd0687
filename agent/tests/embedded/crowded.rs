//! Containers that have as many processes as they may.

use longshore_agent::runtime::Runtime;
use longshore_demo_image::DemoImage;
use longshore_tests::wait;
use serde_json::json;

use super::conformance::command;
use super::node::Node;

/// Processes and threads of the container: the fewest that a spec may say.
const PIDS: usize = 16;

#[tokio::test]
async fn a_command_in_a_full_container_is_told_why_it_cannot_begin() {
    let node = Node::new();
    let launch = node.launch("a", DemoImage::new(), json!({ "args": ["sleep"], "pidsLimit": PIDS })).await;
    node.run(&launch).await.unwrap();
    let mut running = Vec::new();
    let error = loop {
        match node.runtime().exec(&launch.instance, command(&["sleep"])).await {
            Ok(command) => running.push(command),
            Err(error) => break error,
        }
        assert!(running.len() < PIDS, "more commands than processes");
    };
    assert!(error.message.contains("as many processes as it may"), "{error}");
    // Room for one is enough, and comes with the end of another.
    running.truncate(1);
    let begins = || async { node.runtime().exec(&launch.instance, command(&["sleep"])).await.is_ok() };
    wait::until("room for one command", begins).await;
}
