//! Commands that people run inside instances: a caller's stream and an agent's, joined.

use longshore_model::limits;
use longshore_model::name::{AppName, NodeName};
use longshore_model::validate::{Path, Violations};
use longshore_proto::convert::FromWire;
use longshore_proto::v1;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use v1::exec_app_request::Message as Asked;
use v1::exec_app_response::Message as Answered;

use super::channel::{self, Inbound, Place};
use super::record::{self, Sequel};
use super::{Context, status};
use crate::session::channels::{Channel, FromAgent, Purpose, ToAgent};

/// What a caller is answered.
pub(super) type ExecStream = ReceiverStream<Result<v1::ExecAppResponse, Status>>;

/// Full name of the call.
const METHOD: &str = "longshore.v1.AppService/ExecApp";
/// Answers that wait for the caller.
const QUEUE: usize = 4;

/// Bytes of the name of a kind of terminals, such as xterm-256color.
const MAX_TERM: usize = 64;

/// What is to be run where.
struct Order {
    place: Place,
    command: v1::ExecCommand,
}

impl Order {
    fn read(start: v1::ExecStart) -> Result<Self, Status> {
        let mut bad = Violations::default();
        let path = Path::Root.field("start");
        let node = NodeName::from_wire(start.node_name, path.field("node_name"), &mut bad);
        let app = AppName::from_wire(start.app_name, path.field("app_name"), &mut bad);
        let command = start.command.unwrap_or_default();
        check(&command, path.field("command"), &mut bad);
        match node.zip(app) {
            Some((node, app)) if bad.0.is_empty() => {
                Ok(Self { place: Place { node, app, instance: start.instance }, command })
            }
            _ => Err(status::invalid(bad)),
        }
    }

    /// What the audit log calls it, with all its words.
    fn target(&self) -> String {
        let words = serde_json::to_string(&self.command.command).unwrap_or_default();
        format!("{} {words}", self.place.target())
    }
}

fn check(command: &v1::ExecCommand, path: Path<'_>, bad: &mut Violations) {
    let words = path.field("command");
    if command.command.first().is_none_or(String::is_empty) {
        bad.add(words, "is needed: a program and its arguments");
    }
    let bytes: usize = command.command.iter().map(|word| word.len() + 1).sum();
    if bytes > limits::MAX_EXEC_COMMAND {
        let limit = limits::MAX_EXEC_COMMAND;
        bad.add(
            words,
            format!("is {bytes} bytes long; at most {limit} are allowed, since the audit log has all of it"),
        );
    }
    if command.command.iter().any(|word| word.contains('\0')) {
        bad.add(words, "may have no zero bytes");
    }
    let is_kind = |text: &str| text.len() <= MAX_TERM && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_kind(&command.term) {
        bad.add(path.field("term"), "is no kind of a terminal such as xterm-256color");
    }
}

/// Begins a command, and goes on with it behind the answer.
pub(super) async fn begin(
    context: &Context,
    request: Request<Streaming<v1::ExecAppRequest>>,
) -> Result<Response<ExecStream>, Status> {
    let sequel = Sequel::of(&request, METHOD);
    let mut inbound = Inbound::of(request);
    let Some(v1::ExecAppRequest { message: Some(Asked::Start(start)) }) = inbound.first().await? else {
        return Err(status::invalid(Violations::one("start", "is needed: the first message says what to run where")));
    };
    let order = Order::read(start)?;
    record::about_command(order.target());
    let ask = v1::ChannelRequest { command: Some(order.command.clone()), ..Default::default() };
    let channel = channel::open(context, &order.place, Purpose::Command, ask).await?;
    let (answers, stream) = mpsc::channel(QUEUE);
    let store = std::sync::Arc::clone(&context.store);
    context.live.channels.track(async move {
        let target = order.target();
        let end = relay(channel, inbound, &answers, &order.place.node).await;
        let (code, reason, words) = match &end {
            End::Exit(exit) => (Code::Ok, "", format!("{target} ended with exit code {exit}")),
            End::Failed(status, reason) => (status.code(), *reason, format!("{target} was ended")),
            End::CallerGone => (Code::Cancelled, "CALLER_GONE", format!("{target} was ended")),
        };
        // Before the caller is told: whoever knows the end finds it in the log.
        sequel.write(store.as_ref(), words, code, reason).await;
        let last = match end {
            End::Exit(code) => Ok(v1::ExecAppResponse { message: Some(Answered::ExitCode(code)) }),
            End::Failed(status, _) => Err(*status),
            End::CallerGone => return,
        };
        // It is recorded; a caller who takes nothing holds nothing up.
        tokio::spawn(async move { answers.send(last).await });
    });
    Ok(Response::new(ReceiverStream::new(stream)))
}

