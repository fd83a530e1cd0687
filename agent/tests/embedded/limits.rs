//! Memory and CPU.

use longshore_demo_image::DemoImage;
use longshore_model::capability;
use serde_json::json;

use super::node::Node;

#[tokio::test]
async fn what_the_machine_enforces_is_offered() {
    let node = Node::new();
    // With what the agent itself can, whatever its runtime.
    let offered = longshore_agent::capability::all(node.runtime());
    // The other tests of this module hold it to the limits.
    let lacks: Vec<_> = capability::ALL.into_iter().filter(|word| !offered.iter().any(|offer| offer == word)).collect();
    assert_eq!(lacks, node.lacks(), "{offered:?}");
    node.end().await;
}

#[tokio::test]
async fn passing_the_memory_limit_is_told_as_such() {
    let node = Node::new();
    let limit = json!({ "resources": { "memory": "32Mi" } });
    let exit = node.outcome("greedy", &["eat", "200000000"], limit.clone()).await;
    assert_eq!((exit.code, exit.out_of_memory), (137, true));
    let exit = node.outcome("modest", &["exit", "3"], limit).await;
    assert_eq!((exit.code, exit.out_of_memory), (3, false));
    node.end().await;
}

#[tokio::test]
async fn the_cpu_limit_is_set() {
    let node = Node::new();
    let spec = json!({ "resources": { "cpu": "250m" } });
    let launch = node.launch("a", DemoImage::new().cmd(&["sleep"]), spec).await;
    node.run(&launch).await.unwrap();
    let set = node.cpu_quota(&launch);
    assert!(set.starts_with("25000"), "{set}");
    node.end().await;
}
