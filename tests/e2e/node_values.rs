//! One spec for many nodes: what differs from node to node is filled in there.

use std::net::SocketAddr;

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::{http, process, wait};
use v1::{FailureReason, JobState, TaskState};

async fn get(client: &Client, node: &str, app: &str, path: &str) -> String {
    let status = client.app(node, app).await.status.unwrap();
    let port = u16::try_from(status.ports[0].host_port).unwrap();
    http::get(SocketAddr::from(([127, 0, 0, 1], port)), path).await.unwrap().body.trim_end().to_owned()
}

fn variable(name: &str, value: &str) -> v1::EnvVar {
    v1::EnvVar { name: name.to_owned(), source: Some(v1::env_var::Source::Value(value.to_owned())) }
}

fn host_path(mount: &str, path: &str) -> v1::Volume {
    let source = v1::volume::Source::HostPath(v1::HostPath { path: path.to_owned(), create: true });
    v1::Volume { mount_path: mount.to_owned(), source: Some(source), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_gets_its_own_values_and_the_one_without_a_label_is_told() {
    let cluster = Cluster::start().await;
    let _one = cluster.node_with("one", &[("site", "hh"), ("shop", "1")], None, &[]).await;
    let _two = cluster.node_with("two", &[("site", "kiel")], None, &[]).await;
    let bare = cluster.node("bare").await;
    let client = cluster.client().await;
    let data = cluster.directory().join("data").display().to_string();
    let label = v1::EnvVar { name: "SITE".to_owned(), source: Some(v1::env_var::Source::NodeLabel("site".to_owned())) };
    let spec = v1::AppSpec {
        env: vec![
            variable("URL", "http://${node.host_ip}/${node.labels.site}/${node.name}?${HOME};$(reboot)"),
            variable("TEXT", "$${node.name} $$${node.name} `id`"),
            label,
        ],
        volumes: vec![host_path("/data", &format!("{data}/${{node.labels.site}}/${{node.name}}"))],
        ..with_ports(
            app(&cluster.image(), &["serve", "--note", "${node.name} at ${node.labels.site}"]),
            &[tcp(8080, 0)],
        )
    };
    let job = client.create(spec, &["one", "two", "bare"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::PartiallySucceeded);
    for (node, site) in [("one", "hh"), ("two", "kiel")] {
        let get = async |path: &str| get(&client, node, &job.app_name, path).await;
        assert_eq!(get("/env/URL").await, format!("http://127.0.0.1/{site}/{node}?${{HOME}};$(reboot)"));
        assert_eq!(get("/env/TEXT").await, format!("${{node.name}} ${node} `id`"));
        assert_eq!(get("/env/SITE").await, site);
        assert!(get("/args").await.ends_with(&format!("--note\n{node} at {site}")));
        assert!(std::path::Path::new(&format!("{data}/{site}/{node}")).is_dir());
    }
    let tasks = client.tasks(&job.job_id).await;
    let failure = tasks.iter().find(|task| task.node_name == "bare").unwrap().failure.clone().unwrap();
    assert_eq!((failure.reason(), failure.step()), (FailureReason::NodeValueMissing, TaskState::Pending));
    assert!(failure.message.contains("no label \"site\""), "{failure:?}");
    assert!(!bare.log().contains(&job.job_id), "the node never hears of it");

    // With the label, the retry succeeds there.
    process::succeed(&mut cluster.cli(&["node", "label", "bare", "site=bremen"]));
    client.retry(&job.job_id).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    assert_eq!(get(&client, "bare", &job.app_name, "/env/SITE").await, "bremen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_guarded_as_it_is_filled_in_and_values_outlive_agent_and_server() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node_with("node", &[("dir", "etc"), ("site", "hh")], None, &[]).await;
    let client = cluster.client().await;
    let guarded = v1::AppSpec {
        volumes: vec![host_path("/x", "/${node.labels.dir}")],
        ..with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)])
    };
    let job = client.create(guarded, &["node"]).await;
    client.rest(&job.job_id).await;
    let failure = client.task(&job.job_id).await.failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::HostPathUnavailable, "{failure:?}");
    assert!(failure.message.contains("/etc"), "{failure:?}");

    let spec = v1::AppSpec {
        env: vec![variable("SITE", "${node.labels.site}")],
        ..with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)])
    };
    let job = client.create(spec, &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let status = client.app("node", &job.app_name).await.status.unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], u16::try_from(status.ports[0].host_port).unwrap()));
    process::succeed(&mut cluster.cli(&["node", "label", "node", "site=kiel"]));
    // A new agent, no server, and a container that starts anew: with the values that it had.
    assert!(node.stop());
    cluster.kill_server();
    node.start();
    assert_eq!(http::request("POST", at, "/exit?code=1", "").await.unwrap().status, 200);
    let body = wait::for_value("the app to be back", || async { http::get(at, "/env/SITE").await.ok() }).await.body;
    assert_eq!(body.trim_end(), "hh");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_reference_is_refused_with_its_field() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let text = format!(
        "spec:\n  name: web\n  image: {{ archive: {} }}\n  args: [serve, '${{node.nmae}}']\n\
         \x20 env:\n    - {{ name: A, value: '${{node.labels.${{node.name}}}}' }}\n    - {{ name: B, nodeLabel: 'a b' }}\n\
         targets: {{ nodes: [node] }}\n",
        cluster.image()
    );
    let applied = process::output(&mut cluster.cli(&["apply", "-f", &cluster.file("job.yaml", text)]));
    assert!(!applied.status.success());
    let told = String::from_utf8_lossy(&applied.stderr).into_owned();
    for words in ["spec.args[1]", "${node.nmae}", "spec.env[0].value", "spec.env[1].nodeLabel"] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_by_cause_and_one_cause_is_retried() {
    let cluster = Cluster::start().await;
    let _one = cluster.node("one").await;
    let _two = cluster.node("two").await;
    let _three = cluster.node_with("three", &[("dir", "etc")], None, &[]).await;
    let client = cluster.client().await;
    let spec = v1::AppSpec {
        volumes: vec![host_path("/data", "/${node.labels.dir}")],
        ..with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)])
    };
    let job = client.create(spec, &["one", "two", "three"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    let shown = process::output(&mut cluster.cli(&["job", "show", &job.job_id]));
    let told = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(told.contains("2 tasks such as one: NODE_VALUE_MISSING: The node has no label \"dir\""), "{told}");
    assert!(told.contains("1 task such as three: HOST_PATH_UNAVAILABLE"), "{told}");
    // The filter as it is shown: what a shell hands on of the quoted word.
    let retry = told.lines().find(|line| line.contains("job retry") && line.contains("--filter")).unwrap();
    let filter = retry.split('\'').nth(1).unwrap().to_owned();
    let retried = process::output(&mut cluster.cli(&["job", "retry", &job.job_id, "--filter", &filter, "--wait"]));
    assert!(!retried.status.success(), "the labels are still missing: {retried:?}");
    let attempts: Vec<_> =
        client.tasks(&job.job_id).await.into_iter().map(|task| (task.node_name, task.attempt)).collect();
    assert_eq!(attempts, [("one".to_owned(), 2), ("three".to_owned(), 1), ("two".to_owned(), 2)]);
}
