//! Commands that run beside the program of an instance, and what is learnt of them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use longshore_model::health::Answer;
use longshore_model::probe::Exec;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::RuntimeError;
use crate::probe;

/// Bytes that are kept of what a probe's command has written: the last ones, where programs say what is wrong.
const MAX_TAIL: usize = 192;
/// Bytes read of a command's output at once.
const READ_SIZE: usize = 4096;

/// Exit code of a command that is not there, as shells have it.
pub(super) const NOT_FOUND: i32 = 127;

/// A command to run in an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments; at least one word, and no shell reads them.
    pub args: Vec<String>,
    /// Variables beside those of the instance's program, or instead of those of the same name.
    pub env: Vec<(String, String)>,
    /// Whether it has a standard input; one that has none reads an end of file.
    pub stdin: bool,
    /// The window that a terminal of its own has at first, which then takes the place of all three streams.
    pub terminal: Option<WindowSize>,
    /// When it is killed in any case, with all that it has started.
    pub timeout: Option<Duration>,
}

/// The size of a terminal's window, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Across.
    pub columns: u16,
    /// Down.
    pub rows: u16,
}

/// Where a command reads from; closed when it is dropped or shut down.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;
/// What a command writes to.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;
/// Tells a command's terminal the size of its window.
pub type Resize = Arc<dyn Fn(WindowSize) -> BoxFuture<'static, ()> + Send + Sync>;

/// A command that was started.
pub struct Running {
    /// Its standard input, or its terminal's; there if it was asked for.
    pub stdin: Option<Input>,
    /// Its standard output, or what its terminal shows. It has to be read, or the command waits.
    pub stdout: Output,
    /// Its standard error; empty with a terminal.
    pub stderr: Output,
    /// There if it has a terminal.
    pub resize: Option<Resize>,
    /// Its exit code, 128 and more for a signal; an error when the runtime loses sight of it. With its end all that it has
    /// started is killed; dropped before, it is killed too.
    pub end: BoxFuture<'static, Result<i32, RuntimeError>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("terminal", &self.resize.is_some()).finish_non_exhaustive()
    }
}

impl Running {
    /// One that ended before it began, because it cannot be executed.
    pub(super) fn never(why: &str) -> Self {
        Self {
            stdin: None,
            stdout: Box::pin(tokio::io::empty()),
            stderr: Box::pin(std::io::Cursor::new(format!("{why}\n").into_bytes())),
            resize: None,
            end: Box::pin(std::future::ready(Ok(NOT_FOUND))),
        }
    }

    /// Its exit code, and the last of what it wrote to both streams, as far as that is text.
    async fn conclude(self) -> Result<(i32, String), RuntimeError> {
        let Self { stdin, stdout, stderr, end, .. } = self;
        drop(stdin);
        let mut tail = Vec::new();
        let ended = {
            let tail = std::sync::Mutex::new(&mut tail);
            let keep = |bytes: &[u8]| {
                let mut tail = tail.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                tail.extend_from_slice(bytes);
                let beyond = tail.len().saturating_sub(MAX_TAIL);
                tail.drain(..beyond);
            };
            let (_, _, ended) = tokio::join!(read(stdout, &keep), read(stderr, &keep), end);
            ended?
        };
        Ok((ended, String::from_utf8_lossy(&tail).trim().to_owned()))
    }
}

/// Hands on everything until the end of a stream.
async fn read(mut stream: Output, keep: &(dyn Fn(&[u8]) + Send + Sync)) {
    let mut buffer = [0; READ_SIZE];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        keep(&buffer[..length]);
    }
}

/// Puts the question of a probe's command, whose start is `begin`.
pub(super) async fn probe(
    exec: &Exec,
    timeout: Duration,
    begin: impl AsyncFnOnce(Command) -> Result<Running, RuntimeError>,
) -> Result<Answer, RuntimeError> {
    let command =
        Command { args: exec.command.clone(), env: Vec::new(), stdin: false, terminal: None, timeout: Some(timeout) };
    let asked = async { begin(command).await?.conclude().await };
    let Ok(concluded) = tokio::time::timeout(timeout, asked).await else { return Ok(probe::silence(timeout)) };
    let (code, tail) = concluded?;
    let said = if tail.is_empty() { String::new() } else { format!(": {tail}") };
    let message = format!("exit code {code}{said}");
    Ok(if code == 0 { Answer::passed(message) } else { Answer::failed(message) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn ending(code: i32, stdout: &str, stderr: &str) -> Running {
        let stream = |text: &str| Box::pin(std::io::Cursor::new(text.as_bytes().to_vec()));
        Running {
            stdin: None,
            stdout: stream(stdout),
            stderr: stream(stderr),
            resize: None,
            end: Box::pin(std::future::ready(Ok(code))),
        }
    }

    async fn asked(running: Running) -> Answer {
        let exec = Exec { command: vec!["/check".to_owned()] };
        probe(&exec, Duration::from_secs(30), async |_| Ok(running)).await.unwrap()
    }

    #[tokio::test]
    async fn the_exit_code_decides_and_the_last_words_are_kept() {
        assert_eq!(asked(ending(0, "", "")).await, Answer::passed("exit code 0"));
        assert_eq!(asked(ending(0, "well\n", "")).await, Answer::passed("exit code 0: well"));
        assert_eq!(asked(ending(1, "", "no\ndatabase\n")).await, Answer::failed("exit code 1: no\ndatabase"));
        let long = format!("{}the end", "x".repeat(100_000));
        let answer = asked(ending(3, &long, "")).await;
        assert!(!answer.passed && answer.message.ends_with("xthe end"), "{answer:?}");
        assert_eq!(answer.message.len(), "exit code 3: ".len() + MAX_TAIL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_does_not_end_in_time_has_failed() {
        let running = Running { end: Box::pin(std::future::pending()), ..ending(0, "", "") };
        assert_eq!(asked(running).await, Answer::failed("no answer within 30s"));
    }
}
