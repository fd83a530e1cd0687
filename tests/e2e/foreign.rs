//! Clients that we did not write, in the examples of docs/api.md.

use std::path::{Path, PathBuf};

use longshore_tests::cluster::Cluster;
use longshore_tests::examples::Examples;
use longshore_tests::process::binary;

/// Where `tests/run` installs foreign clients, beside the built binaries' profile.
fn clients() -> PathBuf {
    let server = binary("longshore-server");
    let clients = server.parent().and_then(Path::parent).unwrap().join("clients/bin");
    assert!(clients.exists(), "{} is missing: `tests/run` installs it", clients.display());
    clients
}

async fn run(section: &'static str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = std::fs::read_to_string(root.join("docs/api.md")).unwrap();
    let cluster = Cluster::start().await;
    let _node = cluster.node_with("shop-1", &[("role", "till")], None, &["--runtime", "fake"]).await;
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root.join("proto"), directory.path().join("proto")).unwrap();
    let path = format!("{}:{}", clients().display(), std::env::var("PATH").unwrap());
    let (server, credentials) = (cluster.api_address().to_owned(), cluster.admin());
    let run = move || {
        Examples::of(&document, section).run(directory.path(), |command| {
            command.env("PATH", path).env("LONGSHORE_SERVER", server).env("LONGSHORE_CREDENTIALS", credentials);
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
