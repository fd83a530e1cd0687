//! The way to the server: credentials, one channel, one client for each service.

use std::path::Path;
use std::time::Duration;

use longshore_proto::v1;
use longshore_proto::v1::app_service_client::AppServiceClient;
use longshore_proto::v1::audit_service_client::AuditServiceClient;
use longshore_proto::v1::config_map_service_client::ConfigMapServiceClient;
use longshore_proto::v1::job_service_client::JobServiceClient;
use longshore_proto::v1::node_service_client::NodeServiceClient;
use longshore_proto::v1::registry_credential_service_client::RegistryCredentialServiceClient;
use longshore_proto::v1::secret_service_client::SecretServiceClient;
use longshore_proto::v1::template_service_client::TemplateServiceClient;
use longshore_proto::v1::user_service_client::UserServiceClient;
use longshore_tls::{Credentials, KeepAlive};
use tonic::Request;
use tonic::transport::Channel;

use crate::connection::Connection;
use crate::error::Error;

/// Items asked for at once: the most that a server gives.
pub(crate) const PAGE: i32 = 1000;
/// How long a call may take that answers at once: longer than the server's longest commit under load, shorter than
/// people's patience.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The clients of all services, on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Jobs.
    pub(crate) jobs: JobServiceClient<Channel>,
    /// Nodes.
    pub(crate) nodes: NodeServiceClient<Channel>,
    /// Apps.
    pub(crate) apps: AppServiceClient<Channel>,
    /// The audit log.
    pub(crate) audit: AuditServiceClient<Channel>,
    /// Users.
    pub(crate) users: UserServiceClient<Channel>,
    /// Registry credentials.
    pub(crate) registries: RegistryCredentialServiceClient<Channel>,
    /// Config maps.
    pub(crate) config_maps: ConfigMapServiceClient<Channel>,
    /// Templates.
    pub(crate) templates: TemplateServiceClient<Channel>,
    /// Secrets.
    pub(crate) secrets: SecretServiceClient<Channel>,
}

/// A request with the deadline of calls that answer at once.
pub(crate) fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// All items of a list, page after page; `fetch` gets the token of a page, and returns what is on it and the next token.
pub(crate) async fn all_pages<T>(
    mut fetch: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Error>,
) -> Result<Vec<T>, Error> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let (items, next) = fetch(page_token).await?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        page_token = next;
    }
}

impl Client {
    /// Reads the credentials and connects.
    pub(crate) async fn connect(connection: &Connection) -> Result<Self, Error> {
        let directory = connection.credentials();
        let credentials = load(&directory)?;
        let channel = longshore_tls::connect(&connection.server, &credentials, KeepAlive::default()).await?;
        Ok(Self::over(channel))
    }

    /// Clients over a channel that exists.
    pub(crate) fn over(channel: Channel) -> Self {
        Self {
            jobs: JobServiceClient::new(channel.clone()),
            nodes: NodeServiceClient::new(channel.clone()),
            apps: AppServiceClient::new(channel.clone()),
            audit: AuditServiceClient::new(channel.clone()),
            users: UserServiceClient::new(channel.clone()),
            registries: RegistryCredentialServiceClient::new(channel.clone()),
            config_maps: ConfigMapServiceClient::new(channel.clone()),
            templates: TemplateServiceClient::new(channel.clone()),
            secrets: SecretServiceClient::new(channel),
        }
    }

    /// One job and all its tasks.
    pub(crate) async fn job_with_tasks(&mut self, job_id: &str) -> Result<(v1::Job, Vec<v1::Task>), Error> {
        let request = v1::GetJobRequest { job_id: job_id.to_owned(), ..Default::default() };
        let job = self.jobs.get_job(call(request)).await?.into_inner().job.unwrap_or_default();
        let tasks = all_pages(async |page_token| {
            let request =
                v1::ListTasksRequest { job_id: job_id.to_owned(), page_size: PAGE, page_token, ..Default::default() };
            let page = self.jobs.list_tasks(call(request)).await?.into_inner();
            Ok((page.tasks, page.next_page_token))
        })
        .await?;
        Ok((job, tasks))
    }

    /// At most `limit` jobs that match a filter, in an order, and whether there may be more. An empty filter matches all,
    /// an empty order is newest first.
    pub(crate) async fn list_jobs(
        &mut self,
        filter: &str,
        order_by: &str,
        limit: i32,
    ) -> Result<(Vec<v1::Job>, bool), Error> {
        let mut jobs = Vec::new();
        let mut page_token = String::new();
        loop {
            let left = limit.saturating_sub(i32::try_from(jobs.len()).unwrap_or(limit));
            let request = v1::ListJobsRequest {
                page_size: left,
                page_token,
                filter: filter.to_owned(),
                order_by: order_by.to_owned(),
            };
            let page = self.jobs.list_jobs(call(request)).await?.into_inner();
            jobs.extend(page.jobs);
            page_token = page.next_page_token;
            let is_full = i32::try_from(jobs.len()).is_ok_and(|count| count >= limit);
            if page_token.is_empty() || is_full {
                return Ok((jobs, !page_token.is_empty()));
            }
        }
    }

    /// All nodes that match a selector and a filter, in an order. An empty selector or filter matches all, an empty order
    /// is by name.
    pub(crate) async fn list_nodes(
        &mut self,
        selector: &str,
        filter: &str,
        order_by: &str,
    ) -> Result<Vec<v1::Node>, Error> {
        all_pages(async |page_token| {
            let request = v1::ListNodesRequest {
                page_size: PAGE,
                page_token,
                selector: selector.to_owned(),
                filter: filter.to_owned(),
                order_by: order_by.to_owned(),
            };
            let page = self.nodes.list_nodes(call(request)).await?.into_inner();
            Ok((page.nodes, page.next_page_token))
        })
        .await
    }

    /// All apps of a node and of a name; an empty one means all.
    pub(crate) async fn list_apps(&mut self, node_name: &str, app_name: &str) -> Result<Vec<v1::App>, Error> {
        self.list_matching_apps(node_name, app_name, "", "").await
    }

    /// All apps of a node and of a name that match a filter, in an order. An empty node, name or filter means all, an empty
    /// order is by node and name.
    pub(crate) async fn list_matching_apps(
        &mut self,
        node_name: &str,
        app_name: &str,
        filter: &str,
        order_by: &str,
    ) -> Result<Vec<v1::App>, Error> {
        all_pages(async |page_token| {
            let request = v1::ListAppsRequest {
                page_size: PAGE,
                page_token,
                node_name: node_name.to_owned(),
                app_name: app_name.to_owned(),
                filter: filter.to_owned(),
                order_by: order_by.to_owned(),
            };
            let page = self.apps.list_apps(call(request)).await?.into_inner();
            Ok((page.apps, page.next_page_token))
        })
        .await
    }
}

/// Reads root.crt, client.crt and client.key.
pub(crate) fn load(directory: &Path) -> Result<Credentials, Error> {
    let file = |name: &str| directory.join(name);
    Credentials::load(&file("root.crt"), &file("client.crt"), &file("client.key")).map_err(|error| {
        Error::new(format!(
            "{}\nCredentials are root.crt, client.crt and client.key in the directory given by --credentials or \
             LONGSHORE_CREDENTIALS; `longshore-server init` makes the first ones, in `admin` of its data directory.",
            longshore_tls::with_causes(&error)
        ))
    })
}
