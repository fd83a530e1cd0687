//! `longshore job watch`, and the wait of every command that waits.

use longshore_proto::v1::JobState;

use super::{advice, failures};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::follow::{Followed, follow};
use crate::json;
use crate::progress::{View, headline};

/// Follow a job until it is final or STOPPED.
#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// The job's identifier.
    pub(super) job: String,
}

/// Follows a job to its end, shows how it ended, and answers the exit code of that.
///
/// Ctrl-C ends the wait and not the job.
pub(crate) async fn until_rest(context: &mut Context<'_>, job_id: &str) -> Result<Exit, Error> {
    let command = context.connection.command();
    match follow(&mut context.client, job_id, context.output).await? {
        Followed::AtRest(view) => {
            context.output.show(|| json::of("WatchJobResponse", &view.message()), || conclusion(&view, &command))?;
            Ok(Exit::of_job(view.state()))
        }
        Followed::Detached => {
            context.output.note(&format!(
                "No longer waiting; the job goes on.\n  {command} job watch {job_id}  # follows it again\n  \
                 {command} job stop {job_id}   # stops it"
            ));
            Ok(Exit::Interrupted)
        }
    }
}

/// How the job ended and what to do about it.
fn conclusion(view: &View, command: &str) -> String {
    let Some(job) = &view.job else { return String::new() };
    let tasks: Vec<_> = view.tasks.values().cloned().collect();
    let mut lines = vec![headline(job)];
    lines.extend(Some(failures(&tasks)).filter(|part| !part.is_empty()));
    if job.state() == JobState::Stopped {
        lines.push("The job was stopped before everything was done.".to_owned());
    }
    lines.push(advice(job, &tasks, command));
    lines.join("\n")
}
