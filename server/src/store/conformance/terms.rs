//! What callers say beside the effect: repeated requests, etags, and validation alone.

use std::sync::Arc;

use jiff::SignedDuration;
use longshore_model::job::{Job, JobState};
use longshore_model::node::{LabelChange, Labels};
use longshore_model::task::TaskState;

use super::{Bed, Factory, RequestKey, app_name, at, job_id, lines, new_job, node_name, progress, setting};
use crate::store::sorting::Query;
use crate::store::{Change, JobRequest, NewJob, REQUEST_LIFETIME, StoreError, Terms};

fn key(caller: &str, id: &str, body: u8) -> RequestKey {
    RequestKey { caller: caller.to_owned(), id: id.to_owned(), body: [body; 32] }
}

fn asked(number: u32, key: RequestKey) -> NewJob {
    NewJob { request: Some(key), ..new_job(number, &["a"], 0) }
}

const VALIDATE: Terms = Terms { etag: None, validate_only: true, request: None, cause: None };
const STOP: JobRequest = JobRequest::Stop { cancel_in_flight: false };

fn seen(etag: String) -> Terms {
    Terms { etag: Some(etag), ..Terms::default() }
}

pub(crate) async fn a_request_that_comes_again_is_answered_as_before(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    let request = key("ann", "1", 1);
    assert!(bed.store.created(&request, at(0)).await.unwrap().is_none());
    let first = bed.store.create_job(asked(1, request.clone())).await.unwrap();
    bed.assign_all(1).await;
    bed.report("a", progress(1, 1, TaskState::Succeeded), 2).await;
    assert_eq!(bed.job(1).await.state(), JobState::Succeeded);
    bed.seen.take();

    let again = bed.store.created(&request, at(3)).await.unwrap().unwrap();
    assert_eq!(again, first);
    assert_eq!(bed.store.create_job(asked(2, request.clone())).await.unwrap(), first);
    assert_eq!(lines(&bed.seen.take()), Vec::<String>::new());
    assert_eq!(bed.store.jobs(Query::first(10)).await.unwrap().items.len(), 1);

    for refused in [
        bed.store.created(&key("ann", "1", 2), at(3)).await.map(drop),
        bed.store.create_job(asked(2, key("ann", "1", 2))).await.map(drop),
    ] {
        assert!(matches!(refused, Err(StoreError::RequestReused(id)) if id == "1"));
    }
    let others = bed.store.create_job(asked(3, key("bob", "1", 2))).await.unwrap();
    assert_eq!(others.id, job_id(3), "each caller has identifiers of its own");

    // Two at once, in one transaction or two.
    let request = key("ann", "2", 1);
    let (one, other) =
        tokio::join!(bed.store.create_job(asked(4, request.clone())), bed.store.create_job(asked(5, request.clone())));
    assert_eq!(one.unwrap(), other.unwrap());

    drop(bed);
    let bed = Bed::open(factory);
    assert_eq!(bed.store.created(&key("ann", "1", 1), at(3)).await.unwrap(), Some(first));
}

pub(crate) async fn a_retry_that_comes_again_starts_nothing(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    let request = |body| Terms { request: Some(key("ann", "1", body)), ..Terms::default() };
    bed.store.create_job(new_job(1, &["a"], 0)).await.unwrap();
    for attempt in 1..=2 {
        bed.assign_all(1).await;
        bed.report("a", progress(1, attempt, TaskState::Failed), 2).await;
        let job = bed.store.request(&job_id(1), JobRequest::Retry, request(1), at(3)).await.unwrap();
        let expected = if attempt == 1 { JobState::Queued } else { JobState::Failed };
        assert_eq!((job.state(), job.round), (expected, 2), "the second time it is the answer alone");
    }
    let reused = bed.store.request(&job_id(1), STOP, request(2), at(4)).await.unwrap_err();
    assert!(matches!(reused, StoreError::RequestReused(_)), "{reused:?}");
    let reused = bed.store.create_job(asked(2, key("ann", "1", 3))).await.unwrap_err();
    assert!(matches!(reused, StoreError::RequestReused(_)), "{reused:?}");
    drop(bed);
    let bed = Bed::open(factory);
    let again = bed.store.request(&job_id(1), JobRequest::Retry, request(1), at(5)).await.unwrap();
    assert_eq!(again.round, 2, "also after a restart");
    let later = bed.store.request(&job_id(1), JobRequest::Retry, request(1), at(3) + REQUEST_LIFETIME).await.unwrap();
    assert_eq!(later.round, 3, "after a day it is a new one");
}

