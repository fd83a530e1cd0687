//! Retries with another spec: who gets it, who keeps what they have, and what is kept of either.

use std::sync::Arc;

use longshore_model::app::{AppState, Desired, Previous};
use longshore_model::assignment::Order;
use longshore_model::job::JobState;
use longshore_model::limits::MAX_JOB_SPECS;
use longshore_model::task::TaskState;

use super::{
    Bed, Factory, TIMEOUT, app_name, app_report, at, job_id, lines, new_job, new_spec, new_update, node_name, progress,
    spec_bytes,
};
use crate::store::{Change, Chosen, EncodedAssignment, JobRequest, RequestKey, StoreError, Terms};

fn amended(number: u32) -> JobRequest {
    JobRequest::RetryWith { spec: Box::new(new_spec(number)), chosen: None }
}

fn amended_for(number: u32, node: &'static str) -> JobRequest {
    let chosen = Some(Chosen(Arc::new(move |task| task.node.as_str() == node)));
    JobRequest::RetryWith { spec: Box::new(new_spec(number)), chosen }
}

/// Revision, attempt and encoded spec of an assignment.
fn told(assignment: &EncodedAssignment) -> (u64, u32, bytes::Bytes) {
    (assignment.revision, assignment.attempt, assignment.spec.clone())
}

impl Bed {
    async fn ask(&self, request: JobRequest, second: i64) -> Result<(), StoreError> {
        self.store.request(&job_id(1), request, Terms::default(), at(second)).await.map(drop)
    }

    /// The assignments that were told since, by node.
    fn sets(&self) -> Vec<(String, (u64, u32, bytes::Bytes))> {
        let set = |change| match change {
            Change::Set { node, assignment } => Some((node.to_string(), told(&assignment))),
            _ => None,
        };
        self.seen.take().into_iter().filter_map(set).collect()
    }

    /// The job's spec, and which of them an app has on a node, by its argument.
    async fn arguments(&self, number: u32, node: &str) -> (Vec<String>, Vec<String>) {
        let job = self.job(number).await;
        let app = self.store.app(&node_name(node), &job.app).await.unwrap();
        let runs = self.store.job_with_spec(&app.job, app.spec_revision).await.unwrap();
        (job.spec.args.clone(), runs.spec.args.clone())
    }
}

pub(crate) async fn what_is_retried_gets_another_spec(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    bed.assigned(1, &["a", "b", "c"], 0).await;
    assert!(matches!(bed.ask(amended(7), 2).await, Err(StoreError::Refused(_))), "its tasks are in flight");
    for (node, state) in [("a", TaskState::Succeeded), ("b", TaskState::Failed), ("c", TaskState::Failed)] {
        bed.report(node, progress(1, 1, state), 3).await;
    }
    let before = bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap();
    assert!(matches!(bed.ask(amended_for(7, "a"), 4).await, Err(StoreError::NoneChosen)));
    assert_eq!(bed.job(1).await.spec_revision, 1);

    bed.ask(amended_for(7, "b"), 5).await.unwrap();
    let job = bed.job(1).await;
    assert_eq!((job.spec_revision, job.spec.args.as_slice(), job.round), (2, &["7".to_owned()][..], 2));
    assert_eq!(job.warnings, ["mind the gap of 7"]);
    bed.seen.take();
    assert_eq!(bed.assign_all(6).await, 1);
    assert_eq!(bed.sets(), [("b".to_owned(), (2, 2, new_spec(7).encoded))]);
    bed.report("b", progress(1, 2, TaskState::Succeeded), 7).await;
    let specs = async || {
        let mut specs = Vec::new();
        for node in ["a", "b", "c"] {
            specs.push(bed.task(1, node).await.spec_revision);
        }
        specs
    };
    assert_eq!(specs().await, [1, 2, 1], "c was left out");
    // A retry that brings none tries the newest.
    bed.ask(JobRequest::Retry, 8).await.unwrap();
    bed.seen.take();
    bed.assign_all(9).await;
    assert_eq!(bed.sets(), [("c".to_owned(), (2, 2, new_spec(7).encoded))]);
    bed.report("c", progress(1, 2, TaskState::Failed), 10).await;
    assert_eq!(lines(&bed.seen.take())[1..], ["unset c web-1"], "a node that was cut off may have gone back");
    bed.ask(amended(8), 11).await.unwrap();
    bed.assign_all(12).await;
    bed.report("c", progress(1, 3, TaskState::Succeeded), 13).await;
    assert_eq!((specs().await, bed.job(1).await.state()), (vec![1, 2, 3], JobState::Succeeded));
    assert_eq!(bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap(), before, "nobody touched it");
    drop(bed);

    let bed = Bed::open(factory);
    for (node, spec, runs) in
        [("a", spec_bytes(1), "serve"), ("b", new_spec(7).encoded, "7"), ("c", new_spec(8).encoded, "8")]
    {
        let full = bed.open_session(node, 1).await;
        assert_eq!(full.iter().map(|one| &one.spec).collect::<Vec<_>>(), [&spec], "{node}");
        assert_eq!(bed.arguments(1, node).await, (vec!["8".to_owned()], vec![runs.to_owned()]), "{node}");
    }
    let none = bed.store.job_with_spec(&job_id(1), 4).await.unwrap_err();
    assert!(matches!(none, StoreError::NotFound { .. }), "{none:?}");
    // An update begins with what each of them runs.
    bed.store.create_job(new_update(2, 1, &["a", "b"], 0)).await.unwrap();
    bed.assign_all(14).await;
    let previous = async |node| bed.store.app(&node_name(node), &app_name("web-1")).await.unwrap().previous;
    assert_eq!(previous("a").await, Some(Previous { job: job_id(1), spec_revision: 1, attempt: 1, revision: 1 }));
    assert_eq!(previous("b").await, Some(Previous { job: job_id(1), spec_revision: 2, attempt: 2, revision: 2 }));
    bed.seen.take();
    bed.report("b", progress(2, 1, TaskState::Failed), 15).await;
    assert_eq!(bed.sets(), [("b".to_owned(), (2, 2, new_spec(7).encoded))], "back to what it ran");
    assert_eq!(bed.arguments(1, "b").await.1, ["7"]);
}

