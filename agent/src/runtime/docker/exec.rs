//! Commands beside the program of a container, which the engine starts and the agent kills: engines cannot.
//!
//! Each command bears a variable that all it starts inherits, by which the kernel's list of processes tells what is to be
//! killed. What throws the variable away and leaves its parents is found as long as its session is the command's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use futures::StreamExt;
use futures::stream::BoxStream;
use longshore_model::failure::FailureReason;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::containers::{Containers, running_pid};
use super::engine::Engine;
use super::refusal;
use crate::runtime::command::NOT_FOUND;
use crate::runtime::{Command, InstanceKey, Output, Running, RuntimeError, WindowSize, failure};

/// The variable that commands bear: the node's uid and a word of the command's own.
const MARK: &str = "LONGSHORE_EXEC";
/// Bytes of output that wait for a reader, of each stream.
const BUFFER: usize = 64 * 1024;
/// Between two looks at a command whose output goes on: what it has left behind may hold its output open.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Between two looks at one whose output has ended.
const POLL: Duration = Duration::from_millis(25);
/// Looks at the processes of a command that was killed.
const MAX_END_LOOKS: u32 = 200;
/// How engines begin to tell on the command's own output that they could not start it.
const REFUSALS: [&str; 2] = ["OCI runtime exec failed", "OCI runtime error"];

/// A command that the engine has been asked for.
struct Begun {
    engine: Arc<Engine>,
    docker: Docker,
    id: String,
    mark: Mark,
    /// Whether the engine has said that there is no such program: one of them ends it with 126 all the same.
    is_absent: Arc<AtomicBool>,
}

impl Containers {
    /// As [`crate::runtime::Runtime::exec`].
    pub(super) async fn exec(&self, instance: &InstanceKey, command: Command) -> Result<Running, RuntimeError> {
        let docker = self.engine.client().await?;
        let container = self.newest(&docker, instance).await?.id;
        running_pid(&self.inspect(&docker, &container).await?)?;
        let mark = Mark::new(&self.settings.node_uid);
        // From here on: whoever gives up meanwhile has perhaps begun it.
        let killing = Killing { mark: mark.clone() };
        let tty = command.terminal.is_some();
        let env = command.env.iter().map(|(name, value)| format!("{name}={value}"));
        let config = ExecConfig {
            attach_stdin: Some(command.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(!tty),
            tty: Some(tty),
            env: Some(env.chain([mark.0.clone()]).collect()),
            cmd: Some(command.args.clone()),
            ..ExecConfig::default()
        };
        let refused = |error| self.engine.failed("running the command", &error);
        let id = docker.create_exec(&container, config).await.map_err(refused)?.id;
        let is_absent = Arc::default();
        let begun = Begun { engine: Arc::clone(&self.engine), docker, id, mark, is_absent };
        let options = StartExecOptions { detach: false, tty, output_capacity: None };
        let (output, input) = match begun.docker.start_exec(&begun.id, Some(options)).await.map_err(refused) {
            Ok(StartExecResults::Attached { output, input }) => (output, input),
            Ok(StartExecResults::Detached) => return Err(failure::other("the container engine kept the output")),
            Err(error) if error.reason == FailureReason::CommandNotFound => return Ok(Running::never(&error.message)),
            Err(error) => return Err(error),
        };
        if let Some(size) = command.terminal {
            begun.resize(size).await;
        }
        Ok(begun.running(&command, output.boxed(), input, killing))
    }
}

impl Begun {
    fn running(
        self,
        command: &Command,
        output: BoxStream<'static, Result<LogOutput, bollard::errors::Error>>,
        input: crate::runtime::Input,
        killing: Killing,
    ) -> Running {
        let (stdout, to_stdout) = tokio::io::duplex(BUFFER);
        let (stderr, to_stderr) = tokio::io::duplex(BUFFER);
        let pump = tokio::spawn(pump(output, to_stdout, to_stderr, Arc::clone(&self.is_absent)));
        let begun = Arc::new(self);
        let resized = Arc::clone(&begun);
        let resize: crate::runtime::Resize = Arc::new(move |size| {
            let begun = Arc::clone(&resized);
            Box::pin(async move { begun.resize(size).await })
        });
        let limit = command.timeout;
        let end = async move {
            let _killing = killing;
            match limit {
                None => begun.end(pump).await,
                Some(limit) => match tokio::time::timeout(limit, begun.end(pump)).await {
                    Ok(ended) => ended,
                    Err(_) => {
                        begun.mark.kill_all().await;
                        Ok(128 + nix::sys::signal::Signal::SIGKILL as i32)
                    }
                },
            }
        };
        Running {
            stdin: command.stdin.then_some(input),
            stdout: Box::pin(stdout) as Output,
            stderr: Box::pin(stderr),
            resize: command.terminal.map(|_| resize),
            end: Box::pin(end),
        }
    }

