//! Jobs: creation, pages, assignment, requests, deadlines.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use longshore_model::app::Desired;
use longshore_model::assignment::Order;
use longshore_model::clock::Clock;
use longshore_model::failure::FailureReason;
use longshore_model::job::{JobState, TaskCounts};
use longshore_model::name::NodeName;
use longshore_model::node::{Labels, NodeInfo};
use longshore_model::spec::AppSpec;
use longshore_model::task::TaskState;

use super::{
    Bed, Factory, TIMEOUT, app_name, at, info, is_not_found, job_id, lines, new_job, node_name, progress, session_id,
    setting, spec, spec_bytes,
};
use crate::store::sorting::Query;
use crate::store::{Change, Chosen, JobRequest, Seen, StoreError, Terms};

pub(crate) async fn created_jobs_are_found(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    let new = new_job(1, &["b", "a"], 0);
    let expected = new.job.clone();
    let created = bed.store.create_job(new).await.unwrap();
    assert_eq!(created.id, expected.id);
    assert_eq!(lines(&bed.seen.take()), ["job web-1 QUEUED: a PENDING, b PENDING", "assignable"]);

    assert_eq!(*bed.job(1).await, expected);
    let (job, tasks) = bed.store.job_with_tasks(&job_id(1), &Seen::default()).await.unwrap();
    assert_eq!(*job, expected);
    let seen: Vec<_> = tasks.iter().map(|task| (task.node.as_str(), task.attempt, task.state)).collect();
    assert_eq!(seen, [("a", 1, TaskState::Pending), ("b", 1, TaskState::Pending)]);
    assert_eq!(tasks.first().unwrap().update_time, at(0));
}

/// A store may keep times less finely than they come, but then it says so in its answer already.
pub(crate) async fn what_is_answered_is_what_is_kept(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    let fine = |second: i64| at(second) + SignedDuration::from_nanos(123_456_789);
    let mut new = new_job(1, &["a"], 0);
    new.job.create_time = fine(0);
    new.job.timeout += Duration::from_nanos(987);
    new.job.clock = Clock::start(fine(0), new.job.timeout);
    let created = bed.store.create_job(new).await.unwrap();
    assert_eq!(bed.job(1).await, created);
    assert_eq!(created.create_time.as_millisecond(), fine(0).as_millisecond());
    let stop = JobRequest::Stop { cancel_in_flight: false };
    for (request, second) in [(stop, 1), (JobRequest::Resume, 2)] {
        let answered = bed.store.request(&job_id(1), request, Terms::default(), fine(second)).await.unwrap();
        assert_eq!(bed.job(1).await, answered);
    }
}

pub(crate) async fn creation_is_refused(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.store.create_job(new_job(1, &["a"], 0)).await.unwrap();
    bed.seen.take();
    let twice = bed.store.create_job(new_job(1, &["a"], 0)).await.unwrap_err();
    assert!(matches!(twice, StoreError::AlreadyExists { kind: "job", .. }), "{twice:?}");
    let gone = bed.store.create_job(new_job(2, &["a", "gone"], 0)).await.unwrap_err();
    assert!(is_not_found(&gone, "node"), "{gone:?}");
    assert!(is_not_found(&bed.store.job(&job_id(2)).await.unwrap_err(), "job"));
    assert!(lines(&bed.seen.take()).is_empty());
}

pub(crate) async fn jobs_are_paged_newest_first(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    for number in [2, 5, 1, 4, 3] {
        bed.store.create_job(new_job(number, &["a"], 0)).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut next = Some(Query::first(2));
    while let Some(query) = next {
        let page = bed.store.jobs(query.clone()).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items.iter().map(|job| job.id.clone()));
        next = query.next(&page);
    }
    assert_eq!(seen, [5, 4, 3, 2, 1].map(job_id));
    assert!(!bed.store.jobs(Query::first(5)).await.unwrap().more);
}

