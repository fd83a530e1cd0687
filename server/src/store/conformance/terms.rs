//! What callers say beside the effect: repeated requests, etags, and validation alone.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use longshore_model::identity::Role;
use longshore_model::job::{Job, JobState};
use longshore_model::name::NodeName;
use longshore_model::node::{LabelChange, Labels};
use longshore_model::task::TaskState;
use longshore_model::user::User;

use super::{
    Bed, Factory, RequestKey, app_name, at, enrolling, job_id, lines, new_job, node_name, progress, setting, token,
};
use crate::store::sorting::Query;
use crate::store::sqlite::MAX_REQUESTS;
use crate::store::{Change, JobRequest, NewJob, REQUEST_LIFETIME, StoreError, StoredToken, Terms};

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

/// Two answers of what is asked for twice, with something in between that would make the second another one, or none.
macro_rules! twice {
    ($bed:ident, $id:literal, $call:ident($($argument:expr),*; $($now:expr)?)) => {{
        let terms = || Terms { request: Some(key("ann", $id, 1)), ..Terms::default() };
        let first = $bed.store.$call($($argument,)* terms() $(, $now)?).await.unwrap();
        $bed.seen.take();
        let again = $bed.store.$call($($argument,)* terms() $(, $now)?).await.unwrap();
        assert_eq!(again, first, "{}", stringify!($call));
        assert_eq!(lines(&$bed.seen.take()), Vec::<String>::new(), "{}", stringify!($call));
        let other = Terms { request: Some(key("ann", $id, 2)), ..Terms::default() };
        let refused = $bed.store.$call($($argument,)* other $(, $now)?).await.unwrap_err();
        assert!(matches!(refused, StoreError::RequestReused(_)), "{}: {refused:?}", stringify!($call));
        first
    }};
}

pub(crate) async fn every_change_is_made_once(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.report("a", progress(1, 1, TaskState::Succeeded), 2).await;
    let (a, b, app) = (node_name("a"), node_name("b"), app_name("web-1"));
    let role = setting(Labels::from([("role".to_owned(), "till".to_owned())]));
    let labelled = twice!(bed, "labels", update_labels(&a, role.clone(); at(3)));
    bed.store.update_labels(&a, LabelChange { clear: true, ..role.clone() }, Terms::default(), at(3)).await.unwrap();
    assert_eq!(twice!(bed, "labels", update_labels(&a, role.clone(); at(4))), labelled, "as it was then");
    twice!(bed, "delete", delete_node(&b; at(3)));
    let none: Option<&NodeName> = None;
    assert_eq!(twice!(bed, "remove", remove_app(&app, none; at(3))), 1);

    let terms = |body| Terms { request: Some(key("ann", "token", body)), ..Terms::default() };
    let made = |id: &str| StoredToken { uses: 9, uses_left: 9, requires_approval: true, ..token(id, at(9000)) };
    bed.store.create_token(made("t1"), terms(1)).await.unwrap();
    let again = bed.store.create_token(made("t2"), terms(1)).await.unwrap_err();
    assert!(matches!(again, StoreError::TokenShown(id) if id == "t1"));
    assert!(matches!(bed.store.create_token(made("t2"), terms(2)).await, Err(StoreError::RequestReused(_))));
    assert_eq!(bed.store.tokens(Query::first(10), at(3)).await.unwrap().items.len(), 1);
    for name in ["c", "d"] {
        bed.store.enroll(enrolling("t1", 7, name), at(3)).await.unwrap();
    }
    let (c, d) = (node_name("c"), node_name("d"));
    let approved = twice!(bed, "approve", approve(&c; at(4)));
    bed.store.delete_node(&c, Terms::default(), at(5)).await.unwrap();
    assert_eq!(twice!(bed, "approve", approve(&c; at(6))), approved, "and no node comes of it");
    twice!(bed, "deny", deny(&d; at(4)));
    twice!(bed, "spend", delete_token("t1"; at(4)));

    let life = SignedDuration::from_hours(9);
    let user = |name: &str| User::new(name.to_owned(), Role::Viewer, "ann".to_owned(), life, at(0), Timestamp::MAX);
    let eve = twice!(bed, "user", create_user(user("eve");));
    let revoked = twice!(bed, "revoke", revoke_user("eve"; at(5)));
    assert_eq!(revoked, User { revoke_time: Some(at(5)), ..eve.clone() });
    assert_eq!(twice!(bed, "user", create_user(user("eve");)), eve, "and nobody comes back by it");
    drop(bed);
    let bed = Bed::open(factory);
    let again = Terms { request: Some(key("ann", "revoke", 1)), ..Terms::default() };
    assert_eq!(bed.store.revoke_user("eve", again, at(9)).await.unwrap(), revoked, "also after a restart");
}

pub(crate) async fn remembered_requests_are_bounded(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    let (name, role) = (node_name("a"), setting(Labels::from([("role".to_owned(), "till".to_owned())])));
    let ask = |caller: &str, id: u32, second: i64| {
        let terms = Terms { request: Some(key(caller, &id.to_string(), 1)), ..Terms::default() };
        let (store, name, role) = (Arc::clone(&bed.store), name.clone(), role.clone());
        async move { store.update_labels(&name, role, terms, at(second)).await }
    };
    futures::future::try_join_all((0..MAX_REQUESTS).map(|id| ask("ann", id, 0))).await.unwrap();
    let full = ask("ann", MAX_REQUESTS, 1).await.unwrap_err();
    assert!(matches!(full, StoreError::TooMany { kind: "remembered request", .. }), "{full}");
    let full = bed.store.create_job(asked(1, key("ann", "job", 1))).await.unwrap_err();
    assert!(matches!(full, StoreError::TooMany { .. }), "{full}");
    ask("ann", 7, 2).await.expect("one that is remembered is answered");
    ask("bob", MAX_REQUESTS, 3).await.expect("others have bounds of their own");
    bed.store.update_labels(&name, role.clone(), Terms::default(), at(3)).await.expect("without an identifier");
    let over = 24 * 3600;
    ask("ann", MAX_REQUESTS, over).await.expect("a day later there is room");
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
    let node = bed.store.update_labels(&name, setting(set.clone()), seen(old.clone()), at(0)).await.unwrap();
    assert_eq!(bed.node("a").await.etag(), node.etag());
    assert_ne!(node.etag(), old);
    let refused = bed.store.update_labels(&name, LabelChange::default(), seen(old.clone()), at(0)).await.unwrap_err();
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
    let labelled = bed.store.update_labels(&name, setting(set), VALIDATE, at(0)).await.unwrap();
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