pub(crate) async fn an_update_that_is_amended_leads_on_or_back(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a", "b"], 0).await;
    for node in ["a", "b"] {
        bed.open_session(node, 1).await;
        bed.report(node, progress(1, 1, TaskState::Succeeded), 2).await;
    }
    bed.store.create_job(new_update(2, 1, &["a", "b"], 0)).await.unwrap();
    bed.assign_all(3).await;
    bed.report("a", progress(2, 1, TaskState::Succeeded), 4).await;
    bed.report("b", progress(2, 1, TaskState::Failed), 4).await;
    let ask = async |request, second| bed.store.request(&job_id(2), request, Terms::default(), at(second)).await;
    ask(amended(7), 5).await.unwrap();
    bed.seen.take();
    bed.assign_all(6).await;
    assert_eq!(bed.sets(), [("b".to_owned(), (3, 2, new_spec(7).encoded))], "a number is used once");
    bed.report("b", progress(2, 2, TaskState::Failed), 7).await;
    assert_eq!(bed.sets(), [("b".to_owned(), (1, 1, spec_bytes(1)))]);
    ask(amended(8), 8).await.unwrap();
    bed.seen.take();
    bed.assign_all(9).await;
    assert_eq!(bed.sets(), [("b".to_owned(), (4, 3, new_spec(8).encoded))]);
    bed.report("b", progress(2, 3, TaskState::Succeeded), 10).await;
    assert_eq!(bed.job(2).await.state(), JobState::Succeeded);
    assert_eq!(bed.arguments(2, "a").await, (vec!["8".to_owned()], vec!["serve".to_owned()]));
    assert_eq!(bed.arguments(2, "b").await.1, ["8"]);
}

