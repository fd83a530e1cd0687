//! Answers the server's requests for channels: commands in instances and connections to their ports, each on a connection of
//! its own, so that whoever reads slowly holds up nobody else.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use longshore_model::capability;
use longshore_model::limits;
use longshore_model::name::AppName;
use longshore_proto::v1;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use longshore_proto::v1::open_channel_request::Message as Said;
use longshore_proto::v1::open_channel_response::Message as Heard;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use v1::ChannelRefusalReason as Refusal;

use super::{Connector, connection};
use crate::runtime::{Command, Input, InstanceKey, Output, Resize, Running, Runtime, RuntimeError, WindowSize};

/// Commands at once: each costs a connection and a process of ours.
const MAX_COMMANDS: usize = 16;
/// Connections to ports at once: each costs one to the server and one to the instance. More than a server asks for at once,
/// since those that are over there end here a moment later.
const MAX_PORT_CONNECTIONS: usize = 96;
/// Messages on their way to the server.
const QUEUE: usize = 4;
/// Time for a connection to the server to stand: the session has one, so that it is there.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the server to hear how it ended.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(10);

/// What this node's own configuration lets people do inside its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Openness {
    /// Whether they may run commands.
    pub exec: bool,
    /// Whether they may connect to ports.
    pub port_forward: bool,
}

impl Default for Openness {
    /// Everything: who may deploy an app may run what they like inside one anyway.
    fn default() -> Self {
        Self { exec: true, port_forward: true }
    }
}

impl Openness {
    /// The words of [`longshore_model::capability`] for it.
    #[must_use]
    pub fn capabilities(self) -> Vec<&'static str> {
        let words = [(capability::APPS_EXEC, self.exec), (capability::APPS_PORT_FORWARD, self.port_forward)];
        words.into_iter().filter(|(_, may)| *may).map(|(word, _)| word).collect()
    }
}

/// The channels of one session; they end with it.
pub(super) struct Channels {
    connect: Connector,
    runtime: Arc<dyn Runtime>,
    openness: Openness,
    commands: JoinSet<()>,
    connections: JoinSet<()>,
}

impl Channels {
    pub(super) fn new(connect: Connector, runtime: Arc<dyn Runtime>, openness: Openness) -> Self {
        Self { connect, runtime, openness, commands: JoinSet::new(), connections: JoinSet::new() }
    }

    /// Begins what is asked for; a refusal is told on the channel too.
    pub(super) fn begin(&mut self, request: v1::ChannelRequest) {
        let (running, most, what, allowed, flag) = if request.port == 0 {
            (&mut self.commands, MAX_COMMANDS, "commands run on this node", self.openness.exec, "--forbid-exec")
        } else {
            let (allowed, flag) = (self.openness.port_forward, "--forbid-port-forward");
            (&mut self.connections, MAX_PORT_CONNECTIONS, "connections to this node's apps are open", allowed, flag)
        };
        while running.try_join_next().is_some() {}
        let refusal = if running.len() >= most {
            Some((Refusal::TooMany, format!("{most} {what} already, which is the limit")))
        } else if !allowed {
            Some((Refusal::Forbidden, format!("this node's agent was started with {flag}")))
        } else {
            None
        };
        let (connect, runtime) = (Arc::clone(&self.connect), Arc::clone(&self.runtime));
        running.spawn(async move {
            let app = request.app_name.clone();
            if let Err(why) = carry(connect, runtime, request, refusal).await {
                // Mostly a caller who has hung up.
                tracing::debug!(app, why, "a channel ended early");
            }
        });
    }
}

async fn carry(
    connect: Connector,
    runtime: Arc<dyn Runtime>,
    request: v1::ChannelRequest,
    refusal: Option<(Refusal, String)>,
) -> Result<(), String> {
    let channel = tokio::time::timeout(DIAL_TIMEOUT, connect()).await.map_err(|_| "the server does not answer")?;
    let mut client = AgentServiceClient::new(channel.map_err(|error| error.to_string())?);
    let (sender, outbox) = mpsc::channel(QUEUE);
    let say = Say(sender);
    say.message(Said::RequestId(request.request_id.clone())).await?;
    // Boxed: the compiler cannot see through the call's own type that it may move between threads.
    let call: BoxFuture<'_, _> = Box::pin(client.open_channel(ReceiverStream::new(outbox)));
    let mut inbound = call.await.map_err(|status| status.message().to_owned())?.into_inner();
    let done = match refusal {
        Some((reason, message)) => say.refused(reason, message).await,
        None => run(&say, runtime.as_ref(), request, &mut inbound).await,
    };
    // The server ends the call when it has heard all; the connection must not go before that.
    drop(say);
    let heard = async { while let Ok(Some(_)) = inbound.message().await {} };
    let _ = tokio::time::timeout(LAST_WORD_TIMEOUT, heard).await;
    done
}

