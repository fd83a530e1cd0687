//! Images from a registry, all the way.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use longshore_demo_image::DemoImage;
use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::http;
use longshore_tests::process::succeed;
use longshore_tests::registry::{PASSWORD, Registry, USERNAME};
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::tmpfs::Tmpfs;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_loses_images_that_nothing_needs_the_least_recently_used_first() {
    const LAYER: usize = 12 << 20;
    let cluster = Cluster::start().await;
    let _disk = Tmpfs::mount(cluster.directory().join("small"), "64m");
    // Three images fill more than half of it, two less.
    let settings = ["--image-gc-high", "55", "--image-gc-low", "50", "--image-gc-min-age", "1s"];
    let node = cluster.node_with("small", &[], None, &settings).await;
    let client = cluster.client().await;
    let store = node.directory().join("runtime/images");
    let records = || {
        let names = std::fs::read_dir(store.join("images")).unwrap();
        names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    let mut images = Vec::new();
    let mut apps = Vec::new();
    for (name, content) in [("kept", b'k'), ("old", b'o'), ("young", b'y')] {
        let before = records();
        let content = vec![content; LAYER];
        let archive =
            cluster.file(&format!("{name}.tar"), DemoImage::new().layer(&[("content", &content)]).oci_archive());
        let job = client.create(app(&archive, &["sleep"]), &["small"]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded, "{name}");
        images.push(records().difference(&before).next().unwrap().clone());
        apps.push(job.app_name);
        // Two of them fit below the mark.
        assert!(images.len() == 3 || records().len() == images.len());
        if name != "kept" {
            let app_name = apps.last().unwrap().clone();
            let remove = v1::RemoveAppRequest { app_name, node_name: "small".to_owned(), ..Default::default() };
            client.apps.clone().remove_app(remove).await.unwrap();
            wait::until("the app is gone", || async { client.apps_of("small").await.len() == 1 }).await;
        }
    }
    wait::until("an image is removed", || async { records().len() < 3 }).await;
    assert_eq!(records(), BTreeSet::from([images[0].clone(), images[2].clone()]), "the one used longest ago has gone");
    let status = client.app("small", &apps[0]).await.status.unwrap();
    assert_eq!(status.state(), v1::AppState::Running);
    assert!(node.log().contains("removed an image that nothing needs"), "{}", node.log());
    // What is gone can come again.
    let archive = cluster.directory().join("old.tar").display().to_string();
    let job = client.create(app(&archive, &["sleep"]), &["small"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_take_no_more_of_the_line_than_the_node_allows() {
    const LAYER: usize = 3 << 20;
    let registry = Registry::start(false);
    // What does not compress.
    let mut state: u32 = 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    let content: Vec<u8> = (0..LAYER).map(|_| next()).collect();
    registry.push("shop/till:1", &DemoImage::new().layer(&[("content", &content)])).await;
    let cluster = Cluster::start().await;
    let authority = cluster.file("registry.crt", registry.authority());
    let settings = ["--registry-ca", authority.as_str(), "--pull-bandwidth", "1Mi"];
    let _node = cluster.node_with("node", &[], None, &settings).await;
    let client = cluster.client().await;
    let begun = std::time::Instant::now();
    let job = client.create(from_registry(registry.reference("shop/till:1")), &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    // A second's worth is free; a machine that is slow only makes it longer.
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_fetched_ahead_by_a_job_that_runs_nothing_and_is_found_by_the_next() {
    let mut registry = Registry::start(false);
    registry.push("shop/till:1", &DemoImage::new()).await;
    let cluster = Cluster::start().await;
    let authority = cluster.file("registry.crt", registry.authority());
    let node = cluster.node_with("node", &[], None, &["--registry-ca", &authority]).await;
    let client = cluster.client().await;
    let reference = registry.reference("shop/till:1");
    let (status, absent) = {
        let words = ["pull", &registry.reference("shop/till:2"), "--node", "node"];
        let output = longshore_tests::process::output(&mut cluster.cli(&words));
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(status, 4, "{absent}");
    succeed(&mut cluster.cli(&["pull", &reference, "--node", "node", "--keep-for", "1h"]));
    wait::until("nothing is left but the image", || async { client.apps_of("node").await.is_empty() }).await;
    assert!(node.containers().is_empty());
    let record = std::fs::read_dir(node.directory().join("runtime/images/images")).unwrap().next().unwrap().unwrap();
    let kept = record.metadata().unwrap().modified().unwrap();
    assert!(kept > std::time::SystemTime::now() + std::time::Duration::from_secs(3000), "it is kept for an hour");
    // As a file, with more than an image.
    let text = format!(
        "kind: Pull\nspec: {{ name: till, image: {{ reference: {reference} }}, args: [serve] }}\ntargets: {{ nodes: [node] }}\n"
    );
    let output = longshore_tests::process::output(&mut cluster.cli(&["apply", "-f", &cluster.file("pull.yaml", text)]));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("leave out everything but"));
    registry.stop();
    let job = client.create(from_registry(reference), &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
    drop(node);
}
