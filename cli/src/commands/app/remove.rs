//! `longshore app remove`

use std::time::Duration;

use longshore_proto::v1::RemoveAppRequest;

use crate::client::{Client, call};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// How often the list of apps is asked for while waiting: there is no stream for it.
const POLL: Duration = Duration::from_millis(100);

/// Remove an app from one node, or from every node.
///
/// Its containers and empty directories go, host paths stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The app's name.
    name: String,

    /// Only from this node.
    #[arg(long, default_value = "", hide_default_value = true)]
    node: String,

    /// Wait until the nodes have confirmed.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(remove: Remove, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request =
        RemoveAppRequest { app_name: remove.name.clone(), node_name: remove.node.clone(), ..Default::default() };
    let answer = context.client.apps.remove_app(call(request)).await?.into_inner();
    if remove.wait {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                context.output.note("No longer waiting; the removal goes on.");
                return Ok(Exit::Interrupted);
            }
            gone = until_gone(&mut context.client, &remove.node, &remove.name) => gone?,
        }
    }
    let done = if remove.wait { "is removed from" } else { "is being removed from" };
    context.output.show(
        || json::of("RemoveAppResponse", &answer),
        || format!("{} {done} {}", remove.name, text::count(answer.nodes, "node")),
    )?;
    Ok(Exit::Ok)
}

/// Waits until no node, or the one that is named, has the app any more.
pub(crate) async fn until_gone(client: &mut Client, node: &str, app: &str) -> Result<(), Error> {
    while !client.list_apps(node, app).await?.is_empty() {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
