//! Updates: what an app's entry says before, during and after, and what its node is told.

use longshore_model::app::{App, AppState, Desired, Previous};
use longshore_model::assignment::Order;
use longshore_model::failure::FailureReason;
use longshore_model::job::JobState;
use longshore_model::node::NodeInfo;
use longshore_model::task::TaskState;

use super::{
    Bed, Change, Factory, TIMEOUT, app_name, app_report, at, info, job_id, lines, new_job, new_removal, new_update,
    node_name, progress, session_id, spec_bytes,
};
use crate::store::{EncodedAssignment, JobRequest, StoreError, Terms};

/// App `web-1`, deployed by job 1 to nodes whose agents can do everything, and nothing observed yet.
async fn deployed(factory: &dyn Factory, nodes: &[&str]) -> Bed {
    let bed = Bed::with_nodes(factory, nodes).await;
    bed.assigned(1, nodes, 0).await;
    for node in nodes {
        bed.open_session(node, 1).await;
        bed.report(node, progress(1, 1, TaskState::Succeeded), 2).await;
        bed.report(node, app_report("web-1", 1, 1, AppState::Running), 2).await;
    }
    bed.seen.take();
    bed
}

impl Bed {
    async fn web(&self, node: &str) -> App {
        self.store.app(&node_name(node), &app_name("web-1")).await.unwrap()
    }

    /// Creates and assigns an update, and forgets what was observed.
    async fn updating(&self, number: u32, nodes: &[&str]) {
        self.store.create_job(new_update(number, 1, nodes, 0)).await.unwrap();
        self.assign_all(3).await;
        self.seen.take();
    }

    /// The only assignment that was told since.
    fn told(&self) -> EncodedAssignment {
        let mut sets = self.seen.take().into_iter().filter_map(|change| match change {
            Change::Set { assignment, .. } => Some(assignment),
            _ => None,
        });
        let told = sets.next().unwrap();
        assert!(sets.next().is_none());
        told
    }
}

fn revision_of(assignment: &EncodedAssignment) -> (u64, u32, Order) {
    (assignment.revision, assignment.attempt, assignment.order)
}

pub(crate) async fn an_update_is_a_new_revision_of_the_same_app(factory: &dyn Factory) {
    let bed = deployed(factory, &["a", "b"]).await;
    bed.store.create_job(new_update(2, 1, &["a"], 0)).await.unwrap();
    bed.seen.take();
    assert_eq!(bed.assign_all(3).await, 1);
    let told = bed.told();
    assert_eq!((revision_of(&told), &told.spec), ((2, 1, Order::Deploy), &spec_bytes(2)));
    let app = bed.web("a").await;
    let previous = Some(Previous { job: job_id(1), spec_revision: 1, attempt: 1, revision: 1 });
    assert_eq!((app.job, app.revision, &app.previous), (job_id(2), 2, &previous));
    assert_eq!(app.status.state, AppState::Running, "the old one still runs");
    bed.report("a", progress(2, 1, TaskState::Succeeded), 4).await;
    bed.report("a", app_report("web-1", 2, 1, AppState::Completed), 5).await;
    drop(bed);

    let bed = Bed::open(factory);
    assert_eq!(bed.job(2).await.state(), JobState::Succeeded);
    let app = bed.web("a").await;
    assert_eq!((app.revision, app.previous, app.status.state), (2, previous, AppState::Completed));
    assert_eq!(bed.web("b").await.revision, 1);
    let full = bed.open_session("a", 2).await;
    assert_eq!(full.iter().map(revision_of).collect::<Vec<_>>(), [(2, 1, Order::Keep)]);
    // What ran before is needed for as long as the app may go back, and that is no longer than the next update.
    assert_eq!(bed.store.forget_jobs(at(100_000), at(100_000)).await.unwrap(), 0);
    bed.updating(3, &["a", "b"]).await;
    for node in ["a", "b"] {
        bed.report(node, progress(3, 1, TaskState::Succeeded), 6).await;
    }
    assert_eq!((bed.web("a").await.revision, bed.web("b").await.revision), (3, 2));
    assert_eq!(bed.store.forget_jobs(at(100_000), at(100_000)).await.unwrap(), 0, "the one is a's, the other b's");
    bed.updating(4, &["a", "b"]).await;
    for node in ["a", "b"] {
        bed.report(node, progress(4, 1, TaskState::Succeeded), 7).await;
    }
    assert_eq!(bed.store.forget_jobs(at(100_000), at(100_000)).await.unwrap(), 2);
}

