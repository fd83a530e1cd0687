//! Where people who read logs meet the agents that have them.
//!
//! A reader takes a place, its request goes out through the node's session, and the agent calls UploadLogs with the
//! request's identifier. The lines pass through a short queue: a slow reader slows its upload down and nothing else.

use std::sync::Arc;

use longshore_model::name::NodeName;
use longshore_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

pub use super::desk::DeskError;
use super::desk::{Bound, Desk, Taken};
use crate::api::status;

/// Readers of logs of all nodes together: each holds a call, an upload and a queue of lines.
pub const MAX_READERS: usize = 256;
/// Readers of one node's logs: an agent's connection has room for 16 streams, of which its session is one.
pub const MAX_READERS_PER_NODE: usize = 8;
/// Messages between upload and reader: enough to keep both busy.
const QUEUE: usize = 4;

/// What an upload tells its reader.
#[derive(Debug)]
pub enum Event {
    /// The agent has come.
    Arrived,
    /// Some lines.
    Lines(Vec<v1::LogLine>),
    /// Which files there are.
    Files(Vec<v1::LogFile>),
    /// The node has no such log.
    NotFound,
    /// There is nothing more.
    Done,
}

/// The readers that wait or read.
#[derive(Debug)]
pub struct LogDesk {
    places: Arc<Desk<mpsc::Sender<Event>>>,
}

impl Default for LogDesk {
    fn default() -> Self {
        let all = Bound { most: MAX_READERS, what: "calls are reading logs" };
        let of_a_node = Bound { most: MAX_READERS_PER_NODE, what: "calls are reading logs of this node" };
        Self { places: Desk::new(all, of_a_node) }
    }
}

impl LogDesk {
    /// Takes a place for a reader of the node's logs, under a fresh identifier.
    ///
    /// # Errors
    ///
    /// No place is free, or the desk is closed.
    pub fn wait(&self, node: &NodeName, request_id: String) -> Result<Reader, DeskError> {
        let (sender, events) = mpsc::channel(QUEUE);
        Ok(Reader { place: self.places.take(node, request_id, sender)?, events })
    }

    /// Brings an agent's upload to its reader; `None` if nobody waits for it.
    #[must_use]
    pub fn arrive(&self, node: &NodeName, request_id: &str) -> Option<Upload> {
        let (events, given_up) = self.places.arrive(node, request_id)?;
        Some(Upload { events, given_up })
    }

    /// Breaks off every upload and reader of a node.
    pub fn node_deleted(&self, node: &NodeName) {
        self.places.node_deleted(node);
    }

    /// Breaks off all uploads and readers, and lets none begin.
    pub fn close(&self) {
        self.places.close();
    }
}

/// A reader's place; dropping it makes the agent's call fail.
#[derive(Debug)]
pub struct Reader {
    place: Taken<mpsc::Sender<Event>>,
    events: mpsc::Receiver<Event>,
}

impl Reader {
    /// The identifier under which the agent shall come.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.place.request_id()
    }

    /// What the upload says next. Loses nothing when it is dropped.
    ///
    /// # Errors
    ///
    /// [`DeskError::BrokenOff`] when the upload ended without [`Event::Done`].
    pub async fn next(&mut self) -> Result<Event, DeskError> {
        tokio::select! {
            biased;
            () = self.place.given_up().cancelled() => Err(DeskError::BrokenOff),
            event = self.events.recv() => event.ok_or(DeskError::BrokenOff),
        }
    }
}

/// An agent's upload that has found its reader.
#[derive(Debug)]
pub struct Upload {
    events: mpsc::Sender<Event>,
    given_up: CancellationToken,
}

impl Upload {
    /// Passes everything on, from the message `first`, until the agent has said all or the reader has hung up.
    ///
    /// # Errors
    ///
    /// CANCELLED when the reader has hung up, FAILED_PRECONDITION when the agent ends without having said that this is
    /// all, or the agent's own error. The reader then learns that the logs broke off.
    pub async fn run(
        self,
        first: v1::UploadLogsRequest,
        mut inbound: Streaming<v1::UploadLogsRequest>,
    ) -> Result<(), Status> {
        self.pass(Event::Arrived).await?;
        let mut message = Some(first);
        while let Some(v1::UploadLogsRequest { lines, files, not_found, complete, .. }) = message {
            if not_found {
                return self.pass(Event::NotFound).await;
            }
            if !lines.is_empty() {
                self.pass(Event::Lines(lines)).await?;
            }
            if !files.is_empty() {
                self.pass(Event::Files(files)).await?;
            }
            if complete {
                return self.pass(Event::Done).await;
            }
            message = tokio::select! {
                biased;
                () = self.reader_gone() => return Err(hung_up()),
                message = inbound.message() => message.map_err(status::of_stream)?,
            };
        }
        Err(super::out_of_order("the upload ended without its last message"))
    }

    async fn pass(&self, event: Event) -> Result<(), Status> {
        tokio::select! {
            biased;
            () = self.given_up.cancelled() => Err(hung_up()),
            sent = self.events.send(event) => sent.map_err(|_| hung_up()),
        }
    }

    async fn reader_gone(&self) {
        tokio::select! {
            () = self.given_up.cancelled() => {}
            () = self.events.closed() => {}
        }
    }
}

fn hung_up() -> Status {
    status::plain(Code::Cancelled, "READER_GONE", "the reader of these logs has hung up")
}
