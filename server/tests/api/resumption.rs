//! Watches that are cut off and go on from a cursor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use longshore_model::job::Job;
use longshore_model::name::{JobId, NodeName};
use longshore_model::report::TaskReport;
use longshore_model::task::{PullProgress, Task, TaskState};
use longshore_proto::v1;
use longshore_server::hub::{Interest, Snapshot, Subscription};
use longshore_server::store::{JobRequest, NodeReport, Seen, Terms};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::{Code, Status};
use v1::JobState;

use crate::harness::{World, failure, order, soon};

const NODES: [&str; 5] = ["shop-1", "shop-2", "shop-3", "shop-4", "shop-5"];
const SEEDS: u64 = 12;
const STEPS: usize = 150;

/// A job that changes at random, and one who watches it over a bad connection.
struct Play {
    world: World,
    random: StdRng,
    job: JobId,
    now: Timestamp,
    /// While the connection stands.
    watch: Option<Subscription>,
    /// What the watcher has read, folded together.
    view: (Option<Arc<Job>>, BTreeMap<NodeName, Task>),
    seen: Seen,
    /// Every change of a task that was read.
    told: BTreeSet<(u64, NodeName)>,
}

impl Play {
    async fn begin(seed: u64) -> Self {
        let world = World::start().await;
        for node in NODES {
            world.enroll(node, &[]).await;
        }
        let job = JobId::parse(&world.create(order(&NODES)).await.job_id).unwrap();
        let (random, now) = (StdRng::seed_from_u64(seed), Timestamp::now());
        Self {
            world,
            random,
            job,
            now,
            watch: None,
            view: Default::default(),
            seen: Seen::default(),
            told: BTreeSet::new(),
        }
    }

    fn node(&mut self) -> NodeName {
        NodeName::parse(NODES[self.random.random_range(0..NODES.len())]).unwrap()
    }

    async fn stored(&self) -> (Arc<Job>, Vec<Task>) {
        self.world.store.job_with_tasks(&self.job, &Seen::default()).await.unwrap()
    }

    /// What may be refused is: a job that is stopped already stays so.
    async fn write(&mut self) {
        let (store, now) = (Arc::clone(&self.world.store), self.now);
        let node = self.node();
        match self.random.random_range(0..20) {
            0..6 => drop(store.assign(vec![(self.job.clone(), node)], now).await.unwrap()),
            6..16 => {
                let (_, tasks) = self.stored().await;
                let attempt = tasks.iter().find(|task| task.node == node).unwrap().attempt;
                let state = TaskState::ALL[self.random.random_range(1..TaskState::ALL.len())];
                let pull = Some(PullProgress { done: self.random.random_range(0..9), total: 9 });
                let report = TaskReport { job: self.job.clone(), attempt, state, pull, failure: None };
                store.report(&node, vec![NodeReport::Task(report)], now).await.unwrap();
            }
            16 => {
                let later = now + SignedDuration::from_hours(1);
                store.pass_deadlines(later).await.unwrap();
            }
            other => {
                let cancel_in_flight = self.random.random();
                let request =
                    [JobRequest::Stop { cancel_in_flight }, JobRequest::Resume, JobRequest::Retry][other - 17].clone();
                // The state may forbid it.
                let _ = store.request(&self.job, request, Terms::default(), now).await;
            }
        }
    }

    async fn connect(&mut self) {
        let mut watch = self.world.live.hub.subscribe(&self.job, Interest::JobAndTasks).unwrap();
        if self.random.random() {
            self.write().await;
        }
        let (job, tasks) = self.world.store.job_with_tasks(&self.job, &self.seen).await.unwrap();
        if self.random.random() {
            self.write().await;
        }
        watch.begin(Snapshot { job, tasks, known: self.view.0.as_ref().map(|job| job.version) }).unwrap();
        self.watch = Some(watch);
    }

    /// Reads one message, if one is waiting; at times it is sent and never arrives.
    async fn read(&mut self) {
        let Some(watch) = &mut self.watch else { return self.connect().await };
        let Some(news) = watch.next(self.random.random_range(1..4)).now_or_never() else { return };
        let news = news.unwrap();
        if self.random.random_ratio(1, 6) {
            self.watch = None;
            return;
        }
        for task in &news.tasks {
            let place = Seen::up_to(task);
            assert!(place > self.seen, "{task:?} was told before {:?}", self.seen);
            assert!(self.told.insert((task.version, task.node.clone())), "twice: {task:?}");
            self.view.1.insert(task.node.clone(), Task::clone(task));
        }
        assert!(news.seen >= self.seen);
        self.seen = news.seen;
        self.view.0 = Some(news.job);
        if watch.idle().is_some() {
            self.compare().await;
        }
    }

