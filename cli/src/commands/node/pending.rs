//! `longshore node pending`

use jiff::Timestamp;
use longshore_proto::v1::{ListPendingNodesRequest, ListPendingNodesResponse, PendingNode};

use crate::client::{PAGE, call};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// List the machines that wait for approval.
#[derive(Debug, clap::Args)]
pub(crate) struct Pending {
    /// Only machines that match, such as `address = 192.0.2.*`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,

    /// Order, such as `create_time`: fields with commas between them, each alone or with ` desc`; docs/api.md lists them.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FIELDS")]
    order_by: String,
}

pub(super) async fn run(pending: Pending, context: &mut Context<'_>) -> Result<Exit, Error> {
    let pending_nodes = all(context, pending.filter, pending.order_by).await?;
    let page = ListPendingNodesResponse { pending_nodes, ..Default::default() };
    let table = || table(&page.pending_nodes, Timestamp::now());
    context.output.show(|| json::of("ListPendingNodesResponse", &page), table)?;
    Ok(Exit::Ok)
}

async fn all(context: &mut Context<'_>, filter: String, order_by: String) -> Result<Vec<PendingNode>, Error> {
    let mut found = Vec::new();
    let mut request = ListPendingNodesRequest { page_size: PAGE, filter, order_by, ..Default::default() };
    loop {
        let page = context.client.nodes.list_pending_nodes(call(request.clone())).await?.into_inner();
        found.extend(page.pending_nodes);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// The machine that waits under this name; the fingerprint, where one is given, must be its own.
pub(super) async fn one(
    context: &mut Context<'_>,
    name: &str,
    fingerprint: Option<&str>,
) -> Result<PendingNode, Error> {
    let machine = all(context, String::new(), String::new()).await?.into_iter().find(|machine| machine.name == name);
    let Some(machine) = machine else {
        let message = format!("no machine waits for approval as {name:?}");
        return Err(Error::Plain { message, exit: Exit::NotFound });
    };
    let digits = |text: &str| text.replace('-', "").to_ascii_lowercase();
    match fingerprint {
        Some(given) if digits(given) != digits(&machine.key_fingerprint) => Err(Error::new(format!(
            "the machine that waits as {name:?} has another key, with the fingerprint {}: nothing was changed",
            machine.key_fingerprint
        ))),
        _ => Ok(machine),
    }
}

fn table(machines: &[PendingNode], now: Timestamp) -> String {
    let row = |machine: &PendingNode| {
        [
            machine.name.clone(),
            machine.address.clone(),
            text::age(machine.create_time.as_ref(), now),
            text::labels(&machine.labels),
            machine.key_fingerprint.clone(),
        ]
    };
    text::table(["NAME", "ADDRESS", "WAITING", "LABELS", "KEY FINGERPRINT"], machines.iter().map(row))
}
