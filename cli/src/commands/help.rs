//! `longshore completion` and `longshore man`

use clap::CommandFactory as _;
use longshore_help::{Completion, Manual};

use crate::args::Args;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

pub(super) fn completion(completion: &Completion, output: &mut Output) -> Result<Exit, Error> {
    let script = completion.script(Args::command());
    output.line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Ok)
}

pub(super) fn manual(manual: &Manual) -> Result<Exit, Error> {
    manual.write(Args::command()).map_err(|error| Error::io("cannot write the manual pages", error))?;
    Ok(Exit::Ok)
}
