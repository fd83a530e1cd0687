//! What callers say beside the effect: repeated requests, etags, and validation alone.

use longshore_proto::v1;
use tonic::Code;

use crate::harness::{World, failure, order};

const REQUEST: &str = "2b1c6a1e-58a5-4c0f-9d0e-6a6f3c1f7c11";

#[tokio::test]
async fn a_creation_that_comes_again_is_answered_as_before() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let request = v1::CreateJobRequest { request_id: REQUEST.to_owned(), ..order(&["shop-1"]) };
    let job = world.create(request.clone()).await;
    let stop = v1::StopJobRequest { job_id: job.job_id.clone(), ..Default::default() };
    world.jobs().stop_job(stop).await.unwrap();
    world.nodes().delete_node(v1::DeleteNodeRequest { name: "shop-1".to_owned(), ..Default::default() }).await.unwrap();
    assert_eq!(world.create(request.clone()).await, job, "whatever happened since");

    let other =
        v1::CreateJobRequest { timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }), ..request.clone() };
    let (code, details) = failure(world.jobs().create_job(other).await);
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(details.error_info().unwrap().reason, "REQUEST_ID_REUSED");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "request_id");

    let wrong = v1::CreateJobRequest { request_id: "7".to_owned(), ..v1::CreateJobRequest::default() };
    let (_, details) = failure(world.jobs().create_job(wrong).await);
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|bad| bad.field.as_str()).collect();
    assert_eq!(fields, ["request_id", "spec", "targets"], "everything that is wrong at once");
}

#[tokio::test]
async fn a_stop_that_comes_again_is_answered_and_another_request_is_refused() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let job = world.create(order(&["shop-1"])).await;
    let (job_id, request_id) = (job.job_id, REQUEST.to_owned());
    let stop = v1::StopJobRequest { job_id: job_id.clone(), etag: job.etag, request_id, ..Default::default() };
    let checked = v1::StopJobRequest { validate_only: true, ..stop.clone() };
    world.jobs().stop_job(checked).await.unwrap();
    for _ in 0..2 {
        let stopped = world.jobs().stop_job(stop.clone()).await.unwrap().into_inner().job.unwrap();
        assert_eq!(stopped.state(), v1::JobState::Stopped, "the etag is of before the first time");
    }
    let other = v1::StopJobRequest { cancel_in_flight: true, ..stop.clone() };
    let (code, details) = failure(world.jobs().stop_job(other).await);
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::InvalidArgument, "REQUEST_ID_REUSED"));
    let (job_id, request_id) = (job_id, stop.request_id);
    let resume = v1::ResumeJobRequest { job_id: job_id.clone(), request_id, ..Default::default() };
    assert_eq!(failure(world.jobs().resume_job(resume).await).0, Code::InvalidArgument, "another call");
    let retry = v1::RetryJobRequest { job_id, request_id: "7".to_owned(), ..Default::default() };
    let (_, details) = failure(world.jobs().retry_job(retry).await);
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "request_id");
}

#[tokio::test]
async fn a_change_that_comes_again_is_made_once() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let (name, request_id) = ("shop-1".to_owned(), REQUEST.to_owned());
    let set = [("role".to_owned(), "till".to_owned())].into();
    let label = v1::UpdateNodeLabelsRequest { name: name.clone(), set, request_id, ..Default::default() };
    let labelled = world.nodes().update_node_labels(label.clone()).await.unwrap().into_inner();
    let clear = Some(prost_types::FieldMask { paths: vec!["labels".to_owned()] });
    let node = Some(v1::Node { name: name.clone(), ..Default::default() });
    let bare = v1::UpdateNodeRequest { node: node.clone(), update_mask: clear.clone(), ..Default::default() };
    world.nodes().update_node(bare.clone()).await.unwrap();
    assert_eq!(world.nodes().update_node_labels(label).await.unwrap().into_inner(), labelled, "as it was then");
    let get = v1::GetNodeRequest { name: name.clone() };
    let node = world.nodes().get_node(get).await.unwrap().into_inner().node.unwrap();
    assert!(node.labels.is_empty(), "and nothing changed");
    let reused = v1::UpdateNodeRequest { request_id: REQUEST.to_owned(), ..bare };
    let (code, details) = failure(world.nodes().update_node(reused).await);
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::InvalidArgument, "REQUEST_ID_REUSED"));

    let request_id = REQUEST.replace('2', "3");
    let delete = v1::DeleteNodeRequest { name, request_id, ..Default::default() };
    for _ in 0..2 {
        world.nodes().delete_node(delete.clone()).await.unwrap();
    }
    let wrong = v1::DeleteNodeRequest { request_id: "7".to_owned(), name: "A".to_owned(), ..Default::default() };
    let (_, details) = failure(world.nodes().delete_node(wrong).await);
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|bad| bad.field.as_str()).collect();
    assert_eq!(fields, ["request_id", "name"], "everything that is wrong at once");
}

#[tokio::test]
async fn a_token_is_shown_once_and_the_repetition_names_it() {
    let world = World::start().await;
    let request = v1::CreateEnrollmentTokenRequest {
        labels: [("role".to_owned(), "till".to_owned()), ("site".to_owned(), "hh".to_owned())].into(),
        request_id: REQUEST.to_owned(),
        ..Default::default()
    };
    let checked = v1::CreateEnrollmentTokenRequest { validate_only: true, ..request.clone() };
    world.nodes().create_enrollment_token(checked).await.unwrap();
    let made = world.nodes().create_enrollment_token(request.clone()).await.unwrap().into_inner();
    let status = world.nodes().create_enrollment_token(request).await.unwrap_err();
    assert!(!format!("{status:?}").contains(&made.token), "the token itself is not said again");
    let (code, details) = failure(Err::<(), _>(status));
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::AlreadyExists, "TOKEN_SHOWN_ONCE"));
    assert_eq!(details.resource_info().unwrap().resource_name, made.token_id);
    let listed = world.nodes().list_enrollment_tokens(v1::ListEnrollmentTokensRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().enrollment_tokens.len(), 1);
}

