//! The shim's life after the container is made: commands, output, ports, and the exit.

use std::collections::BTreeMap;
use std::io::PipeReader;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::app::InstanceExit;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::launch::LaunchFile;
use super::super::logs::{LogWriter, Splitter};
use super::super::state::{Answer, Command, Failure, State};
use super::super::{cgroup, descriptors, egress, failure};
use super::commands::Commands;
use super::make::Made;
use super::node_network::NodeNetwork;
use super::ports::Bound;
use super::proxy::Proxy;
use super::write_state;
use crate::runtime::RuntimeError;

/// Commands that wait: the agent sends one at a time, and a second agent is a mistake.
const COMMANDS: usize = 8;
/// Connections at a time: one per waiter and command, with room for a restarted agent's beside the old one's.
const MAX_CONNECTIONS: usize = 64;
/// Longest command, in bytes: words and variables of one to run beside the program.
const MAX_COMMAND: usize = 1024 * 1024;
/// Bytes read from the container at once.
const READ_SIZE: usize = 16 * 1024;
/// How long a peer may take to send its command or to read the last answer.
pub(super) const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long output may still come after the container's last process has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

type Request = (Command, oneshot::Sender<Answer>);

/// Serves the container until it has ended and all who wait were told.
pub(super) async fn until_exit(
    launch: &LaunchFile,
    secret_env: Vec<(String, String)>,
    made: Made,
    socket: StdListener,
) -> Result<(), RuntimeError> {
    let fail = |e| failure::io("setting up the shim", e);
    let mut children = signal(SignalKind::child()).map_err(fail)?;
    let writer = LogWriter::open(&launch.logs, launch.rotation).map_err(|e| failure::io("opening the output", e))?;
    let writer = Arc::new(Mutex::new(writer));
    let mut output = JoinSet::new();
    for (pipe, name) in [(made.stdout, "stdout"), (made.stderr, "stderr")] {
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(pipe)).map_err(fail)?;
        output.spawn(copy(pipe, Splitter::new(name, launch.run), Arc::clone(&writer)));
    }
    let (requests, mut inbox) = mpsc::channel(COMMANDS);
    let (ended, _) = watch::channel(None);
    socket.set_nonblocking(true).map_err(fail)?;
    let listener = UnixListener::from_std(socket).map_err(fail)?;
    let commands = Arc::new(Commands::new(launch, secret_env).map_err(fail)?);
    let mut peers = tokio::spawn(accept(listener, Desk { requests, ended: ended.clone(), commands }));
    let mut life = Life {
        container: made.container,
        init: made.init,
        exec: Some(made.exec),
        ports: Some((made.ports, made.node)),
        open: !launch.waits_for_readiness,
        proxy: None,
        state: State::Created,
    };

    let status = loop {
        if let Some(status) = reap(life.init) {
            break status;
        }
        tokio::select! {
            _ = children.recv() => {}
            Some((command, answer)) = inbox.recv() => {
                // A peer that left does not need its answer.
                let _ = answer.send(life.obey(command).await);
            }
        }
    };
    // The ports are free before anybody hears of the exit: the next run may bind them at once.
    drop(life.proxy.take());
    drop(life.ports.take());
    // The kernel would do it too, but in its own time.
    if launch.egress.is_some()
        && let Err(error) = egress::detach()
    {
        tracing::warn!(%error, "the container's way out stays until its network is gone");
    }
    // The kernel ends nobody with the first process where there is no PID namespace, and what that has left behind holds
    // the output open.
    if launch.host_pid
        && let Err(error) = cgroup::kill_members(&launch.cgroup)
    {
        tracing::warn!(%error, "processes of the container may live on");
    }
    let drained = async { while output.join_next().await.is_some() {} };
    if timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!("output of the container stays open after its end");
    }
    let killed_for_memory = cgroup::oom_kills(&launch.cgroup) > 0;
    super::abandon(launch);
    let state = match life.state {
        failed @ State::Failed(_) => failed,
        _ => State::Exited(InstanceExit {
            code: status,
            out_of_memory: killed_for_memory && status != 0,
            time: Timestamp::now(),
        }),
    };
    let written = write_state(&state);
    // Who waits is told the truth even where the disk is too full to keep it.
    ended.send_replace(Some(state));
    if timeout(PEER_TIMEOUT, &mut peers).await.is_err() {
        tracing::warn!("a peer did not read its answer");
    }
    written
}

