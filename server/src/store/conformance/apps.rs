//! Apps: pages, removal, status, redeployment.

use longshore_model::app::{AppState, Desired};
use longshore_model::job::JobState;
use longshore_model::task::TaskState;

use super::{
    Bed, Factory, TIMEOUT, app_name, app_report, at, info, is_not_found, job_id, lines, new_removal, node_name,
    progress, session_id,
};
use crate::store::sorting::Query;
use crate::store::{JobRequest, StoreError, Terms};

/// A job that succeeded on all of `nodes`, and nothing observed yet.
async fn deployed(bed: &Bed, number: u32, nodes: &[&str]) {
    bed.assigned(number, nodes, 0).await;
    for node in nodes {
        bed.report(node, progress(number, 1, TaskState::Succeeded), 2).await;
    }
    bed.seen.take();
}

async fn names(bed: &Bed, node: Option<&str>, app: Option<&str>, limit: usize) -> Vec<String> {
    let (node, app) = (node.map(node_name), app.map(app_name));
    let mut seen = Vec::new();
    let mut next = Some(Query::first(limit));
    while let Some(query) = next {
        let page = bed.store.apps(node.as_ref(), app.as_ref(), query.clone()).await.unwrap();
        assert!(page.items.len() <= limit);
        seen.extend(page.items.iter().map(|app| format!("{} {}", app.node, app.name)));
        next = query.next(&page);
    }
    seen
}

pub(crate) async fn apps_are_paged_and_filtered(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    deployed(&bed, 1, &["a", "b", "c"]).await;
    deployed(&bed, 2, &["a", "c"]).await;
    let all = ["a web-1", "a web-2", "b web-1", "c web-1", "c web-2"];
    for limit in [1, 2, 5, 9] {
        assert_eq!(names(&bed, None, None, limit).await, all);
        assert_eq!(names(&bed, Some("a"), None, limit).await, ["a web-1", "a web-2"]);
        assert_eq!(names(&bed, None, Some("web-2"), limit).await, ["a web-2", "c web-2"]);
        assert_eq!(names(&bed, Some("c"), Some("web-2"), limit).await, ["c web-2"]);
        assert!(names(&bed, Some("b"), Some("web-2"), limit).await.is_empty());
    }
}

pub(crate) async fn removal_waits_for_the_node(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    deployed(&bed, 1, &["a"]).await;
    let (node, name) = (node_name("a"), app_name("web-1"));
    assert_eq!(bed.store.remove_app(&name, Some(&node), Terms::default(), at(5)).await.unwrap(), 1);
    assert_eq!(lines(&bed.seen.take()), ["unset a web-1"]);
    let app = bed.store.app(&node, &name).await.unwrap();
    assert_eq!((app.desired, app.update_time), (Desired::Removing, at(5)));
    assert!(bed.open_session("a", 1).await.is_empty());
    assert_eq!(
        bed.store.remove_app(&name, Some(&node), Terms::default(), at(6)).await.unwrap(),
        1,
        "it is still being removed"
    );

    bed.report("a", app_report("web-1", 1, 1, AppState::Running), 7).await;
    assert_eq!(bed.store.app(&node, &name).await.unwrap().status.state, AppState::Running);
    bed.report("a", app_report("web-1", 1, 1, AppState::Removed), 8).await;
    assert!(is_not_found(&bed.store.app(&node, &name).await.unwrap_err(), "app"));
    assert!(is_not_found(&bed.store.remove_app(&name, Some(&node), Terms::default(), at(9)).await.unwrap_err(), "app"));
}

/// It was assigned when the connection was already dead: the node never heard of it.
pub(crate) async fn a_node_without_the_app_confirms_too(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.report("a", app_report("web-1", 0, 0, AppState::Removed), 2).await;
    let (node, name) = (node_name("a"), app_name("web-1"));
    let app = bed.store.app(&node, &name).await.unwrap();
    assert_eq!((app.desired, app.status.state), (Desired::Present, AppState::Unknown), "it belongs there");

    bed.store.pass_deadlines(at(600)).await.unwrap();
    bed.seen.take();
    bed.store.open_session(&node, &session_id(1), info(), at(700)).await.unwrap();
    assert_eq!(lines(&bed.seen.take()), ["opened a with 0, removing [\"web-1\"]"]);
    bed.report("a", app_report("web-1", 0, 0, AppState::Removed), 701).await;
    assert!(is_not_found(&bed.store.app(&node, &name).await.unwrap_err(), "app"));
}

pub(crate) async fn removal_is_refused_while_busy(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a", "b"], 0).await;
    bed.report("a", progress(1, 1, TaskState::Succeeded), 2).await;
    bed.seen.take();
    let busy = bed.store.remove_app(&app_name("web-1"), None, Terms::default(), at(5)).await.unwrap_err();
    assert!(
        matches!(&busy, StoreError::AppBusy { job, node, .. } if *job == job_id(1) && *node == node_name("b")),
        "{busy:?}"
    );
    assert!(lines(&bed.seen.take()).is_empty());
    let kept = bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap();
    assert_eq!(kept.desired, Desired::Present, "a refusal changes nothing, on no node");
    bed.store.remove_app(&app_name("web-1"), Some(&node_name("a")), Terms::default(), at(6)).await.unwrap();
}

