//! kill -9 of server and agent: nothing acknowledged is lost, nothing starts twice, everything converges.

use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tests::http;
use longshore_tests::spec::{app, restart, tcp, with_ports};
use longshore_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use v1::{AppState, JobState, TaskState};

/// Identity of the running container of a served app: the demo app answers when it started.
async fn started(client: &Client, app_name: &str) -> String {
    let app = client.app("node", app_name).await;
    let port = app.status.unwrap().ports[0].host_port;
    http::get(format!("127.0.0.1:{port}").parse().unwrap(), "/started").await.unwrap().body
}

async fn served(cluster: &Cluster, client: &Client) -> v1::Job {
    let job = client.create(with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)]), &["node"]).await;
    let job = client.rest(&job.job_id).await;
    assert_eq!(job.state(), JobState::Succeeded);
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_comes_back_and_adopts_its_apps() {
    let cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let job = served(&cluster, &client).await;
    let before = (started(&client, &job.app_name).await, node.shims());
    node.kill();
    assert_eq!(started(&client, &job.app_name).await, before.0, "the app stopped with its agent");
    node.start();
    wait::until("the node's session", || client.is_connected("node")).await;
    let app = wait::for_value("the app's status", || async {
        let app = client.app("node", &job.app_name).await;
        (app.status.as_ref().unwrap().state() == AppState::Running).then_some(app)
    })
    .await;
    assert_eq!(app.status.unwrap().instances[0].starts, 1);
    assert_eq!((started(&client, &job.app_name).await, node.shims()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_forgets_nothing() {
    let mut cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let job = served(&cluster, &client).await;
    let queued = client.create(app(&cluster.image(), &["sleep"]), &["node"]).await;
    cluster.kill_server();
    let shims = node.shims();
    assert!(!shims.is_empty());
    cluster.start_server().await;
    let client = cluster.client().await;
    assert_eq!(client.job(&job.job_id).await.state(), JobState::Succeeded);
    assert_eq!(client.rest(&queued.job_id).await.state(), JobState::Succeeded);
    assert!(shims.iter().all(|shim| node.shims().contains(shim)), "an app was restarted");
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_every_step_converge_to_one_running_container() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let steps =
        [TaskState::Assigned, TaskState::Checking, TaskState::Pulling, TaskState::Creating, TaskState::Settling];
    for (number, step) in steps.into_iter().enumerate() {
        let client = cluster.client().await;
        let spec = with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)]);
        let job = client.create(spec, &["node"]).await;
        client.reach(&job.job_id, step).await;
        node.kill();
        if number % 2 == 0 {
            cluster.kill_server();
            cluster.start_server().await;
        }
        node.start();
        let client = cluster.client().await;
        let done = client.rest(&job.job_id).await;
        assert_eq!(done.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
        assert_eq!(client.task(&job.job_id).await.attempt, 1);
        wait::until("one shim for each app", || async { node.shims().len() == number + 1 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_stop_ends_in_time_and_well() {
    let mut cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    node.has_its_set().await;
    assert!(cluster.stop_server());
    // Its agents are told, and come back after a part of the time that they are given.
    wait::until("the farewell", || async { node.log().contains("the server is going away") }).await;
    cluster.start_server().await;
    let client = cluster.client().await;
    wait::until("the node's new session", || client.is_connected(node.name())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_are_brought_up_without_a_server() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.node("node").await;
    let client = cluster.client().await;
    let job = served(&cluster, &client).await;
    let app = client.app("node", &job.app_name).await;
    let address = format!("127.0.0.1:{}", app.status.unwrap().ports[0].host_port).parse().unwrap();
    cluster.kill_server();
    node.kill();
    // What a reboot leaves: no process, and everything on disk.
    for shim in node.shims() {
        longshore_tests::process::kill_tree(shim);
    }
    assert!(http::get(address, "/healthz").await.is_err());
    node.start();
    wait::until("the app to answer", || async { http::get(address, "/healthz").await.is_ok() }).await;
}

/// A machine that is switched off: the agent and all that it started live in PID and mount namespaces whose first process
/// is killed. It is switched on again without a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_switched_off_and_on_brings_its_apps_up_without_a_server() {
    let mut cluster = Cluster::start().await;
    let mut node = cluster.enroll("node", &[], None, &[]).await;
    node.start_as_machine();
    let client = cluster.client().await;
    let memory = v1::EmptyDir { medium: v1::EmptyDirMedium::Memory.into(), size_limit_bytes: 1 << 20 };
    let mut spec = with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)]);
    spec.instances = 2;
    spec.volumes = vec![v1::Volume {
        mount_path: "/memory".to_owned(),
        read_only: false,
        source: Some(v1::volume::Source::EmptyDir(memory)),
    }];
    let job = client.create(spec, &["node"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let once = client.create(restart(app(&cluster.image(), &["serve"]), v1::RestartPolicy::Never), &["node"]).await;
    assert_eq!(client.rest(&once.job_id).await.state(), JobState::Succeeded);
    // Off in the middle of a deployment, too.
    let late = client.create(with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)]), &["node"]).await;
    client.reach(&late.job_id, TaskState::Checking).await;
    let ports = client.app("node", &job.app_name).await.status.unwrap().ports;
    let addresses = ports.iter().map(|port| format!("127.0.0.1:{}", port.host_port).parse().unwrap());
    let addresses: Vec<std::net::SocketAddr> = addresses.collect();
    assert_eq!(addresses.len(), 2);

    cluster.kill_server();
    for _ in 0..2 {
        node.kill();
        wait::until("the machine to be off", || async { node.shims().is_empty() }).await;
        node.start_as_machine();
        for address in &addresses {
            wait::until("the app to answer", || async { http::get(*address, "/healthz").await.is_ok() }).await;
        }
    }
    cluster.start_server().await;
    let client = cluster.client().await;
    assert_eq!(client.rest(&late.job_id).await.state(), JobState::Succeeded, "{:?}", client.task(&late.job_id).await);
    wait::until("an end of what may run once only", || async {
        let app = client.app("node", &once.app_name).await;
        app.status.unwrap().state() == AppState::Completed
    })
    .await;
    let mut running = node.containers();
    running.sort();
    let mut wanted = vec![format!("{}-0", job.app_name), format!("{}-1", job.app_name), format!("{}-0", late.app_name)];
    wanted.sort();
    assert_eq!(running, wanted);
    node.kill();
    wait::until("the machine to be off", || async { node.shims().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_shim_holds_nothing_up() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let job = served(&cluster, &client).await;
    for shim in node.shims() {
        kill(Pid::from_raw(shim.try_into().unwrap()), Signal::SIGSTOP).unwrap();
    }
    // Others are none of its business, and it goes when it is told to.
    served(&cluster, &client).await;
    let remove =
        v1::RemoveAppRequest { app_name: job.app_name.clone(), node_name: String::new(), ..Default::default() };
    client.apps.clone().remove_app(remove).await.unwrap();
    wait::until("the app to be gone", || async {
        client.apps_of("node").await.iter().all(|app| app.app_name != job.app_name)
    })
    .await;
    wait::until("its shim to be gone", || async { node.shims().len() == 1 }).await;
}