pub(crate) async fn tasks_are_paged_by_name(factory: &dyn Factory) {
    let nodes = ["a", "b", "c", "d"];
    let bed = Bed::with_nodes(factory, &nodes).await;
    bed.store.create_job(new_job(1, &["d", "b", "a", "c"], 0)).await.unwrap();
    bed.store.create_job(new_job(2, &["a"], 0)).await.unwrap();
    let query = Query::first(3);
    let first = bed.store.tasks(&job_id(1), query.clone()).await.unwrap();
    assert!(first.more);
    let rest = bed.store.tasks(&job_id(1), query.next(&first).unwrap()).await.unwrap();
    assert!(!rest.more);
    let seen: Vec<_> = first.items.iter().chain(&rest.items).map(|task| task.node.as_str().to_owned()).collect();
    assert_eq!(seen, nodes);
}

pub(crate) async fn only_connected_nodes_are_assigned(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    bed.store.create_job(new_job(2, &["a", "b", "c"], 0)).await.unwrap();
    bed.store.create_job(new_job(1, &["c"], 0)).await.unwrap();
    let picks = bed.store.assignable(Arc::new(|node| node.as_str() != "b"), 10).await.unwrap();
    let expected = [(1, "c"), (2, "a"), (2, "c")].map(|(job, node)| (job_id(job), node_name(node)));
    assert_eq!(picks, expected, "the oldest job comes first");
    let limited = bed.store.assignable(Arc::new(|_| true), 2).await.unwrap();
    assert_eq!(limited.len(), 2);
}

pub(crate) async fn max_parallel_paces(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c", "d"]).await;
    assert_eq!(bed.assigned(1, &["a", "b", "c", "d"], 2).await, 2);
    assert!(bed.store.assignable(Arc::new(|_| true), 10).await.unwrap().is_empty());
    let beyond = ["c", "d"].map(|node| (job_id(1), node_name(node))).to_vec();
    assert_eq!(bed.store.assign(beyond, at(2)).await.unwrap(), 0, "no more than two at once, whatever is picked");
    bed.report("a", progress(1, 1, TaskState::Succeeded), 3).await;
    let next = bed.store.assignable(Arc::new(|_| true), 10).await.unwrap();
    assert_eq!(next, [(job_id(1), node_name("c"))]);
}

/// Sets aside what nodes have been away for, in seconds; the others are there.
async fn set_aside(bed: &Bed, away: &'static [(&'static str, u64)], second: i64) -> Option<Duration> {
    let answer = |node: &NodeName| {
        let found = away.iter().find(|(name, _)| *name == node.as_str());
        found.map(|(_, seconds)| Duration::from_secs(*seconds))
    };
    bed.store.set_aside(Arc::new(answer), at(second)).await.unwrap()
}

