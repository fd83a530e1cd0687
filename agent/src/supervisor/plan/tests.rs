//! Random histories of an app: whatever the runtime answers and the server orders, the plan keeps its promises.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use longshore_model::assignment::ImageAccess;
use longshore_model::health::Answer;
use longshore_model::name::{AppName, JobId};
use longshore_model::node::Labels;
use longshore_model::spec::{AppSpec, Startup};
use proptest::prelude::*;

use super::*;
use crate::runtime::{Found, FoundState};

/// More steps than any history here needs to come to rest.
const PATIENCE: usize = 2000;

fn assignment(policy: RestartPolicy, instances: u32, max_starts: u32) -> Assignment {
    let mut spec = crate::testing::spec("fake/app:1");
    spec.restart_policy = policy;
    spec.instances = instances;
    spec.startup = Startup { settle: Duration::from_secs(5), max_starts };
    Assignment {
        app: AppName::parse("till").unwrap(),
        revision: 1,
        job: JobId::parse("01jd0000000000000000000000").unwrap(),
        attempt: 1,
        order: Order::Deploy,
        spec: Arc::new(spec),
        image_access: ImageAccess::Untold,
        node_labels: Labels::new(),
    }
}

/// What happens to one step.
#[derive(Clone, Copy, Debug)]
enum Luck {
    Works,
    Fails,
    /// The agent is killed right after it; a new one reads the ledger.
    Crash,
    /// A container ends so long after the last step.
    Exit(i32, u64),
    Cancel,
    Remove,
    Retry,
    /// Where the attempt has ended well, another revision is wanted.
    Update,
    /// The server has heard how the attempt ended, and says what it makes of that.
    Hear,
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        12 => Just(Luck::Works),
        1 => Just(Luck::Fails),
        2 => Just(Luck::Crash),
        3 => (0..3i32, 0..20u64).prop_map(|(code, after)| Luck::Exit(code, after)),
        1 => Just(Luck::Cancel),
        1 => Just(Luck::Remove),
        1 => Just(Luck::Retry),
        3 => Just(Luck::Update),
        1 => Just(Luck::Hear),
    ]
}

/// A runtime and a worker, as far as the plan can see them.
struct World {
    app: App,
    now: Timestamp,
    /// What really is on the machine: whether each container runs, and its revision.
    real: BTreeMap<u32, (bool, u64)>,
    /// The greatest revision that was ever asked for.
    last_revision: u64,
    starts_of_attempt: BTreeMap<u32, u32>,
}

impl World {
    fn step(&mut self, luck: Luck) {
        let fails = matches!(luck, Luck::Fails);
        match self.app.next(self.now) {
            Next::Check if !fails => {
                let side = self.app.prepared_side();
                let image = self.app.assignment_of(side).spec.image.clone();
                self.app.resolved = Some(ResolvedImage { digest: "sha256:0".to_owned(), image });
            }
            Next::Pull(image) if !fails => self.app.prepared(image),
            Next::Check | Next::Pull(_) => {
                self.app.unprepared(FailureReason::RuntimeError, "It failed.".to_owned(), self.now)
            }
            Next::Clear(indices) => self.clear(&indices),
            Next::Create(index) => {
                assert!(!self.real.contains_key(&index), "instance {index} would have two containers");
                self.app.creating(index);
                self.real.insert(index, (false, self.app.target().revision));
                if fails { self.stumble() } else { self.app.created(index) }
            }
            Next::Start(index) => {
                let revision = self.app.target().revision;
                assert_eq!(self.real.get(&index), Some(&(false, revision)), "instance {index} would be started twice");
                self.app.starting(index);
                if fails {
                    self.stumble();
                } else {
                    if self.app.target_side() == Side::Assigned {
                        *self.starts_of_attempt.entry(index).or_default() += 1;
                    }
                    self.real.insert(index, (true, revision));
                    self.app.started(index, self.now, self.now);
                }
            }
            Next::Succeed => {
                assert!(self.app.is_healthy(self.now));
                self.app.conclude(TaskState::Succeeded, None);
                self.app.forget_proven();
            }
            Next::GoneBack(ending) => {
                let (state, failure) = self.app.end_of_way_back(ending);
                drop(self.app.conclude(state, failure));
            }
            Next::TearDown(ending) => {
                self.clear(&self.real.keys().copied().collect::<Vec<_>>());
                self.app.torn_down();
                match ending {
                    Ending::Failed(failure) => drop(self.app.conclude(TaskState::Failed, Some(failure))),
                    Ending::Cancelled => drop(self.app.conclude(TaskState::Cancelled, None)),
                    Ending::Removed => {}
                }
            }
            // Specs of this world have no probes: see `tests/supervisor/probes.rs`.
            Next::Kill(_) | Next::Admit(..) | Next::Probe(..) => panic!("{next:?}", next = self.app.next(self.now)),
            Next::Wait(Some(moment)) => {
                assert!(moment > self.now, "a wait that is over already would spin");
                self.now = moment;
            }
            Next::Wait(None) => {}
        }
    }

