//! The API as a client sees it, over mTLS.

use std::path::Path;
use std::time::Duration;

use longshore_proto::v1;
use longshore_proto::v1::app_service_client::AppServiceClient;
use longshore_proto::v1::job_service_client::JobServiceClient;
use longshore_proto::v1::node_service_client::NodeServiceClient;
use longshore_proto::v1::user_service_client::UserServiceClient;
use longshore_tls::{Credentials, KeepAlive};
use tonic::transport::Channel;

use crate::wait;

/// Clients of every service for people.
#[derive(Clone, Debug)]
pub struct Client {
    /// Jobs.
    pub jobs: JobServiceClient<Channel>,
    /// Nodes.
    pub nodes: NodeServiceClient<Channel>,
    /// Apps.
    pub apps: AppServiceClient<Channel>,
    /// Users.
    pub users: UserServiceClient<Channel>,
}

/// The seconds of a protobuf duration.
pub fn seconds(seconds: u64) -> prost_types::Duration {
    prost_types::Duration { seconds: seconds.cast_signed(), nanos: 0 }
}

impl Client {
    /// Connects with the credentials in `directory`.
    pub async fn connect(address: &str, directory: &Path) -> Self {
        let credentials = Credentials::load(
            &directory.join("root.crt"),
            &directory.join("client.crt"),
            &directory.join("client.key"),
        )
        .unwrap();
        let channel = longshore_tls::connect(address, &credentials, KeepAlive::default()).await.unwrap();
        Self {
            jobs: JobServiceClient::new(channel.clone()),
            nodes: NodeServiceClient::new(channel.clone()),
            apps: AppServiceClient::new(channel.clone()),
            users: UserServiceClient::new(channel),
        }
    }

    /// Creates a job for the named nodes.
    pub async fn create(&self, spec: v1::AppSpec, nodes: &[&str]) -> v1::Job {
        self.create_with(v1::CreateJobRequest {
            spec: Some(spec),
            targets: Some(v1::Targets {
                node_names: nodes.iter().map(|&name| name.to_owned()).collect(),
                ..Default::default()
            }),
            timeout: Some(seconds(60)),
            ..Default::default()
        })
        .await
    }

    /// Creates a job.
    pub async fn create_with(&self, request: v1::CreateJobRequest) -> v1::Job {
        self.jobs.clone().create_job(request).await.unwrap().into_inner().job.unwrap()
    }

    /// Starts anew what has not succeeded.
    pub async fn retry(&self, job_id: &str) {
        let request = v1::RetryJobRequest { job_id: job_id.to_owned(), ..Default::default() };
        self.jobs.clone().retry_job(request).await.unwrap();
    }

    /// The job as it is now.
    pub async fn job(&self, job_id: &str) -> v1::Job {
        let request = v1::GetJobRequest { job_id: job_id.to_owned(), ..Default::default() };
        self.jobs.clone().get_job(request).await.unwrap().into_inner().job.unwrap()
    }

    /// Waits until the job is final or STOPPED.
    pub async fn rest(&self, job_id: &str) -> v1::Job {
        let timeout = prost_types::Duration::try_from(wait::PATIENCE + Duration::from_secs(30)).unwrap();
        let request = v1::WaitJobRequest { job_id: job_id.to_owned(), timeout: Some(timeout) };
        self.jobs.clone().wait_job(request).await.unwrap().into_inner().job.unwrap()
    }

    /// All tasks of a job (of at most 1000).
    pub async fn tasks(&self, job_id: &str) -> Vec<v1::Task> {
        let request = v1::ListTasksRequest { job_id: job_id.to_owned(), page_size: 1000, ..Default::default() };
        self.jobs.clone().list_tasks(request).await.unwrap().into_inner().tasks
    }

    /// The only task of a job.
    pub async fn task(&self, job_id: &str) -> v1::Task {
        let mut tasks = self.tasks(job_id).await;
        assert_eq!(tasks.len(), 1);
        tasks.remove(0)
    }

    /// Waits until the job's only task is in `state`, or past it.
    pub async fn reach(&self, job_id: &str, state: v1::TaskState) -> v1::Task {
        wait::for_value(&format!("{} of job {job_id}", state.as_str_name()), || async {
            let task = self.task(job_id).await;
            (task.state >= i32::from(state)).then_some(task)
        })
        .await
    }

    /// All apps of a node.
    pub async fn apps_of(&self, node: &str) -> Vec<v1::App> {
        let request = v1::ListAppsRequest { node_name: node.to_owned(), page_size: 1000, ..Default::default() };
        self.apps.clone().list_apps(request).await.unwrap().into_inner().apps
    }

    /// One app.
    pub async fn app(&self, node: &str, app: &str) -> v1::App {
        let request = v1::GetAppRequest { node_name: node.to_owned(), app_name: app.to_owned() };
        self.apps.clone().get_app(request).await.unwrap().into_inner().app.unwrap()
    }

    /// One node.
    pub async fn node(&self, name: &str) -> v1::Node {
        let request = v1::GetNodeRequest { name: name.to_owned() };
        self.nodes.clone().get_node(request).await.unwrap().into_inner().node.unwrap()
    }

    /// Whether a node's session is live, and what it said of itself is known.
    pub async fn is_connected(&self, node: &str) -> bool {
        let request = v1::GetNodeRequest { name: node.to_owned() };
        match self.nodes.clone().get_node(request).await {
            Ok(answer) => answer.into_inner().node.is_some_and(|node| node.connected && node.info.is_some()),
            Err(_) => false,
        }
    }
}

/// A stream of one request.
pub fn once<T: Send + 'static>(message: T) -> impl tonic::IntoStreamingRequest<Message = T> {
    tokio_stream::once(message)
}
