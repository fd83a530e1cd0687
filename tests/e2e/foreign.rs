//! Clients in other languages: the examples of docs/api.md, and the scenario of tests/clients/scenario.md.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use longshore_tests::cluster::Cluster;
use longshore_tests::examples::Examples;
use longshore_tests::foreign::play;
use longshore_tests::process::binary;
use tokio::process::Command;

/// Where `tests/run` installs and builds foreign clients, beside the built binaries' profile.
fn clients() -> PathBuf {
    let server = binary("longshore-server");
    let clients = server.parent().and_then(Path::parent).unwrap().join("clients");
    assert!(clients.join("node/made-of").exists(), "no clients in {}: `tests/run` makes them", clients.display());
    clients
}

/// The top of the source tree.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A search path on which the installed tools come first.
fn path() -> OsString {
    format!("{}:{}", clients().join("bin").display(), std::env::var("PATH").unwrap()).into()
}

async fn run(section: &'static str) {
    let document = std::fs::read_to_string(root().join("docs/api.md")).unwrap();
    let cluster = Cluster::start().await;
    let _node = cluster.node_with("shop-1", &[("role", "till")], None, &["--runtime", "fake"]).await;
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("proto"), directory.path().join("proto")).unwrap();
    let (server, credentials) = (cluster.api_address().to_owned(), cluster.admin());
    let run = move || {
        Examples::of(&document, section).run(directory.path(), |command| {
            command.env("PATH", path()).env("LONGSHORE_SERVER", server).env("LONGSHORE_CREDENTIALS", credentials);
        });
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_finds_its_way_and_reads_errors() {
    run("grpcurl").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_deploys_follows_and_reads_errors() {
    run("Python").await;
}

async fn scenario(client: Command) {
    play(&root().join("tests/clients/scenario.md"), client).await;
}

/// A script that calls a tool.
fn script(name: &str) -> Command {
    let mut command = Command::new(root().join("tests/clients").join(name).join("main.sh"));
    command.env("PATH", path());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_plays_the_scenario() {
    scenario(script("grpcurl")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buf_curl_plays_the_scenario() {
    let mut command = script("buf");
    command.env("RPC_IMAGE", clients().join("buf/rpc.binpb"));
    scenario(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_plays_the_scenario() {
    let mut command = Command::new(clients().join("bin/python"));
    command.arg(root().join("tests/clients/python/main.py")).env("PYTHONPATH", clients().join("python"));
    scenario(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_plays_the_scenario() {
    let mut command = Command::new("node");
    let protos = format!("{}:{}", root().join("proto").display(), clients().join("node/proto").display());
    command.arg(clients().join("node/main.mjs")).env("PROTO_PATH", protos);
    scenario(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_plays_the_scenario() {
    scenario(Command::new(clients().join("go/scenario"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cpp_plays_the_scenario() {
    scenario(Command::new(clients().join("cpp/scenario"))).await;
}
