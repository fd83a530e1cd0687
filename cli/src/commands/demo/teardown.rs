//! Leaving nothing behind.

use std::path::Path;
use std::time::Duration;

use longshore_proto::v1::{ListJobsRequest, RemoveAppRequest, StopJobRequest, WaitJobRequest};
use tokio::time::timeout;

use super::fleet::Fleet;
use super::programs::{Processes, Programs, run};
use super::site::Site;
use crate::client::{Client, call};
use crate::commands::app::remove::until_gone;
use crate::error::Error;
use crate::progress::is_at_rest;

/// How long the polite way may take, which goes through the server; what it leaves is reset by force.
const PATIENCE: Duration = Duration::from_secs(20);
/// Attempts to reset an agent whose process may be dying this very moment.
const ATTEMPTS: u32 = 20;
/// Between them.
const PAUSE: Duration = Duration::from_millis(100);

/// Removes apps, processes, containers and files; answers what could not be done.
pub(super) async fn all(
    site: Site,
    programs: &Programs,
    processes: &mut Processes,
    fleet: Option<Fleet>,
) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(mut fleet) = fleet {
        tokio::select! {
            // Without its agent a node removes nothing; then the force below does it all.
            _ = processes.first_end() => {}
            removed = timeout(PATIENCE, remove_apps(&mut fleet.client)) => match removed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => problems.push(format!("the apps could not be removed: {}", error.text())),
                Err(_) => problems.push(format!("the apps were not gone after {} s", PATIENCE.as_secs())),
            },
        }
    }
    problems.extend(processes.stop().await);
    problems.extend(reset(site, programs).await);
    problems
}

/// Ends what is still going on, then removes every app from every node.
async fn remove_apps(client: &mut Client) -> Result<(), Error> {
    let jobs = client.jobs.list_jobs(call(ListJobsRequest::default())).await?.into_inner().jobs;
    for job in jobs.into_iter().filter(|job| !is_at_rest(job.state())) {
        // It may have come to rest meanwhile; then there is nothing to stop.
        let request = StopJobRequest { job_id: job.job_id.clone(), cancel_in_flight: true, ..Default::default() };
        let _ = client.jobs.stop_job(call(request)).await;
        client.jobs.wait_job(WaitJobRequest { job_id: job.job_id, timeout: None }).await?;
    }
    let mut names: Vec<String> = client.list_apps("", "").await?.into_iter().map(|app| app.app_name).collect();
    names.dedup();
    for app_name in names {
        client
            .apps
            .remove_app(call(RemoveAppRequest { app_name, node_name: String::new(), ..Default::default() }))
            .await?;
    }
    until_gone(client, "", "").await
}

/// Resets the agents of a site, by force and without a server, and deletes it.
///
/// A site whose agents cannot be reset is kept, since it is the only way to find what they left.
pub(super) async fn reset(site: Site, programs: &Programs) -> Vec<String> {
    let mut problems = Vec::new();
    for data in site.agents() {
        if let Err(error) = reset_agent(&programs.agent, &data).await {
            problems.push(error.text());
        }
    }
    let directory = site.directory().display().to_string();
    if !problems.is_empty() {
        problems.push(format!("{directory} is kept; the next demo tries again"));
    } else if let Err(error) = site.delete() {
        problems.push(format!("{directory} cannot be deleted: {error}"));
    }
    problems
}

async fn reset_agent(program: &Path, data: &Path) -> Result<(), Error> {
    let mut attempt = 1;
    loop {
        match run(program, &["reset".as_ref(), "--data-dir".as_ref(), data.as_ref()]).await {
            Err(_) if attempt < ATTEMPTS => tokio::time::sleep(PAUSE).await,
            result => return result,
        }
        attempt += 1;
    }
}
