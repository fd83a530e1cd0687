//! Commands beside the program of a container, as the agent sees them: its shim starts them, and kills them when the agent
//! hangs up.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::failure::FailureReason;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::client::{self, MAX_ANSWER};
use super::launch::Label;
use super::state::{self, Answer, Exec};
use super::terminal::Terminal;
use super::{descriptors, failure};
use crate::runtime::{Command, Running, RuntimeError};

/// Our ends of a command's streams, and theirs, which go to the shim.
struct Streams {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    /// Brings the terminal, once there is one.
    console: Option<std::os::unix::net::UnixStream>,
    theirs: Vec<OwnedFd>,
}

impl Streams {
    fn open(command: &Command) -> io::Result<Self> {
        if command.terminal.is_some() {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            let theirs = vec![OwnedFd::from(theirs)];
            return Ok(Self { stdin: None, stdout: None, stderr: None, console: Some(ours), theirs });
        }
        let (stdin, to_stdin) = io::pipe()?;
        let (from_stdout, stdout) = io::pipe()?;
        let (from_stderr, stderr) = io::pipe()?;
        let receiver = |pipe: io::PipeReader| pipe::Receiver::from_owned_fd(pipe.into());
        Ok(Self {
            // One that nobody writes to is at its end.
            stdin: command.stdin.then(|| pipe::Sender::from_owned_fd(to_stdin.into())).transpose()?,
            stdout: Some(receiver(from_stdout)?),
            stderr: Some(receiver(from_stderr)?),
            console: None,
            theirs: vec![stdin.into(), stdout.into(), stderr.into()],
        })
    }
}

/// As [`crate::runtime::Runtime::exec`]; the shim gets `patience` to start it.
pub(super) async fn exec(container: &Path, command: Command, patience: Duration) -> Result<Running, RuntimeError> {
    let label = Label::read(container).map_err(|e| failure::io("reading the launch description", e))?;
    if !label.runs_commands {
        let message = "this instance was started by an older agent, which cannot run commands in it; after its next start \
                       it can";
        return Err(failure::because(FailureReason::Unsupported, message));
    }
    let Streams { stdin, stdout, stderr, console, theirs } =
        Streams::open(&command).map_err(|e| failure::io("opening the command's streams", e))?;
    let stream = match timeout(patience, begin(container, &command, &theirs)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.reason == FailureReason::CommandNotFound => return Ok(Running::never(&error.message)),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(failure::other("the container's shim does not start the command")),
    };
    // Ours would keep the streams open behind the command's end.
    drop(theirs);
    let end = Box::pin(end(stream));
    let Some(console) = console else {
        let empty = || Box::pin(tokio::io::empty());
        return Ok(Running {
            stdin: stdin.map(|stdin| Box::pin(stdin) as _),
            stdout: stdout.map_or_else(|| empty() as _, |stdout| Box::pin(stdout) as _),
            stderr: stderr.map_or_else(|| empty() as _, |stderr| Box::pin(stderr) as _),
            resize: None,
            end,
        });
    };
    let terminal = receive_terminal(&console).map_err(|e| failure::io("taking the command's terminal", e))?;
    let resized = terminal.clone();
    Ok(Running {
        stdin: command.stdin.then(|| Box::pin(terminal.clone()) as _),
        stdout: Box::pin(terminal),
        stderr: Box::pin(tokio::io::empty()),
        resize: Some(Arc::new(move |size| {
            let terminal = resized.clone();
            Box::pin(async move { terminal.resize(size) })
        })),
        end,
    })
}

/// Lets the shim start the command, and waits until it runs.
async fn begin(container: &Path, command: &Command, files: &[OwnedFd]) -> Result<BufReader<UnixStream>, RuntimeError> {
    let gone = || failure::other("the container's shim is gone");
    let mut stream = client::connect(container).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => gone(),
        _ => failure::io("talking to a shim", error),
    })?;
    let exec = state::Command::Exec(Exec {
        args: command.args.clone(),
        env: command.env.clone(),
        terminal: command.terminal.map(|size| (size.columns, size.rows)),
        timeout_ms: command.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
    });
    let mut line = serde_json::to_vec(&exec).map_err(|e| failure::other(e.to_string()))?;
    line.push(b'\n');
    let files: Vec<BorrowedFd<'_>> = files.iter().map(OwnedFd::as_fd).collect();
    descriptors::send(&mut stream, &line, &files).await.map_err(|_| gone())?;
    let mut stream = BufReader::new(stream);
    match answer(&mut stream).await {
        Some(Answer::Begun) => Ok(stream),
        Some(Answer::Refused(why)) => Err(why.into()),
        Some(Answer::Ended(_) | Answer::Done(_)) => Err(failure::other("the container has just ended")),
        None => Err(gone()),
    }
}

/// How the command ends. The stream is its life: the shim kills it when nobody listens any more.
async fn end(mut stream: BufReader<UnixStream>) -> Result<i32, RuntimeError> {
    match answer(&mut stream).await {
        Some(Answer::Ended(code)) => Ok(code),
        Some(Answer::Refused(why)) => Err(why.into()),
        _ => Err(failure::other("the container's shim went away before the command ended")),
    }
}

async fn answer(stream: &mut BufReader<UnixStream>) -> Option<Answer> {
    let mut line = String::new();
    stream.take(MAX_ANSWER).read_line(&mut line).await.ok().filter(|length| *length > 0)?;
    serde_json::from_str(&line).ok()
}

/// What the command's own side has sent before it became the command.
fn receive_terminal(console: &std::os::unix::net::UnixStream) -> io::Result<Terminal> {
    console.set_nonblocking(true)?;
    let mut files = Vec::new();
    descriptors::receive_some(console, &mut [0; 1], &mut files)?;
    let master = files.pop().ok_or_else(|| io::Error::other("there is none"))?;
    Terminal::new(File::from(master))
}
