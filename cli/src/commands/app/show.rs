//! `longshore app show`

use jiff::Timestamp;
use longshore_proto::v1::{App, AppStatus, GetAppRequest, GetNodeRequest, InstanceState, InstanceStatus, Node};

use super::{node_of, summary, usage};
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// Show an app on one node.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The app's name.
    name: String,

    /// The node; may be left out when only one has it.
    #[arg(long)]
    node: Option<String>,
}

pub(super) async fn run(show: Show, context: &mut Context<'_>) -> Result<Exit, Error> {
    let node_name = node_of(context, &show.name, show.node).await?;
    let request = GetAppRequest { node_name: node_name.clone(), app_name: show.name };
    let answer = context.client.apps.get_app(call(request)).await?.into_inner();
    let app = answer.app.clone().unwrap_or_default();
    let node = if context.output.is_for_people() {
        let request = GetNodeRequest { name: node_name };
        context.client.nodes.get_node(call(request)).await?.into_inner().node.unwrap_or_default()
    } else {
        Node::default()
    };
    context.output.show(|| json::of("GetAppResponse", &answer), || text(&app, &node, Timestamp::now()))?;
    Ok(Exit::Ok)
}

fn text(app: &App, node: &Node, now: Timestamp) -> String {
    let status = app.status.clone().unwrap_or_default();
    let facts = text::pairs(&[
        ("App", app.app_name.clone()),
        ("Node", app.node_name.clone()),
        ("State", text::app_state(app)),
        ("Image", text::image(app.spec.as_ref())),
        ("Ports", text::ports(app).replace(' ', "\n")),
        ("Job", app.job_id.clone()),
        ("Spec", if app.spec_revision > 1 { app.spec_revision.to_string() } else { String::new() }),
        ("Removed by", app.removing_job_id.clone()),
        ("Revision", app.revision.to_string()),
        ("Since", text::moment(app.update_time.as_ref(), now)),
        ("Measured", text::moment(usage::time(app), now)),
    ]);
    let facts = format!("{}\n\n{facts}", text::one_line(&summary::sentence(app, node, now)));
    if status.instances.is_empty() { facts } else { format!("{facts}\n\n{}", instances(app, &status, now)) }
}

fn instances(app: &App, status: &AppStatus, now: Timestamp) -> String {
    let row = |instance: &InstanceStatus| {
        let state: InstanceState = instance.state();
        let [cpu, memory] = usage::of_instance(instance);
        [
            format!("{}-{}", app.app_name, instance.index),
            text::word(state.as_str_name(), "INSTANCE_STATE_"),
            ready(instance, now),
            instance.starts.to_string(),
            text::age(instance.start_time.as_ref(), now),
            cpu,
            memory,
            last_exit(instance, now),
        ]
    };
    let headers = ["INSTANCE", "STATE", "READY", "STARTS", "STARTED", "CPU", "MEMORY", "LAST EXIT"];
    text::table(headers, status.instances.iter().map(row))
}

/// What the readiness probe says, and for how long: `yes, 5m`, or `no, 12s: HTTP 503`.
fn ready(instance: &InstanceStatus, now: Timestamp) -> String {
    let Some(readiness) = &instance.readiness else { return "-".to_owned() };
    let age = text::age(readiness.since_time.as_ref(), now);
    match (readiness.ready, readiness.message.as_str()) {
        (true, _) => format!("yes, {age}"),
        (false, "") => format!("no, {age}"),
        (false, answer) => format!("no, {age}: {answer}"),
    }
}

/// How it last ended: `code 137, out of memory, 12s ago`.
pub(super) fn last_exit(instance: &InstanceStatus, now: Timestamp) -> String {
    let Some(exit) = &instance.last_exit else { return "-".to_owned() };
    let memory = if exit.out_of_memory { ", out of memory" } else { "" };
    let reason = &instance.last_exit_reason;
    let reason = if reason.is_empty() { String::new() } else { format!(", {reason}") };
    format!("code {}{memory}{reason}, {} ago", exit.code, text::age(exit.time.as_ref(), now))
}

#[cfg(test)]
mod tests {
    use longshore_proto::v1::{AppState, InstanceExit, InstanceUsage, Readiness};

    use super::*;

    #[test]
    fn an_app_with_an_instance_out_of_memory_and_one_that_is_not_ready() {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let instance = InstanceStatus {
            state: InstanceState::BackOff.into(),
            starts: 2,
            start_time: time(100),
            last_exit: Some(InstanceExit { code: 137, out_of_memory: true, time: time(130) }),
            ..Default::default()
        };
        let probed = InstanceStatus {
            index: 1,
            state: InstanceState::Running.into(),
            starts: 3,
            start_time: time(150),
            last_exit: Some(InstanceExit { code: 143, out_of_memory: false, time: time(149) }),
            last_exit_reason: "liveness probe failed: HTTP 500".to_owned(),
            readiness: Some(Readiness { ready: false, since_time: time(150), message: "HTTP 503".to_owned() }),
            usage: Some(InstanceUsage {
                cpu_millis: Some(1250),
                memory_bytes: Some(100 << 20),
                sample_time: time(155),
            }),
        };
        let app = App {
            node_name: "store-1".to_owned(),
            app_name: "till-x1".to_owned(),
            revision: 3,
            status: Some(AppStatus {
                state: AppState::BackOff.into(),
                instances: vec![instance, probed],
                ports: Vec::new(),
            }),
            ..Default::default()
        };
        let node = Node { connected: true, ..Default::default() };
        let expected = "\
Instance 0 waits for start 3; it ended with code 137, out of memory, 30s ago.

App:       till-x1
Node:      store-1
State:     BACK_OFF
Image:     -
Ports:     -
Revision:  3
Measured:  1970-01-01T00:02:35Z (5s ago)

INSTANCE   STATE     READY              STARTS  STARTED  CPU    MEMORY     LAST EXIT
till-x1-0  BACK_OFF  -                  2       60s      -      -          code 137, out of memory, 30s ago
till-x1-1  RUNNING   no, 10s: HTTP 503  3       10s      1250m  100.0 MiB  code 143, liveness probe failed: HTTP 500, 11s ago";
        assert_eq!(text(&app, &node, Timestamp::from_second(160).unwrap_or_default()), expected);
    }
}