/// Does what is asked for, until its end.
async fn run(
    say: &Say,
    runtime: &dyn Runtime,
    request: v1::ChannelRequest,
    inbound: &mut Streaming<v1::OpenChannelResponse>,
) -> Result<(), String> {
    let Ok(app) = AppName::parse(&request.app_name) else {
        return say.refused(Refusal::NotRunning, "there is no such app".to_owned()).await;
    };
    let instance = InstanceKey { app, index: request.instance };
    let (app, index, request_id) = (&instance.app, instance.index, &request.request_id);
    if request.port != 0 {
        tracing::info!(%app, index, request_id, port = request.port, "a port is connected to");
        return connection::run(say, runtime, &instance, request.port, inbound).await;
    }
    tracing::info!(%app, index, request_id, "a command is run");
    match runtime.exec(&instance, read(request.command.unwrap_or_default())).await {
        Ok(running) => say.command(running, inbound).await,
        Err(RuntimeError { message, .. }) => say.refused(Refusal::NotRunning, message).await,
    }
}

fn read(command: v1::ExecCommand) -> Command {
    let env = if command.window.is_some() { vec![("TERM".to_owned(), term(&command.term))] } else { Vec::new() };
    Command {
        args: command.command,
        env,
        stdin: command.stdin,
        terminal: command.window.as_ref().map(size),
        timeout: None,
    }
}

/// The kind of a terminal, which programs look up by this name.
fn term(given: &str) -> String {
    if given.is_empty() { "xterm".to_owned() } else { given.to_owned() }
}

fn size(window: &v1::WindowSize) -> WindowSize {
    let dimension = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    WindowSize { columns: dimension(window.columns), rows: dimension(window.rows) }
}

/// The way to whoever has asked.
#[derive(Clone)]
pub(super) struct Say(mpsc::Sender<v1::OpenChannelRequest>);

impl Say {
    pub(super) async fn message(&self, message: Said) -> Result<(), String> {
        let sent = self.0.send(v1::OpenChannelRequest { message: Some(message) }).await;
        sent.map_err(|_| "the server has hung up".to_owned())
    }

    pub(super) async fn refused(&self, reason: Refusal, message: String) -> Result<(), String> {
        self.message(Said::Refused(v1::ChannelRefusal { reason: reason.into(), message })).await
    }

    /// Over when the server has hung up.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Carries a command until its end or that of whoever has asked; it is killed when this is dropped.
    async fn command(&self, running: Running, inbound: &mut Streaming<v1::OpenChannelResponse>) -> Result<(), String> {
        self.message(Said::Begun(v1::ChannelBegun {})).await?;
        let Running { stdin, stdout, stderr, resize, end } = running;
        let whole = async {
            let out = self.pieces(stdout, Said::Stdout);
            let err = self.pieces(stderr, Said::Stderr);
            let ((), (), ended) = tokio::join!(out, err, end);
            ended
        };
        let ended = tokio::select! {
            ended = whole => ended,
            () = listen(inbound, stdin, resize) => return Err("the server has ended the call".to_owned()),
            // Also while the command takes no input, and nothing is listened to.
            () = self.closed() => return Err("the server has hung up".to_owned()),
        };
        match ended {
            Ok(code) => self.message(Said::ExitCode(code)).await,
            Err(error) => self.refused(Refusal::NotRunning, error.message).await,
        }
    }

    async fn pieces(&self, mut stream: Output, message: fn(Vec<u8>) -> Said) {
        let mut buffer = vec![0; limits::MAX_CHANNEL_PIECE];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            if self.message(message(buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    }
}

/// Hands on what comes from whoever has asked, until they hang up.
async fn listen(inbound: &mut Streaming<v1::OpenChannelResponse>, mut stdin: Option<Input>, resize: Option<Resize>) {
    while let Ok(Some(v1::OpenChannelResponse { message })) = inbound.message().await {
        match message {
            Some(Heard::Stdin(bytes)) => {
                if let Some(input) = &mut stdin
                    && (input.write_all(&bytes).await.is_err() || input.flush().await.is_err())
                {
                    // It reads no more, and may still write.
                    stdin = None;
                }
            }
            Some(Heard::StdinEnd(_)) => {
                if let Some(mut input) = stdin.take() {
                    let _ = input.shutdown().await;
                }
            }
            Some(Heard::Window(window)) => {
                if let Some(resize) = &resize {
                    resize(size(&window)).await;
                }
            }
            // Not for commands, or a kind of message that only newer agents know.
            Some(Heard::Data(_) | Heard::DataEnd(_)) | None => {}
        }
    }
}
