//! What agents report of tasks.

use std::collections::BTreeMap;

use longshore_model::failure::{Failure, FailureReason};
use longshore_model::job::{JobState, TaskCounts};
use longshore_model::report::TaskReport;
use longshore_model::task::{PullProgress, PullStart, TaskState};

use super::{Bed, Factory, app_name, at, is_not_found, job_id, lines, new_job, node_name, progress};
use crate::store::{Change, NodeReport, Seen};

pub(crate) async fn progress_counts(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a", "b"], 0).await;
    let pull = Some(PullProgress { done: 10, total: 100 });
    let pulling = TaskReport { job: job_id(1), attempt: 1, state: TaskState::Pulling, pull, failure: None };
    bed.report("a", NodeReport::Task(pulling.clone()), 2).await;
    assert_eq!(lines(&bed.seen.take()), ["job web-1 RUNNING: a PULLING"]);
    let task = bed.task(1, "a").await;
    assert_eq!((task.state, task.pull, task.update_time), (TaskState::Pulling, pull, at(2)));
    bed.report("a", NodeReport::Task(pulling.clone()), 3).await;
    bed.report("a", progress(1, 1, TaskState::Checking), 3).await;
    assert!(lines(&bed.seen.take()).is_empty(), "what says nothing new changes nothing");
    let start = async |done, second| {
        let pull = Some(PullProgress { done, total: 100 });
        bed.report("a", NodeReport::Task(TaskReport { pull, ..pulling.clone() }), second).await;
        bed.task(1, "a").await.pull_start
    };
    assert_eq!(start(50, 3).await, Some(PullStart { time: at(2), done: 10 }), "it goes on from where it began");
    assert_eq!(start(20, 3).await, Some(PullStart { time: at(3), done: 20 }), "something was lost");
    bed.seen.take();

    bed.report("a", progress(1, 1, TaskState::Succeeded), 4).await;
    let task = bed.task(1, "a").await;
    assert_eq!((task.state, task.pull, task.end_time), (TaskState::Succeeded, None, Some(at(4))));
    let counts = TaskCounts { active: 1, succeeded: 1, ..TaskCounts::default() };
    assert_eq!(bed.job(1).await.counts, counts);
    bed.report("b", progress(1, 1, TaskState::Succeeded), 5).await;
    assert_eq!(lines(&bed.seen.take()), ["job web-1 RUNNING: a SUCCEEDED", "job web-1 SUCCEEDED: b SUCCEEDED"]);
}

pub(crate) async fn failure_forgets_the_app(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    let failure = Failure {
        reason: FailureReason::PortInUse,
        message: "Port 80 is taken.".to_owned(),
        step: TaskState::Checking,
    };
    let report =
        TaskReport { job: job_id(1), attempt: 1, state: TaskState::Failed, pull: None, failure: Some(failure.clone()) };
    bed.report("a", NodeReport::Task(report), 2).await;
    assert_eq!(bed.task(1, "a").await.failure, Some(failure));
    assert_eq!(bed.job(1).await.state(), JobState::Failed);
    let gone = bed.store.app(&node_name("a"), &app_name("web-1")).await.unwrap_err();
    assert!(is_not_found(&gone, "app"));
}

pub(crate) async fn a_free_slot_is_told(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a", "b"], 1).await;
    bed.report("a", progress(1, 1, TaskState::Starting), 2).await;
    assert_eq!(lines(&bed.seen.take()), ["job web-1 RUNNING: a STARTING"]);
    bed.report("a", progress(1, 1, TaskState::Failed), 3).await;
    assert_eq!(lines(&bed.seen.take()), ["job web-1 RUNNING: a FAILED", "assignable"]);
}