    async fn resize(&self, size: WindowSize) {
        let options = ResizeExecOptions { height: size.rows, width: size.columns };
        if let Err(error) = self.docker.resize_exec(&self.id, options).await {
            tracing::debug!(%error, "a terminal keeps its size");
        }
    }

    /// Waits for the command's end, and kills what it has left behind.
    async fn end(&self, mut pump: JoinHandle<()>) -> Result<i32, RuntimeError> {
        let mut is_open = true;
        let code = loop {
            if is_open {
                is_open = tokio::time::timeout(LOOK_PERIOD, &mut pump).await.is_err();
            } else {
                tokio::time::sleep(POLL).await;
            }
            let seen = self.docker.inspect_exec(&self.id).await;
            let seen = seen.map_err(|error| self.engine.failed("looking at the command", &error))?;
            if seen.running != Some(true)
                && let Some(code) = seen.exit_code
            {
                break i32::try_from(code).unwrap_or(i32::MAX);
            }
        };
        self.mark.kill_all().await;
        Ok(if self.is_absent.load(Ordering::Relaxed) { NOT_FOUND } else { code })
    }
}

/// Takes the command's output apart. A reader that takes none of one stream holds up the other as well.
async fn pump(
    mut output: BoxStream<'static, Result<LogOutput, bollard::errors::Error>>,
    mut stdout: DuplexStream,
    mut stderr: DuplexStream,
    is_absent: Arc<AtomicBool>,
) {
    let mut is_first = true;
    while let Some(Ok(piece)) = output.next().await {
        let may_be_the_engines = std::mem::take(&mut is_first);
        let (stream, bytes) = match piece {
            LogOutput::StdErr { message } => (&mut stderr, message),
            LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                // What the engine itself says, it says in the place of all output.
                match may_be_the_engines.then(|| refusal(&message)).flatten() {
                    Some(refusal) => {
                        is_absent.store(refusal.reason == FailureReason::CommandNotFound, Ordering::Relaxed);
                        (&mut stderr, format!("{}\n", refusal.message).into())
                    }
                    None => (&mut stdout, message),
                }
            }
        };
        // Who does not want it any more still wants to know how it ends.
        let _ = stream.write_all(&bytes).await;
    }
}

/// What the engine says in the place of a command that it could not start.
fn refusal(piece: &[u8]) -> Option<RuntimeError> {
    let text = std::str::from_utf8(piece).ok()?.trim();
    REFUSALS.iter().any(|words| text.starts_with(words)).then(|| refusal::refused("running the command", text))
}

/// A variable of a command and of all that it starts, with its value.
#[derive(Clone, Debug)]
struct Mark(String);

impl Mark {
    fn new(node_uid: &str) -> Self {
        Self(format!("{MARK}={node_uid}/{:016x}", rand::random::<u64>()))
    }

