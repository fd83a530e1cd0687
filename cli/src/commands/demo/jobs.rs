//! The two jobs of the demo, and the proof that what they deployed is there.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use longshore_model::order::{JobOrder, Work};
use longshore_model::rollout::Rollout;
use longshore_model::spec::{AppSpec, ImageSource, Network, Port, Protocol, Startup};
use longshore_model::targets::Targets;
use longshore_proto::v1::{CreateJobRequest, Job, JobState};

use super::fleet::{Fleet, NODES, step};
use super::proof;
use super::site::Site;
use crate::client::call;
use crate::commands::job;
use crate::connection::{Connection, program};
use crate::error::Error;
use crate::exit::Exit;
use crate::follow::{Followed, follow};
use crate::output::Output;
use crate::progress::headline;

/// Port on which the program of the demo image serves.
const CONTAINER_PORT: u16 = 8080;
/// How long an app must stay up: less than by default, since the program is known and people wait.
const SETTLE: Duration = Duration::from_secs(1);
/// Deadline of each job: a demo that takes longer is broken.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Makes the image, runs both jobs, and asks every app whether it is there.
///
/// Answers the name of the first job's app.
pub(super) async fn deploy_and_prove(site: &Site, fleet: &Fleet, output: &mut Output) -> Result<String, Error> {
    let began = Instant::now();
    let path = site.path("image.tar");
    let archive = longshore_demo_image::archive(None);
    std::fs::write(&path, &archive).map_err(|error| Error::io(format!("cannot write {}", path.display()), error))?;
    let size = crate::text::bytes(archive.len() as u64);
    output.line(&step(&format!("image of one static program, {size}, nothing downloaded"), began))?;
    let image = path.display().to_string();

    output.line("\n1. Port mapping, with an automatic port of each node, on all three nodes")?;
    let mapped = deploy(fleet, &mapped_order(&image), output).await?;
    for app in fleet.client.clone().list_apps("", &mapped.app_name).await? {
        let ports = app.status.iter().flat_map(|status| &status.ports);
        for port in ports {
            prove(&app.node_name, port.host_port, output).await?;
        }
    }

    output.line("\n2. Host network, on the nodes labelled role=gateway")?;
    let port = free_port().map_err(|error| Error::io("there is no free port", error))?;
    let host = deploy(fleet, &host_order(&image, port), output).await?;
    for app in fleet.client.clone().list_apps("", &host.app_name).await? {
        prove(&app.node_name, u32::from(port), output).await?;
    }
    Ok(mapped.app_name)
}

/// Submits a job and follows it as `apply` does.
async fn deploy(fleet: &Fleet, order: &JobOrder, output: &mut Output) -> Result<Job, Error> {
    let began = Instant::now();
    let mut client = fleet.client.clone();
    let created = client.jobs.create_job(call(CreateJobRequest::from(order))).await?.into_inner();
    let job_id = created.job.unwrap_or_default().job_id;
    let Followed::AtRest(view) = follow(&mut client, &job_id, output).await? else { return Err(super::interrupted()) };
    let ended = view.job.clone().unwrap_or_default();
    if ended.state() == JobState::Succeeded {
        output.line(&step(&headline(&ended), began))?;
        return Ok(ended);
    }
    let tasks: Vec<_> = view.tasks.values().cloned().collect();
    let message = format!("{}\n{}", headline(&ended), job::failures(&tasks));
    Err(Error::Plain { message, exit: Exit::of_job(ended.state()) })
}

async fn prove(node: &str, port: u32, output: &mut Output) -> Result<(), Error> {
    let number = u16::try_from(port).map_err(|_| Error::new(format!("{node} says that its port is {port}")))?;
    let answer = proof::ask(number).await?;
    let width = NODES.map(|(name, _)| name.len()).into_iter().max().unwrap_or_default();
    output.line(&format!("  {node:width$}  http://127.0.0.1:{port}/  200  {answer}"))
}

fn mapped_order(image: &str) -> JobOrder {
    let port =
        Port { container_port: CONTAINER_PORT.into(), host_port: None, protocol: Protocol::Tcp, host_interface: None };
    let nodes = NODES.map(|(name, _)| name.to_owned()).to_vec();
    let targets = Targets { node_names: nodes, ..Targets::default() };
    order(spec("hello", image, Vec::new(), Network::Ports(vec![port])), targets)
}

fn host_order(image: &str, port: u16) -> JobOrder {
    let args = ["serve", "--port", &port.to_string()].map(str::to_owned).to_vec();
    let targets = Targets { selector: Some("role=gateway".to_owned()), ..Targets::default() };
    order(spec("gateway", image, args, Network::Host), targets)
}

fn order(spec: AppSpec, targets: Targets) -> JobOrder {
    JobOrder { work: Work::Deploy(spec.into()), targets, rollout: Rollout::default(), timeout: TIMEOUT }
}

fn spec(name: &str, image: &str, args: Vec<String>, network: Network) -> AppSpec {
    let startup = Startup { settle: SETTLE, ..Startup::default() };
    AppSpec { args, network, startup, ..AppSpec::new(name, ImageSource::Archive(image.to_owned())) }
}

/// A port that nobody uses at this moment.
fn free_port() -> io::Result<u16> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr().map(|address| address.port())
}

/// Commands to go on with, while the demo is up.
pub(super) fn go_on(connection: &Connection, app: &str) -> String {
    let program = program();
    let commands = [
        ("node list".to_owned(), "the three nodes"),
        ("job list".to_owned(), "the two jobs"),
        ("app list".to_owned(), "what they left on the nodes, with its ports"),
        (format!("app logs {app} --node store-1"), "what one of them prints"),
        (format!("app remove {app} --wait"), "takes it away from all nodes"),
    ];
    let width = commands.iter().map(|(rest, _)| rest.len()).max().unwrap_or_default();
    let lines = commands.iter().map(|(rest, why)| format!("\n  {program} {rest:width$}  # {why}"));
    let credentials = connection.credentials();
    format!(
        "\nWhile it is up, go on in another terminal with:\n  export LONGSHORE_SERVER={} LONGSHORE_CREDENTIALS={}{}",
        connection.server,
        shlex::try_quote(&credentials.to_string_lossy()).unwrap_or_default(),
        lines.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orders_are_valid() {
        for order in [mapped_order("/tmp/image.tar"), host_order("/tmp/image.tar", 4711)] {
            assert_eq!(longshore_model::validate::job_order(&order), Ok(Vec::new()));
        }
    }
}
