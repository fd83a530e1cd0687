//! `longshore node approve`

use longshore_proto::v1::ApproveNodeRequest;

use super::{pending, show};
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Make a machine that waits for approval a node.
#[derive(Debug, clap::Args)]
pub(crate) struct Approve {
    /// The name that it waits under.
    name: String,

    /// Only if its key has this fingerprint, as the agent on the machine shows it.
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
}

pub(super) async fn run(approve: Approve, context: &mut Context<'_>) -> Result<Exit, Error> {
    let machine = pending::one(context, &approve.name, approve.fingerprint.as_deref()).await?;
    context.output.note(&format!("{} from {}, key {}", machine.name, machine.address, machine.key_fingerprint));
    let request = ApproveNodeRequest { name: approve.name, etag: machine.etag, ..Default::default() };
    let answer = context.client.nodes.approve_node(call(request)).await?.into_inner();
    show::show_node(context, answer.node.unwrap_or_default(), &[])
}
