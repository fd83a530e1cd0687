//! What people call.

use std::sync::Arc;

use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::validate::{Path, Violations};
use longshore_proto::convert::FromWire;
use tonic::Status;

mod amend;
pub mod apps;
pub mod audit;
pub mod calls;
mod channel;
pub mod config_maps;
pub(crate) mod configurations;
pub mod credentials;
mod enrolment;
mod exec;
mod filters;
mod forward;
pub mod health;
pub mod jobs;
mod masks;
mod measured;
mod new_job;
pub mod nodes;
pub mod observe;
mod pages;
mod plan;
pub mod record;
pub mod reflection;
mod repeats;
pub mod request_id;
mod scan;
pub mod secrets;
pub(crate) mod status;
pub mod templates;
pub mod users;
pub mod watch;

use crate::ids::Ids;
use crate::live::Live;
use crate::store::Store;
use crate::vault::{Vault, VaultError};

/// What every service of the API works with.
#[derive(Clone)]
pub struct Context {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// What is live.
    pub live: Arc<Live>,
    /// Fresh identifiers.
    pub ids: Arc<Ids>,
}

/// Reads a name that may be left out.
fn optional_name<T: FromWire<String>>(text: String, field: &str, bad: &mut Violations) -> Option<T> {
    if text.is_empty() { None } else { T::from_wire(text, Path::Root.field(field), bad) }
}

fn job_id(text: String) -> Result<JobId, tonic::Status> {
    JobId::read_field(text, "job_id").map_err(status::invalid)
}

/// Reads the names of a node and an app together, so that both are complained of.
fn node_and_app(node: String, app: String) -> Result<(NodeName, AppName), tonic::Status> {
    let mut bad = Violations::default();
    let node = NodeName::from_wire(node, Path::Root.field("node_name"), &mut bad);
    let app = AppName::from_wire(app, Path::Root.field("app_name"), &mut bad);
    match node.zip(app) {
        Some(names) => Ok(names),
        None => Err(status::invalid(bad)),
    }
}

/// Works with the key file on a thread that may block.
async fn with_vault<T: Send + 'static>(
    vault: &Arc<Vault>,
    work: impl FnOnce(&Vault) -> Result<T, VaultError> + Send + 'static,
) -> Result<T, Status> {
    let vault = Arc::clone(vault);
    let done = tokio::task::spawn_blocking(move || work(&vault)).await;
    done.map_err(|error| status::internal(&error))?.map_err(|error| status::internal(&error))
}
