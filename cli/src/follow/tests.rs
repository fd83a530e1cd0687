//! Against a real gRPC server whose watches follow a script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use longshore_proto::v1::job_service_server::{JobService, JobServiceServer};
use longshore_proto::v1::{self, Job, JobState, Task, TaskState, WatchJobResponse};
use tonic::transport::{Endpoint, Server, server::TcpIncoming};
use tonic::{Request, Response};

use super::*;
use crate::output::Format;

/// What one watch says before it ends.
type Script = Vec<Result<WatchJobResponse, Status>>;

/// Answers each watch by the next script; a watch without one is not found.
#[derive(Clone, Default)]
struct Scripted {
    scripts: Arc<Mutex<VecDeque<Script>>>,
    /// Of each watch, as it was asked for.
    cursors: Arc<Mutex<Vec<String>>>,
}

macro_rules! not_scripted {
    ($($method:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl JobService for Scripted {
            type PlanJobStream = BoxStream<'static, Result<v1::PlanJobResponse, Status>>;
            type WatchJobStream = BoxStream<'static, Result<WatchJobResponse, Status>>;

            async fn watch_job(
                &self,
                request: Request<v1::WatchJobRequest>,
            ) -> Result<Response<Self::WatchJobStream>, Status> {
                self.cursors.lock().unwrap().push(request.into_inner().cursor);
                match self.scripts.lock().unwrap().pop_front() {
                    Some(script) => Ok(Response::new(stream::iter(script).boxed())),
                    None => Err(Status::not_found("there is no job \"01jd\"")),
                }
            }

            async fn plan_job(
                &self,
                _: Request<v1::PlanJobRequest>,
            ) -> Result<Response<Self::PlanJobStream>, Status> {
                Err(Status::unimplemented("not in the script"))
            }

            $(async fn $method(&self, _: Request<v1::$request>) -> Result<Response<v1::$response>, Status> {
                Err(Status::unimplemented("not in the script"))
            })*
        }
    };
}

not_scripted! {
    create_job(CreateJobRequest) -> CreateJobResponse;
    get_job(GetJobRequest) -> GetJobResponse;
    list_jobs(ListJobsRequest) -> ListJobsResponse;
    wait_job(WaitJobRequest) -> WaitJobResponse;
    stop_job(StopJobRequest) -> StopJobResponse;
    resume_job(ResumeJobRequest) -> ResumeJobResponse;
    retry_job(RetryJobRequest) -> RetryJobResponse;
    list_tasks(ListTasksRequest) -> ListTasksResponse;
    group_failures(GroupFailuresRequest) -> GroupFailuresResponse;
}

fn message(job: JobState, task: TaskState) -> Result<WatchJobResponse, Status> {
    Ok(WatchJobResponse {
        job: Some(Job { job_id: "01jd".to_owned(), state: job.into(), ..Default::default() }),
        tasks: vec![Task { node_name: "store-1".to_owned(), state: task.into(), ..Default::default() }],
        cursor: format!("after {}", task.as_str_name()),
    })
}

async fn follow_script(scripts: Vec<Script>) -> (Result<Followed, Error>, Vec<String>) {
    let service = Scripted { scripts: Arc::new(Mutex::new(scripts.into())), ..Default::default() };
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder().add_service(JobServiceServer::new(service.clone())).serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let followed = follow(&mut Client::over(channel), "01jd", &mut Output::new(Format::Json)).await;
    server.abort();
    assert_eq!(service.scripts.lock().unwrap().len(), 0, "scripts that nobody asked for");
    let cursors = service.cursors.lock().unwrap().clone();
    (followed, cursors)
}

#[tokio::test]
async fn a_job_is_followed_across_broken_watches() {
    let scripts = vec![
        vec![message(JobState::Running, TaskState::Pulling), Err(Status::unavailable("shutting down"))],
        vec![Err(Status::unknown("transport error"))],
        // A server that drains ends its streams without an error.
        vec![message(JobState::Running, TaskState::Starting)],
        vec![message(JobState::Failed, TaskState::Failed)],
    ];
    let (followed, cursors) = follow_script(scripts).await;
    let Followed::AtRest(view) = followed.unwrap() else { panic!("nobody pressed Ctrl-C") };
    assert_eq!(view.state(), JobState::Failed);
    assert_eq!(view.tasks.len(), 1);
    let pulling = "after TASK_STATE_PULLING";
    assert_eq!(
        cursors,
        ["", pulling, pulling, "after TASK_STATE_STARTING"],
        "each goes on where the last one broke off"
    );
}

#[tokio::test]
async fn a_place_that_the_server_does_not_know_any_more_is_forgotten() {
    let mut other = message(JobState::Running, TaskState::Pulling);
    other.as_mut().unwrap().tasks[0].node_name = "store-2".to_owned();
    let scripts = vec![
        vec![other, Err(Status::unavailable("shutting down"))],
        vec![Err(Status::out_of_range("put back to an older state"))],
        vec![message(JobState::Failed, TaskState::Failed)],
    ];
    let (followed, cursors) = follow_script(scripts).await;
    let Followed::AtRest(view) = followed.unwrap() else { panic!("nobody pressed Ctrl-C") };
    assert_eq!(cursors, ["", "after TASK_STATE_PULLING", ""]);
    assert_eq!(view.tasks.keys().collect::<Vec<_>>(), ["store-1"], "nothing of before is left");
}

#[tokio::test]
async fn a_bookmark_tells_nothing_but_where_to_go_on() {
    let bookmark = WatchJobResponse { cursor: "bookmark".to_owned(), ..Default::default() };
    let scripts = vec![
        vec![message(JobState::Running, TaskState::Pulling), Ok(bookmark), Err(Status::unavailable("away"))],
        vec![message(JobState::Failed, TaskState::Failed)],
    ];
    let (followed, cursors) = follow_script(scripts).await;
    let Followed::AtRest(view) = followed.unwrap() else { panic!("nobody pressed Ctrl-C") };
    assert_eq!(
        (view.state(), cursors.as_slice()),
        (JobState::Failed, ["".to_owned(), "bookmark".to_owned()].as_slice())
    );
}

#[tokio::test]
async fn the_last_message_may_be_followed_by_more_tasks() {
    let mut more = message(JobState::Succeeded, TaskState::Succeeded);
    more.as_mut().unwrap().tasks[0].node_name = "store-2".to_owned();
    let (followed, _) = follow_script(vec![vec![message(JobState::Succeeded, TaskState::Succeeded), more]]).await;
    let Followed::AtRest(view) = followed.unwrap() else { panic!("nobody pressed Ctrl-C") };
    assert_eq!(view.tasks.len(), 2);
}

#[tokio::test]
async fn what_will_not_change_is_not_asked_again() {
    let (followed, _) = follow_script(Vec::new()).await;
    let error = followed.unwrap_err();
    assert_eq!((error.exit(), error.text().as_str()), (Exit::NotFound, "there is no job \"01jd\""));
}
