//! The one place where jobs and tasks change state.
//!
//! Every function takes the job and the tasks concerned, the present moment, and changes them in step: a task's state,
//! the job's counts, the clock, the version. What must follow on the node is returned as an [`AppEffect`], for the
//! caller to store and send. The arrows themselves are in [`TaskState::arrow`]; nothing here makes one that is not there.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::app::Desired;
use crate::clock::Clock;
use crate::failure::{Failure, FailureReason};
use crate::job::{Amendment, Control, Job, JobState};
use crate::kind::{JobKind, Turn};
use crate::limits::MAX_TASK_HISTORY;
use crate::name::NodeName;
use crate::preflight::Refusal;
use crate::report::TaskReport;
use crate::task::{PullProgress, PullStart, Task, TaskClass, TaskEvent, TaskState};

/// What the server knows of a node when a task is to be assigned to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Whether the job's app belongs there; `None` once the node has said that it is gone.
    pub app: Option<Desired>,
    /// Whether the agent can do what the job asks for.
    pub is_able: bool,
}

impl Site {
    /// Why the task cannot be done there.
    fn refuses(self, job: &Job) -> Option<Failure> {
        let (reason, message) = match (job.kind, self.app) {
            (JobKind::Update, None) => {
                (FailureReason::AppNotFound, format!("The app {} is no longer on this node.", job.app))
            }
            (JobKind::Update, Some(Desired::Removing)) => {
                (FailureReason::AppNotFound, format!("The app {} is being removed from this node.", job.app))
            }
            _ if !self.is_able && job.kind.capability().is_some() => {
                let message = format!("The agent of this node is too old for {} jobs; upgrade it.", job.kind);
                (FailureReason::Unsupported, message)
            }
            _ => return None,
        };
        Some(Failure { reason, message, step: TaskState::Checking })
    }
}

/// What must follow on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppEffect {
    /// Nothing.
    None,
    /// The app belongs on the node from now on, and its agent is told to deploy it.
    Deploy,
    /// The agent is told to give the task up; the app stays listed until it reports.
    Cancel,
    /// The app no longer belongs on the node; it stays listed as being removed until the agent confirms.
    Remove,
    /// The node goes back to what it ran before this job, and its agent is told so in case it does not know.
    GoBack,
    /// The agent has removed the app already, or there is no agent any more.
    Forget,
}

/// A task that a bulk operation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its place in the slice that was given.
    pub index: usize,
    /// What must follow on its node.
    pub effect: AppEffect,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// It changed the task.
    Counted(AppEffect),
    /// It came too late to count, and was kept in the task's history.
    Late,
    /// It says nothing new; nothing changed.
    Stale,
}

/// What people can ask of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Assign nothing further.
    Stop,
    /// Stop, and give up the tasks in flight; of a job that is stopping already too.
    Cancel,
    /// Go on.
    Resume,
    /// Start anew what has not succeeded.
    Retry,
}

/// A request that the job's state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {state} cannot be {}; {}", participle(.request), allowed(.request))]
pub struct Refused {
    /// What was asked for.
    pub request: Request,
    /// The state that stands in the way.
    pub state: JobState,
}

fn participle(request: &Request) -> &'static str {
    match request {
        Request::Stop => "stopped",
        Request::Cancel => "cancelled",
        Request::Resume => "resumed",
        Request::Retry => "retried",
    }
}

fn allowed(request: &Request) -> &'static str {
    match request {
        Request::Stop => "only QUEUED and RUNNING jobs can",
        Request::Cancel => "only QUEUED, RUNNING and STOPPING jobs can",
        Request::Resume => "only STOPPED jobs can",
        Request::Retry => "only FAILED, PARTIALLY_SUCCEEDED and TIMED_OUT jobs can",
    }
}

impl Request {
    /// Whether a job in `state` can be asked for this.
    #[must_use]
    pub fn is_allowed_in(self, state: JobState) -> bool {
        match self {
            Self::Stop => matches!(state, JobState::Queued | JobState::Running),
            Self::Cancel => matches!(state, JobState::Queued | JobState::Running | JobState::Stopping),
            Self::Resume => state == JobState::Stopped,
            Self::Retry => matches!(state, JobState::Failed | JobState::PartiallySucceeded | JobState::TimedOut),
        }
    }

    fn check(self, job: &Job) -> Result<(), Refused> {
        let state = job.state();
        if self.is_allowed_in(state) { Ok(()) } else { Err(Refused { request: self, state }) }
    }
}

