//! `longshore job`

mod list;
mod resume;
mod retry;
mod show;
mod stop;
pub(crate) mod watch;

use clap::Subcommand;
use longshore_proto::v1;
use longshore_proto::v1::{FailureReason, JobState};

use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::json;

pub(crate) use show::{advice, failures};

/// Jobs: each does one thing on many nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// List jobs, newest first unless told otherwise.
    List(list::List),
    /// Show a job, its tasks, and why those failed that did.
    Show(show::Show),
    /// Follow a job until it is final or STOPPED.
    Watch(watch::Watch),
    /// Stop a job: nothing further is assigned, what is in flight finishes.
    Stop(stop::Stop),
    /// Go on with a STOPPED job.
    Resume(resume::Resume),
    /// Start anew what has not succeeded.
    Retry(retry::Retry),
}

pub(super) async fn run(job: Job, mut context: Context<'_>) -> Result<Exit, Error> {
    match job {
        Job::List(list) => list::run(list, &mut context).await,
        Job::Show(show) => show::run(show, &mut context).await,
        Job::Watch(watch) => watch::until_rest(&mut context, &watch.job).await,
        Job::Stop(stop) => stop::run(stop, &mut context).await,
        Job::Resume(resume) => resume::run(resume, &mut context).await,
        Job::Retry(retry) => retry::run(retry, &mut context).await,
    }
}

/// Shows the job that a request was answered with.
fn answer(context: &mut Context<'_>, job: Option<v1::Job>, done: &str) -> Result<Exit, Error> {
    let job = job.unwrap_or_default();
    let command = context.connection.command();
    let message = v1::GetJobResponse { job: Some(job.clone()) };
    context.output.show(
        || json::of("GetJobResponse", &message),
        || format!("{done}: {}\n{}", crate::progress::headline(&job), advice(&job, &[], &command)),
    )?;
    Ok(Exit::Ok)
}

/// Whether a task's output is likely to tell more than its failure does.
fn has_telling_logs(task: &v1::Task) -> bool {
    let reason = task.failure.as_ref().map_or(FailureReason::Unspecified, v1::Failure::reason);
    matches!(reason, FailureReason::ContainerExited | FailureReason::OutOfMemory)
}

/// Whether a retry is possible.
fn is_retryable(state: JobState) -> bool {
    matches!(state, JobState::PartiallySucceeded | JobState::Failed | JobState::TimedOut)
}
