//! The process that starts one command beside a container's program, and waits for its end.
//!
//! The container library must be called in a process with one thread and may leave it in any state, so that each command
//! has a process of its own, which the shim starts. It is in the shim's namespaces of the network and of mounts, of which the
//! command takes the first; all others are those of the container's first process, whose pid cannot become another's as long
//! as the shim, its parent, has not reaped it.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

use super::super::cgroup::SubGroup;
use super::super::launch::LaunchFile;
use super::super::privileges::Bounding;
use super::super::seccomp::Filter;
use super::super::state::{Answer, Failure};
use super::super::{descriptors, failure};
use super::executor::Exec;
use super::pty::Pty;
use super::{CONTAINER, LIBRARY, first_error};
use crate::runtime::RuntimeError;

/// First word of the command line by which the agent's program becomes such a process; the second is the container's
/// directory.
pub(super) const COMMAND: &str = "shim-exec";

/// What the process is called; the kernel keeps 15 characters.
const NAME: &str = "longshore-exec";
/// Longest order, in bytes: a command with the whole environment, whose values may be as long as the kernel takes them.
const MAX_ORDER: usize = 64 * 1024 * 1024;

/// What a shim tells this process. The command's streams, or the socket that takes its terminal, come with it.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    /// What to execute.
    pub(super) args: Vec<String>,
    /// The whole environment, secrets included.
    pub(super) env: Vec<(String, String)>,
    /// Columns and rows of its terminal.
    pub(super) terminal: Option<(u16, u16)>,
    /// Name of its cgroup below the container's.
    pub(super) cgroup: String,
}

/// What the library says when the kernel makes no process.
const NO_PROCESS: &str = "failed to clone process";
/// What that means.
const CROWDED: &str = "the container has as many processes as it may, or the machine has; those that have ended count until the \
                       container's first process has taken note of them";

/// Runs one command in the container in `directory`. Call it before any thread exists.
pub(super) fn main(directory: &Path) -> ExitCode {
    // Nobody is left who could end the command.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return ExitCode::FAILURE;
    };
    let done = run(directory, &socket).unwrap_or_else(|error| Answer::Refused(error.into()));
    // A container does not end as long as somebody in its namespace of processes is not reaped.
    while !matches!(waitpid(None, None), Err(Errno::ECHILD)) {}
    tell(&socket, &done);
    ExitCode::SUCCESS
}

fn tell(mut socket: &UnixStream, answer: &Answer) {
    if let Ok(mut line) = serde_json::to_vec(answer) {
        line.push(b'\n');
        // A shim that is gone takes the command with it.
        let _ = socket.write_all(&line);
    }
}

fn run(directory: &Path, socket: &UnixStream) -> Result<Answer, RuntimeError> {
    let null = File::open("/dev/null").map_err(|e| failure::io("opening /dev/null", e))?;
    dup2_stdin(null.as_fd()).map_err(|e| failure::io("closing standard input", e))?;
    std::env::set_current_dir(directory).map_err(|e| failure::io("entering the container's directory", e))?;
    fs::write("/proc/self/comm", NAME).map_err(|e| failure::io("naming the process", e))?;
    let (order, files) =
        descriptors::receive_blocking(socket, MAX_ORDER).map_err(|e| failure::io("reading the command", e))?;
    // Not what the parser says, which may quote what stands there.
    let order: Order = serde_json::from_slice(&order).map_err(|_| failure::other("the command cannot be read"))?;
    let launch = LaunchFile::read(Path::new(".")).map_err(|e| failure::io("reading the launch description", e))?;
    SubGroup::of(&launch.cgroup, &order.cgroup)
        .and_then(|group| group.prepare())
        .map_err(|e| failure::io("making the command's cgroup", e))?;
    let process = process(&order).map_err(|e| failure::other(format!("reading config.json failed: {e}")))?;
    own_library_directory().map_err(|e| failure::io("making the library's directory", e))?;
    let pid = start(&launch, order, &process, files)?;
    tell(socket, &Answer::Begun);
    Ok(Answer::Ended(wait(pid)?))
}

/// The container's own process, with other words to execute: in memory, for the library to read.
fn process(order: &Order) -> Result<File, Box<dyn std::error::Error>> {
    let spec = Spec::load("config.json")?;
    let mut process = spec.process().clone().ok_or("there is no process in it")?;
    // The environment is given to execve, and not to the library.
    process.set_args(Some(order.args.clone())).set_env(None);
    let mut file = File::from(memfd_create("process", MemfdFlags::CLOEXEC)?);
    serde_json::to_writer(&mut file, &process)?;
    file.rewind()?;
    Ok(file)
}

