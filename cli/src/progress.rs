//! A job as it goes on: what to show of it, as lines of text.
//!
//! Pure: messages of a watch go in, lines come out. On a terminal [`View::screen`] is drawn again and again in the same
//! place; elsewhere [`View::take`] tells what changed, one line each.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::quantity::duration;
use longshore_proto::v1::{Job, JobState, PullProgress, Task, TaskCounts, TaskState, WatchJobResponse};

use crate::text;

/// Tasks up to which each change of each is a line of its own. Of a larger job only failures are, and a count now and
/// then: nobody reads sixty thousand lines.
const MAX_TOLD_TASKS: usize = 50;
/// Steps in which the count of a larger job is told.
const COUNT_STEPS: u32 = 20;
/// Steps in which a pull is told.
const PULL_STEPS: u64 = 4;
/// Width of the bar in characters.
const BAR: u32 = 20;

/// A job and its tasks as last heard.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// `None` until the first message.
    pub(crate) job: Option<Job>,
    /// By node name.
    pub(crate) tasks: BTreeMap<String, Task>,
    /// Stands for all that was heard: a watch goes on from it.
    pub(crate) cursor: String,
    /// How far a large job was when that was told last.
    told_step: u32,
    /// Where the pulls that are under way stood when they were first heard of, by node name.
    pulls: BTreeMap<String, Task>,
}

impl View {
    /// Takes a message, and tells what it changed. The first message tells how everything stands.
    pub(crate) fn take(&mut self, message: WatchJobResponse) -> Vec<String> {
        let each = message.tasks.len().max(self.tasks.len()) <= MAX_TOLD_TASKS;
        let mut lines = Vec::new();
        self.cursor = message.cursor;
        for task in message.tasks {
            self.follow_pull(&task);
            if tells(self.tasks.get(&task.node_name), &task, each) {
                lines.push(format!("{}: {}", task.node_name, describe_with(&task, self.pace(&task))));
            }
            self.tasks.insert(task.node_name.clone(), task);
        }
        let Some(job) = message.job else { return lines };
        let step = count_step(&job);
        let before = self.job.as_ref().map(|job| (job.state(), job.round));
        let is_news = before != Some((job.state(), job.round)) || (!each && self.told_step != step);
        // How it ended is the result, which is shown by whoever waits.
        if is_news && !is_at_rest(job.state()) {
            lines.insert(0, headline(&job));
        }
        self.told_step = step;
        self.job = Some(job);
        lines
    }

    /// Remembers where a pull began, as long as it goes on without losing anything.
    fn follow_pull(&mut self, task: &Task) {
        let Some(pull) = pull_of(task) else {
            self.pulls.remove(&task.node_name);
            return;
        };
        let is_its = |last: &Task| {
            last.attempt == task.attempt && pull_of(last).is_some_and(|last| last.done_bytes <= pull.done_bytes)
        };
        if !self.tasks.get(&task.node_name).is_some_and(is_its) {
            self.pulls.insert(task.node_name.clone(), task.clone());
        }
    }

    /// How fast a task's pull has been since it was first heard of, by the server's clock.
    fn pace(&self, task: &Task) -> Option<Pace> {
        let first = self.pulls.get(&task.node_name).filter(|first| first.attempt == task.attempt)?;
        let since = text::time(first.update_time.as_ref())?;
        pace_since(task, since, pull_of(first)?.done_bytes).or_else(|| pace_of(task))
    }

    /// The job's state; unspecified before the first message.
    pub(crate) fn state(&self) -> JobState {
        self.job.as_ref().map_or(JobState::Unspecified, Job::state)
    }

    /// Whether nothing will happen until somebody asks for it.
    pub(crate) fn is_at_rest(&self) -> bool {
        is_at_rest(self.state())
    }

    /// The job and its tasks as one message, for JSON.
    pub(crate) fn message(&self) -> WatchJobResponse {
        let (job, tasks) = (self.job.clone(), self.tasks.values().cloned().collect());
        WatchJobResponse { job, tasks, cursor: self.cursor.clone() }
    }

