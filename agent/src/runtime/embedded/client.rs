//! The agent's side of a shim: starting one, talking to it, and ending it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use longshore_model::secret::Secret;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::layout::{LOCK, SHIM_LOG, SOCKET};
use super::state::{self, Answer, Command, State};
use super::{failure, lock, shim};
use crate::runtime::RuntimeError;

/// Longest path that a socket's address holds.
const MAX_SOCKET_PATH: usize = 100;
/// Longest answer, in bytes: a sentence, a command's name and a path.
pub(super) const MAX_ANSWER: u64 = 128 * 1024;
/// How long a shim may take to go after the container has, or after it was killed.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// First pause between two looks at a lock; doubled up to [`MAX_POLL`].
const MIN_POLL: Duration = Duration::from_millis(1);
/// Longest pause between two looks at a lock.
const MAX_POLL: Duration = Duration::from_millis(50);

/// How long shims are waited for before they count as dead, frozen or stuck. All of them are generous: a machine that
/// is out of memory takes seconds for what otherwise takes milliseconds, and what is given up is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For making a container: mounts, network and all processes but the program.
    pub make: Duration,
    /// For starting its program, which is read from the disk.
    pub start: Duration,
    /// For sending it a signal.
    pub signal: Duration,
    /// For opening and shutting its ports.
    pub ports: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let [make, start, signal, ports] = [60, 30, 10, 10].map(Duration::from_secs);
        Self { make, start, signal, ports }
    }
}

/// What came of a command to a shim.
#[derive(Debug)]
pub(super) enum Heard {
    /// Its answer.
    Answer(Answer),
    /// There is no shim, or it went away meanwhile.
    Gone,
    /// It is there, and says nothing.
    Silence,
}

/// Starts a shim and waits until it has made the container, or could not.
///
/// Variables from secrets go through a pipe, which leaves no trace on the disk.
pub(super) async fn spawn(
    program: &Path,
    container: &Path,
    secret_env: &[(String, Secret)],
    patience: Duration,
) -> Result<(), RuntimeError> {
    let mut command = tokio::process::Command::new(program);
    // People read it in lists of processes, where /proc/self/exe would say nothing.
    command.arg0("longshore-agent").arg(shim::COMMAND).arg(container).current_dir("/").env_clear();
    // Nothing of the agent's environment is for a container's eyes.
    if let Ok(filter) = std::env::var("LONGSHORE_LOG") {
        command.env("LONGSHORE_LOG", filter);
    }
    let stdin = if secret_env.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| failure::io("starting a shim", e))?;
    let output = child.stdout.take();
    if let Some(mut input) = child.stdin.take() {
        let packed = pack(secret_env)?;
        // A task of its own, for a shim that never reads; one that ended says so itself.
        tokio::spawn(async move {
            let _ = input.write_all(packed.as_bytes()).await;
        });
    }
    // The shim goes on without us; as long as we live it is ours to reap.
    let (give_up, given_up) = oneshot::channel::<()>();
    let reaper = tokio::spawn(async move {
        tokio::select! {
            _ = child.wait() => {}
            Ok(()) = given_up => {
                let _ = child.kill().await;
            }
        }
    });
    let Some(output) = output else { return Err(failure::other("the shim has no standard output")) };
    let mut line = String::new();
    let mut output = BufReader::new(output.take(MAX_ANSWER));
    let Ok(read) = timeout(patience, output.read_line(&mut line)).await else {
        let _ = give_up.send(());
        let _ = timeout(END_TIMEOUT, reaper).await;
        let message = format!("making the container was given up: its shim said nothing for {} s", patience.as_secs());
        return Err(failure::other(message));
    };
    let error = match read.map(|_| serde_json::from_str(&line)) {
        Ok(Ok(Answer::Done(_))) => return Ok(()),
        Ok(Ok(Answer::Refused(why))) => why.into(),
        _ => failure::other(format!("the shim ended early; see {}", container.join(SHIM_LOG).display())),
    };
    // It is about to end: whoever hears of the failure finds nothing of it left.
    let _ = timeout(END_TIMEOUT, reaper).await;
    Err(error)
}

fn pack(secret_env: &[(String, Secret)]) -> Result<Zeroizing<String>, RuntimeError> {
    let pairs: Vec<(&str, &str)> = secret_env.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    let packed = serde_json::to_string(&pairs).map_err(|e| failure::other(e.to_string()))?;
    Ok(Zeroizing::new(packed))
}

/// Reads in the shim what [`spawn`] sent. Blocks until it is whole.
pub(super) fn unpack(mut input: impl io::Read) -> io::Result<Vec<(String, String)>> {
    let mut packed = Zeroizing::new(String::new());
    input.read_to_string(&mut packed)?;
    // Not what the parser says, which may quote what stands there.
    serde_json::from_str(&packed).map_err(|_| io::Error::other("it is not whole"))
}

/// Sends a command and reads the answer, for at most `patience` where there is one.
pub(super) async fn ask(container: &Path, command: Command, patience: Option<Duration>) -> io::Result<Heard> {
    let asking = converse(container, command);
    match patience {
        Some(patience) => timeout(patience, asking).await.unwrap_or(Ok(Heard::Silence)),
        None => asking.await,
    }
}

async fn converse(container: &Path, command: Command) -> io::Result<Heard> {
    let stream = match connect(container).await {
        Ok(stream) => stream,
        // A reset: the shim ended between our connection and its acceptance.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(Heard::Gone);
        }
        Err(error) => return Err(error),
    };
    let (read, mut write) = stream.into_split();
    let mut json = serde_json::to_vec(&command)?;
    json.push(b'\n');
    if write.write_all(&json).await.is_err() {
        return Ok(Heard::Gone);
    }
    let mut line = String::new();
    let answered = BufReader::new(read.take(MAX_ANSWER)).read_line(&mut line).await;
    let answer = answered.ok().filter(|length| *length > 0).and_then(|_| serde_json::from_str(&line).ok());
    Ok(answer.map_or(Heard::Gone, Heard::Answer))
}

pub(super) async fn connect(container: &Path) -> io::Result<UnixStream> {
    let path = container.join(SOCKET);
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixStream::connect(path).await;
    }
    // An address is short, a path need not be: the way over the open directory always fits.
    let directory = File::open(container)?;
    UnixStream::connect(PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))).await
}

/// Whether a container's shim lives.
pub(super) fn is_alive(container: &Path) -> io::Result<bool> {
    lock::is_held(&container.join(LOCK))
}

/// Waits until a container's shim is gone; false if it is still there after [`END_TIMEOUT`].
pub(super) async fn await_end(container: &Path) -> io::Result<bool> {
    let deadline = Instant::now() + END_TIMEOUT;
    let mut pause = MIN_POLL;
    while is_alive(container)? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_POLL);
    }
    Ok(true)
}

/// The state after the end of a container whose shim has gone; `None` if the shim did not live to write it.
pub(super) fn last_state(container: &Path) -> Option<State> {
    state::read(container).filter(|state| matches!(state, State::Exited(_) | State::Failed(_)))
}
