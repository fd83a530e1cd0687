//! A job, its nodes and a clock, to which anything can happen; after each event every invariant is checked.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test uses its part, and may stop at the first surprise"
)]

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::app::Desired;
use longshore_model::capability::Unsupported;
use longshore_model::clock::Clock;
use longshore_model::failure::{Failure, FailureReason};
use longshore_model::job::{Amendment, Control, Job, JobState, TaskCounts};
use longshore_model::kind::JobKind;
use longshore_model::machine::{self, AppEffect, Receipt, Request, Site};
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::report::TaskReport;
use longshore_model::rollout::Rollout;
use longshore_model::spec::{AppSpec, ImageSource};
use longshore_model::task::{PullProgress, Task, TaskClass, TaskState};

mod check;

/// A node that has the app, and an agent that can do everything.
pub(crate) const READY: Site = Site { app: Some(Desired::Present), is_able: true };
pub(crate) const TIMEOUT: Duration = Duration::from_secs(600);
/// How long a node may be away.
pub(crate) const ABSENT_AFTER: Duration = Duration::from_secs(60);

/// What can happen to a job. Tasks are named by their place.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// An assignment, and what is known of the node.
    Assign(usize, Site),
    /// Instead of an assignment: the node cannot do it.
    RefuseFor(usize),
    /// A report, so many attempts before the present one (negative: an attempt that never was).
    Report {
        task: usize,
        attempts_ago: i64,
        state: TaskState,
        done: u64,
    },
    Stop {
        cancel: bool,
    },
    Resume,
    Retry,
    /// Of the tasks whose bit is set, as far as they have not succeeded, perhaps with another spec.
    RetryOf {
        chosen: u8,
        amended: bool,
    },
    Deadline,
    DeleteNode(usize),
    Wait(u64),
    /// The server looks, and the task's node has been away for so many seconds.
    Away(usize, u64),
    /// The task's node is back.
    Back(usize),
}

impl Event {
    /// The word in `docs/states.md`.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Assign(..) => "assign",
            Self::RefuseFor(_) => "node refuses",
            Self::Report { .. } => "report",
            Self::Stop { .. } => "stop",
            Self::Resume => "resume",
            Self::Retry | Self::RetryOf { .. } => "retry",
            Self::Deadline => "deadline",
            Self::DeleteNode(_) => "node deleted",
            Self::Wait(_) => "time",
            Self::Away(..) => "node away",
            Self::Back(_) => "node back",
        }
    }
}

/// What the machine answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Assigned(Option<AppEffect>),
    Received(Receipt),
    Changed(Vec<machine::Changed>),
    Refused,
    Deleted(bool),
    Waited(bool),
    NodeRefused(bool),
    Nothing,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) job: Job,
    pub(crate) tasks: Vec<Task>,
    /// Nodes that were deleted.
    pub(crate) gone: Vec<bool>,
    pub(crate) now: Timestamp,
    /// Time spent under the clock in this round, counted apart from the machine.
    pub(crate) spent: Duration,
}

impl World {
    pub(crate) fn new(kind: JobKind, nodes: usize, max_parallel: u32) -> Self {
        let id = JobId::parse("01jd8x3k5m7n9p2q4r6s8t0v1w").unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let tasks: Vec<Task> = (0..nodes).map(|index| task(&id, index, now)).collect();
        let job = Job {
            id,
            kind,
            app: AppName::parse("till-00000000").unwrap(),
            spec: Arc::new(spec()),
            spec_revision: 1,
            rollout: Rollout { max_parallel, absent_after: ABSENT_AFTER },
            timeout: TIMEOUT,
            control: Control::Run,
            clock: Clock::start(now, TIMEOUT),
            round: 1,
            counts: TaskCounts::tally(&tasks),
            create_time: now,
            start_time: None,
            end_time: None,
            creator: "admin".to_owned(),
            version: 1,
            warnings: Vec::new(),
            template: None,
        };
        Self { job, tasks, gone: vec![false; nodes], now, spent: Duration::ZERO }
    }

    /// Lets an event happen and checks everything.
    pub(crate) fn apply(&mut self, event: &Event) -> Answer {
        let before = self.clone();
        let answer = self.happen(event);
        self.account(&before, event);
        check::every_state(self);
        check::step(&before, self, event, &answer);
        answer
    }

