//! Config maps and secrets on real containers: how they reach apps, how long they stay, and where secrets are not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use longshore_proto::v1;
use longshore_tests::client::{Client, seconds};
use longshore_tests::cluster::{Cluster, Node};
use longshore_tests::engine::{Engine, Kind};
use longshore_tests::process::{command, kill_tree, output, succeed};
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::{http, wait};
use tonic::Code;
use v1::{FailureReason, JobKind, JobState, TaskState};

use crate::network::on_a_switch;

const PASSWORD: &str = "canary-4711-hunter";
const NEW_PASSWORD: &str = "canary-4712-hunter";

fn variable(name: &str, source: v1::env_var::Source) -> v1::EnvVar {
    v1::EnvVar { name: name.to_owned(), source: Some(source) }
}

fn secret_key(secret: &str, key: &str) -> v1::env_var::Source {
    v1::env_var::Source::SecretKey(v1::SecretKey { secret: secret.to_owned(), key: key.to_owned() })
}

fn volume(path: &str, source: v1::volume::Source) -> v1::Volume {
    v1::Volume { mount_path: path.to_owned(), read_only: false, source: Some(source) }
}

fn files(name: &str, items: &[(&str, &str, u32)]) -> v1::Projection {
    let item = |(key, path, mode): &(&str, &str, u32)| v1::ProjectedKey {
        key: (*key).to_owned(),
        path: (*path).to_owned(),
        mode: *mode,
    };
    v1::Projection { name: name.to_owned(), items: items.iter().map(item).collect(), mode: 0 }
}

/// The served app, with files from both.
fn with_files(cluster: &Cluster) -> v1::AppSpec {
    let key = v1::ConfigKey { config_map: "site".to_owned(), key: "ZONE".to_owned() };
    let site = v1::volume::Source::ConfigMap(files("site", &[]));
    let database = v1::volume::Source::Secret(files("db", &[("password", "deep/password", 0)]));
    v1::AppSpec {
        env: vec![variable("WHERE", v1::env_var::Source::ConfigKey(key))],
        env_from: vec![v1::EnvFrom {
            prefix: "SITE_".to_owned(),
            source: Some(v1::env_from::Source::ConfigMap("site".to_owned())),
        }],
        volumes: vec![volume("/etc/site", site), volume("/run/db", database)],
        ..with_ports(app(&cluster.image(), &["serve"]), &[tcp(8080, 0)])
    }
}

fn make(cluster: &Cluster) {
    succeed(&mut cluster.cli(&["config", "create", "site", "--literal", "ZONE=north", "--literal", "LEVEL=1"]));
    make_secret(cluster);
}

fn make_secret(cluster: &Cluster) {
    let password = cluster.file("password", PASSWORD);
    succeed(&mut cluster.cli(&["secret", "create", "db", "--file", &format!("password={password}")]));
}

async fn port(client: &Client, app: &str) -> u16 {
    let port = wait::for_value("the app's port", || async {
        client.app("node", app).await.status?.ports.first().map(|port| port.host_port)
    });
    u16::try_from(port.await).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    let answer = wait::for_value("the app to answer", || async { http::get(address, path).await.ok() }).await;
    answer.body.trim_end().to_owned()
}

