//! `longshore node deny`

use longshore_proto::v1::{DenyNodeRequest, DenyNodeResponse};

use super::pending;
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::json;

/// Turn a machine that waits for approval away; the use of its token stays spent.
#[derive(Debug, clap::Args)]
pub(crate) struct Deny {
    /// The name that it waits under.
    name: String,
}

pub(super) async fn run(deny: Deny, context: &mut Context<'_>) -> Result<Exit, Error> {
    let machine = pending::one(context, &deny.name, None).await?;
    let request = DenyNodeRequest { name: deny.name, etag: machine.etag, ..Default::default() };
    context.client.nodes.deny_node(call(request)).await?;
    let text = || format!("{} from {}, key {}, is turned away", machine.name, machine.address, machine.key_fingerprint);
    context.output.show(|| json::of("DenyNodeResponse", &DenyNodeResponse {}), text)?;
    Ok(Exit::Ok)
}