    fn stumble(&mut self) {
        self.app.stumbled(FailureReason::RuntimeError, "It failed.".to_owned(), self.now);
    }

    fn clear(&mut self, indices: &[u32]) {
        for index in indices {
            self.real.remove(index);
            self.app.cleared(*index);
        }
    }

    fn happen(&mut self, luck: Luck) {
        match luck {
            Luck::Works | Luck::Fails => {}
            Luck::Exit(code, after) => {
                self.now = later(self.now, Duration::from_secs(after));
                let up = self.real.iter().find(|(_, (runs, _))| *runs).map(|(index, real)| (*index, real.1));
                if let Some((index, revision)) = up {
                    self.real.insert(index, (false, revision));
                    self.app.exited(index, InstanceExit { code, out_of_memory: false, time: self.now }, self.now);
                }
            }
            Luck::Cancel => self.order(Order::Cancel, 0),
            Luck::Retry => self.order(Order::Deploy, 1),
            Luck::Update => self.update(),
            Luck::Hear => self.hear(),
            Luck::Remove => drop(self.app.order(None)),
            Luck::Crash => self.crash(),
        }
    }

    fn order(&mut self, order: Order, attempts: u32) {
        let mut wanted = self.app.entry.assignment.clone();
        wanted.order = order;
        wanted.attempt += attempts;
        if attempts > 0 {
            self.starts_of_attempt.clear();
        }
        self.app.order(Some(&wanted));
    }

    fn update(&mut self) {
        if self.app.entry.wish != Wish::Present || !self.app.was_healthy() {
            return;
        }
        self.last_revision += 1;
        let mut wanted = self.app.entry.assignment.clone();
        (wanted.revision, wanted.attempt, wanted.order) = (self.last_revision, 1, Order::Deploy);
        let mut spec = AppSpec::clone(&wanted.spec);
        spec.instances = spec.instances % 3 + 1;
        wanted.spec = Arc::new(spec);
        self.starts_of_attempt.clear();
        self.app.order(Some(&wanted));
    }

    fn hear(&mut self) {
        let Some(outcome) = &self.app.entry.outcome else { return };
        let wanted = match (&self.app.entry.proven, outcome.report.state) {
            (_, TaskState::Succeeded) => Some(self.app.entry.assignment.clone()),
            (Some(proven), _) => Some(proven.assignment.clone()),
            (None, _) => None,
        };
        self.app.order(wanted.map(|wanted| Assignment { order: Order::Keep, ..wanted }).as_ref());
    }

    fn crash(&mut self) {
        let found = |(index, (runs, revision)): (&u32, &(bool, u64))| Found {
            instance: crate::runtime::InstanceKey { app: self.app.entry.assignment.app.clone(), index: *index },
            revision: *revision,
            run: self.app.entry.instances[*index as usize].run,
            state: match (runs, self.app.entry.instances[*index as usize].last_exit) {
                (true, _) => FoundState::Running(self.now),
                (false, Some(exit)) => FoundState::Exited(exit),
                (false, None) => FoundState::Created,
            },
            ports: Vec::new(),
        };
        let found = self.real.iter().map(found).collect();
        self.app = App::adopt(self.app.entry.clone(), found, self.now, self.now);
    }

    fn rest(&mut self) -> bool {
        (0..PATIENCE).any(|_| {
            let at_rest = self.app.next(self.now) == Next::Wait(None);
            self.step(Luck::Works);
            at_rest
        })
    }
}

