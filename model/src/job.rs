//! A job: what it is, and how its state follows from its tasks.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::kind::JobKind;
use crate::name::{AppName, JobId};
use crate::rollout::Rollout;
use crate::spec::AppSpec;
use crate::task::{Task, TaskClass};
use crate::template::TemplateUse;

/// One batch operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its identifier.
    pub id: JobId,
    /// What it does on each node.
    pub kind: JobKind,
    /// Name of the app that it is about.
    pub app: AppName,
    /// What runs on each node; for a removal, what ran when it was created. The newest, where a retry has amended it.
    pub spec: Arc<AppSpec>,
    /// Number of that spec: 1, and one more with every retry that amends it.
    pub spec_revision: u32,
    /// How it is paced.
    pub rollout: Rollout,
    /// Time to finish in.
    pub timeout: Duration,
    /// Whether it was asked to stop.
    pub control: Control,
    /// The deadline clock.
    pub clock: Clock,
    /// 1, and one more with every retry.
    pub round: u32,
    /// Tasks by kind of state; kept equal to the tasks by [`crate::machine`] alone.
    pub counts: TaskCounts,
    /// When it was created.
    pub create_time: Timestamp,
    /// When the first task of this round was assigned.
    pub start_time: Option<Timestamp>,
    /// When it reached its present final state.
    pub end_time: Option<Timestamp>,
    /// Who created it.
    pub creator: String,
    /// Grows with every change.
    pub version: u64,
    /// Advice about the spec that did not prevent creation.
    pub warnings: Vec<String>,
    /// The template that its spec was made of, if it was.
    pub template: Option<TemplateUse>,
}

/// Another spec for what is retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amendment {
    /// What runs from now on on the nodes whose tasks are retried.
    pub spec: Arc<AppSpec>,
    /// Advice about it.
    pub warnings: Vec<String>,
    /// The template that it was made of, if it was.
    pub template: Option<TemplateUse>,
}

/// Whether a job was asked to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// It goes on.
    #[default]
    Run,
    /// No further task is assigned.
    Stop,
}

/// The eight states of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobState {
    /// No task has been assigned yet in this round.
    Queued,
    /// Tasks are being assigned or done.
    Running,
    /// Final: every task succeeded.
    Succeeded,
    /// Final: some tasks succeeded, none timed out.
    PartiallySucceeded,
    /// Final: no task succeeded, none timed out.
    Failed,
    /// Stop was asked for; tasks in flight have not settled yet.
    Stopping,
    /// Stopped with work left.
    Stopped,
    /// Final: the deadline passed before every task had ended.
    TimedOut,
}

impl JobState {
    /// All of them, in the order of the wire.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::PartiallySucceeded,
        Self::Failed,
        Self::Stopping,
        Self::Stopped,
        Self::TimedOut,
    ];

    /// Whether only a retry leads out of it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::PartiallySucceeded | Self::Failed | Self::TimedOut)
    }

    /// Whether nothing will happen until somebody asks for it: final, or STOPPED.
    #[must_use]
    pub fn is_at_rest(self) -> bool {
        self.is_final() || self == Self::Stopped
    }

    /// The name used on the wire and in every text, such as `PARTIALLY_SUCCEEDED`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::PartiallySucceeded => "PARTIALLY_SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Stopping => "STOPPING",
            Self::Stopped => "STOPPED",
            Self::TimedOut => "TIMED_OUT",
        }
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Number of tasks in each kind of state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounts {
    /// Not assigned.
    pub pending: u32,
    /// Assigned and not ended.
    pub active: u32,
    /// Those of the active ones that are set aside because their nodes are absent.
    pub absent: u32,
    /// Ended well.
    pub succeeded: u32,
    /// Ended with a failure.
    pub failed: u32,
    /// Ended by the deadline.
    pub timed_out: u32,
    /// Ended by a stop.
    pub cancelled: u32,
}

impl TaskCounts {
    /// All tasks.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.pending + self.active + self.succeeded + self.failed + self.timed_out + self.cancelled
    }

    /// Tasks in flight that take a place of `max_parallel`: those whose nodes are not absent.
    #[must_use]
    pub fn occupied(&self) -> u32 {
        self.active.saturating_sub(self.absent)
    }

    /// The number for one kind of state.
    pub fn of(&mut self, class: TaskClass) -> &mut u32 {
        match class {
            TaskClass::Pending => &mut self.pending,
            TaskClass::Active => &mut self.active,
            TaskClass::Succeeded => &mut self.succeeded,
            TaskClass::Failed => &mut self.failed,
            TaskClass::TimedOut => &mut self.timed_out,
            TaskClass::Cancelled => &mut self.cancelled,
        }
    }

    /// Counts tasks one by one: the definition that the running counts must equal.
    #[must_use]
    pub fn tally<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Self {
        let mut counts = Self::default();
        for task in tasks {
            *counts.of(task.state.class()) += 1;
            counts.absent += u32::from(task.absent_time.is_some());
        }
        counts
    }
}

/// The state of a job as a fold over its tasks.
///
/// `started` says whether a task was assigned in this round. The order of the rules is the meaning: a stop request
/// holds as long as something is left to do; without anything left the outcome of the tasks alone decides.
#[must_use]
pub fn fold(counts: &TaskCounts, control: Control, started: bool) -> JobState {
    let left = counts.pending + counts.cancelled;
    if counts.active == 0 && left == 0 {
        return outcome(counts);
    }
    match control {
        Control::Stop if counts.active > 0 => JobState::Stopping,
        Control::Stop => JobState::Stopped,
        Control::Run if started => JobState::Running,
        Control::Run => JobState::Queued,
    }
}

fn outcome(counts: &TaskCounts) -> JobState {
    if counts.timed_out > 0 {
        JobState::TimedOut
    } else if counts.failed == 0 {
        JobState::Succeeded
    } else if counts.succeeded > 0 {
        JobState::PartiallySucceeded
    } else {
        JobState::Failed
    }
}

impl Job {
    /// The job's state, from its tasks.
    #[must_use]
    pub fn state(&self) -> JobState {
        fold(&self.counts, self.control, self.start_time.is_some())
    }

    /// Changes with every change of the job.
    #[must_use]
    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    /// The job as it was at its creation; of one that was amended since, read with its first spec.
    #[must_use]
    pub fn as_created(&self) -> Self {
        Self {
            spec_revision: 1,
            control: Control::Run,
            clock: Clock::start(self.create_time, self.timeout),
            round: 1,
            counts: TaskCounts { pending: self.counts.total(), ..TaskCounts::default() },
            start_time: None,
            end_time: None,
            version: 1,
            ..self.clone()
        }
    }
}
