//! Random histories: the store against [`Model`], and what its observer was told against both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use jiff::Timestamp;
use longshore_model::app::{AppState, Desired};
use longshore_model::job::{Job, TaskCounts};
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::task::{Task, TaskState};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::model::{Model, Outcome, Step};
use super::{
    Bed, Factory, app_name, app_report, at, enrolling, info, job_id, new_job, new_removal, new_spec, new_update,
    node_name, progress, session_id, token,
};
use crate::store::sorting::Query;
use crate::store::{Change, JobRequest, Seen, Store, StoreError, Terms};

/// Histories to try: each opens a database and waits for some twenty commits.
const HISTORIES: u32 = 48;
const NODES: [&str; 4] = ["a", "b", "c", "d"];
/// Jobs that deploy, each an app of its own.
const DEPLOYMENTS: u32 = 4;
/// And with those, jobs that update or remove one of these apps.
const JOBS: u32 = 9;

fn any_node() -> impl Strategy<Value = NodeName> {
    (0..NODES.len()).prop_map(|index| node_name(NODES.get(index).unwrap()))
}

fn any_task_state() -> impl Strategy<Value = TaskState> {
    // Ends are what most depends on.
    prop_oneof![
        2 => (0..TaskState::ALL.len()).prop_map(|index| *TaskState::ALL.get(index).unwrap()),
        1 => Just(TaskState::Succeeded),
        1 => Just(TaskState::Failed),
        1 => Just(TaskState::Cancelled),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let (job, app) = (1..=JOBS, 1..=DEPLOYMENTS);
    let nodes = || proptest::sample::subsequence(NODES.to_vec(), 1..=NODES.len());
    let picks = vec((job.clone().prop_map(job_id), any_node()), 1..8);
    let reports = (job.clone(), 1..4_u32, vec(any_task_state(), 1..4));
    let app_state = prop_oneof![Just(AppState::Running), Just(AppState::Removed)];
    let request = prop_oneof![
        Just(JobRequest::Stop { cancel_in_flight: false }),
        Just(JobRequest::Stop { cancel_in_flight: true }),
        Just(JobRequest::Resume),
        Just(JobRequest::Retry),
        (0..100_u32).prop_map(|number| JobRequest::RetryWith { spec: Box::new(new_spec(number)), chosen: None }),
    ];
    prop_oneof![
        2 => any_node().prop_map(Step::Enroll),
        3 => (app.clone(), nodes(), 0..3_u32)
            .prop_map(|(number, nodes, max_parallel)| Step::Create(Box::new(new_job(number, &nodes, max_parallel)))),
        2 => (DEPLOYMENTS + 1..=JOBS, app.clone(), nodes(), 0..3_u32).prop_map(|(number, app, nodes, max_parallel)| {
            Step::Create(Box::new(new_removal(number, app, &nodes, max_parallel)))
        }),
        3 => (DEPLOYMENTS + 1..=JOBS, app.clone(), nodes(), 0..3_u32).prop_map(|(number, app, nodes, max_parallel)| {
            Step::Create(Box::new(new_update(number, app, &nodes, max_parallel)))
        }),
        6 => picks.prop_map(Step::Assign),
        10 => (any_node(), reports).prop_map(|(node, (job, attempt, states))| {
            Step::Report(node, states.into_iter().map(|state| progress(job, attempt, state)).collect())
        }),
        4 => (any_node(), app.clone(), 0..4_u64, 0..3_u32, app_state).prop_map(|(node, app, revision, attempt, state)| {
            Step::Report(node, vec![app_report(&format!("web-{app}"), revision, attempt, state)])
        }),
        4 => (job.clone().prop_map(job_id), request).prop_map(|(id, request)| Step::Request(id, request)),
        1 => Just(Step::PassDeadlines),
        3 => btree_map(any_node(), 0..120_u64, 0..3).prop_map(Step::SetAside),
        2 => (app, proptest::option::of(any_node()))
            .prop_map(|(job, node)| Step::RemoveApp(app_name(&format!("web-{job}")), node)),
        2 => any_node().prop_map(Step::OpenSession),
        1 => any_node().prop_map(Step::DeleteNode),
    ]
}

/// Groups of steps that are asked for at once, so that they share commits, and the seconds that pass before each.
fn any_history() -> impl Strategy<Value = Vec<(i64, Vec<Step>)>> {
    vec((prop_oneof![4 => 1..20_i64, 1 => 100..700_i64], vec(any_step(), 1..10)), 1..20)
}

/// The same history in the store and in the model gives the same.
pub(crate) fn histories_agree_with_the_model<F: Factory>(factory: impl Fn() -> F) {
    let mut runner = TestRunner::new(Config { cases: HISTORIES, failure_persistence: None, ..Config::default() });
    runner
        .run(&any_history(), |history| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(play(&factory(), history));
            Ok(())
        })
        .unwrap();
}

async fn play(factory: &dyn Factory, history: Vec<(i64, Vec<Step>)>) {
    let bed = Bed::with_nodes(factory, &["a", "b", "c"]).await;
    let mut model = Model::default();
    for name in ["a", "b", "c"] {
        model.nodes.insert(node_name(name));
    }
    let mut told = Told::default();
    let mut second = 0;
    let mut tokens = 0..;
    for (pause, steps) in history {
        second += pause;
        let now = at(second);
        let given = join_all(steps.iter().map(|step| {
            let token_id = format!("token-{}", tokens.next().unwrap());
            perform(bed.store.clone(), step.clone(), token_id, now)
        }))
        .await;
        // Those asked for at once are done in the order in which they were asked for; a new node takes two writes, and
        // the other steps go between them.
        let (enrolments, others): (Vec<_>, Vec<_>) =
            steps.into_iter().zip(given).partition(|(step, _)| matches!(step, Step::Enroll(_)));
        for (step, given) in others.into_iter().chain(enrolments) {
            let shown = format!("{step:?}");
            assert_eq!(given, model.apply(step, now), "{shown}");
        }
        told.take(bed.seen.take());
        compare(&*bed.store, &model, &told).await;
    }
    drop(bed);
    let reopened = Bed::open(factory);
    compare(&*reopened.store, &model, &told).await;
}

