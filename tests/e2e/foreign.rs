//! Clients in other languages: the examples of docs/api.md, and the scenario of tests/clients/scenario.md.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::examples::Examples;
use longshore_tests::foreign::play;
use longshore_tests::http;
use longshore_tests::process::binary;
use tokio::net::TcpListener;
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
    // Beside the API's files what npm and a copy of googleapis give.
    let node = clients().join("node");
    let given = [
        (root().join("proto"), "proto"),
        (node.join("proto"), "googleapis"),
        (node.join("node_modules"), "node_modules"),
    ];
    for (source, name) in given {
        std::os::unix::fs::symlink(source, directory.path().join(name)).unwrap();
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn node_deploys_follows_and_reads_errors() {
    run("Node").await;
}

async fn scenario(client: Command) {
    scenario_with(&[], client).await;
}

/// With further flags for the server.
async fn scenario_with(flags: &[&str], client: Command) {
    play(&root().join("tests/clients/scenario.md"), flags, client).await;
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

/// Serves the page that calls, and returns its port on the loopback.
async fn page() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    http::serve(listener, &clients().join("web/www"));
    port
}

/// Opens pages one after the other: who looks at it, its address, and the function that it runs.
fn browser(visits: &[[&str; 3]]) -> Command {
    let mut command = script("web");
    command.env("BROWSE", clients().join("web/browse.mjs")).args(visits.concat());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_chromium_plays_the_scenario() {
    let origin = format!("http://127.0.0.1:{}", page().await);
    let visits = [["person", &origin, "play"], ["stranger", &origin, "knock"]];
    scenario_with(&["--cors-origin", &origin], browser(&visits)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_gets_nowhere_in_chromium() {
    let port = page().await;
    let (origin, other) = (format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}"));
    let mut cluster = Cluster::start().await;
    cluster.restart_server_with(&["--cors-origin", &origin]).await;
    // The first page shows that the browser has the certificate and uses it; the second one is not allowed to.
    let mut browser = browser(&[["person", &origin, "look"], ["person", &other, "trespass"]]);
    browser.env("LONGSHORE_SERVER", cluster.api_address()).env("LONGSHORE_CREDENTIALS", cluster.admin());
    let output = browser.env("TMPDIR", cluster.directory()).kill_on_drop(true).output().await.unwrap();
    let (said, complaints) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    let expected = "saw 0 jobs\n\
                    kept from calling: Failed to fetch\n\
                    sent, and saw nothing of the answer: opaque\n";
    assert_eq!(said, expected, "{complaints}");
    let tokens = cluster.client().await.nodes.list_enrollment_tokens(v1::ListEnrollmentTokensRequest::default()).await;
    assert_eq!(tokens.unwrap().into_inner().enrollment_tokens.len(), 0);
    let log = cluster.server_log();
    for told in ["told a browser that a page may not call", "pages of this origin may not call"] {
        assert!(log.lines().any(|line| line.contains(told)), "{told:?} is not in: {log}");
    }
}