pub(crate) async fn absent_nodes_leave_their_places(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c", "d"]).await;
    assert_eq!(bed.assigned(1, &["a", "b", "c", "d"], 2).await, 2);
    let next = set_aside(&bed, &[("a", 20), ("b", 59), ("c", 600)], 60).await;
    assert_eq!(next, Some(Duration::from_secs(1)), "of those in flight, b is due first");
    assert!(bed.seen.take().is_empty());

    let next = set_aside(&bed, &[("a", 21), ("b", 60), ("c", 601)], 61).await;
    assert_eq!(next, Some(Duration::from_secs(39)));
    let expected = ["job web-1 RUNNING: b ASSIGNED", "assignable"];
    assert_eq!(lines(&bed.seen.take()), expected);
    let task = bed.task(1, "b").await;
    assert_eq!((task.state, task.attempt, task.absent_time), (TaskState::Assigned, 1, Some(at(1))));
    let counts = bed.job(1).await.counts;
    assert_eq!((counts.pending, counts.active, counts.absent), (2, 2, 1));
    assert_eq!(bed.store.app(&node_name("b"), &app_name("web-1")).await.unwrap().desired, Desired::Present);
    assert_eq!(bed.assign_all(62).await, 1, "c has the place of b");
    assert_eq!(set_aside(&bed, &[("b", 62)], 63).await, None, "what is set aside is due no more");

    bed.seen.take();
    bed.store.open_session(&node_name("b"), &session_id(1), info(), at(64)).await.unwrap();
    let expected = ["job web-1 RUNNING: b ASSIGNED", "opened b with 1, removing []"];
    assert_eq!(lines(&bed.seen.take()), expected);
    assert_eq!(bed.task(1, "b").await.absent_time, None);
    assert_eq!(bed.job(1).await.counts.occupied(), 3, "b takes its place again, which another has");
    assert_eq!(bed.assign_all(65).await, 0);
    bed.report("b", progress(1, 1, TaskState::Succeeded), 66).await;
    assert_eq!(bed.assign_all(67).await, 0, "two places are taken still");
    bed.report("a", progress(1, 1, TaskState::Succeeded), 68).await;
    assert_eq!(bed.assign_all(69).await, 1);

    let mut patient = new_job(2, &["a", "b"], 1);
    patient.job.rollout.absent_after = Duration::ZERO;
    bed.store.create_job(patient).await.unwrap();
    assert_eq!(bed.assign_all(70).await, 1);
    assert_eq!(set_aside(&bed, &[("a", 100_000)], 71).await, None);
    assert_eq!(bed.job(2).await.counts.absent, 0, "that job waits for its nodes for ever");
}

pub(crate) async fn absence_outlives_the_store(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a", "b"], 1).await;
    set_aside(&bed, &[("a", 90)], 100).await;
    drop(bed);
    let bed = Bed::open(factory);
    let task = bed.task(1, "a").await;
    assert_eq!(task.absent_time, Some(at(10)));
    assert_eq!(bed.job(1).await.counts.absent, 1);
    assert_eq!(bed.assign_all(101).await, 1, "the place is free still");
    bed.store.open_session(&node_name("a"), &session_id(1), info(), at(102)).await.unwrap();
    let job = bed.job(1).await;
    assert_eq!((job.counts.absent, job.rollout.absent_after), (0, Duration::from_secs(60)));

    // What ends while its node is absent is no longer waited for.
    set_aside(&bed, &[("a", 60), ("b", 60)], 200).await;
    bed.store.delete_node(&node_name("a"), Terms::default(), at(201)).await.unwrap();
    bed.store.pass_deadlines(at(TIMEOUT)).await.unwrap();
    let job = bed.job(1).await;
    assert_eq!((job.counts.failed, job.counts.timed_out, job.counts.absent), (1, 1, 0));
    assert_eq!(bed.task(1, "b").await.absent_time, None);
}

pub(crate) async fn assignment_deploys(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.store.create_job(new_job(1, &["a"], 0)).await.unwrap();
    bed.seen.take();
    assert_eq!(bed.assign_all(5).await, 1);
    let changes = bed.seen.take();
    assert_eq!(lines(&changes), ["job web-1 RUNNING: a ASSIGNED", "set a web-1 Deploy attempt 1"]);
    let Some(Change::Set { assignment, .. }) = changes.get(1) else { panic!("{changes:?}") };
    assert_eq!((assignment.revision, &assignment.job, &assignment.spec), (1, &job_id(1), &spec_bytes(1)));

    let task = bed.task(1, "a").await;
    assert_eq!((task.state, task.assign_time), (TaskState::Assigned, Some(at(5))));
    assert_eq!(bed.job(1).await.start_time, Some(at(5)));
    let app = bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap();
    assert_eq!((app.job, app.attempt, app.revision, app.desired), (job_id(1), 1, 1, Desired::Present));
}