/// The container and what belongs to its state.
struct Life {
    container: libcontainer::container::Container,
    init: Pid,
    exec: Option<PipeReader>,
    ports: Option<(Vec<Bound>, NodeNetwork)>,
    /// Whether the ports take new clients.
    open: bool,
    proxy: Option<Proxy>,
    state: State,
}

impl Life {
    async fn obey(&mut self, command: Command) -> Answer {
        let done = match command {
            Command::Start => self.start().await,
            Command::Kill(number) => self.kill(number),
            Command::Ports { open } => self.set_open(open),
            Command::Relocate { addresses } => self.relocate(&addresses),
            // Answered by the connection itself.
            Command::Wait | Command::Exec(_) => Ok(()),
        };
        match done {
            Ok(()) => Answer::Done(self.state.clone()),
            Err(error) => Answer::Refused(error.into()),
        }
    }

    async fn start(&mut self) -> Result<(), RuntimeError> {
        // A second start, of an agent that did not hear the answer to the first, is answered like the first.
        let Some(exec) = self.exec.take() else {
            return match &self.state {
                State::Failed(failure) => Err(failure.clone().into()),
                _ => Ok(()),
            };
        };
        let (ports, open) = (self.ports.take(), self.open);
        let serve = || ports.map(|(ports, node)| Proxy::serve(ports, node, open)).transpose();
        let serve = || serve().map_err(|e| failure::io("serving the ports", e));
        match self.exec(exec).await.and_then(|()| serve()) {
            Ok(proxy) => {
                self.state = State::Running { since: Timestamp::now() };
                self.proxy = proxy;
            }
            Err(error) => {
                self.state = State::Failed(Failure::from(error.clone()));
                // The first process ends by itself after a failed exec, but not if it never came to try.
                let _ = kill(self.init, Signal::SIGKILL);
                write_state(&self.state)?;
                return Err(error);
            }
        }
        write_state(&self.state)
    }

    /// Lets the first process become the program, and waits until it has.
    async fn exec(&mut self, exec: PipeReader) -> Result<(), RuntimeError> {
        self.container.start().map_err(|e| failure::other(format!("the container could not be started: {e}")))?;
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(exec)).map_err(|e| failure::io("reading a pipe", e))?;
        let mut said = Vec::new();
        pipe.take(64 * 1024).read_to_end(&mut said).await.map_err(|e| failure::io("reading a pipe", e))?;
        if said.is_empty() {
            return Ok(());
        }
        let said: Failure = serde_json::from_slice(&said).map_err(|e| failure::other(e.to_string()))?;
        Err(said.into())
    }

    fn set_open(&mut self, open: bool) -> Result<(), RuntimeError> {
        self.open = open;
        let done = match &mut self.proxy {
            None => Ok(()),
            Some(proxy) if open => proxy.open(),
            Some(proxy) => proxy.shut(),
        };
        done.map_err(|e| failure::io(if open { "opening the ports" } else { "shutting the ports" }, e))
    }

    fn relocate(&mut self, addresses: &BTreeMap<String, Ipv4Addr>) -> Result<(), RuntimeError> {
        self.proxy.as_mut().map_or(Ok(()), |proxy| proxy.relocate(addresses))
    }

    fn kill(&mut self, number: i32) -> Result<(), RuntimeError> {
        let signal = Signal::try_from(number).map_err(|e| failure::io(format!("signal {number}"), e))?;
        // Our own child that was not reaped yet: the pid cannot be another's.
        match kill(self.init, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(failure::io("sending a signal", error)),
        }
    }
}

