//! `longshore update`

mod base;

use std::sync::Arc;

use longshore_model::name::AppName;
use longshore_model::order::{JobOrder, Work};
use longshore_proto::v1::CreateJobRequest;

use super::changes::Changes;
use super::submit::{Pace, Where, submit};
use crate::commands::context;
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// Change an app that is deployed, by a job, and wait for it.
///
/// What is not named stays as it is. Each node that does not become healthy with the change goes back to what it ran. Ctrl-C
/// ends the wait, never the job.
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// The app's name.
    app: AppName,

    #[command(flatten)]
    changes: Changes,

    /// Begin with the spec of this job of the app; needed where its nodes do not all run the same. JOB@2 is the second spec of a job
    /// that was retried with another one; JOB alone has the newest.
    #[arg(long, value_name = "JOB")]
    from: Option<String>,

    /// Print the job file instead of submitting it: for changes that have no flag here, edit it and `longshore apply` it.
    #[arg(long)]
    print: bool,

    #[command(flatten)]
    place: Where,

    #[command(flatten)]
    pace: Pace,
}

pub(super) async fn run(update: Update, connection: &Connection, output: &mut Output) -> Result<Exit, Error> {
    let Update { app, changes, from, print, place, pace } = update;
    if changes.is_nothing() && !print {
        return Err(Error::usage(
            "nothing to change: name at least one change, such as --image, or print the job file by --print",
        ));
    }
    let mut context = context(connection, output).await?;
    let mut spec = base::spec(&mut context.client, &app, from.as_deref(), place.nodes()).await?;
    changes.apply(&mut spec)?;
    let work = Work::Update { app, spec: Arc::new(spec) };
    let detach = pace.detach;
    let (rollout, timeout) = (pace.rollout(), pace.timeout());
    let order = JobOrder { work, targets: place.targets(), rollout, timeout };
    if print {
        let file = serde_saphyr::to_string(&order).map_err(|error| Error::new(error.to_string()))?;
        context.output.line(file.trim_end())?;
        return Ok(Exit::Ok);
    }
    submit(&mut context, CreateJobRequest::from(&order), None, detach).await
}
