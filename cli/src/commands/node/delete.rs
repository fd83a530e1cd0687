//! `longshore node delete`

use longshore_proto::v1::{DeleteNodeRequest, DeleteNodeResponse};

use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::json;

/// Delete a node: its open tasks fail, its certificate is refused from then on.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The node's name.
    name: String,
}

pub(super) async fn run(delete: Delete, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = DeleteNodeRequest { name: delete.name.clone(), ..Default::default() };
    context.client.nodes.delete_node(call(request)).await?;
    context.output.show(
        || json::of("DeleteNodeResponse", &DeleteNodeResponse {}),
        || {
            format!(
                "node {} is deleted; on the machine itself, `longshore-agent reset` removes what still runs there",
                delete.name
            )
        },
    )?;
    Ok(Exit::Ok)
}