/// Assigns a pending task to its node, if the job's state and pace allow.
///
/// What is known of the node may end the task at once: a removal that finds nothing to remove has succeeded, an update that
/// finds no app, or an agent that cannot do it, has failed. Returns `None`, and changes nothing, where nothing is assigned.
pub fn assign(job: &mut Job, task: &mut Task, site: Site, now: Timestamp) -> Option<AppEffect> {
    if !is_assignable(job, task, now) {
        return None;
    }
    job.start_time.get_or_insert(now);
    task.assign_time = Some(now);
    let (state, effect) = match site.refuses(job) {
        Some(failure) => {
            task.failure = Some(failure);
            (TaskState::Failed, AppEffect::None)
        }
        None if job.kind == JobKind::Remove && site.app.is_none() => (TaskState::Succeeded, AppEffect::None),
        None => (TaskState::Assigned, job.kind.effect(Turn::Assigned)),
    };
    enter(job, task, state, now);
    settle(job, now);
    Some(effect)
}

/// Lets a pending task fail that could be assigned, but whose node is not to be sent the spec; an app can be removed from any
/// node.
///
/// Returns whether it failed; otherwise nothing changed.
pub fn refuse(job: &mut Job, task: &mut Task, refusal: &Refusal, now: Timestamp) -> bool {
    if job.kind == JobKind::Remove || !is_assignable(job, task, now) {
        return false;
    }
    task.failure = Some(Failure::new(refusal.reason(), &refusal.to_string(), task.state));
    enter(job, task, TaskState::Failed, now);
    settle(job, now);
    true
}

fn is_assignable(job: &Job, task: &Task, now: Timestamp) -> bool {
    let open = matches!(job.state(), JobState::Queued | JobState::Running) && !job.clock.has_passed(now);
    open && task.state == TaskState::Pending && job.rollout.room(&job.counts) > 0
}

/// Takes an agent's report of a task.
///
/// Only a report of the present attempt that moves the task forward counts. One that claims an end after the attempt
/// ended otherwise, or for an older attempt, is kept as history and flips nothing.
pub fn report(job: &mut Job, task: &mut Task, report: &TaskReport, now: Timestamp) -> Receipt {
    let is_past = report.attempt < task.attempt || (report.attempt == task.attempt && task.state.is_end());
    if is_past {
        return keep_late(job, task, report, now);
    }
    if report.attempt > task.attempt || task.state.class() != TaskClass::Active {
        return Receipt::Stale;
    }
    if report.state == TaskState::Pulling && task.state == TaskState::Pulling {
        return update_pull(job, task, report, now);
    }
    let speaks_for_itself = match report.state {
        TaskState::Cancelled => task.cancel_requested,
        TaskState::TimedOut => false,
        _ => task.state.arrow(report.state).is_some(),
    };
    if !speaks_for_itself {
        return Receipt::Stale;
    }
    set_pull(task, report.pull.filter(|_| report.state == TaskState::Pulling), now);
    task.failure = match report.state {
        TaskState::Failed => Some(report.failure.clone().unwrap_or_else(|| unexplained(task.state))),
        _ => None,
    };
    enter(job, task, report.state, now);
    settle(job, now);
    Receipt::Counted(match report.state {
        TaskState::Succeeded => job.kind.effect(Turn::Succeeded),
        TaskState::Failed => job.kind.effect(Turn::Failed),
        TaskState::Cancelled => job.kind.effect(Turn::Cancelled),
        _ => AppEffect::None,
    })
}

/// Sets a task in flight aside whose node has been away for as long as the rollout waits: it stays with its node, whose
/// agent may well be finishing it, but takes no place of `max_parallel`. Returns whether that changed.
pub fn set_aside(job: &mut Job, task: &mut Task, away: Duration, now: Timestamp) -> bool {
    let is_due = job.rollout.patience(away).is_some_and(|left| left.is_zero());
    if task.state.class() != TaskClass::Active || task.absent_time.is_some() || !is_due {
        return false;
    }
    task.absent_time = Some(now.checked_sub(away).unwrap_or(Timestamp::MIN));
    job.counts.absent += 1;
    touch(job, task, now);
    true
}

/// Counts a task in flight again whose node is back. Returns whether that changed.
pub fn take_back(job: &mut Job, task: &mut Task, now: Timestamp) -> bool {
    if !forget_absence(job, task) {
        return false;
    }
    touch(job, task, now);
    true
}