pub(crate) async fn what_a_node_has_not_said_is_not_sent_to_it(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["able", "silent", "unseen"]).await;
    let privileged = |number, max_parallel| {
        let mut new = new_job(number, &["able", "silent", "unseen"], max_parallel);
        new.job.spec = Arc::new(AppSpec { privileged: true, ..spec() });
        new
    };
    let able = NodeInfo { capabilities: vec!["security.privileged".to_owned()], ..info() };
    for (node, info) in [("able", able.clone()), ("silent", info())] {
        bed.store.open_session(&node_name(node), &session_id(1), info, at(0)).await.unwrap();
    }
    bed.store.create_job(privileged(1, 0)).await.unwrap();
    bed.seen.take();
    assert_eq!(bed.assign_all(1).await, 3, "refusals count as work that was done");
    let told = lines(&bed.seen.take());
    assert_eq!(
        told,
        ["job web-1 RUNNING: able ASSIGNED, silent FAILED, unseen FAILED", "set able web-1 Deploy attempt 1"]
    );
    for node in ["silent", "unseen"] {
        let task = bed.task(1, node).await;
        let failure = task.failure.unwrap();
        assert_eq!((failure.reason, failure.step), (FailureReason::Unsupported, TaskState::Pending));
        assert!(failure.message.contains("security.privileged") && task.assign_time.is_none(), "{failure:?}");
    }
    // What the newest session says counts, at the next attempt.
    bed.report("able", progress(1, 1, TaskState::Succeeded), 2).await;
    bed.store.open_session(&node_name("silent"), &session_id(2), able, at(3)).await.unwrap();
    bed.store.request(&job_id(1), JobRequest::Retry, Terms::default(), at(4)).await.unwrap();
    bed.seen.take();
    assert_eq!(bed.assign_all(5).await, 2);
    let told = lines(&bed.seen.take());
    assert_eq!(told, ["job web-1 RUNNING: silent ASSIGNED, unseen FAILED", "set silent web-1 Deploy attempt 2"]);

    // A refusal takes no place of those that are paced, and ends a job that has nothing else.
    bed.store.create_job(privileged(2, 1)).await.unwrap();
    let picks = ["unseen", "able"].map(|node| (job_id(2), node_name(node))).to_vec();
    assert_eq!(bed.store.assign(picks, at(6)).await.unwrap(), 2);
    let mut only = privileged(3, 0);
    only.nodes = vec![node_name("unseen")];
    only.job.counts.pending = 1;
    bed.store.create_job(only).await.unwrap();
    bed.assign_all(7).await;
    assert_eq!(bed.job(3).await.state(), JobState::Failed);
}

pub(crate) async fn an_assignment_brings_the_labels_that_its_spec_asks_for(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    let label = |key: &str, value: &str| setting([(key.to_owned(), value.to_owned())].into());
    for (key, value) in [("site", "hh"), ("secret", "1")] {
        bed.store.update_labels(&node_name("a"), label(key, value), Terms::default(), at(0)).await.unwrap();
    }
    let able = NodeInfo { capabilities: vec!["spec.node-values".to_owned()], ..info() };
    for node in ["a", "b"] {
        bed.store.open_session(&node_name(node), &session_id(1), able.clone(), at(0)).await.unwrap();
    }
    let mut new = new_job(1, &["a", "b"], 0);
    new.job.spec = Arc::new(AppSpec { args: vec!["${node.labels.site}".to_owned()], ..spec() });
    bed.store.create_job(new).await.unwrap();
    bed.seen.take();
    assert_eq!(bed.assign_all(1).await, 2);
    let told = |changes: Vec<Change>| {
        let assignment = |change| match change {
            Change::Set { node, assignment } => Some((node, assignment.node_labels)),
            _ => None,
        };
        changes.into_iter().filter_map(assignment).collect::<Vec<_>>()
    };
    let site = |value: &str| Labels::from([("site".to_owned(), value.to_owned())]);
    assert_eq!(told(bed.seen.take()), [(node_name("a"), site("hh"))], "and no others of its labels");
    let failure = bed.task(1, "b").await.failure.unwrap();
    assert_eq!((failure.reason, failure.step), (FailureReason::NodeValueMissing, TaskState::Pending));
    assert!(failure.message.contains("\"site\""), "{failure:?}");

    // What is so when a session begins or an attempt does is what counts.
    for (node, value) in [("a", "bremen"), ("b", "kiel")] {
        bed.store.update_labels(&node_name(node), label("site", value), Terms::default(), at(2)).await.unwrap();
    }
    let full = bed.open_session("a", 2).await;
    assert_eq!(full.into_iter().map(|one| one.node_labels).collect::<Vec<_>>(), [site("bremen")]);
    bed.report("a", progress(1, 1, TaskState::Succeeded), 2).await;
    bed.store.request(&job_id(1), JobRequest::Retry, Terms::default(), at(3)).await.unwrap();
    bed.seen.take();
    bed.assign_all(4).await;
    assert_eq!(told(bed.seen.take()), [(node_name("b"), site("kiel"))]);
}

