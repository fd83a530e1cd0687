//! An agent that is killed, and the next one that goes on from its ledger.

use std::time::Duration;

use longshore_model::app::AppState;
use longshore_model::task::TaskState as S;

use super::node::{Node, app, deploy};

#[tokio::test(start_paused = true)]
async fn a_new_agent_adopts_what_runs() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1"));
    node.until_task(S::Succeeded).await;
    node.restart().await;
    node.until_app(AppState::Running).await;
    assert_eq!((node.starts(0), node.containers().await), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_the_apps_come_up_without_a_server() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1"));
    node.until_task(S::Succeeded).await;
    node.machine.reboot();
    node.restart().await;
    node.until_app(AppState::Running).await;
    assert_eq!(node.starts(0), 2);
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_of_a_deployment_loses_nothing_and_starts_nothing_twice() {
    for moment in 0..60 {
        let mut node = Node::new().await;
        node.supervisor.set(deploy("fake/app:1?pull=500ms&create=500ms&start=500ms"));
        let moment = Duration::from_millis(moment * 130);
        // The server's side goes on receiving until the crash.
        let _ = tokio::time::timeout(moment, async {
            loop {
                node.receive().await
            }
        })
        .await;
        node.restart().await;
        node.supervisor.replace(vec![deploy("fake/app:1?pull=500ms&create=500ms&start=500ms")], &[]).await;
        node.until(|node| node.tasks.iter().any(|report| report.state == S::Succeeded)).await;
        assert_eq!((node.starts(0), node.containers().await), (1, 1), "crash after {moment:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_of_a_failure_ends_in_the_same_failure() {
    for moment in 0..40 {
        let mut node = Node::new().await;
        let deployment = deploy("fake/app:1?exit=1&after=500ms&stop=200ms");
        node.supervisor.set(deployment.clone());
        let moment = Duration::from_millis(moment * 130);
        let _ = tokio::time::timeout(moment, async {
            loop {
                node.receive().await
            }
        })
        .await;
        node.restart().await;
        node.supervisor.replace(vec![deployment], &[]).await;
        node.until(|node| node.tasks.iter().any(|report| report.state == S::Failed)).await;
        assert_eq!(node.containers().await, 0, "crash after {moment:?}");
        assert!(node.starts(0) <= 3, "crash after {moment:?}: {} starts", node.starts(0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_is_set_aside_and_its_containers_run_on_until_the_server_has_spoken() {
    let mut node = Node::new().await;
    let mut other = deploy("fake/app:1");
    other.app = app("other");
    node.supervisor.replace(vec![deploy("fake/app:1"), other.clone()], &[]).await;
    node.until(|node| node.apps.iter().filter(|(_, s)| s.state == AppState::Running).count() == 2).await;
    let file = node.ledger_file("till");
    let text = std::fs::read(&file).unwrap();
    for length in [0, 1, text.len() / 2, text.len() - 3] {
        node.kill().await;
        std::fs::write(&file, &text[..length]).unwrap();
        node.begin().await;
        assert!(!file.exists(), "set aside");
        assert_eq!(node.containers().await, 2, "nothing is stopped");
        node.supervisor.replace(vec![deploy("fake/app:1"), other.clone()], &[]).await;
        node.tasks.clear();
        node.until(|node| node.tasks.iter().any(|report| report.state == S::Succeeded)).await;
        assert_eq!(node.starts(0), 1, "it was adopted");
    }
    node.kill().await;
    std::fs::write(&file, "{").unwrap();
    node.begin().await;
    node.supervisor.replace(vec![other], &[]).await;
    assert_eq!(node.containers().await, 1, "what the server does not want goes");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_server_has_not_acknowledged_is_told_by_the_next_agent() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1?resolve=fail"));
    node.until_written("FAILED").await;
    node.restart().await;
    node.until_task(S::Failed).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_set_aside_protects_its_containers_from_every_later_agent_too() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1"));
    node.until_task(S::Succeeded).await;
    node.kill().await;
    std::fs::write(node.ledger_file("till"), "{").unwrap();
    for _ in 0..3 {
        // No server has spoken in between.
        node.begin().await;
        assert_eq!(node.containers().await, 1, "silence stopped an app");
        node.kill().await;
    }
    node.begin().await;
    node.supervisor.replace(Vec::new(), &[]).await;
    assert_eq!(node.containers().await, 0, "what the server does not want goes");
    let left = std::fs::read_dir(node.directory.path().join("ledger")).unwrap().count();
    assert_eq!(left, 0, "and the file that was set aside with it");
}

#[tokio::test(start_paused = true)]
async fn an_app_of_a_damaged_file_is_deleted_before_it_is_reported_gone() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1"));
    node.until_task(S::Succeeded).await;
    node.kill().await;
    std::fs::write(node.ledger_file("till"), "{").unwrap();
    node.begin().await;
    // A full set whose assignment of this app could not be read, and then a removal.
    node.supervisor.replace(Vec::new(), &[app("till")]).await;
    assert_eq!(node.containers().await, 1);
    node.supervisor.remove(&app("till")).await;
    node.until_app(AppState::Removed).await;
    assert_eq!(node.containers().await, 0);
}

/// The ledger's directory is elsewhere while `act` runs: nothing can be written.
async fn without_a_ledger(node: &mut Node, act: impl AsyncFnOnce(&mut Node)) {
    let (here, away) = (node.directory.path().join("ledger"), node.directory.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    act(node).await;
    std::fs::rename(&away, &here).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_success_that_cannot_be_written_down_is_none() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1"));
    node.until_task(S::Settling).await;
    without_a_ledger(&mut node, async |node| {
        node.until_task(S::Failed).await;
        assert_eq!(node.containers().await, 0);
    })
    .await;
    // The failure is written as soon as it can be: no later agent brings the app up again.
    tokio::time::sleep(Duration::from_secs(600)).await;
    node.restart().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((node.containers().await, node.starts(0)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_that_cannot_be_written_down() {
    let mut node = Node::new().await;
    without_a_ledger(&mut node, async |node| {
        node.supervisor.set(deploy("fake/app:1"));
        node.until_task(S::Failed).await;
    })
    .await;
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1?create=5s"));
    node.until_task(S::Creating).await;
    without_a_ledger(&mut node, async |node| {
        node.until_task(S::Failed).await;
        assert_eq!((node.containers().await, node.starts(0)), (0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_runs_is_not_taken_for_ended_because_it_cannot_be_asked() {
    let mut node = Node::new().await;
    node.supervisor.set(deploy("fake/app:1?wait=fail"));
    node.until_task(S::Succeeded).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((node.containers().await, node.starts(0)), (1, 1));
}
