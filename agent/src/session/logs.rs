//! Answers the server's requests for logs, each on a call of its own.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use longshore_model::name::AppName;
use longshore_proto::convert;
use longshore_proto::v1;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::runtime::{InstanceKey, LogLine, LogQuery, Runtime};

/// Uploads at once: a follower costs a stream and a task as long as it stays, and the server's limit on the streams of
/// one agent is near.
const MAX_UPLOADS: usize = 8;
/// Lines of one message: at 16 KiB each they stay well below gRPC's 4 MiB.
const MAX_LINES: usize = 128;

/// The uploads of one session; they end with it.
pub(super) struct Uploads {
    client: AgentServiceClient<Channel>,
    runtime: Arc<dyn Runtime>,
    running: JoinSet<()>,
}

impl Uploads {
    pub(super) fn new(client: AgentServiceClient<Channel>, runtime: Arc<dyn Runtime>) -> Self {
        Self { client, runtime, running: JoinSet::new() }
    }

    /// Begins an upload, unless too many are under way: the server then gives its reader up after a while.
    pub(super) fn begin(&mut self, request: v1::LogRequest) {
        while self.running.try_join_next().is_some() {}
        if self.running.len() >= MAX_UPLOADS {
            tracing::warn!(app = request.app_name, "too many readers of logs: this one is not served");
            return;
        }
        let (client, runtime) = (self.client.clone(), Arc::clone(&self.runtime));
        self.running.spawn(upload(client, runtime, request));
    }
}

async fn upload(mut client: AgentServiceClient<Channel>, runtime: Arc<dyn Runtime>, request: v1::LogRequest) {
    let lines = match AppName::parse(&request.app_name) {
        Ok(app) => open(&runtime, app, &request).await,
        Err(_) => None,
    };
    let first = v1::UploadLogsRequest {
        request_id: request.request_id.clone(),
        not_found: lines.is_none(),
        ..Default::default()
    };
    let last = v1::UploadLogsRequest { complete: true, ..Default::default() };
    let pieces = lines.unwrap_or_else(|| stream::empty().boxed()).ready_chunks(MAX_LINES).map(piece);
    let messages: BoxStream<'static, v1::UploadLogsRequest> =
        stream::once(std::future::ready(first)).chain(pieces).chain(stream::once(std::future::ready(last))).boxed();
    // Boxed: the compiler cannot see through the call's own type that it may move between threads.
    let call: BoxFuture<'_, _> = Box::pin(client.upload_logs(messages));
    if let Err(status) = call.await {
        // Mostly a reader who has seen enough.
        tracing::debug!(app = request.app_name, code = ?status.code(), "an upload of logs ended early");
    }
}

async fn open(
    runtime: &Arc<dyn Runtime>,
    app: AppName,
    request: &v1::LogRequest,
) -> Option<BoxStream<'static, LogLine>> {
    let tail = (request.tail_lines > 0).then_some(request.tail_lines);
    let instance = InstanceKey { app, index: request.instance };
    match runtime.logs(LogQuery { instance, tail, follow: request.follow }).await {
        Ok(lines) => lines,
        Err(error) => {
            tracing::warn!(app = request.app_name, %error, "cannot read logs");
            None
        }
    }
}

fn piece(lines: Vec<LogLine>) -> v1::UploadLogsRequest {
    let lines = lines.into_iter().map(wire).collect();
    v1::UploadLogsRequest { lines, ..Default::default() }
}

fn wire(line: LogLine) -> v1::LogLine {
    convert::LogLine { time: line.time, stderr: line.stderr, text: line.text }.into()
}