/// Puts a directory in memory in the place of the library's, with the container's state in it: each command leaves a socket
/// there, and none can be made on a full disk. It is gone with this process.
fn own_library_directory() -> std::io::Result<()> {
    let nothing: Option<&str> = None;
    let state = Path::new(LIBRARY).join(CONTAINER).join("state.json");
    let text = fs::read(&state)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(nothing, "/", nothing, MsFlags::MS_PRIVATE | MsFlags::MS_REC, nothing)?;
    mount(Some("tmpfs"), LIBRARY, Some("tmpfs"), MsFlags::MS_NOEXEC, Some("size=1m,mode=700"))?;
    fs::create_dir(Path::new(LIBRARY).join(CONTAINER))?;
    fs::write(state, text)
}

/// Starts the command, and returns its pid once it runs.
fn start(launch: &LaunchFile, order: Order, process: &File, files: Vec<OwnedFd>) -> Result<Pid, RuntimeError> {
    let filter = if launch.privileged {
        None
    } else {
        let bounding = Bounding::own().map_err(|e| failure::io("reading the shim's capabilities", e))?;
        Filter::for_container(&bounding.of(launch.granted()))
            .map_err(|e| failure::other(format!("the filter of system calls is wrong: {e}")))?
    };
    let mut log = log_to_memory().map_err(|e| failure::other(format!("opening a log in memory failed: {e}")))?;
    let (mut said, report) = std::io::pipe().map_err(|e| failure::io("making a pipe", e))?;
    let mut files = files.into_iter();
    let mut next = || files.next().ok_or_else(|| failure::other("the command's streams are missing"));
    let terminal = match order.terminal {
        Some(size) => Some(Pty::new(next()?, size)),
        None => None,
    };
    let streams = if terminal.is_none() { Some((next()?, next()?, next()?)) } else { None };
    let executor = Exec {
        args: order.args,
        env: order.env,
        ulimits: launch.ulimits.clone(),
        filter,
        report: Rc::new(File::from(OwnedFd::from(report))),
        terminal,
    };
    let built = ContainerBuilder::new(CONTAINER.to_owned(), SyscallType::default())
        .with_root_path(LIBRARY)
        .map(|builder| {
            let builder = builder.with_executor(executor);
            match streams {
                Some((stdin, stdout, stderr)) => builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr),
                None => builder,
            }
        })
        .and_then(|builder| {
            builder
                .as_tenant()
                .with_detach(true)
                .with_process(Some(format!("/proc/self/fd/{}", process.as_raw_fd())))
                .with_sub_cgroup(Some(order.cgroup))
                .build()
        });
    match built {
        Ok(pid) => Ok(Pid::from_raw(pid.as_raw())),
        Err(error) => {
            // What the command's own side said is exact; the library only passes on that something failed.
            let (mut exact, mut text) = (Vec::new(), String::new());
            let _ = said.by_ref().take(64 * 1024).read_to_end(&mut exact);
            let _ = log.rewind().and_then(|()| log.read_to_string(&mut text));
            Err(match serde_json::from_slice::<Failure>(&exact) {
                Ok(exact) => exact.into(),
                Err(_) => {
                    let cause = first_error(&text).map_or_else(|| error.to_string(), str::to_owned);
                    let cause = if cause.contains(NO_PROCESS) { CROWDED } else { &cause };
                    failure::other(format!("the command could not be started: {cause}"))
                }
            })
        }
    }
}

/// Keeps what the library says of errors, and not on the disk: commands may be many.
fn log_to_memory() -> Result<File, Box<dyn std::error::Error + Send + Sync>> {
    let log = File::from(memfd_create("log", MemfdFlags::CLOEXEC)?);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::ERROR)
        .with_ansi(false)
        .with_writer(log.try_clone()?)
        .finish();
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(log)
}

/// Waits for the command's end; its exit code, 128 and more for a signal.
fn wait(pid: Pid) -> Result<i32, RuntimeError> {
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(128 + Signal::SIGKILL as i32),
            Err(error) => return Err(failure::io("waiting for the command", error)),
        }
    }
}
