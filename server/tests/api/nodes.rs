//! Nodes.

use std::collections::BTreeMap;

use longshore_proto::v1;
use tonic::Code;
use v1::{FailureReason, JobState, TaskState};

use crate::harness::{World, failure, hello, order};

#[tokio::test]
async fn a_deleted_node_loses_its_session_its_tasks_and_its_way_back() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let job = world.create(order(&["shop-1", "shop-2"])).await;
    let first = agents[0].set().await;
    agents[0].reach(&first, TaskState::Succeeded).await;
    agents[1].set().await;

    world.nodes().delete_node(v1::DeleteNodeRequest { name: "shop-2".to_owned(), ..Default::default() }).await.unwrap();
    assert_eq!(agents[1].end().await.unwrap().code(), Code::Unauthenticated);
    let task = world.tasks(&job.job_id).await.remove(1);
    assert_eq!(task.failure.unwrap().reason(), FailureReason::NodeDeleted);
    world.job_in(&job.job_id, JobState::PartiallySucceeded).await;
    let status = world.dial_session(world.agent_service("shop-2"), hello("amd64")).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    let again =
        world.nodes().delete_node(v1::DeleteNodeRequest { name: "shop-2".to_owned(), ..Default::default() }).await;
    assert_eq!(failure(again).0, Code::NotFound);
}

#[tokio::test]
async fn a_mask_says_what_changes_of_a_node() {
    let world = World::start().await;
    world.enroll("shop-1", &[("role", "till"), ("site", "7")]).await;
    let labels = |labels: &[(&str, &str)]| -> std::collections::BTreeMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let get = v1::GetNodeRequest { name: "shop-1".to_owned() };
    let read = world.nodes().get_node(get).await.unwrap().into_inner().node.unwrap();
    let update = |new: &[(&str, &str)], paths: Option<&[&str]>, etag: &str| {
        let labels = labels(new).into_iter().collect();
        let node = Some(v1::Node { labels, etag: etag.to_owned(), ..read.clone() });
        let update_mask =
            paths.map(|paths| prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
        let mut nodes = world.nodes();
        let request = v1::UpdateNodeRequest { node, update_mask, ..Default::default() };
        async move { nodes.update_node(request).await.map(|answer| answer.into_inner().node.unwrap()) }
    };
    let found = |node: v1::Node| node.labels.into_iter().collect::<std::collections::BTreeMap<_, _>>();

    let changed = update(&[("role", "gate"), ("other", "x")], Some(&["labels.role"]), "").await.unwrap();
    assert_eq!(found(changed), labels(&[("role", "gate"), ("site", "7")]), "one key, and not the other");
    let changed =
        update(&[("example.com/a", "1")], Some(&["labels.site", "labels.`example.com/a`"]), "").await.unwrap();
    assert_eq!(found(changed), labels(&[("role", "gate"), ("example.com/a", "1")]), "a key that is not there goes");
    let changed = update(&[("a", "1")], None, "").await.unwrap();
    assert_eq!(found(changed), labels(&[("a", "1")]), "without a mask what is given");
    for paths in [None, Some(["name", "connected", "info.cpus"].as_slice())] {
        assert_eq!(found(update(&[], paths, "").await.unwrap()), labels(&[("a", "1")]), "nothing that can change");
    }
    let changed = update(&[("b", "2")], Some(&["labels"]), "").await.unwrap();
    assert_eq!(found(changed.clone()), labels(&[("b", "2")]), "the whole map");
    assert_eq!(failure(update(&[], Some(&["*"]), &read.etag).await).0, Code::Aborted);
    assert_eq!(found(update(&[], Some(&["*"]), &changed.etag).await.unwrap()), labels(&[]), "all that can change");

    let (code, details) = failure(update(&[("a b", "")], Some(&["label", "labels.c d"]), "").await);
    let bad = &details.bad_request().unwrap().field_violations;
    let fields: Vec<&str> = bad.iter().map(|found| found.field.as_str()).collect();
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(fields, ["node.labels[\"a b\"]", "update_mask.paths[0]", "update_mask"]);
    assert!(bad[1].description.starts_with("\"label\" is nothing that can be changed; there are labels,"), "{bad:?}");
    let many: Vec<(String, String)> = (0..65).map(|index| (format!("key-{index}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let (_, details) = failure(update(&many, None, "").await);
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "node.labels");
    let nowhere = v1::UpdateNodeRequest {
        node: Some(v1::Node { name: "nowhere".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(failure(world.nodes().update_node(nowhere.clone()).await).0, Code::NotFound);

    let node =
        v1::Node { name: "shop-1".to_owned(), labels: labels(&[("c", "3")]).into_iter().collect(), ..read.clone() };
    let node = Some(v1::Node { etag: String::new(), ..node });
    let checked = v1::UpdateNodeRequest { node, validate_only: true, ..Default::default() };
    let shown = world.nodes().update_node(checked).await.unwrap().into_inner().node.unwrap();
    assert_eq!(found(shown), labels(&[("c", "3")]));
    assert_eq!(found(update(&[], None, "").await.unwrap()), labels(&[]));
}

#[tokio::test]
async fn labels_are_set_removed_and_checked() {
    let world = World::start().await;
    world.enroll("shop-1", &[("role", "till"), ("old", "yes")]).await;
    let update = |set: &[(&str, &str)], remove: &[&str]| {
        let request = v1::UpdateNodeLabelsRequest {
            name: "shop-1".to_owned(),
            set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            remove: remove.iter().map(|key| (*key).to_owned()).collect(),
            ..Default::default()
        };
        let mut nodes = world.nodes();
        async move { nodes.update_node_labels(request).await.map(|answer| answer.into_inner().node.unwrap().labels) }
    };
    let labels = update(&[("role", "gateway"), ("site", "7")], &["old", "absent"]).await.unwrap();
    let expected = [("role", "gateway"), ("site", "7")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(labels, BTreeMap::from(expected));

    let (code, details) = failure(update(&[("a b", "x"), ("site", "8")], &["site"]).await);
    assert_eq!(code, Code::InvalidArgument);
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|found| &found.field).collect();
    assert_eq!(fields, ["set[\"a b\"]", "remove[0]"]);
    let many: Vec<(String, String)> = (0..64).map(|index| (format!("key-{index}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(failure(update(&many, &[]).await).0, Code::InvalidArgument);
    assert_eq!(update(&many, &["role", "site"]).await.unwrap().len(), 64);
}
