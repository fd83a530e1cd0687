//! One session, as the stream of what goes to its agent.
//!
//! The agent's own messages are read while this stream is polled for its next message: a server holds ten thousand
//! sessions, and a task and a channel for each would cost a tenth of a session's memory. While an agent does not read,
//! it is not listened to either; its outbox runs full, and the session ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use jiff::Timestamp;
use longshore_model::limits::MAX_FULL_SET;
use longshore_model::validate::Violations;
use longshore_proto::convert::{FromWire, UsageReport};
use longshore_proto::v1;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, Streaming};
use v1::open_session_request::Message as FromAgent;
use v1::open_session_response::Message as ToAgent;

use super::reports::{self, Batch, MAX_UNACKNOWLEDGED};
use crate::api::status;
use crate::fleet::{End, Entry};
use crate::store::{Store, StoreError};

/// A live session.
pub struct Session {
    entry: Entry,
    inbound: Streaming<v1::OpenSessionRequest>,
    store: Arc<dyn Store>,
    closing: TaskTracker,
    batch: Batch,
    commit: Option<Commit>,
    last_sequence: u64,
    /// The agent has said that it sends nothing more.
    hung_up: bool,
    over: bool,
}

/// Reports on their way to the disk.
struct Commit {
    sequences: Vec<u64>,
    result: Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>,
}

impl Session {
    pub(super) fn new(
        entry: Entry,
        inbound: Streaming<v1::OpenSessionRequest>,
        store: Arc<dyn Store>,
        closing: TaskTracker,
    ) -> Self {
        Self {
            entry,
            inbound,
            store,
            closing,
            batch: Batch::default(),
            commit: None,
            last_sequence: 0,
            hung_up: false,
            over: false,
        }
    }

    /// The next message to the agent; `None` ends the session well.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<ToAgent>, Status>> {
        loop {
            if let Some(end) = self.entry.outbox().ended().filter(|end| *end != End::Drained) {
                return Poll::Ready(self.ended(end));
            }
            if let Poll::Ready(sequences) = self.poll_commit(context)? {
                return Poll::Ready(Ok(Some(ToAgent::Ack(v1::ReportAck { sequences }))));
            }
            self.read_reports(context)?;
            if self.commit.is_none() && self.batch.len() > 0 {
                self.start_commit();
                continue;
            }
            if self.hung_up && self.commit.is_none() {
                return Poll::Ready(Ok(None));
            }
            return Poll::Ready(match ready!(self.entry.outbox().poll_next(context)) {
                Ok(message) => Ok(Some(message)),
                Err(end) => self.ended(end),
            });
        }
    }

    /// Ready with what to acknowledge once a commit has ended well.
    fn poll_commit(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u64>, Status>> {
        let Some(commit) = &mut self.commit else { return Poll::Pending };
        let result = ready!(commit.result.as_mut().poll(context));
        let sequences = self.commit.take().map(|commit| commit.sequences).unwrap_or_default();
        Poll::Ready(match result {
            Ok(()) => Ok(sequences),
            Err(StoreError::NotFound { .. }) => Err(status::node_deleted(self.entry.node())),
            // The agent has the reports still, and sends them again in its next session.
            Err(error) => Err(status::store(error)),
        })
    }

    /// Commits what has gathered. Only one commit is under way at a time, so that newer reports never overtake older
    /// ones, and what comes meanwhile is gathered into the next.
    fn start_commit(&mut self) {
        let (sequences, reports) = std::mem::take(&mut self.batch).into_parts();
        let (store, node) = (Arc::clone(&self.store), self.entry.node().clone());
        let result = Box::pin(async move { store.report(&node, reports, Timestamp::now()).await });
        self.commit = Some(Commit { sequences, result });
    }

    /// Takes in all that the agent has sent so far.
    fn read_reports(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        while !self.hung_up {
            match Pin::new(&mut self.inbound).poll_next(context) {
                Poll::Pending => break,
                Poll::Ready(None) => self.hung_up = true,
                Poll::Ready(Some(message)) => self.take_in(message.map_err(status::of_stream)?.message)?,
            }
        }
        Ok(())
    }

    fn take_in(&mut self, message: Option<FromAgent>) -> Result<(), Status> {
        let report = match message {
            Some(FromAgent::Report(report)) => report,
            Some(FromAgent::Usage(usage)) => {
                let usage = UsageReport::read_field(usage, "usage").map_err(status::invalid)?;
                self.entry.measured(usage, Timestamp::now());
                return Ok(());
            }
            Some(FromAgent::Hello(_)) => return Err(super::out_of_order("Hello may only be the first message")),
            None => return Err(status::invalid(Violations::one("message", "is missing"))),
        };
        if report.sequence <= self.last_sequence {
            let description = format!("is {} after {}; it must grow", report.sequence, self.last_sequence);
            return Err(status::invalid(Violations::one("report.sequence", description)));
        }
        self.last_sequence = report.sequence;
        let unacknowledged = self.batch.len() + self.commit.as_ref().map_or(0, |commit| commit.sequences.len());
        if unacknowledged >= MAX_UNACKNOWLEDGED as usize {
            let message = format!("more than {MAX_UNACKNOWLEDGED} reports wait for their acknowledgement");
            return Err(status::plain(Code::ResourceExhausted, "TOO_MANY_REPORTS", message));
        }
        self.batch.add(report.sequence, reports::read(report.subject).map_err(status::invalid)?);
        Ok(())
    }

    fn ended(&self, end: End) -> Result<Option<ToAgent>, Status> {
        match end {
            End::Drained => Ok(None),
            End::Fenced => Err(status::plain(Code::Aborted, "FENCED", "a newer session of this node has begun")),
            End::Overflow => Err(status::plain(
                Code::ResourceExhausted,
                "AGENT_TOO_SLOW",
                "too many messages wait for this agent; the next session starts with the full set",
            )),
            End::SetTooLarge => {
                let limit = MAX_FULL_SET / (1024 * 1024);
                let message = format!(
                    "the apps of this node need more than the {limit} MiB that a full set may have; it keeps what it runs \
                     until some of them are removed"
                );
                Err(status::plain(Code::ResourceExhausted, "FULL_SET_TOO_LARGE", message))
            }
            End::NodeDeleted => Err(status::node_deleted(self.entry.node())),
        }
    }
}

impl Stream for Session {
    type Item = Result<v1::OpenSessionResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let item = match ready!(this.poll_message(context)) {
            Ok(Some(message)) => return Poll::Ready(Some(Ok(v1::OpenSessionResponse { message: Some(message) }))),
            Ok(None) => None,
            Err(status) => {
                tracing::info!(
                    node = %this.entry.node(), session = %this.entry.outbox().session(),
                    code = ?status.code(), reason = status.message(), "session ends"
                );
                Some(Err(status))
            }
        };
        this.over = true;
        Poll::Ready(item)
    }
}

impl Drop for Session {
    /// Records when the node was last heard of, unless a newer session does, or the node is gone.
    fn drop(&mut self) {
        let node = self.entry.node().clone();
        tracing::info!(%node, session = %self.entry.outbox().session(), "session closed");
        if matches!(self.entry.outbox().ended(), Some(End::Fenced | End::NodeDeleted)) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let store = Arc::clone(&self.store);
        let record = async move {
            if let Err(error) = store.close_session(&node, Timestamp::now()).await {
                // Only the time at which the node was last seen is lost.
                tracing::debug!(%node, error = &error as &dyn std::error::Error, "the session's end is not recorded");
            }
        };
        self.closing.spawn_on(record, &runtime);
    }
}
