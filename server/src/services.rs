//! Puts the services together: one set for people, one for agents, and what runs behind them.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::limits::{MAX_SPEC, MAX_TARGETS};
use longshore_model::name::MAX_NAME_LENGTH;
use longshore_model::trouble;
use longshore_proto::v1::agent_service_server::AgentServiceServer;
use longshore_proto::v1::app_service_server::AppServiceServer;
use longshore_proto::v1::audit_service_server::AuditServiceServer;
use longshore_proto::v1::config_map_service_server::ConfigMapServiceServer;
use longshore_proto::v1::job_service_server::JobServiceServer;
use longshore_proto::v1::node_service_server::NodeServiceServer;
use longshore_proto::v1::registry_credential_service_server::RegistryCredentialServiceServer;
use longshore_proto::v1::secret_service_server::SecretServiceServer;
use longshore_proto::v1::template_service_server::TemplateServiceServer;
use longshore_proto::v1::user_service_server::UserServiceServer;
use longshore_tls::Pin;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::api::apps::AppApi;
use crate::api::audit::AuditApi;
use crate::api::config_maps::ConfigMapApi;
use crate::api::credentials::CredentialApi;
use crate::api::jobs::JobApi;
use crate::api::nodes::NodeApi;
use crate::api::secrets::SecretApi;
use crate::api::templates::TemplateApi;
use crate::api::users::UserApi;
use crate::api::{Context, health, reflection};
use crate::controller::Controller;
use crate::identity::Authority;
use crate::ids::Ids;
use crate::live::Live;
use crate::session::AgentApi;
use crate::store::Store;
use crate::vault::Vault;

/// Bytes of a message from people, other than a new job.
const MAX_API_MESSAGE: usize = 4 * 1024 * 1024;
/// Bytes of a message about users: a name, and a certificate request.
const MAX_USER_MESSAGE: usize = 64 * 1024;
/// Bytes of a message about jobs: the largest spec, and as many targets as a job may have, each by the longest name. What
/// is over the one limit is over the other, so that whoever passes it is told of targets, not of bytes.
const MAX_JOB_MESSAGE: usize = 8 * 1024 * 1024;
/// Bytes that a name in a list needs beside its characters.
const NAME_OVERHEAD: usize = 2;
const _: () = assert!(MAX_SPEC + MAX_TARGETS * (MAX_NAME_LENGTH + NAME_OVERHEAD) < MAX_JOB_MESSAGE);
/// Bytes of a message from an agent: what it says of its machine, one report, or a batch of log lines, the largest.
const MAX_AGENT_MESSAGE: usize = 4 * 1024 * 1024;

/// Everything that listeners serve, and the handle to what runs behind it.
pub struct Services {
    /// For people: jobs, nodes, apps, users, health, reflection.
    pub people: Routes,
    /// For agents: sessions, logs and renewals. Enrolment is added by whoever serves them to strangers.
    pub agents: Routes,
    /// What runs behind them.
    pub backstage: Backstage,
}

/// What runs behind the services.
#[derive(Clone)]
pub struct Backstage {
    store: Arc<dyn Store>,
    live: Arc<Live>,
    health: HealthReporter,
    /// Cancelled by a drain: from then on nobody says SERVING any more.
    draining: CancellationToken,
    closing: TaskTracker,
}

