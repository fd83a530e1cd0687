//! `longshore registry create`

use std::path::PathBuf;

use longshore_proto::v1::{CreateRegistryCredentialRequest, GetRegistryCredentialResponse, RegistryCredential};

use super::docker_config;
use super::secret::Source;
use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::json;

/// Add a credential; its password comes from standard input, a file or the environment.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name: lower-case letters, digits and inner dashes.
    name: String,

    /// Which images it is for: `HOST:PORT`, or `HOST:PORT/REPOSITORY` for those in and below a repository.
    #[arg(long)]
    registry: String,

    /// User name at the registry.
    #[arg(long, required_unless_present = "from_docker_config")]
    username: Option<String>,

    /// Take user name and password from this configuration of Docker or Podman, such as ~/.docker/config.json.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["username", "password_file"])]
    from_docker_config: Option<PathBuf>,

    /// PEM file of the authority that certifies the registry, where nodes do not trust it anyway.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    #[command(flatten)]
    password: Source,
}

pub(super) async fn run(create: Create, context: &mut Context<'_>) -> Result<Exit, Error> {
    let (username, password) = match &create.from_docker_config {
        Some(file) => {
            let login = docker_config::read(file, &create.registry)?;
            (login.username, login.password)
        }
        None => (create.username.unwrap_or_default(), create.password.read()?),
    };
    let request = CreateRegistryCredentialRequest {
        registry_credential: Some(RegistryCredential {
            name: create.name.clone(),
            registry: create.registry,
            username,
            ca_certificate_pem: super::authority(create.ca.as_deref())?,
            ..Default::default()
        }),
        password: password.reveal().to_owned(),
        ..Default::default()
    };
    let answer = context.client.registries.create_registry_credential(call(request)).await?.into_inner();
    let message = GetRegistryCredentialResponse { registry_credential: answer.registry_credential };
    context.output.show(
        || json::of("GetRegistryCredentialResponse", &message),
        || format!("nodes read images with the registry credential {} from their next pull on", create.name),
    )?;
    Ok(Exit::Ok)
}