/// A node that was cut off may have brought up what the deadline passed for, and keeps that for going back to.
pub(crate) async fn what_was_brought_up_late_gives_way_to_another_spec(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.store.pass_deadlines(at(TIMEOUT)).await.unwrap();
    bed.ask(amended(7), 700).await.unwrap();
    bed.seen.take();
    bed.assign_all(701).await;
    assert_eq!(bed.sets(), [("a".to_owned(), (2, 2, new_spec(7).encoded))]);
    let app = bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap();
    assert_eq!((app.desired, app.previous, app.last_revision), (Desired::Present, None, 2));
    bed.report("a", progress(1, 1, TaskState::Succeeded), 702).await;
    bed.report("a", app_report("web-1", 1, 1, AppState::Running), 702).await;
    assert_eq!(bed.task(1, "a").await.state, TaskState::Assigned, "that was for the other spec");
    bed.seen.take();
    bed.report("a", progress(1, 2, TaskState::Failed), 703).await;
    assert_eq!(lines(&bed.seen.take())[1..], ["unset a web-1"]);
    assert!(bed.store.app(&node_name("a"), &app_name("web-1")).await.is_err());
    // The same spec again has the same number, and nothing of the other one is left to be taken for it.
    bed.ask(JobRequest::Retry, 704).await.unwrap();
    bed.assign_all(705).await;
    let full = bed.open_session("a", 1).await;
    let orders: Vec<_> = full.iter().map(|one| (told(one), one.order)).collect();
    assert_eq!(orders, [((2, 3, new_spec(7).encoded), Order::Deploy)]);
}

pub(crate) async fn a_creation_is_answered_with_its_own_spec(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    let request = RequestKey { caller: "anna".to_owned(), id: "once".to_owned(), body: [1; 32] };
    let mut new = new_job(1, &["a"], 0);
    new.request = Some(request.clone());
    let made = bed.store.create_job(new.clone()).await.unwrap();
    bed.assign_all(1).await;
    bed.report("a", progress(1, 1, TaskState::Failed), 2).await;
    bed.ask(amended(7), 3).await.unwrap();
    assert_eq!(bed.store.created(&request, at(4)).await.unwrap(), Some(Arc::clone(&made)));
    assert_eq!(bed.store.create_job(new).await.unwrap(), made);
}

pub(crate) async fn an_amendment_is_made_once(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.report("a", progress(1, 1, TaskState::Failed), 2).await;
    let key = RequestKey { caller: "anna".to_owned(), id: "once".to_owned(), body: [2; 32] };
    let ask = async |terms| bed.store.request(&job_id(1), amended(7), terms, at(3)).await;
    let only = ask(Terms { validate_only: true, ..Terms::default() }).await.unwrap();
    assert_eq!((only.spec_revision, bed.job(1).await.spec_revision), (2, 1));
    let wrong = ask(Terms { etag: Some("1".to_owned()), ..Terms::default() }).await.unwrap_err();
    assert!(matches!(wrong, StoreError::Changed { .. }), "{wrong:?}");
    for _ in 0..2 {
        let once = Terms { request: Some(key.clone()), ..Terms::default() };
        assert_eq!(ask(once).await.unwrap().spec_revision, 2);
    }
    assert_eq!(bed.job(1).await.round, 2);
}

pub(crate) async fn specs_are_bounded(factory: &dyn Factory) {
    let limit = u32::try_from(MAX_JOB_SPECS).unwrap();
    let names: Vec<String> = (0..=limit).map(|number| format!("n{number:02}")).collect();
    let nodes: Vec<&str> = names.iter().map(String::as_str).collect();
    let bed = Bed::with_nodes(factory, &nodes).await;
    bed.assigned(1, &nodes, 0).await;
    for node in &nodes {
        bed.report(node, progress(1, 1, TaskState::Failed), 2).await;
    }
    // What nothing is made of any more gives way, however often it is tried.
    for number in 2..=limit + 4 {
        bed.ask(amended(number), i64::from(number)).await.unwrap();
        bed.assign_all(i64::from(number)).await;
        for node in &nodes {
            bed.report(node, progress(1, number, TaskState::Failed), i64::from(number)).await;
        }
    }
    let kept = async |revision| bed.store.job_with_spec(&job_id(1), revision).await.is_ok();
    assert_eq!((kept(1).await, kept(2).await, kept(6).await), (true, false, true), "the first stays");
    // One node after the other succeeds, each with a spec of its own.
    let mut refused = None;
    for (number, node) in (100..).zip(&names) {
        let node: &'static str = Box::leak(node.clone().into_boxed_str());
        refused = bed.ask(amended_for(number, node), i64::from(number)).await.err();
        if refused.is_some() {
            break;
        }
        bed.assign_all(i64::from(number)).await;
        bed.report(node, progress(1, limit + 5, TaskState::Succeeded), i64::from(number)).await;
    }
    assert!(matches!(refused, Some(StoreError::TooMany { .. })), "{refused:?}");
    let ended = bed.job(1).await;
    assert_eq!(ended.state(), JobState::PartiallySucceeded);
    bed.ask(JobRequest::Retry, 200).await.unwrap();
}