    fn happen(&mut self, event: &Event) -> Answer {
        let now = self.now;
        let gone = self.gone.clone();
        let exists = |node: &NodeName| !gone[index_of(node)];
        match *event {
            Event::Assign(index, site) => {
                Answer::Assigned(machine::assign(&mut self.job, &mut self.tasks[index], site, now))
            }
            Event::RefuseFor(index) => {
                let refusal = Unsupported { missing: vec!["security.privileged"] }.into();
                Answer::NodeRefused(machine::refuse(&mut self.job, &mut self.tasks[index], &refusal, now))
            }
            Event::Report { task, attempts_ago, state, done } => {
                let attempt = i64::from(self.tasks[task].attempt) - attempts_ago;
                let report = report(&self.job.id, u32::try_from(attempt).unwrap_or(0), state, done);
                Answer::Received(machine::report(&mut self.job, &mut self.tasks[task], &report, now))
            }
            Event::Stop { cancel } => changed(machine::stop(&mut self.job, &mut self.tasks, cancel, now)),
            Event::Resume => changed(machine::resume(&mut self.job, &mut self.tasks, exists, now)),
            Event::Retry => changed(machine::retry(&mut self.job, &mut self.tasks, None, exists, now)),
            Event::RetryOf { chosen, amended } => {
                let is_chosen =
                    |(index, task): &(usize, &Task)| chosen >> index & 1 == 1 && task.state != TaskState::Succeeded;
                let indices: Vec<usize> = self.tasks.iter().enumerate().filter(is_chosen).map(|(at, _)| at).collect();
                if indices.is_empty() {
                    return Answer::Nothing;
                }
                let mut tasks: Vec<Task> = indices.iter().map(|index| self.tasks[*index].clone()).collect();
                let amendment = amended.then(|| amendment(self.job.spec_revision + 1));
                let done = machine::retry(&mut self.job, &mut tasks, amendment.as_ref(), exists, now);
                for (index, task) in indices.iter().zip(tasks) {
                    self.tasks[*index] = task;
                }
                let in_place = |change: machine::Changed| machine::Changed { index: indices[change.index], ..change };
                changed(done.map(|changes| changes.into_iter().map(in_place).collect()))
            }
            Event::Deadline => Answer::Changed(machine::pass_deadline(&mut self.job, &mut self.tasks, now)),
            Event::DeleteNode(index) => {
                self.gone[index] = true;
                Answer::Deleted(machine::delete_node(&mut self.job, &mut self.tasks[index], now))
            }
            Event::Wait(seconds) => {
                self.now = now + Duration::from_secs(seconds);
                Answer::Nothing
            }
            Event::Away(index, seconds) => {
                let away = Duration::from_secs(seconds);
                Answer::Waited(machine::set_aside(&mut self.job, &mut self.tasks[index], away, now))
            }
            Event::Back(index) => Answer::Waited(machine::take_back(&mut self.job, &mut self.tasks[index], now)),
        }
    }

    /// Keeps the time under the clock by DESIGN's rule alone: it counts, except while STOPPED and when final.
    fn account(&mut self, before: &Self, event: &Event) {
        if let Event::Wait(seconds) = event
            && !before.job.state().is_at_rest()
        {
            self.spent += Duration::from_secs(*seconds);
        }
        if self.job.state() == JobState::Stopped {
            self.spent = self.spent.min(TIMEOUT);
        }
        if self.job.round > before.job.round {
            self.spent = Duration::ZERO;
        }
    }

    pub(crate) fn states(&self) -> Vec<TaskState> {
        self.tasks.iter().map(|task| task.state).collect()
    }

    /// Tasks in flight whose nodes are not absent.
    pub(crate) fn occupied(&self) -> usize {
        let takes_a_place = |task: &&Task| task.state.class() == TaskClass::Active && task.absent_time.is_none();
        self.tasks.iter().filter(takes_a_place).count()
    }
}

fn changed(result: Result<Vec<machine::Changed>, machine::Refused>) -> Answer {
    result.map_or(Answer::Refused, Answer::Changed)
}

pub(crate) fn index_of(node: &NodeName) -> usize {
    node.as_str().trim_start_matches("node-").parse().unwrap()
}

fn task(job: &JobId, index: usize, now: Timestamp) -> Task {
    Task {
        job: job.clone(),
        node: NodeName::parse(&format!("node-{index}")).unwrap(),
        attempt: 1,
        spec_revision: 1,
        state: TaskState::Pending,
        pull: None,
        pull_start: None,
        failure: None,
        cancel_requested: false,
        absent_time: None,
        assign_time: None,
        update_time: now,
        end_time: None,
        version: 1,
        history: Vec::new(),
    }
}

fn report(job: &JobId, attempt: u32, state: TaskState, done: u64) -> TaskReport {
    // An odd number leaves out what should be there, as a broken agent might.
    let whole = done.is_multiple_of(2);
    let failure = Failure {
        reason: FailureReason::ImageNotFound,
        message: "There is no such image.".to_owned(),
        step: TaskState::Checking,
    };
    TaskReport {
        job: job.clone(),
        attempt,
        state,
        pull: (state == TaskState::Pulling && whole).then_some(PullProgress { done, total: 100 }),
        failure: (state == TaskState::Failed && whole).then_some(failure),
    }
}

/// A spec that says its number.
pub(crate) fn amendment(revision: u32) -> Amendment {
    let spec = AppSpec { args: vec![revision.to_string()], ..spec() };
    Amendment { spec: Arc::new(spec), warnings: vec![format!("of {revision}")], template: None }
}

fn spec() -> AppSpec {
    let source = ImageSource::Reference("example.com/till:1".to_owned());
    AppSpec { network: longshore_model::spec::Network::Host, ..AppSpec::new("till", source) }
}

pub(crate) fn is_allowed(request: Request, state: JobState) -> bool {
    match request {
        Request::Stop => [JobState::Queued, JobState::Running].contains(&state),
        Request::Cancel => [JobState::Queued, JobState::Running, JobState::Stopping].contains(&state),
        Request::Resume => state == JobState::Stopped,
        Request::Retry => [JobState::Failed, JobState::PartiallySucceeded, JobState::TimedOut].contains(&state),
    }
}
