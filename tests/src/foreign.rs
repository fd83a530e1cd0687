//! Clients in other languages: programs that all play the scenario of `tests/clients/scenario.md`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::examples::{expected_lines, first_difference};

/// How long a client may say nothing: far above what it ever needs.
const PATIENCE: Duration = Duration::from_secs(90);
/// What a client prints when the machine that was off is to be switched on.
const GOES_ON: &str = "resumed late:";

/// Runs a client against a cluster of its own, whose server has these further flags, and holds every line that it prints
/// against the scenario.
///
/// # Panics
///
/// It fails, falls silent, or prints anything but what the scenario says.
pub async fn play(scenario: &Path, flags: &[&str], mut client: Command) {
    let document = std::fs::read_to_string(scenario).unwrap();
    let mut cluster = Cluster::start().await;
    if !flags.is_empty() {
        cluster.restart_server_with(flags).await;
    }
    let fake = ["--runtime", "fake"];
    let _one = cluster.node_with("shop-1", &[("role", "till")], None, &fake).await;
    let _two = cluster.node_with("shop-2", &[("role", "till")], None, &fake).await;
    let mut depot = cluster.enroll("depot-1", &[("role", "depot")], None, &fake).await;

    let complaints = cluster.directory().join("client.log");
    client.env("LONGSHORE_SERVER", cluster.api_address()).env("LONGSHORE_CREDENTIALS", cluster.admin());
    client.env("TMPDIR", cluster.directory());
    client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(&complaints).unwrap());
    let mut running = client.kill_on_drop(true).spawn().unwrap_or_else(|error| panic!("{client:?}: {error}"));
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let mut printed = Vec::new();
    loop {
        match timeout(PATIENCE, lines.next_line()).await {
            Ok(Ok(Some(line))) => {
                if line.starts_with(GOES_ON) {
                    depot.start();
                }
                printed.push(line);
            }
            Ok(Ok(None)) => break,
            Ok(Err(error)) => panic!("{client:?}: {error}"),
            Err(_) => panic!("{client:?} fell silent after {printed:#?}"),
        }
    }
    let status = running.wait().await.unwrap();
    let complaints = std::fs::read_to_string(complaints).unwrap();
    if let Some(difference) = first_difference(&printed, &expected_lines(&document)) {
        panic!("{difference}\nin what {client:?} printed:\n{}\n{complaints}", printed.join("\n"));
    }
    assert!(status.success(), "{client:?} ended with {status}\n{complaints}");
}
