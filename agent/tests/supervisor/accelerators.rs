//! Accelerators over an app's life: held with it, through updates, failures and restarts of the agent.

use std::fs;

use longshore_model::app::AppState;
use longshore_model::assignment::Assignment;
use longshore_model::failure::FailureReason as R;
use longshore_model::report::TaskReport;
use longshore_model::spec::{AcceleratorQuota, AppSpec};

use super::node::{Node, app, assignment, spec, update};

/// A node whose machine has so many GPUs. They are looked for whenever somebody asks for one.
async fn node(gpus: u32) -> Node {
    let node = Node::new().await;
    let dev = node.directory.path().join("machine/dev");
    fs::create_dir_all(&dev).unwrap();
    (0..gpus).for_each(|number| std::os::unix::fs::symlink("/dev/null", dev.join(format!("nvidia{number}"))).unwrap());
    node
}

fn asking(image: &str, count: u32) -> AppSpec {
    let quota = AcceleratorQuota { kind: "nvidia.com/gpu".to_owned(), count };
    AppSpec { accelerators: vec![quota], ..spec(image) }
}

fn first(image: &str, count: u32) -> Assignment {
    assignment(asking(image, count))
}

fn second(image: &str, count: u32) -> Assignment {
    Assignment { spec: asking(image, count).into(), ..update(image) }
}

/// What of the machine is free now.
fn free(node: &Node) -> u32 {
    node.context.accelerators.look().iter().map(|stock| stock.free).sum()
}

async fn ends(node: &mut Node, wanted: Assignment) -> Option<R> {
    // An agent that was started again repeats what it said of other tasks.
    let is_its = |report: &&TaskReport| (&report.job, report.attempt) == (&wanted.job, wanted.attempt);
    node.tasks.clear();
    node.supervisor.set(wanted.clone());
    node.until(|node| node.tasks.iter().rfind(is_its).is_some_and(|report| report.state.is_end())).await;
    node.tasks.iter().rfind(is_its).unwrap().failure.as_ref().map(|failure| failure.reason)
}

#[tokio::test(start_paused = true)]
async fn a_failed_update_gives_back_what_it_wanted_more_and_a_success_what_it_wants_less() {
    let mut node = node(3).await;
    assert_eq!(ends(&mut node, first("fake/app:1", 1)).await, None);
    assert_eq!(free(&node), 2);
    assert_eq!(ends(&mut node, second("fake/app:2?exit=1&after=1s", 3)).await, Some(R::ContainerExited));
    assert_eq!(free(&node), 2);
    node.restart().await;
    assert_eq!(free(&node), 2, "a new agent knows it");
    let again = Assignment { revision: 3, attempt: 2, ..second("fake/app:3", 4) };
    assert_eq!(ends(&mut node, again).await, Some(R::InsufficientAccelerators));
    assert_eq!(free(&node), 2);
    let last = Assignment { revision: 4, attempt: 3, ..second("fake/app:4", 2) };
    assert_eq!(ends(&mut node, last).await, None);
    assert_eq!(free(&node), 1);
    node.restart().await;
    assert_eq!(free(&node), 1);
    node.apps.clear();
    node.supervisor.remove(&app("till")).await;
    node.until_app(AppState::Removed).await;
    assert_eq!(free(&node), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failed_deployment_leaves_none_held_and_a_killed_agent_forgets_none() {
    let mut node = node(1).await;
    assert_eq!(ends(&mut node, first("fake/app:1?exit=1&after=1s", 1)).await, Some(R::ContainerExited));
    assert_eq!(free(&node), 1);
    assert_eq!(ends(&mut node, Assignment { attempt: 2, ..first("fake/app:1", 1) }).await, None);
    node.kill().await;
    node.begin().await;
    assert_eq!(free(&node), 0);
    let other = Assignment { app: app("other"), ..second("fake/other:1", 1) };
    assert_eq!(ends(&mut node, other).await, Some(R::InsufficientAccelerators));
}
