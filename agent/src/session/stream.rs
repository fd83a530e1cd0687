//! One session, from Hello to its end.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::limits;
use longshore_model::node::NodeInfo;
use longshore_proto::convert::{self, FromWire};
use longshore_proto::v1;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use longshore_proto::v1::open_session_request::Message as Request;
use longshore_proto::v1::open_session_response::Message as Response;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::channels::Channels;
use super::checks::Checks;
use super::inbound::{self, Revision};
use super::logs::Uploads;
use super::{End, Link};
use crate::reporter::{Report, Reporter};
use crate::supervisor::Supervisor;
use crate::usage::Newest;
use crate::{capability, node};

/// Protocol version that this agent speaks.
const PROTOCOL: u32 = 1;
/// Requests between us and HTTP/2: what is not there yet stays with the reporter, where newer replaces older.
const OUTBOX: usize = 4;
/// Time for the server to answer Hello with Welcome.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of one message: the largest full set, and what it is wrapped in.
const MAX_MESSAGE: usize = limits::MAX_FULL_SET + 1024;
/// Unacknowledged reports when the server does not say.
const DEFAULT_UNACKNOWLEDGED: u32 = 16;

/// Opens a session and keeps it until it ends. `welcomed` tells whether the server took it.
pub(super) async fn converse(link: &Link, supervisor: &mut Supervisor, welcomed: &mut bool) -> End {
    match open(link).await {
        Ok(opened) => {
            *welcomed = true;
            match opened.run(link, supervisor).await {
                Err(end) => end,
                Ok(never) => match never {},
            }
        }
        Err(end) => end,
    }
}

struct Session {
    requests: mpsc::Sender<v1::OpenSessionRequest>,
    responses: Streaming<v1::OpenSessionResponse>,
    revision: Revision,
    max_unacknowledged: usize,
    /// What is measured from here on, where the server takes it.
    usage: Option<Newest>,
    uploads: Uploads,
    channels: Channels,
    checks: Checks,
}

async fn open(link: &Link) -> Result<Session, End> {
    let channel = (link.connect)().await?;
    tokio::time::timeout(OPEN_TIMEOUT, greet(link, channel)).await.unwrap_or(Err(End::Silent))
}

async fn greet(link: &Link, channel: Channel) -> Result<Session, End> {
    let hello = v1::Hello { min_protocol: PROTOCOL, max_protocol: PROTOCOL, info: Some((&facts(link).await?).into()) };
    let (requests, outbox) = mpsc::channel(OUTBOX);
    let first = v1::OpenSessionRequest { message: Some(Request::Hello(hello)) };
    requests.send(first).await.map_err(|_| End::Closed)?;
    let mut client = AgentServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let mut responses = client.open_session(ReceiverStream::new(outbox)).await.map_err(Box::new)?.into_inner();
    let Some(Response::Welcome(welcome)) = receive(&mut responses).await? else {
        return Err(End::Protocol("the first message was no Welcome"));
    };
    if welcome.protocol != PROTOCOL {
        return Err(End::Protocol("it chose a protocol version that was not offered"));
    }
    // What is live is measured at once, and that is to be seen.
    let mut usage = link.usage.clone();
    usage.mark_unchanged();
    link.context.reporter.begin_session();
    link.live.send_replace(Some(channel));
    tracing::info!(session = welcome.session_id, "session open");
    let max_unacknowledged = match welcome.max_unacknowledged_reports {
        0 => DEFAULT_UNACKNOWLEDGED,
        told => told,
    };
    Ok(Session {
        requests,
        responses,
        revision: Revision::default(),
        max_unacknowledged: max_unacknowledged as usize,
        usage: welcome.takes_usage.then_some(usage),
        uploads: Uploads::new(link),
        channels: Channels::new(Arc::clone(&link.connect), Arc::clone(&link.context.runtime), link.openness),
        checks: Checks::new(link),
    })
}

async fn facts(link: &Link) -> Result<NodeInfo, End> {
    let (find, context) = (Arc::clone(&link.host_ip), Arc::clone(&link.context));
    let openness = link.openness.capabilities();
    let gather = move || {
        let mut words = capability::all(&*context.runtime);
        words.extend(openness.into_iter().map(str::to_owned));
        let info = node::info(context.runtime.name(), words, find())?;
        Ok(NodeInfo {
            allocatable: Some(context.capacity.capacity()),
            host_paths: Some(context.host_paths.rules()),
            accelerators: context.accelerators.look(),
            ..info
        })
    };
    let gathered = tokio::task::spawn_blocking(gather).await;
    let info = gathered.map_err(std::io::Error::from).and_then(|info| info).map_err(End::Facts)?;
    if info.host_ip.is_some() {
        link.context.host_ip.send_replace(info.host_ip);
    }
    Ok(info)
}

