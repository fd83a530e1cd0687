//! Commands in fake containers: a few of those that the demo image's program knows, played.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, DuplexStream, ReadHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::runtime::{Command, Resize, Running, RuntimeError};

/// Bytes that wait in each stream.
const BUFFER: usize = 16 * 1024;
/// Exit code of a command whose container has ended.
const KILLED: i32 = 137;

/// A connection to a program that sends back what comes, until both have said all.
pub(super) async fn echo() -> io::Result<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let (ours, theirs) = tokio::try_join!(TcpStream::connect(address), listener.accept())?;
    tokio::spawn(async move {
        let (mut read, mut write) = theirs.0.into_split();
        // A peer that breaks off ends it.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    Ok(ours)
}

/// Starts a command; `container_ends` is over when its container has ended.
pub(super) fn start(command: &Command, container_ends: impl Future<Output = ()> + Send + 'static) -> Running {
    let words: Vec<&str> = command.args.iter().map(String::as_str).collect();
    let Some(program) = Program::of(&words) else {
        let name = words.first().copied().unwrap_or_default();
        return Running::never(&format!("the command {name:?} cannot be executed: it is not in the fake image"));
    };
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let (their_input, _) = tokio::io::split(theirs);
    let (_, our_input) = tokio::io::split(ours);
    let ((stdout, to_stdout), (stderr, to_stderr)) = (tokio::io::duplex(BUFFER), tokio::io::duplex(BUFFER));
    let limit = command.timeout.unwrap_or(Duration::MAX);
    let has_input = command.stdin;
    let life = AbortOnDropHandle::new(tokio::spawn(async move {
        let input = has_input.then_some(their_input);
        tokio::select! {
            code = program.run(input, to_stdout, to_stderr) => code,
            () = container_ends => KILLED,
            () = tokio::time::sleep(limit) => KILLED,
        }
    }));
    let lost = |_| RuntimeError {
        reason: longshore_model::failure::FailureReason::RuntimeError,
        message: "the command was lost".to_owned(),
    };
    Running {
        stdin: command.stdin.then(|| Box::pin(our_input) as _),
        stdout: Box::pin(stdout),
        stderr: Box::pin(stderr),
        resize: command.terminal.map(|_| {
            let resize: Resize = Arc::new(|_| Box::pin(std::future::ready(())));
            resize
        }),
        end: Box::pin(async move { life.await.map_err(lost) }),
    }
}

/// What a command does.
enum Program {
    /// Copies its input.
    Cat,
    /// Ends.
    Exit(i32, Duration),
    /// Writes the lines so often, to both streams in turn.
    Print(u64, Vec<String>),
    /// Does nothing for so long.
    Sleep(Duration),
}

impl Program {
    fn of(words: &[&str]) -> Option<Self> {
        let milliseconds = |at: usize, default| {
            words.get(at).map_or(Some(default), |word| word.parse().ok().map(Duration::from_millis))
        };
        Some(match *words.get(..2)? {
            ["/app", "cat"] => Self::Cat,
            ["/app", "exit"] => Self::Exit(words.get(2)?.parse().ok()?, milliseconds(3, Duration::ZERO)?),
            ["/app", "print"] => {
                let lines = words.get(3..)?.iter().map(|&line| line.to_owned()).collect();
                Self::Print(words.get(2)?.parse().ok()?, lines)
            }
            ["/app", "sleep"] => Self::Sleep(milliseconds(2, Duration::MAX)?),
            _ => return None,
        })
    }

    async fn run(self, input: Option<ReadHalf<DuplexStream>>, mut out: DuplexStream, mut err: DuplexStream) -> i32 {
        match self {
            Self::Cat => {
                if let Some(mut input) = input {
                    let _ = tokio::io::copy(&mut input, &mut out).await;
                }
                0
            }
            Self::Exit(code, after) => {
                tokio::time::sleep(after).await;
                code
            }
            Self::Print(count, lines) => {
                for (number, line) in (0..count).flat_map(|_| &lines).enumerate() {
                    let stream = if number % 2 == 0 { &mut out } else { &mut err };
                    if stream.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                        return 1;
                    }
                }
                0
            }
            Self::Sleep(time) => {
                tokio::time::sleep(time).await;
                0
            }
        }
    }
}
