//! AppService.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use longshore_model::capability;
use longshore_model::job::Job;
use longshore_model::limits::MAX_PAGE;
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::validate::{Path, Violations};
use longshore_proto::convert::{self, FromWire};
use longshore_proto::v1;
use tonic::{Code, Request, Response, Status, Streaming};
use v1::app_service_server::AppService;

use super::exec::{self, ExecStream};
use super::pages::{Asked, Listing};
use super::repeats::Beside;
use super::{Context, filters, node_and_app, optional_name, status};
use crate::session::logs::{DeskError, Event, Reader};
use crate::store::StoreError;

/// Time for an agent to come with the logs that it was asked for: a round trip and a new stream, with much to spare.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

/// AppService.
pub struct AppApi(pub Context);

#[async_trait]
impl AppService for AppApi {
    type ExecAppStream = ExecStream;
    type ReadLogsStream = BoxStream<'static, Result<v1::ReadLogsResponse, Status>>;

    async fn list_apps(&self, request: Request<v1::ListAppsRequest>) -> Result<Response<v1::ListAppsResponse>, Status> {
        let request = request.into_inner();
        let filters = [request.node_name.as_str(), request.app_name.as_str(), request.filter.as_str()];
        let listing = Listing::new("ListApps", &filters);
        let mut bad = Violations::default();
        let node: Option<NodeName> = optional_name(request.node_name.clone(), "node_name", &mut bad);
        let app: Option<AppName> = optional_name(request.app_name.clone(), "app_name", &mut bad);
        let filter = filters::read(&request.filter, filters::APPS, &mut bad);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, (!filter.is_empty()).then_some(MAX_PAGE), &mut bad);
        bad.or(()).map_err(status::invalid)?;
        let store = &self.0.store;
        while scan.goes_on() {
            let page = store.apps(node.as_ref(), app.as_ref(), scan.query()).await.map_err(status::store)?;
            scan.take(page, |app| filter.matches(|field| filters::app(app, field)));
        }
        let found = scan.finish();
        let mut jobs: HashMap<JobId, Arc<Job>> = HashMap::new();
        let mut apps = Vec::with_capacity(found.items.len());
        for app in &found.items {
            let job = match jobs.get(&app.job) {
                Some(job) => Arc::clone(job),
                None => store.job(&app.job).await.map_err(status::store)?,
            };
            apps.push(convert::app(app, &job.spec));
            jobs.insert(app.job.clone(), job);
        }
        let (apps, next_page_token) = listing.close(&found, apps);
        Ok(Response::new(v1::ListAppsResponse { apps, next_page_token }))
    }

    async fn get_app(&self, request: Request<v1::GetAppRequest>) -> Result<Response<v1::GetAppResponse>, Status> {
        let request = request.into_inner();
        let (node, app) = node_and_app(request.node_name, request.app_name)?;
        let app = self.0.store.app(&node, &app).await.map_err(status::store)?;
        let job = self.0.store.job(&app.job).await.map_err(status::store)?;
        Ok(Response::new(v1::GetAppResponse { app: Some(convert::app(&app, &job.spec)) }))
    }

    async fn remove_app(
        &self,
        request: Request<v1::RemoveAppRequest>,
    ) -> Result<Response<v1::RemoveAppResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let app = AppName::from_wire(request.app_name, Path::Root.field("app_name"), &mut bad);
        let node: Option<NodeName> = optional_name(request.node_name, "node_name", &mut bad);
        let Some(app) = app.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let (validate_only, terms) = (beside.validate_only, beside.terms());
        let nodes =
            self.0.store.remove_app(&app, node.as_ref(), terms, Timestamp::now()).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(%app, nodes, "app is being removed");
        }
        Ok(Response::new(v1::RemoveAppResponse { nodes }))
    }

    async fn read_logs(&self, request: Request<v1::ReadLogsRequest>) -> Result<Response<Self::ReadLogsStream>, Status> {
        let wanted = Wanted::read(request.into_inner())?;
        let node = wanted.node.clone();
        let known = self.0.store.node(&node).await.map_err(status::store)?;
        let told = known.info.map(|info| info.capabilities).unwrap_or_default();
        if wanted.needs_choice() && !told.iter().any(|word| word == capability::LOGS) {
            let message = format!("the agent of node {node} is too old to choose among logs by time or run");
            return Err(status::plain(Code::FailedPrecondition, "NODE_TOO_OLD", message));
        }
        let name = wanted.name();
        let live = &self.0.live;
        let mut reader = live.logs.wait(&node, self.0.ids.text()).map_err(|error| desk(error, &node))?;
        let ask = wanted.ask(reader.request_id().to_owned());
        live.fleet.ask_for_logs(&node, ask).map_err(|error| status::fleet(error, &node))?;
        // Nothing but `Arrived` comes first.
        match tokio::time::timeout(AGENT_TIMEOUT, reader.next()).await {
            Ok(arrived) => arrived.map_err(|error| desk(error, &node))?,
            Err(_) => {
                let message = format!("the agent of node {node} did not answer within {} s", AGENT_TIMEOUT.as_secs());
                return Err(status::later(Code::Unavailable, "NODE_NOT_ANSWERING", message));
            }
        };
        Ok(Response::new(lines(reader, node, name)))
    }

    async fn exec_app(
        &self,
        request: Request<Streaming<v1::ExecAppRequest>>,
    ) -> Result<Response<Self::ExecAppStream>, Status> {
        exec::begin(&self.0, request).await
    }
}