/// Stops a job: nothing further is assigned, and with `cancel` the tasks in flight are given up.
///
/// A job that is stopping already can still be asked to give up what is in flight; asking again changes no task. What a
/// node cannot give up ([`JobKind::can_be_cancelled`]) finishes.
///
/// # Errors
///
/// The job's state does not allow it; nothing changed.
pub fn stop(job: &mut Job, tasks: &mut [Task], cancel: bool, now: Timestamp) -> Result<Vec<Changed>, Refused> {
    if cancel { Request::Cancel } else { Request::Stop }.check(job)?;
    job.control = Control::Stop;
    let mut changed = Vec::new();
    if cancel && job.kind.can_be_cancelled() {
        for (index, task) in tasks.iter_mut().enumerate() {
            if task.state.class() == TaskClass::Active && !task.cancel_requested {
                task.cancel_requested = true;
                task.update_time = now;
                task.version = job.version + 1;
                changed.push(Changed { index, effect: job.kind.effect(Turn::CancelRequested) });
            }
        }
    }
    settle(job, now);
    Ok(changed)
}

/// Goes on with a stopped job: cancelled tasks start anew, pending ones are assigned again, ended ones stay.
///
/// A task whose node no longer `exists` fails.
///
/// # Errors
///
/// The job's state does not allow it; nothing changed.
pub fn resume(
    job: &mut Job,
    tasks: &mut [Task],
    exists: impl Fn(&NodeName) -> bool,
    now: Timestamp,
) -> Result<Vec<Changed>, Refused> {
    Request::Resume.check(job)?;
    job.control = Control::Run;
    job.clock = job.clock.resume(now);
    Ok(reopen(job, tasks, |class| class == TaskClass::Cancelled, exists, now))
}

/// Starts a new attempt for exactly the tasks that have not succeeded, and the clock afresh.
///
/// With an amendment these attempts are for another spec; without, for the newest that the job has. What has succeeded keeps
/// the spec that it succeeded with.
///
/// A task whose node no longer `exists` fails again at once.
///
/// # Errors
///
/// The job's state does not allow it; nothing changed.
pub fn retry(
    job: &mut Job,
    tasks: &mut [Task],
    amendment: Option<&Amendment>,
    exists: impl Fn(&NodeName) -> bool,
    now: Timestamp,
) -> Result<Vec<Changed>, Refused> {
    Request::Retry.check(job)?;
    job.control = Control::Run;
    job.clock = Clock::start(now, job.timeout);
    job.round += 1;
    job.start_time = None;
    job.end_time = None;
    if let Some(Amendment { spec, warnings, template }) = amendment {
        job.spec = Arc::clone(spec);
        job.warnings.clone_from(warnings);
        job.template.clone_from(template);
        job.spec_revision += 1;
    }
    Ok(reopen(job, tasks, |class| class != TaskClass::Succeeded, exists, now))
}

/// Ends what the deadline found unfinished; does nothing while the clock has time left.
///
/// While STOPPING only the tasks in flight time out: those that were never assigned can still be resumed.
pub fn pass_deadline(job: &mut Job, tasks: &mut [Task], now: Timestamp) -> Vec<Changed> {
    if !job.clock.has_passed(now) {
        return Vec::new();
    }
    let pending_too = job.control == Control::Run;
    let mut changed = Vec::new();
    for (index, task) in tasks.iter_mut().enumerate() {
        let effect = match task.state.class() {
            TaskClass::Active => job.kind.effect(Turn::TimedOut),
            TaskClass::Pending if pending_too => AppEffect::None,
            _ => continue,
        };
        task.failure = Some(Failure {
            reason: FailureReason::DeadlineExceeded,
            message: format!("The job's deadline passed while the task was {}.", task.state),
            step: task.state,
        });
        set_pull(task, None, now);
        enter(job, task, TaskState::TimedOut, now);
        changed.push(Changed { index, effect });
    }
    settle(job, now);
    changed
}

/// Ends a task whose node was deleted. Returns whether it was still open.
pub fn delete_node(job: &mut Job, task: &mut Task, now: Timestamp) -> bool {
    if task.state.class() == TaskClass::Cancelled {
        reopen_one(job, task, now);
    }
    if task.state.is_end() {
        return false;
    }
    fail_without_node(job, task, now);
    settle(job, now);
    true
}

/// Brings ended tasks of the chosen kinds back as new attempts, and lets those without a node fail.
fn reopen(
    job: &mut Job,
    tasks: &mut [Task],
    chosen: impl Fn(TaskClass) -> bool,
    exists: impl Fn(&NodeName) -> bool,
    now: Timestamp,
) -> Vec<Changed> {
    let mut changed = Vec::new();
    for (index, task) in tasks.iter_mut().enumerate() {
        let mut touched = false;
        if task.state.is_end() && chosen(task.state.class()) {
            reopen_one(job, task, now);
            touched = true;
        }
        if task.state == TaskState::Pending && !exists(&task.node) {
            fail_without_node(job, task, now);
            touched = true;
        }
        if touched {
            changed.push(Changed { index, effect: AppEffect::None });
        }
    }
    settle(job, now);
    changed
}