/// How it ends.
enum End {
    /// With this exit code.
    Exit(i32),
    /// With this error, and its reason.
    Failed(Box<Status>, &'static str),
    /// The caller has hung up.
    CallerGone,
}

/// Passes everything on in both directions, until the end.
async fn relay(
    mut channel: Channel,
    inbound: Inbound<v1::ExecAppRequest>,
    answers: &mpsc::Sender<Result<v1::ExecAppResponse, Status>>,
    node: &NodeName,
) -> End {
    let said = Notify::new();
    let (to_agent, given_up) = (channel.to_agent(), channel.given_up());
    let broken = || End::Failed(Box::new(channel::broken_off(node)), "CHANNEL_BROKEN_OFF");
    let begun = answers.send(Ok(v1::ExecAppResponse { message: Some(Answered::Started(v1::ExecStarted {})) })).await;
    if begun.is_err() {
        return End::CallerGone;
    }
    let down = async {
        loop {
            let message = match channel.next().await {
                Ok(Some(FromAgent::Stdout(bytes))) => Answered::Stdout(bytes),
                Ok(Some(FromAgent::Stderr(bytes))) => Answered::Stderr(bytes),
                Ok(Some(FromAgent::ExitCode(code))) => return End::Exit(code),
                Ok(Some(FromAgent::RequestId(_) | FromAgent::Begun(_))) => continue,
                // It was lost sight of, or what comes is of connections.
                Ok(_) | Err(_) => return broken(),
            };
            said.notify_one();
            if answers.send(Ok(v1::ExecAppResponse { message: Some(message) })).await.is_err() {
                return End::CallerGone;
            }
        }
    };
    tokio::select! {
        end = down => end,
        // Also while the caller takes no answers.
        () = given_up.cancelled() => broken(),
        () = up(inbound, &to_agent, &said) => End::CallerGone,
        () = answers.closed() => End::CallerGone,
        status = channel::idle(&said) => End::Failed(Box::new(status), "CHANNEL_IDLE"),
    }
}

/// Passes on what the caller says; returns when its stream breaks, and not when it only has no more to say.
async fn up(mut inbound: Inbound<v1::ExecAppRequest>, to_agent: &mpsc::Sender<ToAgent>, said: &Notify) {
    loop {
        let message = match inbound.next().await {
            Ok(Some(v1::ExecAppRequest { message })) => message,
            // It has said all, and listens: so has standard input ended.
            Ok(None) => {
                let _ = to_agent.send(ToAgent::StdinEnd(v1::StdinEnd {})).await;
                return std::future::pending().await;
            }
            Err(_) => return,
        };
        let mut length = 0;
        let message = match message {
            Some(Asked::Stdin(bytes)) => {
                length = bytes.len();
                ToAgent::Stdin(bytes)
            }
            Some(Asked::StdinEnd(end)) => ToAgent::StdinEnd(end),
            Some(Asked::Window(window)) => ToAgent::Window(window),
            // A second start, or a kind of message that only newer callers know.
            Some(Asked::Start(_)) | None => continue,
        };
        said.notify_one();
        if to_agent.send(message).await.is_err() {
            // The agent has gone, which the other direction tells.
            return std::future::pending().await;
        }
        inbound.passed_on(length);
    }
}
