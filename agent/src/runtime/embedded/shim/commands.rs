//! Commands beside the container's program: a process of ours starts each, and the end of either, or of the agent's
//! interest, is the end of all that the command has started.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::super::cgroup::SubGroup;
use super::super::launch::LaunchFile;
use super::super::state::{Answer, Exec};
use super::super::{descriptors, failure};
use super::tenant::{self, Order};
use crate::runtime::RuntimeError;

/// Bytes of an answer of the process that starts a command: a sentence.
const MAX_ANSWER: u64 = 128 * 1024;
/// Looks at the cgroup of a command that was killed, before it is left to the container's own end: a frozen container
/// lets nothing die.
const MAX_END_LOOKS: u32 = 400;
/// Pause between them.
const END_POLL: Duration = Duration::from_millis(5);
/// Exit code of a command that was killed.
const KILLED: i32 = 128 + Signal::SIGKILL as i32;

/// What commands of the container need.
pub(super) struct Commands {
    launch: LaunchFile,
    secret_env: Vec<(String, String)>,
    directory: PathBuf,
    begun: AtomicU32,
}

impl Commands {
    pub(super) fn new(launch: &LaunchFile, secret_env: Vec<(String, String)>) -> std::io::Result<Self> {
        let directory = std::env::current_dir()?;
        Ok(Self { launch: launch.clone(), secret_env, directory, begun: AtomicU32::new(0) })
    }

    /// Runs a command for a peer, until its end or the peer's.
    pub(super) async fn run(
        &self,
        exec: Exec,
        files: Vec<OwnedFd>,
        mut read: impl AsyncRead + Unpin,
        write: impl AsyncWrite + Unpin,
    ) {
        let limit = exec.timeout_ms.map(Duration::from_millis);
        let mut write = Peer(write);
        let mut running = match self.begin(exec, files).await {
            Ok(running) => running,
            Err(error) => return write.tell(&Answer::Refused(error.into())).await,
        };
        let mut rest = [0; 1];
        let over = async {
            match limit {
                Some(limit) => sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let last = loop {
            tokio::select! {
                answer = running.answer() => match answer {
                    Some(Answer::Begun) => write.tell(&Answer::Begun).await,
                    Some(last) => break Some(last),
                    None => break Some(Answer::Ended(KILLED)),
                },
                () = &mut over => break Some(Answer::Ended(KILLED)),
                // Nothing more is expected: the peer has left.
                _ = read.read(&mut rest) => break None,
            }
        };
        running.end().await;
        if let Some(last) = last {
            write.tell(&last).await;
        }
    }

    async fn begin(&self, exec: Exec, files: Vec<OwnedFd>) -> Result<Running, RuntimeError> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let group = SubGroup::of(&self.launch.cgroup, &format!("exec-{number}"));
        let group = group.map_err(|e| failure::io("naming the command's cgroup", e))?;
        let mut env: Vec<(String, String)> = self.launch.env.iter().chain(&self.secret_env).cloned().collect();
        env.retain(|(name, _)| exec.env.iter().all(|(other, _)| other != name));
        env.extend(exec.env);
        let order = Order { args: exec.args, env, terminal: exec.terminal, cgroup: group.name().to_owned() };
        let mut line = serde_json::to_vec(&order).map_err(|e| failure::other(e.to_string()))?;
        line.push(b'\n');
        let fail = |e| failure::io("starting the command", e);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(fail)?;
        ours.set_nonblocking(true).map_err(fail)?;
        let mut socket = UnixStream::from_std(ours).map_err(fail)?;
        let child = Command::new("/proc/self/exe")
            .arg0("longshore-agent")
            .arg(tenant::COMMAND)
            .arg(&self.directory)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        let files: Vec<BorrowedFd<'_>> = files.iter().map(OwnedFd::as_fd).collect();
        let sent = descriptors::send(&mut socket, &line, &files).await;
        let running = Running { child, group, answers: BufReader::new(socket) };
        match sent {
            Ok(()) => Ok(running),
            Err(error) => {
                running.end().await;
                Err(fail(error))
            }
        }
    }
}

/// Who has asked for a command.
struct Peer<W>(W);

impl<W: AsyncWrite + Unpin> Peer<W> {
    async fn tell(&mut self, answer: &Answer) {
        if let Ok(mut line) = serde_json::to_vec(answer) {
            line.push(b'\n');
            let _ = timeout(super::serve::PEER_TIMEOUT, self.0.write_all(&line)).await;
        }
    }
}

/// A command that was started.
struct Running {
    child: Child,
    group: SubGroup,
    answers: BufReader<UnixStream>,
}

impl Running {
    /// What its process says next; loses nothing that matters when it is dropped, since a broken answer ends the command.
    async fn answer(&mut self) -> Option<Answer> {
        let mut line = String::new();
        let read = (&mut self.answers).take(MAX_ANSWER).read_line(&mut line).await;
        read.ok().filter(|length| *length > 0).and_then(|_| serde_json::from_str(&line).ok())
    }

    /// Kills all that there is of it.
    ///
    /// First what is in its cgroup, until its process has seen that and gone: it reaps the command, and a container does not
    /// end as long as somebody in its namespace of processes is not reaped. Then the process itself, if need be: the
    /// library's are one process group until they are in the cgroup, and no fork gets past a signal to its group, so that
    /// whoever is in neither does not exist.
    async fn end(mut self) {
        for _ in 0..MAX_END_LOOKS {
            // Looked at again below.
            let _ = self.group.kill();
            if timeout(END_POLL, self.child.wait()).await.is_ok() {
                break;
            }
        }
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // Not reaped yet: the group cannot be another's. One that is gone is what we want.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = self.child.wait().await;
        }
        for _ in 0..MAX_END_LOOKS {
            match self.group.kill().and_then(|()| self.group.remove()) {
                Ok(()) => return,
                Err(_) => sleep(END_POLL).await,
            }
        }
        tracing::warn!(group = self.group.name(), "processes of a command are left to the container's end");
    }
}