/// Which logs a caller asks for.
struct Wanted {
    node: NodeName,
    app: AppName,
    request: v1::ReadLogsRequest,
    since: Option<Duration>,
}

impl Wanted {
    fn read(mut request: v1::ReadLogsRequest) -> Result<Self, Status> {
        let mut bad = Violations::default();
        let node = NodeName::from_wire(std::mem::take(&mut request.node_name), Path::Root.field("node_name"), &mut bad);
        let app = AppName::from_wire(std::mem::take(&mut request.app_name), Path::Root.field("app_name"), &mut bad);
        let since = request.since.take().map(|since| Duration::from_wire(since, Path::Root.field("since"), &mut bad));
        if request.previous && request.follow {
            bad.add(
                Path::Root.field("follow"),
                "is not for a previous run, which says nothing more; leave one of the two out",
            );
        }
        match node.zip(app).filter(|_| bad.0.is_empty()) {
            Some((node, app)) => Ok(Self { node, app, request, since: since.flatten() }),
            None => Err(status::invalid(bad)),
        }
    }

    /// Whether the first agents would not understand it.
    fn needs_choice(&self) -> bool {
        self.request.previous || self.since.is_some()
    }

    /// What it is called where it cannot be found.
    fn name(&self) -> String {
        let run = if self.request.previous { " (previous run)" } else { "" };
        format!("{}-{}{run}", self.app, self.request.instance)
    }

    fn ask(&self, request_id: String) -> v1::LogRequest {
        let v1::ReadLogsRequest { instance, tail_lines, follow, previous, .. } = self.request;
        let (app_name, since) = (self.app.to_string(), self.since.map(convert::duration));
        v1::LogRequest { request_id, app_name, instance, tail_lines, follow, since, previous }
    }
}

/// The stream of a reader: ends when the upload is complete, or with an error.
fn lines(reader: Reader, node: NodeName, instance: String) -> BoxStream<'static, Result<v1::ReadLogsResponse, Status>> {
    let step = |place: Option<(Reader, NodeName, String)>| async move {
        let (mut reader, node, instance) = place?;
        loop {
            return match reader.next().await {
                Ok(Event::Arrived) => continue,
                Ok(Event::Lines(lines)) => Some((Ok(v1::ReadLogsResponse { lines }), Some((reader, node, instance)))),
                Ok(Event::Done) => None,
                Ok(Event::NotFound) => {
                    let name = instance.clone();
                    let error = StoreError::NotFound { kind: "log", name };
                    Some((Err(status::store(error)), None))
                }
                Err(error) => Some((Err(desk(error, &node)), None)),
            };
        }
    };
    stream::unfold(Some((reader, node, instance)), step).boxed()
}

/// What a failure at the desk means for the reader.
fn desk(error: DeskError, node: &NodeName) -> Status {
    let message = error.to_string();
    match error {
        DeskError::Full | DeskError::NodeFull => status::later(Code::ResourceExhausted, "TOO_MANY_READERS", message),
        DeskError::Closed => status::later(Code::Unavailable, "SHUTTING_DOWN", message),
        DeskError::BrokenOff => {
            status::later(Code::Unavailable, "LOGS_BROKEN_OFF", format!("the logs of node {node} broke off"))
        }
    }
}
