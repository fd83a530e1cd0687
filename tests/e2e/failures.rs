//! Trouble on the node: each kind ends its task with its own reason and a sentence, leaves nothing behind, and can be
//! retried.

use std::net::TcpListener;

use longshore_demo_image::DemoImage;
use longshore_proto::v1;
use longshore_tests::client::Client;
use longshore_tests::cluster::{Cluster, Node};
use longshore_tests::spec::{app, restart, tcp, with_ports};
use longshore_tests::tmpfs::Tmpfs;
use longshore_tests::wait;
use v1::{FailureReason, JobState, TaskState};

/// Deploys to the node, expects the failure, and that nothing is left of it; returns the job.
async fn fails(client: &Client, node: &Node, spec: v1::AppSpec, reason: FailureReason, step: TaskState) -> v1::Job {
    let job = client.create(spec, &[node.name()]).await;
    let job = client.rest(&job.job_id).await;
    let task = client.task(&job.job_id).await;
    assert_eq!(job.state(), JobState::Failed, "{task:?}");
    let failure = task.failure.unwrap();
    assert_eq!((failure.reason(), failure.step()), (reason, step), "{}", failure.message);
    assert!(failure.message.len() > 10 && failure.message.ends_with('.'), "not a sentence: {:?}", failure.message);
    wait::until("the app's entry to be gone", || async { client.apps_of(node.name()).await.is_empty() }).await;
    wait::until("every shim to be gone", || async { node.shims().is_empty() }).await;
    job
}

