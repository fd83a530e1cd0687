//! `longshore apply`

use std::io::Read;
use std::path::{Path, PathBuf};
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
    let name = job_file::display_name(&apply.file);
    let mut request = job_file::parse(&name, &read(&apply.file, &name)?).map_err(Error::new)?;
    if let Some(timeout) = apply.timeout {
        request.timeout = Some(convert::duration(timeout));
    }
    let mut context = context(connection, output).await?;
    submit(&mut context, request, Some(&name), apply.detach).await
}

/// The text of a job file.
pub(super) fn read(path: &Path, name: &str) -> Result<String, Error> {
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
