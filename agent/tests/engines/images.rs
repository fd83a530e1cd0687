//! Images: from the agent's hands into the engine.

use std::sync::{Arc, Mutex};

use longshore_agent::runtime::image::RegistryConfig;
use longshore_agent::runtime::{Access, Purpose};
use longshore_agent::runtime::{Launch, Runtime};
use longshore_demo_image::{ARCHITECTURE, DemoImage};
use longshore_model::failure::FailureReason;
use longshore_model::spec::{Image, ImageSource, PullPolicy};
use longshore_tests::registry::Registry;
use serde_json::json;

use super::node::Node;

#[tokio::test]
async fn a_registry_is_reached_with_the_agents_authority() {
    let mut node = Node::new();
    let mut registry = Registry::start(false);
    let pushed = registry.push("shop/till:1", &DemoImage::new().cmd(&["exit", "4"])).await;
    registry.push("shop/foreign:1", &DemoImage::new().architecture("s390x")).await;
    let refers = |name| Image {
        source: ImageSource::Reference(registry.reference(name)),
        pull_policy: None,
        credential: None,
        keep_for: None,
    };
    let (till, foreign) = (refers("shop/till:1"), refers("shop/foreign:1"));
    let error = node.runtime().resolve(&till, &Access::anonymous(), Purpose::Pull).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::RegistryUnreachable, "nobody vouches for it: {error}");
    *node.backend.registry.lock().unwrap() =
        RegistryConfig { ca_pems: vec![registry.authority().to_owned()], ..RegistryConfig::default() };
    node.restart();

    let error = node.runtime().resolve(&foreign, &Access::anonymous(), Purpose::Pull).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ArchitectureMismatch, "{error}");
    assert!(error.message.contains("s390x") && error.message.contains(ARCHITECTURE), "{error}");

    let image = node.runtime().resolve(&till, &Access::anonymous(), Purpose::Pull).await.unwrap().image;
    assert_eq!(image.digest, pushed);
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    node.runtime()
        .pull(&image, &Access::anonymous(), Arc::new(move |pull| sink.lock().unwrap().push(pull)))
        .await
        .unwrap();
    let told = told.lock().unwrap().clone();
    assert!(told.is_sorted_by_key(|pull| pull.done), "{told:?}");
    assert!(told.last().is_some_and(|pull| pull.total > 0 && pull.done == pull.total), "{told:?}");

    // What the engine has needs no registry any more.
    registry.stop();
    node.restart();
    let known = node.runtime().resolve(&till, &Access::anonymous(), Purpose::Pull).await.unwrap().image;
    assert_eq!(known.digest, pushed);
    node.runtime().pull(&known, &Access::anonymous(), Arc::new(|_| {})).await.unwrap();
    let launch = node.launch("a", DemoImage::new(), json!({})).await;
    let launch = Launch { image: known, ..launch };
    let key = node.run(&launch).await.unwrap();
    assert_eq!(node.wait(&key).await.code, 4);
    node.end().await;
}

#[tokio::test]
async fn an_image_that_somebody_removed_from_the_engine_is_fetched_again() {
    let node = Node::new();
    let launch = node.launch("a", DemoImage::new().layer(&[("own", node.uid.as_bytes())]), json!({})).await;
    let digest = launch.image.digest.trim_start_matches("sha256:");
    let path = format!("/v1.40/images/longshore.invalid/{}:{digest}?force=true", node.uid.to_lowercase());
    let (status, answer) = node.backend.machine().engine().request("DELETE", &path, "");
    assert_eq!(status, 200, "{answer}");
    let error = node.runtime().create(&launch).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ImageNotFound, "{error}");
    node.runtime().pull(&launch.image, &Access::anonymous(), Arc::new(|_| {})).await.unwrap();
    node.run(&launch).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused_before_it_is_fetched() {
    let node = Node::new();
    let archive = node.path().join("foreign.tar");
    std::fs::write(&archive, DemoImage::new().architecture("s390x").docker_archive()).unwrap();
    let source = ImageSource::Archive(archive.to_str().unwrap().to_owned());
    let image = Image { source, pull_policy: Some(PullPolicy::Always), credential: None, keep_for: None };
    let error = node.runtime().resolve(&image, &Access::anonymous(), Purpose::Pull).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::ArchitectureMismatch, "{error}");
    node.end().await;
}
