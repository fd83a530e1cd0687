//! `longshore node show`

use jiff::Timestamp;
use longshore_proto::v1::{AcceleratorStock, App, GetNodeRequest, GetNodeResponse, Node};

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
        ("Connected", if node.connected { "yes".to_owned() } else { "no".to_owned() }),
        ("Last seen", if node.connected { String::new() } else { seen }),
        ("Enrolled", text::moment(node.enroll_time.as_ref(), now)),
        ("Certificate", certificate(node, now)),
        ("Agent", info.agent_version),
        ("Runtime", info.runtime),
        ("Arch", info.architecture),
        ("Kernel", info.kernel_release),
        ("CPUs", if info.cpus > 0 { info.cpus.to_string() } else { String::new() }),
        ("Memory", if info.memory_bytes > 0 { text::bytes(info.memory_bytes) } else { String::new() }),
        ("Accelerators", accelerators(&info.accelerators)),
        ("Address", info.host_ip),
        ("Interfaces", interfaces.join("\n")),
        ("Can", info.capabilities.join(" ")),
    ]);
    if apps.is_empty() { facts } else { format!("{facts}\n\n{}", app::list::table(apps, now)) }
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
    use longshore_proto::v1::{NetworkInterface, NodeInfo};

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
}