async fn perform(store: Arc<dyn Store>, step: Step, token_id: String, now: Timestamp) -> Outcome {
    let outcome = match step {
        Step::Enroll(node) => {
            store
                .create_token(token(&token_id, now + jiff::SignedDuration::from_secs(1)), Terms::default())
                .await
                .unwrap();
            store.enroll(enrolling(&token_id, 7, node.as_str()), now).await.map(|_| 0)
        }
        Step::Create(new) => store.create_job(*new).await.map(|_| 0),
        Step::Assign(picks) => store.assign(picks, now).await,
        Step::Report(node, reports) => store.report(&node, reports, now).await.map(|()| 0),
        Step::Request(id, request) => store.request(&id, request, Terms::default(), now).await.map(|_| 0),
        Step::PassDeadlines => store.pass_deadlines(now).await.map(|_| 0),
        Step::SetAside(away) => {
            let away = move |node: &NodeName| away.get(node).map(|seconds| Duration::from_secs(*seconds));
            let next = store.set_aside(Arc::new(away), now).await;
            next.map(|next| next.map_or(0, |next| usize::try_from(next.as_secs()).unwrap()))
        }
        Step::RemoveApp(name, node) => {
            store.remove_app(&name, node.as_ref(), Terms::default(), now).await.map(|count| count as usize)
        }
        // What was in the full set is compared by way of `Told`.
        Step::OpenSession(node) => store.open_session(&node, &session_id(1), info(), now).await.map(|()| 0),
        Step::DeleteNode(node) => store.delete_node(&node, Terms::default(), now).await.map(|()| 0),
    };
    outcome.map_err(|error| refusal(&error))
}

fn refusal(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound { .. } => "NotFound",
        StoreError::AlreadyExists { .. } => "AlreadyExists",
        StoreError::Refused(_) => "Refused",
        StoreError::AppBusy { .. } => "AppBusy",
        other => panic!("{other:?}"),
    }
}

/// What somebody knows who has seen nothing but the changes.
#[derive(Default)]
struct Told {
    jobs: BTreeMap<JobId, Arc<Job>>,
    tasks: BTreeMap<(JobId, NodeName), Task>,
    assigned: BTreeMap<(NodeName, AppName), (JobId, u32, u64, Bytes)>,
}

impl Told {
    fn take(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Job { job, tasks } => {
                    if let Some(before) = self.jobs.insert(job.id.clone(), job.clone()) {
                        assert!(before.version < job.version);
                    }
                    self.tasks.extend(tasks.into_iter().map(|task| ((task.job.clone(), task.node.clone()), task)));
                }
                Change::Opened { node, assignments, .. } => {
                    self.assigned.retain(|(other, _), _| *other != node);
                    for one in assignments {
                        self.assigned.insert((node.clone(), one.app), (one.job, one.attempt, one.revision, one.spec));
                    }
                }
                Change::Set { node, assignment: one } => {
                    self.assigned.insert((node, one.app), (one.job, one.attempt, one.revision, one.spec));
                }
                Change::Unset { node, app } => drop(self.assigned.remove(&(node, app))),
                Change::NodeDeleted { node } => self.assigned.retain(|(other, _), _| *other != node),
                Change::Reenrolled { .. } | Change::User(_) | Change::Assignable => {}
            }
        }
    }
}

async fn compare(store: &dyn Store, model: &Model, told: &Told) {
    let nodes: Vec<_> = store.nodes(Query::first(100)).await.unwrap().items.into_iter().map(|node| node.name).collect();
    assert_eq!(nodes, model.nodes.iter().cloned().collect::<Vec<_>>());

    let jobs = store.jobs(Query::first(100)).await.unwrap().items;
    assert!(jobs.iter().rev().map(|job| &job.id).eq(model.jobs.keys()));
    for (id, (job, tasks)) in &model.jobs {
        let stored = store.job_with_tasks(id, &Seen::default()).await.unwrap();
        assert_eq!(*stored.0, *job);
        assert_eq!(stored.1, *tasks);
        assert_eq!(job.counts, TaskCounts::tally(tasks));
        assert_eq!(told.jobs.get(id).map(|job| &**job), Some(job));
        for task in tasks {
            assert_eq!(told.tasks.get(&(id.clone(), task.node.clone())), Some(task));
        }
    }

    let apps = store.apps(None, None, Query::first(100)).await.unwrap().items;
    assert!(apps.iter().eq(model.apps.values()), "{apps:#?}\n{:#?}", model.apps);
    for app in apps {
        let spec = model.specs.get(&(app.job.clone(), app.spec_revision)).unwrap().clone();
        let kept = store.job_with_spec(&app.job, app.spec_revision).await.unwrap();
        assert_eq!(kept.spec_revision, app.spec_revision, "the spec of what runs is kept");
        let assigned = told.assigned.get(&(app.node, app.name));
        match app.desired {
            Desired::Present => assert_eq!(assigned, Some(&(app.job, app.attempt, app.revision, spec))),
            Desired::Removing => assert_eq!(assigned, None),
        }
    }
    assert_eq!(store.assignable(Arc::new(|_| true), 1000).await.unwrap(), model.assignable());
}
