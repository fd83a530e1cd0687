//! Volumes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use longshore_agent::runtime::Runtime;
use longshore_demo_image::DemoImage;
use longshore_model::failure::FailureReason;
use longshore_model::spec::Protocol;
use serde_json::json;

use super::node::{Node, free_port, http, port};

#[tokio::test]
async fn host_paths_are_shared_and_may_be_read_only() {
    let node = Node::new();
    let shared = node.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("greeting"), "hello").unwrap();
    let spec = json!({
        "volumes": [
            { "mountPath": "/data", "hostPath": { "path": shared } },
            { "mountPath": "/fixed", "readOnly": true, "hostPath": { "path": shared } },
        ],
    });
    let host_port = free_port();
    let mut launch = node.launch("a", DemoImage::new(), spec).await;
    launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
    let key = node.run(&launch).await.unwrap();
    assert_eq!(http(host_port, "GET /read?path=/fixed/greeting").await, "hello");
    assert_eq!(http(host_port, "POST /write?path=/data/mark").await, "written");
    assert!(shared.join("mark").exists());
    assert_ne!(http(host_port, "POST /write?path=/fixed/forbidden").await, "written");
    assert!(!shared.join("forbidden").exists());
    node.runtime().delete(&key).await.unwrap();
    node.runtime().remove_app(&key.app).await.unwrap();
    assert!(shared.join("mark").exists(), "kept after the app");
    node.end().await;
}

#[tokio::test]
async fn a_host_path_that_is_missing_or_leads_to_the_system_is_refused() {
    let node = Node::new();
    let link = node.path().join("link");
    symlink("/etc", &link).unwrap();
    for (name, path) in [("link", link), ("missing", node.path().join("missing"))] {
        let spec = json!({ "volumes": [{ "mountPath": "/data", "hostPath": { "path": path } }] });
        let launch = node.launch(name, DemoImage::new(), spec).await;
        let error = node.runtime().create(&launch).await.unwrap_err();
        assert_eq!(error.reason, FailureReason::HostPathUnavailable, "{name}: {error}");
    }
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.end().await;
}

#[tokio::test]
async fn volumes_of_apps_that_nobody_knows_go() {
    let node = Node::new();
    let spec = json!({
        "volumes": [
            { "mountPath": "/disk", "emptyDir": {} },
            { "mountPath": "/memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
        ],
    });
    for app in ["known", "orphan"] {
        let launch = node.launch(app, DemoImage::new().cmd(&["exit", "0"]), spec.clone()).await;
        let key = node.run(&launch).await.unwrap();
        node.wait(&key).await;
        node.runtime().delete(&key).await.unwrap();
    }
    let volumes = |app: &str| node.data_dir().join("runtime/volumes").join(app);
    assert!(volumes("known").exists() && volumes("orphan").exists());
    let known = node.key("known").app;
    node.runtime().retain(&[known.clone()].into()).await.unwrap();
    assert!(volumes("known").exists() && !volumes("orphan").exists());
    assert_eq!(node.leftovers().iter().filter(|left| left.starts_with("mount")).count(), 1, "{:?}", node.leftovers());
    node.runtime().remove_app(&known).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn empty_directories_survive_restarts_and_go_with_the_app() {
    let mut node = Node::new();
    let spec = json!({
        "volumes": [
            { "mountPath": "/disk", "emptyDir": {} },
            { "mountPath": "/memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
        ],
    });
    let host_port = free_port();
    for run in 0..2 {
        let image = DemoImage::new().user("demo");
        let mut launch = node.launch("a", image, spec.clone()).await;
        launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
        let key = node.run(&launch).await.unwrap();
        assert_eq!(http(host_port, "GET /healthz").await, "ok");
        for (read, write) in [
            ("GET /read?path=/disk/mark", "POST /write?path=/disk/mark"),
            ("GET /read?path=/memory/mark", "POST /write?path=/memory/mark"),
        ] {
            let there = http(host_port, read).await.is_empty();
            assert_eq!(there, run == 1, "{read}");
            assert_eq!(http(host_port, write).await, "written");
        }
        node.runtime().stop(&key, Duration::ZERO).await.unwrap();
        node.runtime().delete(&key).await.unwrap();
        node.restart();
    }
    // The size limit of the one in memory holds.
    let mut launch = node.launch("a", DemoImage::new().cmd(&["fill", "/memory/big", "2000000"]), spec).await;
    launch.ports = vec![];
    let key = node.run(&launch).await.unwrap();
    assert_ne!(node.wait(&key).await.code, 0);
    node.runtime().delete(&key).await.unwrap();
    assert!(node.leftovers().iter().any(|left| left.starts_with("mount")));
    node.runtime().remove_app(&key.app).await.unwrap();
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    assert!(!node.data_dir().join("runtime/volumes/a").exists());
    let mode = fs::metadata(node.data_dir().join("runtime")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
    node.end().await;
}
