//! `longshore registry update`

use std::path::PathBuf;

use longshore_proto::v1::{GetRegistryCredentialResponse, RegistryCredential, UpdateRegistryCredentialRequest};
use prost_types::FieldMask;

use super::secret::Source;
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::json;

/// Change what is given of a credential; a password is read only where a file or the environment has one.
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// The credential's name.
    name: String,

    /// Which images it is for from now on.
    #[arg(long)]
    registry: Option<String>,

    /// User name at the registry.
    #[arg(long)]
    username: Option<String>,

    /// PEM file of the authority that certifies the registry.
    #[arg(long, value_name = "FILE", conflicts_with = "no_ca")]
    ca: Option<PathBuf>,

    /// Nodes know the registry's authority by themselves.
    #[arg(long)]
    no_ca: bool,

    #[command(flatten)]
    password: Source,
}

pub(super) async fn run(update: Update, context: &mut Context<'_>) -> Result<Exit, Error> {
    let given = [
        ("registry", update.registry.is_some()),
        ("username", update.username.is_some()),
        ("ca_certificate_pem", update.ca.is_some() || update.no_ca),
        ("password", update.password.is_given()),
    ];
    let paths: Vec<String> = given.iter().filter(|(_, given)| *given).map(|(path, _)| (*path).to_owned()).collect();
    if paths.is_empty() {
        return Err(Error::new("nothing to change was given: --registry, --username, --ca, --no-ca, --password-file"));
    }
    let password = if update.password.is_given() { update.password.read()?.reveal().to_owned() } else { String::new() };
    let request = UpdateRegistryCredentialRequest {
        registry_credential: Some(RegistryCredential {
            name: update.name.clone(),
            registry: update.registry.unwrap_or_default(),
            username: update.username.unwrap_or_default(),
            ca_certificate_pem: super::authority(update.ca.as_deref())?,
            ..Default::default()
        }),
        password,
        update_mask: Some(FieldMask { paths }),
        ..Default::default()
    };
    let answer = context.client.registries.update_registry_credential(call(request)).await?.into_inner();
    let message = GetRegistryCredentialResponse { registry_credential: answer.registry_credential };
    context.output.show(
        || json::of("GetRegistryCredentialResponse", &message),
        || format!("the registry credential {} is changed; it counts from each node's next pull on", update.name),
    )?;
    Ok(Exit::Ok)
}
