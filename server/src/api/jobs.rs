//! JobService.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use longshore_model::cause::{Group, Grouping};
use longshore_model::job::Job;
use longshore_model::limits::MAX_PAGE;
use longshore_model::name::JobId;
use longshore_model::task::Task;
use longshore_model::validate::Violations;
use longshore_proto::convert::FromWire;
use longshore_proto::v1;
use tonic::{Request, Response, Status};
use v1::job_service_server::JobService;

use super::amend::Amended;
use super::pages::{Asked, Listing};
use super::plan::Plan;
use super::repeats::{Beside, Repeatable};
use super::watch::{Cursor, Watch};
use super::{Context, filters, job_id, new_job, record, status};
use crate::hub::{Interest, Snapshot, Subscription};
use crate::store::sorting::Query;
use crate::store::{Chosen, JobRequest, Terms};

/// Jobs read at once where most may not be wanted: each comes with its spec, up to half a megabyte.
const SCANNED_JOBS: usize = 100;
/// Longest wait of one call: a caller that wants more asks again, and notices meanwhile that it is still connected.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// JobService.
pub struct JobApi(pub Context);

impl JobApi {
    async fn request(&self, id: String, request: JobRequest, terms: Terms) -> Result<Option<v1::Job>, Status> {
        let id = job_id(id)?;
        let validate_only = terms.validate_only;
        let job = self.0.store.request(&id, request.clone(), terms, Timestamp::now()).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(job = %id, ?request, state = %job.state(), "request taken");
        }
        Ok(Some(v1::Job::from(job.as_ref())))
    }

    fn subscribe(&self, id: &JobId, interest: Interest) -> Result<Subscription, Status> {
        self.0.live.hub.subscribe(id, interest).map_err(status::hub)
    }
}

#[async_trait]
impl JobService for JobApi {
    type PlanJobStream = BoxStream<'static, Result<v1::PlanJobResponse, Status>>;
    type WatchJobStream = BoxStream<'static, Result<v1::WatchJobResponse, Status>>;

