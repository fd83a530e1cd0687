//! `longshore pull`

use std::sync::Arc;
use std::time::Duration;

use longshore_model::order::{JobOrder, Work};
use longshore_model::spec::{AppSpec, Image, ImageSource};
use longshore_proto::v1::CreateJobRequest;

use super::submit::{Pace, Where, submit};
use crate::commands::context;
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::job_file;
use crate::output::Output;

/// Name of what is listed on a node while it fetches.
const NAME: &str = "pull";

/// Fetch an image to nodes by a job, so that later jobs find it there, and wait for it.
///
/// Ctrl-C ends the wait, never the job.
#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    /// The image, by tag or digest.
    image: String,

    #[command(flatten)]
    place: Where,

    /// How long the image is kept from being removed to make room, though no app needs it.
    #[arg(long, value_name = "TIME", value_parser = job_file::duration, default_value = "24h")]
    keep_for: Duration,

    /// The nodes may have several architectures, and the image is for all of them.
    #[arg(long)]
    mixed_architectures: bool,

    #[command(flatten)]
    pace: Pace,
}

pub(super) async fn run(pull: Pull, connection: &Connection, output: &mut Output) -> Result<Exit, Error> {
    let Pull { image, place, keep_for, mixed_architectures, pace } = pull;
    let detach = pace.detach;
    let (rollout, timeout) = (pace.rollout(), pace.timeout());
    let spec = AppSpec::new(NAME, ImageSource::Reference(image));
    let image = Image { keep_for: Some(keep_for), ..spec.image.clone() };
    let work = Work::Pull(Arc::new(AppSpec { image, instances: 0, ..spec }));
    let mut targets = place.targets();
    targets.mixed_architectures = mixed_architectures;
    let order = JobOrder { work, targets, rollout, timeout };
    submit(&mut context(connection, output).await?, CreateJobRequest::from(&order), None, detach).await
}
