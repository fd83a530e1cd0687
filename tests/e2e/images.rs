//! Images from a registry, all the way.

use longshore_demo_image::DemoImage;
use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::registry::Registry;
use longshore_tests::spec::app;
use v1::{FailureReason, JobState, TaskState};

fn from_registry(reference: String) -> v1::AppSpec {
    v1::AppSpec {
        image: Some(v1::Image {
            source: Some(v1::image::Source::Reference(reference)),
            pull_policy: v1::PullPolicy::Unspecified.into(),
            ..Default::default()
        }),
        ..app("", &["sleep"])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_run_and_an_absent_one_is_told() {
    let mut registry = Registry::start(false);
    registry.push("shop/till:1", &DemoImage::new()).await;
    let cluster = Cluster::start().await;
    let authority = cluster.file("registry.crt", registry.authority());
    let node = cluster.node_with("node", &[], None, &["--registry-ca", &authority]).await;
    let client = cluster.client().await;

    let job = client.create(from_registry(registry.reference("shop/till:1")), &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);

    let reason = async |reference: String| {
        let job = client.create(from_registry(reference), &["node"]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
        let failure = client.task(&job.job_id).await.failure.unwrap();
        assert_eq!(failure.step(), TaskState::Checking);
        failure.reason()
    };
    assert_eq!(reason(registry.reference("shop/till:2")).await, FailureReason::ImageNotFound);
    let reference = registry.reference("shop/other:1");
    registry.stop();
    assert_eq!(reason(reference).await, FailureReason::RegistryUnreachable);
    drop(node);
}
