//! `longshore node show`

use jiff::Timestamp;
use longshore_proto::v1::{AcceleratorStock, App, GetNodeRequest, GetNodeResponse, Node};

use super::status;
use crate::client::call;
use crate::commands::{Context, app};
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// Show a node.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The node's name.
    name: String,
}

pub(super) async fn run(show: Show, context: &mut Context<'_>) -> Result<Exit, Error> {
    let answer = context.client.nodes.get_node(call(GetNodeRequest { name: show.name.clone() })).await?.into_inner();
    let apps =
        if context.output.is_for_people() { context.client.list_apps(&show.name, "").await? } else { Vec::new() };
    show_node(context, answer.node.unwrap_or_default(), &apps)
}

/// Shows a node as the answer to a request about it.
pub(super) fn show_node(context: &mut Context<'_>, node: Node, apps: &[App]) -> Result<Exit, Error> {
    let message = GetNodeResponse { node: Some(node.clone()) };
    context.output.show(|| json::of("GetNodeResponse", &message), || text(&node, apps, Timestamp::now()))?;
    Ok(Exit::Ok)
}

fn text(node: &Node, apps: &[App], now: Timestamp) -> String {
    let info = node.info.clone().unwrap_or_default();
    let seen = text::moment(node.last_seen_time.as_ref(), now);
    let interfaces: Vec<String> = info
        .interfaces
        .iter()
        .map(|interface| {
            let addresses: Vec<&str> = interface.ipv4.iter().chain(&interface.ipv6).map(String::as_str).collect();
            format!("{}  {}", interface.name, addresses.join(" ")).trim_end().to_owned()
        })
        .collect();
    let facts = text::pairs(&[
        ("Node", node.name.clone()),
        ("Labels", text::labels(&node.labels)),
        ("Warnings", lines(node.warnings.iter().map(|warning| &warning.message))),
        ("Connected", status::connected(node, now)),
        ("Last seen", if node.connected { String::new() } else { seen }),
        ("Enrolled", text::moment(node.enroll_time.as_ref(), now)),
        ("Certificate", certificate(node, now)),
        ("Agent", info.agent_version),
        ("Runtime", info.runtime),
        ("Arch", info.architecture),
        ("Kernel", info.kernel_release),
        ("CPUs", if info.cpus > 0 { info.cpus.to_string() } else { String::new() }),
        ("Load", status::load(node)),
        ("Memory", status::memory(node)),
        ("Disk", status::disk(node)),
        ("Clock", status::clock(node)),
        ("Measured", status::measured(node, now)),
        ("Accelerators", accelerators(&info.accelerators)),
        ("Address", info.host_ip),
        ("Interfaces", interfaces.join("\n")),
        ("Can", info.capabilities.join(" ")),
        ("Refuses", lines(node.refusals.iter().map(|refusal| &refusal.message))),
    ]);
    if apps.is_empty() { facts } else { format!("{facts}\n\n{}", app::list::table(apps, now)) }
}

fn lines<'a>(messages: impl Iterator<Item = &'a String>) -> String {
    // What a node says must not look like several of them.
    messages.map(|message| text::one_line(message)).collect::<Vec<_>>().join("\n")
}

