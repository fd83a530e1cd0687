//! The programs that the demo runs, and the processes that it made of them.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::future::{pending, select_all};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::bound::die_with_us;
use crate::error::Error;

/// How long a program that was asked to end may take: longer than the server's drain of 10 s.
const STOP_PATIENCE: Duration = Duration::from_secs(12);
/// How long a program that runs and ends may take.
const RUN_PATIENCE: Duration = Duration::from_secs(60);
/// Lines of a program's log that are shown when it failed.
const LOG_TAIL: usize = 15;

/// Where server and agent lie.
#[derive(Debug)]
pub(super) struct Programs {
    /// `longshore-server`
    pub(super) server: PathBuf,
    /// `longshore-agent`
    pub(super) agent: PathBuf,
}

impl Programs {
    /// Finds both beside our own program.
    pub(super) fn find() -> Result<Self, Error> {
        let own =
            std::env::current_exe().map_err(|error| Error::io("cannot find out where this program lies", error))?;
        let beside = |name: &str| {
            let path = own.with_file_name(name);
            if path.is_file() {
                return Ok(path);
            }
            let directory = own.parent().unwrap_or(Path::new(".")).display();
            Err(Error::new(format!("there is no {name} beside longshore in {directory}; build it with `cargo build`")))
        };
        Ok(Self { server: beside("longshore-server")?, agent: beside("longshore-agent")? })
    }
}

/// A command whose process dies with us, and hears of Ctrl-C through us alone: the terminal sends it to our group.
fn command(program: &Path, arguments: &[&OsStr]) -> Command {
    let mut command = Command::new(program);
    // Logs go to files and from there, perhaps, to people: without colours.
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    die_with_us(&mut command);
    command
}

/// Runs a program to its end; what it printed is told when it fails.
pub(super) async fn run(program: &Path, arguments: &[&OsStr]) -> Result<(), Error> {
    run_with(program, arguments, &[]).await
}

/// The same with more environment: the place of what must not be seen in a list of processes.
pub(super) async fn run_with(program: &Path, arguments: &[&OsStr], env: &[(&str, &str)]) -> Result<(), Error> {
    let name = display_name(program, arguments);
    let cannot = |error| Error::io(format!("cannot run {name}"), error);
    let output = match timeout(RUN_PATIENCE, command(program, arguments).envs(env.iter().copied()).output()).await {
        Ok(output) => output.map_err(cannot)?,
        Err(_) => return Err(Error::new(format!("{name} did not end within {} s", RUN_PATIENCE.as_secs()))),
    };
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Error::new(format!("{name} failed ({}):\n{}", output.status, tail(&String::from_utf8_lossy(&text)))))
}

/// The program's name and its first argument.
fn display_name(program: &Path, arguments: &[&OsStr]) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    arguments.first().map_or(name.to_string(), |first| format!("{name} {}", first.to_string_lossy()))
}

/// The last lines of a text, indented.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_TAIL)..];
    last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// Processes that run until they are stopped.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// In the order of their start.
    running: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Processes {
    /// Starts a program; what it prints goes to the file `log`.
    pub(super) fn start(&mut self, name: &str, program: &Path, arguments: &[&OsStr], log: &Path) -> Result<(), Error> {
        let cannot = |error| Error::io(format!("cannot start {name}"), error);
        let file = File::create(log).map_err(cannot)?;
        let mut command = command(program, arguments);
        command.stdout(file.try_clone().map_err(cannot)?).stderr(file);
        let child = command.spawn().map_err(cannot)?;
        self.running.push(Process { name: name.to_owned(), child, log: log.to_owned() });
        Ok(())
    }

    /// Waits until one of them ends, which none should, and tells why. Cancel-safe.
    pub(super) async fn first_end(&mut self) -> Error {
        if self.running.is_empty() {
            return pending().await;
        }
        let ends = self.running.iter_mut().map(|process| Box::pin(process.child.wait()));
        let (status, index, _) = select_all(ends).await;
        match (status, self.running.get(index)) {
            (Ok(status), Some(process)) => process.unexpected_end(status),
            (Err(error), _) => Error::io("cannot wait for a process", error),
            (Ok(_), None) => Error::new("a process ended that was not ours"),
        }
    }

    /// An error that one of them may know more about: with the end of each log.
    pub(super) fn explain(&self, error: &Error) -> Error {
        let logs = self.running.iter().map(|process| {
            let log = std::fs::read_to_string(&process.log).unwrap_or_default();
            format!("\nThe end of the log of {}:\n{}", process.name, tail(&log))
        });
        Error::new(format!("{}{}", error.text(), logs.collect::<String>()))
    }

    /// Asks all to end, the first one that was started last, and kills those that do not.
    pub(super) async fn stop(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        let server = if self.running.is_empty() { None } else { Some(self.running.remove(0)) };
        // Agents side by side; the server after them, so that it hears their farewell.
        let agents = futures::future::join_all(self.running.drain(..).map(Process::stop)).await;
        problems.extend(agents.into_iter().flatten());
        if let Some(server) = server {
            problems.extend(server.stop().await);
        }
        problems
    }
}

impl Process {
    fn unexpected_end(&self, status: ExitStatus) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        Error::new(format!("{} ended unexpectedly ({status}); the end of its log:\n{}", self.name, tail(&log)))
    }

    /// Answers what was wrong, if anything was.
    async fn stop(mut self) -> Option<String> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok())?;
        // It may end by itself at the same moment; until it is waited for the identifier stays its own.
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        if timeout(STOP_PATIENCE, self.child.wait()).await.is_ok() {
            return None;
        }
        let _ = self.child.kill().await;
        Some(format!("{} did not end within {} s and was killed", self.name, STOP_PATIENCE.as_secs()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot start its processes shall fail")]
mod tests {
    use super::*;

    fn shell(script: &str) -> [&OsStr; 2] {
        [OsStr::new("-c"), OsStr::new(script)]
    }

    #[tokio::test]
    async fn a_failed_run_tells_what_was_printed() {
        run(Path::new("/bin/sh"), &shell("exit 0")).await.unwrap();
        let error = run(Path::new("/bin/sh"), &shell("echo first; echo second >&2; exit 3")).await.unwrap_err();
        assert_eq!(error.text(), "sh -c failed (exit status: 3):\n  first\n  second");
    }

    #[tokio::test]
    async fn a_process_that_ends_is_noticed_with_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut processes = Processes::default();
        let (stays, ends) = (directory.path().join("a.log"), directory.path().join("b.log"));
        processes.start("a", Path::new("/bin/sh"), &shell("exec sleep 600"), &stays).unwrap();
        processes.start("b", Path::new("/bin/sh"), &shell("echo no disk; exit 1"), &ends).unwrap();
        let error = processes.first_end().await;
        assert_eq!(error.text(), "b ended unexpectedly (exit status: 1); the end of its log:\n  no disk");
        assert!(processes.stop().await.is_empty());
    }

    #[test]
    fn only_the_end_of_a_log_is_shown() {
        let text: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert!(tail(&text).starts_with("  85\n"));
        assert!(tail(&text).ends_with("  99"));
    }
}