pub(crate) async fn removal_on_all_nodes(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    deployed(&bed, 1, &["a", "b", "c"]).await;
    deployed(&bed, 2, &["a"]).await;
    assert_eq!(bed.store.remove_app(&app_name("web-1"), None, Terms::default(), at(5)).await.unwrap(), 3);
    assert_eq!(lines(&bed.seen.take()), ["unset a web-1", "unset b web-1", "unset c web-1"]);
    let other = bed.store.app(&node_name("a"), &app_name("web-2")).await.unwrap();
    assert_eq!(other.desired, Desired::Present);
    assert!(is_not_found(
        &bed.store.remove_app(&app_name("none"), None, Terms::default(), at(5)).await.unwrap_err(),
        "app"
    ));
}

pub(crate) async fn a_removal_job_ends_when_the_node_confirms(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    deployed(&bed, 1, &["a", "b"]).await;
    bed.store.create_job(new_removal(2, 1, &["a", "b"], 1)).await.unwrap();
    bed.seen.take();
    assert_eq!(bed.assign_all(3).await, 1, "it is paced");
    assert_eq!(lines(&bed.seen.take()), ["job web-1 RUNNING: a ASSIGNED", "unset a web-1"]);
    let app = bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap();
    assert_eq!((app.desired, app.remover, app.job), (Desired::Removing, Some(job_id(2)), job_id(1)));
    assert_eq!(bed.store.app(&node_name("b"), &app_name("web-1")).await.unwrap().desired, Desired::Present);

    bed.report("a", app_report("web-1", 1, 1, AppState::Running), 4).await;
    assert_eq!(bed.task(2, "a").await.state, TaskState::Assigned);
    bed.seen.take();
    bed.report("a", app_report("web-1", 1, 1, AppState::Removed), 5).await;
    assert_eq!(lines(&bed.seen.take()), ["job web-1 RUNNING: a SUCCEEDED", "assignable"]);
    assert!(is_not_found(&bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap_err(), "app"));
    assert_eq!(bed.assign_all(6).await, 1);
    // This node had heard of nothing before its connection broke.
    bed.open_session("b", 1).await;
    bed.report("b", app_report("web-1", 0, 0, AppState::Removed), 7).await;
    assert_eq!(bed.job(2).await.state(), JobState::Succeeded);
    assert_eq!(bed.job(1).await.state(), JobState::Succeeded, "what was deployed was deployed");
}

pub(crate) async fn what_is_gone_is_removed_at_once(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    deployed(&bed, 1, &["a"]).await;
    bed.store.create_job(new_removal(2, 1, &["a", "b"], 0)).await.unwrap();
    bed.store.remove_app(&app_name("web-1"), None, Terms::default(), at(3)).await.unwrap();
    bed.report("a", app_report("web-1", 1, 1, AppState::Removed), 4).await;
    bed.seen.take();
    assert_eq!(bed.assign_all(5).await, 2);
    assert_eq!(lines(&bed.seen.take()), ["job web-1 SUCCEEDED: a SUCCEEDED, b SUCCEEDED"]);
}

pub(crate) async fn a_removal_has_no_way_back(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    deployed(&bed, 1, &["a", "b"]).await;
    bed.store.create_job(new_removal(2, 1, &["a", "b"], 1)).await.unwrap();
    bed.assign_all(3).await;
    bed.seen.take();
    let stop = JobRequest::Stop { cancel_in_flight: true };
    let job = bed.store.request(&job_id(2), stop, Terms::default(), at(4)).await.unwrap();
    assert_eq!(job.state(), JobState::Stopping);
    assert_eq!(lines(&bed.seen.take()), ["job web-1 STOPPING: "], "the node is told nothing");
    bed.store.pass_deadlines(at(TIMEOUT)).await.unwrap();
    assert_eq!(bed.task(2, "a").await.state, TaskState::TimedOut);
    let app = |node: &'static str| async { bed.store.app(&node_name(node), &app_name("web-1")).await };
    assert_eq!(app("a").await.unwrap().desired, Desired::Removing, "it goes on");
    assert_eq!(app("b").await.unwrap().desired, Desired::Present, "it never began");

    bed.report("a", app_report("web-1", 1, 1, AppState::Removed), TIMEOUT + 1).await;
    let task = bed.task(2, "a").await;
    assert_eq!(task.state, TaskState::TimedOut);
    assert!(task.history.iter().any(|event| event.late && event.state == TaskState::Succeeded), "{task:?}");
    assert!(is_not_found(&app("a").await.unwrap_err(), "app"));
    // Resumed, it has no time left; retried, it finds the one app gone and removes the other.
    bed.store.request(&job_id(2), JobRequest::Resume, Terms::default(), at(700)).await.unwrap();
    bed.store.pass_deadlines(at(701)).await.unwrap();
    bed.store.request(&job_id(2), JobRequest::Retry, Terms::default(), at(702)).await.unwrap();
    while bed.assign_all(703).await > 0 {}
    bed.report("b", app_report("web-1", 1, 1, AppState::Removed), 704).await;
    assert_eq!(bed.job(2).await.state(), JobState::Succeeded);
}