    async fn create_job(
        &self,
        request: Request<v1::CreateJobRequest>,
    ) -> Result<Response<v1::CreateJobResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let (store, now) = (self.0.store.as_ref(), Timestamp::now());
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let Terms { request: key, validate_only, .. } = Beside::read(&mut request, &caller, &mut bad).terms();
        if let Some(key) = &key
            && let Some(job) = store.created(key, now).await.map_err(status::store)?
        {
            record::about(format!("jobs/{}", job.id), false);
            return Ok(Response::new(v1::CreateJobResponse { job: Some(v1::Job::from(job.as_ref())) }));
        }
        let id = self.0.ids.job().map_err(|error| status::internal(&error))?;
        let mut new = new_job::make(store, request, id, caller.name(), now, bad).await?;
        if validate_only {
            if new.job.kind.needs_app() {
                store.check_not_busy(&new.job.app, new.nodes).await.map_err(status::store)?;
            }
            return Ok(Response::new(v1::CreateJobResponse { job: Some(new_job::preview(&new.job)) }));
        }
        new.request = key;
        let job = store.create_job(new).await.map_err(status::store)?;
        record::about(format!("jobs/{}", job.id), false);
        tracing::info!(job = %job.id, kind = %job.kind, app = %job.app, nodes = job.counts.total(), creator = job.creator, "job created");
        Ok(Response::new(v1::CreateJobResponse { job: Some(v1::Job::from(job.as_ref())) }))
    }

    async fn plan_job(&self, request: Request<v1::PlanJobRequest>) -> Result<Response<Self::PlanJobStream>, Status> {
        let caller = status::caller(&request)?.name();
        let plan = Plan::begin(&self.0, request.into_inner(), caller).await?;
        Ok(Response::new(plan.messages()))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        let v1::GetJobRequest { job_id: id, spec_revision } = request.into_inner();
        let id = job_id(id)?;
        let job = match spec_revision {
            0 => self.0.store.job(&id).await,
            revision => self.0.store.job_with_spec(&id, revision).await,
        };
        let job = job.map_err(status::store)?;
        Ok(Response::new(v1::GetJobResponse { job: Some(v1::Job::from(job.as_ref())) }))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let filters = [request.filter.as_str()];
        let listing = Listing::new("ListJobs", &filters);
        let mut bad = Violations::default();
        let filter = filters::read(&request.filter, filters::JOBS, &mut bad);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, (!filter.is_empty()).then_some(SCANNED_JOBS), &mut bad);
        bad.or(()).map_err(status::invalid)?;
        while scan.goes_on() {
            let page = self.0.store.jobs(scan.query()).await.map_err(status::store)?;
            scan.take(page, |job| filter.matches(|field| filters::job(job, field)));
        }
        let found = scan.finish();
        let jobs = found.items.iter().map(|job| v1::Job::from(job.as_ref())).collect();
        let (jobs, next_page_token) = listing.close(&found, jobs);
        Ok(Response::new(v1::ListJobsResponse { jobs, next_page_token }))
    }

    async fn watch_job(&self, request: Request<v1::WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = request.into_inner();
        let mut bad = Violations::default();
        let id = JobId::from_wire(request.job_id, longshore_model::validate::Path::Root.field("job_id"), &mut bad);
        let cursor = Cursor::read(&request.cursor, &mut bad);
        let Some(id) = id.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let store = &self.0.store;
        let epoch = store.epoch();
        if let Some(cursor) = &cursor {
            cursor.check(&id, epoch).map_err(status::cursor)?;
        }
        // Subscribed first, so that nothing is missed between the snapshot and the first change.
        let mut subscription = self.subscribe(&id, Interest::JobAndTasks)?;
        let seen = cursor.as_ref().map(|cursor| cursor.seen().clone()).unwrap_or_default();
        let (job, tasks) = store.job_with_tasks(&id, &seen).await.map_err(status::store)?;
        if let Some(cursor) = &cursor {
            cursor.check_version(&job).map_err(status::cursor)?;
        }
        let known = cursor.as_ref().map(Cursor::version);
        subscription.begin(Snapshot { job, tasks, known }).map_err(status::hub)?;
        Ok(Response::new(Watch { subscription, epoch }.messages()))
    }

    async fn wait_job(&self, request: Request<v1::WaitJobRequest>) -> Result<Response<v1::WaitJobResponse>, Status> {
        let request = request.into_inner();
        let mut bad = Violations::default();
        let id = JobId::from_wire(request.job_id, longshore_model::validate::Path::Root.field("job_id"), &mut bad);
        let timeout = match request.timeout.map(|timeout| Duration::read_field(timeout, "timeout")) {
            None => MAX_WAIT,
            Some(Ok(timeout)) => timeout.min(MAX_WAIT),
            Some(Err(found)) => {
                bad.0.extend(found.0);
                MAX_WAIT
            }
        };
        let Some(id) = id.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let mut subscription = self.subscribe(&id, Interest::Job)?;
        let job = self.0.store.job(&id).await.map_err(status::store)?;
        let snapshot = Snapshot { job: Arc::clone(&job), tasks: Vec::new(), known: None };
        subscription.begin(snapshot).map_err(status::hub)?;
        let job = wait(&mut subscription, job, timeout).await?;
        Ok(Response::new(v1::WaitJobResponse { job: Some(v1::Job::from(job.as_ref())) }))
    }

    async fn stop_job(&self, request: Request<v1::StopJobRequest>) -> Result<Response<v1::StopJobResponse>, Status> {
        let (request, terms) = read(request)?;
        let stop = JobRequest::Stop { cancel_in_flight: request.cancel_in_flight };
        let job = self.request(request.job_id, stop, terms).await?;
        Ok(Response::new(v1::StopJobResponse { job }))
    }

    async fn resume_job(
        &self,
        request: Request<v1::ResumeJobRequest>,
    ) -> Result<Response<v1::ResumeJobResponse>, Status> {
        let (request, terms) = read(request)?;
        let job = self.request(request.job_id, JobRequest::Resume, terms).await?;
        Ok(Response::new(v1::ResumeJobResponse { job }))
    }

    async fn retry_job(&self, request: Request<v1::RetryJobRequest>) -> Result<Response<v1::RetryJobResponse>, Status> {
        let (request, terms) = read(request)?;
        let mut bad = Violations::default();
        let filter = filters::read(&request.filter, filters::TASKS, &mut bad);
        bad.or(()).map_err(status::invalid)?;
        let chosen = (!filter.is_empty()).then(|| {
            let is_chosen = move |task: &Task| filters::matches_task(&filter, task);
            Chosen(Arc::new(is_chosen))
        });
        let retry = match Amended::of(request.spec, request.template) {
            None => chosen.map_or(JobRequest::Retry, JobRequest::RetryOf),
            Some(amended) => {
                let store = self.0.store.as_ref();
                let id = job_id(request.job_id.clone())?;
                let known = terms.request.as_ref();
                if let Some(known) = known
                    && let Some(job) = store.created(known, Timestamp::now()).await.map_err(status::store)?
                {
                    // What it named may have gone since.
                    let job = store.job(&job.id).await.map_err(status::store)?;
                    return Ok(Response::new(v1::RetryJobResponse { job: Some(v1::Job::from(job.as_ref())) }));
                }
                let job = store.job(&id).await.map_err(status::store)?;
                let spec = Box::new(amended.check(store, &job, chosen.as_ref()).await?);
                JobRequest::RetryWith { spec, chosen }
            }
        };
        let job = self.request(request.job_id, retry, terms).await?;
        Ok(Response::new(v1::RetryJobResponse { job }))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let request = request.into_inner();
        let filters = [request.job_id.as_str(), request.filter.as_str()];
        let listing = Listing::new("ListTasks", &filters);
        let mut bad = Violations::default();
        let id =
            JobId::from_wire(request.job_id.clone(), longshore_model::validate::Path::Root.field("job_id"), &mut bad);
        let filter = filters::read(&request.filter, filters::TASKS, &mut bad);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, (!filter.is_empty()).then_some(MAX_PAGE), &mut bad);
        let Some(id) = id.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        while scan.goes_on() {
            let page = self.0.store.tasks(&id, scan.query()).await.map_err(status::store)?;
            scan.take(page, |task| filters::matches_task(&filter, task));
        }
        let found = scan.finish();
        let (tasks, next_page_token) = listing.close(&found, found.items.iter().map(v1::Task::from).collect());
        Ok(Response::new(v1::ListTasksResponse { tasks, next_page_token }))
    }

    async fn group_failures(
        &self,
        request: Request<v1::GroupFailuresRequest>,
    ) -> Result<Response<v1::GroupFailuresResponse>, Status> {
        let id = job_id(request.into_inner().job_id)?;
        let mut grouping = Grouping::default();
        let mut next = Some(Query::first(MAX_PAGE));
        while let Some(query) = next {
            let page = self.0.store.tasks(&id, query.clone()).await.map_err(status::store)?;
            next = query.next(&page);
            page.items.into_iter().for_each(|task| grouping.add(task));
        }
        let found = grouping.finish();
        let groups = found.groups.into_iter().map(failure_group).collect();
        Ok(Response::new(v1::GroupFailuresResponse { groups, other_tasks: found.others }))
    }
}

fn failure_group(group: Group<Task>) -> v1::FailureGroup {
    v1::FailureGroup {
        filter: format!("failure.cause = \"{}\"", group.cause),
        cause: group.cause,
        reason: v1::FailureReason::from(group.reason).into(),
        pattern: group.shape,
        tasks: group.count,
        example: Some(v1::Task::from(&group.example)),
    }
}

/// A request for a job, and what it says beside its effect.
fn read<R: Repeatable>(request: Request<R>) -> Result<(R, Terms), Status> {
    let caller = status::caller(&request)?.clone();
    let mut request = request.into_inner();
    let mut bad = Violations::default();
    let terms = Beside::read(&mut request, &caller, &mut bad).terms();
    bad.or((request, terms)).map_err(status::invalid)
}

/// The job when it is at rest, or as it is when the time is over.
async fn wait(subscription: &mut Subscription, mut job: Arc<Job>, timeout: Duration) -> Result<Arc<Job>, Status> {
    let over = tokio::time::sleep(timeout);
    tokio::pin!(over);
    while !job.state().is_at_rest() {
        tokio::select! {
            () = &mut over => break,
            news = subscription.next(0) => job = news.map_err(status::hub)?.job,
        }
    }
    Ok(job)
}