proptest! {
    #[test]
    fn every_history_comes_to_rest_and_keeps_the_promises(
        policy in prop::sample::select(vec![RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]),
        instances in 1..4u32,
        max_starts in 1..4u32,
        history in prop::collection::vec(luck(), 0..60),
    ) {
        let app = App::new(assignment(policy, instances, max_starts));
        let now = Timestamp::UNIX_EPOCH;
        let (real, starts_of_attempt) = (BTreeMap::new(), BTreeMap::new());
        let mut world = World { app, now, real, last_revision: 1, starts_of_attempt };
        let mut runs: Vec<u32> = Vec::new();
        for luck in history {
            world.step(luck);
            world.happen(luck);
            let after: Vec<u32> = world.app.entry.instances.iter().map(|record| record.run).collect();
            prop_assert!(runs.iter().zip(&after).all(|(old, new)| old <= new), "a run went back");
            runs = after;
            if world.app.is_deploying() && !world.app.runs_proven() {
                prop_assert!(world.starts_of_attempt.values().all(|starts| *starts <= max_starts));
            }
        }
        prop_assert!(world.rest(), "it never comes to rest: {:?}", world.app);
        let entry = &world.app.entry;
        let state = entry.outcome.as_ref().map(|outcome| outcome.report.state);
        let is_wanted = state == Some(TaskState::Succeeded) || entry.assignment.order == Order::Keep;
        match (entry.wish, state) {
            (Wish::Present, _) if is_wanted || entry.proven.is_some() => {
                let revision = world.app.target().revision;
                prop_assert_eq!(revision == entry.assignment.revision, is_wanted, "the wrong revision runs");
                let is_kept = |(index, record): (u32, &Record)| {
                    record.ended || world.real.get(&index) == Some(&(true, revision))
                };
                prop_assert!(world.app.instances().all(is_kept), "an app that was healthy is not up");
                let is_its = |(index, (_, of)): (&u32, &(bool, u64))| {
                    *of == revision && *index < world.app.target().spec.instances
                };
                prop_assert!(world.real.iter().all(is_its), "something of another revision was left");
            }
            (Wish::Present, Some(_)) | (Wish::Gone, _) => prop_assert!(world.real.is_empty(), "something was left"),
            (Wish::Present, None) => prop_assert!(false, "the attempt has no end"),
            (Wish::Absent, _) => prop_assert!(false, "the removal has no end"),
        }
    }
}

#[test]
fn orders_that_overtake_what_is_being_done() {
    let mut app = App::new(assignment(RestartPolicy::Always, 1, 3));
    let same = app.entry.assignment.clone();
    let with = |change: fn(&mut Assignment)| {
        let mut changed = same.clone();
        change(&mut changed);
        changed
    };
    assert!(app.is_overtaken_by(None));
    assert!(app.is_overtaken_by(Some(&with(|a| a.order = Order::Cancel))));
    assert!(app.is_overtaken_by(Some(&with(|a| a.attempt = 2))));
    assert!(app.is_overtaken_by(Some(&with(|a| a.revision = 2))));
    assert!(!app.is_overtaken_by(Some(&same)));
    assert!(!app.is_overtaken_by(Some(&with(|a| a.order = Order::Keep))));
    app.conclude(TaskState::Succeeded, None);
    assert!(!app.is_overtaken_by(Some(&with(|a| a.order = Order::Cancel))), "it has ended already");
}

fn prepared(policy: RestartPolicy) -> App {
    let mut app = App::new(assignment(policy, 1, 3));
    let image = app.entry.assignment.spec.image.clone();
    app.prepared(ResolvedImage { digest: "sha256:0".to_owned(), image });
    app
}

fn found(run: u32, state: FoundState) -> Found {
    let instance = crate::runtime::InstanceKey { app: AppName::parse("till").unwrap(), index: 0 };
    Found { instance, revision: 1, run, state, ports: Vec::new() }
}

#[test]
fn a_clock_that_went_back_delays_no_restart_for_longer_than_the_longest_delay() {
    let now = Timestamp::UNIX_EPOCH;
    let mut app = prepared(RestartPolicy::Always);
    app.conclude(TaskState::Succeeded, None);
    app.entry.instances[0].not_before = Some(later(now, Duration::from_secs(56 * 365 * 86_400)));
    let app = App::adopt(app.entry, Vec::new(), now, now);
    let Next::Wait(Some(moment)) = app.next(now) else { panic!("{:?}", app.next(now)) };
    assert!(until(now, moment) <= backoff::RESTART.cap, "{moment}");
    assert_eq!(app.next(moment), Next::Create(0));
}

#[test]
fn a_container_that_was_told_to_start_is_told_again_instead_of_replaced() {
    let now = Timestamp::UNIX_EPOCH;
    let mut app = prepared(RestartPolicy::Never);
    app.creating(0);
    app.created(0);
    let untold = App::adopt(app.entry.clone(), vec![found(1, FoundState::Created)], now, now);
    assert_eq!(untold.next(now), Next::Clear(vec![0]));
    app.starting(0);
    let mut told = App::adopt(app.entry, vec![found(1, FoundState::Created)], now, now);
    assert_eq!(told.next(now), Next::Start(0));
    told.starting(0);
    assert_eq!(told.entry.instances[0].starts, 1);
}

#[test]
fn of_two_containers_of_an_instance_the_last_run_counts() {
    let now = Timestamp::UNIX_EPOCH;
    let exit = InstanceExit { code: 1, out_of_memory: false, time: now };
    let (old, new) = (found(9, FoundState::Exited(exit)), found(10, FoundState::Running(now)));
    for order in [vec![old.clone(), new.clone()], vec![new, old]] {
        let app = App::adopt(prepared(RestartPolicy::Always).entry, order, now, now);
        assert!(matches!(app.containers[&0].state, ContainerState::Running(_)));
        assert_eq!(app.entry.instances[0].run, 10);
    }
}

