//! `longshore app logs`

use std::time::Duration;

use jiff::Timestamp;
use longshore_model::quantity::{bytes, duration};
use longshore_proto::convert;
use longshore_proto::v1::{GetLogFilesRequest, GetLogFilesResponse, LogFile, LogLine, ReadLogsRequest};

use super::node_of;
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// Show an app's output.
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// The app's name.
    name: String,

    /// The node; may be left out when only one has it.
    #[arg(long)]
    node: Option<String>,

    /// The instance, counted from 0.
    #[arg(long, default_value_t = 0)]
    instance: u32,

    /// Newest lines to start with; all that are kept when left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,

    /// Only lines of the last so much time, such as 10m, by the node's clock.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    since: Option<Duration>,

    /// What the instance said before it was last started again.
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,

    /// A file of the app's log directory instead of its output.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["since", "previous"])]
    file: Option<String>,

    /// Which files are in the app's log directory.
    #[arg(long, conflicts_with_all = ["file", "since", "previous", "follow", "tail"])]
    files: bool,

    /// Go on with new lines until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
}

pub(super) async fn run(logs: Logs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let node_name = node_of(context, &logs.name, logs.node).await?;
    if logs.files {
        return list(context, GetLogFilesRequest { node_name, app_name: logs.name, instance: logs.instance }).await;
    }
    let request = ReadLogsRequest {
        node_name,
        app_name: logs.name,
        instance: logs.instance,
        tail_lines: logs.tail.unwrap_or_default(),
        follow: logs.follow,
        since: logs.since.map(convert::duration),
        previous: logs.previous,
        file: logs.file.unwrap_or_default(),
    };
    let mut pieces = context.client.apps.read_logs(request).await?.into_inner();
    while let Some(piece) = pieces.message().await? {
        for line in piece.lines {
            show(context, &line)?;
        }
    }
    Ok(Exit::Ok)
}

/// The line as the container wrote it: output may hold colours, and may go into a file.
fn show(context: &mut Context<'_>, line: &LogLine) -> Result<(), Error> {
    context.output.show_item(|| json::of("LogLine", line), || line.text.to_vec())
}

async fn list(context: &mut Context<'_>, request: GetLogFilesRequest) -> Result<Exit, Error> {
    let found: GetLogFilesResponse = context.client.apps.get_log_files(call(request)).await?.into_inner();
    context.output.show(|| json::of("GetLogFilesResponse", &found), || table(&found.files, Timestamp::now()))?;
    Ok(Exit::Ok)
}

fn table(files: &[LogFile], now: Timestamp) -> String {
    let row =
        |file: &LogFile| [file.name.clone(), bytes::format(file.size_bytes), text::age(file.update_time.as_ref(), now)];
    text::table(["NAME", "SIZE", "CHANGED"], files.iter().map(row))
}
