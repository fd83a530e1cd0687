//! Nodes.

use std::collections::HashMap;

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
    assert_eq!(labels, HashMap::from(expected));

    let (code, details) = failure(update(&[("a b", "x"), ("site", "8")], &["site"]).await);
    assert_eq!(code, Code::InvalidArgument);
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|found| &found.field).collect();
    assert_eq!(fields, ["set[\"a b\"]", "remove[0]"]);
    let many: Vec<(String, String)> = (0..64).map(|index| (format!("key-{index}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(failure(update(&many, &[]).await).0, Code::InvalidArgument);
    assert_eq!(update(&many, &["role", "site"]).await.unwrap().len(), 64);
}