/// One line for each kind and model.
fn accelerators(stocks: &[AcceleratorStock]) -> String {
    let line = |stock: &AcceleratorStock| {
        let AcceleratorStock { kind, model, count, free_count } = stock;
        format!("{kind}  {free_count} of {count} free  {model}").trim_end().to_owned()
    };
    stocks.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Until when the node's certificate is good.
fn certificate(node: &Node, now: Timestamp) -> String {
    let Some(end) = node.certificate_expire_time.as_ref() else { return String::new() };
    let is_over = text::time(Some(end)).is_some_and(|end| end <= now);
    format!("{} {}", if is_over { "expired" } else { "until" }, text::moment(Some(end), now))
}

#[cfg(test)]
mod tests {
    use longshore_proto::v1::{NetworkInterface, NodeFigures, NodeInfo, NodeRefusal, NodeStatus, NodeWarning};

    use super::*;

    #[test]
    fn accelerators_are_told_by_kind_and_model() {
        let stock = |kind: &str, model: &str, count, free_count| AcceleratorStock {
            kind: kind.to_owned(),
            model: model.to_owned(),
            count,
            free_count,
        };
        let stocks = [stock("huawei.com/npu", "", 1, 1), stock("nvidia.com/gpu", "Tesla T4", 4, 0)];
        assert_eq!(accelerators(&stocks), "huawei.com/npu  1 of 1 free\nnvidia.com/gpu  0 of 4 free  Tesla T4");
        assert_eq!(accelerators(&[]), "");
    }

    #[test]
    fn a_node_with_two_interfaces() {
        let interface = |name: &str, ip: &str| NetworkInterface {
            name: name.to_owned(),
            ipv4: vec![ip.to_owned()],
            ipv6: Vec::new(),
        };
        let node = Node {
            name: "store-1".to_owned(),
            connected: true,
            info: Some(NodeInfo {
                cpus: 2,
                memory_bytes: 8 << 30,
                interfaces: vec![interface("lo", "127.0.0.1"), interface("eth0", "192.0.2.7")],
                ..Default::default()
            }),
            ..Default::default()
        };
        let expected = "\
Node:        store-1
Labels:      -
Connected:   yes
CPUs:        2
Memory:      8.0 GiB
Interfaces:  lo  127.0.0.1
             eth0  192.0.2.7";
        assert_eq!(text(&node, &[], Timestamp::UNIX_EPOCH), expected);
    }

    fn told(status: Option<NodeStatus>) -> String {
        let warning = |message: &str| NodeWarning { message: message.to_owned(), ..Default::default() };
        let refusal = |message: &str| NodeRefusal { message: message.to_owned(), ..Default::default() };
        let node = Node {
            name: "store-1".to_owned(),
            connected: true,
            info: Some(NodeInfo { cpus: 2, memory_bytes: 8 << 30, ..Default::default() }),
            warnings: vec![warning("its disk is 94 % full"), warning("its clock is 7 s behind the server's")],
            refusals: vec![refusal("privileged apps: not allowed\nhere")],
            status,
            ..Default::default()
        };
        text(&node, &[], Timestamp::from_second(100).unwrap_or_default())
    }

    #[test]
    fn a_node_that_has_said_how_it_is() {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let figures = NodeFigures {
            disk_total_bytes: 50 << 30,
            disk_free_bytes: 3 << 30,
            memory_total_bytes: 8 << 30,
            memory_available_bytes: 1 << 30,
            load_millis: 1250,
        };
        let status = NodeStatus {
            connect_time: time(40),
            sample_time: time(95),
            clock_skew: Some(prost_types::Duration { seconds: -7, nanos: -260_000_000 }),
            figures: Some(figures),
        };
        let expected = "\
Node:       store-1
Labels:     -
Warnings:   its disk is 94 % full
            its clock is 7 s behind the server's
Connected:  yes, since 1970-01-01T00:00:40Z (60s ago)
CPUs:       2
Load:       1.25
Memory:     1.0 GiB of 8.0 GiB available
Disk:       3.0 GiB of 50.0 GiB free
Clock:      7.2 s behind the server's
Measured:   1970-01-01T00:01:35Z (5s ago)
Refuses:    privileged apps: not allowed here";
        assert_eq!(told(Some(status)), expected);
    }

    #[test]
    fn what_a_server_has_not_heard_since_its_start_is_unknown() {
        let told = told(Some(NodeStatus::default()));
        let expected = "\
Connected:  yes
CPUs:       2
Load:       unknown
Memory:     8.0 GiB
Disk:       unknown
Clock:      unknown
Measured:   not since the server started, or the node measures nothing
";
        assert!(told.contains(expected), "{told}");
    }
}
