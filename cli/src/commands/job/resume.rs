//! `longshore job resume`

use longshore_proto::v1::ResumeJobRequest;

use super::{answer, watch};
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Go on with a STOPPED job.
#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    /// The job's identifier.
    job: String,

    /// Wait for it as `apply` does.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(resume: Resume, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = ResumeJobRequest { job_id: resume.job, ..Default::default() };
    let job = context.client.jobs.resume_job(call(request)).await?.into_inner().job.unwrap_or_default();
    if resume.wait {
        return watch::until_rest(context, &job.job_id).await;
    }
    answer(context, Some(job), "the job goes on")
}