fn reopen_one(job: &mut Job, task: &mut Task, now: Timestamp) {
    let failure = task.failure.take();
    remember(task, TaskEvent { attempt: task.attempt, state: task.state, failure, time: now, late: false });
    task.attempt += 1;
    task.spec_revision = job.spec_revision;
    task.cancel_requested = false;
    task.assign_time = None;
    enter(job, task, TaskState::Pending, now);
}

fn fail_without_node(job: &mut Job, task: &mut Task, now: Timestamp) {
    task.failure = Some(Failure {
        reason: FailureReason::NodeDeleted,
        message: format!("The node {} was deleted.", task.node),
        step: task.state,
    });
    set_pull(task, None, now);
    enter(job, task, TaskState::Failed, now);
}

fn keep_late(job: &mut Job, task: &mut Task, report: &TaskReport, now: Timestamp) -> Receipt {
    let is_news = |event: &TaskEvent| event.attempt != report.attempt || event.state != report.state;
    let is_present = report.attempt == task.attempt && report.state == task.state;
    if !report.state.is_end() || is_present || !task.history.iter().all(is_news) {
        return Receipt::Stale;
    }
    let event = TaskEvent {
        attempt: report.attempt,
        state: report.state,
        failure: report.failure.clone(),
        time: now,
        late: true,
    };
    remember(task, event);
    job.version += 1;
    task.version = job.version;
    Receipt::Late
}

fn update_pull(job: &mut Job, task: &mut Task, report: &TaskReport, now: Timestamp) -> Receipt {
    if report.pull.is_none() || report.pull == task.pull {
        return Receipt::Stale;
    }
    set_pull(task, report.pull, now);
    touch(job, task, now);
    Receipt::Counted(AppEffect::None)
}

/// Takes how a pull stands now, and keeps where it began for as long as it loses nothing.
fn set_pull(task: &mut Task, pull: Option<PullProgress>, now: Timestamp) {
    let lost = |pull: PullProgress| task.pull.is_none_or(|before| pull.done < before.done);
    task.pull_start = match pull {
        Some(pull) if lost(pull) => Some(PullStart { time: now, done: pull.done }),
        Some(_) => task.pull_start,
        None => None,
    };
    task.pull = pull;
}

/// Notes a change that moved the task along no arrow.
fn touch(job: &mut Job, task: &mut Task, now: Timestamp) {
    task.update_time = now;
    job.version += 1;
    task.version = job.version;
}

fn forget_absence(job: &mut Job, task: &mut Task) -> bool {
    let was_absent = task.absent_time.take().is_some();
    job.counts.absent -= u32::from(was_absent);
    was_absent
}

fn unexplained(step: TaskState) -> Failure {
    Failure {
        reason: FailureReason::RuntimeError,
        message: "The agent reported a failure without saying why.".to_owned(),
        step,
    }
}

/// Keeps an event of a task's past, dropping the oldest beyond the limit.
fn remember(task: &mut Task, event: TaskEvent) {
    if task.history.len() >= MAX_TASK_HISTORY {
        task.history.remove(0);
    }
    task.history.push(event);
}

/// Moves a task along one arrow of the table, and the job's counts with it. The task gets the version that [`settle`],
/// which must follow, gives the job.
fn enter(job: &mut Job, task: &mut Task, to: TaskState, now: Timestamp) {
    debug_assert!(task.state.arrow(to).is_some(), "no arrow from {} to {to}", task.state);
    if to.class() != TaskClass::Active {
        forget_absence(job, task);
    }
    *job.counts.of(task.state.class()) -= 1;
    *job.counts.of(to.class()) += 1;
    task.state = to;
    task.update_time = now;
    task.end_time = to.is_end().then_some(now);
    task.version = job.version + 1;
}

/// Brings clock, end time and version in line with the state that the tasks now give.
fn settle(job: &mut Job, now: Timestamp) {
    let state = job.state();
    if state.is_final() {
        job.clock = Clock::Over;
        job.end_time.get_or_insert(now);
    } else if state == JobState::Stopped {
        job.clock = job.clock.pause(now, job.timeout);
    }
    job.version += 1;
}
