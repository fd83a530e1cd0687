//! What apps write, kept on their nodes and read from afar.

use std::path::Path;

use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::process::output;
use longshore_tests::spec::{app, restart};
use longshore_tests::wait;
use v1::JobState;

/// Deploys to the node `node` and returns the job when it is over.
async fn deploy(cluster: &Cluster, spec: v1::AppSpec) -> v1::Job {
    let client = cluster.client().await;
    let job = client.create(spec, &["node"]).await;
    client.rest(&job.job_id).await
}

fn once(cluster: &Cluster, args: &[&str]) -> v1::AppSpec {
    restart(app(&cluster.image(), args), v1::RestartPolicy::Never)
}

/// What `longshore app logs` prints, with its exit code.
fn logs(cluster: &Cluster, arguments: &[&str]) -> (i32, String) {
    let output = output(&mut cluster.cli(&[&["app", "logs", "--node", "node"], arguments].concat()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

/// Bytes of all files below a directory.
fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let size = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => bytes_below(&entry.path()),
        false => entry.metadata().unwrap().len(),
    };
    entries.map(size).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_gone_can_be_read_run_by_run() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    // It ends again and again, so that its job fails and its app goes.
    let job = deploy(&cluster, app(&cluster.image(), &["print", "3", "one"])).await;
    assert_eq!(job.state(), JobState::Failed);
    let name = job.app_name.as_str();
    let (status, all) = logs(&cluster, &[name]);
    assert_eq!((status, all.lines().count()), (0, 9), "three runs of three lines: {all}");
    assert_eq!(logs(&cluster, &[name, "--since", "1h"]), (0, all));
    assert_eq!(logs(&cluster, &[name, "--since", "0s"]), (0, String::new()));
    let (status, previous) = logs(&cluster, &[name, "--previous"]);
    assert_eq!((status, previous.lines().count()), (0, 3), "{previous}");
    assert_eq!(logs(&cluster, &[name, "--previous", "--tail", "1"]), (0, "one\n".to_owned()));
    let (status, message) = logs(&cluster, &[name, "--previous", "--instance", "1"]);
    assert_eq!(status, 6, "{message}");

    let single = deploy(&cluster, once(&cluster, &["print", "1", "alone"])).await;
    let (status, message) = logs(&cluster, &[&single.app_name, "--previous"]);
    assert_eq!(status, 6, "{message}");
    assert!(message.contains("previous run"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_kept_than_the_spec_says_also_while_nobody_reads() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let kept = v1::Logs { max_size_bytes: 64 * 1024, max_files: 3, ..Default::default() };
    let spec =
        v1::AppSpec { logs: Some(kept), ..once(&cluster, &["print", "20000", "a line of thirty bytes or so.."]) };
    let job = deploy(&cluster, spec).await;
    assert_eq!(job.state(), JobState::Succeeded);
    let directory = cluster.directory().join("node/runtime/logs").join(&job.app_name);
    let bytes = bytes_below(&directory);
    assert!((100_000..=3 * 64 * 1024).contains(&bytes), "{bytes}");
    let (status, last) = logs(&cluster, &[&job.app_name, "--tail", "1000"]);
    assert_eq!((status, last.lines().count()), (0, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_nobody_reads_on_holds_up_neither_tasks_nor_other_readers() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with("node", &[], None, &["--log-bandwidth", "0"]).await;
    let client = cluster.client().await;
    let line = "x".repeat(1000);
    let flood = deploy(&cluster, once(&cluster, &["print", "30000", &line])).await;
    assert_eq!(flood.state(), JobState::Succeeded);
    let mut unread = Vec::new();
    for _ in 0..4 {
        let request = v1::ReadLogsRequest {
            node_name: "node".to_owned(),
            app_name: flood.app_name.clone(),
            follow: true,
            ..Default::default()
        };
        // Each with a connection of its own, which holds so much and no more.
        let mut apps = cluster.client().await.apps;
        let mut stream = apps.read_logs(request).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some());
        unread.push(stream);
    }
    for round in 0..3 {
        let job = deploy(&cluster, once(&cluster, &["print", "1", &format!("round {round}")])).await;
        assert_eq!(job.state(), JobState::Succeeded);
        assert_eq!(logs(&cluster, &[&job.app_name]), (0, format!("round {round}\n")));
        assert!(client.is_connected("node").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_log_directory_are_bounded_listed_and_read_and_links_in_it_lead_nowhere() {
    let cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    let kept = v1::Logs { max_size_bytes: 64 * 1024, max_files: 2, directory: "/var/log/app".to_owned() };
    let args = ["fill", "/var/log/app/whole.log", "1000000"];
    let job = deploy(&cluster, v1::AppSpec { logs: Some(kept), ..once(&cluster, &args) }).await;
    assert_eq!(job.state(), JobState::Succeeded);
    let name = job.app_name.as_str();
    let directory = cluster.directory().join("node/runtime/logs").join(name).join("0/files");
    wait::until("the file is shortened", || async {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(directory.join("whole.log")).unwrap().blocks() * 512 <= 68 * 1024
    })
    .await;
    std::fs::write(directory.join("lines.trace"), "one\ntwo\nthree\n").unwrap();
    std::fs::write(directory.join("other.txt"), "no log").unwrap();
    // As an app would that wants to see what only root sees.
    std::os::unix::fs::symlink(cluster.server_dir().join("longshore.db"), directory.join("stolen.log")).unwrap();
    let (status, files) = logs(&cluster, &[name, "--files", "-o", "json"]);
    let files: serde_json::Value = serde_json::from_str(&files).unwrap();
    let names: Vec<_> = files["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!((status, names), (0, vec!["lines.trace", "whole.log"]), "{files}");
    assert_eq!(logs(&cluster, &[name, "--file", "lines.trace", "--tail", "2"]), (0, "two\nthree\n".to_owned()));
    for file in ["stolen.log", "other.txt", "none.log"] {
        let (status, message) = logs(&cluster, &[name, "--file", file]);
        assert_eq!(status, 6, "{file}: {message}");
    }
    assert_eq!(logs(&cluster, &[name, "--file", "../../output.log"]).0, 1);

    let plain = deploy(&cluster, once(&cluster, &["print", "1", "x"])).await;
    assert_eq!(logs(&cluster, &[&plain.app_name, "--files"]).0, 6, "it has no log directory");
}