    /// Kills all that bears it, and waits until nothing does.
    async fn kill_all(&self) {
        let mark = self.0.clone();
        let killed = tokio::task::spawn_blocking(move || {
            for _ in 0..MAX_END_LOOKS {
                if kill(&|variable| variable == mark.as_bytes()).unwrap_or(0) == 0 {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            false
        });
        if !killed.await.unwrap_or(false) {
            tracing::warn!("processes of a command are left to the container's end");
        }
    }
}

/// Kills a command when it is dropped.
struct Killing {
    mark: Mark,
}

impl Drop for Killing {
    fn drop(&mut self) {
        let mark = self.mark.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { mark.kill_all().await });
        }
    }
}

/// Kills the commands of a node whose agent went away without having done so. Blocks.
pub(super) fn kill_leftovers(node_uid: &str) {
    let beginning = format!("{MARK}={node_uid}/");
    match kill(&|variable| variable.starts_with(beginning.as_bytes())) {
        Ok(0) => {}
        Ok(killed) => tracing::info!(killed, "processes of commands of the agent before this one were killed"),
        Err(error) => tracing::warn!(%error, "commands of the agent before this one may go on"),
    }
}

/// A process as the kernel lists it.
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
    is_marked: bool,
}

/// Kills every process that has such a variable, what it has started, and its session; how many there were that live.
fn kill(is_mark: &dyn Fn(&[u8]) -> bool) -> io::Result<usize> {
    let processes: Vec<Process> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?, is_mark))
        .collect();
    let chosen = choose(&processes);
    for pid in &chosen {
        let Some(pid) = Pid::from_raw(*pid) else { continue };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // Looked at once more now that it is pinned: the pid may have become another's.
        let own = processes.iter().find(|process| process.pid == pid.as_raw_nonzero().get());
        let again = look(pid.as_raw_nonzero().get(), is_mark);
        if own.zip(again).is_some_and(|(own, again)| own.session == again.session && own.parent == again.parent) {
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
    Ok(chosen.len())
}

/// Those that bear the mark, their sessions and their descendants; never what is not below a mark.
fn choose(processes: &[Process]) -> BTreeSet<i32> {
    let mut chosen: BTreeSet<i32> = processes.iter().filter(|process| process.is_marked).map(|p| p.pid).collect();
    // A session that one of them leads is theirs.
    let sessions: BTreeSet<i32> = processes
        .iter()
        .filter(|p| p.is_marked && p.session > 1)
        .map(|p| p.session)
        .filter(|s| chosen.contains(s))
        .collect();
    chosen.extend(processes.iter().filter(|p| sessions.contains(&p.session)).map(|p| p.pid));
    loop {
        let before = chosen.len();
        let children: Vec<i32> = processes.iter().filter(|p| chosen.contains(&p.parent)).map(|p| p.pid).collect();
        chosen.extend(children);
        if chosen.len() == before {
            return chosen;
        }
    }
}

/// A process that lives; `None` for one that is gone or only waits for its parent.
fn look(pid: i32, is_mark: &dyn Fn(&[u8]) -> bool) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have any characters.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let is_marked = environment.split(|byte| *byte == 0).any(is_mark);
    (!matches!(state, "Z" | "X")).then_some(Process { pid, parent, session, is_marked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bears_the_mark_goes_with_its_session_and_its_children_and_nothing_else() {
        let process = |pid, parent, session, is_marked| Process { pid, parent, session, is_marked };
        let processes = [
            process(1, 0, 1, false),
            process(10, 1, 10, false),
            // The command, in a session that it leads.
            process(20, 10, 20, true),
            process(21, 20, 20, true),
            // Has thrown the variable away.
            process(22, 1, 20, false),
            process(23, 22, 23, false),
            // Not a leader: its session is not the command's.
            process(30, 1, 10, true),
            process(40, 10, 40, false),
        ];
        assert_eq!(choose(&processes).into_iter().collect::<Vec<_>>(), [20, 21, 22, 23, 30]);
        assert!(choose(&processes[..2]).is_empty());
    }
}