async fn receive(responses: &mut Streaming<v1::OpenSessionResponse>) -> Result<Option<Response>, End> {
    match responses.message().await.map_err(Box::new)? {
        Some(response) => Ok(response.message),
        None => Err(End::Closed),
    }
}

impl Session {
    async fn run(mut self, link: &Link, supervisor: &mut Supervisor) -> Result<std::convert::Infallible, End> {
        loop {
            tokio::select! {
                response = receive(&mut self.responses) => match response? {
                    Some(response) => self.take(response, link, supervisor).await?,
                    // A kind of message that only newer agents know.
                    None => tracing::debug!("a message of an unknown kind was passed over"),
                },
                sent = send_next(&self.requests, &link.context.reporter, self.max_unacknowledged) => sent?,
                sent = send_usage(&self.requests, &mut self.usage) => sent?,
            }
        }
    }

    async fn take(&mut self, response: Response, link: &Link, supervisor: &mut Supervisor) -> Result<(), End> {
        match response {
            Response::Welcome(_) => return Err(End::Protocol("a second Welcome came")),
            Response::Full(full) => {
                self.revision.full(full.revision)?;
                let mut read = inbound::assignments(full.assignments);
                tracing::info!(apps = read.good.len(), "the full set of assignments is here");
                read.refusals.into_iter().for_each(|report| link.context.reporter.task(report));
                if full.keep_others {
                    let kept = supervisor.keep(&mut read.good);
                    tracing::warn!(?kept, "the server was restored from a backup: what it may not know stays as it is");
                    link.context.reporter.say_again(&kept);
                    read.unreadable.extend(kept);
                }
                supervisor.replace(read.good, &read.unreadable).await;
            }
            Response::Update(update) => {
                self.revision.update(update.revision)?;
                let read = inbound::assignments(update.set);
                read.refusals.into_iter().for_each(|report| link.context.reporter.task(report));
                read.good.into_iter().for_each(|assignment| supervisor.set(assignment));
                for app in update.remove {
                    match FromWire::read(app) {
                        Ok(app) => supervisor.remove(&app).await,
                        Err(violations) => tracing::error!(%violations, "an app to remove has no proper name"),
                    }
                }
            }
            Response::Ack(ack) => {
                for sequence in ack.sequences {
                    let Some(settled) = link.context.reporter.acknowledge(sequence) else { continue };
                    if let Err(error) = supervisor.settled(settled).await {
                        tracing::error!(%error, source = %error.source, "cannot write down what the server has");
                    }
                }
            }
            Response::Logs(request) => self.uploads.begin(request),
            Response::Channel(request) => self.channels.begin(request),
            Response::Check(request) => self.checks.begin(request),
            Response::Drain(drain) => {
                let within = drain.reconnect_within.and_then(|within| FromWire::read(within).ok());
                return Err(End::Drained(within.unwrap_or_default()));
            }
        }
        Ok(())
    }
}

/// Sends what was measured, once there is something new. Cancel-safe, as [`send_next`].
async fn send_usage(requests: &mpsc::Sender<v1::OpenSessionRequest>, usage: &mut Option<Newest>) -> Result<(), End> {
    let Some(newest) = usage else { return std::future::pending().await };
    let room = requests.reserve().await.map_err(|_| End::Closed)?;
    if newest.changed().await.is_err() {
        // Nobody measures any more.
        *usage = None;
        return Ok(());
    }
    let sample = newest.borrow_and_update().clone();
    if let Some(sample) = sample {
        let report = convert::usage_report(&sample, Timestamp::now());
        room.send(v1::OpenSessionRequest { message: Some(Request::Usage(report)) });
    }
    Ok(())
}

/// Sends one report. Cancel-safe: a report is taken only when there is room for it.
async fn send_next(
    requests: &mpsc::Sender<v1::OpenSessionRequest>,
    reporter: &Reporter,
    max_unacknowledged: usize,
) -> Result<(), End> {
    let room = requests.reserve().await.map_err(|_| End::Closed)?;
    let (sequence, report) = reporter.next(max_unacknowledged).await;
    let subject = match &report {
        Report::Task(report) => v1::report::Subject::Task(convert::task_report(report, Timestamp::now())),
        Report::App(report) => v1::report::Subject::App(report.into()),
    };
    let report = v1::Report { sequence, subject: Some(subject) };
    room.send(v1::OpenSessionRequest { message: Some(Request::Report(report)) });
    Ok(())
}
