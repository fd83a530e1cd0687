//! `longshore demo`
//!
//! Nothing here is a stand-in: the server and the agents are the real programs, enrolled by real tokens, and the jobs go
//! the way of `longshore apply`. Whatever happens, all of it is taken down again, by this demo or by the next one.

mod bound;
mod fleet;
mod jobs;
mod programs;
mod proof;
mod site;
mod teardown;

use tokio::signal::unix::{SignalKind, signal};

use self::fleet::Fleet;
use self::programs::{Processes, Programs};
use self::site::Site;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// Start a server and three agents on this machine and deploy to them; needs root.
///
/// Everything lives in a private temporary directory and is removed again.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Tear everything down as soon as it is proved, instead of waiting for Ctrl-C.
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(demo: Demo, output: &mut Output) -> Result<Exit, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new("the demo runs real containers, which only root can; try `sudo longshore demo`"));
    }
    let programs = Programs::find()?;
    let parent = std::env::temp_dir();
    for leftover in Site::leftovers(&parent) {
        output.note(&format!("Removing what a killed demo left in {}", leftover.directory().display()));
        for problem in teardown::reset(leftover, &programs).await {
            output.note(&format!("warning: {problem}"));
        }
    }
    let site = Site::make(&parent)?;
    let mut processes = Processes::default();
    let mut fleet = None;
    let mut signals = Signals::new()?;

    let mut shown = tokio::select! {
        biased;
        () = signals.next() => Err(interrupted()),
        shown = show(&site, &programs, &mut processes, &mut fleet, output) => shown,
    };
    if shown.is_ok() && !demo.once && output.is_terminal() {
        shown = stay(&mut processes, &mut signals, output).await;
    }
    if let Err(error) = &shown {
        output.fail(error);
    }
    output.note("Taking everything down …");
    let problems = tokio::select! {
        biased;
        () = signals.next() => vec!["interrupted while cleaning up; the next demo does the rest".to_owned()],
        problems = teardown::all(site, &programs, &mut processes, fleet) => problems,
    };
    for problem in &problems {
        output.note(&format!("error: {problem}"));
    }
    match shown {
        Ok(()) if problems.is_empty() => {
            output.line("Everything is taken down again.")?;
            Ok(Exit::Ok)
        }
        Ok(()) => Ok(Exit::Error),
        Err(error) => Ok(error.exit()),
    }
}

fn interrupted() -> Error {
    Error::Plain { message: "interrupted".to_owned(), exit: Exit::Interrupted }
}

/// The demo itself, until everything is proved.
async fn show(
    site: &Site,
    programs: &Programs,
    processes: &mut Processes,
    fleet: &mut Option<Fleet>,
    output: &mut Output,
) -> Result<(), Error> {
    output.line(&format!("A server and three nodes on this machine, all in {}\n", site.directory().display()))?;
    let fleet = fleet.insert(fleet::start(site, programs, processes, output).await?);
    // From here on every process is to stay up.
    let app = tokio::select! {
        biased;
        error = processes.first_end() => return Err(error),
        proved = jobs::deploy_and_prove(site, fleet, output) => proved?,
    };
    output.line(&jobs::go_on(&fleet.connection, &app))
}

/// Stays up until somebody presses Ctrl-C, which is how a demo on a terminal ends well.
async fn stay(processes: &mut Processes, signals: &mut Signals, output: &mut Output) -> Result<(), Error> {
    output.line("\nCtrl-C takes everything down.")?;
    tokio::select! {
        () = signals.next() => Ok(()),
        error = processes.first_end() => Err(error),
    }
}

/// What asks us to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|error| Error::io("cannot listen for signals", error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
