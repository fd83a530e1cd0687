//! AppService.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use longshore_model::capability;
use longshore_model::job::Job;
use longshore_model::limits::{self, MAX_PAGE};
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::validate::{Path, Violations};
use longshore_proto::convert::{self, FromWire};
use longshore_proto::v1;
use tonic::{Code, Request, Response, Status, Streaming};
use v1::app_service_server::AppService;

use super::exec::{self, ExecStream};
use super::forward::{self, ForwardStream};
use super::pages::{Asked, Listing};
use super::repeats::Beside;
use super::{Context, filters, measured, node_and_app, optional_name, status};
use crate::session::logs::{DeskError, Event, Reader};
use crate::store::{EventsOf, StoreError};

/// Time for an agent to come with the logs that it was asked for: a round trip and a new stream, with much to spare.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

/// AppService.
pub struct AppApi(pub Context);

#[async_trait]
impl AppService for AppApi {
    type ExecAppStream = ExecStream;
    type ForwardPortStream = ForwardStream;
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
        let mut jobs: HashMap<(JobId, u32), Arc<Job>> = HashMap::new();
        let mut apps = Vec::with_capacity(found.items.len());
        for app in &found.items {
            let key = (app.job.clone(), app.spec_revision);
            let job = match jobs.get(&key) {
                Some(job) => Arc::clone(job),
                None => store.job_with_spec(&app.job, app.spec_revision).await.map_err(status::store)?,
            };
            apps.push(measured::app(&self.0.live.fleet, app, &job.spec));
            jobs.insert(key, job);
        }
        let (apps, next_page_token) = listing.close(&found, apps);
        Ok(Response::new(v1::ListAppsResponse { apps, next_page_token }))
    }

    async fn get_app(&self, request: Request<v1::GetAppRequest>) -> Result<Response<v1::GetAppResponse>, Status> {
        let request = request.into_inner();
        let (node, app) = node_and_app(request.node_name, request.app_name)?;
        let app = self.0.store.app(&node, &app).await.map_err(status::store)?;
        let job = self.0.store.job_with_spec(&app.job, app.spec_revision).await.map_err(status::store)?;
        let app = measured::app(&self.0.live.fleet, &app, &job.spec);
        Ok(Response::new(v1::GetAppResponse { app: Some(app) }))
    }

    async fn list_app_events(
        &self,
        request: Request<v1::ListAppEventsRequest>,
    ) -> Result<Response<v1::ListAppEventsResponse>, Status> {
        let request = request.into_inner();
        let instance = request.instance.map(|instance| instance.to_string()).unwrap_or_default();
        let since = request.since.map(|since| format!("{}.{}", since.seconds, since.nanos)).unwrap_or_default();
        let filters: [&str; 5] = [&request.app_name, &request.node_name, &instance, &since, &request.filter];
        let listing = Listing::new("ListAppEvents", &filters);
        let mut bad = Violations::default();
        let of = EventsOf {
            app: optional_name(request.app_name.clone(), "app_name", &mut bad),
            node: optional_name(request.node_name.clone(), "node_name", &mut bad),
            instance: request.instance,
            since: request.since.and_then(|since| Timestamp::from_wire(since, Path::Root.field("since"), &mut bad)),
        };
        let filter = filters::read(&request.filter, filters::APP_EVENTS, &mut bad);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, (!filter.is_empty()).then_some(MAX_PAGE), &mut bad);
        bad.or(()).map_err(status::invalid)?;
        while scan.goes_on() {
            let page = self.0.store.app_events(of.clone(), scan.query()).await.map_err(status::store)?;
            scan.take(page, |event| filter.matches(|field| filters::app_event(event, field)));
        }
        let found = scan.finish();
        let (events, next_page_token) = listing.close(&found, found.items.iter().map(v1::AppEvent::from).collect());
        Ok(Response::new(v1::ListAppEventsResponse { events, next_page_token }))
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
        let reader = self.reader(&wanted).await?;
        Ok(Response::new(lines(reader, wanted.node.clone(), wanted.name())))
    }

    async fn get_log_files(
        &self,
        request: Request<v1::GetLogFilesRequest>,
    ) -> Result<Response<v1::GetLogFilesResponse>, Status> {
        let v1::GetLogFilesRequest { node_name, app_name, instance } = request.into_inner();
        let (node, app) = node_and_app(node_name, app_name)?;
        let request = v1::ReadLogsRequest { instance, ..Default::default() };
        let wanted = Wanted { node, app, request, since: None, list_files: true };
        let mut reader = self.reader(&wanted).await?;
        let mut files = Vec::new();
        loop {
            match tokio::time::timeout(AGENT_TIMEOUT, reader.next()).await {
                // One message has all of them: what comes again takes its place.
                Ok(Ok(Event::Files(all))) => files = all,
                Ok(Ok(Event::Done)) => return Ok(Response::new(v1::GetLogFilesResponse { files })),
                Ok(Ok(Event::NotFound)) => {
                    return Err(status::store(StoreError::NotFound { kind: "log", name: wanted.name() }));
                }
                Ok(Ok(Event::Arrived | Event::Lines(_))) => {}
                Ok(Err(error)) => return Err(desk(error, &wanted.node)),
                Err(_) => return Err(silent(&wanted.node)),
            }
        }
    }

    async fn exec_app(
        &self,
        request: Request<Streaming<v1::ExecAppRequest>>,
    ) -> Result<Response<Self::ExecAppStream>, Status> {
        exec::begin(&self.0, request).await
    }

    async fn forward_port(
        &self,
        request: Request<Streaming<v1::ForwardPortRequest>>,
    ) -> Result<Response<Self::ForwardPortStream>, Status> {
        forward::begin(&self.0, request).await
    }
}

