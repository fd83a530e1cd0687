//! `longshore remove`

use longshore_model::name::AppName;
use longshore_model::order::{JobOrder, Work};
use longshore_proto::v1::CreateJobRequest;

use super::submit::{Pace, Where, submit};
use crate::commands::context;
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// Remove an app from its nodes by a job, and wait for it.
///
/// Its containers and empty directories go, host paths stay. Ctrl-C ends the wait, never the job.
#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The app's name.
    app: AppName,

    #[command(flatten)]
    place: Where,

    #[command(flatten)]
    pace: Pace,
}

pub(super) async fn run(remove: Remove, connection: &Connection, output: &mut Output) -> Result<Exit, Error> {
    let Remove { app, place, pace } = remove;
    let detach = pace.detach;
    let (rollout, timeout) = (pace.rollout(), pace.timeout());
    let order = JobOrder { work: Work::Remove(app), targets: place.targets(), rollout, timeout };
    submit(&mut context(connection, output).await?, CreateJobRequest::from(&order), None, detach).await
}