pub(crate) async fn reports_coalesce_in_order(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a", "b"], 0).await;
    let reports = [TaskState::Checking, TaskState::Pulling, TaskState::Succeeded, TaskState::Failed]
        .map(|state| progress(1, 1, state))
        .to_vec();
    bed.store.report(&node_name("a"), reports, at(2)).await.unwrap();
    assert_eq!(lines(&bed.seen.take()), ["job web-1 RUNNING: a SUCCEEDED"], "one change for all of them");
    let task = bed.task(1, "a").await;
    assert_eq!(task.state, TaskState::Succeeded, "the first end stands");
    assert_eq!(task.history.first().map(|event| (event.state, event.late)), Some((TaskState::Failed, true)));
}

pub(crate) async fn late_reports_are_kept(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.store.pass_deadlines(at(600)).await.unwrap();
    bed.seen.take();
    let before = bed.job(1).await;
    bed.report("a", progress(1, 1, TaskState::Succeeded), 700).await;
    assert_eq!(lines(&bed.seen.take()), ["job web-1 TIMED_OUT: a TIMED_OUT"]);
    let (job, task) = (bed.job(1).await, bed.task(1, "a").await);
    assert_eq!((job.state(), job.end_time), (JobState::TimedOut, before.end_time));
    assert!(job.version > before.version);
    let event = task.history.first().unwrap();
    assert_eq!((event.state, event.late, event.time), (TaskState::Succeeded, true, at(700)));
}

pub(crate) async fn reports_of_the_unknown_are_dropped(factory: &dyn Factory) {
    let bed = Bed::with_nodes(factory, &["a", "b"]).await;
    bed.assigned(1, &["a"], 0).await;
    bed.report("a", progress(9, 1, TaskState::Succeeded), 2).await;
    bed.report("b", progress(1, 1, TaskState::Succeeded), 2).await;
    bed.report("a", progress(1, 7, TaskState::Succeeded), 2).await;
    bed.report("a", super::app_report("other", 1, 1, longshore_model::app::AppState::Running), 2).await;
    assert!(lines(&bed.seen.take()).is_empty());
    assert_eq!(bed.task(1, "a").await.state, TaskState::Assigned);
}

pub(crate) async fn thousands_of_reports_at_once(factory: &dyn Factory) {
    const NODES: usize = 1000;
    let states = [TaskState::Checking, TaskState::Starting, TaskState::Succeeded];
    let names: Vec<String> = (0..NODES).map(|number| format!("node-{number}")).collect();
    let nodes: Vec<&str> = names.iter().map(String::as_str).collect();
    let bed = Bed::with_nodes(factory, &nodes).await;
    bed.store.create_job(new_job(1, &nodes, 0)).await.unwrap();
    while bed.assign_all(1).await > 0 {}
    bed.seen.take();

    let mut senders = tokio::task::JoinSet::new();
    for name in &names {
        let (store, node) = (bed.store.clone(), node_name(name));
        senders.spawn(async move {
            for state in states {
                store.report(&node, vec![progress(1, 1, state)], at(2)).await.unwrap();
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }

    let (job, tasks) = bed.store.job_with_tasks(&job_id(1), &Seen::default()).await.unwrap();
    assert_eq!(job.state(), JobState::Succeeded);
    assert_eq!(job.counts, TaskCounts::tally(&tasks));
    check_growth(&bed.seen.take(), NODES);
}

/// Versions of the job and ranks of each task only grow in what was told, and every task is told to its end.
fn check_growth(changes: &[Change], nodes: usize) {
    let mut version = 0;
    let mut ranks = BTreeMap::new();
    for change in changes {
        let Change::Job { job, tasks } = change else { panic!("{change:?}") };
        assert!(job.version > version);
        version = job.version;
        for task in tasks {
            let before = ranks.insert(task.node.clone(), task.state.rank());
            assert!(before.is_none_or(|before| before < task.state.rank()), "{task:?}");
        }
    }
    assert_eq!(ranks.len(), nodes);
    assert!(ranks.values().all(|rank| *rank == TaskState::Succeeded.rank()));
    assert!(changes.len() < 3 * nodes, "no two reports ever shared a commit");
}
