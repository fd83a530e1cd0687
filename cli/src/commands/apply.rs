//! `longshore apply`

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_model::order::JobOrder;
use longshore_proto::v1::CreateJobRequest;

use crate::client::call;
use crate::commands::{Context, context, job};
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::job_file;
use crate::json;
use crate::output::Output;

/// Submit a job and wait for it, showing how it goes on.
///
/// Ctrl-C ends the wait, never the job.
#[derive(Debug, clap::Args)]
pub(crate) struct Apply {
    /// The job file, in YAML; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// Return as soon as the job is durable.
    #[arg(long)]
    detach: bool,

    /// Time for the job to finish in, such as 90s or 10m, instead of the file's.
    #[arg(long, value_name = "TIME", value_parser = job_file::duration)]
    timeout: Option<Duration>,
}

pub(super) async fn run(apply: Apply, connection: &Connection, output: &mut Output) -> Result<Exit, Error> {
    // A mistake in the file is told before anything is asked of a server.
    let name = job_file::display_name(&apply.file);
    let mut order = job_file::parse(&name, &read(&apply.file, &name)?).map_err(Error::new)?;
    if let Some(timeout) = apply.timeout {
        order.timeout = timeout;
    }
    let mut context = context(connection, output).await?;
    submit(&mut context, &order, &name, apply.detach).await
}

async fn submit(context: &mut Context<'_>, order: &JobOrder, file: &str, detach: bool) -> Result<Exit, Error> {
    let answer = context.client.jobs.create_job(call(CreateJobRequest::from(order))).await;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let error = Error::from(status).about_file(file);
            if error.exit() == Exit::Unreachable {
                let command = context.connection.command();
                context.output.note(&format!("Whether the job was created is not known: see `{command} job list`."));
            }
            return Err(error);
        }
    };
    let job = answer.job.clone().unwrap_or_default();
    for warning in &job.warnings {
        context.output.note(&format!("warning: {warning}"));
    }
    if detach {
        let text =
            || format!("job {} is created\n{}", job.job_id, job::advice(&job, &[], &context.connection.command()));
        context.output.show(|| json::of("CreateJobResponse", &answer), text)?;
        return Ok(Exit::Ok);
    }
    job::watch::until_rest(context, &job.job_id).await
}

fn read(path: &Path, name: &str) -> Result<String, Error> {
    let cannot = |error| Error::io(format!("cannot read {name}"), error);
    let mut source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(cannot)?)
    };
    let mut bytes = Vec::new();
    source.by_ref().take(job_file::MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > job_file::MAX_FILE {
        return Err(Error::new(format!("{name} is larger than {} MiB: it is no job file", job_file::MAX_FILE >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| Error::new(format!("{name} is not text in UTF-8")))
}
