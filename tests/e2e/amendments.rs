//! Jobs that are retried with another spec: exactly what has not succeeded gets it, on real containers.

use std::net::SocketAddr;

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::process::{output, succeed};
use longshore_tests::{http, wait};
use tonic::Code;

/// The job file of an app whose program a label of each node names.
fn file(cluster: &Cluster, app: &str, label: &str, word: &str) -> String {
    let text = format!(
        "spec:\n  name: {app}\n  image: {{ archive: {} }}\n  args: ['${{node.labels.{label}}}', --note, x]\n\
         \x20 env: [{{ name: WORD, value: {word} }}]\n  startup: {{ settle: 300ms, maxStarts: 1 }}\n\
         \x20 network: {{ ports: [{{ containerPort: 8080 }}] }}\ntargets: {{ nodes: [one, two, three] }}\n",
        cluster.image()
    );
    cluster.file(&format!("{app}-{word}.yaml"), text)
}

/// What an app on a node is, and what its program says it was given.
async fn runs(client: &Client, node: &str, app: &str, word: &str) -> v1::App {
    wait::for_value(&format!("{word} on {node}"), || async {
        let app = client.app(node, app).await;
        let port = u16::try_from(app.status.as_ref()?.ports.first()?.host_port).unwrap();
        let answer = http::get(SocketAddr::from(([127, 0, 0, 1], port)), "/env/WORD").await.ok()?;
        (answer.body.trim() == word).then_some(app)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_retried_with_another_spec_and_what_succeeded_is_left_alone() {
    let mut cluster = Cluster::start().await;
    let one = cluster.node_with("one", &[("first", "serve"), ("second", "exit")], None, &[]).await;
    let _two = cluster.node_with("two", &[("first", "exit"), ("second", "serve")], None, &[]).await;
    let _three = cluster.node_with("three", &[("first", "exit"), ("second", "exit")], None, &[]).await;
    let client = cluster.client().await;
    let applied = output(&mut cluster.cli(&["apply", "-f", &file(&cluster, "web", "first", "first"), "-o", "json"]));
    assert_eq!(applied.status.code(), Some(3), "one of three succeeds: {applied:?}");
    let applied: serde_json::Value = serde_json::from_slice(&applied.stdout).unwrap();
    let (job_id, app) = (applied["job"]["jobId"].as_str().unwrap(), applied["job"]["appName"].as_str().unwrap());
    let (untouched, shims) = (runs(&client, "one", app, "first").await, one.shims());

    let told =
        output(&mut cluster.cli(&["job", "retry", job_id, "-f", &file(&cluster, "shop", "second", "x"), "--wait"]));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("shop-x.yaml") && told.contains("spec.name: is \"shop\"; the name of the app"), "{told}");
    let stale = v1::RetryJobRequest {
        job_id: job_id.to_owned(),
        etag: "1".to_owned(),
        spec: client.job(job_id).await.spec,
        ..Default::default()
    };
    assert_eq!(client.jobs.clone().retry_job(stale).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(client.job(job_id).await.spec_revision, 1, "nothing has changed");

    let second = file(&cluster, "web", "second", "second");
    let retried = output(&mut cluster.cli(&["job", "retry", job_id, "-f", &second, "--wait"]));
    assert_eq!(retried.status.code(), Some(3), "three fails again: {retried:?}");
    let amended = runs(&client, "two", app, "second").await;
    assert_eq!((amended.revision, amended.spec_revision), (2, 2));

    // Whoever comes anew learns the same, each node its own.
    cluster.kill_server();
    cluster.start_server().await;
    let client = cluster.client().await;
    for node in ["one", "two", "three"] {
        wait::until(&format!("the session of {node}"), || client.is_connected(node)).await;
    }
    let words = ["job", "retry", job_id, "--args", "serve", "--env", "WORD=third", "--wait"];
    succeed(&mut cluster.cli(&words));
    let last = runs(&client, "three", app, "third").await;
    assert_eq!((last.revision, last.spec_revision), (3, 3));
    assert_eq!(runs(&client, "two", app, "second").await.spec, amended.spec);
    let same = runs(&client, "one", app, "first").await;
    assert_eq!((same.revision, same.spec_revision, same.spec), (1, 1, untouched.spec));
    assert_eq!(one.shims(), shims, "its container was left alone");
    let shown = succeed(&mut cluster.cli(&["job", "show", job_id]));
    assert!(shown.contains("3, 2 tasks had an earlier one") && shown.contains("SPEC"), "{shown}");
    let shown = succeed(&mut cluster.cli(&["app", "show", app, "--node", "two"]));
    assert!(shown.contains("Spec:      2"), "{shown}");

    // What they run differs: which is meant?
    let told = output(&mut cluster.cli(&["update", app, "--env", "WORD=fourth"]));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("3 different specs") && told.contains(&format!("{job_id}@2 on 1 node")), "{told}");
    let from = format!("{job_id}@3");
    succeed(&mut cluster.cli(&["update", app, "--env", "WORD=fourth", "--from", &from]));
    for (node, revision) in [("one", 2), ("two", 3), ("three", 4)] {
        assert_eq!(runs(&client, node, app, "fourth").await.revision, revision);
    }
    succeed(&mut cluster.cli(&["remove", app]));
    assert!(client.apps_of("three").await.is_empty());
}
