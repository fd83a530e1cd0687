//! `longshore registry show`

use jiff::Timestamp;
use longshore_proto::v1::{GetRegistryCredentialRequest, RegistryCredential};

use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// Show a credential, without its password.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The credential's name.
    name: String,
}

pub(super) async fn run(show: Show, context: &mut Context<'_>) -> Result<Exit, Error> {
    let request = GetRegistryCredentialRequest { name: show.name };
    let answer = context.client.registries.get_registry_credential(call(request)).await?.into_inner();
    let credential = answer.registry_credential.clone().unwrap_or_default();
    let json = || json::of("GetRegistryCredentialResponse", &answer);
    context.output.show(json, || pairs(&credential, Timestamp::now()))?;
    Ok(Exit::Ok)
}

fn pairs(credential: &RegistryCredential, now: Timestamp) -> String {
    text::pairs(&[
        ("Name", credential.name.clone()),
        ("Registry", credential.registry.clone()),
        ("User", credential.username.clone()),
        ("Created", text::moment(credential.create_time.as_ref(), now)),
        ("Changed", text::moment(credential.update_time.as_ref(), now)),
        ("Own CA", credential.ca_certificate_pem.clone()),
    ])
}