pub(crate) async fn assignment_passes_over_what_is_not_pending(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a"], 0).await;
    let picks = [(1, "a"), (1, "b"), (9, "a")].map(|(job, node)| (job_id(job), node_name(node))).to_vec();
    assert_eq!(bed.store.assign(picks, at(2)).await.unwrap(), 0);
    assert!(lines(&bed.seen.take()).is_empty());
}

pub(crate) async fn stop_and_resume(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a", "b"], 1).await;
    let stop = JobRequest::Stop { cancel_in_flight: false };
    let stopping = bed.store.request(&job_id(1), stop, Terms::default(), at(10)).await.unwrap();
    assert_eq!(stopping.state(), JobState::Stopping);
    assert!(bed.store.assignable(Arc::new(|_| true), 10).await.unwrap().is_empty());
    bed.report("a", progress(1, 1, TaskState::Succeeded), 20).await;
    assert_eq!(
        lines(&bed.seen.take()),
        ["job web-1 STOPPING: ", "job web-1 STOPPED: a SUCCEEDED"],
        "a stopped job has nothing to assign"
    );
    let stopped = bed.job(1).await;
    assert!(matches!(stopped.clock, Clock::Paused(left) if left.as_secs() == 580), "{:?}", stopped.clock);

    let resumed = bed.store.request(&job_id(1), JobRequest::Resume, Terms::default(), at(100)).await.unwrap();
    assert_eq!((resumed.state(), resumed.clock.deadline()), (JobState::Running, Some(at(680))));
    assert_eq!(lines(&bed.seen.take()), ["job web-1 RUNNING: ", "assignable"]);
    assert_eq!(bed.assign_all(101).await, 1);
    bed.report("b", progress(1, 1, TaskState::Succeeded), 110).await;
    let job = bed.job(1).await;
    assert_eq!((job.state(), job.end_time, job.clock), (JobState::Succeeded, Some(at(110)), Clock::Over));
}

pub(crate) async fn stop_with_cancel(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a", "b"], 0).await;
    bed.report("b", progress(1, 1, TaskState::Succeeded), 2).await;
    bed.seen.take();
    bed.store.request(&job_id(1), JobRequest::Stop { cancel_in_flight: true }, Terms::default(), at(10)).await.unwrap();
    assert_eq!(lines(&bed.seen.take()), ["job web-1 STOPPING: a ASSIGNED", "set a web-1 Cancel attempt 1"]);
    let full = bed.open_session("a", 1).await;
    assert_eq!(full.first().map(|assignment| assignment.order), Some(Order::Cancel));

    bed.report("a", progress(1, 1, TaskState::Cancelled), 11).await;
    assert_eq!(bed.job(1).await.state(), JobState::Stopped);
    let gone = bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap_err();
    assert!(is_not_found(&gone, "app"));

    bed.store.request(&job_id(1), JobRequest::Resume, Terms::default(), at(20)).await.unwrap();
    let task = bed.task(1, "a").await;
    assert_eq!((task.state, task.attempt, task.history.len()), (TaskState::Pending, 2, 1));
    assert_eq!(bed.task(1, "b").await.state, TaskState::Succeeded);
}