async fn succeeds(client: &Client, job: &v1::Job) {
    let done = client.rest(&job.job_id).await;
    assert_eq!(done.state(), JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
}

fn said(command: &mut Command) -> Vec<u8> {
    let output = output(command);
    [output.stdout, output.stderr].concat()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Looks for the passwords in bytes.
fn search(place: &str, bytes: &[u8]) {
    for password in [PASSWORD, NEW_PASSWORD] {
        for text in [password.to_owned(), STANDARD.encode(password)] {
            assert!(!holds(bytes, &text), "{text} stands in {place}");
        }
    }
}

/// Looks for the passwords in all files below a directory that lie on its own disk; returns how many there are.
fn search_disk(directory: &Path) -> usize {
    let disk = std::fs::metadata(directory).unwrap().dev();
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let Ok(about) = entry.path().symlink_metadata() else { continue };
        if about.dev() != disk {
            continue;
        }
        if about.is_dir() {
            files += search_disk(&entry.path());
        } else if about.is_file() {
            search(&entry.path().display().to_string(), &std::fs::read(entry.path()).unwrap_or_default());
            files += 1;
        }
    }
    files
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

/// Lets the app's container be started anew, without a word from anybody.
async fn crash(node: &Node, address: SocketAddr) {
    let before = get(address, "/started").await;
    for shim in node.shims() {
        kill_tree(shim);
    }
    let is_new = || async { http::get(address, "/started").await.is_ok_and(|answer| answer.body.trim_end() != before) };
    wait::until("the app to be started again", is_new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_keeps_what_its_revision_began_with_and_a_secret_lies_on_no_disk() {
    let mut cluster = Cluster::start().await;
    cluster.restart_server_with(&["--log", "trace"]).await;
    let mut node = cluster.node_with("node", &[], None, &["--log", "trace"]).await;
    let client = cluster.client().await;
    make(&cluster);
    let mut spec = with_files(&cluster);
    spec.env.push(variable("PASSWORD", secret_key("db", "password")));
    let job = client.create(spec.clone(), &["node"]).await;
    succeeds(&client, &job).await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port(&client, &job.app_name).await));
    let told = async |path: &str| get(address, path).await;
    assert_eq!(told("/env/WHERE").await, "north");
    assert_eq!(told("/env/SITE_LEVEL").await, "1");
    assert_eq!(told("/env/PASSWORD").await, PASSWORD);
    assert_eq!(told("/read?path=/etc/site/ZONE").await, "north");
    assert_eq!(told("/read?path=/run/db/deep/password").await, PASSWORD);
    let mounts = told("/read?path=/proc/self/mountinfo").await;
    let mount = mounts.lines().find(|line| line.contains(" /run/db ")).unwrap();
    assert!(mount.contains("- tmpfs ") && mount.contains(" ro,"), "{mount}");

    // A change reaches neither what runs nor what is started again, with a server or without.
    let password = cluster.file("password", NEW_PASSWORD);
    succeed(&mut cluster.cli(&["secret", "update", "db", "--file", &format!("password={password}")]));
    succeed(&mut cluster.cli(&["config", "update", "site", "--literal", "ZONE=south"]));
    crash(&node, address).await;
    assert_eq!((told("/env/WHERE").await.as_str(), told("/env/PASSWORD").await.as_str()), ("north", PASSWORD));
    cluster.kill_server();
    node.kill();
    for shim in node.shims() {
        kill_tree(shim);
    }
    node.start();
    assert_eq!((told("/env/WHERE").await.as_str(), told("/env/PASSWORD").await.as_str()), ("north", PASSWORD));
    assert_eq!(told("/read?path=/run/db/deep/password").await, PASSWORD);

    // An update that fails leads back to what the last revision had, and one that succeeds has the new.
    cluster.start_server().await;
    let client = cluster.client().await;
    let broken = v1::AppSpec { args: vec!["exit".to_owned(), "3".to_owned()], ..spec.clone() };
    let failing = client.create_with(update(&job.app_name, broken)).await;
    assert_eq!(client.rest(&failing.job_id).await.state(), JobState::Failed);
    assert_eq!((told("/env/WHERE").await.as_str(), told("/env/PASSWORD").await.as_str()), ("north", PASSWORD));
    let next = client.create_with(update(&job.app_name, spec)).await;
    succeeds(&client, &next).await;
    assert_eq!((told("/env/WHERE").await.as_str(), told("/env/PASSWORD").await.as_str()), ("south", NEW_PASSWORD));
    assert_eq!(told("/read?path=/run/db/deep/password").await, NEW_PASSWORD);

    let mut shown = Vec::new();
    for words in [
        &["secret", "show", "db"][..],
        &["secret", "show", "db", "-o", "json"],
        &["secret", "list"],
        &["secret", "list", "-o", "json"],
        &["job", "show", &next.job_id, "-o", "json"],
        &["app", "show", &job.app_name, "--node", "node", "-o", "json"],
        &["node", "show", "node", "-o", "json"],
    ] {
        shown.extend(said(&mut cluster.cli(words)));
    }
    assert!(holds(&shown, "password"), "its key is shown");
    search("what the command line shows", &shown);
    let backup = cluster.directory().join("backup");
    let server = cluster.server_dir();
    succeed(command("longshore-server", None).args(["backup", "--data-dir"]).arg(&server).arg("--to").arg(&backup));
    search("the backup", &std::fs::read(&backup).unwrap());
    assert!(search_disk(&server) > 3 && search_disk(node.directory()) > 3);
    assert!(node.directory().join("configuration").join(&job.app_name).exists(), "what is kept is among it");
    let logs = [cluster.server_log(), node.log()];
    assert!(logs.iter().all(|log| log.contains("TRACE")), "logs tell all that they can");
    logs.iter().for_each(|log| search("a log", log.as_bytes()));

    let remove = v1::RemoveAppRequest { app_name: job.app_name.clone(), ..Default::default() };
    client.apps.clone().remove_app(remove).await.unwrap();
    wait::until("the app to be gone", || async { client.apps_of("node").await.is_empty() }).await;
    let kept = node.directory().join("configuration").join(&job.app_name);
    wait::until("what it took to be gone", || async { !kept.exists() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_gives_apps_what_the_old_one_sealed() {
    let mut cluster = Cluster::start().await;
    let _node = cluster.node("node").await;
    make(&cluster);
    let data_dir = cluster.server_dir();
    let (keys, kept) = (data_dir.join("secrets.key"), cluster.directory().join("old.key"));
    let rotate = |kept: &Path| {
        let mut rotate = command("longshore-server", None);
        rotate.args(["rotate-key", "--data-dir"]).arg(&data_dir).arg("--keep-old").arg(kept);
        output(&mut rotate)
    };
    let before = std::fs::read_to_string(&keys).unwrap();
    let refused = rotate(&kept);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("a server runs") && told.contains("stop it first"), "{told}");
    assert!(!kept.exists() && std::fs::read_to_string(&keys).unwrap() == before);

    assert!(cluster.stop_server());
    let done = rotate(&kept);
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && told.contains("dropped=1"), "{told}");
    let after = std::fs::read_to_string(&keys).unwrap();
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), before);
    for text in [&before, &after] {
        assert_eq!(text.lines().count(), 1);
        assert!(!told.contains(text.split_whitespace().nth(1).unwrap()), "a key is no business of the log's");
    }
    assert_ne!(before, after);
    cluster.start_server().await;
    let client = cluster.client().await;
    let job = client.create(with_files(&cluster), &["node"]).await;
    succeeds(&client, &job).await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port(&client, &job.app_name).await));
    assert_eq!(get(address, "/read?path=/run/db/deep/password").await, PASSWORD);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_refused_with_the_job_and_fails_the_task_that_comes_too_late() {
    let cluster = Cluster::start().await;
    let node = cluster.enroll("node", &[], None, &[]).await;
    let client = cluster.client().await;
    let request = |spec| v1::CreateJobRequest {
        spec: Some(spec),
        targets: Some(v1::Targets { node_names: vec!["node".to_owned()], ..Default::default() }),
        ..Default::default()
    };
    let refused = client.jobs.clone().create_job(request(with_files(&cluster))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for words in ["spec.env[0].config_key.config_map", "there is no config map", "spec.volumes[1].secret.name"] {
        let details = String::from_utf8_lossy(refused.details()).into_owned();
        assert!(details.contains(words), "{words} is not in {details}");
    }
    make(&cluster);
    // The node is away until the secret is gone.
    let job = client.create(with_files(&cluster), &["node"]).await;
    succeed(&mut cluster.cli(&["secret", "delete", "db"]));
    let mut node = node;
    node.start();
    assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
    let failure = client.task(&job.job_id).await.failure.unwrap();
    assert_eq!((failure.reason(), failure.step()), (FailureReason::ConfigurationMissing, TaskState::Checking));
    assert!(failure.message.contains("no secret \"db\""), "{failure:?}");
    make_secret(&cluster);
    client.retry(&job.job_id).await;
    succeeds(&client, &job).await;
}

#[test]
fn docker_gets_files_and_no_secret_in_the_environment() {
    an_engine_gets_files_and_no_secret_in_the_environment(Kind::Docker);
}

#[test]
fn podman_gets_files_and_no_secret_in_the_environment() {
    an_engine_gets_files_and_no_secret_in_the_environment(Kind::Podman);
}

fn an_engine_gets_files_and_no_secret_in_the_environment(kind: Kind) {
    on_a_switch(move |switch, server| async move {
        let cluster = Cluster::start_on(Some(&server)).await;
        let host = switch.host();
        let engine = Engine::start(kind, &host);
        let arguments = ["--runtime", "docker", "--docker-socket", &engine.address()];
        let node = cluster.node_with("node", &[], Some(&host), &arguments).await;
        let client = cluster.client().await;
        make(&cluster);
        let job = client.create(with_files(&cluster), &["node"]).await;
        succeeds(&client, &job).await;
        let address = SocketAddr::new(IpAddr::V4(host.address), port(&client, &job.app_name).await);
        assert_eq!(get(address, "/env/WHERE").await, "north");
        assert_eq!(get(address, "/read?path=/etc/site/LEVEL").await, "1");
        assert_eq!(get(address, "/read?path=/run/db/deep/password").await, PASSWORD);
        assert!(search_disk(node.directory()) > 3);

        let mut spec = with_files(&cluster);
        spec.env.push(variable("PASSWORD", secret_key("db", "password")));
        let refused = client.create(spec, &["node"]).await;
        assert_eq!(client.rest(&refused.job_id).await.state(), JobState::Failed);
        let failure = client.task(&refused.job_id).await.failure.unwrap();
        assert_eq!((failure.reason(), failure.step()), (FailureReason::Unsupported, TaskState::Pending));
        assert!(failure.message.contains("secrets.env"), "{failure:?}");
    });
}
