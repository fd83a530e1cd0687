//! `longshore job stop`

use longshore_proto::v1::StopJobRequest;

use super::answer;
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Stop a job: nothing further is assigned, what is in flight finishes.
#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    /// The job's identifier.
    job: String,

    /// Cancel what is in flight too; a job that is stopping already can still be cancelled so.
    #[arg(long)]
    cancel: bool,
}

pub(super) async fn run(stop: Stop, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = StopJobRequest { job_id: stop.job, cancel_in_flight: stop.cancel, ..Default::default() };
    let stopped = context.client.jobs.stop_job(call(request)).await?.into_inner();
    answer(context, stopped.job, if stop.cancel { "cancel is asked for" } else { "stop is asked for" })
}