    /// Nothing is waiting: what was read must be all there is.
    async fn compare(&self) {
        let (job, tasks) = self.stored().await;
        assert_eq!(self.view.0.as_deref(), Some(job.as_ref()));
        assert_eq!(self.view.1.values().collect::<Vec<_>>(), tasks.iter().collect::<Vec<_>>());
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.random_range(0..10) {
                0..5 => self.write().await,
                5..9 => self.read().await,
                _ => self.watch = None,
            }
        }
        loop {
            self.read().await;
            if self.watch.as_ref().is_some_and(|watch| watch.idle().is_some()) {
                return self.compare().await;
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_left_out_and_nothing_told_twice_however_often_the_connection_breaks() {
    for seed in 0..SEEDS {
        Play::begin(seed).await.run().await;
    }
}

async fn watch(world: &World, job_id: &str, cursor: &str) -> Result<tonic::Streaming<v1::WatchJobResponse>, Status> {
    let request = v1::WatchJobRequest { job_id: job_id.to_owned(), cursor: cursor.to_owned() };
    Ok(world.jobs().watch_job(request).await?.into_inner())
}

#[tokio::test]
async fn a_watch_goes_on_from_the_cursor_of_any_message() {
    let world = World::start().await;
    let mut agents = world.fleet(&["shop-1", "shop-2"]).await;
    let job = world.create(order(&["shop-1", "shop-2"])).await.job_id;
    let assignments = [agents[0].set().await, agents[1].set().await];
    let first = soon(watch(&world, &job, "").await.unwrap().message()).await.unwrap().unwrap();
    assert_eq!(first.tasks.len(), 2);

    // Nothing has changed: the answer is a bookmark.
    let mut up_to_date = watch(&world, &job, &first.cursor).await.unwrap();
    let bookmark = soon(up_to_date.message()).await.unwrap().unwrap();
    assert_eq!((bookmark.job, bookmark.tasks.len()), (None, 0));
    agents[0].reach(&assignments[0], v1::TaskState::Pulling).await;
    let next = soon(up_to_date.message()).await.unwrap().unwrap();
    assert_eq!(next.tasks.iter().map(|task| task.node_name.as_str()).collect::<Vec<_>>(), ["shop-1"]);

    agents[1].reach(&assignments[1], v1::TaskState::Pulling).await;
    for (cursor, nodes) in [(&first.cursor, vec!["shop-1", "shop-2"]), (&next.cursor, vec!["shop-2"])] {
        let message = soon(watch(&world, &job, cursor).await.unwrap().message()).await.unwrap().unwrap();
        assert_eq!(message.tasks.iter().map(|task| task.node_name.as_str()).collect::<Vec<_>>(), nodes);
    }
    for (agent, assignment) in agents.iter_mut().zip(&assignments) {
        agent.reach(assignment, v1::TaskState::Succeeded).await;
    }
    let mut to_the_end = watch(&world, &job, &next.cursor).await.unwrap();
    let last = soon(to_the_end.message()).await.unwrap().unwrap();
    assert_eq!((last.job.unwrap().state(), last.tasks.len()), (JobState::Succeeded, 2));
    assert_eq!(soon(to_the_end.message()).await.unwrap(), None);

    let mut over = watch(&world, &job, &last.cursor).await.unwrap();
    let bookmark = soon(over.message()).await.unwrap().unwrap();
    assert_eq!((bookmark.job, bookmark.cursor), (None, last.cursor));
    assert_eq!(soon(over.message()).await.unwrap(), None, "and the watch is over, as it was");
}

#[tokio::test]
async fn a_cursor_is_good_for_its_own_job_and_history_only() {
    let (world, other) = (World::start().await, World::start().await);
    world.enroll("shop-1", &[]).await;
    let job = world.create(order(&["shop-1"])).await.job_id;
    let later = world.create(order(&["shop-1"])).await.job_id;
    let message = soon(watch(&world, &job, "").await.unwrap().message()).await.unwrap().unwrap();
    let refused = |code: Code, details: tonic_types::ErrorDetails| (code, details.error_info().unwrap().reason.clone());

    let (code, details) = failure(watch(&world, &later, &message.cursor).await.map(drop));
    assert_eq!(refused(code, details), (Code::OutOfRange, "CURSOR_OF_OTHER_JOB".to_owned()));
    let (code, details) = failure(watch(&other, &job, &message.cursor).await.map(drop));
    assert_eq!(refused(code, details), (Code::OutOfRange, "CURSOR_EXPIRED".to_owned()));
    let (code, details) = failure(watch(&world, "x", "not a cursor").await.map(drop));
    assert_eq!(code, Code::InvalidArgument);
    let fields = &details.bad_request().unwrap().field_violations;
    assert_eq!(fields.iter().map(|found| found.field.as_str()).collect::<Vec<_>>(), ["job_id", "cursor"]);
}
