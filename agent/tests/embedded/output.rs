//! Output of containers.

use std::time::Duration;

use futures::StreamExt;
use longshore_agent::runtime::{LogQuery, Rotation, Runtime, Selection};
use longshore_demo_image::DemoImage;
use serde_json::json;

use super::node::{Node, PATIENCE};

#[tokio::test]
async fn both_streams_are_kept_and_can_be_read_after_the_end() {
    let mut node = Node::new();
    let exit = node.outcome("a", &["print", "4", "one", "two"], json!({})).await;
    assert_eq!(exit.code, 0);
    let key = node.key("a");
    let lines = node.lines(&key, None).await;
    assert!(lines.iter().any(|line| line.stderr) && lines.iter().any(|line| !line.stderr), "{lines:?}");
    assert!(lines.iter().all(|line| line.text == "one" || line.text == "two"), "{lines:?}");
    let whole = lines.len();
    assert_eq!(node.lines(&key, Some(1)).await, lines[whole - 1..]);
    node.restart();
    node.runtime().delete(&key).await.unwrap();
    assert_eq!(node.lines(&key, None).await, lines);
    node.runtime().remove_app(&key.app).await.unwrap();
    assert_eq!(node.lines(&key, None).await, lines, "still there a while after the app");
    assert!(node.lines(&node.key("unknown"), None).await.is_empty());
    node.end().await;
}

#[tokio::test]
async fn a_flood_is_rotated_away_and_a_follower_keeps_up() {
    let node = Node::with(Rotation { max_bytes: 200_000, max_files: 3 }, "data");
    let exit =
        node.outcome("a", &["print", "20000", "a line of some length, so that it fills the files"], json!({})).await;
    assert_eq!(exit.code, 0);
    let key = node.key("a");
    let kept: usize = node.lines(&key, None).await.iter().map(|line| line.text.len()).sum();
    assert!(kept > node.left_of_a_flood() && kept < 600_000, "{kept}");

    let launch = node.launch("b", DemoImage::new().cmd(&["print", "300", "x"]), json!({})).await;
    node.runtime().create(&launch).await.unwrap();
    let wanted = Selection { follow: true, ..Selection::default() };
    let query = LogQuery { instance: launch.instance.clone(), wanted };
    let stream = node.runtime().logs(query).await.unwrap().unwrap();
    node.runtime().start(&launch.instance).await.unwrap();
    let lines = tokio::time::timeout(PATIENCE, stream.take(300).collect::<Vec<_>>()).await.unwrap();
    assert!(lines.iter().all(|line| line.text == "x"), "{lines:?}");
    assert_eq!(node.wait(&launch.instance).await.code, 0);
    assert!(
        lines
            .windows(2)
            .all(|pair| pair[1].time.duration_since(pair[0].time) < Duration::from_secs(60).try_into().unwrap())
    );
    node.end().await;
}

#[tokio::test]
async fn each_run_can_be_told_from_the_one_before_and_the_spec_says_how_much_is_kept() {
    let node = Node::new();
    let key = node.key("a");
    let previous = || async {
        let wanted = Selection { previous: true, ..Selection::default() };
        let stream = node.runtime().logs(LogQuery { instance: node.key("a"), wanted }).await.unwrap();
        let lines: Vec<_> = match stream {
            Some(stream) => stream.collect().await,
            None => Vec::new(),
        };
        lines.into_iter().map(|line| String::from_utf8(line.text.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(node.outcome("a", &["print", "2", "one"], json!({})).await.code, 0);
    assert_eq!(previous().await, [""; 0]);
    node.runtime().delete(&key).await.unwrap();
    assert_eq!(node.outcome("a", &["print", "1", "two"], json!({})).await.code, 0);
    assert_eq!(previous().await, ["one", "one"]);
    node.runtime().delete(&key).await.unwrap();
    // One that says nothing is a run too.
    assert_eq!(node.outcome("a", &["exit", "0"], json!({})).await.code, 0);
    assert_eq!(previous().await, ["two"]);

    let little = json!({ "logs": { "maxSize": "64Ki", "maxFiles": 2 } });
    assert_eq!(node.outcome("b", &["print", "5000", "a line of some length, so that it fills"], little).await.code, 0);
    let kept: usize = node.lines(&node.key("b"), None).await.iter().map(|line| line.text.len()).sum();
    assert!(kept < 2 * 64 * 1024, "{kept}");
    node.end().await;
}

#[tokio::test]
async fn a_log_directory_is_the_instances_own_and_outlives_its_container() {
    let mut node = Node::new();
    let key = node.key("a");
    assert_eq!(node.runtime().log_files(&key).await.unwrap(), None);
    let spec = || json!({ "logs": { "directory": "/var/log/app" } });
    for file in ["one.log", "two.trace"] {
        let path = format!("/var/log/app/{file}");
        assert_eq!(node.outcome("a", &["fill", &path, "40000"], spec()).await.code, 0);
        node.runtime().delete(&key).await.unwrap();
    }
    node.restart();
    let files = node.runtime().log_files(&key).await.unwrap().unwrap();
    let found: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.bytes)).collect();
    assert_eq!(found, [("one.log", 40_000), ("two.trace", 40_000)]);
    let wanted = Selection { file: Some("one.log".to_owned()), ..Selection::default() };
    let lines = node.runtime().logs(LogQuery { instance: key, wanted }).await.unwrap().unwrap();
    let read: usize = lines.map(|line| line.text.len()).fold(0, |sum, length| async move { sum + length }).await;
    assert_eq!(read, 40_000);
    node.end().await;
}
