//! Updates of apps that run, on real containers: the new revision comes, or the old one is back.

use std::net::SocketAddr;

use longshore_proto::v1;
use longshore_tests::client::{Client, seconds};
use longshore_tests::cluster::Cluster;
use longshore_tests::http;
use longshore_tests::process::{output, succeed};
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::wait;
use v1::{AppState, FailureReason, JobKind, JobState, TaskState};

/// The served app, which answers what `WORD` is.
fn spec(cluster: &Cluster, word: &str) -> v1::AppSpec {
    let value = Some(v1::env_var::Source::Value(word.to_owned()));
    let empty = Some(v1::volume::Source::EmptyDir(v1::EmptyDir::default()));
    v1::AppSpec {
        env: vec![v1::EnvVar { name: "WORD".to_owned(), source: value }],
        volumes: vec![v1::Volume { mount_path: "/cache".to_owned(), source: empty, read_only: false }],
        ..with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)])
    }
}

/// A spec whose containers end as soon as they start.
fn broken(cluster: &Cluster) -> v1::AppSpec {
    v1::AppSpec { args: vec!["exit".to_owned(), "3".to_owned()], ..spec(cluster, "broken") }
}

fn update(app: &str, spec: v1::AppSpec) -> v1::CreateJobRequest {
    v1::CreateJobRequest {
        kind: JobKind::Update.into(),
        app_name: app.to_owned(),
        spec: Some(spec),
        timeout: Some(seconds(60)),
        ..Default::default()
    }
}

/// Deploys the first revision and returns the app's name.
async fn deployed(cluster: &Cluster, client: &Client, nodes: &[&str]) -> String {
    let job = client.create(spec(cluster, "first"), nodes).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    job.app_name
}

async fn running(client: &Client, node: &str, name: &str, revision: u64) -> v1::App {
    wait::for_value(&format!("revision {revision} on {node}"), || async {
        let app = client.app(node, name).await;
        let is_running = app.status.as_ref().is_some_and(|status| status.state() == AppState::Running);
        (app.revision == revision && is_running).then_some(app)
    })
    .await
}

fn address(app: &v1::App) -> SocketAddr {
    format!("127.0.0.1:{}", app.status.as_ref().unwrap().ports[0].host_port).parse().unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    http::get(address, path).await.unwrap().body.trim().to_owned()
}

