//! `longshore job retry`

use longshore_proto::v1::RetryJobRequest;

use super::{answer, watch};
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Start anew what has not succeeded, or some of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Retry {
    /// The job's identifier.
    job: String,

    /// Only tasks that match, such as `failure.reason = PORT_IN_USE`; `job show` has a filter for each cause of failure.
    #[arg(long, value_name = "FILTER", default_value = "", hide_default_value = true)]
    filter: String,

    /// Wait for it as `apply` does.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(retry: Retry, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = RetryJobRequest { job_id: retry.job, filter: retry.filter, ..Default::default() };
    let job = context.client.jobs.retry_job(call(request)).await?.into_inner().job.unwrap_or_default();
    if retry.wait {
        return watch::until_rest(context, &job.job_id).await;
    }
    answer(context, Some(job), "the job is retried")
}
