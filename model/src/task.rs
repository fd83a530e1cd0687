//! A task: one node's share of a job.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::name::{JobId, NodeName};

/// One node's share of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The job.
    pub job: JobId,
    /// The node.
    pub node: NodeName,
    /// 1, and one more with every retry or resume that starts it anew.
    pub attempt: u32,
    /// Number of the job's spec that this attempt is for.
    pub spec_revision: u32,
    /// Where it is; only grows in rank within an attempt.
    pub state: TaskState,
    /// Bytes of the image, while PULLING.
    pub pull: Option<PullProgress>,
    /// Where that stood when it was first told of, or last lost something; set whenever `pull` is.
    pub pull_start: Option<PullStart>,
    /// Why it did not succeed, when FAILED or TIMED_OUT.
    pub failure: Option<Failure>,
    /// Whether the agent was told to give up.
    pub cancel_requested: bool,
    /// Since when its node has been away, while the task is in flight and set aside for that.
    pub absent_time: Option<Timestamp>,
    /// When this attempt was assigned.
    pub assign_time: Option<Timestamp>,
    /// When it last changed.
    pub update_time: Timestamp,
    /// When this attempt ended.
    pub end_time: Option<Timestamp>,
    /// The job's version with which it last changed: whoever knows the job as of that version knows the task.
    pub version: u64,
    /// Earlier attempts and late reports, newest last, at most [`crate::limits::MAX_TASK_HISTORY`].
    pub history: Vec<TaskEvent>,
}

/// Bytes of an image on their way to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullProgress {
    /// Bytes here, those already on the node included.
    pub done: u64,
    /// Bytes in all; 0 while unknown.
    pub total: u64,
}

/// Where a pull stood at some moment: what came since, and in what time, is its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullStart {
    /// When.
    pub time: Timestamp,
    /// Bytes that were here.
    pub done: u64,
}

/// Something of a task's past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// The attempt it belongs to.
    pub attempt: u32,
    /// The state that the attempt reached, or that a late report claimed.
    pub state: TaskState,
    /// Set when that state is a failure.
    pub failure: Option<Failure>,
    /// When the server recorded it.
    pub time: Timestamp,
    /// Whether it is a report that came too late to count.
    pub late: bool,
}

/// States of a task, in the order of their rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskState {
    /// Not assigned yet.
    Pending,
    /// Durable and on its way to the agent; of a REMOVE job, until the app is gone.
    Assigned,
    /// The agent checks architecture, ports, interfaces and paths.
    Checking,
    /// The image is being fetched or unpacked.
    Pulling,
    /// Containers are being created.
    Creating,
    /// Containers are being started.
    Starting,
    /// Started; waiting for it to stay up.
    Settling,
    /// Healthy; of a REMOVE job, gone.
    Succeeded,
    /// Ended with a failure.
    Failed,
    /// The job's deadline passed first.
    TimedOut,
    /// Given up because the job was stopped.
    Cancelled,
}

/// Kinds of task states: what the fold looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskClass {
    /// Not assigned.
    Pending,
    /// Assigned and not ended.
    Active,
    /// Ended well.
    Succeeded,
    /// Ended with a failure.
    Failed,
    /// Ended by the deadline.
    TimedOut,
    /// Ended by a stop.
    Cancelled,
}

/// Who alone makes an arrow between two task states happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The server's reconciler, when it assigns.
    Reconciler,
    /// The node: its agent's reports, what it had said before there was a task, or the deletion of the node, which speaks
    /// for an agent that will not come back.
    Node,
    /// The deadline clock.
    Clock,
    /// A person, by retry or resume; always a new attempt.
    Operator,
}

impl TaskState {
    /// All of them, by rank.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Assigned,
        Self::Checking,
        Self::Pulling,
        Self::Creating,
        Self::Starting,
        Self::Settling,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
    ];

    /// What the fold sees.
    #[must_use]
    pub fn class(self) -> TaskClass {
        match self {
            Self::Pending => TaskClass::Pending,
            Self::Assigned | Self::Checking | Self::Pulling | Self::Creating | Self::Starting | Self::Settling => {
                TaskClass::Active
            }
            Self::Succeeded => TaskClass::Succeeded,
            Self::Failed => TaskClass::Failed,
            Self::TimedOut => TaskClass::TimedOut,
            Self::Cancelled => TaskClass::Cancelled,
        }
    }

    /// Position within an attempt: only grows. All ends share the highest rank, so that no end replaces another.
    #[must_use]
    pub fn rank(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Assigned => 1,
            Self::Checking => 2,
            Self::Pulling => 3,
            Self::Creating => 4,
            Self::Starting => 5,
            Self::Settling => 6,
            Self::Succeeded | Self::Failed | Self::TimedOut | Self::Cancelled => 7,
        }
    }

    /// Whether the attempt has ended.
    #[must_use]
    pub fn is_end(self) -> bool {
        self.rank() == Self::Succeeded.rank()
    }

    /// The transition table: who owns the arrow from `self` to `to`, if there is one.
    #[must_use]
    pub fn arrow(self, to: Self) -> Option<Owner> {
        use TaskClass as C;
        match (self.class(), to.class()) {
            (C::Pending, C::Active) if to == Self::Assigned => Some(Owner::Reconciler),
            (C::Active, C::Active) if to.rank() > self.rank() => Some(Owner::Node),
            (C::Active, C::Succeeded | C::Failed | C::Cancelled) | (C::Pending, C::Succeeded | C::Failed) => {
                Some(Owner::Node)
            }
            (C::Pending | C::Active, C::TimedOut) => Some(Owner::Clock),
            (C::Failed | C::TimedOut | C::Cancelled, C::Pending) => Some(Owner::Operator),
            _ => None,
        }
    }

    /// The name used on the wire and in every text, such as `TIMED_OUT`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Assigned => "ASSIGNED",
            Self::Checking => "CHECKING",
            Self::Pulling => "PULLING",
            Self::Creating => "CREATING",
            Self::Starting => "STARTING",
            Self::Settling => "SETTLING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED_OUT",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
