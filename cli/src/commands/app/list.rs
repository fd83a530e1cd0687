//! `longshore app list`

use jiff::Timestamp;
use longshore_proto::v1::{App, InstanceState, InstanceStatus, ListAppsResponse};

use super::usage;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// List apps, by node and name unless told otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only those of this node.
    #[arg(long, default_value = "", hide_default_value = true)]
    node: String,

    /// Only those of this name.
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,

    /// Only apps that match, such as `status.state = BACK_OFF`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,

    /// Order, such as `app_name, node_name`: fields with commas between them, each alone or with ` desc`; docs/api.md lists them.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FIELDS")]
    order_by: String,
}

pub(super) async fn run(list: List, context: &mut Context<'_>) -> Result<Exit, Error> {
    let apps = context.client.list_matching_apps(&list.node, &list.name, &list.filter, &list.order_by).await?;
    let page = ListAppsResponse { apps, ..Default::default() };
    context.output.show(|| json::of("ListAppsResponse", &page), || table(&page.apps, Timestamp::now()))?;
    Ok(Exit::Ok)
}

/// Apps as people see them.
pub(crate) fn table(apps: &[App], now: Timestamp) -> String {
    let row = |app: &App| {
        let [cpu, memory] = usage::of_app(app);
        [
            app.node_name.clone(),
            app.app_name.clone(),
            text::app_state(app),
            ready(app),
            starts(app).to_string(),
            cpu,
            memory,
            text::ports(app),
            text::age(app.update_time.as_ref(), now),
        ]
    };
    text::table(["NODE", "APP", "STATE", "READY", "STARTS", "CPU", "MEMORY", "PORTS", "SINCE"], apps.iter().map(row))
}

/// How many instances are up, and ready where they have a probe, of how many there are.
fn ready(app: &App) -> String {
    let Some(status) = app.status.as_ref().filter(|status| !status.instances.is_empty()) else {
        return "-".to_owned();
    };
    let is_ready = |instance: &&InstanceStatus| {
        let is_up = instance.state() == InstanceState::Running;
        is_up && instance.readiness.as_ref().is_none_or(|readiness| readiness.ready)
    };
    format!("{}/{}", status.instances.iter().filter(is_ready).count(), status.instances.len())
}

/// Starts of all instances.
fn starts(app: &App) -> u32 {
    app.status.iter().flat_map(|status| &status.instances).map(|instance| instance.starts).sum()
}

#[cfg(test)]
mod tests {
    use longshore_proto::v1::{
        AppSpec, AppState, AppStatus, BoundPort, HostNetwork, InstanceUsage, Network, Protocol, Readiness, network,
    };

    use super::*;

    fn up(starts: u32, ready: Option<bool>) -> InstanceStatus {
        let readiness = ready.map(|ready| Readiness { ready, ..Default::default() });
        // The first look at an instance tells of no CPU.
        let cpu_millis = (starts == 1).then_some(125);
        let usage = Some(InstanceUsage { cpu_millis, memory_bytes: Some(4 << 20), sample_time: None });
        InstanceStatus { state: InstanceState::Running.into(), starts, readiness, usage, ..Default::default() }
    }

    #[test]
    fn a_list_of_apps() {
        let port = BoundPort {
            container_port: 8080,
            host_port: 32768,
            protocol: Protocol::Tcp.into(),
            host_ip: "0.0.0.0".to_owned(),
            ..Default::default()
        };
        let mapped = App {
            node_name: "store-1".to_owned(),
            app_name: "till-x1".to_owned(),
            status: Some(AppStatus {
                state: AppState::BackOff.into(),
                instances: vec![up(4, None), up(1, Some(true)), up(1, Some(false)), InstanceStatus::default()],
                ports: vec![port],
            }),
            ..Default::default()
        };
        let host = App {
            node_name: "store-2".to_owned(),
            app_name: "vpn-y2".to_owned(),
            removing: true,
            spec: Some(AppSpec {
                network: Some(Network { mode: Some(network::Mode::Host(HostNetwork {})) }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let expected = "\
NODE     APP      STATE     READY  STARTS  CPU   MEMORY    PORTS                    SINCE
store-1  till-x1  BACK_OFF  2/4    6       250m  12.0 MiB  0.0.0.0:32768->8080/tcp  -
store-2  vpn-y2   REMOVING  -      0       -     -         host                     -";
        assert_eq!(table(&[mapped, host], Timestamp::UNIX_EPOCH), expected);
    }
}