    /// At most `height` lines that show how the job stands: one for the job, then tasks, those that matter most first
    /// when there is no room for all.
    pub(crate) fn screen(&self, height: usize, now: Timestamp) -> Vec<String> {
        let Some(job) = &self.job else { return vec!["waiting for the server".to_owned()] };
        let mut lines = vec![bar_line(job, now)];
        let room = height.saturating_sub(1);
        let mut tasks: Vec<&Task> = self.tasks.values().collect();
        let hidden = tasks.len().saturating_sub(room);
        if hidden > 0 {
            // The sort is stable: nodes stay in order within each rank.
            tasks.sort_by_key(|task| urgency(task));
            tasks.truncate(room.saturating_sub(1));
        }
        let width = tasks.iter().map(|task| task.node_name.len()).max().unwrap_or_default();
        lines.extend(
            tasks.iter().map(|task| format!("  {:width$}  {}", task.node_name, describe_with(task, self.pace(task)))),
        );
        if hidden > 0 && room > 0 {
            let more = u32::try_from(self.tasks.len() - tasks.len()).unwrap_or(u32::MAX);
            lines.push(format!("  … and {}", text::count(more, "more node")));
        }
        lines
    }
}

/// How a pull goes on.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Bytes a second.
    rate: u64,
    /// At that rate.
    seconds_left: u64,
}

fn pull_of(task: &Task) -> Option<&PullProgress> {
    task.pull.as_ref().filter(|_| task.state() == TaskState::Pulling)
}

/// Whether a job in this state waits for somebody: final, or STOPPED.
pub(crate) fn is_at_rest(state: JobState) -> bool {
    matches!(
        state,
        JobState::Succeeded | JobState::PartiallySucceeded | JobState::Failed | JobState::TimedOut | JobState::Stopped
    )
}

/// All tasks of a job.
pub(crate) fn total(counts: &TaskCounts) -> u32 {
    counts.pending + counts.active + counts.succeeded + counts.failed + counts.timed_out + counts.cancelled
}

/// The counts of a job that are not zero: `2 succeeded, 1 active, 1 node away`.
pub(crate) fn counts(job: &Job) -> String {
    let counts = job.counts.unwrap_or_default();
    let words = [
        (counts.succeeded, "succeeded"),
        (counts.failed, "failed"),
        (counts.timed_out, "timed out"),
        (counts.cancelled, "cancelled"),
        (counts.active, "active"),
        (counts.pending, "pending"),
    ];
    let mut words: Vec<String> =
        words.iter().filter(|(number, _)| *number > 0).map(|(number, word)| format!("{number} {word}")).collect();
    if counts.absent > 0 {
        words.push(format!("{} away", text::count(counts.absent, "node")));
    }
    if words.is_empty() { "no tasks".to_owned() } else { words.join(", ") }
}

/// One line about the whole job.
pub(crate) fn headline(job: &Job) -> String {
    format!("job {} {}: {}", job.job_id, text::job_state(job.state()), counts(job))
}

/// One line about a task, without its node.
pub(crate) fn describe(task: &Task) -> String {
    describe_with(task, pace_of(task))
}

/// How fast a task's pull has been since the server was first told of it, where the server says so.
fn pace_of(task: &Task) -> Option<Pace> {
    let start = task.pull_start.as_ref()?;
    pace_since(task, text::time(start.time.as_ref())?, start.done_bytes)
}

/// How fast a task's pull has been since it stood at so many bytes, by the server's clock.
fn pace_since(task: &Task, since: Timestamp, bytes: u64) -> Option<Pace> {
    let pull = pull_of(task)?;
    let milliseconds = text::time(task.update_time.as_ref())?.duration_since(since).as_millis();
    let came = pull.done_bytes.checked_sub(bytes)?;
    let rate = u128::from(came) * 1000 / u128::try_from(milliseconds).ok().filter(|passed| *passed > 0)?;
    let rate = u64::try_from(rate).ok().filter(|rate| *rate > 0)?;
    Some(Pace { rate, seconds_left: pull.total_bytes.saturating_sub(pull.done_bytes).div_ceil(rate) })
}