pub(crate) async fn an_update_without_success_leads_back(factory: &dyn Factory) {
    for end in [TaskState::Failed, TaskState::Cancelled, TaskState::TimedOut] {
        let bed = deployed(factory, &["a"]).await;
        bed.updating(2, &["a"]).await;
        match end {
            TaskState::TimedOut => drop(bed.store.pass_deadlines(at(TIMEOUT)).await.unwrap()),
            TaskState::Cancelled => {
                let stop = JobRequest::Stop { cancel_in_flight: true };
                bed.store.request(&job_id(2), stop, Terms::default(), at(4)).await.unwrap();
                assert_eq!(revision_of(&bed.told()), (2, 1, Order::Cancel));
                bed.report("a", progress(2, 1, end), 5).await;
            }
            _ => bed.report("a", progress(2, 1, end), 5).await,
        }
        assert_eq!(bed.task(2, "a").await.state, end);
        let told = bed.told();
        assert_eq!(
            (revision_of(&told), &told.job, &told.spec),
            ((1, 1, Order::Keep), &job_id(1), &spec_bytes(1)),
            "{end}"
        );
        let app = bed.web("a").await;
        assert_eq!((app.job, app.revision, app.previous, app.last_revision), (job_id(1), 1, None, 2), "{end}");
        assert_eq!(app.desired, Desired::Present);
        let full = bed.open_session("a", 2).await;
        assert_eq!(full.iter().map(revision_of).collect::<Vec<_>>(), [(1, 1, Order::Keep)], "{end}");

        let again = if end == TaskState::Cancelled { JobRequest::Resume } else { JobRequest::Retry };
        bed.store.request(&job_id(2), again, Terms::default(), at(700)).await.unwrap();
        bed.seen.take();
        bed.assign_all(701).await;
        assert_eq!(revision_of(&bed.told()), (3, 2, Order::Deploy), "a number is used once");
        bed.report("a", progress(2, 2, TaskState::Succeeded), 702).await;
        assert_eq!(bed.job(2).await.state(), JobState::Succeeded);
        // Removal has nothing to do with any of it.
        bed.store.remove_app(&app_name("web-1"), None, Terms::default(), at(703)).await.unwrap();
        bed.report("a", app_report("web-1", 3, 2, AppState::Removed), 704).await;
        for number in [1, 2] {
            assert!(bed.job(number).await.state().is_final());
        }
        bed.store.forget_jobs(at(100_000), at(100_000)).await.unwrap();
        bed.store.delete_node(&node_name("a"), Terms::default(), at(705)).await.unwrap();
    }
}

pub(crate) async fn a_late_word_of_an_update_changes_nothing(factory: &dyn Factory) {
    let bed = deployed(factory, &["a"]).await;
    bed.updating(2, &["a"]).await;
    bed.store.pass_deadlines(at(TIMEOUT)).await.unwrap();
    bed.seen.take();
    bed.report("a", progress(2, 1, TaskState::Succeeded), TIMEOUT + 1).await;
    let task = bed.task(2, "a").await;
    assert_eq!((task.state, task.history.len()), (TaskState::TimedOut, 1));
    assert_eq!(bed.web("a").await.revision, 1);
    // What the node says of the revision that it still has is true all the same.
    bed.report("a", app_report("web-1", 2, 1, AppState::BackOff), TIMEOUT + 2).await;
    assert_eq!(bed.web("a").await.status.state, AppState::BackOff);
    bed.report("a", app_report("web-1", 1, 1, AppState::Running), TIMEOUT + 3).await;
    assert_eq!(bed.web("a").await.status.state, AppState::Running);
}

