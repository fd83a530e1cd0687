//! `longshore registry delete`

use longshore_proto::v1::{DeleteRegistryCredentialRequest, DeleteRegistryCredentialResponse};

use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::json;

/// Delete a credential; running apps do not notice, later pulls of images that name it fail.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The credential's name.
    name: String,
}

pub(super) async fn run(delete: Delete, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = DeleteRegistryCredentialRequest { name: delete.name.clone(), ..Default::default() };
    context.client.registries.delete_registry_credential(call(request)).await?;
    context.output.show(
        || json::of("DeleteRegistryCredentialResponse", &DeleteRegistryCredentialResponse {}),
        || format!("the registry credential {} is deleted", delete.name),
    )?;
    Ok(Exit::Ok)
}
