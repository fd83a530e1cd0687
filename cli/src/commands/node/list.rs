//! `longshore node list`

use jiff::Timestamp;
use longshore_proto::v1::{ListNodesResponse, Node, NodeWarning, NodeWarningKind};

use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// List nodes, by name unless told otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only nodes whose labels match, such as `role=gateway,site in (hh, b)`.
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,

    /// Only nodes that match, such as `connected = false AND labels.site = hh`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,

    /// Order, such as `enroll_time desc`: fields with commas between them, each alone or with ` desc`; docs/api.md lists them.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FIELDS")]
    order_by: String,
}

pub(super) async fn run(list: List, context: &mut Context<'_>) -> Result<Exit, Error> {
    let nodes = context.client.list_nodes(&list.selector, &list.filter, &list.order_by).await?;
    let page = ListNodesResponse { nodes, ..Default::default() };
    context.output.show(|| json::of("ListNodesResponse", &page), || table(&page.nodes, Timestamp::now()))?;
    Ok(Exit::Ok)
}

fn table(nodes: &[Node], now: Timestamp) -> String {
    let row = |node: &Node| {
        let info = node.info.clone().unwrap_or_default();
        let seen = if node.connected { "now".to_owned() } else { text::age(node.last_seen_time.as_ref(), now) };
        [
            node.name.clone(),
            if node.connected { "yes" } else { "no" }.to_owned(),
            seen,
            text::or_dash(&info.architecture),
            text::or_dash(&info.host_ip),
            text::or_dash(&info.agent_version),
            warnings(node),
            text::labels(&node.labels),
        ]
    };
    let headers = ["NAME", "CONNECTED", "SEEN", "ARCH", "ADDRESS", "AGENT", "WARNINGS", "LABELS"];
    text::table(headers, nodes.iter().map(row))
}

/// What to look at, a word each, such as `disk,clock`; `node show` has the sentences.
fn warnings(node: &Node) -> String {
    let word = |warning: &NodeWarning| match warning.kind() {
        NodeWarningKind::CertificateExpiring => "certificate",
        NodeWarningKind::DiskNearlyFull => "disk",
        NodeWarningKind::ClockSkew => "clock",
        // A newer server's.
        NodeWarningKind::Unspecified => "other",
    };
    let words: Vec<&str> = node.warnings.iter().map(word).collect();
    text::or_dash(&words.join(","))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longshore_proto::v1::NodeInfo;

    use super::*;

    #[test]
    fn a_list_of_nodes() {
        let nodes = [
            Node {
                name: "gateway-1".to_owned(),
                connected: true,
                labels: BTreeMap::from([("role".to_owned(), "gateway".to_owned())]),
                info: Some(NodeInfo {
                    architecture: "amd64".to_owned(),
                    host_ip: "192.0.2.7".to_owned(),
                    agent_version: "0.1.0".to_owned(),
                    ..Default::default()
                }),
                warnings: [NodeWarningKind::DiskNearlyFull, NodeWarningKind::ClockSkew]
                    .map(|kind| NodeWarning { kind: kind.into(), message: String::new() })
                    .to_vec(),
                ..Default::default()
            },
            Node { name: "store-1".to_owned(), ..Default::default() },
        ];
        let expected = "\
NAME       CONNECTED  SEEN  ARCH   ADDRESS    AGENT  WARNINGS    LABELS
gateway-1  yes        now   amd64  192.0.2.7  0.1.0  disk,clock  role=gateway
store-1    no         -     -      -          -      -           -";
        assert_eq!(table(&nodes, Timestamp::UNIX_EPOCH), expected);
    }
}
