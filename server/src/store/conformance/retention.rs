//! How jobs are forgotten, and which are not.

use longshore_model::app::AppState;
use longshore_model::name::JobId;
use longshore_model::task::TaskState;

use super::{Bed, Factory, app_name, app_report, at, is_not_found, job_id, new_job, new_removal, node_name, progress};
use crate::store::sorting::Query;
use crate::store::{JobRequest, RequestKey, Seen, Terms};

/// A job of this number fails on its nodes, so that no app of it is left, at this second.
async fn failed(bed: &Bed, number: u32, nodes: &[&str], second: i64) {
    bed.assigned(number, nodes, 0).await;
    for node in nodes {
        bed.report(node, progress(number, 1, TaskState::Failed), second).await;
    }
}

async fn forget(bed: &Bed, ended: i64, now: i64) -> Vec<JobId> {
    let before: Vec<JobId> = ids(bed).await;
    let count = bed.store.forget_jobs(at(ended), at(now)).await.unwrap();
    let after = ids(bed).await;
    let gone: Vec<JobId> = before.into_iter().filter(|id| !after.contains(id)).collect();
    assert_eq!(gone.len(), count);
    gone
}

async fn ids(bed: &Bed) -> Vec<JobId> {
    bed.store.jobs(Query::first(100)).await.unwrap().items.iter().map(|job| job.id.clone()).collect()
}

pub(crate) async fn old_jobs_are_forgotten(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    failed(&bed, 1, &["a", "b"], 10).await;
    failed(&bed, 2, &["a"], 20).await;
    failed(&bed, 3, &["a"], 30).await;
    bed.seen.take();
    assert_eq!(forget(&bed, 9, 100_000).await, []);
    assert_eq!(forget(&bed, 20, 100_000).await, [job_id(2), job_id(1)], "a job that ended at that very moment is old");
    assert!(bed.seen.take().is_empty(), "nobody is told of it");
    assert!(is_not_found(&bed.store.job(&job_id(1)).await.unwrap_err(), "job"));
    assert!(is_not_found(&bed.store.job_with_tasks(&job_id(1), &Seen::default()).await.unwrap_err(), "job"));
    let retry = bed.store.request(&job_id(1), JobRequest::Retry, Terms::default(), at(40)).await;
    assert!(is_not_found(&retry.unwrap_err(), "job"), "not even out of the writer's memory");
    // What comes late is taken and dropped, so that the agent need not say it again.
    bed.report("a", progress(1, 1, TaskState::Succeeded), 50).await;
    assert_eq!(bed.task(3, "a").await.state, TaskState::Failed);
    let census = bed.store.census().await.unwrap();
    assert_eq!(census.tasks.iter().map(|(_, count)| count).sum::<u64>(), 1, "tasks went with their jobs");
    drop(bed);
    assert_eq!(ids(&Bed::open(factory)).await, [job_id(3)]);
}

pub(crate) async fn what_is_needed_is_kept(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    // Final, and its app runs.
    bed.assigned(1, &["a", "b"], 0).await;
    bed.report("a", progress(1, 1, TaskState::Succeeded), 10).await;
    bed.report("b", progress(1, 1, TaskState::Failed), 10).await;
    // In flight, queued, and stopped with work left.
    bed.assigned(2, &["a"], 0).await;
    bed.store.create_job(new_job(3, &["b"], 0)).await.unwrap();
    bed.store.create_job(new_job(4, &["b"], 0)).await.unwrap();
    let stop = JobRequest::Stop { cancel_in_flight: false };
    bed.store.request(&job_id(4), stop, Terms::default(), at(10)).await.unwrap();
    // Retried: final once, and not any more.
    failed(&bed, 5, &["a"], 10).await;
    bed.store.request(&job_id(5), JobRequest::Retry, Terms::default(), at(20)).await.unwrap();
    assert_eq!(forget(&bed, 100_000, 100_000).await, []);

    let web = app_name("web-1");
    bed.store.remove_app(&web, Some(&node_name("a")), Terms::default(), at(30)).await.unwrap();
    assert_eq!(forget(&bed, 100_000, 100_000).await, [], "the node has not said that the app is gone");
    bed.report("a", app_report("web-1", 1, 1, AppState::Removed), 40).await;
    assert_eq!(forget(&bed, 100_000, 100_000).await, [job_id(1)]);
    // Over, and a node still removes its app on its behalf.
    bed.assigned(6, &["b"], 0).await;
    bed.report("b", progress(6, 1, TaskState::Succeeded), 50).await;
    bed.store.create_job(new_removal(7, 6, &["b"], 0)).await.unwrap();
    bed.assign_all(60).await;
    bed.store.pass_deadlines(at(10_000)).await.unwrap();
    assert!(!forget(&bed, 100_000, 100_000).await.contains(&job_id(7)));
    bed.report("b", app_report("web-6", 1, 1, AppState::Removed), 10_001).await;
    assert_eq!(forget(&bed, 100_000, 100_000).await, [job_id(7), job_id(6)]);
}

pub(crate) async fn a_creation_that_may_come_again_is_kept(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    let request = RequestKey { caller: "anna".to_owned(), id: "once".to_owned(), body: [1; 32] };
    let mut new = new_job(1, &["a"], 0);
    new.request = Some(request.clone());
    bed.store.create_job(new).await.unwrap();
    bed.assign_all(1).await;
    bed.report("a", progress(1, 1, TaskState::Failed), 10).await;
    let day = 24 * 3600;
    assert_eq!(forget(&bed, day - 1, day - 1).await, []);
    assert!(bed.store.created(&request, at(day - 1)).await.unwrap().is_some());
    assert_eq!(forget(&bed, day, day).await, [job_id(1)]);
    assert!(bed.store.created(&request, at(day)).await.unwrap().is_none());
}
