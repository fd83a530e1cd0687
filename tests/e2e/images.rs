//! Images from a registry, all the way.

use std::net::SocketAddr;

use longshore_demo_image::DemoImage;
use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::http;
use longshore_tests::process::succeed;
use longshore_tests::registry::{PASSWORD, Registry, USERNAME};
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::wait;
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

/// Makes a credential for a registry, with its authority.
fn make_credential(cluster: &Cluster, name: &str, registry: &Registry) {
    let (password, authority) = (cluster.file("password", PASSWORD), cluster.file("authority", registry.authority()));
    let words = ["registry", "create", name, "--registry", registry.address(), "--username", USERNAME];
    let files = ["--password-file", &password, "--ca", &authority];
    succeed(&mut cluster.cli(&[words.as_slice(), &files].concat()));
}

/// What the app behind a port says of its environment.
async fn version(address: SocketAddr) -> Option<String> {
    http::get(address, "/env/VERSION").await.ok().map(|answer| answer.body.trim_end().to_owned())
}

/// The node loses its power and its images, and is switched on while no server can be reached.
#[tokio::test(flavor = "multi_thread")]
async fn lost_images_are_fetched_again_without_a_server_unless_a_password_is_needed() {
    let (open, covered, private) = (Registry::start(false), Registry::start(false), Registry::start(true));
    for registry in [&open, &covered, &private] {
        // An image of its own: what one app has fetched no other fetches again.
        let image = DemoImage::new().env("VERSION", "1").env("FROM", registry.address());
        registry.push("shop/till:1", &image).await;
    }
    let mut cluster = Cluster::start().await;
    let bundle = [open.authority(), covered.authority()].concat();
    let authorities = cluster.file("registries.crt", bundle);
    let mut node = cluster.enroll("node", &[], None, &["--registry-ca", &authorities]).await;
    node.start_as_machine();
    make_credential(&cluster, "covered", &covered);
    make_credential(&cluster, "private", &private);
    let client = cluster.client().await;
    let mut addresses = Vec::new();
    for registry in [&open, &covered, &private] {
        let spec = with_ports(from_registry(registry.reference("shop/till:1")), &[tcp(8080, 0)]);
        let job = client.create(v1::AppSpec { args: vec!["serve".to_owned()], ..spec }, &["node"]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
        let port = client.app("node", &job.app_name).await.status.unwrap().ports[0].host_port;
        addresses.push(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())));
        assert_eq!(version(addresses[addresses.len() - 1]).await.as_deref(), Some("1"));
        // What runs stays what it is, wherever its tag goes.
        registry.push("shop/till:1", &DemoImage::new().env("VERSION", "2")).await;
    }

    cluster.kill_server();
    node.kill();
    wait::until("the machine to be off", || async { node.shims().is_empty() }).await;
    std::fs::remove_dir_all(node.directory().join("runtime/images")).unwrap();
    node.start_as_machine();
    for address in &addresses[..2] {
        let answer = wait::for_value("an app without a server", || version(*address)).await;
        assert_eq!(answer, "1");
    }
    wait::until("a try without the password", || async {
        let refused = format!("the registry {} cannot be reached", private.address());
        node.log().lines().any(|line| line.contains(&refused) && line.contains("cannot be read without a credential"))
    })
    .await;
    assert_eq!(version(addresses[2]).await, None);
    cluster.start_server().await;
    assert_eq!(wait::for_value("the app that needs a password", || version(addresses[2])).await, "1");
    node.kill();
    wait::until("the machine to be off", || async { node.shims().is_empty() }).await;
}
