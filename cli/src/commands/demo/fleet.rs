//! The demo's server and nodes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use longshore_proto::v1::CreateEnrollmentTokenRequest;
use serde::Deserialize;

use super::programs::{Processes, Programs, run, run_with};
use super::site::Site;
use crate::client::{Client, call};
use crate::connection::Connection;
use crate::error::Error;
use crate::output::Output;

/// Names of the nodes and their role.
pub(super) const NODES: [(&str, &str); 3] = [("store-1", "store"), ("store-2", "store"), ("gateway-1", "gateway")];
/// How often is looked whether something has come up.
const POLL: Duration = Duration::from_millis(20);
/// How long it may take to come up, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server, and how it is reached.
#[derive(Debug)]
pub(super) struct Fleet {
    /// For the commands that people go on with.
    pub(super) connection: Connection,
    /// As its first administrator.
    pub(super) client: Client,
}

/// What a server writes to `addresses.json` once it listens.
#[derive(Debug, Deserialize)]
struct Addresses {
    api: String,
    agents: String,
}

/// Starts the server and the agents, and answers once every node is connected.
pub(super) async fn start(
    site: &Site,
    programs: &Programs,
    processes: &mut Processes,
    output: &mut Output,
) -> Result<Fleet, Error> {
    let began = Instant::now();
    let data = site.path("server");
    run(&programs.server, &["init".as_ref(), "--data-dir".as_ref(), data.as_ref()]).await?;
    start_server(&data, &programs.server, &site.path("server.log"), processes)?;
    let addresses = tokio::select! {
        error = processes.first_end() => return Err(error),
        addresses = addresses(&data) => addresses,
    };
    let addresses = addresses.map_err(|error| processes.explain(&error))?;
    let connection = Connection { server: addresses.api.clone(), credentials: Some(data.join("admin")) };
    let client = Client::connect(&connection).await?;
    output.line(&step("certificate authority, server", began))?;

    let began = Instant::now();
    let enrolled = NODES.map(|(name, role)| enroll(site, programs, client.clone(), &addresses.agents, name, role));
    try_join_all(enrolled).await?;
    for (name, _) in NODES {
        let data = site.path(name);
        // A demo changes nothing of the machine's network.
        let arguments = ["run".as_ref(), "--egress".as_ref(), "off".as_ref(), "--data-dir".as_ref(), data.as_os_str()];
        processes.start(
            &format!("agent of {name}"),
            &programs.agent,
            &arguments,
            &site.path(&format!("{name}.log")),
        )?;
    }
    let mut asking = client.clone();
    let connected = tokio::select! {
        error = processes.first_end() => return Err(error),
        connected = all_connected(&mut asking) => connected,
    };
    connected.map_err(|error| processes.explain(&error))?;
    let names = NODES.map(|(name, _)| name).join(", ");
    output.line(&step(&format!("nodes {names} enrolled and connected"), began))?;
    Ok(Fleet { connection, client })
}

/// A line about something that is done, and how long it took.
pub(super) fn step(what: &str, began: Instant) -> String {
    format!("  {what}  ({:.1} s)", began.elapsed().as_secs_f64())
}

fn start_server(data: &Path, program: &Path, log: &Path, processes: &mut Processes) -> Result<(), Error> {
    let words = ["run", "--api-listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0", "--data-dir"];
    let arguments: Vec<&OsStr> = words.iter().map(OsStr::new).chain([data.as_os_str()]).collect();
    processes.start("server", program, &arguments, log)
}

/// Waits until the server has written where it listens.
async fn addresses(data: &Path) -> Result<Addresses, Error> {
    let path = data.join("addresses.json");
    let began = Instant::now();
    loop {
        match std::fs::read(&path) {
            Ok(text) => {
                return serde_json::from_slice(&text)
                    .map_err(|error| Error::new(format!("{} cannot be read: {error}", path.display())));
            }
            Err(error) if began.elapsed() > PATIENCE => return Err(Error::io("the server does not come up", error)),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Makes a token for one node and enrols it.
async fn enroll(
    site: &Site,
    programs: &Programs,
    mut client: Client,
    server: &str,
    name: &str,
    role: &str,
) -> Result<(), Error> {
    let request = CreateEnrollmentTokenRequest {
        labels: BTreeMap::from([("role".to_owned(), role.to_owned())]),
        node_name: name.to_owned(),
        ..Default::default()
    };
    let token = client.nodes.create_enrollment_token(call(request)).await?.into_inner().token;
    let data = site.path(name);
    let words = ["enroll", "--server", server, "--name", name, "--data-dir"];
    let arguments: Vec<&OsStr> = words.iter().map(OsStr::new).chain([data.as_os_str()]).collect();
    run_with(&programs.agent, &arguments, &[("LONGSHORE_TOKEN", &token)]).await
}

async fn all_connected(client: &mut Client) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        let nodes = client.list_nodes("", "", "").await?;
        let missing: Vec<&str> = nodes.iter().filter(|node| !node.connected).map(|node| node.name.as_str()).collect();
        if missing.is_empty() && nodes.len() == NODES.len() {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(Error::new(format!("these nodes do not connect: {}", missing.join(", "))));
        }
        tokio::time::sleep(POLL).await;
    }
}