pub(crate) async fn status_of_the_revision_before_counts_until_the_update_is_over(factory: &dyn Factory) {
    let bed = deployed(factory, &["a"]).await;
    bed.updating(2, &["a"]).await;
    bed.report("a", app_report("web-1", 1, 1, AppState::BackOff), 4).await;
    assert_eq!(bed.web("a").await.status.state, AppState::BackOff);
    bed.report("a", app_report("web-1", 2, 1, AppState::Starting), 5).await;
    bed.report("a", app_report("web-1", 1, 1, AppState::Running), 6).await;
    bed.report("a", progress(2, 1, TaskState::Failed), 6).await;
    let app = bed.web("a").await;
    assert_eq!((app.revision, app.status.state), (1, AppState::Running), "it was back before its task had ended");
    bed.updating(3, &["a"]).await;
    bed.report("a", progress(3, 1, TaskState::Succeeded), 7).await;
    bed.report("a", app_report("web-1", 3, 1, AppState::Running), 8).await;
    bed.report("a", app_report("web-1", 1, 1, AppState::BackOff), 9).await;
    assert_eq!(bed.web("a").await.status.state, AppState::Running, "that is over");
}

pub(crate) async fn an_update_that_cannot_begin_changes_nothing(factory: &dyn Factory) {
    let bed = deployed(factory, &["a", "b", "c"]).await;
    let old = NodeInfo { capabilities: Vec::new(), ..info() };
    bed.store.open_session(&node_name("b"), &session_id(9), old, at(3)).await.unwrap();
    bed.store.create_job(new_update(2, 1, &["a", "b", "c"], 0)).await.unwrap();
    let (web, c) = (app_name("web-1"), node_name("c"));
    let busy = bed.store.remove_app(&web, Some(&c), Terms::default(), at(3)).await.unwrap_err();
    assert!(matches!(&busy, StoreError::AppBusy { job, .. } if *job == job_id(2)), "{busy:?}");
    let stop = JobRequest::Stop { cancel_in_flight: false };
    bed.store.request(&job_id(2), stop, Terms::default(), at(4)).await.unwrap();
    bed.store.remove_app(&web, Some(&c), Terms::default(), at(5)).await.unwrap();
    bed.store.request(&job_id(2), JobRequest::Resume, Terms::default(), at(6)).await.unwrap();
    bed.seen.take();
    bed.assign_all(7).await;
    let told = lines(&bed.seen.take());
    assert_eq!(told, ["job web-1 RUNNING: a ASSIGNED, b FAILED, c FAILED", "set a web-1 Deploy attempt 1"]);
    let reason = async |node| bed.task(2, node).await.failure.unwrap().reason;
    assert_eq!(reason("b").await, FailureReason::Unsupported);
    assert_eq!(reason("c").await, FailureReason::AppNotFound, "it is being removed");
    assert_eq!(bed.web("b").await.revision, 1);
    bed.report("c", app_report("web-1", 1, 1, AppState::Removed), 8).await;
    bed.report("a", progress(2, 1, TaskState::Succeeded), 8).await;
    bed.store.open_session(&node_name("b"), &session_id(10), info(), at(9)).await.unwrap();
    bed.store.request(&job_id(2), JobRequest::Retry, Terms::default(), at(10)).await.unwrap();
    bed.assign_all(11).await;
    assert_eq!(reason("c").await, FailureReason::AppNotFound, "it is gone");
    bed.report("b", progress(2, 2, TaskState::Succeeded), 12).await;
    assert_eq!(bed.job(2).await.state(), JobState::PartiallySucceeded);
}

pub(crate) async fn updates_removals_and_retries_take_turns(factory: &dyn Factory) {
    let bed = deployed(factory, &["a"]).await;
    bed.updating(2, &["a"]).await;
    for new in [new_update(3, 1, &["a"], 0), new_removal(3, 1, &["a"], 0)] {
        let busy = bed.store.create_job(new).await.unwrap_err();
        assert!(matches!(&busy, StoreError::AppBusy { job, .. } if *job == job_id(2)), "{busy:?}");
    }
    bed.report("a", progress(2, 1, TaskState::Failed), 4).await;
    bed.store.create_job(new_update(3, 1, &["a"], 0)).await.unwrap();
    let id = job_id(2);
    let retry = || bed.store.request(&id, JobRequest::Retry, Terms::default(), at(5));
    assert!(matches!(retry().await.unwrap_err(), StoreError::AppBusy { .. }));
    bed.assign_all(6).await;
    bed.report("a", progress(3, 1, TaskState::Succeeded), 7).await;
    assert_eq!(bed.web("a").await.revision, 3);
    assert_eq!(
        retry().await.unwrap().state(),
        JobState::Queued,
        "an older update can be tried again, if somebody says so"
    );
    // Other apps are none of its business.
    bed.store.create_job(new_job(4, &["a"], 0)).await.unwrap();
}