pub(crate) async fn requests_are_forgotten_after_a_day(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    let request = key("ann", "1", 1);
    bed.store.create_job(asked(1, request.clone())).await.unwrap();
    let over = at(0) + REQUEST_LIFETIME;
    let before = over - SignedDuration::from_secs(1);
    bed.store.pass_deadlines(before).await.unwrap();
    assert!(bed.store.created(&request, before).await.unwrap().is_some());
    assert!(bed.store.created(&request, over).await.unwrap().is_none());
    let mut later = asked(2, key("ann", "1", 2));
    later.job.create_time = over;
    assert_eq!(bed.store.create_job(later).await.unwrap().id, job_id(2), "also before it was purged");
    bed.store.pass_deadlines(over).await.unwrap();
    assert!(bed.store.created(&key("ann", "1", 2), over).await.unwrap().is_some());
}

pub(crate) async fn what_has_changed_is_left_alone(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    let job = bed.store.create_job(new_job(1, &["a"], 0)).await.unwrap();
    bed.assign_all(1).await;
    let changed = |error: &StoreError| matches!(error, StoreError::Changed { .. });
    let refused = bed.store.request(&job.id, STOP, seen(job.etag()), at(2)).await.unwrap_err();
    assert!(changed(&refused), "{refused:?}");
    let current = bed.job(1).await.etag();
    assert_eq!(bed.store.request(&job.id, STOP, seen(current), at(2)).await.unwrap().state(), JobState::Stopping);

    let set = Labels::from([("role".to_owned(), "till".to_owned())]);
    let old = bed.node("a").await.etag();
    bed.open_session("a", 1).await;
    assert_eq!(bed.node("a").await.etag(), old, "what the agent says is no change of the node");
    let name = node_name("a");
    let node = bed.store.update_labels(&name, setting(set.clone()), seen(old.clone())).await.unwrap();
    assert_eq!(bed.node("a").await.etag(), node.etag());
    assert_ne!(node.etag(), old);
    let refused = bed.store.update_labels(&name, LabelChange::default(), seen(old.clone())).await.unwrap_err();
    assert!(changed(&refused), "{refused:?}");
    let refused = bed.store.delete_node(&name, seen(old), at(3)).await.unwrap_err();
    assert!(changed(&refused), "{refused:?}");
    assert_eq!(bed.node("a").await.labels, node.labels);
    bed.store.delete_node(&name, seen(node.etag()), at(3)).await.unwrap();
}

pub(crate) async fn what_is_only_validated_is_left_alone(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.report("a", progress(1, 1, TaskState::Succeeded), 2).await;
    bed.store.create_job(new_job(2, &["a"], 0)).await.unwrap();
    bed.seen.take();
    let (name, app) = (node_name("a"), app_name("web-1"));
    let jobs: [Arc<Job>; 2] = [bed.job(1).await, bed.job(2).await];
    let node = bed.node("a").await;

    let stopped = bed.store.request(&job_id(2), STOP, VALIDATE, at(3)).await.unwrap();
    assert_eq!(stopped.state(), JobState::Stopped, "the answer is that of the change");
    let refused = bed.store.request(&job_id(1), JobRequest::Retry, VALIDATE, at(3)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused:?}");
    let set = Labels::from([("role".to_owned(), "till".to_owned())]);
    let labelled = bed.store.update_labels(&name, setting(set), VALIDATE).await.unwrap();
    assert_eq!(labelled.labels.get("role").map(String::as_str), Some("till"));
    bed.store.delete_node(&name, VALIDATE, at(3)).await.unwrap();
    assert_eq!(bed.store.remove_app(&app, None, VALIDATE, at(3)).await.unwrap(), 1);

    assert_eq!(lines(&bed.seen.take()), Vec::<String>::new());
    assert_eq!([bed.job(1).await, bed.job(2).await], jobs);
    assert_eq!(bed.node("a").await, node);
    assert_eq!(bed.store.remove_app(&app, None, Terms::default(), at(4)).await.unwrap(), 1);
}

pub(crate) async fn nodes_are_told_which_call_it_was(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    let cause = |changes: Vec<Change>| -> Vec<Option<String>> {
        let set = changes.into_iter().filter_map(|change| match change {
            Change::Set { assignment, .. } => Some(assignment.cause.map(|cause| cause.to_string())),
            _ => None,
        });
        set.collect()
    };
    bed.store.create_job(new_job(1, &["a"], 0)).await.unwrap();
    bed.assign_all(1).await;
    assert_eq!(cause(bed.seen.take()), [Some("call-1".to_owned())]);
    bed.report("a", progress(1, 1, TaskState::Failed), 2).await;
    let terms = Terms { cause: Some("again".to_owned()), ..Terms::default() };
    bed.store.request(&job_id(1), JobRequest::Retry, terms, at(3)).await.unwrap();
    bed.assign_all(4).await;
    assert_eq!(cause(bed.seen.take()), [Some("again".to_owned())]);
    drop(bed);
    let bed = Bed::open(factory);
    let full = bed.open_session("a", 1).await;
    assert_eq!(full[0].cause.as_deref(), Some("again"), "a restart does not lose it");
}