pub(crate) async fn a_stop_can_become_a_cancel(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a", "b"], 1).await;
    let [stop, cancel] = [false, true].map(|cancel_in_flight| JobRequest::Stop { cancel_in_flight });
    bed.store.request(&job_id(1), stop.clone(), Terms::default(), at(10)).await.unwrap();
    bed.seen.take();
    let again = bed.store.request(&job_id(1), stop.clone(), Terms::default(), at(11)).await.unwrap_err();
    assert!(matches!(again, StoreError::Refused(_)), "{again:?}");

    let stopping = bed.store.request(&job_id(1), cancel.clone(), Terms::default(), at(12)).await.unwrap();
    assert_eq!(stopping.state(), JobState::Stopping);
    assert_eq!(lines(&bed.seen.take()), ["job web-1 STOPPING: a ASSIGNED", "set a web-1 Cancel attempt 1"]);
    bed.store.request(&job_id(1), cancel.clone(), Terms::default(), at(13)).await.unwrap();
    assert_eq!(lines(&bed.seen.take()), ["job web-1 STOPPING: "], "the agent was told already");
    bed.report("a", progress(1, 1, TaskState::Cancelled), 14).await;
    assert_eq!(bed.job(1).await.state(), JobState::Stopped);
    bed.store.request(&job_id(1), cancel.clone(), Terms::default(), at(15)).await.unwrap_err();
}

pub(crate) async fn retry_starts_anew(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    bed.assigned(1, &["a", "b", "c"], 0).await;
    bed.report("a", progress(1, 1, TaskState::Succeeded), 2).await;
    bed.report("b", progress(1, 1, TaskState::Failed), 3).await;
    bed.report("c", progress(1, 1, TaskState::Failed), 4).await;
    assert_eq!(bed.job(1).await.state(), JobState::PartiallySucceeded);
    bed.store.delete_node(&node_name("c"), Terms::default(), at(5)).await.unwrap();
    bed.seen.take();

    let job = bed.store.request(&job_id(1), JobRequest::Retry, Terms::default(), at(1000)).await.unwrap();
    assert_eq!((job.state(), job.round), (JobState::Queued, 2));
    assert_eq!(job.clock.deadline(), Some(at(1600)));
    assert_eq!(lines(&bed.seen.take()), ["job web-1 QUEUED: b PENDING, c FAILED", "assignable"]);
    let failed = bed.task(1, "c").await;
    assert_eq!(failed.failure.unwrap().reason, FailureReason::NodeDeleted);
    assert_eq!(bed.assign_all(1001).await, 1);
    bed.report("b", progress(1, 2, TaskState::Succeeded), 1002).await;
    let counts = TaskCounts { succeeded: 2, failed: 1, ..TaskCounts::default() };
    assert_eq!(bed.job(1).await.counts, counts);
}

pub(crate) async fn a_retry_can_be_of_some(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    bed.assigned(1, &["a", "b", "c"], 0).await;
    let of = |node: &'static str| JobRequest::RetryOf(Chosen(Arc::new(move |task| task.node.as_str() == node)));
    let ask = async |request, second| bed.store.request(&job_id(1), request, Terms::default(), at(second)).await;
    assert!(matches!(ask(of("a"), 2).await, Err(StoreError::Refused(_))), "the state comes first");
    for (node, state) in [("a", TaskState::Failed), ("b", TaskState::Failed), ("c", TaskState::Succeeded)] {
        bed.report(node, progress(1, 1, state), 3).await;
    }
    for nothing in ["c", "d"] {
        assert!(matches!(ask(of(nothing), 4).await, Err(StoreError::NoneChosen)), "{nothing}");
    }
    assert_eq!(bed.job(1).await.state(), JobState::PartiallySucceeded, "nothing has changed");
    let job = ask(of("a"), 5).await.unwrap();
    assert_eq!((job.state(), job.round, job.counts.pending, job.counts.failed), (JobState::Queued, 2, 1, 1));
    assert_eq!((bed.task(1, "a").await.attempt, bed.task(1, "b").await.attempt), (2, 1));
    bed.assign_all(6).await;
    bed.report("a", progress(1, 2, TaskState::Succeeded), 7).await;
    let job = bed.job(1).await;
    assert_eq!((job.state(), job.counts.succeeded, job.counts.failed), (JobState::PartiallySucceeded, 2, 1));
}

