//! Answers the server's requests for logs, each on a call of its own.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use longshore_model::name::AppName;
use longshore_proto::convert::{self, FromWire};
use longshore_proto::v1;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{Connector, Link};
use crate::bandwidth::Bandwidth;
use crate::runtime::{InstanceKey, LogFile, LogLine, LogQuery, Runtime, Selection};

/// Uploads at once: a follower costs a stream and a task as long as it stays, and the server's limit on the streams of
/// one agent is near.
const MAX_UPLOADS: usize = 8;
/// Lines of one message: at 16 KiB each they stay well below gRPC's 4 MiB.
const MAX_LINES: usize = 128;
/// Bytes that a line takes on the wire beside its text: its time, its stream and what they are wrapped in.
const LINE_OVERHEAD: u64 = 24;

/// The uploads of one session; they end with it.
pub(super) struct Uploads {
    shared: Arc<Shared>,
    line: Weak<Line>,
    running: JoinSet<()>,
}

/// What uploads have in common.
struct Shared {
    connect: Connector,
    runtime: Arc<dyn Runtime>,
    bandwidth: Arc<Bandwidth>,
}

/// A connection of the uploads' own, there as long as one of them runs. On that of the session what is reported would stand
/// behind all the lines that are on their way, and a server reads a connection at a bounded rate.
#[derive(Default)]
struct Line(OnceCell<Channel>);

impl Uploads {
    pub(super) fn new(link: &Link) -> Self {
        let shared = Shared {
            connect: Arc::clone(&link.connect),
            runtime: Arc::clone(&link.context.runtime),
            bandwidth: Arc::clone(&link.log_bandwidth),
        };
        Self { shared: Arc::new(shared), line: Weak::new(), running: JoinSet::new() }
    }

    /// Begins an upload, unless too many are under way: the server then gives its reader up after a while.
    pub(super) fn begin(&mut self, request: v1::LogRequest) {
        while self.running.try_join_next().is_some() {}
        if self.running.len() >= MAX_UPLOADS {
            tracing::warn!(app = request.app_name, "too many readers of logs: this one is not served");
            return;
        }
        let line = self.line.upgrade().unwrap_or_default();
        self.line = Arc::downgrade(&line);
        self.running.spawn(upload(Arc::clone(&self.shared), line, request));
    }
}

async fn upload(shared: Arc<Shared>, line: Arc<Line>, request: v1::LogRequest) {
    let channel = match line.0.get_or_try_init(|| (shared.connect)()).await {
        Ok(channel) => channel.clone(),
        Err(error) => {
            tracing::warn!(app = request.app_name, %error, "no connection for logs");
            return;
        }
    };
    if request.list_files {
        return list(&shared, AgentServiceClient::new(channel), request).await;
    }
    let lines = match AppName::parse(&request.app_name) {
        Ok(app) => open(&shared.runtime, app, &request).await,
        Err(_) => None,
    };
    let first = v1::UploadLogsRequest {
        request_id: request.request_id.clone(),
        not_found: lines.is_none(),
        ..Default::default()
    };
    let last = v1::UploadLogsRequest { complete: true, ..Default::default() };
    let bandwidth = Arc::clone(&shared.bandwidth);
    let is_file = !request.file.is_empty();
    let pieces = lines.unwrap_or_else(|| stream::empty().boxed()).ready_chunks(MAX_LINES).then(move |lines| {
        let bandwidth = Arc::clone(&bandwidth);
        async move {
            bandwidth.spend(lines.iter().map(|line| line.text.len() as u64 + LINE_OVERHEAD).sum()).await;
            piece(lines, is_file)
        }
    });
    let messages: BoxStream<'static, v1::UploadLogsRequest> =
        stream::once(std::future::ready(first)).chain(pieces).chain(stream::once(std::future::ready(last))).boxed();
    let mut client = AgentServiceClient::new(channel);
    // Boxed: the compiler cannot see through the call's own type that it may move between threads.
    let call: BoxFuture<'_, _> = Box::pin(client.upload_logs(messages));
    if let Err(status) = call.await {
        // Mostly a reader who has seen enough.
        tracing::debug!(app = request.app_name, code = ?status.code(), "an upload of logs ended early");
    }
}

/// Answers which files of logs there are.
async fn list(shared: &Shared, mut client: AgentServiceClient<Channel>, request: v1::LogRequest) {
    let found = match AppName::parse(&request.app_name) {
        Ok(app) => {
            shared.runtime.log_files(&InstanceKey { app, index: request.instance }).await.unwrap_or_else(|error| {
                tracing::warn!(app = request.app_name, %error, "cannot look for files of logs");
                None
            })
        }
        Err(_) => None,
    };
    let file = |file: LogFile| v1::LogFile {
        name: file.name,
        size_bytes: file.bytes,
        update_time: Some(convert::timestamp(file.modified)),
    };
    let answer = v1::UploadLogsRequest {
        request_id: request.request_id,
        not_found: found.is_none(),
        files: found.into_iter().flatten().map(file).collect(),
        complete: true,
        ..Default::default()
    };
    if let Err(status) = client.upload_logs(stream::once(std::future::ready(answer))).await {
        tracing::debug!(code = ?status.code(), "nobody waits for files of logs any more");
    }
}

async fn open(
    runtime: &Arc<dyn Runtime>,
    app: AppName,
    request: &v1::LogRequest,
) -> Option<BoxStream<'static, LogLine>> {
    let since = request.since.and_then(|since| FromWire::read(since).ok());
    let wanted = Selection {
        tail: (request.tail_lines > 0).then_some(request.tail_lines),
        // What reaches back beyond all times reaches everything.
        since: since.and_then(|since: Duration| Timestamp::now().checked_sub(since).ok()),
        previous: request.previous,
        follow: request.follow,
        file: Some(request.file.clone()).filter(|name| !name.is_empty()),
    };
    let instance = InstanceKey { app, index: request.instance };
    match runtime.logs(LogQuery { instance, wanted }).await {
        Ok(lines) => lines,
        Err(error) => {
            tracing::warn!(app = request.app_name, %error, "cannot read logs");
            None
        }
    }
}

fn piece(lines: Vec<LogLine>, is_file: bool) -> v1::UploadLogsRequest {
    let lines = lines.into_iter().map(|line| wire(line, is_file)).collect();
    v1::UploadLogsRequest { lines, ..Default::default() }
}

fn wire(line: LogLine, is_file: bool) -> v1::LogLine {
    if is_file {
        return v1::LogLine { time: None, stream: v1::LogStream::File.into(), text: line.text };
    }
    convert::LogLine { time: line.time, stderr: line.stderr, text: line.text }.into()
}
