//! `longshore`: the command line for people and scripts.
//!
//! `main` is the program's life: read the arguments, run one command, say what went wrong, answer an exit code. One file
//! for each command is in `commands`; `output` is the only module that prints.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod client;
mod commands;
mod connection;
mod error;
mod exit;
mod follow;
mod job_file;
mod json;
mod output;
mod progress;
mod text;

use std::process::ExitCode;

use crate::args::Args;
use crate::exit::Exit;
use crate::output::Output;

fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(args) => args,
        Err(error) => return output::usage(&error).into(),
    };
    let mut output = Output::new(args.output);
    // One thread: the demo's children are bound to the life of the thread that started them, which is then the program's.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.fail(&error::Error::io("cannot start the event loop", error)).into(),
    };
    let exit: Exit = match runtime.block_on(commands::run(args, &mut output)) {
        Ok(exit) => exit,
        Err(error) => output.fail(&error),
    };
    // A name that is still being resolved blocks a thread of the runtime: it must not hold up the end.
    runtime.shutdown_background();
    exit.into()
}