#[test]
fn what_our_own_deletion_left_is_no_exit_of_the_app() {
    let now = Timestamp::UNIX_EPOCH;
    let mut app = prepared(RestartPolicy::Never);
    app.creating(0);
    app.created(0);
    // A container that was never started is deleted, and the agent dies between its SIGKILL and its removal.
    let killed = InstanceExit { code: LOST, out_of_memory: false, time: now };
    let app = App::adopt(app.entry, vec![found(1, FoundState::Exited(killed))], now, now);
    assert_eq!(app.next(now), Next::Clear(vec![0]));
    assert_eq!(app.entry.instances[0].last_exit, None);
}

#[test]
fn an_exit_is_counted_once_however_often_the_agent_starts() {
    let now = Timestamp::UNIX_EPOCH;
    let mut app = prepared(RestartPolicy::Always);
    app.creating(0);
    app.created(0);
    app.starting(0);
    let exit = InstanceExit { code: 1, out_of_memory: false, time: now };
    let mut entry = app.entry;
    for _ in 0..5 {
        entry = App::adopt(entry, vec![found(1, FoundState::Exited(exit))], now, now).entry;
    }
    let app = App::adopt(entry, Vec::new(), now, now);
    assert_eq!(app.next(now), Next::Wait(Some(later(now, backoff::RESTART.base))));
}

#[test]
fn a_failure_survives_the_agent() {
    let now = Timestamp::UNIX_EPOCH;
    let mut app = prepared(RestartPolicy::Always);
    app.stumbled(FailureReason::DiskFull, "The disk is full.".to_owned(), now);
    let Next::TearDown(ending) = app.next(now) else { panic!("{app:?}") };
    let app = App::adopt(app.entry, Vec::new(), now, now);
    assert_eq!(app.next(now), Next::TearDown(ending));
}

#[test]
fn an_image_that_was_lost_is_fetched_again_as_it_was_and_else_by_its_name() {
    let mut now = Timestamp::UNIX_EPOCH;
    let mut app = prepared(RestartPolicy::Always);
    app.conclude(TaskState::Succeeded, None);
    let image = app.entry.prepared.clone().unwrap().image;
    let mut stumble = |app: &mut App, reason| {
        app.stumbled(reason, "no".to_owned(), now);
        now = later(now, backoff::RESTART.cap);
        app.next(now)
    };
    assert_eq!(stumble(&mut app, FailureReason::DiskFull), Next::Create(0), "it may be here still");
    assert_eq!(stumble(&mut app, FailureReason::ImageNotFound), Next::Pull(image.clone()));
    assert_eq!(stumble(&mut app, FailureReason::RegistryUnreachable), Next::Pull(image));
    assert_eq!(stumble(&mut app, FailureReason::ImageNotFound), Next::Check);
}

#[test]
fn a_probe_that_turns_decides_what_is_next_and_an_end_by_it_is_no_success() {
    let now = Timestamp::UNIX_EPOCH;
    let mut app = prepared(RestartPolicy::OnFailure);
    let socket = serde_json::json!({ "tcpSocket": { "port": 1 }, "failureThreshold": 1 });
    let mut spec = (*app.entry.assignment.spec).clone();
    spec.liveness_probe = serde_json::from_value(socket.clone()).unwrap();
    spec.readiness_probe = serde_json::from_value(socket).unwrap();
    app.entry.assignment.spec = spec.into();
    app.creating(0);
    app.created(0);
    app.starting(0);
    app.started(0, now, now);
    let settled = later(now, Duration::from_secs(5));
    assert!(!app.is_healthy(settled), "it has not said that it is ready");
    for kind in [Kind::Liveness, Kind::Readiness] {
        assert_eq!(app.next(now), Next::Probe(0, kind));
        app.asking(0, kind, now);
        assert_eq!(app.answered(0, kind, Answer::passed("yes"), now, now), kind == Kind::Readiness);
    }
    assert!(!app.is_healthy(settled), "its clients do not come in yet");
    assert_eq!(app.next(settled), Next::Admit(0, true));
    app.admitted(0, true);
    assert_eq!((app.next(now), app.next(settled)), (Next::Wait(Some(settled)), Next::Succeed));
    app.asking(0, Kind::Liveness, settled);
    assert!(app.answered(0, Kind::Liveness, Answer::failed("no"), settled, settled));
    assert_eq!(app.next(now), Next::Kill(vec![0]));
    app.exited(0, InstanceExit { code: 0, out_of_memory: false, time: now }, now);
    let record = &app.entry.instances[0];
    assert_eq!(record.last_exit_reason.as_deref(), Some("liveness probe failed: no"));
    assert!(!record.ended && record.not_before.is_some(), "what was killed is started again, whatever its exit code");
    assert_eq!((app.next(now), app.readiness(0)), (Next::Clear(vec![0]), None));
}
