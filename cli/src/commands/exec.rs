//! `longshore exec`

use std::io::{self, Read as _};

use longshore_proto::v1;
use longshore_tls::ConnectError;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic_types::StatusExt;
use v1::exec_app_request::Message as Asked;
use v1::exec_app_response::Message as Answered;

use super::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Bytes of standard input that are sent at once.
const PIECE: usize = 16 * 1024;
/// Messages that wait for the server.
const QUEUE: usize = 4;

/// Run a command inside an instance of an app.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Run a command inside an instance of an app, as whom and where its program runs. Needs the role operator; \
                  the command line is kept in the audit log, so no secret belongs into it. When this program ends, the \
                  command is killed.",
    after_help = "Exits with the command's own code: 126 when it cannot be executed, 127 when it is not there, 128 and more \
                  when a signal ended it. Where no command was run, with the codes of all other commands."
)]
pub(crate) struct Exec {
    /// The node.
    node: String,

    /// The app's name.
    app: String,

    /// The instance, counted from 0.
    #[arg(long, default_value_t = 0)]
    instance: u32,

    /// Hand on standard input.
    #[arg(short = 'i', long = "stdin")]
    stdin: bool,

    /// Give the command a terminal, this one; with -i, keys go to it as they are, Ctrl-C too.
    #[arg(short = 't', long = "tty")]
    terminal: bool,

    /// The command and its arguments, behind `--`; no shell reads them.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(exec: Exec, context: &mut Context<'_>) -> Result<Exit, Error> {
    let window = match (exec.terminal, window()) {
        (false, _) => None,
        (true, Ok(window)) => Some(window),
        (true, Err(_)) => return Err(Error::new("standard input is no terminal: leave -t out")),
    };
    let (sender, requests) = mpsc::channel(QUEUE);
    let command = v1::ExecCommand {
        command: exec.command,
        stdin: exec.stdin,
        window,
        term: std::env::var("TERM").unwrap_or_default(),
    };
    let start =
        v1::ExecStart { node_name: exec.node, app_name: exec.app, instance: exec.instance, command: Some(command) };
    let first = sender.send(v1::ExecAppRequest { message: Some(Asked::Start(start)) });
    first.await.map_err(|_| Error::new("the call cannot begin"))?;
    let answers = context.client.apps.exec_app(ReceiverStream::new(requests)).await;
    let mut answers = answers.map_err(|status| broken(Some(status)))?.into_inner();
    // Only now: until here Ctrl-C ends this program as ever.
    let _raw = if window.is_some() && exec.stdin { Some(Raw::enter()?) } else { None };
    let resized = window.map(|_| signal(SignalKind::window_change())).transpose();
    let resized = resized.map_err(|error| Error::io("cannot watch the window", error))?;
    let input = hand_on(exec.stdin.then(typed), resized, sender);
    let output = async {
        loop {
            match answers.message().await.map_err(|status| broken(Some(status)))?.and_then(|answer| answer.message) {
                Some(Answered::Started(_)) => {}
                Some(Answered::Stdout(bytes)) => context.output.raw(&bytes)?,
                Some(Answered::Stderr(bytes)) => context.output.raw_error(&bytes),
                Some(Answered::ExitCode(code)) => return Ok(Exit::Command(u8::try_from(code).unwrap_or(u8::MAX))),
                None => return Err(broken(None)),
            }
        }
    };
    // Side by side: a command may wait for its output to be read before it takes more input.
    tokio::select! {
        exit = output => exit,
        never = input => match never {},
    }
}

/// What it means that the answers do not go on. Each error of the server has a reason: what has none is a connection that
/// broke.
fn broken(status: Option<Status>) -> Error {
    let is_told =
        |status: &Status| status.get_details_error_info().is_some() || ConnectError::in_chain(status).is_some();
    match status.filter(is_told) {
        Some(status) => status.into(),
        None => {
            let message = "the connection to the server broke; the command is killed".to_owned();
            Error::Plain { message, exit: Exit::Unreachable }
        }
    }
}

/// Hands on what is typed and how large the window is, as fast as the command takes it.
async fn hand_on(
    mut input: Option<mpsc::Receiver<Vec<u8>>>,
    mut resized: Option<Signal>,
    sender: mpsc::Sender<v1::ExecAppRequest>,
) -> std::convert::Infallible {
    loop {
        let message = tokio::select! {
            piece = next(&mut input) => match piece {
                Some(piece) => Asked::Stdin(piece),
                None => {
                    input = None;
                    Asked::StdinEnd(v1::StdinEnd {})
                }
            },
            () = changed(&mut resized) => match window() {
                Ok(window) => Asked::Window(window),
                Err(_) => continue,
            },
        };
        // A call that is over says so by its answers.
        let _ = sender.send(v1::ExecAppRequest { message: Some(message) }).await;
    }
}

/// Standard input, read by a thread of its own, which ends with the program: a terminal has no end of its own.
fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (sender, pieces) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        while let Ok(length @ 1..) = io::stdin().lock().read(&mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    pieces
}

async fn next(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

async fn changed(resized: &mut Option<Signal>) {
    match resized {
        Some(resized) => {
            resized.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The size of the window that this program is shown in.
fn window() -> io::Result<v1::WindowSize> {
    let size = tcgetwinsize(io::stdin())?;
    Ok(v1::WindowSize { columns: size.ws_col.into(), rows: size.ws_row.into() })
}

/// A terminal that hands on keys as they are, until this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Result<Self, Error> {
        let fail = |error: rustix::io::Errno| Error::io("cannot set up the terminal", error.into());
        let before = tcgetattr(io::stdin()).map_err(fail)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw).map_err(fail)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing is left to be done where the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}
