//! `longshore registry`

mod create;
mod delete;
mod docker_config;
mod list;
mod secret;
mod show;
mod update;

use std::path::Path;

use clap::Subcommand;

use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Registry credentials: what images of private registries are read with.
#[derive(Debug, Subcommand)]
pub(crate) enum Registry {
    /// Add a credential; its password comes from standard input, a file or the environment.
    Create(create::Create),
    /// List credentials, by name unless told otherwise.
    List(list::List),
    /// Show a credential, without its password.
    Show(show::Show),
    /// Change what is given of a credential.
    Update(update::Update),
    /// Delete a credential; running apps do not notice.
    Delete(delete::Delete),
}

pub(super) async fn run(registry: Registry, mut context: Context<'_>) -> Result<Exit, Error> {
    match registry {
        Registry::Create(create) => create::run(create, &mut context).await,
        Registry::List(list) => list::run(list, &mut context).await,
        Registry::Show(show) => show::run(show, &mut context).await,
        Registry::Update(update) => update::run(update, &mut context).await,
        Registry::Delete(delete) => delete::run(delete, &mut context).await,
    }
}

/// Reads the PEM file of a registry's authority; empty without one.
fn authority(file: Option<&Path>) -> Result<String, Error> {
    let Some(file) = file else { return Ok(String::new()) };
    std::fs::read_to_string(file).map_err(|error| Error::io(format!("cannot read {}", file.display()), error))
}
