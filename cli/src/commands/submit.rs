//! Submits a job and waits for it; and the flags by which a command that makes a job says where it goes and how it is paced.

use std::time::Duration;

use longshore_model::rollout::Rollout;
use longshore_model::targets::Targets;
use longshore_proto::v1::CreateJobRequest;

use crate::client::call;
use crate::commands::{Context, job};
use crate::error::Error;
use crate::exit::Exit;
use crate::{job_file, json};

/// Some nodes.
#[derive(Debug, clap::Args)]
pub(crate) struct Where {
    /// Only this node; may be given several times.
    #[arg(long = "node", value_name = "NODE", conflicts_with = "selector")]
    nodes: Vec<String>,

    /// Only nodes whose labels match, such as `role=till,site in (north, south)`.
    #[arg(long)]
    selector: Option<String>,
}

/// How a job is paced, and how long it may take.
#[derive(Debug, clap::Args)]
pub(crate) struct Pace {
    /// Most nodes at once; as many as there are when left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_parallel: Option<u32>,

    /// Time for which a node may be away before the next one gets its turn; 0s for as long as the job may take.
    #[arg(long, value_name = "TIME", value_parser = job_file::duration, default_value = "60s")]
    absent_after: Duration,

    /// Time for the job to finish in, such as 90s or 10m.
    #[arg(long, value_name = "TIME", value_parser = job_file::duration, default_value = "10m")]
    timeout: Duration,

    /// Return as soon as the job is durable.
    #[arg(long)]
    pub(crate) detach: bool,
}

impl Where {
    /// The nodes that were named, if any were.
    pub(crate) fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// The same as a job says it.
    pub(crate) fn targets(self) -> Targets {
        Targets { node_names: self.nodes, selector: self.selector, mixed_architectures: false }
    }
}

impl Pace {
    /// The same as a job says it.
    pub(crate) fn rollout(&self) -> Rollout {
        Rollout { max_parallel: self.max_parallel.unwrap_or_default(), absent_after: self.absent_after }
    }

    /// The job's time.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// Submits a job, and waits for it unless `detach` says otherwise. `file` is where the request was written, if it was.
pub(crate) async fn submit(
    context: &mut Context<'_>,
    request: CreateJobRequest,
    file: Option<&str>,
    detach: bool,
) -> Result<Exit, Error> {
    let answer = context.client.jobs.create_job(call(request)).await;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let error = Error::from(status);
            let error = match file {
                Some(file) => error.about_file(file),
                None => error,
            };
            if error.exit() == Exit::Unreachable {
                let command = context.connection.command();
                context.output.note(&format!("Whether the job was created is not known: see `{command} job list`."));
            }
            return Err(error);
        }
    };
    let job = answer.job.clone().unwrap_or_default();
    context.output.warn(&job.warnings);
    if detach {
        let text =
            || format!("job {} is created\n{}", job.job_id, job::advice(&job, &[], &context.connection.command()));
        context.output.show(|| json::of("CreateJobResponse", &answer), text)?;
        return Ok(Exit::Ok);
    }
    job::watch::until_rest(context, &job.job_id).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use longshore_model::limits;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        pace: Pace,
    }

    #[test]
    fn a_job_without_a_word_goes_everywhere_at_once_in_the_usual_time() {
        let Ok(Line { place, pace }) = Line::try_parse_from(["x"]) else { unreachable!("nothing is needed") };
        assert_eq!(pace.timeout(), limits::DEFAULT_TIMEOUT);
        assert_eq!((pace.rollout(), place.targets()), (Rollout::default(), Targets::default()));
        assert!(Line::try_parse_from(["x", "--node", "a", "--selector", "b"]).is_err());
    }
}