pub(crate) async fn requests_are_refused(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    let before = bed.store.job_with_tasks(&job_id(1), &Seen::default()).await.unwrap();
    for request in [JobRequest::Resume, JobRequest::Retry] {
        let refused = bed.store.request(&job_id(1), request, Terms::default(), at(2)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Refused(_)), "{refused:?}");
    }
    assert_eq!(bed.store.job_with_tasks(&job_id(1), &Seen::default()).await.unwrap(), before);
    assert!(lines(&bed.seen.take()).is_empty());
    bed.report("a", progress(1, 1, TaskState::Succeeded), 3).await;
    for request in [JobRequest::Stop { cancel_in_flight: true }, JobRequest::Resume, JobRequest::Retry] {
        bed.store.request(&job_id(1), request, Terms::default(), at(4)).await.unwrap_err();
    }
}

pub(crate) async fn deadlines_pass(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    assert_eq!(bed.store.pass_deadlines(at(0)).await.unwrap(), None);
    bed.assigned(1, &["a", "b", "c"], 2).await;
    bed.report("b", progress(1, 1, TaskState::Succeeded), 2).await;
    bed.seen.take();
    assert_eq!(bed.store.pass_deadlines(at(599)).await.unwrap(), Some(at(600)));
    assert!(lines(&bed.seen.take()).is_empty());
    assert_eq!(bed.store.pass_deadlines(at(600)).await.unwrap(), None);
    assert_eq!(lines(&bed.seen.take()), ["job web-1 TIMED_OUT: a TIMED_OUT, c TIMED_OUT", "unset a web-1"]);
    let app = bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap();
    assert_eq!(app.desired, Desired::Removing);
    assert_eq!(bed.store.app(&node_name("b"), &app_name("web-1")).await.unwrap().desired, Desired::Present);
    let failure = bed.task(1, "a").await.failure.unwrap();
    assert_eq!((failure.reason, failure.step), (FailureReason::DeadlineExceeded, TaskState::Assigned));
}

pub(crate) async fn unknown_jobs_are_not_found(factory: &dyn Factory) {
    let bed = Bed::open(factory);
    let id = job_id(1);
    assert!(is_not_found(&bed.store.job(&id).await.unwrap_err(), "job"));
    assert!(is_not_found(&bed.store.tasks(&id, Query::first(1)).await.unwrap_err(), "job"));
    assert!(is_not_found(&bed.store.job_with_tasks(&id, &Seen::default()).await.unwrap_err(), "job"));
    assert!(is_not_found(
        &bed.store.request(&id, JobRequest::Retry, Terms::default(), at(1)).await.unwrap_err(),
        "job"
    ));
    assert!(bed.store.jobs(Query::first(5)).await.unwrap().items.is_empty());
    bed.store.ping().await.unwrap();
}

pub(crate) async fn everything_is_counted(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    bed.assigned(1, &["a", "b"], 0).await;
    bed.report("a", progress(1, 1, TaskState::Succeeded), 2).await;
    bed.report("b", progress(1, 1, TaskState::Failed), 2).await;
    bed.assigned(2, &["a", "b", "c"], 1).await;
    bed.store.create_job(new_job(3, &["c"], 0)).await.unwrap();
    let census = bed.store.census().await.unwrap();
    let jobs: Vec<_> = census.jobs.into_iter().filter(|(_, count)| *count > 0).collect();
    let expected = [(JobState::Queued, 1), (JobState::Running, 1), (JobState::PartiallySucceeded, 1)];
    assert_eq!(jobs, expected);
    let tasks: Vec<_> = census.tasks.into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(tasks, [("PENDING", 3), ("ACTIVE", 1), ("SUCCEEDED", 1), ("FAILED", 1)]);
    assert_eq!(census.nodes, 3);
}