async fn retry(client: &Client, job: &v1::Job) -> v1::Job {
    client.retry(&job.job_id).await;
    client.rest(&job.job_id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_does_not_exist() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let path = cluster.directory().join("later.tar");
    let spec = app(path.to_str().unwrap(), &["sleep"]);
    let job = fails(&client, &node, spec, FailureReason::ImageNotFound, TaskState::Checking).await;
    std::fs::copy(cluster.image(), path).unwrap();
    assert_eq!(retry(&client, &job).await.state(), JobState::Succeeded);
    assert_eq!(client.task(&job.job_id).await.attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_another_architecture() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let archive = cluster.file("foreign.tar", longshore_demo_image::archive(Some("riscv64")));
    let spec = app(&archive, &["sleep"]);
    let job = fails(&client, &node, spec, FailureReason::ArchitectureMismatch, TaskState::Checking).await;
    let message = client.task(&job.job_id).await.failure.unwrap().message;
    assert!(message.contains("riscv64"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_image() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let archive = cluster.file("garbage.tar", vec![0x5a; 100_000]);
    fails(&client, &node, app(&archive, &["sleep"]), FailureReason::ImageInvalid, TaskState::Checking).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_a_foreign_process_holds() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    let spec = with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, port)]);
    let job = fails(&client, &node, spec, FailureReason::PortInUse, TaskState::Checking).await;
    let message = client.task(&job.job_id).await.failure.unwrap().message;
    assert!(message.contains(&port.to_string()), "{message}");
    drop(listener);
    assert_eq!(retry(&client, &job).await.state(), JobState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_interface() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let port = v1::Port { host_interface: "nope0".to_owned(), ..tcp(8080, 0) };
    let spec = with_ports(app(&cluster.image(), &["serve"]), &[port]);
    fails(&client, &node, spec, FailureReason::InterfaceNotFound, TaskState::Checking).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_in_the_image() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let spec = v1::AppSpec { command: vec!["/bin/nothing".into()], ..app(&cluster.image(), &[]) };
    let job = client.create(spec, &["node"]).await;
    let job = client.rest(&job.job_id).await;
    assert_eq!(job.state(), JobState::Failed);
    let failure = client.task(&job.job_id).await.failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::CommandNotFound, "{failure:?}");
    assert!(failure.message.contains("/bin/nothing"), "{failure:?}");
    wait::until("every shim to be gone", || async { node.shims().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_exits_at_once() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let mut spec = restart(app(&cluster.image(), &["exit", "7"]), v1::RestartPolicy::Never);
    let job = fails(&client, &node, spec.clone(), FailureReason::ContainerExited, TaskState::Settling).await;
    let message = client.task(&job.job_id).await.failure.unwrap().message;
    assert!(message.contains('7'), "{message}");

    spec = restart(spec, v1::RestartPolicy::Always);
    spec.startup.as_mut().unwrap().max_starts = 2;
    fails(&client, &node, spec, FailureReason::ContainerExited, TaskState::Settling).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_passes_its_memory_limit() {
    let cluster = Cluster::start().await;
    let node = cluster.node("node").await;
    let client = cluster.client().await;
    let mut spec = restart(app(&cluster.image(), &["eat", "268435456"]), v1::RestartPolicy::Never);
    spec.resources = Some(v1::Resources { memory_bytes: 32 << 20, ..Default::default() });
    fails(&client, &node, spec, FailureReason::OutOfMemory, TaskState::Settling).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let cluster = Cluster::start().await;
    // A node whose whole disk is a small tmpfs: it holds its identity and ledger, but not the unpacked image.
    let disk = Tmpfs::mount(cluster.directory().join("small"), "512k");
    let node = cluster.node("small").await;
    let client = cluster.client().await;
    let spec = app(&cluster.image(), &["sleep"]);
    let job = fails(&client, &node, spec.clone(), FailureReason::DiskFull, TaskState::Checking).await;
    let targets = v1::Targets { node_names: vec!["small".to_owned()], ..Default::default() };
    let wanted = v1::CreateJobRequest { spec: Some(spec), targets: Some(targets), ..Default::default() };
    let request = v1::PlanJobRequest { job: Some(wanted), live: true };
    let mut plan = client.jobs.clone().plan_job(request).await.unwrap().into_inner();
    let planned = plan.message().await.unwrap().unwrap().nodes.remove(0);
    let failure = client.task(&job.job_id).await.failure.unwrap();
    let told = planned.obstacles.iter().map(|found| (found.reason(), found.message.as_str()));
    assert_eq!(told.collect::<Vec<_>>(), [(failure.reason(), failure.message.as_str())], "as the task was told");

    // That it is larger than it seems shows when it is unpacked.
    let zeros = DemoImage::new().layer(&[("zeros", &vec![0; 32 << 20])]);
    let swollen = app(&cluster.file("swollen.tar", zeros.oci_archive()), &["sleep"]);
    disk.resize("16m");
    let swollen = fails(&client, &node, swollen, FailureReason::DiskFull, TaskState::Pulling).await;
    disk.resize("64m");
    for job in [job, swollen] {
        assert_eq!(retry(&client, &job).await.state(), JobState::Succeeded);
    }
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_on_a_full_disk_keeps_what_runs() {
    let cluster = Cluster::start().await;
    let _disk = Tmpfs::mount(cluster.directory().join("small"), "64m");
    let mut node = cluster.node("small").await;
    let client = cluster.client().await;
    let job = client.create(with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)]), &["small"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    let ended = client.create(restart(app(&cluster.image(), &["serve"]), v1::RestartPolicy::Never), &["small"]).await;
    assert_eq!(client.rest(&ended.job_id).await.state(), JobState::Succeeded);
    let shims = node.shims();
    node.kill();
    let filler = node.directory().join("filler");
    // What is written last finds no room, down to the last page.
    for size in [1 << 20, 4096, 1] {
        let mut file = std::fs::File::options().create(true).append(true).open(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
    }
    // One container ends without anybody to write it down.
    let lost = shims.iter().find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains(&ended.app_name)
    });
    longshore_tests::process::kill_tree(*lost.unwrap());
    node.start();
    wait::until("the node's session", || client.is_connected("small")).await;
    wait::until("the end of the lost container", || async {
        let app = client.app("small", &ended.app_name).await;
        app.status.unwrap().state() == v1::AppState::Completed
    })
    .await;
    assert!(node.shims().iter().all(|pid| shims.contains(pid)) && node.shims().len() == 1, "{:?}", node.shims());
    assert_eq!(client.app("small", &job.app_name).await.status.unwrap().state(), v1::AppState::Running);

    // A job that finds the disk full fails with that reason, leaves nothing, and works when there is room again.
    let job = client.create(app(&cluster.image(), &["sleep"]), &["small"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    let failure = client.task(&job.job_id).await.failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::DiskFull, "{failure:?}");
    std::fs::remove_file(filler).unwrap();
    assert_eq!(retry(&client, &job).await.state(), JobState::Succeeded);
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_path_that_this_node_does_not_allow() {
    let cluster = Cluster::start().await;
    let allowed = cluster.directory().join("allowed");
    let allow = allowed.display().to_string();
    let node = cluster.node_with("node", &[], None, &["--host-path-allow", &allow]).await;
    let client = cluster.client().await;
    let with = |path: std::path::PathBuf| {
        let host_path = v1::HostPath { path: path.display().to_string(), create: true };
        let source = Some(v1::volume::Source::HostPath(host_path));
        let volume = v1::Volume { mount_path: "/data".into(), read_only: false, source };
        v1::AppSpec { volumes: vec![volume], ..app(&cluster.image(), &["sleep"]) }
    };
    let refused = [
        (cluster.directory().join("other"), "this node's setting host-path-allow allows only"),
        (node.directory().join("ledger"), "the agent or its engine keeps things there"),
        (cluster.directory().to_owned(), "the agent or its engine keeps things there"),
    ];
    for (path, why) in refused {
        let job =
            fails(&client, &node, with(path.clone()), FailureReason::HostPathUnavailable, TaskState::Checking).await;
        let message = client.task(&job.job_id).await.failure.unwrap().message;
        assert!(message.contains(why), "{message}");
    }
    assert!(!cluster.directory().join("other").exists());
    let job = client.create(with(allowed.join("till")), &[node.name()]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    assert!(allowed.join("till").is_dir());
}
