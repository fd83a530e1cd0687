//! Commands that people run inside instances: a caller's stream and an agent's, joined.

use std::time::Duration;

use longshore_model::capability;
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

use super::record::{self, Sequel};
use super::{Context, status};
use crate::session::channels::{Channel, DeskError, FromAgent, ToAgent};

/// What a caller is answered.
pub(super) type ExecStream = ReceiverStream<Result<v1::ExecAppResponse, Status>>;

/// Full name of the call.
const METHOD: &str = "longshore.v1.AppService/ExecApp";
/// Time for a caller's first message: it has it ready when it calls.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for an agent to come, and to start the command: a connection, and a process on a slow machine.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long nothing may be said in either direction: a shell that somebody has forgotten.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Answers that wait for the caller.
const QUEUE: usize = 4;

/// What is to be run where.
struct Order {
    node: NodeName,
    app: AppName,
    instance: u32,
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
            Some((node, app)) if bad.0.is_empty() => Ok(Self { node, app, instance: start.instance, command }),
            _ => Err(status::invalid(bad)),
        }
    }

    /// What the audit log calls it, with all its words.
    fn target(&self) -> String {
        let Self { node, app, instance, command } = self;
        let words = serde_json::to_string(&command.command).unwrap_or_default();
        format!("nodes/{node}/apps/{app}/instances/{instance} {words}")
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
    let is_kind = |text: &str| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic());
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
    let mut inbound = request.into_inner();
    let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, inbound.message()).await;
    let Ok(first) = first else {
        return Err(status::plain(Code::DeadlineExceeded, "NO_FIRST_MESSAGE", "nothing came on the stream"));
    };
    let Some(v1::ExecAppRequest { message: Some(Asked::Start(start)) }) = first.map_err(status::of_stream)? else {
        return Err(status::invalid(Violations::one("start", "is needed: the first message says what to run where")));
    };
    let order = Order::read(start)?;
    record::about_command(order.target());
    let channel = open(context, &order).await?;
    let (answers, stream) = mpsc::channel(QUEUE);
    let store = std::sync::Arc::clone(&context.store);
    context.live.channels.track(async move {
        let target = order.target();
        let end = relay(channel, inbound, &answers, &order.node).await;
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

/// Finds the node, and waits until its agent has started the command.
async fn open(context: &Context, order: &Order) -> Result<Channel, Status> {
    let Order { node, app, instance, command } = order;
    let known = context.store.node(node).await.map_err(status::store)?;
    context.store.app(node, app).await.map_err(status::store)?;
    let live = &context.live;
    let mut channel = live.channels.wait(node, context.ids.text()).map_err(|error| refused(error, node))?;
    let may =
        known.info.as_ref().is_some_and(|info| info.capabilities.iter().any(|word| word == capability::APPS_EXEC));
    if !may && live.fleet.connected(node) {
        let message = format!(
            "the node {node} does not let commands be run in its apps: its agent was started with --forbid-exec, or is too \
             old to know how"
        );
        return Err(status::precondition("EXEC_FORBIDDEN", node.as_str(), &message));
    }
    let ask = v1::ChannelRequest {
        request_id: channel.request_id().to_owned(),
        app_name: app.to_string(),
        instance: *instance,
        command: Some(command.clone()),
    };
    live.fleet.ask_for_channel(node, ask).map_err(|error| status::fleet(error, node))?;
    let Ok(begun) = tokio::time::timeout(AGENT_TIMEOUT, channel.next()).await else {
        let message = format!("the agent of node {node} did not answer within {} s", AGENT_TIMEOUT.as_secs());
        return Err(status::later(Code::Unavailable, "NODE_NOT_ANSWERING", message));
    };
    match begun.map_err(|error| refused(error, node))? {
        Some(FromAgent::Begun(_)) => Ok(channel),
        Some(FromAgent::Refused(refusal)) => Err(refusal_of(&refusal, order)),
        _ => Err(refused(DeskError::BrokenOff, node)),
    }
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
    inbound: Streaming<v1::ExecAppRequest>,
    answers: &mpsc::Sender<Result<v1::ExecAppResponse, Status>>,
    node: &NodeName,
) -> End {
    let said = Notify::new();
    let (to_agent, given_up) = (channel.to_agent(), channel.given_up());
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
                Ok(Some(FromAgent::Refused(_)) | None) | Err(_) => {
                    let broken = refused(DeskError::BrokenOff, node);
                    return End::Failed(Box::new(broken), "CHANNEL_BROKEN_OFF");
                }
            };
            said.notify_one();
            if answers.send(Ok(v1::ExecAppResponse { message: Some(message) })).await.is_err() {
                return End::CallerGone;
            }
        }
    };
    let idle = async {
        while tokio::time::timeout(IDLE_TIMEOUT, said.notified()).await.is_ok() {}
        let message = format!("nothing was said for {} s", IDLE_TIMEOUT.as_secs());
        End::Failed(Box::new(status::plain(Code::Aborted, "CHANNEL_IDLE", message)), "CHANNEL_IDLE")
    };
    tokio::select! {
        end = down => end,
        // Also while the caller takes no answers.
        () = given_up.cancelled() => End::Failed(Box::new(refused(DeskError::BrokenOff, node)), "CHANNEL_BROKEN_OFF"),
        () = up(inbound, &to_agent, &said) => End::CallerGone,
        () = answers.closed() => End::CallerGone,
        end = idle => end,
    }
}

/// Passes on what the caller says; returns when its stream breaks, and not when it only has no more to say.
async fn up(mut inbound: Streaming<v1::ExecAppRequest>, to_agent: &mpsc::Sender<ToAgent>, said: &Notify) {
    loop {
        let message = match inbound.message().await {
            Ok(Some(v1::ExecAppRequest { message })) => message,
            // It has said all, and listens: so has standard input ended.
            Ok(None) => {
                let _ = to_agent.send(ToAgent::StdinEnd(v1::StdinEnd {})).await;
                return std::future::pending().await;
            }
            Err(_) => return,
        };
        let message = match message {
            Some(Asked::Stdin(bytes)) => ToAgent::Stdin(bytes),
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
    }
}

/// What it means for a caller that there is no channel.
fn refused(error: DeskError, node: &NodeName) -> Status {
    let message = error.to_string();
    match error {
        DeskError::Full(_) | DeskError::NodeFull(_) => {
            status::later(Code::ResourceExhausted, "TOO_MANY_CHANNELS", message)
        }
        DeskError::Closed => status::later(Code::Unavailable, "SHUTTING_DOWN", message),
        DeskError::BrokenOff => {
            let message = format!("the channel to node {node} broke off");
            status::later(Code::Unavailable, "CHANNEL_BROKEN_OFF", message)
        }
    }
}

/// What an agent's refusal means for a caller.
fn refusal_of(refusal: &v1::ChannelRefusal, order: &Order) -> Status {
    let message = &refusal.message;
    match refusal.reason() {
        v1::ChannelRefusalReason::Forbidden => status::precondition("EXEC_FORBIDDEN", order.node.as_str(), message),
        v1::ChannelRefusalReason::TooMany => {
            status::later(Code::ResourceExhausted, "TOO_MANY_CHANNELS", message.as_str())
        }
        v1::ChannelRefusalReason::NotRunning | v1::ChannelRefusalReason::Unspecified => {
            let subject = format!("{}-{}", order.app, order.instance);
            status::precondition("INSTANCE_NOT_RUNNING", &subject, message)
        }
    }
}