impl Services {
    /// Makes the services over a store that tells `live` of its commits. `pin` is that of the server's root certificate,
    /// `authority` certifies nodes and users.
    /// `vault` keeps passwords.
    ///
    /// Whoever serves them must put the caller's [`longshore_model::identity::Identity`] into the request's extensions,
    /// and check the caller's role.
    ///
    /// # Errors
    ///
    /// Descriptors that were built in are damaged.
    pub fn new(
        store: Arc<dyn Store>,
        live: Arc<Live>,
        pin: Pin,
        authority: Arc<Authority>,
        vault: Arc<Vault>,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let context = Context { store: Arc::clone(&store), live: Arc::clone(&live), ids: Arc::new(Ids::default()) };
        let health = HealthReporter::new();
        let closing = TaskTracker::new();
        let sessions = AgentApi {
            store: Arc::clone(&store),
            fleet: Arc::clone(&live.fleet),
            logs: Arc::clone(&live.logs),
            channels: Arc::clone(&live.channels),
            checks: Arc::clone(&live.checks),
            ids: Arc::clone(&context.ids),
            authority: Arc::clone(&authority),
            vault: Arc::clone(&vault),
            closing: closing.clone(),
        };
        let renewal_margin = trouble::renewal_margin(authority.node_life());
        let jobs = JobServiceServer::new(JobApi(context.clone())).max_decoding_message_size(MAX_JOB_MESSAGE);
        let nodes = NodeServiceServer::new(NodeApi { context: context.clone(), pin, renewal_margin });
        let users = UserServiceServer::new(UserApi { context: context.clone(), authority });
        let config_maps = ConfigMapServiceServer::new(ConfigMapApi::new(context.clone(), Arc::clone(&vault)));
        let secrets = SecretServiceServer::new(SecretApi::new(context.clone(), Arc::clone(&vault)));
        let credentials = CredentialApi { context: context.clone(), vault };
        let credentials = RegistryCredentialServiceServer::new(credentials);
        let templates = TemplateServiceServer::new(TemplateApi(context.clone()));
        let audit = AuditServiceServer::new(AuditApi(context.clone()));
        let apps = AppServiceServer::new(AppApi(context));
        let people = Routes::new(jobs)
            .add_service(nodes.max_decoding_message_size(MAX_API_MESSAGE))
            .add_service(users.max_decoding_message_size(MAX_USER_MESSAGE))
            .add_service(config_maps.max_decoding_message_size(MAX_API_MESSAGE))
            .add_service(secrets.max_decoding_message_size(MAX_API_MESSAGE))
            .add_service(credentials.max_decoding_message_size(MAX_API_MESSAGE))
            .add_service(apps.max_decoding_message_size(MAX_API_MESSAGE))
            .add_service(templates.max_decoding_message_size(MAX_API_MESSAGE))
            .add_service(audit.max_decoding_message_size(MAX_API_MESSAGE))
            .add_service(HealthServer::new(HealthService::from_health_reporter(health.clone())));
        Ok(Self {
            people: reflection::add(people)?,
            agents: Routes::new(AgentServiceServer::new(sessions).max_decoding_message_size(MAX_AGENT_MESSAGE)),
            backstage: Backstage { store, live, health, draining: CancellationToken::new(), closing },
        })
    }
}

impl Backstage {
    /// Reconciles and looks after the health until `shutdown`, or until the store has ended, without which nothing can be
    /// done; then says NOT_SERVING and returns.
    pub async fn run(&self, shutdown: CancellationToken) {
        let live = &self.live;
        let controller = Controller::new(Arc::clone(&self.store), Arc::clone(&live.fleet), Arc::clone(&live.wake));
        let over = shutdown.child_token();
        let health = async {
            tokio::select! {
                () = health::run(&self.health, self.store.as_ref(), &self.draining) => {}
                () = over.cancelled() => health::not_serving(&self.health).await,
            }
        };
        let reconciling = async {
            controller.run(shutdown).await;
            over.cancel();
        };
        tokio::join!(reconciling, health);
    }

    /// Ends all that would hold up a shutdown: sessions, watches, waits, plans that ask nodes and readers of logs; then waits until their ends
    /// are recorded. Call it first thing, while the listeners still serve; the store must outlive it.
    ///
    /// Returns after `limit` at the latest, and tells whether everything had ended by then.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.draining.cancel();
        health::not_serving(&self.health).await;
        self.live.hub.close();
        self.live.logs.close();
        self.live.channels.close();
        self.live.checks.close();
        let ended = async {
            self.live.fleet.drain().await;
            self.closing.close();
            self.closing.wait().await;
            self.live.channels.ended().await;
        };
        let in_time = tokio::time::timeout(limit, ended).await.is_ok();
        if !in_time {
            tracing::warn!("some sessions did not end in time");
        }
        health::end_watches(self.health.clone()).await;
        in_time
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::failing_store::FailingStore;

    #[tokio::test(start_paused = true)]
    async fn a_server_whose_store_has_ended_does_not_go_on_without_it() {
        let store = Arc::new(FailingStore::default());
        let pin = Pin::of(&b"the root certificate".as_slice().into());
        let authority = Arc::new(Authority::found("test", jiff::Timestamp::now()).unwrap().authority);
        let vault = Arc::new(Vault::new(std::path::Path::new("/nonexistent")));
        let services =
            Services::new(Arc::<FailingStore>::clone(&store), Arc::default(), pin, authority, vault).unwrap();
        store.end();
        let shutdown = CancellationToken::new();
        let run = services.backstage.run(shutdown.clone());
        tokio::time::timeout(Duration::from_secs(60), run).await.unwrap();
        assert!(!shutdown.is_cancelled());
    }
}