pub(crate) async fn one_job_at_a_time_has_an_app(factory: &dyn Factory) {
    let is_busy = |error: &StoreError, number: u32, name: &str| matches!(error, StoreError::AppBusy { job, node, .. } if *job == job_id(number) && *node == node_name(name));
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a", "b"], 1).await;
    let error = bed.store.create_job(new_removal(2, 1, &["b"], 0)).await.unwrap_err();
    assert!(is_busy(&error, 1, "b"), "its task is about to be assigned: {error:?}");
    bed.store.create_job(new_removal(3, 9, &["a", "b"], 0)).await.unwrap();
    let stop = JobRequest::Stop { cancel_in_flight: false };
    bed.store.request(&job_id(1), stop, Terms::default(), at(3)).await.unwrap();
    let error = bed.store.create_job(new_removal(2, 1, &["a", "b"], 0)).await.unwrap_err();
    assert!(is_busy(&error, 1, "a"), "its task is in flight: {error:?}");
    bed.report("a", progress(1, 1, TaskState::Succeeded), 4).await;

    let (web, both) = (app_name("web-1"), vec![node_name("a"), node_name("b")]);
    bed.store.check_not_busy(&web, both.clone()).await.unwrap();
    bed.store.create_job(new_removal(2, 1, &["a", "b"], 0)).await.unwrap();
    assert!(is_busy(&bed.store.check_not_busy(&web, both).await.unwrap_err(), 2, "a"));
    let id = job_id(1);
    let resume = || bed.store.request(&id, JobRequest::Resume, Terms::default(), at(5));
    let error = resume().await.unwrap_err();
    assert!(is_busy(&error, 2, "b"), "{error:?}");
    bed.assign_all(6).await;
    bed.report("a", app_report("web-1", 1, 1, AppState::Removed), 7).await;
    assert_eq!(bed.job(2).await.state(), JobState::Succeeded);
    assert_eq!(resume().await.unwrap().state(), JobState::Running);
}

pub(crate) async fn status_is_kept(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    deployed(&bed, 1, &["a"]).await;
    let (node, name) = (node_name("a"), app_name("web-1"));
    assert_eq!(bed.store.app(&node, &name).await.unwrap().status.state, AppState::Unknown);
    bed.report("a", app_report("web-1", 1, 1, AppState::Running), 7).await;
    bed.report("a", app_report("web-1", 1, 1, AppState::Running), 8).await;
    let app = bed.store.app(&node, &name).await.unwrap();
    assert_eq!((app.status.state, app.update_time), (AppState::Running, at(7)), "the same again is no change");
    bed.report("a", app_report("web-1", 1, 1, AppState::Removed), 9).await;
    let app = bed.store.app(&node, &name).await.unwrap();
    assert_eq!((app.status.state, app.desired), (AppState::Removed, Desired::Present), "it still belongs there");
}

pub(crate) async fn old_status_is_ignored(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.store.pass_deadlines(at(600)).await.unwrap();
    bed.store.request(&job_id(1), JobRequest::Retry, Terms::default(), at(700)).await.unwrap();
    assert_eq!(bed.assign_all(701).await, 1);
    bed.report("a", app_report("web-1", 1, 1, AppState::Removed), 702).await;
    let app = bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap();
    assert_eq!((app.attempt, app.desired, app.status.state), (2, Desired::Present, AppState::Unknown));
}

pub(crate) async fn redeployment_keeps_the_revision(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.store.pass_deadlines(at(600)).await.unwrap();
    let (node, name) = (node_name("a"), app_name("web-1"));
    assert_eq!(bed.store.app(&node, &name).await.unwrap().desired, Desired::Removing);
    bed.store.request(&job_id(1), JobRequest::Retry, Terms::default(), at(700)).await.unwrap();
    let busy = bed.store.remove_app(&name, None, Terms::default(), at(700)).await.unwrap_err();
    assert!(matches!(busy, StoreError::AppBusy { .. }), "a retry is about to deploy it again: {busy:?}");
    bed.assign_all(701).await;
    let app = bed.store.app(&node, &name).await.unwrap();
    assert_eq!((app.desired, app.attempt, app.revision), (Desired::Present, 2, 1));
    bed.report("a", progress(1, 2, TaskState::Succeeded), 702).await;
    assert_eq!(bed.open_session("a", 1).await.len(), 1);
}