#[tokio::test]
async fn an_etag_that_is_out_of_date_aborts() {
    let world = World::start().await;
    world.enroll("shop-1", &[]).await;
    let job = world.create(order(&["shop-1"])).await;
    let (job_id, old) = (job.job_id, job.etag);
    let stop = v1::StopJobRequest { job_id: job_id.clone(), etag: old.clone(), ..Default::default() };
    let stopped = world.jobs().stop_job(stop.clone()).await.unwrap().into_inner().job.unwrap();
    assert_ne!(stopped.etag, old);
    let (code, details) = failure(world.jobs().stop_job(stop).await);
    assert_eq!((code, details.error_info().unwrap().reason.as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(details.resource_info().unwrap().resource_name, job_id);
    let resume = v1::ResumeJobRequest { job_id: job_id.clone(), etag: old.clone(), ..Default::default() };
    assert_eq!(failure(world.jobs().resume_job(resume).await).0, Code::Aborted);
    let retry = v1::RetryJobRequest { job_id: job_id.clone(), etag: old, ..Default::default() };
    assert_eq!(failure(world.jobs().retry_job(retry).await).0, Code::Aborted, "before the state is looked at");
    let resume = v1::ResumeJobRequest { job_id, etag: stopped.etag, ..Default::default() };
    world.jobs().resume_job(resume).await.unwrap();

    let get = v1::GetNodeRequest { name: "shop-1".to_owned() };
    let old = world.nodes().get_node(get).await.unwrap().into_inner().node.unwrap().etag;
    let label = v1::UpdateNodeLabelsRequest {
        name: "shop-1".to_owned(),
        set: [("role".to_owned(), "till".to_owned())].into(),
        etag: old.clone(),
        ..Default::default()
    };
    world.nodes().update_node_labels(label.clone()).await.unwrap();
    assert_eq!(failure(world.nodes().update_node_labels(label).await).0, Code::Aborted);
    let delete = v1::DeleteNodeRequest { name: "shop-1".to_owned(), etag: old, ..Default::default() };
    assert_eq!(failure(world.nodes().delete_node(delete).await).0, Code::Aborted);
}

#[tokio::test]
async fn what_is_only_validated_answers_and_changes_nothing() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1"]).await;
    let request = v1::CreateJobRequest { validate_only: true, request_id: REQUEST.to_owned(), ..order(&["shop-1"]) };
    let shown = world.create(request.clone()).await;
    assert_eq!((shown.job_id.as_str(), shown.app_name.as_str(), shown.etag.as_str()), ("", "", ""));
    assert_eq!((shown.state(), shown.counts.unwrap().pending), (v1::JobState::Queued, 1));
    let bad = v1::CreateJobRequest { validate_only: true, ..order(&["nowhere"]) };
    assert_eq!(failure(world.jobs().create_job(bad).await).0, Code::InvalidArgument);
    let jobs = world.jobs().list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(jobs, []);
    let job = world.create(v1::CreateJobRequest { validate_only: false, ..request }).await;
    assert_ne!(job.job_id, "", "the identifier of the request was not used up");

    agents[0].set().await;
    let stop = v1::StopJobRequest { job_id: job.job_id.clone(), validate_only: true, ..Default::default() };
    let shown = world.jobs().stop_job(stop).await.unwrap().into_inner().job.unwrap();
    assert_eq!(shown.state(), v1::JobState::Stopping);
    assert_eq!(world.job(&job.job_id).await.state(), v1::JobState::Running);
    let resume = v1::ResumeJobRequest { job_id: job.job_id, validate_only: true, ..Default::default() };
    assert_eq!(failure(world.jobs().resume_job(resume).await).0, Code::FailedPrecondition);

    let delete = v1::DeleteNodeRequest { name: "shop-1".to_owned(), validate_only: true, ..Default::default() };
    world.nodes().delete_node(delete).await.unwrap();
    let label = v1::UpdateNodeLabelsRequest {
        name: "shop-1".to_owned(),
        set: [("a".to_owned(), "b".to_owned())].into(),
        validate_only: true,
        ..Default::default()
    };
    let shown = world.nodes().update_node_labels(label).await.unwrap().into_inner().node.unwrap();
    assert_eq!(shown.labels["a"], "b");
    let get = v1::GetNodeRequest { name: "shop-1".to_owned() };
    let node = world.nodes().get_node(get).await.unwrap().into_inner().node.unwrap();
    assert!(!node.labels.contains_key("a"));
    let token = v1::CreateEnrollmentTokenRequest { validate_only: true, ..Default::default() };
    let answer = world.nodes().create_enrollment_token(token).await.unwrap().into_inner();
    assert_eq!((answer.token.as_str(), answer.expire_time.is_some()), ("", true));
    let remove = v1::RemoveAppRequest { app_name: job.app_name, validate_only: true, ..Default::default() };
    assert_eq!(failure(world.apps().remove_app(remove).await).0, Code::FailedPrecondition, "its task is open");
}
