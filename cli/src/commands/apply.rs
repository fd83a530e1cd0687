//! `longshore apply`

use std::path::PathBuf;
use std::time::Duration;

use longshore_proto::convert;

use super::submit::submit;
use crate::commands::context;
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::job_file;
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
    let (name, text) = job_file::load(&apply.file)?;
    let mut request = job_file::parse(&name, &text).map_err(Error::new)?;
    if let Some(timeout) = apply.timeout {
        request.timeout = Some(convert::duration(timeout));
    }
    let mut context = context(connection, output).await?;
    submit(&mut context, request, Some(&name), apply.detach).await
}
