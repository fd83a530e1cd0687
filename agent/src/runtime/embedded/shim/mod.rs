//! The shim: one process per container, which outlives the agent.
//!
//! It makes the container while it still has one thread, since the container library must not be used otherwise, and
//! then holds the container's output, ports and exit until the end.

mod commands;
mod devices;
mod executor;
mod make;
mod node_network;
mod ports;
mod proxy;
mod pty;
mod resolver;
pub(super) mod rootfs;
mod serve;
mod shared_udp;
mod tenant;
mod ulimits;

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stdout, setsid};
use tracing_subscriber::EnvFilter;

use super::launch::{LaunchFile, VERSION};
use super::layout::{LOCK, SHIM_LOG, SOCKET};
use super::state::{self, Answer, Failure, State};
use super::{cgroup, client, failure, lock};
use crate::runtime::RuntimeError;

/// First word of the command line by which the agent's program becomes a shim; the second is the container's directory.
pub const COMMAND: &str = "shim";

/// The container library's directory below the container's.
const LIBRARY: &str = "oci";
/// What the container library calls the container: there is one of it in its directory.
const CONTAINER: &str = "c";
/// What the process is called; the kernel keeps 15 characters.
const NAME: &str = "longshore-shim";

/// What this program does instead of being the agent, when its command line begins with one of the shim's words; with the
/// container's directory behind it.
#[must_use]
pub fn main_of(word: &OsStr) -> Option<fn(&Path) -> ExitCode> {
    if word == COMMAND {
        Some(main)
    } else if word == tenant::COMMAND {
        Some(tenant::main)
    } else {
        None
    }
}

/// Runs the shim of the container in `directory`. Call it before any thread exists.
///
/// Writes one line to standard output when the container is made or could not be; returns when the container has
/// ended.
fn main(directory: &Path) -> ExitCode {
    match run(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(message = error.message, "the shim gives up");
            report(&Answer::Refused(error.into()));
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path) -> Result<(), RuntimeError> {
    // A child of the agent is never a group leader; a shim started by hand may be, and then has its session.
    let _ = setsid();
    umask(Mode::from_bits_truncate(0o022));
    std::env::set_current_dir(directory).map_err(|e| failure::io("entering the container's directory", e))?;
    let held = lock::take(Path::new(LOCK)).map_err(|e| failure::io("taking the shim's lock", e))?;
    let _held = held.ok_or_else(|| failure::other("the container has a shim already"))?;
    log_to_file()?;
    // What `ps` and systemd call it; started by way of /proc/self/exe it would be "exe".
    std::fs::write("/proc/self/comm", NAME).map_err(|e| failure::io("naming the shim", e))?;
    let launch = LaunchFile::read(Path::new(".")).map_err(|e| failure::io("reading the launch description", e))?;
    if launch.version != VERSION {
        return Err(failure::other(format!("launch description {} is not {VERSION}", launch.version)));
    }
    let secret_env = if launch.has_secret_env {
        client::unpack(std::io::stdin()).map_err(|e| failure::io("reading variables from secrets", e))?
    } else {
        Vec::new()
    };
    let outcome = make::container(&launch, &secret_env).and_then(|made| {
        let socket = UnixListener::bind(SOCKET).map_err(|e| failure::io("opening the shim's socket", e));
        let socket = socket.inspect_err(|_| abandon(&launch))?;
        write_state(&State::Created).inspect_err(|_| abandon(&launch))?;
        Ok((made, socket))
    });
    let (made, socket) = match outcome {
        Ok(made) => made,
        Err(error) => {
            abandon(&launch);
            write_state(&State::Failed(Failure::from(error.clone())))?;
            return Err(error);
        }
    };
    report(&Answer::Done(State::Created));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| failure::io("starting the shim's event loop", e))
        .inspect_err(|_| abandon(&launch))?;
    runtime.block_on(serve::until_exit(&launch, secret_env, made, socket))
}

/// The first error in a log: the cause, of which all later ones are consequences.
fn first_error(log: &str) -> Option<&str> {
    log.lines().find_map(|line| line.split_once(" ERROR ").map(|(_, rest)| rest.trim()))
}

/// Removes what a container that was not made has left.
fn abandon(launch: &LaunchFile) {
    if let Err(error) = cgroup::destroy(&launch.cgroup) {
        tracing::warn!(%error, cgroup = %launch.cgroup, "a cgroup is left behind");
    }
}

fn write_state(state: &State) -> Result<(), RuntimeError> {
    state::write(Path::new("."), state).map_err(|e| failure::io("writing the container's state", e))
}

/// Answers the agent that waits for the container to be made, and lets go of it.
fn report(answer: &Answer) {
    if let Ok(mut line) = serde_json::to_vec(answer) {
        line.push(b'\n');
        // The agent may be gone; the state on disk says the same.
        let _ = std::io::stdout().write_all(&line);
        let _ = std::io::stdout().flush();
    }
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = dup2_stdout(null.as_fd());
    }
}

fn log_to_file() -> Result<(), RuntimeError> {
    let file = OpenOptions::new().create(true).append(true).open(SHIM_LOG);
    let file = file.map_err(|e| failure::io("opening the shim's log", e))?;
    let filter = EnvFilter::try_from_env("LONGSHORE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(file).finish();
    tracing::subscriber::set_global_default(subscriber).map_err(|e| failure::other(e.to_string()))
}