/// Waits until the app answers with this word, for as long as its containers are being replaced.
async fn answers(address: SocketAddr, word: &str) {
    wait::until(&format!("the answer {word:?}"), || async move {
        http::get(address, "/env/WORD").await.is_ok_and(|answer| answer.body.trim() == word)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_environment_comes_with_the_same_port_and_the_same_files() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&cluster, &client, &["node"]).await;
    let before = running(&client, "node", &name, 1).await;
    http::request("POST", address(&before), "/write?path=/cache/kept", "what I had").await.unwrap();

    let job = client.create_with(update(&name, spec(&cluster, "second"))).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let after = running(&client, "node", &name, 2).await;
    assert_eq!(address(&after), address(&before));
    answers(address(&after), "second").await;
    assert_eq!(get(address(&after), "/read?path=/cache/kept").await, "what I had");
    assert_eq!((&after.job_id, &after.previous_job_id), (&job.job_id, &before.job_id));
    assert_eq!((after.previous_revision, after.spec), (1, job.spec));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_there_does_not_touch_what_runs() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&cluster, &client, &["node"]).await;
    let before = running(&client, "node", &name, 1).await;
    let (started, shims) = (get(address(&before), "/started").await, node.shims());
    let missing = cluster.directory().join("missing.tar").display().to_string();
    let wrong = v1::AppSpec { image: app(&missing, &[]).image, ..spec(&cluster, "second") };
    let job = client.create_with(update(&name, wrong)).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    let failure = client.task(&job.job_id).await.failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::ImageNotFound);
    assert!(failure.message.ends_with("; the node kept revision 1."), "{failure:?}");
    assert_eq!((get(address(&before), "/started").await, node.shims()), (started, shims), "it was restarted");
    assert_eq!(running(&client, "node", &name, 1).await.previous_job_id, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_does_not_become_healthy_gives_way_to_the_one_before() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&cluster, &client, &["node"]).await;
    let before = running(&client, "node", &name, 1).await;
    http::request("POST", address(&before), "/write?path=/cache/kept", "what I had").await.unwrap();
    let job = client.create_with(update(&name, broken(&cluster))).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    let failure = client.task(&job.job_id).await.failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::ContainerExited);
    assert!(failure.message.ends_with("; the node went back to revision 1."), "{failure:?}");
    let after = running(&client, "node", &name, 1).await;
    assert_eq!(address(&after), address(&before));
    answers(address(&before), "first").await;
    assert_eq!(get(address(&before), "/read?path=/cache/kept").await, "what I had");

    // Neither side forgets.
    let shims = node.shims();
    cluster.kill_server();
    node.kill();
    cluster.start_server().await;
    node.start();
    let client = cluster.client().await;
    wait::until("the node's session", || client.is_connected("node")).await;
    running(&client, "node", &name, 1).await;
    assert_eq!(node.shims(), shims, "the old revision was restarted");
    let job = client.create_with(update(&name, spec(&cluster, "third"))).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    running(&client, "node", &name, 3).await;
    answers(address(&before), "third").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_every_step_of_an_update_end_as_it_would_have_ended() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&cluster, &client, &["node"]).await;
    let place = address(&running(&client, "node", &name, 1).await);
    let mut word = "first".to_owned();
    let steps =
        [TaskState::Assigned, TaskState::Checking, TaskState::Creating, TaskState::Starting, TaskState::Settling];
    for (number, step) in steps.into_iter().enumerate() {
        for fails in [true, false] {
            let client = cluster.client().await;
            let next = if fails { broken(&cluster) } else { spec(&cluster, &format!("word-{number}")) };
            let job = client.create_with(update(&name, next)).await;
            client.reach(&job.job_id, step).await;
            node.kill();
            if number % 2 == 0 {
                cluster.kill_server();
                cluster.start_server().await;
            }
            node.start();
            let client = cluster.client().await;
            let done = client.rest(&job.job_id).await;
            let expected = if fails { JobState::Failed } else { JobState::Succeeded };
            assert_eq!(done.state(), expected, "{step:?}: {:?}", client.tasks(&job.job_id).await);
            if !fails {
                word = format!("word-{number}");
            }
            answers(place, &word).await;
            wait::until("one container", || {
                let count = node.containers().len();
                async move { count == 1 }
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_back_while_its_server_is_away() {
    let mut cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&cluster, &client, &["node"]).await;
    let place = address(&running(&client, "node", &name, 1).await);
    // It is up for a while each time, so that there is time to kill the server before the last start.
    let wrong = v1::AppSpec { args: ["exit", "3", "200"].map(str::to_owned).to_vec(), ..broken(&cluster) };
    let job = client.create_with(update(&name, wrong)).await;
    client.reach(&job.job_id, TaskState::Starting).await;
    cluster.kill_server();
    answers(place, "first").await;
    assert_eq!(node.containers(), [format!("{name}-0")]);
    cluster.start_server().await;
    let client = cluster.client().await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    assert_eq!(client.task(&job.job_id).await.attempt, 1);
    running(&client, "node", &name, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_runs_what_the_server_says_when_it_is_back() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let name = deployed(&cluster, &client, &["node"]).await;
    let place = address(&running(&client, "node", &name, 1).await);
    // Assigned, and then the node is gone until the time is over.
    let slow = v1::AppSpec {
        startup: Some(v1::Startup { settle: Some(seconds(30)), max_starts: 1 }),
        ..spec(&cluster, "second")
    };
    let job = client.create_with(v1::CreateJobRequest { timeout: Some(seconds(3)), ..update(&name, slow) }).await;
    client.reach(&job.job_id, TaskState::Settling).await;
    node.kill();
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::TimedOut);
    answers(place, "second").await;
    let app = client.app("node", &name).await;
    assert_eq!((app.revision, app.previous_job_id.as_str()), (1, ""), "what the node shall run");
    node.start();
    running(&client, "node", &name, 1).await;
    answers(place, "first").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_paced_stopped_resumed_and_retried() {
    let cluster = Cluster::start().await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(cluster.node(name).await);
    }
    let client = cluster.client().await;
    let name = deployed(&cluster, &client, &["a", "b", "c"]).await;
    nodes[1].kill();
    let request = v1::CreateJobRequest {
        rollout: Some(v1::Rollout { max_parallel: 1, ..Default::default() }),
        ..update(&name, spec(&cluster, "second"))
    };
    let job = client.create_with(request).await;
    wait::until("the nodes that are there", || {
        let (client, job_id) = (client.clone(), job.job_id.clone());
        async move { client.job(&job_id).await.counts.unwrap().succeeded == 2 }
    })
    .await;
    let stop = v1::StopJobRequest { job_id: job.job_id.clone(), ..Default::default() };
    client.jobs.clone().stop_job(stop).await.unwrap();
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Stopped);
    assert_eq!(client.app("b", &name).await.revision, 1);
    nodes[1].start();
    wait::until("the session of b", || client.is_connected("b")).await;
    assert_eq!(client.app("b", &name).await.revision, 1, "a stopped job assigns nothing");
    let resume = v1::ResumeJobRequest { job_id: job.job_id.clone(), ..Default::default() };
    client.jobs.clone().resume_job(resume).await.unwrap();
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    for node in ["a", "b", "c"] {
        answers(address(&running(&client, node, &name, 2).await), "second").await;
    }

    // The image comes only after the first try.
    let archive = cluster.directory().join("late.tar");
    let late = v1::AppSpec { image: app(&archive.display().to_string(), &[]).image, ..spec(&cluster, "third") };
    let job = client.create_with(update(&name, late)).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    std::fs::copy(cluster.image(), &archive).unwrap();
    client.retry(&job.job_id).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    for node in ["a", "b", "c"] {
        answers(address(&running(&client, node, &name, 4).await), "third").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_change_an_app_by_flags_or_by_its_job_file() {
    let cluster = Cluster::start().await;
    let _nodes = [cluster.node("one").await, cluster.node("two").await];
    let client = cluster.client().await;
    let name = deployed(&cluster, &client, &["one", "two"]).await;
    let ports = [address(&running(&client, "one", &name, 1).await), address(&running(&client, "two", &name, 1).await)];

    succeed(&mut cluster.cli(&["update", &name, "--env", "WORD=second", "--node", "one"]));
    answers(ports[0], "second").await;
    assert_eq!(get(ports[1], "/env/WORD").await, "first");

    // What each of them runs is another spec now: which is meant?
    let told = output(&mut cluster.cli(&["update", &name, "--env", "WORD=third"]));
    assert_eq!(told.status.code(), Some(2));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("2 different specs") && told.contains("--from JOB"), "{told}");
    let newest = client.app("one", &name).await.job_id;
    succeed(&mut cluster.cli(&["update", &name, "--env", "WORD=third", "--from", &newest]));
    for port in ports {
        answers(port, "third").await;
    }

    let file = succeed(&mut cluster.cli(&["update", &name, "--print", "--node", "two"]));
    assert!(file.contains("third"), "{file}");
    let file = cluster.file("edited.yaml", file.replace("third", "fourth"));
    succeed(&mut cluster.cli(&["apply", "-f", &file]));
    answers(ports[1], "fourth").await;
    assert_eq!(get(ports[0], "/env/WORD").await, "third");

    let shown = succeed(&mut cluster.cli(&["app", "show", &name, "--node", "two"]));
    assert!(shown.starts_with("Nothing is wrong: 1 instance runs."), "{shown}");
}