/// The exit code of the container's first process; 128 and more for a signal.
fn reap(init: Pid) -> Option<i32> {
    match waitpid(init, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
        Ok(_) | Err(Errno::EINTR) => None,
        Err(error) => {
            tracing::error!(%error, "the container's first process was lost");
            Some(128 + Signal::SIGKILL as i32)
        }
    }
}

/// Copies one stream into the log; what cannot be written is dropped, so that a full disk never stops the container.
async fn copy(mut pipe: pipe::Receiver, mut splitter: Splitter, writer: Arc<Mutex<LogWriter>>) {
    let mut failing = false;
    let mut write = |lines: &[u8]| {
        let result = writer.lock().unwrap_or_else(PoisonError::into_inner).append(lines);
        match result {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "output of the container is lost");
            }
            Err(_) => {}
        }
    };
    let mut buffer = vec![0; READ_SIZE];
    let mut lines = Vec::new();
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => splitter.push(&buffer[..length], Timestamp::now(), &mut lines),
        }
        write(&lines);
        lines.clear();
    }
    splitter.finish(Timestamp::now(), &mut lines);
    write(&lines);
}

/// Takes connections until the container has ended and every answer was written.
async fn accept(listener: UnixListener, desk: Desk) {
    let mut peers = JoinSet::new();
    let mut end = desk.ended.subscribe();
    loop {
        tokio::select! {
            _ = end.wait_for(Option::is_some) => break,
            Some(_) = peers.join_next(), if !peers.is_empty() => {}
            accepted = listener.accept(), if peers.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    peers.spawn(converse(stream, desk.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the shim's socket failed");
                    break;
                }
            },
        }
    }
    while peers.join_next().await.is_some() {}
}

/// What peers need to have their commands obeyed.
#[derive(Clone)]
struct Desk {
    requests: mpsc::Sender<Request>,
    ended: watch::Sender<Option<State>>,
    commands: Arc<Commands>,
}

/// Reads one command and writes its answer. A peer that leaves or is silent costs nothing more.
async fn converse(stream: UnixStream, Desk { requests, ended, commands }: Desk) {
    let Ok(Ok((line, files))) = timeout(PEER_TIMEOUT, descriptors::receive(&stream, MAX_COMMAND)).await else { return };
    if line.is_empty() {
        return;
    }
    let mut ended = ended.subscribe();
    let (mut read, mut write) = stream.into_split();
    let answer = match serde_json::from_slice(&line) {
        Err(error) => Answer::Refused(failure::other(format!("not a command: {error}")).into()),
        Ok(Command::Wait) => {
            let mut rest = [0; 1];
            tokio::select! {
                ended = ended.wait_for(Option::is_some) => match ended.ok().and_then(|state| state.clone()) {
                    Some(state) => Answer::Done(state),
                    None => return,
                },
                // Nothing more is expected: the peer has left.
                _ = read.read(&mut rest) => return,
            }
        }
        Ok(command) => {
            let (answer, answered) = oneshot::channel();
            let exec = if let Command::Exec(exec) = &command { Some(exec.clone()) } else { None };
            if requests.send((command, answer)).await.is_err() {
                return;
            }
            let answer = tokio::select! {
                Ok(answer) = answered => answer,
                ended = ended.wait_for(Option::is_some) => match ended.ok().and_then(|state| state.clone()) {
                    Some(state) => Answer::Done(state),
                    None => return,
                },
            };
            match (exec, answer) {
                (Some(exec), Answer::Done(State::Running { .. })) => {
                    return commands.run(exec, files, read, write).await;
                }
                (Some(_), Answer::Done(_)) => Answer::Refused(failure::other("the container does not run").into()),
                (_, answer) => answer,
            }
        }
    };
    if let Ok(mut json) = serde_json::to_vec(&answer) {
        json.push(b'\n');
        let _ = timeout(PEER_TIMEOUT, write.write_all(&json)).await;
    }
}