/// The same, with how its pull goes on where that is known.
fn describe_with(task: &Task, pace: Option<Pace>) -> String {
    let mut line = text::task_state(task.state());
    if let Some(failure) = &task.failure {
        line = match task.state() {
            TaskState::Failed => format!("FAILED: {}", text::failure(failure)),
            state => format!("{}: {}", text::task_state(state), text::one_line(&failure.message)),
        };
    }
    if let (TaskState::Pulling, Some(pull)) = (task.state(), &task.pull) {
        line.push(' ');
        line.push_str(&match pull.total_bytes {
            0 => text::bytes(pull.done_bytes),
            total => format!("{} of {}", text::bytes(pull.done_bytes), text::bytes(total)),
        });
        if let Some(pace) = pace {
            line.push_str(&format!(", {}/s", text::bytes(pace.rate)));
            if pace.seconds_left > 0 {
                let left = duration::format(Duration::from_secs(pace.seconds_left));
                line.push_str(&format!(", {left} left"));
            }
        }
    }
    if let Some(since) = text::time(task.absent_time.as_ref()) {
        line.push_str(&format!(" (waits for its node, away since {})", text::second(since)));
    }
    if task.cancel_requested && !is_end(task.state()) {
        line.push_str(" (being cancelled)");
    }
    if task.attempt > 1 {
        line.push_str(&format!(" (attempt {})", task.attempt));
    }
    line
}

/// Whether the attempt has ended.
pub(crate) fn is_end(state: TaskState) -> bool {
    matches!(state, TaskState::Succeeded | TaskState::Failed | TaskState::TimedOut | TaskState::Cancelled)
}

fn tells(old: Option<&Task>, new: &Task, each: bool) -> bool {
    let is_bad = matches!(new.state(), TaskState::Failed | TaskState::TimedOut);
    if !(each || is_bad) {
        return false;
    }
    let Some(old) = old else { return new.state() != TaskState::Pending };
    (old.attempt, old.state) != (new.attempt, new.state)
        || old.cancel_requested != new.cancel_requested
        || old.absent_time != new.absent_time
        || pull_step(old) != pull_step(new)
}

fn pull_step(task: &Task) -> u64 {
    match (task.state(), &task.pull) {
        (TaskState::Pulling, Some(pull)) if pull.total_bytes > 0 => {
            pull.done_bytes.saturating_mul(PULL_STEPS) / pull.total_bytes
        }
        _ => 0,
    }
}

fn ended(counts: &TaskCounts) -> u32 {
    counts.succeeded + counts.failed + counts.timed_out + counts.cancelled
}

fn count_step(job: &Job) -> u32 {
    let counts = job.counts.unwrap_or_default();
    ended(&counts).saturating_mul(COUNT_STEPS) / total(&counts).max(1)
}

fn bar_line(job: &Job, now: Timestamp) -> String {
    let job_counts = job.counts.unwrap_or_default();
    let (done, all) = (ended(&job_counts), total(&job_counts).max(1));
    let filled = done.saturating_mul(BAR) / all;
    let bar: String = (0..BAR).map(|place| if place < filled { '█' } else { '░' }).collect();
    let state = text::job_state(job.state());
    format!("{state} {bar} {}  {}", counts(job), text::age(job.create_time.as_ref(), now))
}

/// What is shown first when there is no room for all: trouble, then what moves, then what waits, then what is done.
fn urgency(task: &Task) -> u8 {
    match task.state() {
        TaskState::Failed | TaskState::TimedOut => 0,
        _ if task.absent_time.is_some() => 0,
        TaskState::Assigned
        | TaskState::Checking
        | TaskState::Pulling
        | TaskState::Creating
        | TaskState::Starting
        | TaskState::Settling => 1,
        TaskState::Unspecified | TaskState::Pending | TaskState::Cancelled => 2,
        TaskState::Succeeded => 3,
    }
}

#[cfg(test)]
mod tests;