impl AppApi {
    /// Asks the node, and waits until its agent has come.
    async fn reader(&self, wanted: &Wanted) -> Result<Reader, Status> {
        let node = &wanted.node;
        let known = self.0.store.node(node).await.map_err(status::store)?;
        let told = known.info.map(|info| info.capabilities).unwrap_or_default();
        if let Some(word) = wanted.needs().filter(|word| !told.iter().any(|said| said == word)) {
            let message = format!("the agent of node {node} does not offer {word}, which this needs");
            return Err(status::plain(Code::FailedPrecondition, "NODE_TOO_OLD", message));
        }
        let live = &self.0.live;
        let mut reader = live.logs.wait(node, self.0.ids.text()).map_err(|error| desk(error, node))?;
        let ask = wanted.ask(reader.request_id().to_owned());
        live.fleet.ask_for_logs(node, ask).map_err(|error| status::fleet(error, node))?;
        // Nothing but `Arrived` comes first.
        match tokio::time::timeout(AGENT_TIMEOUT, reader.next()).await {
            Ok(arrived) => arrived.map(|_| reader).map_err(|error| desk(error, node)),
            Err(_) => Err(silent(node)),
        }
    }
}

/// The error of a node whose agent does not come.
fn silent(node: &NodeName) -> Status {
    let message = format!("the agent of node {node} did not answer within {} s", AGENT_TIMEOUT.as_secs());
    status::later(Code::Unavailable, "NODE_NOT_ANSWERING", message)
}

/// Which logs a caller asks for.
struct Wanted {
    node: NodeName,
    app: AppName,
    request: v1::ReadLogsRequest,
    since: Option<Duration>,
    /// Not lines are asked for, but which files there are.
    list_files: bool,
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
        if !request.file.is_empty() && (request.previous || since.is_some()) {
            let description =
                "is not for the lines of a file, which have neither time nor run; leave one of the two out";
            bad.add(Path::Root.field("file"), description);
        }
        if request.file.len() > limits::MAX_PATH_SEGMENT || request.file.contains(['/', '\0']) {
            bad.add(Path::Root.field("file"), "must be the name of a file, as GetLogFiles has it");
        }
        match node.zip(app).filter(|_| bad.0.is_empty()) {
            Some((node, app)) => Ok(Self { node, app, request, since: since.flatten(), list_files: false }),
            None => Err(status::invalid(bad)),
        }
    }

    /// What the node has to be able to do for it, if not every agent is.
    fn needs(&self) -> Option<&'static str> {
        if self.list_files || !self.request.file.is_empty() {
            Some(capability::LOGS_DIRECTORY)
        } else {
            (self.request.previous || self.since.is_some()).then_some(capability::LOGS)
        }
    }

    /// What it is called where it cannot be found.
    fn name(&self) -> String {
        let v1::ReadLogsRequest { instance, previous, file, .. } = &self.request;
        let instance = format!("{}-{instance}", self.app);
        match (self.list_files, previous) {
            (true, _) => format!("{instance} (log directory)"),
            (_, true) => format!("{instance} (previous run)"),
            _ if file.is_empty() => instance,
            _ => format!("{instance} ({file})"),
        }
    }

    fn ask(&self, request_id: String) -> v1::LogRequest {
        let v1::ReadLogsRequest { instance, tail_lines, follow, previous, ref file, .. } = self.request;
        let (app_name, since) = (self.app.to_string(), self.since.map(convert::duration));
        let (file, list_files) = (file.clone(), self.list_files);
        v1::LogRequest { request_id, app_name, instance, tail_lines, follow, since, previous, file, list_files }
    }
}

/// The stream of a reader: ends when the upload is complete, or with an error.
fn lines(reader: Reader, node: NodeName, instance: String) -> BoxStream<'static, Result<v1::ReadLogsResponse, Status>> {
    let step = |place: Option<(Reader, NodeName, String)>| async move {
        let (mut reader, node, instance) = place?;
        loop {
            return match reader.next().await {
                Ok(Event::Arrived | Event::Files(_)) => continue,
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
        DeskError::Full(_) | DeskError::NodeFull(_) => {
            status::later(Code::ResourceExhausted, "TOO_MANY_READERS", message)
        }
        DeskError::Closed => status::later(Code::Unavailable, "SHUTTING_DOWN", message),
        DeskError::BrokenOff => {
            status::later(Code::Unavailable, "LOGS_BROKEN_OFF", format!("the logs of node {node} broke off"))
        }
    }
}
